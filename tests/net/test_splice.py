"""Pins a splice between a TCP socket and a stream: both halves, every reset, back-pressure, nothing lost.

`App` is the local application at one end of a loopback TCP connection; the splice has the other end, and
`peer` is the far end of the splice's stream.
"""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from p2pfwd.errors import ConnectionLost, ProtocolNotSupported, StreamReset, TimedOut
from p2pfwd.forwarding.pacing import PacedStream, Pacing
from p2pfwd.forwarding.splice import CHUNK_BYTES, Splice, State, close_with_reset
from p2pfwd.net.channel import NoiseChannel
from p2pfwd.net.link import outbox
from p2pfwd.net.link.contract import DuplexStream, SplicedStream
from p2pfwd.net.link.stream import Stream
from p2pfwd.system.buffers import BufferPool
from p2pfwd.wire.noise import NOISE
from p2pfwd.wire.noise.cipher import MAX_PLAINTEXT
from p2pfwd.wire.yamux.frame import INITIAL_WINDOW_BYTES
from tests.net.swarm_rig import TAKE, Taken, conn_of, pair, poller_of, read_all, stream_pair, swarm
from tests.support.loops import on_both_loops, turns, until

BULK = random.Random(3).randbytes(5 << 20)


class App:
    """The local application, by hand."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.sock, data)

    def finish(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    async def read(self) -> bytes:
        return await self._loop.sock_recv(self.sock, 65536)

    async def read_all(self) -> bytes:
        got = bytearray()
        while data := await self.read():
            got += data
        return bytes(got)

    async def sees_rst(self) -> None:
        with pytest.raises(ConnectionResetError):
            await self.read_all()

    def reset(self, code: int = 0) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class Closed:
    """Counts `on_closed`, and waits for it."""

    def __init__(self) -> None:
        self.splices: list[Splice] = []
        self._event = asyncio.Event()

    def __call__(self, splice: Splice) -> None:
        self.splices.append(splice)
        self._event.set()

    async def once(self) -> Splice:
        """The splice, when it has been closed; and it is so once."""
        await self._event.wait()
        await turns()
        (splice,) = self.splices
        assert splice.closed
        return splice


def tcp_pair(buffer_bytes: int | None = None) -> tuple[socket.socket, socket.socket]:
    """Two connected loopback sockets, non-blocking."""
    with socket.socket() as listener:
        if buffer_bytes is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    near.setblocking(False)
    far.setblocking(False)
    if buffer_bytes is not None:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
    return far, near


def spliced(
    stream: DuplexStream, *, buffer_bytes: int | None = None, pacing: Pacing | None = None
) -> tuple[App, Splice, Closed]:
    """An application spliced to `stream`, at the pace of a listen if there is one."""
    ours, theirs = tcp_pair(buffer_bytes)
    closed = Closed()
    carried: SplicedStream = stream if pacing is None else pacing.carry(stream)
    splice = Splice(carried, theirs, poller_of(stream), closed)
    splice.start()
    return App(ours), splice, closed


@asynccontextmanager
async def tunnel(*, buffer_bytes: int | None = None) -> AsyncIterator[tuple[App, Splice, Closed, Stream]]:
    """Application, splice, its end, and the peer's end of the stream."""
    async with stream_pair() as (peer, stream):
        app, splice, closed = spliced(stream, buffer_bytes=buffer_bytes)
        try:
            yield app, splice, closed, peer
        finally:
            app.sock.close()
            if not splice.closed:
                splice.reset()


def held(splice: Splice) -> int:
    """Bytes the splice keeps because the application has not taken them."""
    return sum(map(len, splice._pending or ())) - splice._pending_offset


@on_both_loops
async def test_the_applications_half_closes_first_and_the_answer_still_comes() -> None:
    async with tunnel() as (app, _, closed, peer):
        await app.send(b"question")
        app.finish()
        assert await read_all(peer) == b"question"
        await peer.write(b"answer")
        peer.close_write()
        assert await app.read_all() == b"answer"
        splice = await closed.once()
        assert splice.error is None
        assert (splice.bytes_in, splice.bytes_out) == (6, 8)
        assert conn_of(peer).streams == {}


@on_both_loops
async def test_the_peers_half_closes_first_and_the_application_still_sends() -> None:
    async with tunnel() as (app, splice, closed, peer):
        await peer.write(b"banner")
        peer.close_write()
        assert await app.read_all() == b"banner"
        await turns()
        assert not splice.closed
        await app.send(b"late")
        app.finish()
        assert await read_all(peer) == b"late"
        assert (await closed.once()).error is None


@on_both_loops
async def test_an_application_that_writes_and_closes_at_once_loses_nothing() -> None:
    async with tunnel() as (app, _, closed, peer):
        sending = asyncio.get_running_loop().create_task(app.send(BULK))
        sending.add_done_callback(lambda _: app.sock.close())
        assert await read_all(peer) == BULK
        peer.close_write()
        assert (await closed.once()).error is None


@on_both_loops
async def test_a_peer_that_writes_and_closes_at_once_loses_nothing_at_a_slow_application() -> None:
    async with tunnel(buffer_bytes=8192) as (app, splice, closed, peer):
        app.finish()
        sending = asyncio.get_running_loop().create_task(peer.write(BULK))
        sending.add_done_callback(lambda _: peer.close_write())
        got, granted = bytearray(), 0
        while data := await app.read():
            got += data
            granted = max(granted, splice.stream.core.receive_window.size)  # it shrinks with the last FIN
            assert held(splice) <= granted
        assert bytes(got) == BULK
        assert (await closed.once()).error is None


@pytest.mark.parametrize("first", ["application", "peer"])
@on_both_loops
async def test_once_both_fins_have_passed_the_rest_needs_no_connection(first: str) -> None:
    async with tunnel(buffer_bytes=8192) as (app, splice, closed, peer):
        if first == "application":
            app.finish()
        await peer.write(BULK[:200_000])
        peer.close_write()
        if first == "peer":
            await until(lambda: splice._to_socket in (State.LAST, State.ENDED))
            app.finish()
        await until(lambda: splice._to_socket is State.LAST and splice._from_socket is State.ENDED)
        assert held(splice) > 0 and not splice.closed
        conn_of(peer).abort(TimedOut("for the test"))
        assert await app.read_all() == BULK[:200_000]
        assert (await closed.once()).error is None


@pytest.mark.parametrize("what", ["reset", "connection lost"])
@on_both_loops
async def test_a_stream_that_fails_is_a_rst_to_the_application(what: str) -> None:
    async with tunnel() as (app, _, closed, peer):
        await peer.write(b"half an ans")
        assert await app.read() == b"half an ans"
        if what == "reset":
            peer.reset()
        else:
            conn_of(peer).abort()
        await app.sees_rst()
        error = (await closed.once()).error
        assert isinstance(error, StreamReset if what == "reset" else ConnectionLost)


@pytest.mark.parametrize("after_fin", [False, True])
@on_both_loops
async def test_a_failure_after_a_half_close_is_still_a_rst(after_fin: bool) -> None:
    async with tunnel() as (app, splice, closed, peer):
        if after_fin:
            app.finish()
            assert await read_all(peer) == b""
        else:
            peer.close_write()
            await until(lambda: splice._to_socket in (State.LAST, State.ENDED))
        peer.reset()
        if after_fin:
            await app.sees_rst()
        assert isinstance((await closed.once()).error, StreamReset)


@on_both_loops
async def test_an_applications_reset_is_the_peers_reset() -> None:
    async with tunnel() as (app, _, closed, peer):
        await peer.write(b"unread")
        await turns()
        app.reset()
        with pytest.raises(StreamReset):
            while True:
                await peer.read()
        assert isinstance((await closed.once()).error, ConnectionResetError)


@on_both_loops
async def test_an_applications_reset_after_its_half_close_is_the_peers_reset() -> None:
    # Nothing is to be read any more, and nothing to be sent: the failure alone must be heard of.
    async with tunnel() as (app, _, closed, peer):
        await app.send(b"question")
        app.finish()
        assert await read_all(peer) == b"question"
        app.reset()
        assert isinstance((await closed.once()).error, ConnectionError)
        with pytest.raises(StreamReset):
            await peer.write(b"an answer for nobody")
            await peer.read()
        assert conn_of(peer).streams == {}


@on_both_loops
async def test_an_applications_reset_while_the_peer_takes_no_more_is_the_peers_reset() -> None:
    async with tunnel() as (app, splice, closed, peer):
        sending = asyncio.get_running_loop().create_task(app.send(BULK))
        await until(lambda: splice._from_socket is State.PARKED and not splice.stream.core.has_credit)
        sending.cancel()
        app.reset()
        assert isinstance((await closed.once()).error, ConnectionResetError)
        with pytest.raises(StreamReset):
            while True:
                await peer.read()


@on_both_loops
async def test_a_unix_application_that_is_gone_after_its_half_close_costs_nothing_and_loses_nothing() -> None:
    # Such a socket is hung up for ever, without an error: told of it again and again, the loop would spin.
    async with stream_pair() as (peer, stream):
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        called: list[int] = []

        class Counting(Splice):
            def _hung_up(self) -> None:
                called.append(self._fd)
                super()._hung_up()

        closed = Closed()
        splice = Counting(stream, theirs, poller_of(stream), closed)
        splice.start()
        ours.send(b"question")
        ours.close()
        assert await read_all(peer) == b"question"
        await turns(100)
        assert len(called) == 1 and not splice.closed
        peer.close_write()
        assert (await closed.once()).error is None


@on_both_loops
async def test_an_application_that_goes_away_in_the_middle_of_a_download_resets_the_stream() -> None:
    async with tunnel(buffer_bytes=8192) as (app, _, closed, peer):
        writing = asyncio.get_running_loop().create_task(peer.write(BULK))
        await app.read()
        app.sock.close()  # with bytes unread: the kernel says RST
        with pytest.raises(StreamReset):
            await writing
        assert (await closed.once()).error is not None


@on_both_loops
async def test_reset_from_here_is_seen_on_both_sides_and_closes_once() -> None:
    async with tunnel() as (app, splice, closed, peer):
        splice.reset()
        splice.reset()
        await app.sees_rst()
        with pytest.raises(StreamReset):
            await peer.read()
        await closed.once()


@on_both_loops
async def test_a_slow_application_holds_the_peer_back_and_gets_it_all_later() -> None:
    async with tunnel(buffer_bytes=8192) as (app, splice, closed, peer):
        writing = asyncio.get_running_loop().create_task(peer.write(BULK))
        await until(lambda: not peer.core.has_credit)
        await turns()
        assert not writing.done()
        assert 0 < held(splice) <= INITIAL_WINDOW_BYTES
        reading = asyncio.get_running_loop().create_task(app.read_all())
        await writing
        peer.close_write()
        assert await reading == BULK
        app.finish()
        assert (await closed.once()).bytes_in == len(BULK)


@on_both_loops
async def test_a_peer_that_does_not_read_holds_the_application_back_and_gets_it_all_later() -> None:
    much = BULK * 3  # the system takes up to 5 MB of it
    async with tunnel() as (app, splice, closed, peer):
        sending = asyncio.get_running_loop().create_task(app.send(much))
        await until(lambda: not splice.stream.core.has_credit)
        await turns(100)
        assert not sending.done() and splice.bytes_out <= INITIAL_WINDOW_BYTES
        reading = asyncio.get_running_loop().create_task(read_all(peer))
        await sending
        app.finish()
        assert await reading == much
        peer.close_write()
        assert (await closed.once()).bytes_out == len(much)


@on_both_loops
async def test_a_splice_that_waits_for_credit_ends_with_its_stream() -> None:
    async with tunnel() as (app, splice, closed, peer):
        sending = asyncio.get_running_loop().create_task(app.send(BULK))
        await until(lambda: not splice.stream.core.has_credit)
        peer.reset()
        with pytest.raises(ConnectionError):
            await sending
        await closed.once()


@on_both_loops
async def test_frames_of_one_byte_cost_no_more_memory_than_large_ones() -> None:
    async with tunnel(buffer_bytes=4096) as (app, splice, _, peer):
        await peer.write(bytes(100_000))
        await until(lambda: held(splice) > 0)
        for _ in range(5000):
            await peer.write(b"x")
        await until(lambda: splice.bytes_in + held(splice) >= 105_000)
        assert splice._pending is not None
        assert len(splice._pending) <= 3 + 100_000 // CHUNK_BYTES + 1
        got = b""
        while len(got) < 105_000:
            got += await app.read()
        assert got == bytes(100_000) + b"x" * 5000


@on_both_loops
async def test_what_the_stream_held_before_the_start_comes_first() -> None:
    async with stream_pair() as (peer, stream):
        await peer.write(b"early")
        peer.close_write()
        await until(lambda: stream._eof)
        app, _, closed = spliced(stream)
        assert await app.read_all() == b"early"
        app.sock.close()
        assert (await closed.once()).error is None


@on_both_loops
async def test_a_stream_that_was_lost_before_the_start_is_a_rst() -> None:
    async with stream_pair() as (peer, stream):
        peer.reset()
        await until(lambda: stream.error is not None)
        app, _, closed = spliced(stream)
        await app.sees_rst()
        app.sock.close()
        assert isinstance((await closed.once()).error, StreamReset)


@on_both_loops
async def test_a_refusal_that_comes_after_the_start_is_a_rst_with_its_reason() -> None:
    async with pair() as (near, _):
        stream = await near.open_stream(["/gone/1"], known=True)
        app, _, closed = spliced(stream)
        await app.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await app.sees_rst()
        app.sock.close()
        assert isinstance((await closed.once()).error, ProtocolNotSupported)


@on_both_loops
async def test_a_unix_socket_half_closes_both_ways_too() -> None:
    async with stream_pair() as (peer, stream):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        closed, app = Closed(), App(ours)
        Splice(stream, theirs, poller_of(stream), closed).start()
        await app.send(b"ping")
        app.finish()
        assert await read_all(peer) == b"ping"
        await peer.write(b"pong")
        peer.close_write()
        assert await app.read_all() == b"pong"
        ours.close()
        assert (await closed.once()).error is None


@on_both_loops
async def test_an_answer_and_a_reset_that_are_there_before_the_first_look_end_it() -> None:
    # The loop's readers would be told once, of the answer, by uvloop.
    async with stream_pair() as (peer, stream):
        app, theirs = tcp_pair()
        closed = Closed()
        app.send(b"no such thing here")
        close_with_reset(app)
        Splice(stream, theirs, poller_of(stream), closed).start()
        assert isinstance((await closed.once()).error, ConnectionResetError)
        with pytest.raises(StreamReset):
            while await peer.read():
                pass


@on_both_loops
async def test_many_splices_on_one_connection_keep_their_bytes_apart() -> None:
    async with pair() as (near, far):
        loop = asyncio.get_running_loop()

        async def one(number: int) -> None:
            stream = await near.open_stream(["/test/echo/1.0.0"])
            app, _, closed = spliced(stream)
            payload = random.Random(number).randbytes(200_000)
            sending = loop.create_task(app.send(payload))
            sending.add_done_callback(lambda _: app.finish())
            assert await app.read_all() == payload
            app.sock.close()
            assert (await closed.once()).error is None

        await asyncio.gather(*(one(number) for number in range(20)))
        await until(lambda: not near.streams and not far.streams)


def ended_ones() -> list[object]:
    """Streams and splices that are still in memory."""
    return [it for it in gc.get_objects() if isinstance(it, (Stream, PacedStream, Splice))]


async def come_and_go(how: str, stream: DuplexStream, peer: DuplexStream, pacing: Pacing | None) -> None:
    """A tunnel from its first byte to its end, at its listen's pace if it has one."""
    app, splice, closed = spliced(stream, pacing=pacing)
    try:
        await app.send(b"ask")
        assert await peer.read() == b"ask"
        if how == "fins":
            app.finish()
            await peer.write(b"answer")
            peer.close_write()
            assert await app.read_all() == b"answer"
        elif how == "reset here":
            splice.reset()
        elif how == "reset there":
            peer.reset()
        else:
            app.reset()
        await closed.once()
    finally:
        app.sock.close()


@on_both_loops
@pytest.mark.parametrize("paced", [False, True], ids=["", "paced"])
@pytest.mark.parametrize("how", ["fins", "reset here", "reset there", "local reset"])
async def test_what_is_over_is_freed_without_the_garbage_collector(how: str, *, paced: bool) -> None:
    """A circle of stream and splice waits for the collector: a flood of short tunnels left thousands."""
    async with swarm() as near, swarm() as far:
        taken = Taken(far)
        gc.collect()
        gc.disable()
        try:
            assert not ended_ones()
            await near.connect(far.peer_id, far.listen_addrs())
            peer = await near.open_stream(far.peer_id, [TAKE])
            pacing = Pacing(asyncio.get_running_loop())
            pacing.set_rates(1 << 20 if paced else 0, 0)
            await come_and_go(how, await taken.get(), peer, pacing if paced else None)
            while not peer.is_over:
                await turns()
            del peer
            await until(lambda: not ended_ones())
        finally:
            gc.enable()


@pytest.mark.parametrize("scarce", [False, True])
@pytest.mark.parametrize("buffer_bytes", [None, 4096])
@on_both_loops
async def test_bulk_goes_in_wide_messages_both_ways_at_once_and_all_of_it_arrives(
    buffer_bytes: int | None, scarce: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "WIDE_WINDOW_BYTES", 100_000)  # a window need not have grown first
    async with stream_pair(security=(NOISE,), aes=True) as (near, far):
        sizes: list[int] = []

        def send_wide(channel: NoiseChannel, n: int) -> None:
            sizes.append(n)
            was(channel, n)

        was = NoiseChannel.send_wide
        monkeypatch.setattr(NoiseChannel, "send_wide", send_wide)
        if scarce:
            monkeypatch.setattr(BufferPool, "is_scarce", True)
        one, _, near_closed = spliced(near, buffer_bytes=buffer_bytes)
        two, _, far_closed = spliced(far, buffer_bytes=buffer_bytes)

        async def send(app: App) -> None:
            await app.send(BULK)
            app.finish()

        _, _, there, here = await asyncio.gather(send(one), send(two), two.read_all(), one.read_all())
        assert there == here == BULK
        await near_closed.once()
        await far_closed.once()
        if scarce:
            assert not sizes
        elif buffer_bytes is None:  # else it is the system's luck whether a read fills its frame
            assert max(sizes) > MAX_PLAINTEXT
        one.sock.close()
        two.sock.close()
        for stream in (near, far):
            assert conn_of(stream)._channel.pool.kept_bytes == 0
