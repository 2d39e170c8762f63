"""Which cipher seals a connection, on real sockets: AES between two that want it, else ChaCha.

With AES messages may be wide, but not with an older p2pfwd, and not inside a private network.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest

from p2pfwd.net import aes_speed, upgrader
from p2pfwd.net.link.conn import Conn
from p2pfwd.net.link.stream import Stream
from p2pfwd.net.services import Service
from p2pfwd.net.swarm import Swarm
from p2pfwd.wire.noise import NOISE, handshake
from p2pfwd.wire.noise.cipher import AES, CHACHA, MAX_WIDE_MESSAGE, TAG
from p2pfwd.wire.tls import TLS
from p2pfwd.wire.yamux import YAMUX
from tests.net.swarm_rig import ECHO, conn_of, echo, next_conn, pair, read_all, stream_pair, swarm
from tests.support.loops import on_both_loops
from tests.support.raw_peer import RawListener, RawPeer

BULK = random.Random(2).randbytes(1 << 20)
PSK = bytes(range(32))
WIDE = MAX_WIDE_MESSAGE - TAG


async def through(near: Swarm, far: Swarm) -> None:
    """A word there and back."""
    far.services.serve(Service(name=ECHO, handler=echo))
    await near.connect(far.peer_id, far.listen_addrs())
    stream = await near.open_stream(far.peer_id, [ECHO])
    await stream.write(b"hello")
    stream.close_write()
    assert await read_all(stream) == b"hello"


@pytest.mark.parametrize("psk", [None, PSK], ids=["", "pnet"])
@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("theirs", [True, False])
@pytest.mark.parametrize("ours", [True, False])
@on_both_loops
async def test_aes_seals_what_passes_between_two_that_want_it(
    ours: bool, theirs: bool, early: bool, psk: bytes | None
) -> None:
    async with (
        swarm(security=(NOISE,), aes=ours, early_muxer=early, psk=psk) as near,
        swarm(security=(NOISE,), aes=theirs, early_muxer=early, psk=psk) as far,
    ):
        await through(near, far)
        for node in (near, far):
            (conn,) = node.conns()
            assert conn.cipher == (AES.name if ours and theirs else CHACHA.name)
            assert conn._channel.max_wide == (WIDE if ours and theirs and psk is None else 0)


@on_both_loops
async def test_a_peer_that_does_not_list_it_has_chacha_whoever_dials() -> None:
    """An older p2pfwd, or any other node: its payloads are those of the libp2p specification."""
    async with swarm(aes=True) as node:
        arrived = next_conn(node)
        async with await RawPeer.dial(node.listen_addrs()[0]) as raw:
            conn = await arrived
            assert (conn.cipher, conn.remote_peer) == (CHACHA.name, raw.peer_id)
        with RawListener() as listener:
            dialing = asyncio.ensure_future(node.connect(listener.peer_id, [listener.addr]))
            async with await listener.accept():
                assert (await dialing).cipher == CHACHA.name


@pytest.mark.parametrize("muxers", [(), (YAMUX,)])
@pytest.mark.parametrize("wide", [True, False])
@on_both_loops
async def test_with_an_older_p2pfwd_no_message_is_wide(wide: bool, muxers: tuple[str, ...]) -> None:
    async with swarm(aes=True) as node:
        arrived = next_conn(node)
        async with await RawPeer.dial(node.listen_addrs()[0], aes=True, wide=wide, muxers=muxers):
            conn = await arrived
            assert isinstance(conn, Conn) and conn.cipher == AES.name
            assert conn._channel.max_wide == (WIDE if wide else 0)


@on_both_loops
async def test_keys_change_under_way_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a bound of three messages: a megabyte each way at once, dozens of changes."""
    often = [(name, replace(suite, rekey_every=3), info) for name, suite, info in handshake.AGREED]
    monkeypatch.setattr(handshake, "AGREED", often)
    async with stream_pair(aes=True) as (near, far):
        assert conn_of(near).cipher == AES.name

        async def send(stream: Stream) -> None:
            await stream.write(BULK)
            stream.close_write()

        _, _, at_far, at_near = await asyncio.gather(send(near), send(far), read_all(far), read_all(near))
        assert at_far == BULK and at_near == BULK


@pytest.mark.parametrize("fast", [True, False])
@on_both_loops
async def test_where_nothing_is_said_the_processor_decides(
    monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    monkeypatch.setattr(upgrader, "has_fast_aes", lambda: fast)
    async with pair() as (here, there):
        assert here.cipher == there.cipher == (AES.name if fast else CHACHA.name)


@on_both_loops
async def test_tls_names_its_own_cipher() -> None:
    async with pair(security=(TLS,), aes=True) as (here, there):
        assert here.cipher == there.cipher
        assert here.cipher in ("aes-128-gcm", "aes-256-gcm", "chacha20-poly1305")


def test_the_processor_is_measured_once_and_not_before_it_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def ratio() -> float:
        measured.append(1)
        return aes_speed.BORDER / 2

    monkeypatch.setattr(aes_speed, "time_ratio", ratio)
    aes_speed.has_fast_aes.cache_clear()
    try:
        assert measured == []
        assert aes_speed.has_fast_aes() and aes_speed.has_fast_aes()
        assert measured == [1]
    finally:
        aes_speed.has_fast_aes.cache_clear()


def test_a_measurement_ends_and_is_a_ratio() -> None:
    assert aes_speed.time_ratio() > 0
