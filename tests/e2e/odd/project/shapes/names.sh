# Makes files of unusual names below the folder $1. ASCII only: others are broken by Bazel 4.2.3 itself, on its own disk.
mkdir -p "$1/with space/ two  spaces " "$1/-dash"
echo space >"$1/with space/ two  spaces /file name.txt"
echo dash >"$1/-dash/--file"
echo symbols >"$1/+,=@%#!~;&'()[]{}.txt"
