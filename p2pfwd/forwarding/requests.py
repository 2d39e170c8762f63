"""Who asked for a listen and was denied it: what the owner is shown, to allow it or not.

Rules: one entry for a peer and a name, as long as the daemon runs. New entries are bounded per peer, per
network and in all, in number and in rate (`policy.service_bounds`). A full share gives way: the entry of the
same peer or network that was asked for longest ago; of all, that of the network that has most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from p2pfwd.core.peer_id import PeerId
from p2pfwd.policy.service_bounds import ACCESS_REQUESTS, NEW_ACCESS_REQUESTS
from p2pfwd.policy.shares import Held, Paced, Party


@dataclass(slots=True)
class Request:
    """One peer that asks for one name. Times are seconds of the clock given."""

    party: Party
    protocol: str
    address: str
    """From where it asked last, as a multiaddr."""
    first_at: float
    last_at: float
    count: int = 1


Key = tuple[PeerId, str]


class Requests:
    """Of one node."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._requests: dict[Key, Request] = {}  # asked for longest ago first
        self._held = Held(ACCESS_REQUESTS)
        self._paced = Paced(NEW_ACCESS_REQUESTS)

    def all(self) -> list[Request]:
        """Every entry, the one asked for last first."""
        return list(reversed(self._requests.values()))

    def has(self, peer: PeerId, protocol: str) -> bool:
        """Whether this peer is listed with this name."""
        return (peer, protocol) in self._requests

    def note(self, party: Party, protocol: str, address: str) -> None:
        """Somebody asks in vain."""
        now, key = self.clock(), (party.peer, protocol)
        known = self._requests.pop(key, None)
        if known is not None:
            known.count += 1
            known.last_at, known.address = now, address
            self._requests[key] = known
            return
        if self._paced.empty(party, now) is not None:
            return
        while (whose := self._held.full(party)) is not None:
            if whose == "all":
                self._drop(self._of_the_largest_crowd())
            elif whose == "peer":
                self._drop(next(key for key in self._requests if key[0] == party.peer))
            else:
                self._drop(self._nearest(party))
        self._held.take(party)
        self._requests[key] = Request(party, protocol, address, now, now)

    def forget(self, is_meant: Callable[[PeerId, str], bool]) -> None:
        """Drop the entries for whose peer and name that is so."""
        for key in [key for key in self._requests if is_meant(*key)]:
            self._drop(key)

    def forget_full(self) -> None:
        """Drop what is kept of who may ask as often as at first."""
        self._paced.forget_full(self.clock())

    def _drop(self, key: Key) -> None:
        self._held.give(self._requests.pop(key).party)

    def _nearest(self, party: Party) -> Key:
        """Of those that share most networks with this one, the oldest."""
        nets = set(party.networks)
        return max(self._requests, key=lambda key: len(nets.intersection(self._requests[key].party.networks)))

    def _of_the_largest_crowd(self) -> Key:
        crowds = Counter(it.party.crowd for it in self._requests.values())
        ((most, _),) = crowds.most_common(1)
        return next(key for key, it in self._requests.items() if it.party.crowd == most)
