"""When a connection is doubtful, when it is dead, and when its peer is asked: a pure policy.

The line is proved by what the peer sends and, where the system tells, by what its kernel acknowledges.
Something *waits* while we have sent and neither has come since. Rules, the first that applies:

| state of the line | standing |
| --- | --- |
| our bytes wait and the socket takes none for `STALL_S` | dead |
| a ping is out for `PONG_S`, and the peer silent for `IDLE_S + PONG_S` | dead |
| nothing waits, or for less than the limit, and no ping is out for `ASKED_S` | fine |
| another connection to the peer answers; this one has no streams, or its local address is gone | dead |
| another one has answered for longer than TCP may need to send again, and the limit | dead |
| the network has changed, no streams; a ping is out for `CHALLENGE_S`, or the local address is gone | dead |
| otherwise | doubtful: streams stay, new ones go elsewhere, a second connection is tried beside it |

The limit is four round trips and at least `DOUBT_S`; after a change of network three and at least
`CHALLENGED_S`; nothing where the local address is gone. After a cut TCP sends again when as much time has
passed as the cut had lasted, at the latest, though the other direction works before. A kernel that
acknowledges while its process does not answer is no sign of a cut: that costs doubt, and no more before
`IDLE_S + PONG_S`.

Before doubt there is suspicion, after the limit of a changed network: it costs this connection nothing, but
others are asked whether they are there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

DOUBT_S: Final = 1.0
"""TCP repeats what is lost after 0.2 and 0.6 s; whoever needs longer than this gets company."""

ASKED_S: Final = 5.0
"""A ping unanswered for this long, though the peer's kernel may take what we send."""

CHALLENGED_S: Final = 0.5
CHALLENGE_S: Final = 5.0
UNKNOWN_RTT_S: Final = 0.25
STALL_S: Final = 30.0
IDLE_S: Final = 20.0
"""Silence after which the peer is pinged."""

SELDOM_S: Final = 120.0
"""The same where nobody would wait for the peer: what keeps a router's mapping, and no more."""

BUSY_IDLE_S: Final = 1.0
"""The same while an answer may be on its way: streams are open and we spoke within `BUSY_S`."""

BUSY_S: Final = 60.0
PONG_S: Final = 15.0
"""Silence after a ping which means a dead peer: found within 20 + 15 + two looks of 4 s < 45 s."""

STALE_S: Final = 10.0
"""A connection silent for longer is asked whether it lives before anything is sent on it."""

RETRY_S: Final = 3.0
"""The longest that TCP may pause between two tries on a doubtful connection; alone it doubles its pauses."""

LOOK_WAITING_S: Final = 0.25
LOOK_BUSY_S: Final = 1.0
LOOK_IDLE_S: Final = 4.0


class Standing(Enum):
    """What a connection is good for."""

    FINE = "fine"
    DOUBTFUL = "doubtful"
    DEAD = "dead"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What is known of a connection; durations in seconds."""

    silent_s: float  # since the peer sent a byte
    waiting_s: float | None = None  # something is neither answered nor acknowledged
    spoke_s: float = 3600.0  # since we sent something of a stream
    pinged_s: float | None = None  # since the ping that is out
    stalled_s: float | None = None  # since the socket took a byte, while some wait
    replaced_s: float | None = None  # since another connection to the peer answers
    waited_s: float = 0.0  # the last time, where that is not long ago
    stuck_s: float = 0.0  # since the peer's kernel acknowledged anything, while it has to
    rtt_s: float | None = None
    kernel_tells: bool = True  # whether what the peer's kernel acknowledges is known
    challenged: bool = False  # the network has changed, and nothing has come since
    address_gone: bool = False  # this machine has our end's address no more
    streams: bool = False  # there are any
    urgent: bool = True  # the peer's loss must be noticed soon


def limit_s(line: Line) -> float:
    """How long something may wait before the connection is doubtful."""
    rtt_s = line.rtt_s if line.rtt_s is not None else UNKNOWN_RTT_S
    if not line.challenged:
        return max(DOUBT_S, 4 * rtt_s)
    return 0.0 if line.address_gone else max(CHALLENGED_S, 3 * rtt_s)


def is_suspect(line: Line) -> bool:
    """Whether something waits for so long that it is worth to know how others do."""
    rtt_s = line.rtt_s if line.rtt_s is not None else UNKNOWN_RTT_S
    return line.waiting_s is not None and line.waiting_s >= max(CHALLENGED_S, 3 * rtt_s)


def judge(line: Line) -> Standing:
    """See the table above."""
    waiting_s, limit = line.waiting_s, limit_s(line)
    if line.stalled_s is not None and line.stalled_s > STALL_S:
        return Standing.DEAD
    if line.pinged_s is not None and line.pinged_s > PONG_S and line.silent_s > IDLE_S + PONG_S:
        return Standing.DEAD
    cut = waiting_s is not None and waiting_s >= limit
    asked_s = 0.0 if line.pinged_s is None else min(line.pinged_s, line.silent_s)
    if not cut and asked_s < max(ASKED_S, limit):
        return Standing.FINE
    if line.replaced_s is not None and (line.address_gone or not line.streams):
        return Standing.DEAD
    if line.replaced_s is not None and waiting_s is not None and cut:
        stuck_s = max(waiting_s, line.stuck_s) - line.replaced_s  # when the other one came
        if line.replaced_s > max(stuck_s, line.waited_s) + limit:
            return Standing.DEAD
    elif line.challenged and not line.streams and (line.address_gone or asked_s > max(CHALLENGE_S, limit)):
        return Standing.DEAD
    return Standing.DOUBTFUL


def retry_s(line: Line) -> float | None:
    """How long TCP may pause before it sends again what is not acknowledged; None: as it likes."""
    waits = line.waiting_s is not None and line.waiting_s >= limit_s(line)
    if not waits and not line.waited_s:
        return None
    return max(RETRY_S, 4 * (line.rtt_s or UNKNOWN_RTT_S))


def wants_ping(line: Line) -> bool:
    """Whether the peer is to be asked now; one ping is out at a time."""
    if line.pinged_s is not None:
        return False
    if line.waiting_s is not None and not line.kernel_tells:
        return line.waiting_s >= limit_s(line) / 2
    if line.streams and line.spoke_s < BUSY_S:
        return line.silent_s > BUSY_IDLE_S
    return line.silent_s > (IDLE_S if line.streams or line.urgent else SELDOM_S)


def next_look_s(line: Line) -> float:
    """When to judge again, if nothing happens before."""
    if line.waiting_s is not None or line.pinged_s is not None:
        return LOOK_WAITING_S
    if line.streams and line.spoke_s < BUSY_S:  # not long before a ping is due
        return min(LOOK_BUSY_S, max(LOOK_WAITING_S, BUSY_IDLE_S - line.silent_s))
    return LOOK_BUSY_S if line.streams else LOOK_IDLE_S
