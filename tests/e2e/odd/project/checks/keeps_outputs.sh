#!/bin/bash
# Outputs that no rule declares: Bazel takes them home as a zip.
mkdir "${TEST_UNDECLARED_OUTPUTS_DIR:?}/sub"
echo one >"$TEST_UNDECLARED_OUTPUTS_DIR/one.txt"
head -c 300000 /dev/zero >"$TEST_UNDECLARED_OUTPUTS_DIR/sub/zeros.bin"
