#!/usr/bin/env python3
"""A stranger: throws everything at the gossip and announcement ports of nodes.

  hostile.py [--replay] OVERHEARD SECONDS ADDRESS...

OVERHEARD is a file that the switch captured. What is sent: noise of all lengths; the largest datagrams there are; what was overheard,
as it was, with its sender's address as well as with ours; cut short, made longer, and with bits turned. With --replay,
only what was overheard as it was. Ends with a line of how much was sent.
"""

import random
import socket
import struct
import sys
import time

GOSSIP_PORT, ANNOUNCED_PORT = 7946, 9876
PACKETS_PER_S = 3000


def overheard(path):
    for line in open(path):
        words = line.split()
        # Packets without content are no news.
        if len(words) == 3:
            source, port = words[0].rsplit(":", 1)
            yield source, int(port), int(words[1].rsplit(":", 1)[1]), bytes.fromhex(words[2])


def spoofed(source, source_port, destination, port, payload):
    """A whole IPv4 packet; the kernel fills in its checksum, and UDP's may be left out."""
    udp = struct.pack("!HHHH", source_port, port, 8 + len(payload), 0) + payload
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), random.getrandbits(16), 0, 64, 17, 0) + addresses + udp


def turned(payload):
    """One bit of it."""
    changed = bytearray(payload)
    changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def forged(payload):
    """In the clear part of its front all is as it should be; the rest is made up."""
    front = random.choice((4, 5, 8, 9, 12, 13, 16, 20))
    return payload[:front] + random.randbytes(max(0, len(payload) - front))


def main(path, seconds, *addresses, only_replay=False):
    heard = list(overheard(path))
    plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    kinds = {
        "replayed": lambda packet: packet,
        "turned": turned,
        "cut": lambda packet: packet[: random.randrange(len(packet))],
        "longer": lambda packet: packet + random.randbytes(random.randrange(1, 200)),
        "forged": forged,
        "noise": lambda packet: random.randbytes(random.randrange(1, 1400)),
        "huge": lambda packet: packet + random.randbytes(65000 - len(packet)),
    }
    # The largest ones come in 45 frames each.
    weights = [0 if only_replay and kind != "replayed" else 1 if kind == "huge" else 20 for kind in kinds]
    sent = dict.fromkeys(kinds, 0)
    began, count = time.monotonic(), 0
    while time.monotonic() - began < float(seconds):
        kind = random.choices(list(kinds), weights)[0]
        source, source_port, port, packet = random.choice(heard)
        address, payload = random.choice(addresses), kinds[kind](packet)
        if port not in (GOSSIP_PORT, ANNOUNCED_PORT):
            port = GOSSIP_PORT
        try:
            if random.random() < 0.5 and kind != "huge":
                raw.sendto(spoofed(source, source_port, address, port, payload), (address, 0))
            else:
                plain.sendto(payload, (address, port))
            sent[kind] += 1
        except OSError:
            # The queue of our own interface is full, or it is too large for a packet of its own.
            pass
        count += 1
        time.sleep(max(0, began + count / PACKETS_PER_S - time.monotonic()))
    print("sent", " ".join(f"{kind}: {times}" for kind, times in sent.items()))


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--replay"]
    if len(words) < 3:
        sys.exit(__doc__)
    main(*words, only_replay="--replay" in sys.argv)
