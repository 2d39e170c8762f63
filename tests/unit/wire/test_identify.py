"""Identify: real Kubo messages, trimming to what rust reads, piecewise leniency, and whom to believe."""

import json
from pathlib import Path

import pytest

from p2pfwd.core import varint
from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.pb.identify_pb2 import Identify
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.record import PeerRecord
from p2pfwd.errors import InvalidMultiaddr, RemoteProtocolError
from p2pfwd.wire import identify
from p2pfwd.wire.identify import IdentifyMessage, decode, encode, verify

VECTORS = Path(__file__).parents[2] / "vectors"
CAPTURE = json.loads((VECTORS / "kubo022_capture.json").read_text())


def undelimited(hexed: str) -> bytes:
    data = bytes.fromhex(hexed)
    length, start = varint.decode(data)
    assert start + length == len(data)
    return data[start:]


def addr(port: int) -> Multiaddr:
    return Multiaddr.parse(f"/ip4/192.0.2.1/tcp/{port}")


@pytest.fixture(scope="module")
def key() -> PrivateKey:
    return PrivateKey.generate()


def test_an_identify_of_a_real_kubo_is_read_and_its_record_believed() -> None:
    peer = PeerId.parse(CAPTURE["identity_ed25519"]["PeerID"])
    msg = decode(undelimited(CAPTURE["identify_delimited_hex"]))
    assert msg.public_key is not None
    assert msg.public_key.hex() == CAPTURE["noise_msg2_payload_fields"]["1"][0]
    assert {"/ipfs/id/1.0.0", "/ipfs/ping/1.0.0", "/ipfs/id/push/1.0.0"} <= set(msg.protocols)
    assert str(msg.observed_addr) == "/ip4/11.3.0.1/tcp/7777"
    addrs, certified = verify(msg, peer)
    assert certified
    assert addrs == msg.listen_addrs != ()


def test_over_a_relay_kubo_reports_the_circuit_as_observed_address() -> None:
    msg = decode(undelimited(CAPTURE["identify_over_relay_delimited_hex"]))
    assert str(msg.observed_addr).endswith("/p2p-circuit")
    assert verify(msg, PeerId.parse(CAPTURE["identity_rsa"]["PeerID"]))[1]


def test_the_hand_encoded_frame_is_reproduced_to_the_byte() -> None:
    frames = json.loads((VECTORS / "frames.json").read_text())["frames"]
    data = undelimited(next(e["hex"] for e in frames if e["name"] == "identify"))
    msg = decode(data)
    assert msg.protocols == ("/ipfs/id/1.0.0", "/ipfs/ping/1.0.0")
    assert (msg.protocol_version, msg.agent_version) == ("ipfs/0.1.0", "p2pfwd/0.1")
    assert [str(a) for a in msg.listen_addrs] == [str(msg.observed_addr)] == ["/ip4/192.0.2.1/tcp/4001"]
    assert encode(msg) == data


def test_an_empty_message_round_trips_without_inventing_fields() -> None:
    assert encode(IdentifyMessage()) == b""
    assert decode(b"") == IdentifyMessage()


def test_a_long_message_loses_addresses_before_protocols_and_keeps_the_rest(key: PrivateKey) -> None:
    addrs = tuple(addr(port) for port in range(1000, 1400))
    protocols = tuple(f"/x/protocol-number-{i}" for i in range(100))
    msg = IdentifyMessage(b"k" * 36, addrs, protocols, addr(1), "ipfs/0.1.0", "p2pfwd/1", b"r" * 1000)
    sent = encode(msg)
    assert len(sent) <= identify.MAX_SENT_BYTES
    got = decode(sent)
    assert got.listen_addrs == addrs[: len(got.listen_addrs)] != ()
    assert got.protocols == protocols[: len(got.protocols)]
    assert got.listen_addrs == () or got.protocols == protocols
    assert (got.public_key, got.observed_addr, got.agent_version) == (b"k" * 36, addr(1), "p2pfwd/1")
    assert got.signed_peer_record == b"r" * 1000


def test_protocols_go_only_when_no_address_is_left() -> None:
    protocols = tuple(f"/x/{i}/" + "p" * 90 for i in range(60))
    got = decode(encode(IdentifyMessage(listen_addrs=(addr(1), addr(2)), protocols=protocols)))
    assert got.listen_addrs == ()
    assert got.protocols == protocols[: len(got.protocols)]
    assert 0 < len(got.protocols) < 60


def test_an_oversized_record_gives_way_to_the_plain_addresses() -> None:
    msg = IdentifyMessage(listen_addrs=(addr(1),), protocols=("/a",), signed_peer_record=b"r" * 5000)
    assert decode(encode(msg)) == IdentifyMessage(listen_addrs=(addr(1),), protocols=("/a",))


def test_what_cannot_be_understood_is_left_out_piece_by_piece() -> None:
    message = Identify(
        listen_addrs=[
            addr(1).to_bytes(),
            b"",
            b"\xff\xff\x7f",
            b"\x04\x01",
            addr(2).to_bytes(),
            addr(1).to_bytes(),
        ],
        protocols=["/a", "", "/" + "x" * 1024, "/b", "/a"],
        observed_addr=b"\x04",
        agent_version="x" * 1000,
    )
    not_utf8 = b"\x1a\x02\xff\xfe" + b"\x2a\x02v\xff"
    msg = decode(message.SerializeToString() + not_utf8)
    assert msg.listen_addrs == (addr(1), addr(2))
    assert msg.protocols == ("/a", "/b")
    assert msg.observed_addr is None
    assert msg.agent_version == "x" * identify.MAX_VERSION_CHARS
    assert msg.protocol_version == "v\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05abc", b"\x0b", bytes(identify.MAX_MESSAGE_BYTES + 1)])
def test_bytes_that_are_no_message_are_remote_blame(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(data)


def test_several_messages_join_lists_and_the_last_of_single_fields_counts() -> None:
    first = IdentifyMessage(b"k", (addr(1), addr(2)), ("/a",), addr(9), "1", "one")
    second = IdentifyMessage(None, (addr(2), addr(3)), ("/b", "/a"), None, None, "two", b"record")
    merged = decode(encode(first), encode(second))
    assert merged == IdentifyMessage(
        b"k", (addr(1), addr(2), addr(3)), ("/a", "/b"), addr(9), "1", "two", b"record"
    )
    assert decode() == IdentifyMessage()


def test_what_is_looked_at_is_bounded_over_all_messages_and_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # HOUSE M8: 80 KB of addresses cost 36 ms, 8,000 of them decoded to keep 500; odd ones cost as much.
    looked_at = 0

    def count(data: bytes) -> Multiaddr:
        nonlocal looked_at
        looked_at += 1
        raise InvalidMultiaddr("odd")

    monkeypatch.setattr(Multiaddr, "from_bytes", count)
    addresses = Identify(listen_addrs=[b"\xff"] * 2000, protocols=["/" + "x" * 1024]).SerializeToString()
    names = Identify(protocols=[f"/{n}" for n in range(1000)]).SerializeToString()
    merged = decode(addresses, addresses, names, names, names)
    assert looked_at == identify.MAX_ADDRESSES
    assert len(merged.protocols) < identify.MAX_PROTOCOLS


def test_only_a_valid_record_of_the_peer_itself_replaces_the_plain_addresses(key: PrivateKey) -> None:
    peer = PeerId.from_public_key(key.public_key)
    other_key = PrivateKey.generate()
    other = PeerId.from_public_key(other_key.public_key)
    plain = (addr(1),)
    good = PeerRecord(peer, 1, (addr(2),)).to_signed(key)
    altered = good[:-1] + bytes([good[-1] ^ 1])
    of_another = PeerRecord(other, 1, (addr(3),)).to_signed(other_key)
    stolen = PeerRecord(peer, 1, (addr(3),)).to_signed(other_key)

    def believed(record: bytes | None) -> tuple[tuple[Multiaddr, ...], bool]:
        return verify(IdentifyMessage(listen_addrs=plain, signed_peer_record=record), peer)

    assert believed(good) == ((addr(2),), True)
    for record in (None, b"", b"\xff", altered, of_another, stolen):
        assert believed(record) == (plain, False)


def test_a_record_under_rusts_legacy_domain_counts_as_none() -> None:
    envelopes = json.loads((VECTORS / "envelopes.json").read_text())
    key = PrivateKey.from_protobuf(bytes.fromhex(envelopes["own_peer_record"]["private_pb_hex"]))
    legacy, record = (
        IdentifyMessage(
            listen_addrs=(addr(1),), signed_peer_record=bytes.fromhex(envelopes[n]["envelope_hex"])
        )
        for n in ("own_rust_legacy_record", "own_peer_record")
    )
    peer = PeerId.from_public_key(key.public_key)
    assert verify(record, peer)[1]
    assert verify(legacy, peer) == ((addr(1),), False)
