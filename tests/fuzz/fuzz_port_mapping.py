"""Any bytes, as a router's NAT-PMP or PCP answer: one to what was asked, within bounds, or none at all."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from p2pfwd.errors import RemoteProtocolError
from p2pfwd.wire import port_mapping as wire

NONCE = bytes(range(12))
PART = NONCE + bytes.fromhex("060000000fab0fab00000000000000000000ffff0b010001")
SEEDS = [
    bytes.fromhex("00820000000000070fab0fab00001c20"),
    bytes.fromhex("00800000000000070b010001"),
    bytes.fromhex("0081000100000007"),
    bytes.fromhex("0281000000001c2000000007") + bytes(12) + PART,
    bytes.fromhex("02810002000007080000000700") + bytes(11) + PART,
    bytes.fromhex("028000000000000000000007") + bytes(12),
    wire.encode_pcp_map("10.1.0.2", NONCE, 4011, 4011, 7200),
    wire.encode_pmp_map(4011, 4011, 7200),
]


def one(data: bytes) -> None:
    """Read `data` as each of the answers and check the invariant."""
    wire.heard_epoch(data)
    readers: list[Callable[[], object]] = [
        lambda: wire.decode_pmp_address(data),
        lambda: wire.decode_pmp_map(data, 4011),
        lambda: wire.decode_pcp_announce(data),
        lambda: wire.decode_pcp_map(data, NONCE, 4011),
    ]
    for read in readers:
        try:
            said = read()
        except RemoteProtocolError as exc:
            assert exc.message.isprintable()
            continue
        if isinstance(said, wire.Mapped):
            assert said.internal_port == 4011 and (said.external_port or not said.lifetime_s)
            assert said.host is None or NONCE in data
        if isinstance(said, wire.Mapped | wire.ExternalAddress) and said.host is not None:
            ipaddress.IPv4Address(said.host)
        if isinstance(said, wire.Refusal):
            assert said.code and said.words.isprintable()


if __name__ == "__main__":
    from mutator import main

    main(one, SEEDS)
