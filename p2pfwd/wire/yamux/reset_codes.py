"""Why a peer says that it resets a stream (libp2p spec: error-codes; go-libp2p from 0.41 on sends them).

Older peers send 0, and codes from 0x2000 on belong to applications. A code is what the peer says, not more.
`IDLE` is p2pfwd's own, a number that no other application will have by chance.
"""

from __future__ import annotations

from typing import Final

from p2pfwd.errors import StreamReset

NO_REASON: Final = 0
PROTOCOL_NEGOTIATION_FAILED: Final = 0x1001
RESOURCE_LIMIT_EXCEEDED: Final = 0x1002
RATE_LIMITED: Final = 0x1003
PROTOCOL_VIOLATION: Final = 0x1004
SUPPLANTED: Final = 0x1005
GARBAGE_COLLECTED: Final = 0x1006
SHUTDOWN: Final = 0x1007
GATED: Final = 0x1008
IDLE: Final = 0x7032_6964

_WORDS: Final = {
    PROTOCOL_NEGOTIATION_FAILED: "it could not agree on a protocol",
    RESOURCE_LIMIT_EXCEEDED: "it is at a limit of its own",
    RATE_LIMITED: "streams come too fast for it",
    PROTOCOL_VIOLATION: "it takes this node to break the protocol",
    SUPPLANTED: "another connection took the place of this one",
    GARBAGE_COLLECTED: "it makes room",
    SHUTDOWN: "it shuts down",
    GATED: "it does not let this node in",
    IDLE: "nothing had passed for as long as it lets a stream be idle",
}


def reason(code: int) -> str | None:
    """What a code says, in words about the peer; None where it says nothing that is known."""
    words = _WORDS.get(code)
    return f"{words} (code {code:#x})" if words is not None else None


def failure(code: int, *, overflow: bool) -> StreamReset:
    """What a stream fails with that the peer has reset; `overflow`: this node, as too much of it waited."""
    if overflow:
        return StreamReset("the stream was reset here: too much of the peer's data waits", by="local")
    why = reason(code)
    because = f": {why}" if why is not None else ""
    return StreamReset(f"the peer reset the stream{because}", by="remote", reset_code=code)
