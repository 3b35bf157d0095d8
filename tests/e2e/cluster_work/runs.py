#!/usr/bin/env python3
"""How often each action ran: 'runs.py FILE' looks at the processes of this machine until it is ended.

It appends a line 'SECONDS PID MILLISECONDS' to the file for each process '/bin/sleep SECONDS' that it sees for the first time, with the
moment at which it saw it. The actions of the suite sleep a time that no other action sleeps; who sees the same twice has seen
two runs. It promises to see all that sleep for longer than a few tenths of a second.
"""

import os
import sys
import time

PAUSE_S = 0.05
# A process is looked at so often: before it sleeps it was a shell.
LOOKS = 40


def words(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read(256).split(b"\0")
    except OSError:
        return []


def main(path):
    looked = {}
    with open(path, "a", buffering=1) as seen:
        while True:
            pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
            looked = {pid: looked.get(pid, 0) for pid in pids}
            for pid in pids:
                if looked[pid] >= LOOKS:
                    continue
                looked[pid] += 1
                command = words(pid)
                if command[0:1] in ([b"/bin/sleep"], [b"sleep"]) and len(command) > 1:
                    looked[pid] = LOOKS
                    seen.write(f"{command[1].decode()} {pid} {time.time_ns() // 1_000_000}\n")
            time.sleep(PAUSE_S)


if __name__ == "__main__":
    main(sys.argv[1])
