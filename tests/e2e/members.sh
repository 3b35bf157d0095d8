# shellcheck shell=bash
# A cluster of nodes on one bucket, which come, go and die. Sourced after bucket.sh.

# Where each node of the cluster listens, in this life and the next.
declare -A member_port=() member_gossip=()
# Who is there.
alive=()
# Flags of nodes that start from now on.
member_flags=()
# What makes them one cluster.
cluster_key=$(head -c 32 /dev/urandom | base64)

# member NAME [FLAG...]: starts a node of the cluster, which knows where all others may be, and waits until it is a member.
# Its disk is as it left it.
member() {
  local name=$1 join
  shift
  : "${member_port[$name]:=$(free_port)}" "${member_gossip[$name]:=$(free_port)}"
  join=$(printf ',127.0.0.1:%s' "${member_gossip[@]}")
  NODE_PORT=${member_port[$name]} NODE_GOSSIP=${member_gossip[$name]} bucket_node "$name" "$work/faulty/$name" --cluster_name="$suite" \
    --secret_key="$cluster_key" --join="${join#,}" "${member_flags[@]}" "$@"
  alive+=("$name")
}
# members NAME...: the same for several, at once.
members() {
  local name
  for name in "$@"; do NODE_LATER=yes member "$name"; done
  for name in "$@"; do await_node "$name"; done
}
# leaves NAME [SIGNAL]: ends a node; with KILL its disk is lost too.
leaves() {
  local name kept=()
  stop_node "$1" "${2:-TERM}"
  [ "${2:-TERM}" = TERM ] || rm -rf "$work/faulty/$1/cache"
  for name in "${alive[@]}"; do [ "$name" = "$1" ] || kept+=("$name"); done
  alive=("${kept[@]}")
}
# agreed [SECONDS]: all that are there see each other and nobody else.
agreed() {
  local name pages=()
  for name in "${alive[@]}"; do pages+=(",http://127.0.0.1:${member_port[$name]}/cluster"); done
  python3 "$root/tests/e2e/net/views.py" agree "${1:-20}" "${pages[@]}" -- "${alive[@]}"
}
# three PREFIX: a cluster of three with empty disks, on an own prefix of the bucket.
three() {
  local name
  for name in "${alive[@]}"; do leaves "$name" KILL; done
  below_prefix "$1"
  rm -rf "$work"/faulty/*/cache
  members one two three
  check "$1: three nodes are a cluster" agreed
}
