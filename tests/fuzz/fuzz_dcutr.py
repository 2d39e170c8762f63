"""Any bytes, as a message of hole punching: one within all bounds that survives sending again, or a refusal.

Further: whatever addresses come, only direct public ones are dialed, a few, at one host of each family.
"""

from __future__ import annotations

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class, is_relayed, tcp_endpoint
from p2pfwd.errors import RemoteProtocolError
from p2pfwd.policy import punching
from p2pfwd.wire import dcutr
from p2pfwd.wire.dcutr import HolePunch, Kind

TEXTS = (
    "/ip4/11.0.0.1/tcp/4011",
    "/ip4/192.168.1.2/tcp/22",
    "/ip6/2a11::1/tcp/4011",
    "/ip4/11.0.0.2/udp/4011/quic-v1",
    "/ip4/11.0.0.3/tcp/4011/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA/p2p-circuit",
)
SEEDS = [
    dcutr.encode(HolePunch(Kind.CONNECT, tuple(map(Multiaddr.parse, TEXTS)))),
    dcutr.encode(HolePunch(Kind.CONNECT)),
    dcutr.encode(HolePunch(Kind.SYNC)),
]


def one(data: bytes) -> None:
    """Read `data` as both kinds and check the invariant."""
    for kind in Kind:
        try:
            message = dcutr.decode(data, kind)
        except RemoteProtocolError as exc:
            assert exc.message.isprintable()
            continue
        assert len(message.addrs) <= dcutr.MAX_ADDRESSES
        assert dcutr.decode(dcutr.encode(message), kind) == message
        targets = punching.targets(message.addrs, message.addrs, is_own=False)
        endpoints = [tcp_endpoint(addr) for addr in targets]
        assert len(targets) <= punching.MAX_TARGETS
        assert all(address_class(addr) is AddressClass.PUBLIC and not is_relayed(addr) for addr in targets)
        assert len({(one.family, one.host) for one in endpoints if one is not None}) <= 2


if __name__ == "__main__":
    from mutator import main

    main(one, SEEDS)
