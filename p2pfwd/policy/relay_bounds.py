"""What a relay grants: to strangers a little, as other relays do; to the owner's peers what the node has.

One place for these numbers; SECURITY.md shows them, `protocols.relay_service` enforces them. They are for
strangers alone. The owner's peers have none of them: the node's own bounds on connections, streams and
waiting bytes hold for them as for everybody.
"""

from __future__ import annotations

from typing import Final, Literal

from p2pfwd.policy.pace import Rate
from p2pfwd.policy.shares import Most, Rates
from p2pfwd.wire.circuit import Limit

Serve = Literal["off", "peers", "anyone"]
"""To whom a place is given: nobody; the owner's peers; strangers, too."""

RESERVATION_S: Final = 3600
"""How long a place is given for; as go."""

STOP_S: Final = 30.0
"""For the target of a circuit to take it; as go."""

RESERVATIONS: Final = Most(all=128, peer=1, network=8)
"""Places of strangers. A peer that asks anew keeps its one."""

QUIET_S: Final = 600.0
"""A stranger's place that has carried no circuit for so long gives way to a newcomer where none is left. Who
gave way gets no other's for as long: or one client too many would push out all the others, one after the
other, as each comes back."""

CIRCUITS: Final = Most(all=128, peer=8, network=16)
"""Ends of circuits that strangers have, those that are being made included."""

LIMIT: Final = Limit(duration_s=120, data_bytes=128 * 1024)
"""What a circuit may carry that has a stranger at one end: enough to meet and to punch a hole; as go."""

KIB: Final = 1024

LEGS: Final = 64
"""Circuits between the owner's peers that have legs at the same time (`relay.legs`): two descriptors each,
and up to half a megabyte where neither end takes what comes. Others go on as streams."""

BYTES: Final = Rates(
    peer=Rate(64 * KIB, 256 * KIB),
    network=Rate(256 * KIB, 1024 * KIB),
    all=Rate(1024 * KIB, 4096 * KIB),
)
"""Bytes a second of strangers' circuits, both ways together, of each stranger at their ends: what comes
faster waits at its sender."""

DEBT_S: Final = 30.0
"""How long such a share may be in debt. What all circuits carry that there may be at once is paid by then;
what is beyond it was brought by circuits that are over, and is let off, or later ones would stand still for
hours."""


def is_let_in(serve: Serve, is_own: bool) -> bool:
    """Whether a peer is given a place."""
    return serve == "anyone" or (serve == "peers" and is_own)


def limit_between(one_is_own: bool, other_is_own: bool) -> Limit | None:
    """What a circuit between two peers may carry; None: it has no bound."""
    return None if one_is_own and other_is_own else LIMIT
