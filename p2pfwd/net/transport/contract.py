"""The seam between the swarm and what carries its connections.

A transport knows its own kind of address: whether it can dial one, how to dial it, how to listen on it. It
hands over connections that are secured and multiplexed. The swarm asks its transports in order, and knows
none by name: a new one is a file here and a line in `table`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.net.link.contract import Link


class Gate(Protocol):
    """What a listening transport asks of the swarm."""

    def admit(
        self, remote: Multiaddr, abort: Callable[[], None], heard: Callable[[], bool]
    ) -> Callable[[], None]:
        """Let a stranger in for the time of a handshake; asked before a byte is read.

        Returns what to call when the handshake is over, well or not. Until then `abort` may be called: the
        place goes to a newcomer. `heard` says whether the stranger has said anything. Raises
        ResourceLimitExceeded, ConnectionRefusedError: close it at once.
        """

    def turns_away(self, host: str) -> bool:
        """Whether a connection from this literal host is to be closed unread; asked before `admit`."""

    def shut_out(self) -> frozenset[str]:
        """The networks (as `192.0.2.0/24`) of which all are turned away just now."""

    def arrived(self, conn: Link) -> None:
        """A connection has come up."""


class Meeting(NamedTuple):
    """A hole punch, seen from one side: the peer dials this node while this node dials it."""

    peer_id: PeerId
    listens_s: float
    """How long to listen before proposing on a connection with an address that the peer named."""
    patience_s: float
    """... with another port of its hosts: it may be somebody else, behind the same router."""
    begin: float
    """When to dial, by the loop's clock. Who comes is taken before that."""
    until: float
    """The last moment to come up."""


class Listening(Protocol):
    """One bound address."""

    @property
    def addr(self) -> Multiaddr:
        """As it is bound: port 0 has become a real one."""

    def close(self) -> None:
        """Take nothing more; connections stay. Idempotent."""


class SideDoor(Listening, Protocol):
    """A listening port for a test: told to nobody, and no other connection leaves from it."""

    async def dial(self, peer_id: PeerId, addr: Multiaddr) -> Link:
        """As `Transport.dial`, from this port."""


@runtime_checkable
class HasSideDoors(Protocol):
    """A transport that can open one."""

    def side_door(self, addr: Multiaddr, gate: Gate) -> SideDoor:
        """At the host of `addr`. Raises BindFailed."""


class Transport(Protocol):
    """One way to reach peers."""

    def why_not(self, addr: Multiaddr) -> str | None:
        """Why this transport cannot dial the address, in words.

        None if it can, maybe after a look-up of its name.
        """

    def can_listen(self, addr: Multiaddr) -> bool:
        """Whether the address is one to listen on."""

    async def dial(self, peer_id: PeerId, addr: Multiaddr, *, fresh_port: bool = False) -> Link:
        """A connection to the peer at this address, with the peer's identity proved.

        It leaves from where this node listens, if it can: what the peer sees is then what others can dial.
        With `fresh_port` it must not: a router lets in what answers that, and nothing would be proved.
        Raises OSError (TimeoutError is one), P2PForwardError.
        """

    def listen(self, addr: Multiaddr, gate: Gate) -> Listening:
        """Listen. Raises AddressInUse, BindFailed."""


@runtime_checkable
class HoldsMeetings(Protocol):
    """A transport on which both sides can dial at once."""

    def why_not(self, addr: Multiaddr) -> str | None:
        """See `Transport`."""

    async def knock(self, addr: Multiaddr, meeting: Meeting, gate: Gate) -> None:
        """Dial one address of a peer that dials this node, from where this node listens, until it works.

        What comes up, and has answered, is handed to the gate, maybe later. Returns when there is no more to
        do. Raises OSError, InvalidMultiaddr.
        """

    def expect(self, addrs: Sequence[Multiaddr], meeting: Meeting) -> Callable[[], None]:
        """Take a connection from these addresses or their hosts as the meeting's, until told otherwise.

        Its other end may not know that it was not met by its own dial. Returns how to tell.
        """
