"""Hypothesis over core's codecs: what is encoded decodes to itself; what decodes re-encodes to itself."""

import ipaddress
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfwd.core import multibase, varint
from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddr_components import BY_NAME
from p2pfwd.core.multiaddrs import (
    Multiaddr,
    TcpEndpoint,
    address_class,
    from_sockaddr,
    is_relayed,
    tcp_endpoint,
    unix_path,
)
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.quoting import quoted
from p2pfwd.core.record import InvalidRecord, PeerRecord, SignedEnvelope
from p2pfwd.core.typed import parse_endpoint, parse_peer
from p2pfwd.errors import InvalidMultiaddr, InvalidPeerId

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/keys_peerids.json").read_text())
KEY = PrivateKey.from_protobuf(bytes.fromhex(VECTORS["vectors"][1]["private_pb_hex"]))
PEER = PeerId.from_public_key(KEY.public_key)
LONG_PEER = PeerId.from_bytes(b"\x00\x25\x08\x02\x12\x21\x02" + b"\xff" * 32)

ports = st.integers(0, 65535)
ip4 = st.ip_addresses(v=4)
ip6 = st.ip_addresses(v=6)
sha256_ids = st.binary(min_size=32, max_size=32).map(lambda digest: PeerId.from_bytes(b"\x12\x20" + digest))
inlined_ids = st.one_of(
    st.binary(min_size=32, max_size=32).map(lambda key: b"\x00\x24\x08\x01\x12\x20" + key),
    st.binary(min_size=33, max_size=33).map(lambda key: b"\x00\x25\x08\x02\x12\x21" + key),
).map(PeerId.from_bytes)
peer_ids = st.one_of(sha256_ids, inlined_ids)
names = st.text(st.characters(codec="utf-8", exclude_characters="/ "), min_size=1, max_size=20).filter(
    str.isprintable
)
parts = st.one_of(
    ip4.map(lambda address: f"/ip4/{address}"),
    ip6.map(lambda address: f"/ip6/{address}"),
    ports.map(lambda port: f"/tcp/{port}"),
    ports.map(lambda port: f"/udp/{port}"),
    st.tuples(st.sampled_from(["dns", "dns4", "dns6", "dnsaddr", "sni", "ip6zone"]), names).map(
        lambda pair: f"/{pair[0]}/{pair[1]}"
    ),
    peer_ids.map(lambda peer_id: f"/p2p/{peer_id}"),
    st.sampled_from(["/tls", "/noise", "/ws", "/quic-v1", "/p2p-circuit", "/webtransport"]),
    st.integers(0, 2**64 - 1).map(lambda number: f"/memory/{number}"),
    st.binary(min_size=1, max_size=20).map(
        lambda raw: "/http-path/" + "".join(f"%{byte:02X}" for byte in raw)
    ),
    st.binary(max_size=40).map(
        lambda digest: "/certhash/" + multibase.base64url(b"\x12" + bytes([len(digest)]) + digest)
    ),
)
texts = st.lists(parts, min_size=1, max_size=8).map("".join)


@given(st.integers(0, varint.MAX_VALUE), st.binary(max_size=4), st.binary(max_size=4))
def test_varint(value: int, before: bytes, after: bytes) -> None:
    encoded = varint.encode(value)
    assert varint.decode(before + encoded + after, len(before)) == (value, len(before) + len(encoded))


@given(st.binary(max_size=12))
def test_a_varint_that_decodes_is_the_only_encoding(data: bytes) -> None:
    try:
        value, end = varint.decode(data)
    except (varint.VarintIncomplete, varint.VarintInvalid):
        return
    assert varint.encode(value) == data[:end]


@given(st.binary(max_size=64))
def test_base64url(data: bytes) -> None:
    assert multibase.decode(multibase.base64url(data)) == data


@given(peer_ids)
def test_peer_ids(peer_id: PeerId) -> None:
    assert PeerId.parse(str(peer_id)) == peer_id == PeerId.from_bytes(peer_id.to_bytes())


@given(st.binary(max_size=42))
def test_what_is_inlined_in_an_id_is_a_whole_key_or_no_id(inlined: bytes) -> None:
    keys = (b"\x08\x01\x12\x20", 36), (b"\x08\x02\x12\x21", 37)
    is_key = any(inlined.startswith(head) and len(inlined) == size for head, size in keys)
    try:
        PeerId.from_bytes(bytes((0, len(inlined))) + inlined)
    except InvalidPeerId:
        assert not is_key
    else:
        assert is_key


@given(inlined_ids, st.data())
def test_a_cut_or_longer_id_is_none(peer_id: PeerId, data: st.DataObject) -> None:
    text = str(peer_id)
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    for mistyped in (cut, text + "x", text + text[-1]):
        with pytest.raises(InvalidPeerId):
            PeerId.parse(mistyped)


@given(texts)
def test_multiaddrs_text_bytes_components(text: str) -> None:
    addr = Multiaddr.parse(text)
    assert Multiaddr.from_bytes(addr.to_bytes()) == addr == Multiaddr.parse(str(addr))
    joined = "".join(f"/{name}" if value is None else f"/{name}/{value}" for name, value in addr.components())
    assert joined == str(addr)


@given(st.lists(parts, min_size=1, max_size=4).map("".join), texts)
def test_encapsulate_appends_in_both_forms(outer: str, inner: str) -> None:
    left, right = Multiaddr.parse(outer), Multiaddr.parse(inner)
    both = left.encapsulate(right)
    assert both == Multiaddr.parse(str(left) + str(right))
    assert both.to_bytes() == left.to_bytes() + right.to_bytes()


def _component(name: str, value: bytes) -> bytes:
    return BY_NAME[name].encode(value)


# The longest forms there are: escapes, letters of four bytes, names without a value, hashes, peer IDs.
bulky = st.one_of(
    st.binary(min_size=1, max_size=1500).map(lambda raw: _component("http-path", raw)),
    st.integers(1, 500).map(lambda count: _component("dns", "\U00010348".encode() * count)),
    st.integers(1, 1900).map(lambda count: _component("dns4", b"x" * count)),
    st.integers(1, 700).map(lambda count: _component("p2p-webrtc-direct", b"") * count),
    st.integers(0, 1900).map(
        lambda size: _component("certhash", b"\x12" + varint.encode(size) + bytes(size))
    ),
    st.integers(2, 1900).map(lambda size: _component("unix", b"/" + b"s" * (size - 1))),
    peer_ids.map(lambda peer_id: _component("p2p", peer_id.to_bytes())),
    st.just(_component("ip4", b"\x7f\0\0\1")),
)


@settings(max_examples=300)
@given(st.lists(bulky, min_size=1, max_size=6).map(b"".join))
def test_what_is_accepted_in_one_form_is_accepted_in_the_other(data: bytes) -> None:
    try:
        addr = Multiaddr.from_bytes(data)
    except InvalidMultiaddr:
        return
    assert Multiaddr.parse(str(addr)) == addr
    if not addr.has("unix"):  # nothing can follow one
        named = addr.with_peer_id(LONG_PEER)
        assert Multiaddr.parse(str(named)) == named == Multiaddr.from_bytes(named.to_bytes())
        assert addr.without_peer_id().to_bytes() == named.without_peer_id().to_bytes()


@settings(max_examples=300)
@given(st.lists(parts, min_size=1, max_size=60).map("".join), st.integers(1, 12))
def test_text_that_is_accepted_is_accepted_as_bytes(text: str, times: int) -> None:
    try:
        addr = Multiaddr.parse(text * times)
    except InvalidMultiaddr:
        return
    assert Multiaddr.from_bytes(addr.to_bytes()) == addr == Multiaddr.parse(str(addr))


@given(texts, peer_ids)
def test_with_and_without_peer_id(text: str, peer_id: PeerId) -> None:
    addr = Multiaddr.parse(text)
    named = addr.with_peer_id(peer_id)
    assert named.peer_id() == peer_id
    assert named.without_peer_id() == addr.without_peer_id()
    assert named.with_peer_id(peer_id) == named


@given(texts)
def test_every_question_has_an_answer(text: str) -> None:
    addr = Multiaddr.parse(text)
    tcp_endpoint(addr)
    unix_path(addr)
    is_relayed(addr)
    address_class(addr)


@given(st.one_of(ip4, ip6), ports)
def test_sockaddr_and_endpoint_are_inverse(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    addr = from_sockaddr((str(address), port))
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    seen = mapped or address
    endpoint = tcp_endpoint(addr)
    assert isinstance(endpoint, TcpEndpoint)
    assert (ipaddress.ip_address(endpoint.host), endpoint.port) == (seen, port)
    shorthand = f"[{seen}]:{port}" if seen.version == 6 else f"{seen}:{port}"
    assert parse_endpoint(shorthand) == addr


@given(st.text(max_size=60))
def test_any_text_is_an_endpoint_or_a_printable_sentence(text: str) -> None:
    try:
        parse_endpoint(text)
    except InvalidMultiaddr as exc:
        assert exc.message.isprintable()


@given(st.text(max_size=60))
def test_any_text_is_a_peer_or_a_printable_sentence(text: str) -> None:
    try:
        parse_peer(text)
    except (InvalidMultiaddr, InvalidPeerId) as exc:
        assert exc.message.isprintable()


@given(st.text(max_size=400))
def test_quotations_are_printable(text: str) -> None:
    assert quoted(text).isprintable()


@given(st.integers(0, 2**64 - 1), st.lists(texts, max_size=5))
def test_peer_records(seq: int, addresses: list[str]) -> None:
    record = PeerRecord(PEER, seq, tuple(dict.fromkeys(Multiaddr.parse(text) for text in addresses)))
    assert PeerRecord.from_signed(record.to_signed(KEY)) == record


@given(
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.binary(max_size=8),
    st.binary(max_size=64),
)
def test_envelopes_open_for_their_own_domain_only(domain: str, payload_type: bytes, payload: bytes) -> None:
    sealed = SignedEnvelope.from_bytes(SignedEnvelope.seal(KEY, domain, payload_type, payload).to_bytes())
    assert sealed.open(domain, payload_type) == (KEY.public_key, payload)
    for other in (domain + "x", "x" + domain):
        with pytest.raises(InvalidRecord):
            sealed.open(other, payload_type)
