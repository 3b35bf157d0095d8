#!/bin/bash
echo "a failing test says why"
echo kept >"$TEST_UNDECLARED_OUTPUTS_DIR/of-a-failure.txt"
exit 3
