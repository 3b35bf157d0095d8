# shellcheck shell=bash
# Origins on loopback (origin.py). Sourced after lib.sh.

# What was started, to be ended however the suite ends.
origin_pids=()
trap 'kill "${origin_pids[@]}" 2>/dev/null; ended' EXIT
# origin_starts PORT LOG [FOLDER]: starts one, or a dead one where there is no folder.
origin_starts() {
  local port=$1 said=$2
  shift 2
  python3 "$root/tests/e2e/origin.py" "$port" "$@" >"$said" 2>&1 </dev/null &
  origin_pids+=($!)
  disown
  wait_until 20 grep -qsx listens "$said" || die "no origin on port $port: $(cat "$said")"
}
# Ends all of them.
origins_end() {
  local pid
  kill "${origin_pids[@]}"
  for pid in "${origin_pids[@]}"; do wait_until 20 not kill -0 "$pid" 2>/dev/null; done
  origin_pids=()
}
