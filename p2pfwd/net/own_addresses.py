"""Who we are: the addresses this node is bound to, announces, and is seen at.

Rules: a bound unspecified address stands for those of the interfaces. What is announced was proved by others
(AutoNAT). What connected peers see is kept as long as they are connected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.system import interfaces


class OwnAddresses:
    """Of one swarm. `bound` tells what its sockets listen on."""

    def __init__(self, bound: Callable[[], Iterable[Multiaddr]]) -> None:
        self._bound = bound
        self._announced: tuple[Multiaddr, ...] = ()
        self._observed: dict[PeerId, Multiaddr] = {}

    def all(self) -> list[Multiaddr]:
        """Bound addresses, unspecified ones as the interfaces', and announced ones; best first."""
        found: dict[Multiaddr, None] = dict.fromkeys(self._announced)
        for bound in self._bound():
            found.update(dict.fromkeys(interfaces.expand(bound)))
        return interfaces.best_first(list(found))

    def announce(self, addrs: Iterable[Multiaddr]) -> bool:
        """Tell peers these addresses too, in place of those announced before; whether that is a change."""
        was, self._announced = self._announced, tuple(addrs)
        return was != self._announced

    @property
    def announced(self) -> tuple[Multiaddr, ...]:
        """What `announce` was given last."""
        return self._announced

    def note_observed(self, observer: PeerId, addr: Multiaddr) -> None:
        """A connected peer says it sees us at `addr`."""
        self._observed[observer] = addr

    def forget_observer(self, observer: PeerId) -> None:
        """The peer is not connected any more."""
        self._observed.pop(observer, None)

    def observed(self) -> list[Multiaddr]:
        """As connected peers see this node."""
        return list(dict.fromkeys(self._observed.values()))
