"""Any bytes, as an AutoNAT message: a message within all bounds that survives sending again, or a refusal.

Further: whatever is asked for, only addresses at the asker's own IP are dialed.
"""

from __future__ import annotations

from p2pfwd.core.multiaddrs import Multiaddr, tcp_endpoint
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import RemoteProtocolError
from p2pfwd.wire import autonat

PEER = PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes(31) + b"\x01")
SEEN = Multiaddr.parse("/ip4/11.0.0.1/tcp/50000")
ADDRS = tuple(Multiaddr.parse(text) for text in ("/ip4/11.0.0.1/tcp/4011", "/ip4/11.0.0.2/tcp/22"))
SEEDS = [
    autonat.encode_request(autonat.DialRequest(PEER, ADDRS)),
    autonat.encode_answer(autonat.DialAnswer(autonat.Status.OK, "words", ADDRS[0])),
    autonat.encode_answer(autonat.DialAnswer(autonat.Status.DIAL_ERROR, "no")),
]


def one(data: bytes) -> None:
    """Read `data` both ways and check the invariant."""
    try:
        request = autonat.decode_request(data)
    except RemoteProtocolError as exc:
        assert exc.message.isprintable()
    else:
        assert len(request.addrs) <= autonat.MAX_ADDRESSES
        assert autonat.decode_request(autonat.encode_request(request)) == request
        for addr in autonat.addresses_to_dial(request, SEEN):
            endpoint = tcp_endpoint(addr)
            assert endpoint is not None and endpoint.host == "11.0.0.1" and endpoint.port
    try:
        answer = autonat.decode_answer(data)
    except RemoteProtocolError as exc:
        assert exc.message.isprintable()
    else:
        assert len(answer.text) <= autonat.MAX_STATUS_CHARS


if __name__ == "__main__":
    from mutator import main

    main(one, SEEDS)
