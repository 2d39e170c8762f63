"""Any bytes, as a peer's TLS certificate: HandshakeFailed, or the identity of a true certificate."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from p2pfwd.errors import HandshakeFailed
from p2pfwd.wire.tls.certificate import verify_certificate

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/tls_certs.json").read_text())
NOW = datetime(2026, 6, 1, tzinfo=UTC)
ENTRIES = VECTORS["vectors"] + VECTORS["signature_algorithm_assets"]
SEEDS = [bytes.fromhex(entry["der_hex"]) for entry in ENTRIES]
TRUE_KEYS = {
    verify_certificate(bytes.fromhex(entry["der_hex"]), NOW)
    for entry in ENTRIES
    if entry.get("valid") or entry["name"] == "rsa_pss_sha384.der"
}


def one(data: bytes) -> None:
    """Verify `data` and check the invariant."""
    try:
        key = verify_certificate(data, NOW)
    except HandshakeFailed as exc:
        assert exc.message.isprintable()
    else:
        assert key in TRUE_KEYS


if __name__ == "__main__":
    from mutator import main

    main(one, SEEDS)
