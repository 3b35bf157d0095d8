#!/usr/bin/env python3
"""Reads logs through nodes that do not have them.

'cluster_logs.py kill WORKER_PID WORKER READER OTHER', HOST:PORT each, follows an action that prints a line each tenth of a second, kills
the node that runs it, and looks how much of the log is left. The names of all logs go to the file 'names'. 'cluster_logs.py read NODE
NAME...' reads logs once more, 'cluster_logs.py open NODE' reads one that nobody writes. It prints a line for each thing that it saw; whoever calls it judges them.
"""

import os
import signal
import sys
import threading
import time

import grpc
from buildgrid._protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from buildgrid._protos.build.bazel.remote.execution.v2 import remote_execution_pb2_grpc as re_grpc
from buildgrid._protos.build.bazel.remote.logstream.v1 import remote_logstream_pb2 as ls
from buildgrid._protos.build.bazel.remote.logstream.v1 import remote_logstream_pb2_grpc as ls_grpc
from buildgrid._protos.google.bytestream import bytestream_pb2 as bs
from buildgrid._protos.google.bytestream import bytestream_pb2_grpc as bs_grpc
from logs import PATIENCE_S, follow, say, upload

# Longer than it is read before its node is killed.
LINES = 200
SCRIPT = f"i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo line $i; sleep 0.1; done"


def start(channel, script):
    """Runs a command; the names of its logs, and what ends when it has ended."""
    command = re.Command(arguments=["/bin/sh", "-c", f"{script} # {time.time_ns()}"]).SerializeToString()
    command_digest, root_digest = upload(channel, command, re.Directory().SerializeToString())
    action = re.Action(command_digest=command_digest, input_root_digest=root_digest, do_not_cache=True)
    (action_digest,) = upload(channel, action.SerializeToString())
    operations = re_grpc.ExecutionStub(channel).Execute(re.ExecuteRequest(action_digest=action_digest))
    for operation in operations:
        metadata = re.ExecuteOperationMetadata()
        operation.metadata.Unpack(metadata)
        if metadata.stdout_stream_name:
            return metadata.stdout_stream_name, operations
    raise AssertionError("it has ended without names")


def read_left(channel, name):
    """What there is of a log whose node is gone, once nobody waits for that node any more; and how it ended."""
    data, deadline = b"", time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            for _, piece in follow(channel, name, len(data)):
                data += piece
            return data, "OK"
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                return data, error.code().name
            time.sleep(0.2)
    return data, "never ended"


def written_log(reader, other, worker):
    made = ls_grpc.LogStreamServiceStub(reader).CreateLogStream(ls.CreateLogStreamRequest(parent=""))
    read = []
    thread = threading.Thread(target=lambda: read.extend(data for _, data in follow(worker, made.name)))
    thread.start()
    stream = bs_grpc.ByteStreamStub(other)
    for offset, data in ((0, b"one "), (4, b"two")):
        request = bs.WriteRequest(
            resource_name=made.write_resource_name, write_offset=offset, data=data, finish_write=offset > 0
        )
        stream.Write(iter([request]), timeout=PATIENCE_S)
    thread.join(PATIENCE_S)
    say("written through one node, read through another", b"".join(read).decode())
    return made.name


def kill(worker_pid, worker, reader, other):
    written = written_log(reader, other, worker)
    ended, operations = start(reader, "echo all of it; echo and more >&2")
    for operation in operations:
        pass
    long, _ = start(reader, SCRIPT)
    with open("names", "w", encoding="ascii") as names:
        names.write(f"{written} {ended} {long}\n")
    last, seen = [], []

    def read(channel, offset):
        data = b""
        try:
            for _, piece in follow(channel, long, offset):
                data += piece
                if offset == 0 and channel is other:
                    last.append((time.monotonic(), len(data.splitlines())))
        except grpc.RpcError:
            seen.append((offset, data))

    offset = len("line 1\nline 2\n")
    where = [(other, 0), (other, offset), (reader, 0), (worker, 0)]
    readers = [threading.Thread(target=read, args=at) for at in where]
    for thread in readers:
        thread.start()
    time.sleep(3)
    os.kill(int(worker_pid), signal.SIGKILL)
    killed = time.monotonic()
    lines = max(line for at, line in last if at <= killed + 0.2)
    left, how = read_left(other, long)
    for thread in readers:
        thread.join(PATIENCE_S)
    say("the last line that came from the living node, of some", lines > 20)
    say("the log then ends", how)
    kept = len(left.splitlines())
    print(f"    {lines} lines were read while the node lived, {kept} lines are left", flush=True)
    say("at most a second of it is lost", lines - kept <= 10)
    say("readers", len(seen))
    whole = max((data for at, data in seen if at == 0), key=len)
    say("all saw the same", all(whole[at:].startswith(data) or data.startswith(whole[at:]) for at, data in seen))
    say("and that is what is left", whole.startswith(left) or left.startswith(whole))


def read_again(node, *names):
    for name in names:
        data, how = read_left(node, name)
        lines = data.decode().splitlines()
        whole = all(line == f"line {number}" for number, line in enumerate(lines, 1))
        say(how, f"{len(lines)} lines" if lines and whole else data.decode().strip())


def open_log(node):
    made = ls_grpc.LogStreamServiceStub(node).CreateLogStream(ls.CreateLogStreamRequest(parent=""))
    say("open", made.name)
    try:
        for _ in follow(node, made.name):
            pass
    except grpc.RpcError as error:
        say("the log then ends", error.code().name)


if __name__ == "__main__":
    if sys.argv[1] == "kill":
        kill(sys.argv[2], *map(grpc.insecure_channel, sys.argv[3:]))
    elif sys.argv[1] == "open":
        open_log(grpc.insecure_channel(sys.argv[2]))
    else:
        read_again(grpc.insecure_channel(sys.argv[2]), *sys.argv[3:])
