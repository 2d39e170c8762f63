"""Any bytes, as an AutoNAT v2 message: a message within all bounds, or a refusal.

Further: whatever is asked for, only an address at the asker's own IP is dialed.
"""

from __future__ import annotations

from p2pfwd.core.multiaddrs import Multiaddr, tcp_endpoint
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import RemoteProtocolError
from p2pfwd.wire import autonat2

PEER = PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes(31) + b"\x01")
SEEN = Multiaddr.parse("/ip4/11.0.0.1/tcp/50000")
ADDRS = tuple(Multiaddr.parse(text) for text in ("/ip4/11.0.0.1/tcp/4011", "/ip4/11.0.0.2/tcp/22"))
WORKED = autonat2.Response(autonat2.Status.OK, 1, autonat2.DialStatus.OK)
SEEDS = [
    autonat2.encode_request(autonat2.Request(ADDRS, 2**63)),
    autonat2.encode_response(WORKED),
    autonat2.encode_data_request(autonat2.DataRequest(0, 50_000)),
    autonat2.encode_back(2**63),
]


def one(data: bytes) -> None:
    """Read `data` every way and check the invariant."""
    try:
        request = autonat2.decode_request(data)
    except RemoteProtocolError as exc:
        assert exc.message.isprintable()
    else:
        assert len(request.addrs) <= autonat2.MAX_ADDRESSES
        index = autonat2.address_to_dial(request, PEER, SEEN)
        if index is not None:
            addr = request.addrs[index]
            endpoint = None if addr is None else tcp_endpoint(addr)
            assert endpoint is not None and endpoint.host == "11.0.0.1" and endpoint.port
    try:
        answer = autonat2.decode_answer(data)
    except RemoteProtocolError as exc:
        assert exc.message.isprintable()
    else:
        assert isinstance(answer, autonat2.Response | autonat2.DataRequest)
    try:
        nonce = autonat2.decode_back(data)
    except RemoteProtocolError as exc:
        assert exc.message.isprintable()
    else:
        assert 0 <= nonce < 2**64


if __name__ == "__main__":
    from mutator import main

    main(one, SEEDS)
