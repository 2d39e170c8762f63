"""Whether somebody of a node's network who does not know it yet could get a tunnel to it: a pure policy.

What is not known is told apart from what is known to fail. The first that applies:

| what is found | outlook |
| --- | --- |
| it listens on this machine only, or there is no network | none |
| dial-backs work | directly |
| a place at a relay without limits | relayed |
| a place with limits, and not every destination gets another port | punched |
| dial-backs fail, or every destination gets another port | none |
| the network is no public one, and a peer of it dialed this node | dialed |
| else | unknown |

In the public network a peer that dialed this node proves nothing: it may be the owner's own, next door.
"""

from __future__ import annotations

from enum import Enum, auto

from p2pfwd.policy.standing import Place
from p2pfwd.wire.reachability import Reachability


class Outlook(Enum):
    """How he would get one."""

    DIRECTLY = auto()
    RELAYED = auto()
    PUNCHED = auto()
    """If his router can be punched, too."""
    DIALED = auto()
    """As others did; whoever is elsewhere may not be let in."""
    NONE = auto()
    UNKNOWN = auto()


def outlook(
    reachability: Reachability,
    place: Place,
    *,
    listens: bool,
    per_destination: bool,
    is_public: bool,
    was_dialed: bool,
) -> Outlook:
    """See the table above. `per_destination`: whether every destination sees another port of this node."""
    if not listens:
        return Outlook.NONE
    if reachability is Reachability.PUBLIC:
        return Outlook.DIRECTLY
    if place is Place.UNLIMITED:
        return Outlook.RELAYED
    if place is Place.LIMITED and not per_destination:
        return Outlook.PUNCHED
    if per_destination or reachability is Reachability.PRIVATE:
        return Outlook.NONE
    return Outlook.DIALED if was_dialed and not is_public else Outlook.UNKNOWN
