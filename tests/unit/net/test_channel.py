"""Pins that what waits in a TLS channel counts for the node, until it is taken or nobody can take it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from p2pfwd.net.channel import TlsChannel
from p2pfwd.system.buffers import BufferPool
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
