"""The bench's client and server where no C compiler is at hand: the commands and JSON of tb.c, in Python.

Slower than tb.c, so bulk figures through it are a lower bound; the bench says which client it used.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Sequence

BUF = 1 << 20
MIB = 1 << 20
WARM_UP = 50
SETTLE_S = 0.7
KEYSTROKE_S = 0.003
BURST_TIMEOUT_S = 20.0
ENDLESS = (1 << 64) - 1


def dial(port: int) -> socket.socket:
    """A connection to `port` on loopback, without Nagle."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def times(seconds: Sequence[float]) -> dict[str, float]:
    """Count and quantiles, in microseconds."""
    us = sorted(value * 1e6 for value in seconds)
    n = len(us)
    if not n:
        return {"n": 0}
    return {"n": n, "p50": us[n // 2], "p90": us[n * 90 // 100], "p99": us[n * 99 // 100], "max": us[-1]}


# --- server ---------------------------------------------------------------------------------------


def read_exactly(sock: socket.socket, count: int) -> bytes:
    """`count` bytes; ConnectionError where the peer ends first."""
    data = bytearray()
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            raise ConnectionError("ended early")
        data += more
    return bytes(data)


def swallow_counting(sock: socket.socket, buf: memoryview) -> None:
    unsaid = 0
    while count := sock.recv_into(buf):
        unsaid += count
        if unsaid >= MIB:
            sock.sendall(b"m" * (unsaid // MIB))
            unsaid %= MIB


def serve_one(sock: socket.socket) -> None:
    """Do what the first byte says; see tb.c."""
    buf = memoryview(bytearray(BUF))
    with sock:
        try:
            mode = read_exactly(sock, 1)
            if mode == b"E":
                while data := sock.recv(4096):
                    sock.sendall(data)
                return
            if mode == b"S":
                swallow_counting(sock, buf)
                return
            left = struct.unpack("=Q", read_exactly(sock, 8))[0]
            while left:
                size = min(left, BUF)
                left -= sock.recv_into(buf, size) if mode == b"U" else sock.send(buf[:size])
            if mode == b"U":
                sock.sendall(b"k")
            sock.recv(1)
        except ConnectionError:
            return


def serve(port: int) -> None:
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    while True:
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve_one, args=(sock,), daemon=True).start()


# --- clients --------------------------------------------------------------------------------------


def bulk(port: int, up: bool, mib: int) -> dict[str, object]:
    left = mib * MIB
    buf = memoryview(bytearray(BUF))
    sock = dial(port)
    start = time.perf_counter()
    sock.sendall((b"U" if up else b"D") + struct.pack("=Q", left))
    while left:
        size = min(left, BUF)
        moved = sock.send(buf[:size]) if up else sock.recv_into(buf, size)
        if not moved:
            raise ConnectionError("transfer ended early")
        left -= moved
    if up:
        read_exactly(sock, 1)
    took = time.perf_counter() - start
    return {"MBps": mib * 1.048576 / took, "MiB": mib, "s": took}


def echo_once(sock: socket.socket, data: bytes = b"x") -> float:
    """Seconds until the byte sent last came back."""
    start = time.perf_counter()
    sock.sendall(data)
    read_exactly(sock, 1)
    return time.perf_counter() - start


def round_trips(port: int, rounds: int) -> dict[str, object]:
    sock = dial(port)
    sock.sendall(b"E")
    return {"us": times([echo_once(sock) for _ in range(WARM_UP + rounds)][WARM_UP:])}


def first_bytes(port: int, count: int) -> dict[str, object]:
    took = []
    for _ in range(count):
        start = time.perf_counter()
        with dial(port) as sock:
            echo_once(sock, b"Ex")
            took.append(time.perf_counter() - start)
    return {"us": times(took)}


def burst(port: int, count: int) -> dict[str, object]:
    took: list[float] = []
    start = time.perf_counter()

    def one() -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=BURST_TIMEOUT_S) as sock:
            echo_once(sock, b"Ex")
            took.append(time.perf_counter() - start)
            all_done.wait(BURST_TIMEOUT_S)

    all_done = threading.Event()
    threads = [threading.Thread(target=one, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    while len(took) < count and any(t.is_alive() for t in threads):
        if time.perf_counter() - start > BURST_TIMEOUT_S:
            break
        time.sleep(0.001)
    all_done.set()
    return {"failed": count - len(took), "us": times(took)}


class Lane(threading.Thread):
    """One of many bulk connections; `bytes` grows until `stop` is set."""

    stop = False

    def __init__(self, port: int, up: bool) -> None:
        super().__init__(daemon=True)
        self.port, self.up, self.bytes, self.lost = port, up, 0, False

    def run(self) -> None:
        buf = memoryview(bytearray(BUF // 4))
        sock = dial(self.port)
        sock.sendall(b"S" if self.up else b"D" + struct.pack("=Q", ENDLESS))
        try:
            while not Lane.stop:
                moved = sock.send(buf) if self.up else sock.recv_into(buf)
                if not moved:
                    raise ConnectionError("ended early")
                self.bytes += self.acknowledged(sock) if self.up else moved
        except ConnectionError:
            self.lost = True

    @staticmethod
    def acknowledged(sock: socket.socket) -> int:
        """Bytes the server has said to have swallowed since the last call."""
        try:
            return len(sock.recv(4096, socket.MSG_DONTWAIT)) * MIB
        except BlockingIOError:
            return 0


def many(port: int, up: bool, streams: int, seconds: float) -> dict[str, object]:
    echo = dial(port)
    echo.sendall(b"E")
    lanes = [Lane(port, up) for _ in range(streams)]
    for lane in lanes:
        lane.start()
    time.sleep(SETTLE_S)
    before = [lane.bytes for lane in lanes]
    took = []
    start = time.perf_counter()
    while time.perf_counter() < start + seconds:
        took.append(echo_once(echo))
        time.sleep(KEYSTROKE_S)
    s = time.perf_counter() - start
    rates = [(lane.bytes - old) / s / 1e6 for lane, old in zip(lanes, before, strict=True)]
    lost = sum(lane.lost for lane in lanes)
    Lane.stop = True
    return {"streams": rates, "MBps": sum(rates), "lost": lost, "s": s, "us": times(took)}


def hold(port: int, count: int) -> None:
    kept = [dial(port) for _ in range(count)]
    for sock in kept:
        echo_once(sock, b"Ex")
    print(json.dumps({"held": len(kept)}), flush=True)
    sys.stdin.read()


def main(argv: Sequence[str]) -> None:
    command, port = argv[0], int(argv[1])
    if command == "serve":
        serve(port)
    elif command == "hold":
        hold(port, int(argv[2]))
    elif command == "many":
        print(json.dumps(many(port, argv[2] == "up", int(argv[3]), float(argv[4]))))
    elif command in ("up", "down"):
        print(json.dumps(bulk(port, command == "up", int(argv[2]))))
    else:
        run = {"rtt": round_trips, "ttfb": first_bytes, "burst": burst}[command]
        print(json.dumps(run(port, int(argv[2]))))


if __name__ == "__main__":
    main(sys.argv[1:])
