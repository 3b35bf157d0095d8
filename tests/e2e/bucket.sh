# shellcheck shell=bash
# What the suites of the bucket share: nodes on a bucket, builds of abseil on them, ledgers. Sourced after lib.sh.

slots=${BBB_SLOTS:-$(nproc)}

# below_prefix PREFIX: nodes that start from now on keep what is theirs below it.
below_prefix() { s3_flags[0]=--bucket=s3://$bucket/$1; }
# bucket_node NAME FOLDER [FLAG...]: a node with worker slots on the bucket of s3_flags, with its cache in FOLDER.
bucket_node() {
  local name=$1 folder=$2
  shift 2
  start_node "$name" "$folder" --worker_slots="$slots" "${s3_flags[@]}" "$@"
}
# fresh_node NAME FOLDER [FLAG...]: the same with an empty disk.
fresh_node() {
  rm -rf "$2/cache"
  bucket_node "$@"
}
address_of() { echo "grpc://127.0.0.1:${node_port[$1]}"; }

# abseil_build NODE BASE ARGUMENT...: a clean build of abseil's targets by remote execution on that node.
abseil_build() {
  local node=$1 base=$2
  shift 2
  (
    cd "$clients/abseil" || exit
    bz "$base" clean && bz "$base" build --remote_executor="$(address_of "$node")" --spawn_strategy=remote \
      --remote_timeout=600 --jobs=16 "$@"
  )
}
# abseil_sums BASE: the digests of what it built, without the archive members' own folder.
abseil_sums() { (cd "$clients/abseil" && manifest "$(bazel_info "$1" bazel-bin)/absl"); }
# all_libraries: prints the targets of abseil's libraries.
all_libraries() {
  (cd "$clients/abseil" && bazel_raw "$1" query 'kind("cc_library", //absl/...) except attr(testonly, 1, //absl/...)' 2>"$log")
}

# ledger COMMAND NODE LEDGER [ARGUMENT...]: the client that writes down what was acknowledged, or holds a node to it. Its sums
# go to $work/sums.
ledger() {
  local command=$1 node=$2 file=$3
  shift 3
  "$trial/ledger" "$command" --server="$(address_of "$node")" --ledger="$file" "$@" >"$work/sums" 2>"$log"
}
# ledger_sum NAME: a number of the last ledger's sums: blobs, results, failures.
ledger_sum() { sed -nE "s/.*$1=([0-9]+).*/\1/p" "$work/sums"; }
# noted KIND LEDGER...: how many different blobs or results stand in these ledgers.
noted() {
  local kind=$1
  shift
  cat "$@" | grep "^$kind " | sort -u | wc -l
}
# all_held WHAT NODE LEDGER [ARGUMENT...]: checks that the node has all that stands in the ledger, byte for byte.
all_held() {
  local what=$1
  shift
  check "$what" ledger verify "$@"
  echo "    $(cat "$work/sums")"
}
