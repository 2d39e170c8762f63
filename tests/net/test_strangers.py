"""What a stranger may ask of each protocol, against real hosts: each flood is bounded, and others are served.

One stranger, `RawPeer`, sends as fast as it can; the host's event loop must come round meanwhile, what was
refused must be counted, and nothing of the flood may be left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest

from p2pfwd.core import varint
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.errors import StreamReset
from p2pfwd.forwarding import admission
from p2pfwd.forwarding.service import Forwarding
from p2pfwd.forwarding.target import Target
from p2pfwd.forwarding.values import ForwardingLimits
from p2pfwd.host.host import Host
from p2pfwd.net.link import intake
from p2pfwd.net.services import Service
from p2pfwd.net.visits import Visit
from p2pfwd.policy.pace import Rate
from p2pfwd.policy.service_bounds import DHT, IDENTIFY, PING, PUSH
from p2pfwd.policy.shares import Rates
from p2pfwd.protocols.kad import service as kad_service
from p2pfwd.protocols.kad.service import Dht
from p2pfwd.wire import identify, ping
from p2pfwd.wire.kad.address_filter import Scope
from p2pfwd.wire.kad.codec import MAX_REQUEST_BYTES, encode_request
from p2pfwd.wire.kad.messages import AddProvider, FindNode, KadPeer
from p2pfwd.wire.yamux import frame as f
from tests.net.swarm_rig import ECHO, conn_of, echo, host, next_conn, read_all, stream_pair
from tests.support.loops import on_loop, turns, until
from tests.support.raw_peer import RawPeer, delimited, hello, opened

KAD = "/test/kad/1.0.0"


@asynccontextmanager
async def visited() -> AsyncIterator[tuple[Host, RawPeer]]:
    """A host that echoes, and a stranger connected to it, whose answers are read and dropped."""
    async with host() as node:
        node.swarm.services.serve(Service(name=ECHO, handler=echo))
        arrived = next_conn(node.swarm)
        async with await RawPeer.dial(node.swarm.listen_addrs()[0]) as peer:
            await arrived
            yield node, peer


@asynccontextmanager
async def reading(peer: RawPeer) -> AsyncIterator[list[int]]:
    """The peer reads whatever comes; the streams that were reset."""
    resets: list[int] = []

    async def read() -> None:
        while True:
            frame = await peer.next()
            if frame.flags & f.RST:
                resets.append(frame.stream_id)

    task = asyncio.ensure_future(read())
    try:
        yield resets
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def serves_others(node: Host) -> None:
    async with host() as honest:
        addrs = node.swarm.listen_addrs()
        await honest.swarm.connect(node.peer_id, addrs)
        stream = await honest.swarm.open_stream(node.peer_id, [ECHO])
        await stream.write(b"still here?")
        stream.close_write()
        assert await read_all(stream) == b"still here?"
        await honest.ping(node.peer_id)


def refused(node: Host, cause: str) -> int:
    return node.swarm.refusals.counts.get(cause, 0)


@on_loop
async def test_asking_who_we_are_again_and_again() -> None:
    async with visited() as (node, peer), reading(peer) as resets:
        burst = int(IDENTIFY.opens.peer.burst)  # type: ignore[union-attr]
        asks = b"".join(opened(1 + 2 * n, hello(identify.ID), f.SYN | f.FIN) for n in range(burst + 100))
        await peer.send(asks)
        await until(lambda: len(resets) >= 100)
        assert refused(node, "identify-opens") + refused(node, "identify-streams") >= 100
        await serves_others(node)
        await until(lambda: not node.swarm.services.room("identify").held.total)


@on_loop
async def test_what_comes_with_the_question_who_we_are_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # HOUSE H2: it waited for as long as the peer did not read its answers, 256 KiB for each stream.
    async def for_ever(visit: Visit, message: bytes) -> None:
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(Visit, "answer", for_ever)
    async with visited() as (node, peer), reading(peer):
        conn = node.swarm.conns()[0]
        for n in range(IDENTIFY.most.peer):
            await peer.send(opened(1 + 2 * n, hello(identify.ID)))
            for _ in range(3):
                body = bytes(64 * 1024)
                await peer.send(f.encode_header(f.DATA, 0, 1 + 2 * n, len(body)) + body)
        await peer.frame(f.PING, f.SYN, 0, 77)
        await until(lambda: node.swarm.services.room("identify").held.total == IDENTIFY.most.peer)
        streams = [conn.streams[1 + 2 * n] for n in range(IDENTIFY.most.peer)]
        await until(lambda: all(stream.core.receive_window.consumed > 60_000 for stream in streams))
        assert not conn._session.buffered_bytes and not any(stream._buffer for stream in streams)


@on_loop
async def test_push_bombs_and_the_smallest_pushes() -> None:
    # HOUSE M8: 27 pushes of 8,000 addresses a second filled a processor.
    async with visited() as (node, peer), reading(peer) as resets:
        addrs = tuple(Multiaddr.parse(f"/ip4/192.0.2.1/tcp/{port}") for port in range(700))
        message = delimited(
            identify.identify_pb2.Identify(listen_addrs=[a.to_bytes() for a in addrs]).SerializeToString()
        )
        bomb = message * 10
        began = time.process_time()
        burst = int(PUSH.opens.peer.burst)  # type: ignore[union-attr]
        for n in range(3 * burst):
            body = hello(identify.PUSH) + (bomb if n < 4 else b"")
            await peer.send(opened(1 + 2 * n, body, f.SYN | f.FIN))
        await until(lambda: len(resets) >= burst)
        assert refused(node, "push-opens") >= 1
        assert len(node.swarm.peerstore.addrs(peer.peer_id)) <= 128
        assert time.process_time() - began < 5
        await serves_others(node)


@on_loop
async def test_pinging_without_end() -> None:
    async with visited() as (node, peer), reading(peer):
        burst = int(PING.requests.peer.burst)  # type: ignore[union-attr]
        await peer.send(opened(1, hello(ping.ID)))
        await peer.frame(f.DATA, 0, 1, body=bytes(ping.PAYLOAD_BYTES) * (burst + 500))
        await until(lambda: refused(node, "ping-requests") > 0)
        await serves_others(node)
        await peer.frame(f.WINDOW_UPDATE, f.RST, 1)


@asynccontextmanager
async def dht_server() -> AsyncIterator[tuple[Host, RawPeer]]:
    async with visited() as (node, peer):
        Dht(node.swarm, KAD, scope=Scope.PRIVATE, server=True)
        yield node, peer


@on_loop
async def test_requests_to_the_dht_without_end_on_one_stream() -> None:
    # FAULTS F2: 43,326 of 6 bytes stopped everything for 1.8 s.
    request = delimited(encode_request(FindNode(b"k")))
    async with dht_server() as (node, peer), reading(peer):
        loop = asyncio.get_running_loop()
        longest, last = 0.0, time.thread_time()  # of work: other processes do not count

        def tick() -> None:
            nonlocal longest, last
            longest, last = max(longest, time.thread_time() - last), time.thread_time()
            if not done:
                loop.call_soon(tick)

        done = False
        await peer.send(opened(1, hello(KAD)))
        await turns()
        answered = node.swarm.services.room("dht")
        body = request * (200 * 1024 // len(request))
        last = time.thread_time()
        tick()
        await peer.frame(f.DATA, 0, 1, body=body)
        await until(lambda: refused(node, "dht-requests") > 0)
        await serves_others(node)
        done = True
        assert longest < 0.3, "the loop came round"
        assert answered.held.total == 1
        conn = next(c for c in node.swarm.conns() if c.remote_peer == peer.peer_id)
        assert conn._session.buffered_bytes > 100 * 1024, "the rest waits, and gets no credit"
        await peer.frame(f.WINDOW_UPDATE, f.RST, 1)
        await until(lambda: not answered.held.total)


@pytest.mark.parametrize("kind", ["ADD_PROVIDER", "a request that is too long", "garbage"])
@on_loop
async def test_what_the_dht_is_given_to_keep_is_bounded(kind: str) -> None:
    # HOUSE M1: requests of 1 MiB less a byte, 512 at once, were kept.
    async with dht_server() as (node, peer), reading(peer) as resets:
        if kind == "ADD_PROVIDER":
            me = KadPeer(peer.peer_id, (Multiaddr.parse("/ip4/127.0.0.1/tcp/1"),))
            requests = b"".join(
                delimited(encode_request(AddProvider(b"\x12\x20" + n.to_bytes(32, "big"), (me,))))
                for n in range(1000)
            )
            await peer.send(opened(1, hello(KAD) + requests[:200_000]))
            await until(lambda: refused(node, "dht-requests") > 0)
        else:
            too_long = varint.encode(MAX_REQUEST_BYTES + 1) + bytes(1000)
            body = too_long if kind != "garbage" else delimited(b"\xff" * 9)
            await peer.send(opened(1, hello(KAD) + body))
            await until(lambda: resets == [1])
            assert refused(node, "dht-message") == (kind != "garbage")
        await serves_others(node)
        await peer.frame(f.WINDOW_UPDATE, f.RST, 1)
        await until(lambda: not node.swarm.services.room("dht").held.total)


@on_loop
async def test_streams_of_requests_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Rate(0.01, 200)  # however slow this machine is, it is faster
    monkeypatch.setattr(kad_service, "DHT", replace(DHT, opens=Rates(peer=slow, network=slow)))
    async with dht_server() as (node, peer), reading(peer) as resets:
        most, burst = DHT.most.peer, 200
        await peer.send(b"".join(opened(1 + 2 * n, hello(KAD)) for n in range(burst + 150)))
        await until(lambda: len(resets) >= burst + 150 - most)
        assert node.swarm.services.room("dht").held.total == most
        assert refused(node, "dht-streams") == burst - most
        assert refused(node, "dht-opens") == 150
        assert refused(node, "offender") >= 20, "a hundred refusals for haste are forgiven, and one a second"
        await serves_others(node)


@on_loop
async def test_who_pushes_on_and_on_though_it_is_refused_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though what it costs the machine would be borne: a tenth of a millisecond each."""
    monkeypatch.setattr(intake, "HARD_TOLL", Rate(10_000.0, 200_000.0))
    monkeypatch.setattr(intake, "DROP_AFTER_S", 0.0)
    async with visited() as (node, peer), reading(peer):
        with suppress(ConnectionError):
            for n in range(1000):
                await peer.send(opened(1 + 2 * n, hello(identify.PUSH)))
        await until(lambda: not node.swarm.conns())
        assert refused(node, "flood-slowed") == refused(node, "flood-dropped") == 1
        await serves_others(node)


# --- tunnels --------------------------------------------------------------------------------------


@asynccontextmanager
async def tunnel_server(
    target: Multiaddr, **limits: int
) -> AsyncIterator[tuple[Host, Forwarding, RawPeer]]:
    async with visited() as (node, peer):
        service = Forwarding(node, limits=ForwardingLimits(**limits))  # type: ignore[arg-type]
        try:
            await service.listen("/x/web", target)
            yield node, service, peer
        finally:
            await service.aclose()


@on_loop
async def test_tunnels_opened_and_reset_have_a_rate_and_tunnels_that_are_used_have_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = Rate(0.01, 100)  # however slow this machine is, it is faster
    monkeypatch.setattr(admission, "UNUSED_TUNNELS", Rates(peer=slow, network=slow))
    serving = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal serving
        serving += 1
        with suppress(ConnectionError):
            writer.write(await reader.read(1))
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        serving -= 1

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    target = Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{server.sockets[0].getsockname()[1]}")
    async with server, tunnel_server(target) as (node, service, peer), reading(peer) as resets:
        reset = f.encode_header(f.WINDOW_UPDATE, f.RST, 1, 0)
        sent = 0
        for _ in range(4):
            ids = range(1 + 2 * sent, 1 + 2 * (sent + 50), 2)
            sent += 50
            await peer.send(b"".join(opened(n, hello("/x/web")) for n in ids))
            await turns(3)
            await peer.send(b"".join(reset[:4] + n.to_bytes(4, "big") + reset[8:] for n in ids))
            await turns(3)
        await until(lambda: refused(node, "tunnel-unused") > 0)
        await until(lambda: not service.streams())
        await until(lambda: bool(resets))  # they may still be on their way
        async with host() as honest:
            await honest.swarm.connect(node.peer_id, node.swarm.listen_addrs())
            for _ in range(120):
                stream = await honest.swarm.open_stream(node.peer_id, ["/x/web"])
                await stream.write(b"x")
                assert await stream.read() == b"x"
                stream.close_write()
                assert await stream.read() == b""
        assert service.listeners()[0].state == "ready", "a stranger's haste is not the listen's state"
        await until(lambda: not serving)


@on_loop
async def test_a_stream_reset_while_its_target_is_dialed_gives_its_place_back_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # FAULTS F9a: 100 opened and reset stayed listed, with 100 descriptors, for 10 s.
    async def never(target: Target, sock: object, timeout_s: float) -> None:
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(Target, "begin", lambda _target: (None, False))
    monkeypatch.setattr(Target, "finish", never)
    async with tunnel_server(Multiaddr.parse("/ip4/192.0.2.80/tcp/9")) as (_node, service, peer):
        listener = service._listeners.find("listen", "/x/web")
        await peer.send(b"".join(opened(1 + 2 * n, hello("/x/web")) for n in range(100)))
        await until(lambda: len(service.streams()) == 100)
        assert service._admission.dials.total == 100
        for n in range(100):
            await peer.frame(f.WINDOW_UPDATE, f.RST, 1 + 2 * n)
        await until(lambda: not service.streams() and not service._admission.dials.total)
        assert not listener._tasks  # type: ignore[union-attr]


# --- what they stand on ---------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["fins", "fins, ours last", "reset by us", "reset by the peer", "lost"])
@on_loop
async def test_a_streams_end_is_told_once_whatever_it_is(end: str) -> None:
    async with stream_pair() as (near, far):
        told: list[str] = []
        far.when_over(lambda: told.append("over"))
        assert not far.is_over
        if end == "fins":
            far.close_write()
            await turns()
            assert not told
            near.close_write()
        elif end == "fins, ours last":
            near.close_write()
            assert await far.read() == b"" and not told
            far.close_write()
        elif end == "reset by us":
            far.reset()
        elif end == "reset by the peer":
            near.reset()
        else:
            conn_of(near).abort()
        await until(lambda: bool(told))
        far.reset()
        await turns()
        assert told == ["over"] and far.is_over
        far.when_over(lambda: told.append("late"))
        assert told == ["over", "late"]


@on_loop
async def test_input_that_nobody_reads_is_dropped_with_what_came_before_and_writing_goes_on() -> None:
    async with stream_pair() as (near, far):
        await near.write(bytes(1000))
        session = conn_of(far)._session
        await until(lambda: session.buffered_bytes == 1000)
        far.discard_input()
        assert session.buffered_bytes == 0
        sending = asyncio.ensure_future(near.write(bytes(2 << 20)))  # more than any window
        writing = asyncio.ensure_future(far.write(bytes(2 << 20)))
        got = 0
        while got < 2 << 20:
            got += len(await near.read())
        await sending
        await writing
        await until(lambda: not session.buffered_bytes)
        near.close_write()
        far.close_write()
        await until(lambda: far.is_over)
        with pytest.raises(StreamReset):
            far.reset()
            await far.read()


@on_loop
async def test_a_close_that_is_cancelled_leaves_no_half_closed_connection() -> None:
    # HOUSE L16: a dial-back's time limit ends its close; nobody else knows the connection.
    async with visited() as (node, peer):
        conn = next(c for c in node.swarm.conns() if c.remote_peer == peer.peer_id)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await conn.close()
        assert conn.closed.done()


@on_loop
async def test_a_dht_whose_name_is_taken_stays_a_client_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # HOUSE M9: it took the listen's handler over in silence, and lost its own with the listen's end.
    async with host() as node:
        node.swarm.services.serve(Service(name=KAD, handler=echo))
        dht = Dht(node.swarm, KAD, scope=Scope.PRIVATE, server=False)
        dht.serve(True)
        assert not dht.is_server and "stays a client" in caplog.text
        node.swarm.services.withdraw(KAD)
        dht.serve(True)
        assert dht.is_server and node.swarm.services.is_reserved(KAD)
