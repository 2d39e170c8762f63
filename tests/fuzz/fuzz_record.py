"""Any bytes, read as a signed peer record: a record whose signature really verifies, or InvalidRecord.

Further: no mutation yields a record that differs from one of those truly signed, and the unsigned
payload decodes or is an InvalidRecord too.
"""

from __future__ import annotations

import json
from pathlib import Path

from p2pfwd.core.record import InvalidRecord, PeerRecord, SignedEnvelope

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/envelopes.json").read_text())
ENVELOPES = [bytes.fromhex(vector["envelope_hex"]) for vector in VECTORS.values() if "envelope_hex" in vector]
SEEDS = ENVELOPES + [bytes.fromhex(VECTORS[name]["payload_hex"]) for name in ("go_record", "own_peer_record")]
TRUE_RECORDS = [
    PeerRecord.from_signed(bytes.fromhex(VECTORS[name]["envelope_hex"]))
    for name in ("go_record", "own_peer_record")
]


def one(data: bytes) -> None:
    """Read `data` every way and check the invariant."""
    try:
        record = PeerRecord.from_signed(data)
    except InvalidRecord as exc:
        assert exc.message.isprintable()
    else:
        assert record in TRUE_RECORDS
    try:
        envelope = SignedEnvelope.from_bytes(data)
    except InvalidRecord as exc:
        assert exc.message.isprintable()
    else:
        assert SignedEnvelope.from_bytes(envelope.to_bytes()) == envelope
    try:
        record = PeerRecord.from_bytes(data)
    except InvalidRecord as exc:
        assert exc.message.isprintable()
    else:
        assert PeerRecord.from_bytes(record.to_bytes()) == record


if __name__ == "__main__":
    from mutator import main

    main(one, SEEDS)
