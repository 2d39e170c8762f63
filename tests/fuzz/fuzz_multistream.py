"""Any bytes, to either role of multistream-select: in every chunking the same bounded answer or refusal.

Further: a selection is a name the role could agree to, and what followed it is handed on untouched.
"""

from __future__ import annotations

from collections.abc import Callable

from p2pfwd.errors import ProtocolNotSupported, RemoteProtocolError
from p2pfwd.wire.multistream import (
    HEADER,
    DialerNegotiation,
    ListenerNegotiation,
    SoleProposal,
    encode_token,
)

NAMES = ("/noise", "/x/web")
NA = encode_token("na")
SEEDS = [
    HEADER + encode_token("/noise"),
    HEADER + NA + encode_token("/x/web") + b"payload",
    HEADER + encode_token("/libp2p/simultaneous-connect") + encode_token("/x/web") + b"\x16\x03\x01",
    HEADER + encode_token("ls") + encode_token("/" + "n" * 1000),
    HEADER * 2,
]
Kind = Callable[[], DialerNegotiation | ListenerNegotiation | SoleProposal]


def dialer() -> DialerNegotiation:
    return DialerNegotiation(NAMES)


def listener() -> ListenerNegotiation:
    return ListenerNegotiation(NAMES.__contains__)


def quick() -> SoleProposal:
    return SoleProposal(NAMES[0])


def slow() -> DialerNegotiation:
    return DialerNegotiation(NAMES[:1])


def outcome(make: Kind, data: bytes, step: int) -> object:
    negotiation = make()
    out, behind = b"", b""
    try:
        for start in range(0, len(data), step):
            piece = data[start : start + step]
            if negotiation.selected is None:
                out += negotiation.receive(piece)
            else:
                behind += piece
    except (RemoteProtocolError, ProtocolNotSupported) as exc:
        assert exc.message.isprintable()
        return isinstance(exc, RemoteProtocolError)
    # The dialer's answers are its own proposals; the listener's are no longer than what it was asked.
    assert len(out) <= max(len(data), 64)
    if negotiation.selected is None:
        return out, None
    rest = negotiation.leftover() + behind
    assert negotiation.selected in NAMES
    assert data.endswith(encode_token(negotiation.selected) + rest)
    return out, negotiation.selected, rest


def one(data: bytes) -> None:
    """Feed `data` to both roles, whole and in pieces, and check the invariant.

    Who compares with the expected answer comes to what the full negotiation does.
    """
    for make in (dialer, listener, slow, quick):
        assert outcome(make, data, len(data) + 1) == outcome(make, data, 1) == outcome(make, data, 5)
    assert outcome(quick, data, len(data) + 1) == outcome(slow, data, len(data) + 1)


if __name__ == "__main__":
    from mutator import main

    main(one, SEEDS)
