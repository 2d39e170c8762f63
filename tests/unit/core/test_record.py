"""core.record: go's, our own and rust's envelopes; nothing forged, misattributed or oversized is believed."""

import json
from pathlib import Path
from typing import Any

import pytest

from p2pfwd.core.keys import KeyType, PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.pb import circuit_pb2, peer_record_pb2
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.record import (
    MAX_ENVELOPE_BYTES,
    MAX_RECORD_ADDRESSES,
    PEER_RECORD_DOMAIN,
    PEER_RECORD_TYPE,
    VOUCHER_DOMAIN,
    VOUCHER_TYPE,
    InvalidRecord,
    PeerRecord,
    SignedEnvelope,
)

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors/envelopes.json").read_text())
GO, OWN = VECTORS["go_record"], VECTORS["own_peer_record"]
KEY = PrivateKey.from_protobuf(bytes.fromhex(OWN["private_pb_hex"]))
PEER = PeerId.from_public_key(KEY.public_key)
ADDR = Multiaddr.parse("/ip4/1.2.3.4/tcp/1")
OTHER_ADDR = Multiaddr.parse("/ip4/1.2.3.5/tcp/1")


def signed(payload: bytes, key: PrivateKey = KEY) -> bytes:
    return SignedEnvelope.seal(key, PEER_RECORD_DOMAIN, PEER_RECORD_TYPE, payload).to_bytes()


def test_a_real_go_record_verifies_and_reencodes_byte_for_byte() -> None:
    record = PeerRecord.from_signed(bytes.fromhex(GO["envelope_hex"]))
    assert str(record.peer_id) == GO["peer_id"] and record.seq == GO["seq"]
    assert [addr.to_bytes().hex() for addr in record.addresses] == GO["addrs_hex"]
    key = PrivateKey.from_protobuf(bytes.fromhex(GO["private_pb_hex"]))
    assert record.to_signed(key).hex() == GO["envelope_hex"]


def test_our_record_is_the_published_one() -> None:
    record = PeerRecord(PEER, OWN["seq"], tuple(Multiaddr.parse(text) for text in OWN["addrs"]))
    assert record.to_bytes().hex() == OWN["payload_hex"]
    assert record.to_signed(KEY).hex() == OWN["envelope_hex"]
    assert PeerRecord.from_signed(bytes.fromhex(OWN["envelope_hex"])) == record


def test_a_relay_voucher_opens_in_its_own_domain_only() -> None:
    vector = VECTORS["own_relay_voucher"]
    envelope = SignedEnvelope.from_bytes(bytes.fromhex(vector["envelope_hex"]))
    key, payload = envelope.open(VOUCHER_DOMAIN, VOUCHER_TYPE)
    assert key == KEY.public_key and payload.hex() == vector["payload_hex"]
    voucher = circuit_pb2.ReservationVoucher.FromString(payload)
    assert str(PeerId.from_bytes(voucher.relay)) == vector["relay"]
    assert voucher.expiration == vector["expiration"]
    with pytest.raises(InvalidRecord, match="signature"):
        envelope.open(PEER_RECORD_DOMAIN, VOUCHER_TYPE)
    with pytest.raises(InvalidRecord, match="type"):
        envelope.open(VOUCHER_DOMAIN, PEER_RECORD_TYPE)


def test_rusts_legacy_record_is_refused_as_go_refuses_it() -> None:
    vector = VECTORS["own_rust_legacy_record"]
    data = bytes.fromhex(vector["envelope_hex"])
    with pytest.raises(InvalidRecord, match="type"):
        PeerRecord.from_signed(data)
    SignedEnvelope.from_bytes(data).open(vector["domain"], vector["payload_type"].encode())


@pytest.mark.parametrize("key_type", list(KeyType))
def test_every_key_type_signs_records(key_type: KeyType) -> None:
    key = PrivateKey.generate(key_type)
    record = PeerRecord(PeerId.from_public_key(key.public_key), 2**64 - 1, (ADDR,))
    assert PeerRecord.from_signed(record.to_signed(key)) == record


def test_every_flipped_bit_is_noticed() -> None:
    data = bytes.fromhex(OWN["envelope_hex"])
    original = PeerRecord.from_signed(data)
    for position in range(len(data) * 8):
        changed = bytearray(data)
        changed[position // 8] ^= 1 << position % 8
        try:
            record = PeerRecord.from_signed(bytes(changed))
        except InvalidRecord:
            continue
        assert record == original  # only what does not carry meaning may change


def test_a_record_about_somebody_else_is_refused() -> None:
    other = PeerId.from_public_key(PrivateKey.generate().public_key)
    with pytest.raises(InvalidRecord, match="not the peer's"):
        PeerRecord.from_signed(signed(PeerRecord(other, 1, (ADDR,)).to_bytes()))


def test_undecodable_addresses_are_left_out_one_by_one() -> None:
    message = peer_record_pb2.PeerRecord(peer_id=PEER.to_bytes(), seq=1)
    for data in (ADDR.to_bytes(), b"\xff\xff\x03", b"", ADDR.to_bytes() + b"\x06"):
        message.addresses.add(multiaddr=data)
    message.addresses.add()
    message.addresses.add(multiaddr=OTHER_ADDR.to_bytes())
    assert PeerRecord.from_signed(signed(message.SerializeToString())).addresses == (ADDR, OTHER_ADDR)


def test_the_number_of_addresses_is_bounded() -> None:
    addrs = tuple(Multiaddr.parse(f"/tcp/{port}") for port in range(MAX_RECORD_ADDRESSES + 1))
    record = PeerRecord(PEER, 1, addrs)
    assert len(PeerRecord.from_bytes(record.to_bytes()).addresses) == MAX_RECORD_ADDRESSES


@pytest.mark.parametrize("data", ["", "00", "ff", "0a00", "1202", "0a02ffff", "12020301", "0a0408011200"])
def test_garbage_is_a_remote_fault(data: str) -> None:
    with pytest.raises(InvalidRecord):
        PeerRecord.from_signed(bytes.fromhex(data))


@pytest.mark.parametrize("payload", [b"", b"\xff", b"\x0a\x00", b"\x0a\x02\x00\x00"])
def test_a_well_signed_payload_without_a_peer_id_is_refused(payload: bytes) -> None:
    with pytest.raises(InvalidRecord, match="peer ID"):
        PeerRecord.from_signed(signed(payload))


def test_an_oversized_envelope_is_refused_undecoded() -> None:
    with pytest.raises(InvalidRecord, match="longer than"):
        SignedEnvelope.from_bytes(bytes(MAX_ENVELOPE_BYTES + 1))
