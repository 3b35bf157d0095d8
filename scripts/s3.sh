# shellcheck shell=bash
# S3 servers on loopback for scripts, and the proxy that makes them fail. Sourced after lib.sh. Knows no client.

# The servers' only bucket, and the credentials of it. Nothing is taken from the user's settings.
bucket=bbb
export AWS_ACCESS_KEY_ID=GK0123456789abcdef01234567
export AWS_SECRET_ACCESS_KEY=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
export AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null AWS_EC2_METADATA_DISABLED=true
unset AWS_PROFILE AWS_SESSION_TOKEN AWS_REGION AWS_DEFAULT_REGION AWS_ENDPOINT_URL AWS_ENDPOINT_URL_S3

# Process ids of what was started here.
declare -A s3_pid=()

# s3_start KIND FOLDER: starts garage or moto with an empty bucket, its data (garage's) and log in FOLDER, and waits until it
# answers. S3_PORT asks for a port, S3_HOST for an address of this host that nodes elsewhere can reach. Sets s3_kind, s3_port and
# s3_flags, the flags of a node that uses it.
s3_start() {
  s3_kind=$1
  local folder=$2 deadline=$((SECONDS + 60))
  s3_port=${S3_PORT:-$(free_port)}
  mkdir -p "$folder"
  "start_$s3_kind" "$folder" >>"$folder/s3.log" 2>&1 </dev/null &
  s3_pid[s3]=$!
  disown
  until s3_ready; do
    kill -0 "${s3_pid[s3]}" 2>/dev/null || die "$s3_kind ended at start; its log is $folder/s3.log"
    [ $SECONDS -lt $deadline ] || die "$s3_kind does not answer on port $s3_port; its log is $folder/s3.log"
    sleep 0.1
  done
  s3_flags_for "$s3_port"
}
# s3_flags_for PORT: the same server through that port.
s3_flags_for() {
  # shellcheck disable=SC2034 # read by those who start nodes
  s3_flags=(--bucket="$bucket" --endpoint="http://${S3_HOST:-127.0.0.1}:$1" --region="$(s3_region)")
}
s3_region() { if [ "$s3_kind" = garage ]; then echo garage; else echo us-east-1; fi; }
s3_ready() {
  accepts "$s3_port" || return
  # moto begins without a bucket.
  if [ "$s3_kind" = moto ]; then s3 PUT "$bucket"; else s3 GET "$bucket?list-type=2&max-keys=1"; fi >/dev/null
}

start_garage() {
  local rpc
  rpc=127.0.0.1:$(free_port)
  cat >"$1/garage.toml" <<EOF
replication_factor = 1
db_engine = "sqlite"
metadata_dir = "$1/meta"
data_dir = "$1/data"
# It keeps what it stores as it is: its time is not to be measured.
compression_level = "none"
rpc_secret = "$AWS_SECRET_ACCESS_KEY"
rpc_bind_addr = "$rpc"
rpc_public_addr = "$rpc"
[s3_api]
s3_region = "garage"
api_bind_addr = "$([ -n "${S3_HOST:-}" ] && echo 0.0.0.0 || echo 127.0.0.1):$s3_port"
EOF
  exec env GARAGE_DEFAULT_ACCESS_KEY="$AWS_ACCESS_KEY_ID" GARAGE_DEFAULT_SECRET_KEY="$AWS_SECRET_ACCESS_KEY" \
    GARAGE_DEFAULT_BUCKET="$bucket" RUST_LOG=garage=warn "$clients/garage/bin/garage" -c "$1/garage.toml" server --single-node --default-bucket
}

start_moto() { exec "$clients/moto/bin/moto_server" -H 127.0.0.1 -p "$s3_port"; }

# s3 METHOD PATH [CURL'S ARGUMENT...]: one signed request to the server itself; prints the answer's body, fails where S3 does.
s3() {
  # Signatures are over the path as it is escaped.
  local method=$1 path=${2//!/%21}
  shift 2
  curl --silent --show-error --fail --max-time 30 --request "$method" --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" \
    --header 'x-amz-content-sha256: UNSIGNED-PAYLOAD' --header 'content-type: application/octet-stream' \
    --aws-sigv4 "aws:amz:$(s3_region):s3" "$@" "http://127.0.0.1:$s3_port/$path" 2>/dev/null
}

# s3_keys: prints all keys of the bucket.
s3_keys() {
  local answer token=''
  while true; do
    answer=$(s3 GET "$bucket?${token:+continuation-token=$token&}list-type=2") || die "cannot list the bucket"
    grep -oE '<Key>[^<]*</Key>' <<<"$answer" | sed -E 's%</?Key>%%g' || true
    token=$(grep -oE '<NextContinuationToken>[^<]*' <<<"$answer" | sed 's/.*>//') || return 0
    # Signatures want it as it goes over the wire.
    token=${token//=/%3D} token=${token//+/%2B} token=${token//\//%2F} token=${token//[/%5B} token=${token//]/%5D}
  done
}

# Stops what was started here, by its process ids.
s3_stop() {
  local name
  for name in "${!s3_pid[@]}"; do
    kill "${s3_pid[$name]}" 2>/dev/null || true
    unset "s3_pid[$name]"
  done
}

# --- the proxy -------------------------------------------------------------------------------------------------

# The programs of bbb-trial. BBB_TRIAL names a folder that has them.
trial=${BBB_TRIAL:-$root/target/debug}

# Builds them unless BBB_TRIAL says where they are. With an example among what is built, cargo counts in what tests need of libraries:
# without one, half of these would be compiled once more, for a feature less.
build_trial() {
  [ -z "${BBB_TRIAL:-}" ] || return 0
  (cd "$root" && cargo build --locked --workspace --bin=s3-proxy --bin=ledger --bin=front --bin=stopwatch --example=latency) ||
    die "the build of bbb-trial failed"
}

# proxy_start FOLDER [SEED]: starts the proxy before the server and points s3_flags to it. Its log is FOLDER/proxy.log.
proxy_start() {
  local folder=$1 deadline=$((SECONDS + 30))
  mkdir -p "$folder"
  "$trial/s3-proxy" "127.0.0.1:$s3_port" ${2:+--seed="$2"} >"$folder/proxy.log" 2>&1 </dev/null &
  s3_pid[proxy]=$!
  disown
  until grep -qs '^s3-proxy listens' "$folder/proxy.log"; do
    kill -0 "${s3_pid[proxy]}" 2>/dev/null || die "the proxy ended at start; its log is $folder/proxy.log"
    [ $SECONDS -lt $deadline ] || die "the proxy says nothing; its log is $folder/proxy.log"
    sleep 0.1
  done
  cat "$folder/proxy.log"
  s3_flags_for "$(sed -nE 's/^s3-proxy listens on 127.0.0.1:([0-9]+),.*/\1/p' "$folder/proxy.log")"
  proxy_control=http://127.0.0.1:$(sed -nE 's/.* told on 127.0.0.1:([0-9]+),.*/\1/p' "$folder/proxy.log")
}

# proxy_faults [QUERY]: these faults are in force from now on, as in 'latency_ms=100&error=5'; without any, none.
proxy_faults() { curl --silent --show-error --fail -X POST "$proxy_control/faults?${1:-}"; }
# proxy_count NAME: prints a count, as in 'get', 'fault_error', 'bytes_down'.
proxy_count() { curl --silent --show-error --fail "$proxy_control/counts" | awk -v name="$1" '$1 == name { n = $2 } END { print n + 0 }'; }
# proxy_counts_again: prints all counts, and begins again at 0.
proxy_counts_again() { curl --silent --show-error --fail -X DELETE "$proxy_control/counts"; }
