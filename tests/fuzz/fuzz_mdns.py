"""Any bytes, as a multicast DNS datagram: what they say is within all bounds, or they are refused.

Further: what is read survives writing and reading again; nothing but private addresses is ever believed.
"""

from __future__ import annotations

import json
from pathlib import Path

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import RemoteProtocolError
from p2pfwd.wire import dns_message, mdns

CAPTURES = json.loads((Path(__file__).parents[1] / "vectors/mdns_captures.json").read_text())
PEER = PeerId.parse(CAPTURES["kubo"]["peer"])
ADDRS = [Multiaddr.parse(text) for text in ("/ip4/10.0.0.1/tcp/4011", "/ip6/fd00::1/tcp/4011")]
SEEDS = [
    *(bytes.fromhex(text) for node in ("kubo", "js") for text in list(CAPTURES[node].values())[2:]),
    mdns.query(7),
    mdns.answer(b"a" * 32, PEER, ADDRS),
    mdns.directory_answer(),
]


def one(data: bytes) -> None:
    """Read `data` and check the invariant."""
    try:
        message = dns_message.decode(data)
    except RemoteProtocolError as exc:
        assert exc.message.isprintable()
    else:
        if message is not None:
            assert len(message.questions) + len(message.records) <= dns_message.MAX_RECORDS
            assert dns_message.decode(dns_message.encode(message)) == message
    try:
        heard = mdns.hear(data, from_here=False)
    except RemoteProtocolError:
        return
    assert len(heard.peers) <= mdns.MAX_PEERS
    for peer in heard.peers:
        assert len(peer.addrs) <= mdns.MAX_TOLD_ADDRESSES
        assert all(address_class(addr) is AddressClass.PRIVATE for addr in peer.addrs)
    assert mdns.hear(data, from_here=True).peers or not heard.peers


if __name__ == "__main__":
    from mutator import main

    main(one, SEEDS)
