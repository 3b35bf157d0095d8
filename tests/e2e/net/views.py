#!/usr/bin/env python3
"""What nodes say of their cluster: asks the pages of nodes on many hosts, again and again, without a process for each.

  views.py agree SECONDS NODE... -- MEMBER...   until each of these nodes sees exactly these members; prints how long it took
  views.py hold SECONDS NODE... -- MEMBER...    for so long, each of them sees all of these members each time that it is asked
  views.py page NODE                            prints the page

A NODE is NAMESPACE,URL with the path of the network namespace to ask from, or nothing for the one that this runs in.
BBB_HEADER=name=value goes with each question. Ends with 1 when it is not so, and says what was seen instead.
"""

import ctypes
import json
import os
import sys
import time
import urllib.error
import urllib.request

CLONE_NEWNET = 0x40000000
PAUSE_S = 0.05
# A node that does not answer within this does not agree.
ANSWER_S = 2

libc = ctypes.CDLL(None, use_errno=True)
home = os.open("/proc/self/ns/net", os.O_RDONLY)
# Never by a proxy.
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def enter(namespace):
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        sys.exit(f"views: cannot enter a network namespace: {os.strerror(ctypes.get_errno())}")


class Node:
    def __init__(self, word):
        path, _, self.url = word.rpartition(",")
        self.namespace = os.open(path, os.O_RDONLY) if path else None

    def page(self):
        request = urllib.request.Request(self.url)
        name, _, value = os.environ.get("BBB_HEADER", "").partition("=")
        if name:
            request.add_header(name, value)
        if self.namespace is None:
            return self.ask(request)
        # A socket belongs to the namespace in which it was made.
        enter(self.namespace)
        try:
            return self.ask(request)
        finally:
            enter(home)

    @staticmethod
    def ask(request):
        with opener.open(request, timeout=ANSWER_S) as answer:
            return json.load(answer)

    def members(self):
        """The names of those that it sees and that are not about to leave, or why it does not say."""
        try:
            return sorted(member["name"] for member in self.page()["members"] if not member["leaving"])
        except (OSError, ValueError, KeyError) as error:
            return [f"({error})"]


def agree(seconds, nodes, wanted):
    began = time.monotonic()
    while True:
        # The first one that does not agree is asked again first.
        odd = next((node for node in nodes if node.members() != wanted), None)
        took = time.monotonic() - began
        if odd is None:
            print(f"    {len(nodes)} nodes see {len(wanted)} members after {took:.1f} s")
            return took <= seconds
        if took > seconds:
            print(f"    after {took:.1f} s, wanted: {' '.join(wanted)}")
            for node in nodes:
                print(f"    {node.url}: {' '.join(node.members())}")
            return False
        time.sleep(PAUSE_S)


def hold(seconds, nodes, wanted):
    began = time.monotonic()
    rounds = 0
    while time.monotonic() - began < seconds:
        for node in nodes:
            seen = node.members()
            if not set(wanted) <= set(seen):
                print(f"    after {time.monotonic() - began:.1f} s {node.url} sees {' '.join(seen)}; wanted: {' '.join(wanted)}")
                return False
        rounds += 1
        time.sleep(PAUSE_S)
    print(f"    {len(nodes)} nodes were asked {rounds} times in {seconds:.0f} s")
    return rounds > 0


def main(command, *words):
    if command == "page":
        print(json.dumps(Node(words[0]).page(), indent=1))
        return True
    if command not in ("agree", "hold") or "--" not in words:
        sys.exit(__doc__)
    nodes = [Node(word) for word in words[1 : words.index("--")]]
    wanted = sorted(words[words.index("--") + 1 :])
    return {"agree": agree, "hold": hold}[command](float(words[0]), nodes, wanted)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(0 if main(*sys.argv[1:]) else 1)
