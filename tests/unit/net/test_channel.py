"""Pins what a channel does when the usual does not happen.

What waits in a TLS channel counts for the node, until it is taken or nobody can take it. A defect in the
middle of a read ends the connection within that read: views of it may be kept until then. Wide messages
come in any cut, where they were agreed on, and are refused by their length where they are wrong.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from p2pfwd.errors import RemoteProtocolError
from p2pfwd.net.channel import NoiseChannel, TlsChannel
from p2pfwd.system.buffers import LARGE_BYTES, READ_BYTES, WIDE_PREFIX_BYTES, BufferPool
from p2pfwd.wire.noise.cipher import (
    AES,
    AES_WIDE,
    CHACHA,
    MAX_MESSAGE,
    MAX_PLAINTEXT,
    MAX_WIDE_MESSAGE,
    TAG,
    OpenCipher,
    SealCipher,
    Suite,
)
from tests.support.peers import peer


class Owner:
    """Takes one record, then wants no more."""

    def __init__(self, channel: TlsChannel) -> None:
        self.taken: list[bytes] = []
        self.channel = channel

    def plaintext_received(self, view: memoryview) -> None:
        self.taken.append(bytes(view))
        self.channel.pause()

    def more_follows(self) -> None:
        pass

    def turn_ended(self) -> None:
        pass

    def channel_lost(self, exc: Exception | None) -> None:
        pass


def made(*records: bytes) -> tuple[TlsChannel, BufferPool, Owner]:
    """A channel to which one read has brought these records."""
    conduit = SimpleNamespace(kept_bytes=0, pause=lambda: None, resume=lambda: None, start=lambda *_: None)
    engine, pool = SimpleNamespace(cipher="aes-128-gcm", read=lambda _data: list(records)), BufferPool()
    channel = TlsChannel(cast("Any", conduit), pool, peer(1), cast("Any", engine))
    owner = Owner(channel)
    channel.start(owner, b"")
    channel.data_received(memoryview(b"ciphertext"))
    return channel, pool, owner


def test_records_that_nobody_took_are_counted_until_they_are_taken() -> None:
    channel, pool, owner = made(b"a" * 10, b"b" * 200, b"c" * 3000)
    assert pool.kept_bytes == channel.kept_bytes == 3200
    channel.resume()
    assert pool.kept_bytes == channel.kept_bytes == 3000
    channel.resume()
    assert pool.kept_bytes == channel.kept_bytes == 0
    assert [len(record) for record in owner.taken] == [10, 200, 3000]


def test_what_a_lost_channel_kept_is_given_back() -> None:
    channel, pool, _ = made(b"a" * 10, b"b" * 200)
    assert pool.kept_bytes == 200
    channel.conduit_lost(None)
    assert pool.kept_bytes == channel.kept_bytes == 0


class Gatherer:
    """Keeps the first piece until it is told of an end; fails at the second."""

    def __init__(self) -> None:
        self.kept: memoryview | None = None
        self.passed_on: list[bytes] = []
        self.loss: Exception | None = None

    def plaintext_received(self, view: memoryview) -> None:
        if self.kept is not None:
            raise KeyError("a defect")
        self.kept = view

    def more_follows(self) -> None:
        pass

    def turn_ended(self) -> None:
        assert self.kept is not None
        self.passed_on.append(bytes(self.kept))

    def channel_lost(self, exc: Exception | None) -> None:
        self.loss = exc
        self.turn_ended()


def test_a_defect_in_the_middle_of_a_read_ends_the_connection_while_its_views_are_valid() -> None:
    seal, wire = SealCipher(bytes(32)), bytearray()
    for piece in (b"first", b"second", b"third"):
        message = memoryview(bytearray(len(piece) + 18))
        seal.seal_into(memoryview(piece), message)
        wire += message
    calls: list[str] = []
    conduit = SimpleNamespace(segment_bytes=None, start=lambda *_: None, abort=lambda: calls.append("abort"))
    channel = NoiseChannel(cast("Any", conduit), BufferPool(), peer(1), seal, OpenCipher(bytes(32)))
    owner = Gatherer()
    channel.start(owner, b"")
    with pytest.raises(KeyError):
        channel.data_received(memoryview(wire))
    assert owner.passed_on == [b"first"]
    assert isinstance(owner.loss, KeyError)
    assert calls == ["abort"]


# --- wide messages ----------------------------------------------------------------------------------


def test_a_channel_without_wide_messages_sends_nothing_as_one_and_takes_no_more() -> None:
    channel, _, _ = made()
    channel.send_wide(channel.max_wide)
    with pytest.raises(AssertionError):
        channel.send_wide(channel.max_wide + 1)


class Taker:
    """Takes everything."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.loss: Exception | None = None

    def plaintext_received(self, view: memoryview) -> None:
        self.got.append(bytes(view))

    def more_follows(self) -> None:
        pass

    def turn_ended(self) -> None:
        pass

    def channel_drained(self) -> None:
        pass

    def channel_lost(self, exc: Exception | None) -> None:
        self.loss = exc


class Wide:
    """A channel with wide messages, taken over by the owner that a connection would be, and its peer's."""

    def __init__(self, suite: Suite = AES_WIDE, *, taken_over: bool = True) -> None:
        self.sent: list[bytes] = []
        conduit = self.conduit = SimpleNamespace(
            segment_bytes=None,
            wide_bytes=LARGE_BYTES,
            start=lambda *_: None,
            abort=lambda: None,
            send=lambda view, framed: self.sent.append(bytes(view)),
        )
        self.seal = SealCipher(bytes(32), suite=suite)
        self.pool = BufferPool()
        peers, opener = SealCipher(bytes(32), suite=suite), OpenCipher(bytes(32), suite=suite)
        self.channel = NoiseChannel(cast("Any", conduit), self.pool, peer(1), peers, opener)
        self.owner = Taker()
        self.channel.start(self.owner, b"")
        if taken_over:
            self.channel.hand_over(self.owner)

    def message(self, size: int, fill: int = 1) -> bytes:
        out = bytearray(size + TAG + 4)
        n = self.seal.seal_into(memoryview(bytes([fill]) * size), memoryview(out))
        return bytes(out[:n])


MOST = MAX_WIDE_MESSAGE - TAG


@pytest.mark.parametrize("size", [1, MAX_PLAINTEXT, MAX_PLAINTEXT + 1, MOST])
def test_what_a_channel_sends_wide_is_what_another_opens(size: int) -> None:
    rig = Wide()
    assert rig.channel.max_wide == MOST
    rig.pool.wide[WIDE_PREFIX_BYTES : WIDE_PREFIX_BYTES + size] = bytes([5]) * size
    rig.channel.send_wide(size)
    (wire,) = rig.sent
    assert wire == rig.message(size, 5)
    assert len(wire) == size + TAG + (2 if size <= MAX_PLAINTEXT else 4) <= READ_BYTES
    assert rig.channel.data_received(memoryview(bytearray(wire))) == len(wire)
    assert rig.owner.got == [bytes([5]) * size]


def test_a_wide_message_is_no_longer_than_what_goes_out_whole() -> None:
    rig = Wide()
    for whole, most in ((MAX_WIDE_MESSAGE + 4, MOST), (200_000, 200_000 - 4 - TAG), (0, 0)):
        rig.conduit.wide_bytes = whole
        assert rig.channel.max_wide == most


def test_wide_messages_and_others_come_in_any_cut_and_what_is_missing_is_told() -> None:
    rig = Wide()
    wire = rig.message(10) + rig.message(100_000, 2) + rig.message(MAX_PLAINTEXT, 3) + rig.message(MOST, 4)
    ends = [28, 28 + 100_020, 28 + 100_020 + 65537]
    left = bytearray()
    for start in range(0, len(wire), 7001):
        left += wire[start : start + 7001]
        del left[: rig.channel.data_received(memoryview(bytearray(left)))]
        at = min(start + 7001, len(wire))
        is_wide = len(left) >= 4 and int.from_bytes(left[:4], "big") <= MAX_WIDE_MESSAGE
        assert rig.channel.missing == ((ends[1] if at < ends[1] else len(wire)) - at if is_wide else 0)
    assert not left
    sizes = (10, 100_000, MAX_PLAINTEXT, MOST)
    assert rig.owner.got == [bytes([n]) * size for n, size in enumerate(sizes, 1)]


@pytest.mark.parametrize("length", [0, 15, MAX_MESSAGE, MAX_WIDE_MESSAGE + 1, 0x000F_FFFF])
def test_a_wide_message_that_is_none_or_too_long_is_refused_by_its_length_alone(length: int) -> None:
    rig = Wide()
    assert rig.channel.data_received(memoryview(bytearray(length.to_bytes(4, "big")))) == 4
    assert isinstance(rig.owner.loss, RemoteProtocolError)


def test_without_the_agreement_or_before_the_muxer_no_message_is_wide() -> None:
    for rig in (Wide(AES), Wide(CHACHA), Wide(taken_over=False)):
        assert rig.channel.max_wide == 0
        wire = bytearray(MAX_WIDE_MESSAGE.to_bytes(4, "big") + bytes(20))
        rig.channel.data_received(memoryview(wire))
        assert isinstance(rig.owner.loss, RemoteProtocolError)
        assert "shorter than its tag" in rig.owner.loss.message
