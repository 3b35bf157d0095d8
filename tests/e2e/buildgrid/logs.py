#!/usr/bin/env python3
"""Reads logs while they grow: 'logs.py HOST:PORT', by the messages that BuildGrid brings.

It runs a command that prints, waits, and prints again, and follows what it prints; then it appends to a log of its own while two
readers follow that. It prints a line for each thing that it saw; whoever calls it judges them.
"""

import hashlib
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

# Longer than any of these takes, on a busy machine too.
PATIENCE_S = 60


def say(what, value):
    print(f"{what}: {value}", flush=True)


def upload(channel, *blobs):
    def digest(data):
        return re.Digest(hash=hashlib.sha256(data).hexdigest(), size_bytes=len(data))

    requests = [re.BatchUpdateBlobsRequest.Request(digest=digest(data), data=data) for data in blobs]
    cas = re_grpc.ContentAddressableStorageStub(channel)
    for response in cas.BatchUpdateBlobs(re.BatchUpdateBlobsRequest(requests=requests)).responses:
        assert response.status.code == 0, response
    return [request.digest for request in requests]


def follow(channel, name, offset=0):
    """Pieces of a log with the moments at which they came."""
    request = bs.ReadRequest(resource_name=name, read_offset=offset)
    for piece in bs_grpc.ByteStreamStub(channel).Read(request, timeout=PATIENCE_S):
        if piece.data:
            yield time.monotonic(), piece.data


def running_command(channel):
    script = f"echo first {time.time_ns()}; sleep 3; echo second; echo wrong >&2; exit 7"
    command = re.Command(arguments=["/bin/sh", "-c", script]).SerializeToString()
    command_digest, root_digest = upload(channel, command, re.Directory().SerializeToString())
    action = re.Action(command_digest=command_digest, input_root_digest=root_digest, do_not_cache=True)
    (action_digest,) = upload(channel, action.SerializeToString())
    execution = re_grpc.ExecutionStub(channel)
    operations = execution.Execute(re.ExecuteRequest(action_digest=action_digest), timeout=PATIENCE_S)
    names, pieces, reader = [], [], None
    for operation in operations:
        metadata = re.ExecuteOperationMetadata()
        operation.metadata.Unpack(metadata)
        if metadata.stdout_stream_name and reader is None:
            names = [metadata.stdout_stream_name, metadata.stderr_stream_name]
            reader = threading.Thread(target=lambda: pieces.extend(follow(channel, names[0])))
            reader.start()
    ended = time.monotonic()
    say("names", len(names))
    reader.join(PATIENCE_S)
    text = b"".join(data for _, data in pieces).decode().split()
    say("stdout", " ".join(word for word in text if not word.isdigit()))
    say("the first line came before the end", ended - pieces[0][0] > 1)
    say("the last came", text[-1])
    say("stderr, read afterwards", b"".join(data for _, data in follow(channel, names[1])).decode().strip())
    say("from an offset", b"".join(data for _, data in follow(channel, names[0], 6)).decode().split()[-1])


def written_log(channel):
    made = ls_grpc.LogStreamServiceStub(channel).CreateLogStream(ls.CreateLogStreamRequest(parent=""))
    say("read and written by the same name", made.name == made.write_resource_name)
    stream = bs_grpc.ByteStreamStub(channel)
    read = [[], []]
    readers = [
        threading.Thread(target=lambda to=to: to.extend(data for _, data in follow(channel, made.name))) for to in read
    ]
    for reader in readers:
        reader.start()

    def write(offset, data, is_last):
        request = bs.WriteRequest(
            resource_name=made.write_resource_name, write_offset=offset, data=data, finish_write=is_last
        )
        return stream.Write(iter([request]), timeout=PATIENCE_S).committed_size

    say("appended", write(0, b"one ", False))
    try:
        write(9, b"beyond", False)
        say("a gap", "was taken")
    except grpc.RpcError as error:
        say("a gap", error.code().name)
    status = stream.QueryWriteStatus(bs.QueryWriteStatusRequest(resource_name=made.write_resource_name))
    say("to be resumed at", f"{status.committed_size} {status.complete}")
    say("appended in all", write(4, b"two", True))
    for reader in readers:
        reader.join(PATIENCE_S)
    say("readers", " | ".join(b"".join(pieces).decode() for pieces in read))
    try:
        # The same but for the last digit of its number.
        digit = "1" if made.name[-3] == "0" else "0"
        list(follow(channel, f"{made.name[:-3]}{digit}-w"))
        say("a name that nobody gave", "was found")
    except grpc.RpcError as error:
        say("a name that nobody gave", error.code().name)


if __name__ == "__main__":
    with grpc.insecure_channel(sys.argv[1]) as opened:
        running_command(opened)
        written_log(opened)
