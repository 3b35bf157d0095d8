#!/usr/bin/env python3
"""A switch of Ethernet networks between hosts that are network namespaces: 'switch.py run SOCKET'.

It promises that each frame reaches the hosts of its sender's network that it is for, unless that network's air loses it, and
as late as the air is slow; so it needs neither netem nor a firewall in the kernel. It knows nothing of what is in a frame
but the two addresses in front. A host lives as long as the switch does, and ends with it.

It is told what to do by lines on a socket, which 'switch.py tell SOCKET WORD...' sends, or 'switch.py tell SOCKET' from its
input; each is answered by a line:

  host NAME LAN ADDRESS/BITS...   a new host; the answer is the path of its namespace, for nsenter --net=
  here LAN ADDRESS/BITS...        the host that the switch itself runs on is in this network too
  also NAME LAN ADDRESS/BITS...   one more interface of a host
  move NAME LAN                   the host's first interface is plugged into another network
  readdress NAME ADDRESS/BITS...  the host's first interface has these addresses from now on, and no other
  air LAN LOSS_PERCENT DELAY_MS   of each frame on its way to one host
  capture LAN FILE                from now on each UDP datagram over IPv4 goes to the file, in hexadecimal, as
                                  SOURCE:PORT DESTINATION:PORT BYTES
  count LAN                       the answer is how many frames and bytes were sent in it
"""

import ctypes
import fcntl
import heapq
import os
import random
import selectors
import socket
import struct
import subprocess
import sys
import time

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TAP_NO_PI = 0x0002 | 0x1000
FRAME_BYTES = 65536
COMMANDS = ("host", "here", "also", "move", "readdress", "air", "capture", "count")
# Frames that are under way at once; further ones are lost, as by any switch.
FRAMES_IN_FLIGHT = 50_000

libc = ctypes.CDLL(None, use_errno=True)


def system(call, *arguments):
    if call(*arguments) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Port:
    """One interface of a host: the frames that it sends are read from its file, those written there it receives."""

    def __init__(self, lan, file):
        self.lan = lan
        self.file = file


class Lan:
    """One network."""

    def __init__(self):
        self.loss = 0.0
        self.delay = 0.0
        self.learnt = {}
        self.captured = None
        self.frames = 0
        self.bytes = 0


class Switch:
    def __init__(self):
        self.home = os.open("/proc/self/ns/net", os.O_RDONLY)
        self.selector = selectors.DefaultSelector()
        self.namespaces = {}
        self.first_port = {}
        self.ports = []
        self.lans = {}
        self.in_flight = []
        self.order = 0

    # --- hosts

    def lan(self, name):
        return self.lans.setdefault(name, Lan())

    def host(self, name, lan, *addresses):
        if name in self.namespaces:
            raise ValueError(f"host {name} is there already")
        system(libc.unshare, CLONE_NEWNET)
        try:
            self.namespaces[name] = os.open("/proc/self/ns/net", os.O_RDONLY)
            ip("link set lo up")
            self.first_port[name] = self.plug("eth0", lan, addresses)
        finally:
            system(libc.setns, self.home, CLONE_NEWNET)
        return f"/proc/{os.getpid()}/fd/{self.namespaces[name]}"

    def here(self, lan, *addresses):
        self.plug("eth0", lan, addresses)

    def also(self, name, lan, *addresses):
        def plug():
            count = sum(1 for line in open("/proc/net/dev") if "eth" in line)
            self.plug(f"eth{count}", lan, addresses)

        return self.inside(name, plug)

    def move(self, name, lan):
        port = self.first_port[name]
        port.lan = self.lan(lan)
        # What the tables say of it is old.
        for known in self.lans.values():
            known.learnt = {source: at for source, at in known.learnt.items() if at is not port}

    def readdress(self, name, *addresses):
        self.inside(name, lambda: ip("addr flush dev eth0", *address_lines("eth0", addresses)))

    def inside(self, name, work):
        system(libc.setns, self.namespaces[name], CLONE_NEWNET)
        try:
            return work()
        finally:
            system(libc.setns, self.home, CLONE_NEWNET)

    def plug(self, interface, lan, addresses):
        """Makes an interface in the namespace that this process is in now."""
        file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(file, TUNSETIFF, struct.pack("16sH22x", interface.encode(), IFF_TAP_NO_PI))
        ip(f"link set {interface} up", *address_lines(interface, addresses))
        port = Port(self.lan(lan), file)
        self.ports.append(port)
        self.selector.register(file, selectors.EVENT_READ, lambda: self.receive(port))
        return port

    # --- networks

    def air(self, lan, loss_percent, delay_ms):
        self.lan(lan).loss = float(loss_percent) / 100
        self.lan(lan).delay = float(delay_ms) / 1000

    def capture(self, lan, path):
        self.lan(lan).captured = open(path, "a", buffering=1)

    def count(self, lan):
        return f"{self.lan(lan).frames} {self.lan(lan).bytes}"

    # --- frames

    def receive(self, port):
        for _ in range(64):
            try:
                frame = os.read(port.file, FRAME_BYTES)
            except BlockingIOError:
                return
            self.forward(port, frame)

    def forward(self, port, frame):
        lan, destination, source = port.lan, frame[:6], frame[6:12]
        lan.frames += 1
        lan.bytes += len(frame)
        lan.learnt[source] = port
        if lan.captured:
            note_datagram(lan.captured, frame)
        # The lowest bit of the first byte marks what is for many.
        known = None if destination[0] & 1 else lan.learnt.get(destination)
        for to in [known] if known else [other for other in self.ports if other.lan is lan]:
            if to is port or (lan.loss and random.random() < lan.loss):
                continue
            if lan.delay:
                if len(self.in_flight) < FRAMES_IN_FLIGHT:
                    self.order += 1
                    heapq.heappush(self.in_flight, (time.monotonic() + lan.delay, self.order, to, lan, frame))
            else:
                deliver(to, frame)

    def land(self):
        """Delivers what has been under way long enough; returns the seconds until the next of it is due."""
        while self.in_flight:
            wait = self.in_flight[0][0] - time.monotonic()
            if wait > 0:
                return wait
            _, _, to, lan, frame = heapq.heappop(self.in_flight)
            # It was pulled out meanwhile.
            if to.lan is lan:
                deliver(to, frame)
        return None

    # --- what it is told

    def accept(self, listener):
        connection, _ = listener.accept()
        with connection, connection.makefile("rw") as lines:
            for line in lines:
                lines.write(f"{self.obey(line.split())}\n")
                lines.flush()

    def obey(self, words):
        try:
            if words[0] not in COMMANDS:
                raise ValueError(f"unknown command, want one of {COMMANDS}")
            return f"ok {getattr(self, words[0])(*words[1:]) or ''}"
        except Exception as error:
            return f"error {' '.join(words)}: {error}"

    def run(self, path):
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        listener.listen(64)
        self.selector.register(listener, selectors.EVENT_READ, lambda: self.accept(listener))
        while True:
            for key, _ in self.selector.select(self.land()):
                key.data()


def deliver(port, frame):
    try:
        os.write(port.file, frame)
    except OSError:
        # Its host does not take frames as fast, or its interface is down.
        pass


def ip(*lines):
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines).encode(), check=True, stdout=subprocess.DEVNULL)


def address_lines(interface, addresses):
    """With routes to everywhere, as a machine has them; nobody is there."""
    lines = []
    for address in addresses:
        everywhere, more = ("::/0", "nodad") if ":" in address else ("0.0.0.0/0", "brd +")
        lines += [f"addr add {address} dev {interface} {more}"]
        if interface == "eth0":
            lines += [f"route replace {everywhere} dev {interface}"]
    return lines


def note_datagram(file, frame):
    if frame[12:14] != b"\x08\x00" or frame[23] != 17:
        return
    begin = 14 + 4 * (frame[14] & 15)
    source, destination = socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34])
    from_port, to_port, length = struct.unpack("!HHH", frame[begin : begin + 6])
    file.write(f"{source}:{from_port} {destination}:{to_port} {frame[begin + 8 : begin + length].hex()}\n")


def tell(path, lines):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(path)
        with connection.makefile("rw") as answers:
            for line in lines:
                answers.write(line.rstrip("\n") + "\n")
                answers.flush()
                word, _, rest = answers.readline().rstrip("\n").partition(" ")
                if word != "ok":
                    sys.exit(f"switch: {rest}")
                if rest:
                    print(rest)


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"] and len(sys.argv) == 3:
        Switch().run(sys.argv[2])
    elif sys.argv[1:2] == ["tell"] and len(sys.argv) == 3:
        tell(sys.argv[2], sys.stdin)
    elif sys.argv[1:2] == ["tell"] and len(sys.argv) > 3:
        tell(sys.argv[2], [" ".join(sys.argv[3:])])
    else:
        sys.exit(__doc__)
