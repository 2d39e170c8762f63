"""Any bytes, read as a multihash and as text: an ID that survives both forms, or InvalidPeerId."""

from __future__ import annotations

import json
from pathlib import Path

from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import InvalidPeerId

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/keys_peerids.json").read_text())
FORMS = [*VECTORS["text_forms"], *VECTORS["vectors"]]
SEEDS = [vector[form].encode() for vector in FORMS for form in ("base58", "cid_base32", "cid_base36")]
SEEDS += [bytes.fromhex(vector["multihash_hex"]) for vector in VECTORS["text_forms"]]


def one(data: bytes) -> None:
    """Read `data` both ways and check the invariant."""
    try:
        peer_id = PeerId.from_bytes(data)
    except InvalidPeerId as exc:
        assert exc.message.isprintable()
    else:
        assert peer_id.to_bytes() == data
        _check(peer_id)
    try:
        peer_id = PeerId.parse(data.decode("utf-8", "surrogateescape"))
    except InvalidPeerId as exc:
        assert exc.message.isprintable()
    else:
        _check(peer_id)


def _check(peer_id: PeerId) -> None:
    assert PeerId.parse(str(peer_id)) == peer_id == PeerId.from_bytes(peer_id.to_bytes())
    key = peer_id.public_key()
    assert key is None or len(key.to_protobuf()) > 0


if __name__ == "__main__":
    from mutator import main

    main(one, SEEDS)
