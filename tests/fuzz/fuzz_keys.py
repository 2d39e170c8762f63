"""Any bytes, read as a public and as a private key: one whose canonical form reads as itself, or InvalidKey.

Further: verifying with any accepted public key gives False for nonsense and never raises.
"""

from __future__ import annotations

import json
from pathlib import Path

from p2pfwd.core.keys import PrivateKey, PublicKey
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import InvalidKey

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/keys_peerids.json").read_text())
SEEDS = [bytes.fromhex(vector["public_pb_hex"]) for vector in VECTORS["vectors"]]
# No RSA private keys: checking the primes of one takes a tenth of a second.
SEEDS += [bytes.fromhex(vector["private_pb_hex"]) for vector in VECTORS["vectors"] if vector["key_type"] != 0]


def one(data: bytes) -> None:
    """Read `data` both ways and check the invariant."""
    try:
        public = PublicKey.from_protobuf(data)
    except InvalidKey as exc:
        assert exc.message.isprintable()
    else:
        assert PublicKey.from_protobuf(public.to_protobuf()) == public
        assert PeerId.from_public_key(public).matches(public)
        assert not public.verify(b"message", data[:64])
    try:
        private = PrivateKey.from_protobuf(data)
    except InvalidKey as exc:
        assert exc.message.isprintable()
    else:
        assert PrivateKey.from_protobuf(private.to_protobuf()).public_key == private.public_key


if __name__ == "__main__":
    from mutator import main

    main(one, SEEDS)
