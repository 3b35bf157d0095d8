# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # names are shared between these files
# How clusters form: by each way to meet alone, by all of them, with other addresses than those that are bound. Parts of suite.

# Good keys, of no use elsewhere.
key_a=qUx0cYt2bS1kq1ZkY3m0u8d7Xw9Rr5nJ6vPz4LtHfEo=
key_b=9fK2mWc7QeZr3TzN8yBv1HsDj5LxGp6UaMoRiVtE0kQ=

# shared_folder: the bucket of this part's nodes is a folder.
shared_folder() {
  mkdir -p "$work/bucket"
  part_flags+=(--bucket="file://$work/bucket")
}
sealed() { part_flags+=(--secret_key="$key_a"); }

# numbered PREFIX FIRST LAST: the names of hosts.
numbered() { seq -f "$1%.0f" "$2" "$3"; }

# grow FLAG...: two nodes become one cluster, a third one joins, then seven at once.
grow() {
  local names name
  mapfile -t names < <(numbered n 1 10)
  net_hosts n 10
  shared_folder
  part_flags+=("$@")
  net_node n1
  net_node n2
  check "$part: two nodes find each other" together 20 n1 n2
  net_node n3
  check "$part: a third one joins" together 10 n1 n2 n3
  for name in "${names[@]:3}"; do net_node "$name"; done
  check "$part: seven more join at once" together 20 "${names[@]}"
  check "$part: none leaves again" keep_seeing 2 "${names[@]}" -- "${names[@]}"
}

join_sealed() { sealed && grow --join=10.0.0.1:7946; }
join6_open() { ipv6=yes && grow "--join=[fd00::1]:7946"; }
broadcast_sealed() { sealed && grow --autojoin_udp=10.0.0.255:9876; }
broadcast_open() { grow --autojoin_udp=10.0.0.255:9876; }
multicast_sealed() { sealed && grow --autojoin_udp=239.7.7.7:9876; }
multicast6_open() { ipv6=yes && grow "--autojoin_udp=[ff02::7:7]:9876"; }
list_sealed() { sealed && grow --autojoin_s3=members; }
list_open() { ipv6=yes && grow --autojoin_s3=members; }

# Every way at once is no harm.
all_ways() {
  local names
  mapfile -t names < <(numbered n 1 5)
  net_hosts n 5
  shared_folder
  sealed
  for name in "${names[@]}"; do
    net_node "$name" "--join=10.0.0.1:7946,10.0.0.2:7946" --autojoin_udp=10.0.0.255:9876 --autojoin_s3=members
  done
  check "all ways at once: one cluster" together 20 "${names[@]}"
  check "all ways at once: none leaves again" keep_seeing 10 "${names[@]}" -- "${names[@]}"
}

# The same command on three machines, without a flag for their network.
defaults() {
  net_hosts d 3
  shared_folder
  for name in d1 d2 d3; do plain_node "$name" "${part_flags[@]}"; done
  check "defaults: the same command on three machines is a cluster" together 20 d1 d2 d3
  check "defaults: of the default name" equal "$(page d1 | json cluster)" default_cluster
  check "defaults: open, which the page says" equal "$(page d1 | json sealed)" False
  check "defaults: and the log" says_like "$(node_log d1)" 'no --secret_key'
}
# json KEY: prints a value of the object that comes in.
json() { "$python" -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }
# gossip_of NODE MEMBER: where the node says that the member is.
gossip_of() {
  page "$1" | "$python" -c 'import json, sys
for member in json.load(sys.stdin)["members"]:
    if member["name"] == sys.argv[1]: print(member["gossip"])' "$2"
}
has_line() { grep -aqE -- "$2" "$1" 2>/dev/null; }
says_like() { grep -aqE -- "$2" "$1" || { echo "    nothing like '$2' is in $1" && false; }; }

# Nodes listen everywhere, and tell others another address and port than the first.
any_address() {
  local number
  net_hosts n 3
  shared_folder
  sealed
  for number in 1 2 3; do
    net readdress "$part.n$number" "10.0.0.$number/24" "10.0.0.10$number/24"
    net_node "n$number" --listen=0.0.0.0 --bind_host=0.0.0.0 --bind_port=7950 --advertise_host="10.0.0.10$number" --join=10.0.0.101:7950
  done
  check "bound to any address: they join" together 20 n1 n2 n3
  check "bound to any address: known by the advertised one" equal "$(gossip_of n1 n2) $(gossip_of n2 n1)" \
    '10.0.0.102:7950 10.0.0.101:7950'
}

# One node is in a network of its own, behind a machine that translates addresses and forwards two ports.
behind_nat() {
  local lines
  net_hosts n 2
  lines=("host $part.inner $part.inside 192.168.7.2/24" "host $part.nat $part 10.0.0.50/24" "also $part.nat $part.inside 192.168.7.1/24")
  mapfile -t lines < <(printf '%s\n' "${lines[@]}" | net)
  host_namespace[inner]=${lines[0]} host_namespace[nat]=${lines[1]} host_address[inner]=192.168.7.2
  on inner ip route replace default via 192.168.7.1
  on nat bash -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
  on nat nft -f - <<'END'
table ip nat {
  chain before {
    type nat hook prerouting priority -100;
    iifname "eth0" udp dport 17946 dnat to 192.168.7.2:7946
    iifname "eth0" tcp dport 1234 dnat to 192.168.7.2:1234
  }
  chain after {
    type nat hook postrouting priority 100;
    oifname "eth0" masquerade
  }
}
END
  shared_folder
  sealed
  net_node n1
  net_node n2 --join=10.0.0.1:7946
  net_node inner --bind_host=0.0.0.0 --advertise_host=10.0.0.50 --advertise_port=17946 --join=10.0.0.1:7946
  check "behind address translation: it joins" together 20 n1 n2 inner
  check "behind address translation: known from outside" equal "$(gossip_of n2 inner)" 10.0.0.50:17946
  check "behind address translation: it stays" keep_seeing 10 n1 n2 inner -- n1 n2 inner
}
