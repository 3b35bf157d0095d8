# Makes a folder of outputs: a copy, a tool, an empty file, files in folders, and one that needs more than a batch.
echo "really ran"
rm -rf made
mkdir -p made/one/two
cp source.txt made/copy.txt
printf '#!/bin/sh\necho a tool\n' >made/one/tool.sh
chmod 755 made/one/tool.sh
: >made/empty.txt
echo deep >made/one/two/deep.txt
seq 1 1000000 >made/large.txt
