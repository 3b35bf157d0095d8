# shellcheck shell=bash
# Several hosts on one machine: network namespaces, joined by a switch of ours (net/switch.py), each with addresses of its own,
# IPv4 and IPv6. Sourced after lib.sh. Everything is in namespaces that end with the suite: processes, networks, mounts; nothing is
# left of them, however it ends. Needs no netem and no firewall, but the right to make namespaces and TAP devices.

# net_enter ARGUMENT...: the suite goes on in namespaces of its own.
net_enter() {
  [ "${BBB_INSIDE:-}" = "$suite" ] && return
  local as=()
  [ "$(id -u)" = 0 ] || as=(--user --map-root-user)
  [ -w /dev/net/tun ] || die "hosts of a network need TAP devices: /dev/net/tun is not there or not ours"
  exec env BBB_INSIDE="$suite" unshare "${as[@]}" --net --mount --pid --fork --kill-child --mount-proc "$0" "$@"
}

# net_start: starts the switch.
net_start() {
  local deadline=$((SECONDS + 10))
  switch=$work/switch
  # What is on the PATH may be a script that looks for it each time.
  python=$(python3 -c 'import sys; print(sys.executable)') || die "there is no python3"
  ip link set lo up
  "$python" "$root/tests/e2e/net/switch.py" run "$switch" >"$work/switch.log" 2>&1 </dev/null &
  disown
  until [ -S "$switch" ]; do
    [ $SECONDS -lt $deadline ] || die "the switch did not start; see $work/switch.log"
    sleep 0.05
  done
}
# net WORD...: tells the switch; the networks and hosts in its words are named as it knows them.
net() { "$python" "$root/tests/e2e/net/switch.py" tell "$switch" "$@"; }

# --- parts that run at once ------------------------------------------------------------------------------------

# Parts whose nodes have reason to complain; they have their folders under one named 'faulty'.
complaining=''
# part_folder NAME: where it has its files.
part_folder() { if [[ " $complaining " == *" $1 "* ]]; then echo "$work/faulty/$1"; else echo "$work/$1"; fi; }
# at_once PART...: runs these functions at once, each in a shell of its own with its own counts, log, folder and network, both of
# which are named after it. Then prints what each of them said, and adds their counts.
at_once() {
  local name folder began=$SECONDS sums
  local -A running=()
  for name in "$@"; do
    folder=$(part_folder "$name")
    mkdir -p "$folder"
    in_part "$name" "$folder" >"$folder/output" 2>&1 </dev/null &
    running[$name]=$!
  done
  for name in "$@"; do
    folder=$(part_folder "$name")
    wait "${running[$name]}"
    say "$suite: $name"
    cat "$folder/output"
    sums=$(cat "$folder/sums" 2>/dev/null)
    [ -n "$sums" ] || {
      echo "NOT OK: $name did not run to its end"
      sums='0 1'
    }
    passed=$((passed + ${sums% *})) failed=$((failed + ${sums#* }))
  done
  say "$suite: these took $((SECONDS - began)) s"
}
in_part() {
  part=$1 work=$2 passed=0 failed=0 part_began=$SECONDS
  log=$work/log
  : >"$log"
  trap end_nodes EXIT
  "$part"
  echo "    $part took $((SECONDS - part_began)) s"
  echo "$passed $failed" >"$work/sums"
}

# --- hosts and nodes -------------------------------------------------------------------------------------------

# The path of each host's network namespace, its addresses, and how a node of that name is asked.
declare -A host_namespace=() host_address=() host_address6=() node_page=()

# net_hosts PREFIX COUNT [FIRST]: hosts PREFIX1, PREFIX2... of this part's network with the addresses 10.0.0.1, fd00::1 and so on.
# FIRST says which number the first one's address has.
net_hosts() {
  local number lines=() paths
  for ((number = 1; number <= $2; number++)); do
    lines+=("host $part.$1$number $part 10.0.0.$((number + ${3:-1} - 1))/24 fd00::$((number + ${3:-1} - 1))/64")
  done
  mapfile -t paths < <(printf '%s\n' "${lines[@]}" | net)
  [ ${#paths[@]} = "$2" ] || die "$part: the switch made ${#paths[@]} of $2 hosts"
  for ((number = 1; number <= $2; number++)); do
    host_namespace[$1$number]=${paths[$((number - 1))]}
    host_address[$1$number]=10.0.0.$((number + ${3:-1} - 1))
    host_address6[$1$number]=fd00::$((number + ${3:-1} - 1))
  done
}
# on HOST COMMAND...: runs it there.
on() {
  local host=$1
  shift
  nsenter --net="${host_namespace[$host]}" -- "$@"
}

# Flags of every node of this part, and whether its addresses are IPv6.
part_flags=() ipv6=no

# net_node NAME [FLAG...]: starts a node on the host of that name, with a cache and a log in the part's folder; does not wait for
# it. A flag that is given here or in part_flags stands for the one that it would have had.
net_node() {
  local name=$1 address=${host_address[$1]} default flags=()
  shift
  [ $ipv6 = no ] || address=${host_address6[$name]}
  set -- "${part_flags[@]}" "$@"
  for default in --cluster_name="$part" --listen="$address" --bind_host="$address" --advertise_host="$address" \
    --autojoin_udp=false; do
    printf '%s\n' "$@" | grep -q -- "^${default%%=*}=" || flags+=("$default")
  done
  plain_node "$name" "${flags[@]}" "$@"
}
# plain_node NAME [FLAG...]: the same with these flags, a name and a cache, and no others.
plain_node() {
  local name=$1 address=${host_address[$1]}
  shift
  [ $ipv6 = no ] || address="[${host_address6[$name]}]"
  node_page[$name]="${host_namespace[$name]},http://$address:1234/cluster"
  mkdir -p "$work/$name"
  nsenter --net="${host_namespace[$name]}" -- "$binary" --node_name="$name" --cache_dir="$work/$name/cache" --memory=64MiB "$@" \
    >>"$work/$name/node.log" 2>&1 </dev/null &
  # shellcheck disable=SC2004 # the names of the array are words
  node_pid[$name]=$!
  disown
}
# A host has another address from now on.
net_readdress() {
  net readdress "$part.$1" "$2/24" "$3/64"
  host_address[$1]=$2 host_address6[$1]=$3
}
node_log() { echo "$work/$1/node.log"; }
node_signal() { kill -s "$2" "${node_pid[$1]}"; }
alive() { kill -0 "${node_pid[$1]}" 2>/dev/null; }
end_nodes() {
  local name
  for name in "${!node_pid[@]}"; do kill -s KILL "${node_pid[$name]}" 2>/dev/null; done
  node_pid=()
}

# --- views -----------------------------------------------------------------------------------------------------

views() { "$python" "$root/tests/e2e/net/views.py" "$@"; }
# pages NODE...: sets asked to how these nodes are asked.
pages() {
  local name
  asked=()
  for name in "$@"; do asked+=("${node_page[$name]}"); done
}
# see SECONDS NODE... -- MEMBER...: each of these nodes sees exactly these members, at most that long from now.
see() { view_command agree "$@"; }
# keep_seeing SECONDS NODE... -- MEMBER...: for so long, none of these nodes ever misses one of these members.
keep_seeing() { view_command hold "$@"; }
view_command() {
  local command=$1 seconds=$2 name nodes=()
  shift 2
  while [ "$1" != -- ]; do
    nodes+=("$1")
    shift
  done
  pages "${nodes[@]}"
  views "$command" "$seconds" "${asked[@]}" "$@"
}
# together SECONDS NODE...: each of them sees all of them and no other, at most that long from now.
together() {
  local seconds=$1
  shift
  see "$seconds" "$@" -- "$@"
}
# page NODE: prints what it says of its cluster.
page() {
  pages "$1"
  views page "${asked[0]}"
}
