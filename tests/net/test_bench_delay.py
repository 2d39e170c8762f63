"""The bench's long line: nothing is lost, changed or early on it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.bench.procs import spawn, wait_listening
from tests.support.sockets import Payload, TcpServer, connect, echo, echoes, free_port, read_exactly

RTT_S = 0.05


@pytest.fixture
def line(tmp_path: Path) -> Iterator[int]:
    """The port of a line to an echo server."""
    with ExitStack() as stack:
        server, port = stack.enter_context(TcpServer(echo)), free_port()
        words = [sys.executable, "-m", "tests.bench.delay", str(port), str(server.port), str(RTT_S)]
        wait_listening(port, spawn(stack, words, tmp_path / "log"))
        yield port


def test_every_byte_arrives_and_both_ends_end(line: int) -> None:
    """Both ways at once, more than the line holds, with the end behind the last byte."""
    assert echoes(line, Payload(100_000_000), half_close=True)


def test_no_byte_is_early(line: int) -> None:
    """A byte is back after a round trip at the earliest, the first one and those that follow."""
    with connect(line) as conn:
        for _ in range(3):
            start = time.monotonic()
            conn.sendall(b"x")
            assert read_exactly(conn, 1) == b"x"
            assert time.monotonic() - start >= RTT_S
