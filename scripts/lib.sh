# shellcheck shell=bash
# What every script of this folder and of tests/e2e shares: where things lie, how a script speaks, how it becomes
# root to install a Debian package, and how it starts and stops nodes. Sourced, never run. Knows no client.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Real clients and the projects they build; kept between runs.
clients=${BBB_CLIENTS:-$root/target/clients}

say() { printf '== %s\n' "$*"; }
warn() { printf 'warning: %s\n' "$*" >&2; }
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "'$*' must run as root, and there is no sudo: run this script as root once"
  fi
}

# debian_packages NAME...: installs those that are not there. Asks the archive only when one is missing.
debian_packages() {
  local package missing=()
  command -v apt-get >/dev/null || die "needs Debian 12 (there is no apt-get here) for: $*"
  for package in "$@"; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
  done
  [ ${#missing[@]} = 0 ] && return
  say "installing from Debian: ${missing[*]}"
  mkdir -p "$clients"
  # The archive's tool ends where it runs already.
  local lock
  exec {lock}>"$clients/apt.lock"
  flock "$lock"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq >"$clients/apt.log" 2>&1 ||
    warn "'apt-get update' complained; see $clients/apt.log"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" \
    >>"$clients/apt.log" 2>&1 </dev/null || die "could not install ${missing[*]}; see $clients/apt.log"
  exec {lock}>&-
}

# --- nodes -----------------------------------------------------------------------------------------------------

# The binary under test. BBB_BINARY names another one.
binary=${BBB_BINARY:-$root/target/release/buildbuildbuild}

# Builds the release binary unless BBB_BINARY names one.
build_binary() {
  if [ -z "${BBB_BINARY:-}" ]; then
    command -v cargo >/dev/null || die "needs Rust: there is no cargo on the PATH"
    (cd "$root" && cargo build --release --locked -p buildbuildbuild) || die "the release build failed"
  fi
  [ -x "$binary" ] || die "$binary is not there or cannot be run"
}

accepts() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# free_port: prints a port of loopback on which nothing listens, below the range that the kernel gives to clients.
free_port() {
  local port tries
  for tries in {1..100}; do
    port=$((20000 + (RANDOM * 32768 + RANDOM + tries) % 12000))
    accepts "$port" || { echo "$port" && return; }
  done
  die "found no free port"
}

# shellcheck disable=SC2034 # read by those who start nodes
declare -A node_pid=() node_port=() node_gossip=()
# Where a node's log is, and how many bytes of it are from before.
declare -A node_log_of=() node_said=()

# start_node NAME FOLDER [FLAG...]: starts a node on loopback, alone, with its cache and log in FOLDER, and waits
# until it answers. NODE_PORT asks for a port, NODE_GOSSIP for one of gossip. Sets node_pid[NAME], node_port[NAME] and
# node_gossip[NAME]. Nodes become a cluster by --join=127.0.0.1:PORT with the latter. NODE_BY is a command that becomes the node.
# With NODE_LATER=yes it does not wait; await_node NAME does.
start_node() {
  local name=$1 folder=$2 port=${NODE_PORT:-$(free_port)} gossip=${NODE_GOSSIP:-$(free_port)}
  shift 2
  mkdir -p "$folder"
  # A node that was here before has left its words.
  node_said[$name]=$(stat -c %s "$folder/node.log" 2>/dev/null || echo 0)
  node_log_of[$name]=$folder/node.log
  # shellcheck disable=SC2086 # words of a command
  ${NODE_BY:-} "$binary" --node_name="$name" --listen=127.0.0.1 --port="$port" --bind_host=127.0.0.1 --bind_port="$gossip" \
    --advertise_host=127.0.0.1 --autojoin_udp=false --cache_dir="$folder/cache" --sandbox="${BBB_SANDBOX:-auto}" "$@" \
    >>"$folder/node.log" 2>&1 </dev/null &
  node_pid[$name]=$!
  # Otherwise the shell reports its end, when it was killed, in the middle of something else.
  disown
  # shellcheck disable=SC2034
  node_port[$name]=$port node_gossip[$name]=$gossip
  [ "${NODE_LATER:-no}" = yes ] || await_node "$name"
}
await_node() {
  local name=$1 port=${node_port[$1]} said=${node_log_of[$1]} deadline=$((SECONDS + 60))
  # It takes connections a moment before it serves them, and says when it does.
  until tail -c +$((node_said[$name] + 1)) "$said" 2>/dev/null | grep -aqF "listens on 127.0.0.1:$port" && accepts "$port"; do
    if ! kill -0 "${node_pid[$name]}" 2>/dev/null; then
      tail -n 20 "$said" >&2
      die "node $name ended at start; its log is $said"
    fi
    [ $SECONDS -lt $deadline ] || die "node $name does not answer on port $port; its log is $said"
    sleep 0.1
  done
}

# stop_node NAME [SIGNAL]: ends a node and waits for it; one that has not gone after 30 s is killed.
stop_node() {
  local name=$1 pid=${node_pid[$1]:-} deadline=$((SECONDS + 30))
  [ -n "$pid" ] || return 0
  unset "node_pid[$name]"
  kill -s "${2:-TERM}" "$pid" 2>/dev/null || true
  while kill -0 "$pid" 2>/dev/null && [ $SECONDS -lt $deadline ]; do sleep 0.1; done
  if kill -0 "$pid" 2>/dev/null; then
    warn "node $name did not end within 30 s: killed"
    kill -s KILL "$pid" 2>/dev/null || true
  fi
}

# All of them, at once.
stop_nodes() {
  local name
  for name in "${!node_pid[@]}"; do kill "${node_pid[$name]}" 2>/dev/null || true; done
  # A second signal would hurry them.
  for name in "${!node_pid[@]}"; do stop_node "$name" 0; done
}
