# shellcheck shell=bash
# A part of cluster_cache: what Bazel needs from outside, fetched by the cluster. Sourced by the suite.

# files_serve: a file server on loopback, which writes down what it is asked for. Sets files_pid and files_url.
files_serve() {
  local port
  port=$(free_port)
  files_url=http://127.0.0.1:$port
  python3 -u -m http.server --bind 127.0.0.1 --directory "$work/files" "$port" >"$work/files.log" 2>&1 </dev/null &
  files_pid=$!
  disown
  wait_until 20 accepts "$port"
}
# gets PATH: how often it was asked for.
gets() { grep -c "\"GET $1 " "$work/files.log"; }
sha_of() { sha256sum "$work/files/$1" | cut -d' ' -f1; }

# A workspace whose action needs an archive and a file.
assets_workspace() {
  mkdir -p "$work/files/lib" "$work/outside"
  echo "the library of $seed" >"$work/files/lib/words.txt"
  echo 'exports_files(["words.txt"])' >"$work/files/lib/BUILD"
  : >"$work/files/lib/WORKSPACE"
  tar -C "$work/files" -czf "$work/files/lib.tar.gz" lib
  rm -r "$work/files/lib"
  head -c 3000000 /dev/urandom >"$work/files/data.bin"
  cat >"$work/outside/BUILD" <<'END'
genrule(name = "all", srcs = ["@lib//:words.txt", "@data//file"], outs = ["all.txt"],
    cmd = "cat $(location @lib//:words.txt) >$@; sha256sum <$(location @data//file) >>$@")
END
}
# outside_build NODE ROUND: builds it there. In each round the repositories are others to Bazel, and it has downloaded nothing yet. The
# first URL of the archive leads nowhere.
outside_build() {
  cat >"$work/outside/WORKSPACE" <<END
load("@bazel_tools//tools/build_defs/repo:http.bzl", "http_archive", "http_file")
http_archive(name = "lib", strip_prefix = "lib", sha256 = "$(sha_of lib.tar.gz)", patch_cmds = ["true $2"],
    urls = ["$files_url/gone.tar.gz", "$files_url/lib.tar.gz"])
http_file(name = "data", sha256 = "$(sha_of data.bin)", downloaded_file_path = "data-$2", urls = ["$files_url/data.bin"])
END
  (
    cd "$work/outside" || exit
    bz outside build //:all --remote_executor="$(address_of "$1")" --spawn_strategy=remote --remote_timeout=60 \
      --experimental_remote_downloader="$(address_of "$1")" --repository_cache="$work/repositories-$2"
  )
}
# fetch_everywhere PATH: asks every node for it, eight times each and all at once, as a client of the API would by hand; prints what they
# answered, each once.
fetch_everywhere() {
  local name try
  python3 -c 'import sys; url = sys.argv[1].encode(); body = b"\x22" + bytes([len(url)]) + url
sys.stdout.buffer.write(b"\0" + len(body).to_bytes(4, "big") + body)' "$files_url$1" >"$work/asked"
  for name in "${alive[@]}"; do
    for try in 1 2 3 4 5 6 7 8; do
      curl --silent --http2-prior-knowledge --header 'content-type: application/grpc' --header 'te: trailers' \
        --data-binary "@$work/asked" --output "$work/answer.$name.$try" \
        "http://127.0.0.1:${member_port[$name]}/build.bazel.remote.asset.v1.Fetch/FetchBlob" &
    done
  done
  wait
  grep -ahoE '[0-9a-f]{64}' "$work"/answer.* | sort | uniq -c | tr -s ' '
}
built_outside() { (cd "$work/outside" && cat "$(bazel_info outside bazel-bin)/all.txt"); }

# Bazel fetches through one node, then through another one without its origin, then through nodes that have nothing on their disks.
assets() {
  local words name
  mkdir -p "$work/files"
  files_serve
  assets_workspace
  words=$(printf 'the library of %s\n%s  -\n' "$seed" "$(sha_of data.bin)")
  member_flags=(--fetch_allow=127.0.0.1)
  three assets
  outside_build one 1
  check "assets: a build fetches an archive and a file through a node" equal $? 0
  check "assets: they are what they were" equal "$(built_outside)" "$words"
  check "assets: the origin was asked for each once" equal "$(gets /lib.tar.gz) $(gets /data.bin)" '1 1'
  outside_build two 2
  check "assets: downloaded anew, it builds through another node" equal $? 0
  check "assets: which did not ask again" equal "$(gets /lib.tar.gz) $(gets /data.bin)" '1 1'
  head -c 20000000 /dev/urandom >"$work/files/wanted.bin"
  check "assets: three nodes that are asked at once all have it" equal "$(fetch_everywhere /wanted.bin)" " 24 $(sha_of wanted.bin)"
  check "assets: of one request to its origin" equal "$(gets /wanted.bin)" 1
  kill "$files_pid"
  for name in one two three; do leaves "$name" KILL; done
  for name in four five six; do member "$name"; done
  check "assets: three new nodes are a cluster" agreed
  outside_build five 3
  check "assets: without its origin it builds through nodes that have nothing" equal $? 0
  check "assets: and is the same" equal "$(built_outside)" "$words"
  # shellcheck disable=SC2034 # read by the suite
  member_flags=()
}
