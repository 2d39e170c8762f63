"""Any bytes, typed as PEER or as an address: a value that can be typed again, or a usage error, printable.

The bytes arrive as Python hands over a command line: what is not UTF-8 as lone surrogates.
"""

from __future__ import annotations

import json
from pathlib import Path

from p2pfwd.core.typed import parse_endpoint, parse_peer
from p2pfwd.errors import InvalidMultiaddr, InvalidPeerId

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/multiaddr.json").read_text())
SEEDS = [vector["text"].encode() for vector in VECTORS["ours"]]
SEEDS += [b"127.0.0.1:22", b"[::1]:22", b"[fe80::1%eth0]:22", b":22", b"22", b"localhost:22", b"host.name:22"]
SEEDS += [b"http://[::1]:80/", b"ssh://a@b", b"unix:/run/a.sock", b"/run/a.sock", b"1:h:2", b" 80 ", b"*:80"]
SEEDS += [b"/dnsaddr/example.com", b"/ipfs/QmcgpsyWgH8Y8ajJz1Cu72KnS5uo2Aa2LpzU7kinSupNKC"]
SEEDS += [b"12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"]


def one(data: bytes) -> None:
    """Parse `data` both ways and check the invariant."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        addr = parse_endpoint(text)
    except InvalidMultiaddr as exc:
        assert exc.message.isprintable() and exc.hint
    else:
        assert parse_endpoint(str(addr)) == addr
    try:
        peer_id, addr_or_none = parse_peer(text)
    except (InvalidMultiaddr, InvalidPeerId) as exc:
        assert exc.message.isprintable() and exc.hint
    else:
        again = f"{addr_or_none or ''}" + (f"/p2p/{peer_id}" if peer_id else "")
        assert parse_peer(again) == (peer_id, addr_or_none)


if __name__ == "__main__":
    from mutator import main

    main(one, SEEDS)
