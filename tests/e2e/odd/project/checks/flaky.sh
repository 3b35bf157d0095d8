#!/bin/bash
# The first attempt lasts until the moment that the suite chose and fails; the second one begins after it.
if [ "$(date +%s)" -lt "${FLAKY_UNTIL:?}" ]; then
  while [ "$(date +%s)" -le "$FLAKY_UNTIL" ]; do sleep 0.2; done
  echo "fails before the moment"
  exit 1
fi
echo "passes after the moment"
