"""Any bytes: decode gives a value whose encoding is exactly the bytes read, or a varint error.

Further: an incomplete varint stays incomplete only below nine bytes, so no reader waits for a tenth.
"""

from __future__ import annotations

import json
from pathlib import Path

from p2pfwd.core import varint

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/varint.json").read_text())
SEEDS = [bytes.fromhex(encoded) for _, encoded in VECTORS["valid"]]
SEEDS += [bytes.fromhex(encoded) for encoded, _ in VECTORS["invalid_hex"]]


def one(data: bytes) -> None:
    """Decode `data` and check the invariant."""
    try:
        value, end = varint.decode(data)
    except varint.VarintIncomplete:
        assert len(data) < varint.MAX_BYTES and all(byte & 0x80 for byte in data)
        return
    except varint.VarintInvalid:
        return
    assert varint.encode(value) == data[:end]
    assert varint.decode(memoryview(b"?" + data), 1) == (value, end + 1)


if __name__ == "__main__":
    from mutator import main

    main(one, SEEDS)
