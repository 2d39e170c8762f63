"""Who proposes on a connection that both ends have dialed: write the header first, and listen.

A TCP connection whose two SYNs crossed has no listener. The spec makes A of a hole punch (who dialed the
circuit) the dialer of the new connection, and B its listener; go-libp2p up to 0.40 has it the other way
round, and its 0.48 in the third try. A proposal and an echo look the same, so nobody may propose before it is
sure that the other will not. Both write multistream's header first in any case: it commits to nothing.

    LISTENING ──more than the header comes──▶ LISTENER   it proposes: serve
        │
        └──nothing but the header in time──▶ DIALER     it listens, too: propose

How long one listens is `listens_s`: not at all where the peer's agent says that it serves; a round trip and a
bit for A, whose peer may propose as soon as it is connected; longer for B, whose peer may be listening as A
does. An agent may lie, or be of a fork: it is believed in the first try alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Final

from p2pfwd.wire.multistream import HEADER, DialerNegotiation, ListenerNegotiation

A_LISTENS_S: Final = 0.15
"""Beyond a round trip: for the peer to notice that it is connected."""

B_LISTENS_S: Final = 1.0
"""At least; A of every implementation has proposed by then, where the line is not a slow one."""

_FOLLOW_THE_SPEC: Final = ("p2pfwd/", "js-libp2p/", "rust-libp2p/")
"""Agents, by their beginning, whose A proposes. Identify told it over the circuit."""

_KUBO: Final = re.compile(r"kubo/0\.(\d{1,3})\.")
_FIRST_KUBO_BY_THE_SPEC: Final = 34
"""Its minor version, which has go-libp2p 0.41."""


class Role(Enum):
    """On the new connection: in multistream, in the handshake, of the multiplexer."""

    LISTENING = auto()
    """Not known yet."""
    LISTENER = auto()
    DIALER = auto()


def a_proposes(agent: str | None) -> bool | None:
    """Whether A is the dialer where this agent is on the other side; None: not known."""
    if agent is None:
        return None
    if agent.startswith(_FOLLOW_THE_SPEC):
        return True
    kubo = _KUBO.match(agent)
    return None if kubo is None else int(kubo[1]) >= _FIRST_KUBO_BY_THE_SPEC


def listens_s(*, is_a: bool, rtt_s: float, agent: str | None) -> float:
    """Seconds to listen before proposing, by the circuit's round trip and the peer's agent, if believed."""
    if a_proposes(agent) is is_a:
        return 0.0
    return rtt_s + A_LISTENS_S if is_a else max(2 * rtt_s, B_LISTENS_S)


class RoleSearch:
    """Of one connection. `start` is sent at once; then `receive` or `timed_out`, until `role` is known."""

    def __init__(self) -> None:
        self.role = Role.LISTENING
        self._received = b""

    def start(self) -> bytes:
        """The header."""
        return HEADER

    def receive(self, data: bytes) -> None:
        """Bytes from the peer. What is no multistream at all is for the negotiation to refuse."""
        self._received += data
        if self.role is Role.LISTENING and self._received != HEADER[: len(self._received)]:
            self.role = Role.LISTENER

    def timed_out(self) -> None:
        """It has been listened for long enough."""
        if self.role is Role.LISTENING:
            self.role = Role.DIALER

    def negotiation(
        self, proposals: Sequence[str], supported: Callable[[str], bool]
    ) -> tuple[DialerNegotiation | ListenerNegotiation, bytes, bytes]:
        """(negotiation, what to send first, what it is to receive first), once the role is known."""
        assert self.role is not Role.LISTENING
        if self.role is Role.LISTENER:
            return ListenerNegotiation(supported), b"", self._received
        dialer = DialerNegotiation(proposals)
        return dialer, dialer.proposal(), self._received
