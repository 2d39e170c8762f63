"""net.pnet: bytes pass unchanged however they are cut and taken; who has no key is told apart."""

from __future__ import annotations

import random
from typing import Any

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.errors import NegotiationFailed
from p2pfwd.net.conduit.contract import Receiver
from p2pfwd.net.conduit.private import PnetConduit
from p2pfwd.wire.multistream import HEADER
from p2pfwd.wire.pnet import NONCE_BYTES, KeyStream

PSK = bytes(range(32))
ADDR = Multiaddr.parse("/ip4/127.0.0.1/tcp/1")
TEXT = random.Random(1).randbytes(5000)


class Below:
    """A conduit that gives again what was not taken, as it was left, and notes what it is told."""

    def __init__(self) -> None:
        self.local_addr = self.remote_addr = ADDR
        self.limit = self.segment_bytes = None
        self.progressed_at = 7.0
        self.congested = True
        self.sent = bytearray()
        self.framed: list[bool] = []
        self.calls: list[str] = []
        self._receiver: Receiver | None = None
        self._carry = b""

    def start(self, receiver: Receiver, leftover: bytes = b"") -> None:
        self._receiver = receiver
        if leftover:
            assert not self._carry
            self.give(leftover)

    def give(self, data: bytes) -> None:
        """The peer sent this."""
        assert self._receiver is not None
        view = memoryview(bytearray(self._carry + data))
        self._carry = bytes(view[self._receiver.data_received(view) :])

    def send(self, view: memoryview, *, framed: bool = False, more: bool = False) -> None:
        self.sent += view
        self.framed.append(framed)

    def uncork(self) -> None:
        self.calls.append("uncork")

    def finish(self) -> None:
        self.calls.append("finish")

    def abort(self) -> None:
        self.calls.append("abort")
        assert self._receiver is not None
        self._receiver.conduit_lost(None)


class Taker:
    """A receiver that takes what `most` says of each view."""

    def __init__(self, most: Any = len) -> None:
        self.got = bytearray()
        self.calls: list[Any] = []
        self._most = most

    def data_received(self, view: memoryview) -> int:
        assert view
        taken = min(len(view), self._most(view))
        self.got += view[:taken]
        return taken

    def eof_received(self) -> None:
        self.calls.append("eof")

    def drained(self) -> None:
        self.calls.append("drained")

    def conduit_lost(self, exc: Exception | None) -> None:
        self.calls.append(exc)


def coded(data: bytes, nonce: bytes = bytes(NONCE_BYTES)) -> bytes:
    """What a peer sends who says `data` first."""
    return nonce + KeyStream(PSK, nonce).xor(data)


def opened(wire: bytes) -> bytes:
    """What `wire` says to who has the key."""
    return KeyStream(PSK, bytes(wire[:NONCE_BYTES])).xor(bytes(wire[NONCE_BYTES:]))


@pytest.mark.parametrize("cut", [1, 23, 24, 25, 100, 5000])
@pytest.mark.parametrize("take", ["all", "one", "none at first", "at random"])
def test_what_comes_is_decrypted_once_however_it_is_cut_and_taken(cut: int, take: str) -> None:
    rng = random.Random(cut)
    most = {
        "all": len,
        "one": lambda view: 1,
        "none at first": lambda view: 0 if len(view) < 3000 else len(view),
        "at random": lambda view: rng.randrange(len(view) + 1),
    }[take]
    below, taker = Below(), Taker(most)
    PnetConduit(below, PSK).start(taker)
    wire = coded(TEXT)
    for at in range(0, len(wire), cut):
        below.give(wire[at : at + cut])
    seen = bytes(taker.got)
    assert seen == TEXT[: len(seen)]
    taker._most = len  # now it wants everything
    below.give(b"")
    assert bytes(taker.got) == TEXT


def test_the_next_receiver_gets_what_the_first_read_too_much_as_it_is() -> None:
    below, first, second = Below(), Taker(), Taker(lambda view: len(view) // 2)
    conduit = PnetConduit(below, PSK)
    conduit.start(first)
    wire = coded(TEXT)
    below.give(wire[:1000])
    conduit.start(second, bytes(first.got[900:]))
    second._most = len
    below.give(wire[1000:])
    assert bytes(first.got[:900] + second.got) == TEXT


def test_the_nonce_goes_with_the_first_bytes_and_is_another_each_time() -> None:
    first, second = Below(), Below()
    for below in (first, second):
        conduit = PnetConduit(below, PSK)
        conduit.start(Taker())
        conduit.send(memoryview(b""))
        assert below.framed == [], "nothing to say: nothing sent"
        conduit.send(memoryview(TEXT))
        assert below.framed == [False], "one send"
        assert len(below.sent) == NONCE_BYTES + len(TEXT) and opened(below.sent) == TEXT
    assert first.sent[:NONCE_BYTES] != second.sent[:NONCE_BYTES]


def test_a_frame_is_encrypted_where_it_lies_and_other_views_are_left_alone() -> None:
    below = Below()
    conduit = PnetConduit(below, PSK)
    conduit.start(Taker())
    conduit.send(memoryview(TEXT[:100]))
    frame, other = bytearray(TEXT[100:2000]), bytearray(TEXT[2000:])
    conduit.send(memoryview(frame), framed=True)
    conduit.send(memoryview(other))
    assert below.framed == [False, True, False]
    assert frame == below.sent[124:2024] and other == TEXT[2000:]
    assert opened(below.sent) == TEXT


@pytest.mark.parametrize("cut", [1, len(HEADER), 200])
def test_a_peer_without_the_key_is_told_apart_by_its_first_words(cut: int) -> None:
    below, taker = Below(), Taker()
    PnetConduit(below, PSK).start(taker)
    words = HEADER + b"\x07/noise\n"
    for at in range(0, len(HEADER), cut):
        below.give(words[at : at + cut])
    (reason,) = taker.calls
    assert isinstance(reason, NegotiationFailed) and "has no swarm.key" in reason.message
    assert below.calls == ["abort"] and not taker.got


def test_the_rest_is_as_below() -> None:
    below, taker = Below(), Taker()
    conduit = PnetConduit(below, PSK)
    conduit.start(taker)
    assert (conduit.local_addr, conduit.remote_addr) == (ADDR, ADDR)
    assert (conduit.congested, conduit.progressed_at) == (True, 7.0)
    conduit.drained()
    conduit.eof_received()
    conduit.finish()
    conduit.abort()
    conduit.conduit_lost(OSError("twice"))
    assert (below.calls, taker.calls) == (["finish", "abort"], ["drained", "eof", None])
