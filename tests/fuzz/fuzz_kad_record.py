"""Any bytes, as a key and a value that a stranger wants kept in the DHT: a peer's own key, or blame.

The first byte says how long the key is.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2pfwd.core.keys import KeyType, PrivateKey
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import P2PForwardError
from p2pfwd.wire.kad.messages import Record
from p2pfwd.wire.kad.records import validate

PUBLIC = PrivateKey(KeyType.ED25519, Ed25519PrivateKey.from_private_bytes(bytes(32))).public_key
KEY = b"/pk/" + PeerId.from_public_key(PUBLIC).to_bytes()
SEEDS = [bytes([len(KEY)]) + KEY + PUBLIC.to_protobuf(), b"\x04/pk/", b"\x06/ipns/" + bytes(34)]


def one(data: bytes) -> None:
    """Validate `data` as a record."""
    size, rest = (data[0], data[1:]) if data else (0, b"")
    record = Record(rest[:size], rest[size:])
    try:
        peer = validate(record)
    except P2PForwardError as exc:
        assert exc.message.isprintable()
        return
    assert record.key == b"/pk/" + peer.to_bytes()


if __name__ == "__main__":
    from mutator import main

    main(one, SEEDS)
