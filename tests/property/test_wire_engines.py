"""Hypothesis over the wire engines: chunking never matters, and both roles always agree."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import ProtocolNotSupported, RemoteProtocolError
from p2pfwd.wire import identify
from p2pfwd.wire.identify import IdentifyMessage
from p2pfwd.wire.multistream import HEADER, DialerNegotiation, ListenerNegotiation, encode_token
from p2pfwd.wire.noise.cipher import AES, CHACHA, TAG, OpenCipher, SealCipher, Suite
from p2pfwd.wire.noise.handshake import NoiseHandshake

A = PrivateKey.from_protobuf(
    bytes.fromhex("08011240")
    + bytes.fromhex(
        "7e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d"
        "1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e"
    )
)
PEER_A = PeerId.from_public_key(A.public_key)

names = st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=30).map("/".__add__)
cuts = st.lists(st.integers(0, 400), max_size=12)


def chunked(data: bytes, at: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(min(n, len(data)) for n in at), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@given(
    st.lists(names, min_size=1, max_size=6), st.sets(names, max_size=4), st.binary(max_size=50), cuts, cuts
)
def test_dialer_and_listener_agree_on_the_first_supported_proposal(
    proposals: list[str], others: set[str], payload: bytes, to_listener: list[int], to_dialer: list[int]
) -> None:
    supported = others | set(proposals[2:4])
    dialer, listener = DialerNegotiation(proposals), ListenerNegotiation(supported.__contains__)
    expected = next((name for name in proposals if name in supported), None)
    data, answer = dialer.start(), listener.start()
    refused = False
    while dialer.selected is None and not refused:
        answer += b"".join(listener.receive(part) for part in chunked(data, to_listener))
        try:
            data = b"".join(dialer.receive(part) for part in chunked(answer, to_dialer))
        except ProtocolNotSupported:
            refused = True
        answer = b""
    assert dialer.selected == listener.selected == expected
    assert refused == (expected is None)
    if expected is not None:
        for part in chunked(payload, to_listener):
            listener.receive(part)
        assert listener.leftover() == payload


@given(st.binary(max_size=300), cuts)
def test_a_listener_does_the_same_with_hostile_bytes_in_any_chunking(data: bytes, at: list[int]) -> None:
    def run(parts: Sequence[bytes]) -> object:
        listener = ListenerNegotiation({"/a", "/b"}.__contains__)
        try:
            out = b"".join(listener.receive(part) for part in parts)
        except RemoteProtocolError as exc:
            return exc.message.isprintable()
        return out, listener.selected, listener.leftover() if listener.selected else b""

    for hostile in (data, HEADER + data, HEADER + encode_token("/x") + data):
        assert run([hostile]) == run(chunked(hostile, at)) == run([bytes((b,)) for b in hostile])


@settings(max_examples=30)
@given(cuts, cuts, st.binary(max_size=40), st.tuples(st.booleans(), st.booleans()))
def test_a_handshake_in_any_chunking_ends_with_the_same_keys_and_keeps_what_follows(
    to_responder: list[int], to_initiator: list[int], early: bytes, aes: tuple[bool, bool]
) -> None:
    entropy = bytes(range(128))
    init = NoiseHandshake(
        initiator=True, identity=A, expected_peer=PEER_A, muxers=["/m"], entropy=entropy[:64], aes=aes[0]
    )
    resp = NoiseHandshake(
        initiator=False, identity=A, expected_peer=None, muxers=["/m"], entropy=entropy[64:], aes=aes[1]
    )
    resp.start()
    answer = b"".join(resp.receive(part) for part in chunked(init.start(), to_responder))
    last = b"".join(init.receive(part) for part in chunked(answer, to_initiator))
    out = bytearray(len(early) + TAG + 2)
    init.seal.seal_into(memoryview(early), memoryview(out))
    for part in chunked(last + out, to_responder):
        assert resp.receive(part) == b""
    assert init.done and resp.done
    assert init.handshake_hash == resp.handshake_hash
    assert init.muxer == resp.muxer == "/m"
    assert init.seal.suite is resp.seal.suite is (AES if all(aes) else CHACHA)
    rest = resp.leftover()
    assert rest == out
    plain = bytearray(len(early))
    assert resp.open.open_into(memoryview(rest)[2:], memoryview(plain)) == len(early)
    assert plain == early


@given(
    st.binary(min_size=32, max_size=32),
    st.lists(st.binary(max_size=200), max_size=5),
    st.sampled_from([CHACHA, AES, replace(AES, rekey_every=1), replace(AES, rekey_every=2)]),
)
def test_what_is_sealed_in_order_opens_in_order_and_only_so(
    key: bytes, messages: list[bytes], suite: Suite
) -> None:
    sealer, opener = SealCipher(key, suite=suite), OpenCipher(key, suite=suite)
    frames = []
    for message in messages:
        frame = bytearray(len(message) + TAG + 2)
        assert sealer.seal_into(memoryview(message), memoryview(frame)) == len(frame)
        frames.append(memoryview(frame)[2:])
    buffer = bytearray(200)
    if len(frames) > 1:
        with pytest.raises(RemoteProtocolError):
            OpenCipher(key, suite=suite).open_into(frames[1], memoryview(buffer))
    for message, frame in zip(messages, frames, strict=True):
        n = opener.open_into(frame, memoryview(buffer))
        assert buffer[:n] == message


texts = st.none() | st.text(st.characters(codec="utf-8"), max_size=identify.MAX_VERSION_CHARS)
addrs = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 65535)).map(
    lambda pair: Multiaddr.from_bytes(
        b"\x04" + pair[0].to_bytes(4, "big") + b"\x06" + pair[1].to_bytes(2, "big")
    )
)


def unique(values: st.SearchStrategy[Any], most: int) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(values, max_size=most, unique=True).map(tuple)


messages = st.builds(
    IdentifyMessage,
    public_key=st.none() | st.binary(max_size=100),
    listen_addrs=unique(addrs, 20),
    protocols=unique(names, 20),
    observed_addr=st.none() | addrs,
    protocol_version=texts,
    agent_version=texts,
    signed_peer_record=st.none() | st.binary(max_size=300),
)


@given(messages)
def test_an_identify_message_that_fits_round_trips(message: IdentifyMessage) -> None:
    encoded = identify.encode(message)
    assert len(encoded) <= identify.MAX_SENT_BYTES
    assert identify.decode(encoded) == message


@given(st.lists(messages, max_size=4))
def test_merging_is_what_protobuf_does_with_joined_messages(parts: list[IdentifyMessage]) -> None:
    joined = b"".join(identify.encode(part) for part in parts)
    if len(joined) <= identify.MAX_MESSAGE_BYTES:
        assert identify.decode(*map(identify.encode, parts)) == identify.decode(joined)
