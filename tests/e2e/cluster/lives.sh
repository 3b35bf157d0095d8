# shellcheck shell=bash
# shellcheck disable=SC2154 # names are shared between these files
# What happens to the members of a cluster: they die, come back, move, are stopped, leave, are cut off, and hear each other badly.
# Parts of suite.

# What is promised, in seconds.
noticed_s=5 back_s=5 told_s=2 healed_s=10

# ended NAME SECONDS: the node's process is gone, at most that long from now.
ended_within() { wait_until "$2" not alive "$1"; }
# restart NAME FLAG...: ends a node in good order, and starts it again.
restart() {
  node_signal "$1" TERM
  ended_within "$1" 20 || { echo "    $1 does not end" && node_signal "$1" KILL; }
  net_node "$@"
}
# form COUNT FLAG...: a cluster of nodes n1, n2... which know the first two of them.
form() {
  mapfile -t members < <(numbered n 1 "$1")
  local name
  net_hosts n "$1"
  shift
  shared_folder
  sealed
  part_flags+=("$@")
  for name in "${members[@]}"; do net_node "$name"; done
  check "$part: a cluster" together 20 "${members[@]}"
}

deaths() {
  form 5 "--join=10.0.0.1:7946,10.0.0.2:7946"
  node_signal n5 KILL
  check "a killed node is noticed" see "$noticed_s" n1 n2 n3 n4 -- n1 n2 n3 n4
  net_node n5
  check "started again, it is back" together "$back_s" "${members[@]}"
  node_signal n5 KILL
  net_node n5
  check "killed and started at once, it is there" together "$back_s" "${members[@]}"
  check "and stays" keep_seeing 6 "${members[@]}" -- "${members[@]}"
  node_signal n4 KILL
  net_readdress n4 10.0.0.44 fd00::44
  net_node n4
  check "started again with another address, it is back" together "$back_s" "${members[@]}"
  check "with that address" equal "$(gossip_of n1 n4)" 10.0.0.44:7946
  node_signal n1 KILL
  node_signal n2 KILL
  check "two killed at once are noticed, also those that all others joined by" see $((noticed_s + 3)) n3 n4 n5 -- n3 n4 n5
  net_node n1
  net_node n2
  check "and are back" together "$back_s" "${members[@]}"
  node_signal n3 STOP
  check "a stopped node is noticed" see "$noticed_s" n1 n2 n4 n5 -- n1 n2 n4 n5
  node_signal n3 CONT
  check "when it goes on, it is back" together "$healed_s" "${members[@]}"
}

# A node that is told to end tells the others, finishes what is open, and goes; told twice, it goes at once.
leaving() {
  local client
  form 3 --join=10.0.0.1:7946
  node_signal n3 TERM
  check "leaving: the others are told" see "$told_s" n1 n2 -- n1 n2
  check "leaving: an idle node ends soon" ended_within n3 5
  net_node n3
  check "leaving: it comes back" together "$back_s" n1 n2 n3
  : >"$work/ledger"
  # From far away an upload takes its time.
  net air "$part" 0 30
  begin_upload n3 $((40 << 20))
  client=$!
  node_signal n3 TERM
  check "leaving: the others are told while an upload is open" see "$told_s" n1 n2 -- n1 n2
  wait $client
  echo "    $(cat "$work/written")"
  check "leaving: the upload is acknowledged" equal "$(wc -l <"$work/ledger")" 1
  check "leaving: the node ends" ended_within n3 10
  net air "$part" 0 0
  check "leaving: another one has what was uploaded" on n1 "$trial/ledger" verify --server=grpc://10.0.0.2:1234 --ledger="$work/ledger"
  net_node n3
  check "leaving: back again" together "$back_s" n1 n2 n3
  net air "$part" 0 30
  begin_upload n3 $((400 << 20))
  client=$!
  node_signal n3 TERM
  check "leaving: told again" see "$told_s" n1 n2 -- n1 n2
  check "leaving: it is still there for the upload" alive n3
  node_signal n3 TERM
  check "leaving: a second signal ends it at once" ended_within n3 2
  wait $client
}
# begin_upload NODE BYTES: a client on host n1 uploads a blob to it; returns when some of it is under way.
begin_upload() {
  local before
  before=$(net count "$part" | cut -d' ' -f2)
  on n1 "$trial/ledger" write --server="grpc://${host_address[$1]}:1234" --ledger="$work/ledger" --seed=$RANDOM --steps=1 \
    --blob_bytes="$2" --concurrency=1 >"$work/written" 2>"$log" &
  check "an upload is under way" wait_until 20 more_bytes_than $((before + (5 << 20)))
}
more_bytes_than() { [ "$(net count "$part" | cut -d' ' -f2)" -gt "$1" ]; }

# Two of five are cut off for a minute.
cut_off() {
  form 5 "$@"
  net move "$part.n4" "$part.away"
  net move "$part.n5" "$part.away"
  check "$part: one side" see 10 n1 n2 n3 -- n1 n2 n3
  check "$part: the other side" see 10 n4 n5 -- n4 n5
  check "$part: both last" keep_seeing 50 n1 n2 n3 -- n1 n2 n3
  check "$part: for a minute" together 1 n4 n5
  net move "$part.n4" "$part"
  net move "$part.n5" "$part"
  check "$part: one cluster again" together "$healed_s" "${members[@]}"
  check "$part: which lasts" keep_seeing 3 "${members[@]}" -- "${members[@]}"
}
partition_join() { cut_off --join=10.0.0.1:7946; }
partition_broadcast() { cut_off --autojoin_udp=10.0.0.255:9876; }
partition_list() { cut_off --autojoin_s3=members; }

# Each packet is lost with a probability of 1 in 5, and comes 100 ms late, in either direction.
lossy() {
  form 10 "--join=10.0.0.1:7946,10.0.0.2:7946"
  net air "$part" 20 100
  check "lossy: no node loses another for a minute" keep_seeing 60 "${members[@]}" -- "${members[@]}"
  node_signal n7 KILL
  check "lossy: a killed node is noticed even so" see 15 n1 n2 n3 -- n1 n2 n3 n4 n5 n6 n8 n9 n10
  net_node n7
  check "lossy: and joins" together 40 "${members[@]}"
}
