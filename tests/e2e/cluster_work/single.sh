# shellcheck shell=bash
# shellcheck disable=SC2154 # names are shared between these files
# What is shown once, without a build. Parts of suite.

# A new node takes of what waits.
joins() {
  local load began listening first
  stopwatch load --server="$front" --seed=4 --length_ms=3000 --concurrency=30 --count=30 >"$work/joins.notes" &
  load=$!
  check "joins: all slots are busy" wait_until 20 runs_at_least 3.00000004 $((3 * node_slots))
  began=$(now_ms)
  node n4
  wait_until 20 grep -qsF 'listens on' "$work/faulty/n4/node.log"
  listening=$(now_ms)
  wait $load
  check "joins: nothing failed" says "$work/joins.notes" 'actions=30 failures=0'
  check "joins: the new node worked" at_least "$(grep -c ' worker=n4 ' "$work/joins.notes")" 1
  first=$(sed -nE 's/.* started=([0-9]+) .* worker=n4 .*/\1/p' "$work/joins.notes" | sort -n | head -n 1)
  [ -n "$first" ] || first=$(($(now_ms) + 60000))
  echo "    its first action began $((first - began)) ms after its process, $((first - listening)) ms after it said that it listens"
  check "joins: it had work within seconds" below "$((first - listening))" 5000
  node_signal n4 TERM
  check "joins: it leaves" gone_node n4 20
}
runs_at_least() { [ "$(runs_of "$1")" -ge "$2" ]; }

# Two Bazels want the same through two nodes at once.
equals() {
  local base other code=0
  cp -r "$here/project" "$work/project"
  (cd "$work/project" && build_slow work-one n1 && bz work-one clean) >/dev/null 2>&1 &
  other=$!
  (cd "$work/project" && build_slow work-two n2 "--action_env=A=a" && bz work-two clean) >/dev/null 2>&1
  wait $other
  : >"$work/runs"
  (cd "$work/project" && bazel_log=$work/one.log build_slow work-one n1 --action_env=SEED=equals) &
  other=$!
  (cd "$work/project" && bazel_log=$work/two.log build_slow work-two n2 --action_env=SEED=equals)
  code=$?
  wait $other
  check "equals: both build" equal "$code$?" 00
  for base in one two; do echo "    $(bazel_log=$work/$base.log bazel_line)"; done
  check "equals: each of six actions ran once" equal "$(runs_of 2.77)" 6
}
build_slow() {
  local base=$1 name=$2
  shift 2
  bz "$base" build --remote_executor="$(url "$name")" --spawn_strategy=remote --jobs=6 "$@" //...
}

# The node that accepted an operation dies; clients find it through another one.
orphans() {
  local name seconds
  read -r name seconds <<<"$(begin_elsewhere 500 6)"
  check "orphans: an action runs" at_least "$(runs_of "$seconds")" 1
  node_signal n2 KILL
  check "orphans: another node knows it at once" wait_until 5 stopwatch stage --server="$(url n3)" --name="$name"
  stopwatch wait --server="$(url n3)" --name="$name" >"$work/waited"
  check "orphans: and its end" equal $? 0
  sed 's/^/    /' "$work/waited"
  check "orphans: which is good" silent_on "$work/waited" failure
  check "orphans: it ran once" equal "$(runs_of "$seconds")" 1
  node n2
  check "orphans: n2 is back" together 20 n1 n2 n3
  read -r name seconds <<<"$(begin_elsewhere 600 60)"
  check "orphans: another one runs" at_least "$(runs_of "$seconds")" 1
  node_signal n2 KILL
  check "orphans: it is cancelled through another node" wait_until 5 stopwatch cancel --server="$(url n3)" --name="$name"
  check "orphans: its process is killed" gone "sleep $seconds"
  node n2
}
# begin_elsewhere SEED SECONDS: starts an action through n2 that runs on another node; prints its name, and what its process sleeps.
# Those that n2 got meanwhile keep it busy, then end.
begin_elsewhere() {
  local other name kept=() number
  for ((number = $1; number < $1 + 12; number++)); do
    name=$(stopwatch start --server="$(url n2)" --seed=$number --length_ms=$(($2 * 1000)) --patience_s=10) || break
    if ! stopwatch stage --server="$(url n2)" --name="$name" | grep -q ' n2$'; then
      sleep 0.5
      printf '%s %d.000%05d00000\n' "$name" "$2" "$number"
      break
    fi
    kept+=("$name")
  done
  for other in "${kept[@]}"; do stopwatch cancel --server="$(url n2)" --name="$other"; done
}

# A worker whose disk is full gives back what it cannot do.
disk_full() {
  local name
  mkdir -p "$work/faulty/n4"
  rm -rf "$work/faulty/n4/cache"
  mkdir "$work/faulty/n4/cache"
  mount -t tmpfs -o size=24m tmpfs "$work/faulty/n4/cache"
  node_signal n3 TERM
  gone_node n3 20
  node n3 --platform=tier=spare
  node n4 --platform=tier=spare
  check "disk full: four nodes are a cluster" together 30 n1 n2 n3 n4
  dd if=/dev/zero of="$work/faulty/n4/cache/filler" bs=1M count=24 2>/dev/null
  stopwatch load --server="$(url n1)" --seed=7 --length_ms=500 --concurrency=6 --count=12 --property=tier=spare >"$work/disk.notes"
  sed -n '/actions=/p' "$work/disk.notes" | sed 's/^/    /'
  ran_on "$work/disk.notes" | sed 's/^/    /'
  check "disk full: nothing failed" says "$work/disk.notes" 'actions=12 failures=0'
  check "disk full: the other one did it" at_least "$(grep -c ' worker=n3 ' "$work/disk.notes")" 6
  for name in n3 n4; do
    node_signal "$name" TERM
    gone_node "$name" 20 || node_signal "$name" KILL
  done
  umount -l "$work/faulty/n4/cache"
}

# What no worker could ever run is told so.
no_worker() {
  local began
  began=$(now_ms)
  stopwatch load --server="$front" --seed=8 --count=1 --concurrency=1 --property=OSFamily=amiga >"$work/no_worker.notes"
  sed 's/^/    /' "$work/no_worker.notes"
  check "no worker: it fails" says "$work/no_worker.notes" 'failure=FailedPrecondition'
  check "no worker: within seconds" below $(($(now_ms) - began)) 10000
  check "no worker: and names the nearest" grep -qE 'failure=.*n[123]' "$work/no_worker.notes"
  check "no worker: and what differs" says "$work/no_worker.notes" OSFamily
}
