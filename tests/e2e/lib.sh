# shellcheck shell=bash
# What every suite shares: checks that count, a folder of its own, an end that tells. A suite is a script
# tests/e2e/NAME/suite, run as 'suite grpc://HOST:PORT'; tests/e2e/run starts the node for it.
# Each check asserts something that was seen; a suite that ends early has failed.
set -uo pipefail

. "$(dirname "${BASH_SOURCE[0]}")/../../scripts/lib.sh"

suite=$(basename "$(cd "$(dirname "$0")" && pwd)")
# shellcheck disable=SC2034 # read by the suites
here=$root/tests/e2e/$suite
# shellcheck disable=SC2034 # read by the suites
server=${1:?server address, as in grpc://127.0.0.1:1234, or none for a suite that starts its own}
work=$clients/runs/$suite
passed=0 failed=0 finished=no
# What the last command said; shown when its check fails.
log=$work/log

# shellcheck disable=SC2034 # read by scripts/bazel.sh
bazel_log=$log
# shellcheck source=scripts/bazel.sh
. "$root/scripts/bazel.sh"
. "$root/scripts/s3.sh"

rm -rf "$work"
mkdir -p "$work"
: >"$log"

ended() {
  stop_nodes
  s3_stop
  bazel_shutdown
  if [ $finished = no ]; then
    echo "NOT OK: the suite ended before its end"
    failed=$((failed + 1))
    echo "$suite: $passed passed, $failed failed"
    exit 1
  fi
}
trap ended EXIT

# check WHAT COMMAND...: counts whether the command succeeds.
check() {
  local what=$1
  shift
  if "$@"; then
    passed=$((passed + 1))
    echo "ok: $what"
  else
    failed=$((failed + 1))
    echo "NOT OK: $what"
    grep -av '^stdout line' "$log" | tail -n 12 | cut -c1-300 | sed 's/^/    | /'
  fi
}

# Predicates for check, which say what they got.
equal() { [ "$1" = "$2" ] || { printf "    got '%s', want '%s'\n" "$1" "$2" && false; }; }
at_least() { [ "$1" -ge "$2" ] || { echo "    got $1, want at least $2" && false; }; }
below() { [ "$1" -lt "$2" ] || { echo "    got $1, want less than $2" && false; }; }
says() { grep -aqF -- "$2" "$1" || { echo "    '$2' is not in $1" && false; }; }
silent_on() { ! says "$@" >/dev/null || { echo "    '$2' is in $1" && false; }; }
same_files() { cmp -s "$1" "$2" || { diff "$1" "$2" | head -n 20 | sed 's/^/    /' && false; }; }
not() { ! "$@"; }

# wait_until SECONDS COMMAND...: until it succeeds, at most that long.
wait_until() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.1
  done
}

# gone PATTERN: no process has this in its command line, at most 10 s from now.
gone() {
  local deadline=$((SECONDS + 10))
  while pgrep -f -- "$1" >/dev/null; do
    [ $SECONDS -lt $deadline ] || { pgrep -af -- "$1" | head -n 5 && false; } || return 1
    sleep 0.2
  done
}

# Ends the suite with the line that its caller reads.
finish() {
  finished=yes
  echo "$suite: $passed passed, $failed failed"
  [ $failed = 0 ]
  exit
}
