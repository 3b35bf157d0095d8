# shellcheck shell=bash
# How the demo and the end-to-end suites run Bazel, and how they read what it says. Sourced after lib.sh.

# Which Bazel: 4 (Debian's 4.2.3) or 2 (2.1.0 from npm). Output bases are apart.
bazel_version=${bazel_version:-4}
# Where the output of the last Bazel command went.
bazel_log=${bazel_log:-$clients/bazel.log}
# Output bases; one that was used has a Bazel server behind it, which bazel_shutdown ends.
bazel_bases=${bazel_bases:-$clients/bases}
# Their names are written down: subshells use some, too.
bazel_used=$bazel_bases/used.$$

bazel_program() {
  case $bazel_version in
    4) echo /usr/bin/bazel ;;
    2) echo "$clients/npm/node_modules/@bazel/bazel-linux_x64/bazel-2.1.0-linux-x86_64" ;;
    *) die "bazel_version is '$bazel_version', want 4 or 2" ;;
  esac
}

# bazel_raw BASE ARGUMENT...: Bazel with an output base of that name, in the current folder. Settings are ours and, for
# Debian's Bazel, Debian's; never the user's.
bazel_raw() {
  local base=$bazel_bases/$bazel_version-$1 rc=(--nohome_rc)
  shift
  [ "$bazel_version" = 4 ] || rc+=(--nosystem_rc)
  "$(bazel_program)" --output_user_root="$clients/bazel-root" --output_base="$base" "${rc[@]}" \
    --bazelrc="$clients/bazelrc" --max_idle_secs=600 "$@" </dev/null
}

# bz BASE COMMAND ARGUMENT...: the same for people and greps: plain output, into $bazel_log. Returns Bazel's code.
bz() {
  local base=$1 command=$2
  shift 2
  mkdir -p "$bazel_bases"
  echo "$bazel_version-$base" >>"$bazel_used"
  bazel_raw "$base" "$command" --color=no --curses=no --noshow_progress "$@" >"$bazel_log" 2>&1
}

bazel_info() { bazel_raw "$1" info "$2" 2>/dev/null; }

# Ends the servers behind the output bases that bz used, by their process ids.
bazel_shutdown() {
  local base pid
  [ -e "$bazel_used" ] || return 0
  while read -r base; do
    pid=$(cat "$bazel_bases/$base/server/server.pid.txt" 2>/dev/null) || continue
    if grep -qs "$bazel_bases/$base" "/proc/$pid/cmdline"; then kill "$pid" 2>/dev/null || true; fi
  done < <(sort -u "$bazel_used")
  rm "$bazel_used"
}

# What Bazel says of its processes at the end of a build, as in
# 'INFO: 375 processes: 129 internal, 246 remote.'
bazel_line() { grep -E '^INFO: [0-9]+ process(es)?[:.]' "$bazel_log" | tail -n 1; }
count_of() { bazel_line | grep -oE "[0-9]+ ($1)([,.]|\$)" | grep -oE '^[0-9]+' || echo 0; }
remote_count() { count_of remote; }
hit_count() { count_of 'remote cache hit'; }
local_count() { count_of 'local|linux-sandbox|processwrapper-sandbox|worker'; }

# ran_where GRPC_LOG: how many results in a log of --experimental_remote_grpc_log each worker made, as the results themselves say: NUMBER
# NAME a line. It looks for the field of an ActionResult that holds its metadata, which begins with the worker's name and goes on
# with a time.
ran_where() {
  python3 - "$1" <<'EOF'
import collections, re, sys
metadata = re.compile(rb"\x4a(?:[\x00-\x7f]|[\x80-\xff][\x01-\x7f])\x0a([\x01-\x3f])", re.DOTALL)
with open(sys.argv[1], "rb") as file:
    said = file.read()
workers = collections.Counter()
for found in metadata.finditer(said):
    end = found.end() + found[1][0]
    name = said[found.end() : end]
    if name.isascii() and name.decode().isprintable() and said[end : end + 1] in (b"\x12", b"\x1a"):
        workers[name.decode()] += 1
for name, count in sorted(workers.items()):
    print(count, name)
EOF
}

# manifest FOLDER: kind, mode's executable bit and digest of every file, link and empty folder below it. Only what
# an action made: not what Bazel itself writes (runfiles trees and their manifests).
manifest() {
  (
    cd "$1" || exit 1
    find -L . -name '*.runfiles' -prune -o -type f ! -name '*.runfiles_manifest' ! -name MANIFEST -print0 |
      LC_ALL=C sort -z | xargs -0 -r sha256sum
    echo executable:
    find -L . -name '*.runfiles' -prune -o -type f -perm -u+x -print | LC_ALL=C sort
  )
}
