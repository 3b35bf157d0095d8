"""A node as a client sees it, by the messages that BuildStream brings: assets, and what is in the CAS."""

import hashlib
import os
from dataclasses import dataclass, field

import grpc
from buildstream._protos.build.bazel.remote.asset.v1 import remote_asset_pb2 as asset
from buildstream._protos.build.bazel.remote.asset.v1 import remote_asset_pb2_grpc as asset_grpc
from buildstream._protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from buildstream._protos.build.bazel.remote.execution.v2 import remote_execution_pb2_grpc as re_grpc
from buildstream._protos.google.rpc import code_pb2, status_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, message_factory, timestamp_pb2

# Longer than any of these takes, on a busy machine too.
PATIENCE_S = 60


def details_message(name, entries, *fields):
    """A message of google.rpc's error details, which BuildStream does not bring: a list of messages of text."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", package="google.rpc", syntax="proto3")
    entry = file.message_type.add(name="Entry")
    for number, field_name in enumerate(fields, 1):
        entry.field.add(name=field_name, number=number, type="TYPE_STRING", label="LABEL_OPTIONAL")
    outer = file.message_type.add(name=name)
    outer.field.add(name=entries, number=1, type="TYPE_MESSAGE", type_name=".google.rpc.Entry", label="LABEL_REPEATED")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"google.rpc.{name}"))


BadRequest = details_message("BadRequest", "field_violations", "field", "description")
PreconditionFailure = details_message("PreconditionFailure", "violations", "type", "subject", "description")


def digest_of(data, function="sha256"):
    return re.Digest(hash=hashlib.new(function, data).hexdigest(), size_bytes=len(data))


def directory_of(leaf):
    """A directory of one file."""
    return re.Directory(files=[re.FileNode(name="leaf", digest=leaf)]).SerializeToString()


def stamp(seconds):
    moment = timestamp_pb2.Timestamp()
    moment.FromNanoseconds(int(seconds * 1e9))
    return moment


@dataclass
class Answer:
    """What became of a call, or of the fetch that it asked for."""

    code: str
    # From where it came, or what did not come.
    uri: str = ""
    digest: re.Digest = None
    expires: timestamp_pb2.Timestamp = None
    message: str = ""
    # Whether the call itself has failed, and what its details say.
    is_call: bool = False
    violations: list = field(default_factory=list)

    @staticmethod
    def of_error(error):
        answer = Answer(error.code().name, message=error.details(), is_call=True)
        for key, value in error.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                for detail in status_pb2.Status.FromString(value).details:
                    answer.violations += Answer.violations_in(detail)
        return answer

    @staticmethod
    def violations_in(detail):
        if detail.type_url == "type.googleapis.com/google.rpc.BadRequest":
            found = BadRequest.FromString(detail.value).field_violations
            return [f"{violation.field}: {violation.description}" for violation in found]
        if detail.type_url == "type.googleapis.com/google.rpc.PreconditionFailure":
            found = PreconditionFailure.FromString(detail.value).violations
            return [f"{violation.type} {violation.subject}" for violation in found]
        return []


class Node:
    def __init__(self, address):
        self.channel = grpc.insecure_channel(address)
        self.fetch = asset_grpc.FetchStub(self.channel)
        self.push = asset_grpc.PushStub(self.channel)
        self.cas = re_grpc.ContentAddressableStorageStub(self.channel)

    def blob(self, *uris, **more):
        """FetchBlob: by qualifiers; oldest (seconds since 1970), timeout and patience (seconds), a digest function."""
        return self.fetched(self.fetch.FetchBlob, asset.FetchBlobRequest, "blob_digest", uris, **more)

    def directory(self, *uris, **more):
        """FetchDirectory."""
        digest = "root_directory_digest"
        return self.fetched(self.fetch.FetchDirectory, asset.FetchDirectoryRequest, digest, uris, **more)

    @staticmethod
    def fetched(call, request, digest, uris, by=(), oldest=None, timeout=None, patience=PATIENCE_S, function="UNKNOWN"):
        request = request(uris=uris, qualifiers=pairs(by), digest_function=function)
        if oldest is not None:
            request.oldest_content_accepted.CopyFrom(stamp(oldest))
        if timeout is not None:
            request.timeout.CopyFrom(duration_pb2.Duration(seconds=timeout))
        try:
            response = call(request, timeout=patience)
        except grpc.RpcError as error:
            return Answer.of_error(error)
        return Answer(
            code=code_pb2.Code.Name(response.status.code),
            uri=response.uri,
            digest=getattr(response, digest),
            expires=response.expires_at,
            message=response.status.message,
        )

    def push_blob(self, digest, *uris, **more):
        """PushBlob: by qualifiers; with expires (seconds since 1970), blobs and directories that are to stay."""
        return self.pushed(self.push.PushBlob, asset.PushBlobRequest(uris=uris, blob_digest=digest), **more)

    def push_directory(self, digest, *uris, **more):
        """PushDirectory."""
        request = asset.PushDirectoryRequest(uris=uris, root_directory_digest=digest)
        return self.pushed(self.push.PushDirectory, request, **more)

    @staticmethod
    def pushed(call, request, by=(), expires=None, blobs=(), directories=()):
        request.qualifiers.extend(pairs(by))
        request.references_blobs.extend(blobs)
        request.references_directories.extend(directories)
        if expires is not None:
            request.expire_at.CopyFrom(stamp(expires))
        try:
            call(request, timeout=PATIENCE_S)
        except grpc.RpcError as error:
            return Answer.of_error(error)
        return Answer("OK")

    def put(self, *blobs):
        """Stores blobs, and gives their digests."""
        requests = [re.BatchUpdateBlobsRequest.Request(digest=digest_of(data), data=data) for data in blobs]
        response = self.cas.BatchUpdateBlobs(re.BatchUpdateBlobsRequest(requests=requests), timeout=PATIENCE_S)
        assert all(each.status.code == 0 for each in response.responses), response
        return [request.digest for request in requests]

    def has(self, digest):
        missing = self.cas.FindMissingBlobs(re.FindMissingBlobsRequest(blob_digests=[digest]), timeout=PATIENCE_S)
        return not missing.missing_blob_digests

    def read(self, digest):
        """A blob, or nothing if it is not there."""
        (response,) = self.cas.BatchReadBlobs(re.BatchReadBlobsRequest(digests=[digest]), timeout=PATIENCE_S).responses
        return response.data if response.status.code == 0 else None

    def tree(self, root):
        """What is below a directory, by path, from one GetTree and the files' own bytes."""
        pages = self.cas.GetTree(re.GetTreeRequest(root_digest=root), timeout=PATIENCE_S)
        directories = [directory for page in pages for directory in page.directories]
        known = {digest_of(found.SerializeToString(deterministic=True)).hash: found for found in directories}
        return dict(self.below(known, root.hash, ""))

    def below(self, known, digest, path):
        for node in known[digest].files:
            kind = "executable" if node.is_executable else "file"
            yield path + node.name, (kind, hashlib.sha256(self.read(node.digest)).hexdigest())
        for node in known[digest].symlinks:
            yield path + node.name, ("link", node.target)
        for node in known[digest].directories:
            yield path + node.name, ("directory", "")
            yield from self.below(known, node.digest.hash, f"{path}{node.name}/")


def pairs(qualifiers):
    listed = qualifiers.items() if isinstance(qualifiers, dict) else qualifiers
    return [asset.Qualifier(name=name, value=value) for name, value in listed]


def tree_of(folder):
    """The same of a folder on this machine."""
    found = {}
    for path, folders, files in os.walk(folder):
        for name in folders + files:
            whole = os.path.join(path, name)
            found[os.path.relpath(whole, folder)] = kind_of(whole)
    return found


def kind_of(path):
    if os.path.islink(path):
        return "link", os.readlink(path)
    if os.path.isdir(path):
        return "directory", ""
    with open(path, "rb") as file:
        return "executable" if os.access(path, os.X_OK) else "file", hashlib.sha256(file.read()).hexdigest()
