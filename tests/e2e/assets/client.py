#!/usr/bin/env python3
"""A client of the Remote Asset API, of the kind that none of the others is.

    client.py ask FOLDER ORIGIN HIDDEN ONE TWO CLOSED
        Asks two nodes of a cluster for what the origin has, and pushes. In FOLDER are its files, and 'origin.log', what it was
        asked for. Nobody may fetch from HIDDEN, its neighbour on loopback. CLOSED is a node that takes no pushes and fetches
        from public hosts alone.
    client.py again FOLDER ORIGIN NODE
        Asks for the same when there is no origin any more.

Nodes, ORIGIN and HIDDEN are HOST:PORT. It prints a line for each thing that it saw; whoever calls it judges them.
"""

import base64
import hashlib
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import packed
from node import Node, digest_of, directory_of, tree_of

# It is in headers, URLs and queries, and must be nowhere else.
SECRET = "e2e-secret-word"
MISSING = "PreconditionFailure names it"


class World:
    def __init__(self, folder, origin, hidden, *nodes):
        self.folder, self.origin, self.hidden = folder, f"http://{origin}", f"http://{hidden}"
        self.port = origin.rpartition(":")[2]
        self.nodes = [Node(address) for address in nodes]
        self.one, self.two, self.closed = self.nodes if len(nodes) == 3 else (self.nodes[0], None, None)
        self.own = f"http://{nodes[0]}"

    def url(self, path):
        return f"{self.origin}/{path}"

    def urls(self, *paths):
        return [self.url(path) for path in paths]

    def shown(self, answer):
        """A line of what was answered. Of a failure of the call itself, with what its details say."""
        uri = answer.uri.removeprefix(self.origin)
        return " ".join([answer.code, *([uri] if uri else []), *answer.violations])

    def file(self, name):
        with open(os.path.join(self.folder, name), "rb") as file:
            return file.read()

    def asked(self, path):
        """How often the origin was asked for it."""
        with open(os.path.join(self.folder, "origin.log"), encoding="utf-8") as log:
            return log.read().splitlines().count(f"GET /{path}")


def at_once(work, *several):
    with ThreadPoolExecutor(len(several)) as pool:
        return list(pool.map(work, several))


def sri(function, data):
    return f"{function}-{base64.b64encode(hashlib.new(function, data).digest()).decode()}"


# --- blobs ------------------------------------------------------------------------------------------------------


def mirrors(w):
    there, gone = w.urls("files/mirrored.bin", "files/other.bin"), w.urls("status/404/data.bin", "files/nothing-here")
    uris = [*gone, "urn:nobody:pushed:it", *there]
    first = w.one.blob(*uris)
    yield "of five mirrors the fourth has it", w.shown(first)
    yield "it is what it is", first.digest == digest_of(w.file("mirrored.bin"))
    yield "another node has its bytes", w.two.read(first.digest) == w.file("mirrored.bin")
    yield "and knows from where they came", w.shown(w.two.blob(*uris))
    yield "the origin was asked for it", f"{w.asked('files/mirrored.bin')} times"
    yield "and for the one behind it", f"{w.asked('files/other.bin')} times"
    other = w.one.blob(w.url("files/mirrored.bin"), function="SHA512")
    yield "by another digest function", other.digest == digest_of(w.file("mirrored.bin"), "sha512")
    paths = ["status/404/a", "status/403/b", "loop", "status/410/c"]
    none = w.one.blob(*w.urls(*paths))
    yield "of mirrors that all fail, the most telling", w.shown(none)
    yield "the story of each is told", all(f"{w.url(path)}: " in none.message for path in paths)


def checksums(w):
    data = w.file("data.bin")
    wrong = {function: sri(function, b"else") for function in ("sha256", "sha512")}
    for function in ("sha1", "sha256", "sha384", "sha512"):
        answer = w.one.blob(w.url("files/data.bin"), by={"checksum.sri": sri(function, data)})
        yield f"a checksum by {function}", answer.code
    either = f"{wrong['sha256']} {sri('sha256', data)}"
    yield "one of two is right", w.one.blob(w.url("files/data.bin"), by={"checksum.sri": either}).code
    weaker = f"{wrong['sha512']} {sri('sha256', data)}"
    yield "the weaker one is right", w.one.blob(w.url("files/data.bin"), by={"checksum.sri": weaker}).code
    answer = w.one.blob(w.url("files/wrong.bin"), by={"checksum.sri": wrong["sha256"]})
    yield "a wrong checksum", w.shown(answer)
    yield "nothing of that is kept", [node.has(digest_of(w.file("wrong.bin"))) for node in w.nodes[:2]]
    answer = w.one.blob(w.url("files/data.bin"), by={"checksum.sri": "md5-AAAA"})
    yield "a checksum that is none", f"{answer.code} in the call: {answer.is_call}, {len(answer.violations)} violation"
    yield "of a mirror with other bytes the next is asked", w.shown(
        w.one.blob(*w.urls("files/wrong.bin", "files/data.bin"), by={"checksum.sri": f"{sri('sha384', data)}"})
    )


def headers(w):
    def hashed(text):
        return hashlib.sha256(text.encode()).hexdigest()

    def sees(*paths, by):
        answer = w.one.blob(*w.urls(*paths), by=by)
        return w.one.read(answer.digest).decode() if answer.code == "OK" else w.shown(answer)

    yield "http_header", sees("header/x-word", by={"http_header:X-Word": "a word"})
    by_index = {"http_header:X-Word": "for all", "http_header_url:1:X-Word": "for the second"}
    yield "http_header_url", sees("status/404/x", "header/x-word/1", by=by_index)
    yield "http_header_url of no URI", w.one.blob(w.url("files/data.bin"), by={"http_header_url:1:X": "x"}).code
    secret = {"http_header:Authorization": f"Bearer {SECRET}"}
    by_url = json.dumps({w.url("hashed/authorization"): {"Authorization": f"Bearer {SECRET}"}})
    seen = sees("hashed/authorization", by={"bazel.auth_headers": by_url})
    yield "bazel.auth_headers", seen == hashed(f"Bearer {SECRET}")
    login = w.one.blob(f"http://user:{SECRET}@127.0.0.1:{w.port}/hashed/authorization/2?signature={SECRET}")
    basic = "Basic " + base64.b64encode(f"user:{SECRET}".encode()).decode()
    yield "user and password of a URL", w.one.read(login.digest).decode() == hashed(basic)
    elsewhere = f"to/http://localhost:{w.port}/header/authorization/3"
    yield "after a redirect to another host", sees(elsewhere, by=secret)
    yield "what headers got is not remembered", [sees("count/headers", by=secret) for _ in range(2)]
    failed = w.one.blob(f"http://user:{SECRET}@127.0.0.1:{w.port}/status/403/?signature={SECRET}", by=secret)
    yield "a story tells no secret", f"{failed.code}, {SECRET in failed.message}"
    checked = {"checksum.sri": sri("sha256", w.file("data.bin"))}
    uri = w.url("files/data.bin?checked")
    yield "with a checksum it is remembered", [
        w.one.blob(uri, by={**checked, **secret}).code,
        w.two.blob(uri, by=checked).code,
        w.asked("files/data.bin?checked"),
    ]


def identity(w):
    def count(name, value):
        return w.one.read(w.one.blob(w.url(f"count/{name}"), by={name: value}).digest).decode()

    for name in ("bazel.canonical_id", "resource_type"):
        yield f"{name} tells assets apart", [count(name, value) for value in ("a", "b", "a")]
    answer = w.one.blob(w.url("files/data.bin"), by={"vcs.commit": "1", "my.own": "2", "resource_type": "x"})
    yield "qualifiers that are not supported", w.shown(answer)
    yield "also for a directory", w.shown(w.one.directory(w.url("files/gnu.tar.gz"), by={"my.own": "2"}))
    yield "one that is there twice", w.one.blob(w.url("files/data.bin"), by=[("a", "1"), ("a", "2")]).code
    yield "one without a name", w.one.blob(w.url("files/data.bin"), by={"": "1"}).code
    yield "no URI", f"{w.one.blob().code} {w.one.directory().code}"
    yield "a URI that is none", w.one.blob("no scheme").code


def refusals(w):
    port = w.hidden.rpartition(":")[2]
    hosts = ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "0.0.0.0", "localhost", "[::1]", "[::ffff:127.0.0.1]"]
    answers = at_once(lambda host: w.one.blob(f"http://{host}:{port}/files/data.bin").code, *hosts)
    yield "loopback, by any name", sorted(set(answers))
    answers = at_once(lambda host: w.one.blob(w.url(f"to/http://{host}:{port}/files/data.bin")).code, *hosts)
    yield "loopback, by a redirect", sorted(set(answers))
    repository, branch = f"{w.hidden}/it.git", {"vcs.branch": "main"}
    yield "a repository there", w.one.directory(repository, by=branch).code
    yield "a repository, by a redirect", w.one.directory(w.url(f"to/{repository}"), by=branch).code
    yield "a node itself", w.one.blob(f"{w.own}/cluster").code
    yield "a file", w.shown(w.one.blob("file:///etc/passwd"))
    yield "a file, by a redirect", w.one.blob(w.url("to/file:///etc/passwd")).code
    yield "where nothing is allowed", w.closed.blob(w.url("files/data.bin")).code


def troubles(w):
    names = [*(f"status/{code}" for code in (401, 403, 404, 410, 429, 500, 503)), "short/data.bin"]
    for name, answer in zip(names, at_once(lambda name: w.one.blob(w.url(name)), *names)):
        yield name, f"{answer.code}, asked {w.asked(name)} times"
    page = digest_of(b"<html>This is a page and no asset.</html>")
    yield "a page of an error is no asset", w.one.has(page)
    whole = w.one.blob(w.url("cut/data.bin"))
    yield "what was cut is gone on with", whole.digest == digest_of(w.file("data.bin"))
    yield "by a second request", f"{w.asked('cut/data.bin')} times"
    hung_up = w.one.blob(w.url("slow/x"), patience=0.5)
    yield "whoever hangs up", f"{hung_up.code} in the call: {hung_up.is_call}"
    for name, node in {"one": w.one, "two": w.two}.items():
        began = time.monotonic()
        answer = node.blob(w.url("slow/x"), timeout=1)
        yield f"whoever has less time, on node {name}", f"{answer.code}, in time: {time.monotonic() - began < 5}"
    yield "all that was one request", f"{w.asked('slow/x')} times"


def age(w):
    def count(**more):
        return w.one.read(w.one.blob(w.url("count/age"), **more).digest).decode().split()[1]

    yield "the first time", count()
    between = time.time()
    yield "later", count()
    yield "no older than now", count(oldest=between)
    yield "no older than then", count(oldest=between)
    yield "not even from now on", [count(oldest=time.time() + 3600) for _ in range(2)]
    tagged = [w.one.blob(w.url("tagged/same")).digest.hash for _ in range(2)]
    yield "what is asked about each time is the same", len(set(tagged))
    yield "and was asked about", f"{w.asked('tagged/same')} times"


def together(w):
    digest = digest_of(w.file("wanted.bin"))
    answers = at_once(lambda number: w.nodes[number % 2].blob(w.url("files/wanted.bin")).digest, *range(24))
    yield "two nodes that are asked at once", sum(answer == digest for answer in answers)
    yield "by one request to the origin", w.asked("files/wanted.bin")


# --- directories ------------------------------------------------------------------------------------------------

ARCHIVES = ["python.tar", "python.tar.xz", "gnu.tar.gz", "gnu.tar.zst", "info.zip", "python.zip"]


def archives(w):
    packed_tree = tree_of(f"{w.folder}/tree")
    answers = at_once(lambda name: w.one.directory(w.url(f"files/{name}")), *ARCHIVES)
    for name, answer in zip(ARCHIVES, answers):
        yield name, f"{answer.code}, {w.two.tree(answer.digest) == packed_tree}"
    yield "one tree has one digest", len({answer.digest.hash for answer in answers})
    of_part = {"directory": "release-1.0"}
    part = w.two.directory(w.url("files/release.tar.gz"), by=of_part)
    yield "a directory of an archive", part.digest == answers[0].digest
    checked = {**of_part, "checksum.sri": sri("sha256", w.file("release.tar.gz"))}
    part = w.two.directory(w.url("files/release.tar.gz"), by=checked)
    yield "by the checksum of the archive", part.digest == answers[0].digest
    wrong = {"checksum.sri": sri("sha256", b"else")}
    yield "by a wrong one", w.one.directory(w.url("files/python.tar"), by=wrong).code
    uri = w.url("files/release.tar.gz")
    yield "a directory that is not there", w.one.directory(uri, by={"directory": "none"}).code
    yield "one that goes up", w.one.directory(uri, by={"directory": "release-1.0/.."}).code
    yield "an archive as a blob", w.one.blob(w.url("files/info.zip")).digest == digest_of(w.file("info.zip"))


def evil(w):
    names = sorted(os.listdir(f"{w.folder}/evil"))
    for name, answer in zip(names, at_once(lambda name: w.one.directory(w.url(f"files/evil/{name}")), *names)):
        yield name, answer.code


def repositories(w):
    uri = w.url("it.git")
    files = tree_of(f"{w.folder}/tree")
    # Git keeps no empty directories.
    del files["empty"]
    older = {name: kind for name, kind in files.items() if name in ("run.sh", "words.txt")}
    deep = {name.removeprefix("deep/"): kind for name, kind in files.items() if name.startswith("deep/")}
    commit = packed.run("git", "--git-dir", f"{w.folder}/it.git", "rev-parse", "older")
    asked = {
        "a branch": ({"vcs.branch": "main"}, files),
        "another one": ({"vcs.branch": "older"}, older),
        "a commit": ({"vcs.commit": commit}, older),
        "what it is at": ({"resource_type": "application/x-git"}, files),
        "a directory of it": ({"vcs.branch": "main", "directory": "deep"}, deep),
    }
    for what, (qualifiers, wanted) in asked.items():
        answer = w.one.directory(uri, by=qualifiers)
        yield what, f"{answer.code}, {answer.code == 'OK' and w.two.tree(answer.digest) == wanted}"
    none = {"vcs.branch": "main", "directory": "none"}
    yield "a directory that is not there", w.one.directory(uri, by=none).code
    yield "what is no commit", w.one.directory(uri, by={"vcs.commit": "main"}).code
    yield "a commit that is not there", w.one.directory(uri, by={"vcs.commit": "1" * 40}).code
    yield "a branch that is not there", w.one.directory(uri, by={"vcs.branch": "none"}).code
    yield "what is no repository", w.one.directory(w.url("none.git"), by={"vcs.branch": "main"}).code
    asked_before = w.asked("it.git/info/refs?service=git-upload-pack")
    yield "another node knows the commit", w.two.directory(uri, by={"vcs.commit": commit}).code
    yield "without asking", w.asked("it.git/info/refs?service=git-upload-pack") - asked_before


# --- pushes -----------------------------------------------------------------------------------------------------


def pushes(w):
    first, second, kept, leaf = w.one.put(b"pushed first", b"pushed second", b"kept with it", b"in the tree")
    directory = directory_of(leaf)
    (root,) = w.one.put(directory)
    uris = ["urn:e2e:pushed", w.url("files/pushed-and-not-there"), "https://mirror.invalid/pushed"]
    own = {"my.own": "qualifier", "checksum.sri": sri("sha256", b"pushed first")}
    yield "a blob is pushed", w.one.push_blob(first, *uris, by=own, blobs=[kept], directories=[root]).code
    for uri in uris:
        answer = w.two.blob("urn:e2e:none", uri, by=own)
        yield f"and found by {w.shown(answer).partition(' ')[2]}", answer.digest == first
    yield "nobody asked the origin", w.asked("files/pushed-and-not-there")
    yield "not without its qualifiers", w.two.blob(uris[0]).code
    yield "as no directory", w.two.directory(uris[0], by={"checksum.sri": own["checksum.sri"]}).code
    yield "pushed once more it is replaced", w.two.push_blob(second, uris[0], by=own).code
    yield "on all nodes", [node.blob(uris[0], by=own).digest == second for node in w.nodes[:2]]
    yield "by that URI alone", w.one.blob(uris[1], by=own).digest == first
    yield "a directory is pushed", w.one.push_directory(root, "urn:e2e:tree", by={"directory": "x"}).code
    found = w.two.directory("urn:e2e:tree", by={"directory": "x"})
    yield "and found", w.two.tree(found.digest) == {"leaf": ("file", leaf.hash)}
    yield "as no blob", w.two.blob("urn:e2e:tree").code
    yield from not_there(w, first)
    yield "who may not push", w.closed.push_blob(w.closed.put(b"closed")[0], "urn:e2e:closed").code
    yield "and probes", w.closed.push_blob(None).code


def not_there(w, there):
    nowhere = digest_of(b"nowhere")
    subject = f"MISSING blobs/{nowhere.hash}/{nowhere.size_bytes}"
    pushes = {
        "what is not there": w.one.push_blob(nowhere, "urn:e2e:nowhere"),
        "what is to keep what is not there": w.one.push_blob(there, "urn:e2e:nowhere", blobs=[nowhere]),
        "or a tree that is not": w.one.push_blob(there, "urn:e2e:nowhere", directories=[nowhere]),
        "a tree that is not there": w.one.push_directory(nowhere, "urn:e2e:nowhere"),
        "a tree of what is not there": w.one.push_directory(w.one.put(directory_of(nowhere))[0], "urn:e2e:nowhere"),
    }
    for what, answer in pushes.items():
        yield f"{what} is not pushed", f"{answer.code}, {MISSING}: {subject in answer.violations}"
    yield "and not remembered", w.two.blob("urn:e2e:nowhere").code


def expiry(w):
    (digest,) = w.one.put(b"that expires")
    uri, later, soon = "urn:e2e:expires", int(time.time()) + 1000, time.time() + 1.5
    w.one.push_blob(digest, uri, expires=later)
    yield "it says when it expires", w.two.blob(uri).expires.seconds == later
    w.one.push_blob(digest, uri, expires=soon)
    yield "pushed once more, sooner", w.two.blob(uri).expires.seconds == int(soon)
    while w.two.blob(uri).code == "OK" and time.time() < soon + 20:
        time.sleep(0.05)
    yield "then it is gone", w.two.blob(uri).code
    yield "no sooner", time.time() >= soon
    w.one.push_blob(digest, uri)
    answer = w.two.blob(uri)
    yield "pushed without, it does not expire", f"{answer.code} {answer.expires.seconds}"
    yield "it is no older than its last push", [w.two.blob(uri, oldest=time.time() + age).code for age in (-100, 100)]


# --- when the origin is gone ------------------------------------------------------------------------------------


def remembered(w):
    (node,) = w.nodes
    files = tree_of(f"{w.folder}/tree")
    answer = node.blob(*w.urls("status/404/data.bin", "files/mirrored.bin"))
    yield "a blob", f"{w.shown(answer)}, {node.read(answer.digest) == w.file('mirrored.bin')}"
    for name in ARCHIVES:
        answer = node.directory(w.url(f"files/{name}"))
        yield name, f"{answer.code}, {node.tree(answer.digest) == files}"
    del files["empty"]
    answer = node.directory(w.url("it.git"), by={"vcs.branch": "main"})
    yield "a branch", f"{answer.code}, {node.tree(answer.digest) == files}"
    own = {"my.own": "qualifier", "checksum.sri": sri("sha256", b"pushed first")}
    answer = node.blob("https://mirror.invalid/pushed", by=own)
    yield "what was pushed", node.read(answer.digest)
    yield "with what is kept with it", [node.has(digest_of(data)) for data in (b"kept with it", b"in the tree")]
    answer = node.directory("urn:e2e:tree", by={"directory": "x"})
    yield "a tree that was pushed", sorted(node.tree(answer.digest))
    yield "what was never there", node.blob("urn:e2e:nowhere").code


PARTS = {
    "ask": [
        *(mirrors, checksums, headers, identity, refusals, troubles, age, together),
        *(archives, evil, repositories),
        *(pushes, expiry),
    ],
    "again": [remembered],
}

if __name__ == "__main__":
    command, *places = sys.argv[1:]
    world = World(*places) if command == "ask" else World(places[0], places[1], "", places[2])
    # They disturb each other as little as any clients.
    for part, seen in zip(PARTS[command], at_once(lambda part: list(part(world)), *PARTS[command])):
        for what, value in seen:
            print(f"{part.__name__}: {what}: {value}", flush=True)
