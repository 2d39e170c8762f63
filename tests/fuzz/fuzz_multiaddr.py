"""Any bytes, read as a binary multiaddr and as text: a value that survives both forms, or InvalidMultiaddr.

Further: every question can be asked of what was accepted, its text and every error are printable, and
binary input that was accepted is re-encoded byte for byte.
"""

from __future__ import annotations

import json
from pathlib import Path

from p2pfwd.core.multiaddrs import Multiaddr, address_class, is_relayed, tcp_endpoint, unix_path
from p2pfwd.errors import InvalidMultiaddr

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/multiaddr.json").read_text())
GOOD = [*VECTORS["valid"], *VECTORS["rust_valid"], *VECTORS["ours"]]
SEEDS = [bytes.fromhex(vector["hex"]) for vector in GOOD if "hex" in vector]
SEEDS += [vector["text"].encode() for vector in GOOD] + [text.encode() for text in VECTORS["invalid"]]


def one(data: bytes) -> None:
    """Read `data` both ways and check the invariant."""
    try:
        addr = Multiaddr.from_bytes(data)
    except InvalidMultiaddr as exc:
        assert exc.message.isprintable()
    else:
        assert addr.to_bytes() == data
        _check(addr)
    try:
        addr = Multiaddr.parse(data.decode("utf-8", "surrogateescape"))
    except InvalidMultiaddr as exc:
        assert exc.message.isprintable()
    else:
        _check(addr)


def _check(addr: Multiaddr) -> None:
    assert str(addr).isprintable()
    assert Multiaddr.parse(str(addr)) == addr == Multiaddr.from_bytes(addr.to_bytes())
    assert len(addr.components()) > 0
    peer_id = addr.peer_id()
    assert peer_id is None or addr.with_peer_id(peer_id) == addr
    tcp_endpoint(addr)
    unix_path(addr)
    is_relayed(addr)
    address_class(addr)


if __name__ == "__main__":
    from mutator import main

    main(one, SEEDS)
