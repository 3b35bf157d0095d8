#!/usr/bin/env python3
"""An origin on loopback: a server of files and repositories that does what its paths say, however bad.

  origin.py PORT FOLDER   serves what is in FOLDER
  origin.py PORT          is dead: hangs up on whoever connects

It prints 'listens', then a line for each thing that it was asked for: 'GET /PATH', or 'connection' where it is dead.

  /files/NAME     a file
  /NAME.git/...   a repository, by git's own program for that
  /status/CODE    an answer of that code, with a page
  /to/URL         a redirect to that URL
  /loop           a redirect to itself
  /header/NAME    what that header of the request says
  /hashed/NAME    the SHA-256 of that, in hex
  /count/NAME     how often it was asked for
  /tagged/NAME    the name, with an ETag that is to be asked about each time
  /cut/NAME       a file that can be gone on with, of which one answer gives half
  /short/NAME     half of a file, always, of which the whole was announced
  /slow/NAME      a byte each tenth of a second, without end
"""

import hashlib
import http.server
import itertools
import os
import socketserver
import subprocess
import sys
import threading
import time
import urllib.parse

# Longer than anything waits for it.
SLOW_BYTES = 1 << 30


def say(line):
    # At once, and whole.
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class Origin(http.server.BaseHTTPRequestHandler):
    folder = ""
    counts = {}
    lock = threading.Lock()

    def do_GET(self):
        say(f"GET {self.path}")
        url = urllib.parse.urlsplit(self.path)
        kind, _, name = url.path.lstrip("/").partition("/")
        if kind.endswith(".git"):
            self.repository(url)
        elif hasattr(self, f"serve_{kind}"):
            getattr(self, f"serve_{kind}")(name)
        else:
            self.serve_status("404")

    def do_POST(self):
        say(f"POST {self.path}")
        self.repository(urllib.parse.urlsplit(self.path))

    def serve_files(self, name):
        content = self.content(name)
        if content is None:
            self.serve_status("404")
        else:
            self.answer(200, content)

    def serve_status(self, code):
        self.answer(int(code.partition("/")[0]), b"<html>This is a page and no asset.</html>")

    def serve_to(self, url):
        self.answer(302, b"there", Location=url)

    def serve_loop(self, _):
        self.answer(302, b"here", Location="/loop")

    def serve_header(self, name):
        self.answer(200, self.headers.get(name.partition("/")[0], "none").encode())

    def serve_hashed(self, name):
        self.answer(200, hashlib.sha256(self.headers.get(name.partition("/")[0], "none").encode()).hexdigest().encode())

    def serve_count(self, name):
        self.answer(200, f"{name} {self.count(self.path)}".encode())

    def serve_tagged(self, name):
        tag = f'"{name}"'
        code = 304 if self.headers.get("if-none-match") == tag else 200
        self.answer(code, b"" if code == 304 else name.encode(), ETag=tag, Cache_Control="no-cache")

    def serve_cut(self, name):
        content = self.content(name)
        start = int(self.headers.get("range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        end = len(content) // 2 if self.count(self.path) == 1 else len(content)
        more = {"Content_Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        self.answer(206 if start else 200, content[start:end], len(content) - start, ETag=f'"{name}"', **more)

    def serve_short(self, name):
        content = self.content(name)
        self.answer(200, content[: len(content) // 2], len(content))

    def serve_slow(self, _):
        self.answer(200, b"", SLOW_BYTES)
        for _ in range(SLOW_BYTES):
            self.wfile.write(b"x")
            time.sleep(0.1)

    def repository(self, url):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": self.folder,
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "REQUEST_METHOD": self.command,
            "REMOTE_ADDR": "127.0.0.1",
            "PATH_INFO": url.path,
            "QUERY_STRING": url.query,
            "CONTENT_TYPE": self.headers.get("content-type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("content-encoding", ""),
            "GIT_PROTOCOL": self.headers.get("git-protocol", ""),
        }
        backend = subprocess.Popen(
            ["git", "http-backend"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
        head, _, content = backend.communicate(body)[0].partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
        headers.pop("Content-Length", None)
        self.answer(int(headers.pop("Status", "200").split()[0]), content, **headers)

    def content(self, name):
        try:
            with open(os.path.join(self.folder, urllib.parse.unquote(name)), "rb") as file:
                return file.read()
        except OSError:
            return None

    def count(self, path):
        with self.lock:
            counter = self.counts.setdefault(path, itertools.count(1))
        return next(counter)

    def answer(self, code, content, length=None, **headers):
        self.close_connection = True
        self.send_response(code)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


class Dead(socketserver.BaseRequestHandler):
    def handle(self):
        say("connection")


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, *_):
        """Whoever has hung up does not read it."""


if __name__ == "__main__":
    Origin.folder = sys.argv[2] if len(sys.argv) > 2 else ""
    with Server(("127.0.0.1", int(sys.argv[1])), Origin if Origin.folder else Dead) as server:
        say("listens")
        server.serve_forever()
