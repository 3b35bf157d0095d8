# shellcheck shell=bash
# shellcheck disable=SC2154 # names are shared between these files
# The hosts, nodes and clients of the suite, and how they are broken.

# The network's name.
lan=work
# Where clients, the front and the bucket are; nodes n1, n2... have 10.0.0.1 and so on.
desk=10.0.0.100
node_slots=4
key=$(head -c 32 /dev/urandom | base64)
# How often Bazel tries again.
retries=(--remote_retries=10)

# The suite is on the network too. Large frames keep the switch from being what is measured.
hosts_and_bucket() {
  local name
  part=$lan net_hosts n 4
  net here $lan $desk/24
  ip link set eth0 mtu 60000
  for name in n1 n2 n3 n4; do on "$name" ip link set eth0 mtu 60000; done
  S3_HOST=$desk s3_start garage "$work/garage"
  S3_HOST=$desk s3_flags_for "$s3_port"
  "$python" "$here/runs.py" "$work/runs" 2>>"$work/runs.log" </dev/null &
  disown
}

# node NAME [FLAG...]: starts a node of the cluster, for the first time or with what it had.
node() {
  local name=$1
  shift
  # It may have a reason to complain.
  part=$lan work=$work/faulty net_node "$name" --worker_slots=$node_slots --sandbox="$BBB_SANDBOX" --secret_key="$key" \
    --join=10.0.0.1:7946,10.0.0.2:7946,10.0.0.3:7946 "${s3_flags[@]}" "$@"
}
# whole: n1, n2 and n3 are a cluster, whatever was before, and the front stands before them.
whole() {
  local name
  for name in n1 n2 n3; do
    alive_node "$name" || node "$name"
  done
  check "$part: three nodes are a cluster" together 30 n1 n2 n3
  [ -n "${front:-}" ] || front_start
  check "$part: the front sees them" wait_until 10 front_sees n1 n2 n3
}
alive_node() { [ -n "${node_pid[$1]:-}" ] && alive "$1"; }
# gone_node NAME SECONDS: its process is gone, at most that long from now.
gone_node() { wait_until "$2" not alive "$1"; }
url() { echo "grpc://${host_address[$1]}:1234"; }

# --- the front -------------------------------------------------------------------------------------------------

front_start() {
  local name words=()
  for name in n1 n2 n3 n4; do words+=("$name=${host_address[$name]}:1234"); done
  "$trial/front" "${words[@]}" >"$work/front.log" 2>&1 </dev/null &
  disown
  wait_until 10 says "$work/front.log" 'front listens on'
  front=grpc://$(sed -nE 's/^front listens on //p' "$work/front.log")
}
# front_sees NODE...: all of these are up.
front_sees() {
  local name
  for name in "$@"; do
    [ "$(grep -E " $name is (up|down)" "$work/front.log" | tail -n 1 | grep -c ' up$')" = 1 ] || return 1
  done
}
# front_chose: the node that got the last connection.
front_chose() { sed -nE 's/.* goes to (.*)/\1/p' "$work/front.log" | tail -n 1; }

# --- who is what -----------------------------------------------------------------------------------------------

# scheduler_of NODE: the member that schedules, as that one sees it: who has been there longest and does not leave.
scheduler_of() {
  page "$1" | "$python" -c '
import json, sys
members = json.load(sys.stdin)["members"]
print(min(members, key=lambda member: (member["leaving"], member["generation"]))["name"])'
}
# --- clients ---------------------------------------------------------------------------------------------------

now_ms() { date +%s%3N; }
# runs_of SECONDS: how many processes slept exactly so long, or for what begins so.
runs_of() { grep -c "^$1" "$work/runs"; }
# run_twice SINCE: prints which of the load's actions ran more than once since that moment.
run_twice() { awk -v since="$1" '$3 >= since && $1 ~ /[.][0-9]{13}$/ { seen[$1]++ } END { for (name in seen) if (seen[name] > 1) print name, seen[name] }' "$work/runs"; }
stopwatch() { RUST_BACKTRACE=0 "$trial/stopwatch" "$@" 2>>"$log"; }

# Targets of a build that is not too long.
targets=(//absl/strings:strings //absl/status:status)
# build_through SERVER WHAT: a clean build there with nothing that an earlier one left; WHAT makes its actions others. What was said is
# in $work/grpc.
build_through() {
  (
    cd "$clients/abseil" || exit
    rm -f "$work/grpc"
    bz work clean && bz work build --remote_executor="$1" --spawn_strategy=remote --remote_timeout=60 "${retries[@]}" \
      --jobs=6 --experimental_remote_grpc_log="$work/grpc" --action_env="SEED=$seed-$2" "${targets[@]}"
  )
}
