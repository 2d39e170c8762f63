"""Any bytes, as each message of a relay, its clients and targets: within bounds, and the same when sent on.

Further: a voucher that is believed was signed by the relay that it names.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2pfwd.core.keys import KeyType, PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.record import InvalidRecord
from p2pfwd.errors import InvalidKey, RemoteProtocolError
from p2pfwd.wire import circuit
from p2pfwd.wire.circuit import HopAnswer, HopRequest, Limit, Reservation, Status, StopRequest, Voucher

KEY = PrivateKey(KeyType.ED25519, Ed25519PrivateKey.from_private_bytes(bytes(32)))
RELAY = PeerId.from_public_key(KEY.public_key)
VOUCHER = Voucher(RELAY, RELAY, 1_800_000_000).to_signed(KEY)
ADDRS = tuple(map(Multiaddr.parse, ("/ip4/192.0.2.1/tcp/4011", "/ip6/2001:db8::1/udp/4011/quic-v1")))
LIMIT = Limit(120, 1 << 17)
SEEDS = [
    circuit.encode_hop_request(HopRequest()),
    circuit.encode_hop_request(HopRequest(RELAY)),
    circuit.encode_hop_answer(HopAnswer(Status.OK, Reservation(1_800_000_000, ADDRS, VOUCHER), LIMIT)),
    circuit.encode_hop_answer(HopAnswer(Status.NO_RESERVATION)),
    circuit.encode_stop_request(StopRequest(RELAY, LIMIT)),
    circuit.encode_stop_answer(Status.PERMISSION_DENIED),
    VOUCHER,
]


def one(data: bytes) -> None:
    """Read `data` as everything and check the invariant."""
    for decode, encode in (
        (circuit.decode_hop_request, circuit.encode_hop_request),
        (circuit.decode_hop_answer, circuit.encode_hop_answer),
        (circuit.decode_stop_request, circuit.encode_stop_request),
        (circuit.decode_stop_answer, circuit.encode_stop_answer),
    ):
        try:
            message = decode(data)
        except RemoteProtocolError as exc:
            assert exc.message.isprintable()
            continue
        if isinstance(message, HopAnswer) and message.reservation is not None:
            assert len(message.reservation.addrs) <= circuit.MAX_ADDRESSES
        assert decode(encode(message)) == message  # type: ignore[operator]
    try:
        voucher = Voucher.from_signed(data)
    except (InvalidRecord, InvalidKey) as exc:
        assert exc.message.isprintable()
        return
    assert voucher == Voucher(RELAY, RELAY, 1_800_000_000), "nobody else has the key"


if __name__ == "__main__":
    from mutator import main

    main(one, SEEDS)
