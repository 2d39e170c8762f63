"""A TCP conduit that is paused: nothing is read, and yet the end of the peer is seen."""

from __future__ import annotations

import asyncio
import socket
import struct

from p2pfwd.net.conduit.tcp import TcpConduit, tune
from p2pfwd.system.loop_io import LoopIo
from tests.support.loops import on_loop, until


class Told:
    """A receiver that takes everything."""

    def __init__(self) -> None:
        self.bytes = b""
        self.lost: list[Exception | None] = []

    def data_received(self, view: memoryview) -> int:
        self.bytes += view
        return len(view)

    def eof_received(self) -> None:
        self.lost.append(None)

    def conduit_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)

    def drained(self) -> None:
        pass


@on_loop
async def test_a_peer_that_resets_while_it_is_not_read_gives_up_its_place() -> None:
    """A flooder is left unread; when it has gone its connection must not be held until it is read again."""
    listener = socket.create_server(("127.0.0.1", 0))
    far = socket.create_connection(listener.getsockname())
    near, _ = listener.accept()
    listener.close()
    tune(near)
    io, told = LoopIo.of(asyncio.get_running_loop(), 0), Told()
    conduit = TcpConduit(near, io)
    conduit.start(told)
    far.sendall(b"read")
    await until(lambda: told.bytes == b"read")
    conduit.pause()
    far.sendall(b"not read")
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    await until(lambda: bool(told.lost))
    assert told.bytes == b"read" and isinstance(told.lost[0], ConnectionResetError)
    assert near.fileno() == -1
    io.close()


@on_loop
async def test_what_cannot_be_sent_yet_is_counted_for_the_node_and_given_back() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    far = socket.create_connection(listener.getsockname())
    near, _ = listener.accept()
    listener.close()
    tune(near)
    io, told = LoopIo.of(asyncio.get_running_loop(), 0), Told()
    conduit = TcpConduit(near, io)
    conduit.start(told)
    while not conduit.congested:
        conduit.send(memoryview(bytes(1 << 20)))
    conduit.send(memoryview(b"more"))  # behind it
    assert 4 < conduit.kept_bytes <= (1 << 20) + 4
    assert io.pool.kept_bytes == conduit.kept_bytes - 4
    conduit.abort()
    assert conduit.kept_bytes == io.pool.kept_bytes == 0
    far.close()
    io.close()
