"""Pins what a channel does when the usual does not happen.

What waits in a TLS channel counts for the node, until it is taken or nobody can take it. A defect in the
middle of a read ends the connection within that read: views of it may be kept until then.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from p2pfwd.net.channel import NoiseChannel, TlsChannel
from p2pfwd.system.buffers import BufferPool
from p2pfwd.wire.noise.cipher import OpenCipher, SealCipher
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
