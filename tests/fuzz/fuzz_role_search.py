"""Any bytes on a connection that both ends have dialed, in any pieces: one role, and nothing of them lost.

The first byte says how the rest is cut. Whoever follows multistream in them is understood by the negotiation.
"""

from __future__ import annotations

from p2pfwd.errors import ProtocolNotSupported, RemoteProtocolError
from p2pfwd.wire.multistream import HEADER, ListenerNegotiation, encode_token
from p2pfwd.wire.role_search import Role, RoleSearch

PROPOSALS = ("/noise", "/tls/1.0.0")
SEEDS = [
    b"\x00" + HEADER,
    b"\x01" + HEADER + encode_token("/noise"),
    b"\x04" + HEADER + encode_token("/tls/1.0.0") + b"\x16\x03\x01",
    b"\x02" + HEADER[:7],
    b"\x07" + b"SSH-2.0-x\r\n",
]


def one(data: bytes) -> None:
    """Listen to `data`, then take the role and negotiate."""
    how, wire = (data[0], data[1:]) if data else (0, b"")
    step = how % 32 + 1
    search = RoleSearch()
    assert search.start() == HEADER
    at = 0
    while at < len(wire) and search.role is Role.LISTENING:
        search.receive(wire[at : at + step])
        at += step
    search.timed_out()
    heard = wire[:at]
    assert search.role is (Role.DIALER if heard == HEADER[: len(heard)] else Role.LISTENER)
    negotiation, first, received = search.negotiation(PROPOSALS, PROPOSALS.__contains__)
    assert received == heard
    assert isinstance(negotiation, ListenerNegotiation) == (first == b"") == (search.role is Role.LISTENER)
    try:
        negotiation.receive(received)
        negotiation.receive(wire[at:])
    except (RemoteProtocolError, ProtocolNotSupported) as exc:
        assert exc.message.isprintable()
        return
    if negotiation.selected is not None:
        assert negotiation.selected in PROPOSALS and wire.endswith(negotiation.leftover())


if __name__ == "__main__":
    from mutator import main

    main(one, SEEDS)
