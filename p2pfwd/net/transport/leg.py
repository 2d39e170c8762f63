"""A leg at one end of its circuit: what comes on it, and how it stands. `net.transport.circuit` changes over.

    NONE    PROMISED ──the circuit is busy──▶ COMING ──READY──▶ STANDS
              COMING ──not dialed, refused, lost, or no READY in time──▶ NONE
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final, Protocol

from p2pfwd.net.conduit.contract import Conduit, Receiver
from p2pfwd.wire.circuit import READY

NEAR_BYTES: Final = 64 * 1024
"""Asked of the system, which doubles it, for what comes on a leg whose other end is near: a gigabit a second
at the longest way that counts as that. Of 8 circuits beside each other the echo's p99 follows it."""


def room_of(leg: Conduit) -> int | None:
    """For what the system may hold of it: little where the way is short.

    Left to itself the system holds megabytes of what a busy end has not read, and a keystroke waits in them.
    """
    return NEAR_BYTES if leg.is_near else None


class Stage(Enum):
    """How it stands with a circuit's leg."""

    NONE = auto()
    """There is none, and there will not be one."""
    PROMISED = auto()
    """It is dialed when the circuit is busy."""
    COMING = auto()
    """It is dialed, or waits for READY."""
    STANDS = auto()
    """READY has come."""


class Owner(Protocol):
    """The circuit."""

    @property
    def takes(self) -> bool:
        """Whether the receiver may be given something."""

    def leg_stands(self) -> None:
        """READY has come."""

    def leg_drained(self) -> None:
        """What it kept has been sent."""

    def leg_lost(self, exc: Exception | None) -> None:
        """It is gone."""


class Leg:
    """One, as it comes: the receiver of its conduit."""

    __slots__ = ("_circuit", "_end_told", "_receiver", "_room", "_stands", "at_eof", "conduit")

    def __init__(self, circuit: Owner, conduit: Conduit) -> None:
        self.conduit = conduit
        self._room = room_of(conduit)
        self._circuit = circuit
        self._receiver: Receiver | None = None
        """Who takes what comes, once the circuit receives by the leg."""
        self._stands = False
        self.at_eof = False
        """Whether the other end has said that it sends no more."""
        self._end_told = False

    @property
    def missing(self) -> int:
        """See Receiver."""
        return 0 if self._receiver is None else self._receiver.missing

    def squeeze(self, room: int | None) -> None:
        """See Conduit.squeeze; no more than for a way as short as this."""
        self.conduit.squeeze(min((it for it in (room, self._room) if it is not None), default=None))

    def read(self, receiver: Receiver, leftover: bytes) -> None:
        """Give it `leftover`, what has come and what comes from now on."""
        self._receiver = receiver
        if leftover:
            self.conduit.start(self, leftover)
        if self._circuit.takes:
            self.resume()

    def resume(self) -> None:
        """Give the receiver what has come, and the end behind all of it."""
        self.conduit.resume()
        self._tell_end()

    def _tell_end(self) -> None:
        if self.at_eof and not self._end_told and self._receiver is not None and self._circuit.takes:
            self._end_told = True
            self._receiver.eof_received()

    def data_received(self, view: memoryview) -> int:
        """READY, then what the other end sends: it waits until the circuit receives by the leg."""
        if self._receiver is not None:
            return self._receiver.data_received(view)
        if self._stands:
            self.conduit.pause()
            return 0
        if view[0] != READY[0]:
            self.conduit.abort()
            return len(view)
        self._stands = True
        self._circuit.leg_stands()
        return 1 + self.data_received(view[1:]) if len(view) > 1 else 1

    def eof_received(self) -> None:
        """The other end sends no more, and may say so before its FIN comes by the stream."""
        if self._stands:
            self.at_eof = True
            self._tell_end()
        else:
            self.conduit.abort()

    def conduit_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._circuit.leg_lost(exc)

    def drained(self) -> None:
        """What it kept has been sent."""
        self._circuit.leg_drained()
