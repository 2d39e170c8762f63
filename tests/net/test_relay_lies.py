"""What is made of relays that lie, drop, stall, inject and replay, and of bytes from who is not known yet.

A relay can end what flows through it, and no more: not a byte is altered, and an end that is its own doing is
never taken for the peer's.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import pytest

from p2pfwd.errors import ConnectionLost, DialFailed, P2PForwardError, TimedOut
from p2pfwd.net.link.contract import DuplexStream
from p2pfwd.net.services import Service
from p2pfwd.net.transport import relay_transport
from p2pfwd.wire import circuit as wire
from p2pfwd.wire.circuit import Limit, Status
from p2pfwd.wire.multistream import HEADER, encode_token
from p2pfwd.wire.noise import NOISE
from tests.net.swarm_rig import ECHO, TAKE, host
from tests.net.test_relay_client import Rig, ask, rig
from tests.support.loops import on_loop, until

NOISE_HELLO = HEADER + encode_token(NOISE)


async def spoken(it: Rig, protocol: str = ECHO) -> DuplexStream:
    """A stream over the circuit that has worked."""
    conn = await it.connect()
    stream = await conn.open_stream([protocol])
    await stream.write(b"before")
    assert await stream.read() == b"before"
    return stream


ALTERED: dict[str, Callable[[bytes], bytes]] = {
    "dropped": lambda _data: b"",
    "cut short": lambda data: data[:-1],
    "replayed": lambda data: data + data,
    "injected behind": lambda data: data + b"\x00\x20" + bytes(32),
    "injected before": lambda data: b"\x00\x00" + data,
    "in another order": lambda data: data[::-1],
}


@pytest.mark.parametrize("alter", ALTERED.values(), ids=list(ALTERED))
@on_loop
async def test_bytes_that_a_relay_makes_or_takes_away_never_reach_a_service(
    alter: Callable[[bytes], bytes],
) -> None:
    async with rig() as it:
        got = bytearray()

        async def take(stream: DuplexStream) -> None:
            while data := await stream.read():
                got.extend(data)
                await stream.write(data)
            got.extend(b" and an end")

        await until(it.client.places)
        it.target.swarm.services.serve(Service(name=TAKE, handler=take))
        stream = await spoken(it, TAKE)
        it.relay.alter = alter
        sent = [os.urandom(100) for _ in range(3)]
        for data in sent:
            await stream.write(data)
            await asyncio.sleep(0)
        it.relay.alter = lambda data: data
        await stream.write(bytes(100_000))  # more than any length that a lie may have announced
        with pytest.raises(P2PForwardError):
            while True:
                assert await stream.read(), "an end that the peer did not send"
        assert bytes(got) in {b"before" + b"".join(sent[:n]) for n in range(4)}


@pytest.mark.parametrize("limit", [None, Limit(120, 1 << 30)], ids=["no limit told", "more told than given"])
@on_loop
async def test_a_relay_that_ends_a_circuit_before_the_limit_it_told_brings_a_loss_and_no_end(
    limit: Limit | None,
) -> None:
    def liar(relay: object) -> None:
        relay.limit, relay.cuts_after = limit, 50_000  # type: ignore[attr-defined]

    async with rig(liar) as it:
        await until(it.client.places)
        conn = await it.connect()
        with pytest.raises(ConnectionLost):
            await ask(conn, bytes(200_000))
        assert conn.closed.done() or await conn.closed is not None


@pytest.mark.parametrize("limit", [Limit(1, 1), Limit((1 << 32) - 1, (1 << 64) - 1)], ids=["tiny", "huge"])
@on_loop
async def test_a_limit_that_is_told_and_not_kept_harms_nothing(limit: Limit) -> None:
    def liar(relay: object) -> None:
        relay.limit, relay.cuts_after = limit, 1 << 60  # type: ignore[attr-defined]

    async with rig(liar) as it:
        await until(it.client.places)
        conn = await it.connect()
        data = os.urandom(50_000)
        assert await ask(conn, data) == data
        assert conn.limit == limit


@pytest.mark.parametrize("ttl_s", [-1e6, 0.0, 1e12])
@on_loop
async def test_a_place_is_asked_for_neither_all_the_time_nor_never_again(ttl_s: float) -> None:
    def liar(relay: object) -> None:
        relay.ttl_s = ttl_s  # type: ignore[attr-defined]

    async with rig(liar) as it:
        await until(it.client.places)
        (place,) = it.client.places()
        assert 30.0 < place.renew_at - place.since < 24 * 3600.0
        assert it.relay.reserved == {it.target.peer_id: 1}


@on_loop
async def test_a_relay_that_leads_to_somebody_else_reaches_nobody() -> None:
    async with rig() as it, host() as other:
        await other.swarm.connect(it.relay.host.peer_id, it.relay.host.swarm.listen_addrs())
        await until(it.client.places)
        it.relay.reserved[other.peer_id] = 1
        it.relay.detour = other.peer_id
        other.swarm.services.serve(Service(name=wire.STOP, handler=_takes_and(NOISE_HELLO)))
        with pytest.raises(DialFailed):
            await it.connect()
        it.relay.detour = it.dialer.peer_id  # the dialer himself has no place: nobody takes it
        with pytest.raises(DialFailed):
            await it.connect()
        assert not it.dialer.swarm.conns(it.target.peer_id)


@on_loop
async def test_a_relay_that_stalls_is_given_up_and_the_next_circuit_works() -> None:
    async with rig() as it, host(upgrade_timeout_s=0.2) as dialer:
        await until(it.client.places)
        it.relay.stalled.clear()
        with pytest.raises((DialFailed, TimedOut)):
            await dialer.swarm.connect(it.target.peer_id, [it.circuit], only=True)
        it.relay.stalled.set()
        conn = await dialer.swarm.connect(it.target.peer_id, [it.circuit], only=True, force=True)
        assert await ask(conn, b"there") == b"there"


@on_loop
async def test_a_circuit_that_falls_silent_is_doubted_and_not_used() -> None:
    async with rig() as it:
        await until(it.client.places)
        stream = await spoken(it)
        it.relay.stalled.clear()
        await stream.write(b"into the silence")
        await until(lambda: not stream.conn.is_usable)
        it.relay.stalled.set()
        assert await stream.read() == b"into the silence", "what is late is not lost"


def _takes_and(words: bytes) -> Callable[[DuplexStream], object]:
    """A target that takes the circuit and says this."""

    async def handle(stream: DuplexStream) -> None:
        await stream.read_delimited(wire.MAX_MESSAGE_BYTES)
        await stream.write_delimited(wire.encode_stop_answer(Status.OK))
        await stream.write(words)
        while await stream.read():
            pass
        await stream.close()

    return handle


SHORT = {
    "nothing": b"",
    "a byte": b"\x13",
    "no proposal": HEADER,
    "an empty proposal": HEADER + b"\x00",
    "half a length": NOISE_HELLO + b"\x00",
    "an empty message": NOISE_HELLO + b"\x00\x00",
    "a message of one byte": NOISE_HELLO + b"\x00\x01x",
    "a message shorter than a key": NOISE_HELLO + b"\x00\x1f" + bytes(31),
    "many empty messages": NOISE_HELLO + b"\x00\x00" * 1000,
    "a frame's header, unsealed": NOISE_HELLO + bytes(12),
}


@pytest.mark.parametrize("words", SHORT.values(), ids=list(SHORT))
@on_loop
async def test_what_comes_over_a_circuit_before_anybody_is_known_may_be_too_short(words: bytes) -> None:
    """From who dials, and from who is dialed; an honest circuit works afterwards."""
    async with rig() as it, host(upgrade_timeout_s=0.2) as dialer:
        await until(it.client.places)
        link = await it.dialer.swarm.connect(it.relay.host.peer_id, it.relay.host.swarm.listen_addrs())
        stream, _ = await relay_transport.connect(link, it.target.peer_id)
        await stream.write(words)
        stream.close_write()
        stream.reset()
        await until(lambda: not it.target.swarm.handshakes)
        assert not it.target.swarm.conns(it.dialer.peer_id)
        async with host() as liar:
            await liar.swarm.connect(it.relay.host.peer_id, it.relay.host.swarm.listen_addrs())
            liar.swarm.services.serve(Service(name=wire.STOP, handler=_takes_and(words)))
            it.relay.reserved[liar.peer_id] = 1
            it.relay.detour = liar.peer_id
            with pytest.raises((DialFailed, TimedOut)):
                await dialer.swarm.connect(it.target.peer_id, [it.circuit], only=True)
        it.relay.detour = None
        conn = await dialer.swarm.connect(it.target.peer_id, [it.circuit], only=True, force=True)
        assert await ask(conn, b"honest") == b"honest"
