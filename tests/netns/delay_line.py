"""A delay line: two TAP devices, between which frames pass late, and some not at all. Needs no netem.

    python -S delay_line.py TAP_A TAP_B SECONDS LOSS

It makes the devices in its network namespace, prints "ready", and ends at the end of its stdin. ARP and NDP
are late, but never lost.
"""

from __future__ import annotations

import collections
import fcntl
import os
import random
import select
import struct
import sys
import time

_TUNSETIFF, _TAP_WITHOUT_HEADER = 0x400454CA, 0x1002
_IPV4, _IPV6, _TCP = b"\x08\x00", b"\x86\xdd", 6
_MAX_QUEUED = 5000


def _open(name: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP_WITHOUT_HEADER))
    return fd


def _may_be_lost(frame: bytes) -> bool:
    kind = frame[12:14]
    return kind == _IPV4 or (kind == _IPV6 and len(frame) > 20 and frame[20] == _TCP)


def main(name_a: str, name_b: str, delay: str, loss: str) -> None:
    """Run until stdin ends."""
    a, b = _open(name_a), _open(name_b)
    delay_s, loss_share, rng = float(delay), float(loss), random.Random(7)
    queues: dict[int, collections.deque[tuple[float, bytes]]]
    queues = {a: collections.deque(), b: collections.deque()}
    print("ready", flush=True)
    while True:
        now, wake_s = time.monotonic(), None
        for out, queue in queues.items():
            while queue and queue[0][0] <= now:
                try:
                    os.write(out, queue.popleft()[1])
                except OSError:  # full or down: lost
                    continue
            if queue:
                wait_s = queue[0][0] - now
                wake_s = wait_s if wake_s is None else min(wait_s, wake_s)
        readable, _, _ = select.select([a, b, 0], [], [], wake_s)
        if 0 in readable:
            return
        for fd in readable:
            queue, due = queues[b if fd == a else a], time.monotonic() + delay_s
            try:
                for _ in range(64):
                    frame = os.read(fd, 65536)
                    lost = _may_be_lost(frame) and rng.random() < loss_share
                    if not lost and len(queue) < _MAX_QUEUED:
                        queue.append((due, frame))
            except BlockingIOError:
                continue


if __name__ == "__main__":
    main(*sys.argv[1:])
