# shellcheck shell=bash
# shellcheck disable=SC2154 # names are shared between these files
# What strangers send and ask. Parts of suite.

# A stranger in the network throws everything at the ports of gossip and announcements.
hostile() {
  local name storm
  local -A before=()
  form 3 --join=10.0.0.1:7946 --autojoin_udp=10.0.0.255:9876
  net_hosts stranger 1 66
  # What it overhears: also how a member dies and comes back.
  net capture "$part" "$work/captured"
  node_signal n3 KILL
  check "hostile: a killed node is noticed" see "$noticed_s" n1 n2 -- n1 n2
  net_node n3
  check "hostile: it is back" together "$back_s" n1 n2 n3
  check "hostile: over 100 packets were overheard" wait_until 20 captured 100
  cp "$work/captured" "$work/overheard"
  for name in n1 n2; do before[$name]=$(cpu_ms "$name"); done
  on stranger1 "$python" "$root/tests/e2e/net/hostile.py" "$work/overheard" 10 10.0.0.1 10.0.0.2 10.0.0.3 >"$work/storm" 2>&1 &
  storm=$!
  check "hostile: no view changes" keep_seeing 11 n1 n2 n3 -- n1 n2 n3
  wait $storm
  check "hostile: the storm came to its end" says_like "$work/storm" '^sent'
  sed 's/^/    /' "$work/storm"
  check "hostile: nobody joined" together 1 n1 n2 n3
  for name in n1 n2; do
    echo "    $name took $(($(cpu_ms $name) - before[$name])) ms of CPU, $(rss_mb $name) MB"
    check "hostile: $name takes less than half a core" below $(($(cpu_ms $name) - before[$name])) 5500
    check "hostile: $name stays small" below "$(rss_mb $name)" 200
    check "hostile: $name does not fill its log" below "$(wc -l <"$(node_log $name)")" 200
  done
  node_signal n3 KILL
  check "hostile: a killed node is noticed" see "$noticed_s" n1 n2 -- n1 n2
  on stranger1 "$python" "$root/tests/e2e/net/hostile.py" --replay "$work/overheard" 3 10.0.0.1 10.0.0.2 >"$work/storm" 2>&1
  check "hostile: what it once said does not bring it back" see 1 n1 n2 -- n1 n2
  net_node n3
  check "hostile: it comes back itself" together "$back_s" n1 n2 n3
  on stranger1 "$python" "$root/tests/e2e/net/hostile.py" --replay "$work/overheard" 3 10.0.0.1 10.0.0.2 10.0.0.3 >"$work/storm" 2>&1 &
  storm=$!
  check "hostile: news of its death that are old do not send it away" keep_seeing 5 n1 n2 n3 -- n1 n2 n3
  wait $storm
}
captured() { [ "$(wc -l <"$work/captured")" -gt "$1" ]; }
cpu_ms() { awk -v hertz="$(getconf CLK_TCK)" '{ print int(($14 + $15) * 1000 / hertz) }' "/proc/${node_pid[$1]}/stat"; }
rss_mb() { awk '$1 == "VmRSS:" { print int($2 / 1000) }' "/proc/${node_pid[$1]}/status"; }

# Clients have a header and certificates to bring; nodes meet all the same, and clients never reach what is for nodes.
guarded() {
  local url node=/bbb.peer.v1.Node/Introduce
  certificate
  net_hosts n 3
  shared_folder
  sealed
  part_flags+=(--required_header=x-token=hush --join=10.0.0.1:7946)
  net_node n1
  net_node n2
  net_node n3 --tls_cert="$work/cert.pem" --tls_key="$work/key.pem"
  export BBB_HEADER=x-token=hush
  check "guarded: nodes join, whatever clients have to bring" see 20 n1 n2 -- n1 n2 n3
  check "guarded: the page asks for the header" not on n1 curl --silent --fail --max-time 5 --output "$log" http://10.0.0.1:1234/cluster
  check "guarded: and gives its members with it" on n1 curl --silent --fail --max-time 5 --header 'x-token: hush' --output "$log" \
    http://10.0.0.1:1234/cluster
  check "guarded: the same page over TLS" on n3 curl --silent --fail --max-time 5 --insecure --header 'x-token: hush' --output "$log" \
    https://10.0.0.3:1234/cluster
  check "guarded: with all members" equal "$("$python" -c 'import json, sys; print(len(json.load(open(sys.argv[1]))["members"]))' "$log")" 3
  for url in http://10.0.0.1:1234 https://10.0.0.3:1234; do
    check "guarded: $url has nothing of nodes' for clients" equal "$(grpc_status "$url$node" 'x-token: hush')" 12
    check "guarded: nor near$node" equal "$(grpc_status "$url/near$node" 'x-token: hush')" 12
    check "guarded: nor a cache that is near" \
      equal "$(grpc_status "$url/near/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs" 'x-token: hush')" 12
    check "guarded: nor says anything without the header" \
      equal "$(grpc_status "$url/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs" 'x-other: hush')" 16
  done
  check "guarded: nobody speaks as a node without a certificate of the cluster" not on n1 openssl s_client -connect 10.0.0.2:1234 \
    -alpn bbb-node/1 -tls1_3 -verify_return_error -brief </dev/null
}
# grpc_status URL HEADER: the status of a call without a message: it is refused before one is read.
grpc_status() {
  local http2=--http2
  [[ $1 == https:* ]] || http2=--http2-prior-knowledge
  on n1 curl --silent --insecure --max-time 5 $http2 --header 'content-type: application/grpc' --header 'te: trailers' \
    --header "$2" --data '' --dump-header - --output "$log.body" "$1" >"$log" 2>&1
  tr -d '\r' <"$log" | sed -nE 's/^grpc-status: *([0-9]+).*/\1/p' | tail -n 1
}
certificate() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=cluster -addext subjectAltName=IP:10.0.0.3 \
    -keyout "$work/key.pem" -out "$work/cert.pem" >"$log" 2>&1
}
