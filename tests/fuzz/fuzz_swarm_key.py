"""Any bytes, read as a swarm.key file: a key that is written and read back as itself, or InvalidKey.

Further: no message shows what is in the file.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

from p2pfwd.core.swarm_key import PSK_BYTES, SwarmKey
from p2pfwd.errors import InvalidKey

VECTOR = json.loads((Path(__file__).parents[1] / "vectors/pnet.json").read_text())
TEXT = VECTOR["swarm_key"].encode()
PSK = SwarmKey.parse(TEXT).psk
TYPE = b"/key/swarm/psk/1.0.0/\n"
SEEDS = [text.encode() for text in VECTOR["bad_files"]]
SEEDS += [TEXT, TYPE + b"/base64/\n" + base64.b64encode(PSK), TYPE + b"/bin/\n" + PSK]
MESSAGES = ("the first line must be", "the second line must be", "what follows /base", "the key has ")


def one(data: bytes) -> None:
    """Read `data` and check the invariant."""
    try:
        key = SwarmKey.parse(data)
    except InvalidKey as exc:
        assert exc.message.isprintable() and exc.message.startswith(MESSAGES) and len(exc.message) < 80
        return
    assert len(key.psk) == PSK_BYTES
    assert SwarmKey.parse(key.encode()) == key


if __name__ == "__main__":
    from mutator import main

    main(one, SEEDS)
