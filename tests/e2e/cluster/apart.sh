# shellcheck shell=bash
# shellcheck disable=SC2154 # names are shared between these files
# Who must not join, and how a cluster gets another key. Parts of suite.

# Two clusters in one network, each meeting its own by every way that both share.
names_apart() {
  local name
  net_hosts a 2 1
  net_hosts b 2 11
  shared_folder
  for name in a1 a2 b1 b2; do
    net_node "$name" --cluster_name="team-${name:0:1}" --autojoin_udp=10.0.0.255:9876 --autojoin_s3=members \
      "--join=10.0.0.1:7946,10.0.0.11:7946"
  done
  check "names apart: one cluster" together 20 a1 a2
  check "names apart: the other one" together 20 b1 b2
  check "names apart: they stay apart" stay_apart 4 a1 a2 / b1 b2
}
# stay_apart SECONDS NODE... / NODE...: at the end of that time, each side sees itself and no other.
stay_apart() {
  local seconds=$1 one=() two=()
  shift
  while [ "$1" != / ]; do one+=("$1") && shift; done
  two=("${@:2}")
  keep_seeing "$seconds" "${one[@]}" -- "${one[@]}" && together 1 "${one[@]}" && together 1 "${two[@]}"
}

# The same name, but another key, or none.
keys_apart() {
  local name
  net_hosts a 2 1
  net_hosts b 2 11
  net_hosts o 2 21
  shared_folder
  part_flags+=(--autojoin_udp=10.0.0.255:9876 "--join=10.0.0.1:7946,10.0.0.11:7946,10.0.0.21:7946" --autojoin_s3=members)
  for name in a1 a2; do net_node "$name" --secret_key="$key_a"; done
  for name in b1 b2; do net_node "$name" --secret_key="$key_b"; done
  for name in o1 o2; do net_node "$name"; done
  check "keys apart: those of one key" together 20 a1 a2
  check "keys apart: those of the other" together 20 b1 b2
  check "keys apart: those of none" together 20 o1 o2
  check "keys apart: they stay apart" stay_apart 4 a1 a2 / b1 b2
  check "keys apart: also those of none" together 1 o1 o2
  for name in a1 b1 o1; do
    check "keys apart: $name says what to do" wait_until 10 has_line "$(node_log "$name")" 'WARN.*--secret_key'
  done
  check "keys apart: it does not say so without end" below "$(grep -acE 'WARN.*--secret_key' "$(node_log a1)")" 30
}

# A cluster shares one bucket.
buckets_apart() {
  net_hosts n 4
  sealed
  mkdir -p "$work/bucket" "$work/other"
  part_flags+=(--autojoin_udp=10.0.0.255:9876)
  net_node n1 --bucket="file://$work/bucket"
  net_node n2 --bucket="file://$work/bucket"
  # However it is written.
  ln -s "$work/bucket" "$work/same"
  net_node n3 --bucket="file://$work/same"
  check "buckets apart: those of one bucket are a cluster" together 20 n1 n2 n3
  net_node n4 --bucket="file://$work/other"
  check "buckets apart: the one with another stays alone" wait_until 20 has_line "$(node_log n4)" 'ERROR.*another bucket'
  check "buckets apart: both sides say why" wait_until 10 has_line "$(node_log n1)" 'ERROR.*n4.*another bucket'
  check "buckets apart: and stay apart" stay_apart 4 n1 n2 n3 / n4
  timeout 20 "$binary" --node_name=without --listen=127.0.0.1 --port="$(free_port)" --cache_dir="$work/without" --join=10.0.0.1:7946 \
    >"$log" 2>&1 </dev/null
  check "buckets apart: a node without one is refused" equal $? 2
  check "buckets apart: and told why" says "$log" --bucket
}

weak_key() {
  local key
  for key in hunter2 password12345678 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; do
    timeout 20 "$binary" --node_name=weak --listen=127.0.0.1 --port="$(free_port)" --cache_dir="$work/weak" \
      --bucket="file://$work/bucket" --secret_key="$key" >"$log" 2>&1 </dev/null
    check "weak key $key: refused" not equal $? 0
    check "weak key $key: with a command that makes a good one" says_like "$log" 'openssl rand|/dev/urandom'
    check "weak key $key: which is not shown" silent_on "$log" "$key"
  done
}

# Another key, node by node: added as second, made the first, the old one dropped. Nobody else leaves meanwhile.
rotation() {
  local keys number rest
  net_hosts n 3
  shared_folder
  part_flags+=("--join=10.0.0.1:7946,10.0.0.2:7946,10.0.0.3:7946")
  for number in 1 2 3; do net_node "n$number" --secret_key="$key_a"; done
  check "rotation: a cluster" together 20 n1 n2 n3
  for keys in "$key_a,$key_b" "$key_b,$key_a" "$key_b"; do
    for number in 1 2 3; do
      mapfile -t rest < <(numbered n 1 3 | grep -vx "n$number")
      keep_seeing 4 "${rest[@]}" -- "${rest[@]}" >"$work/kept" 2>&1 &
      restart "n$number" --secret_key="$keys"
      check "rotation: n$number is back with other keys" together 10 n1 n2 n3
      wait $!
      check "rotation: and the others did not part" equal $? 0
    done
  done
  net_hosts late 1 9
  net_node late1 --secret_key="$key_a"
  check "rotation: the old key opens no more, and the log says so" wait_until 10 has_line "$(node_log n1)" 'WARN.*--secret_key'
  check "rotation: nobody with it joins" together 1 n1 n2 n3
}
