# shellcheck shell=bash
# shellcheck disable=SC2154 # names are shared between these files
# What is broken while builds run, and what that costs. Parts of suite.

# Actions of the load that is measured.
length_ms=1500
# What a fault may cost beyond the work that it lost, and beyond what an action takes on this machine when nothing is broken: the aim,
# which the median keeps on busy cores too.
delay_aim_ms=${BBB_DELAY_MS:-5000}
# What the worst may cost. Faults that meet a cluster that is just getting over another one cost both; nothing else does, but what hangs or is lost
# once more.
delay_bound_ms=$((3 * delay_aim_ms))

# Undisturbed: all three nodes work.
shared() {
  stopwatch load --server="$front" --seed=1 --length_ms=1000 --concurrency=12 --count=24 >"$work/shared.notes"
  check "shared: 24 actions, none failed" says "$work/shared.notes" 'actions=24 failures=0'
  check "shared: they ran on all three nodes" equal "$(ran_on "$work/shared.notes" | cut -d' ' -f2 | tr '\n' ' ')" 'n1 n2 n3 '
  ran_on "$work/shared.notes" | sed 's/^/    /'
  build_through "$front" undisturbed
  check "shared: a build completes" equal $? 0
  echo "    $(bazel_line)"
  check "shared: nothing ran locally" equal "$(local_count)" 0
  check "shared: its actions ran on all three nodes" equal "$(ran_where "$work/grpc" | cut -d' ' -f2 | tr '\n' ' ')" 'n1 n2 n3 '
  ran_where "$work/grpc" | sed 's/^/    /'
  abseil_sums work >"$work/undisturbed.sums"
  check "shared: over 100 outputs" at_least "$(wc -l <"$work/undisturbed.sums")" 100
}
# ran_on NOTES: how many of these actions each worker ran.
ran_on() { sed -nE 's/.* worker=([^ ]+) .*/\1/p' "$1" | sort | uniq -c | sed -E 's/^ +//'; }
# break_node NODE HOW ROLE: the node, which has this role, is broken for a while. Notes the moment.
break_node() {
  local name=$1
  echo "$(now_ms) $2 of $3 $1" >>"$work/faults"
  case $2 in
    kill) node_signal "$name" KILL && sleep 3 && node "$name" ;;
    pause) node_signal "$name" STOP && sleep 10 && node_signal "$name" CONT ;;
    cut) net move "$lan.$name" away && sleep 6 && net move "$lan.$name" "$lan" ;;
  esac
  see 30 n1 n2 n3 -- n1 n2 n3 >>"$work/seen" || echo "NOT WHOLE after $2 of $3 $1" | tee -a "$work/seen"
  # What this one delayed ends before the next one.
  sleep 2
}
# in_role ROLE: prints the node that has it now. Three nodes, three roles: of those that took calls of late, one that does not schedule.
in_role() {
  local name scheduler accepting
  scheduler=$(scheduler_of n1)
  accepting=$(front_chose "$scheduler")
  case $1 in
    scheduler) echo "$scheduler" ;;
    accepting) echo "$accepting" ;;
    worker) for name in n1 n2 n3; do [ "$name" = "$scheduler" ] || [ "$name" = "$accepting" ] || echo "$name"; done ;;
  esac
}
# builds_until FILE: builds one after the other until the file is there; a line of each, and those whose outputs differ.
builds_until() {
  local number=0
  until [ -e "$1" ]; do
    number=$((number + 1))
    if build_through "$front" "$number"; then
      abseil_sums work >"$work/build.sums"
      same_files "$work/undisturbed.sums" "$work/build.sums" || echo "DIFFERENT OUTPUTS"
    else
      echo "FAILED BUILD"
      cp "$log" "$work/failed-build-$number.log"
      grep -aE 'ERROR|FAILED' "$log" | head -n 5
    fi
    echo "build $number: $(bazel_line); local: $(local_count)"
  done
}

# Each role meets each fault, then anything at any moment, while builds and a load of known length run.
faults() {
  local how role random number builds loads
  rm -f "$work/enough"
  [ -e "$work/undisturbed.sums" ] || shared
  builds_until "$work/enough" >"$work/builds" 2>&1 &
  builds=$!
  stopwatch load --server="$front" --seed=2 --length_ms=$length_ms --concurrency=3 --until="$work/enough" >"$work/faults.notes" &
  loads=$!
  # What comes before the first fault is what a busy machine takes by itself.
  echo "$(now_ms) nothing" >"$work/faults"
  sleep 4
  for how in kill pause cut; do
    for role in worker scheduler accepting; do
      break_node "$(in_role "$role")" "$how" "$role"
    done
  done
  for number in 1 2; do
    sleep "$((RANDOM % 3)).$((RANDOM % 10))"
    how=(kill pause cut)
    random=n$((RANDOM % 3 + 1))
    break_node "$random" "${how[RANDOM % 3]}" "random-moment-$number"
  done
  : >"$work/enough"
  wait $loads
  wait $builds
  sed 's/^/    /' "$work/builds"
  check "faults: no build failed" silent_on "$work/builds" 'FAILED BUILD'
  check "faults: at least one was disturbed" says "$work/builds" 'build 1: '
  check "faults: all outputs are those of the undisturbed build" silent_on "$work/builds" 'DIFFERENT'
  check "faults: nothing ran locally" not grep -q 'local: [1-9]' "$work/builds"
  check "faults: the cluster was whole again each time" silent_on "$work/seen" 'NOT WHOLE'
  what_they_cost
}
what_they_cost() {
  local line undisturbed
  tail -n 1 "$work/faults.notes" | sed 's/^/    /'
  grep ' failure=' "$work/faults.notes" | head -n 5 | sed 's/^/    /'
  check "faults: no action of the load failed" says "$work/faults.notes" ' failures=0'
  stopwatch cost --notes="$work/faults.notes" --faults="$work/faults" --length_ms=$length_ms >"$work/costs"
  sed 's/^/    /' "$work/costs"
  check "faults: that were eleven" equal "$(wc -l <"$work/costs")" 12
  undisturbed=$(delays ' fault=nothing$')
  check "faults: half of them cost little" below "$(delays -v ' fault=nothing$' | sort -n | sed -n 6p)" $((delay_aim_ms + undisturbed))
  while read -r line; do
    check "faults: ${line#*fault=} is got over" below "$(sed -E 's/delay_ms=([0-9]+) .*/\1/' <<<"$line")" $((delay_bound_ms + undisturbed))
  done < <(grep -v ' fault=nothing$' "$work/costs")
}
# delays GREP...: the delays of those costs that grep finds.
delays() { grep "$@" "$work/costs" | sed -E 's/delay_ms=([0-9]+) .*/\1/'; }

# Each node is told to end in turn, while a build and a load run: no action runs twice, none is lost.
drains() {
  local name load build since
  rm -f "$work/enough"
  since=$(now_ms)
  stopwatch load --server="$front" --seed=3 --length_ms=2000 --concurrency=4 --until="$work/enough" >"$work/drains.notes" &
  load=$!
  build_through "$front" drains &
  build=$!
  for name in n1 n2 n3; do
    sleep 1.5
    node_signal "$name" TERM
    check "drains: $name ends" gone_node "$name" 20
    node "$name"
    check "drains: $name is back" together 20 n1 n2 n3
  done
  wait $build
  check "drains: the build completes" equal $? 0
  echo "    $(bazel_line)"
  : >"$work/enough"
  wait $load
  tail -n 1 "$work/drains.notes" | sed 's/^/    /'
  check "drains: nothing failed" says "$work/drains.notes" ' failures=0'
  check "drains: no action was handed in twice" not grep -q ' executed=[^1]' "$work/drains.notes"
  check "drains: none ran twice" equal "$(run_twice "$since")" ''
}
