"""The honest users: one bulk stream and one echo, as a process each, and newcomers.

`python -m tests.hostile.honest bulk PORT` or `echo PORT` goes on until its stdin ends; for each line on stdin
it prints one JSON object with what happened since the line before. A stream that breaks is opened anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.wire import identify
from p2pfwd.wire.yamux import frame as f
from tests.support.raw_peer import RawPeer

ECHO_BYTES: Final = 32
TICK_S: Final = 0.005
"""Echoes are due this often. One that takes longer stands for all that were due meanwhile: a stall of a
second is 200 bad echoes, not one."""

PATIENCE_S: Final = 10.0
"""For a newcomer, and for one connection of the honest programs."""


class Bulk:
    """Reads one stream as fast as it comes."""

    def __init__(self) -> None:
        self._bytes = self._breaks = 0
        self._since = time.monotonic()

    def run(self, port: int) -> None:
        """Until the process ends."""
        buffer = bytearray(1 << 18)
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as sock:
                    sock.settimeout(None)
                    while n := sock.recv_into(buffer):
                        self._bytes += n
            except OSError:
                time.sleep(0.05)
            self._breaks += 1

    def report(self) -> dict[str, Any]:
        """Since the last report: MB/s, and how often the stream broke."""
        now = time.monotonic()
        elapsed_s, self._since = now - self._since, now
        said = {"mb_s": self._bytes / 1e6 / elapsed_s, "breaks": self._breaks}
        self._bytes = self._breaks = 0
        return said


class Echo:
    """32 bytes there and back, again and again."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._breaks = 0
        self._sent_at: float | None = None

    def run(self, port: int) -> None:
        """Until the process ends."""
        while True:
            try:
                self._sent_at = time.monotonic()
                with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as sock:
                    sock.settimeout(None)
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    while self._one(sock):
                        time.sleep(TICK_S)
            except OSError:
                time.sleep(0.05)
            self._breaks += 1

    def _one(self, sock: socket.socket) -> bool:
        self._sent_at = time.monotonic()
        sock.sendall(bytes(ECHO_BYTES))
        left = ECHO_BYTES
        while left:
            data = sock.recv(left)
            if not data:
                return False
            left -= len(data)
        self._times.append(time.monotonic() - self._sent_at)
        self._sent_at = None
        return True

    def report(self) -> dict[str, Any]:
        """Since the last report, in ms; an echo that is under way counts with the time it has taken."""
        times, self._times = self._times, []
        if self._sent_at is not None:
            times.append(time.monotonic() - self._sent_at)
        due = sorted(
            elapsed - missed * TICK_S for elapsed in times for missed in range(int(elapsed / TICK_S) + 1)
        )
        breaks, self._breaks = self._breaks, 0
        ms = [1000 * value for value in due] or [0.0]
        return {
            "p50_ms": ms[len(ms) // 2],
            "p99_ms": ms[min(len(ms) - 1, len(ms) * 99 // 100)],
            "max_ms": ms[-1],
            "breaks": breaks,
        }


async def newcome(addr: Multiaddr, source: str, protocol: str) -> None:
    """Connect as a fresh identity, ask identify, use a tunnel to an echo."""
    peer = await RawPeer.dial(addr, source=source)
    async with peer:
        await peer.open(1, identify.ID)
        answered = await peer.until(f.DATA, 0, 1)
        assert answered.body, "an empty identify"
        await peer.open(3, protocol)
        await peer.frame(f.DATA, 0, 3, body=bytes(ECHO_BYTES))
        await peer.payload(3, ECHO_BYTES)


def newcomer_s(addr: Multiaddr, source: str, protocol: str) -> float | None:
    """Seconds until a fresh identity at `source` has connected, identified the victim and used a tunnel.

    None where it was turned away or had to wait longer than PATIENCE_S.
    """
    started = time.monotonic()

    async def within() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await newcome(addr, source, protocol)

    try:
        asyncio.run(within())
    except (TimeoutError, OSError, EOFError, AssertionError):
        return None
    return time.monotonic() - started


def main() -> None:
    """Run one of the programs."""
    kind, port = sys.argv[1], int(sys.argv[2])
    program: Bulk | Echo = Bulk() if kind == "bulk" else Echo()
    run: Callable[[int], None] = program.run
    threading.Thread(target=run, args=(port,), daemon=True).start()
    with contextlib.suppress(BrokenPipeError):
        for _ in sys.stdin:
            print(json.dumps(program.report()), flush=True)


if __name__ == "__main__":
    main()
