"""What this node serves: every protocol declared once, with who may use it and how much of it.

Rules: a name belongs to one service; a second claim is refused. Whether a peer is served is asked during the
negotiation, with the peer's proven ID. The bounds (`policy.service_bounds`) are enforced before a handler
runs: of streams too many one is reset, and counted by its cause (`visits` says which). A stream counts until
it is gone from its connection and its handler has ended. Handlers run as tasks of the swarm; what escapes
from one is logged and resets its stream.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import P2PForwardError, ProtocolTaken
from p2pfwd.net.link.contract import Accepts, Carrier, DuplexStream
from p2pfwd.net.refusals import Refusals
from p2pfwd.net.tasks import Tasks, log
from p2pfwd.net.visits import Room, Turns, Visit, said
from p2pfwd.policy.pace import Pace
from p2pfwd.policy.service_bounds import HASTE, UNBOUNDED, Bounds
from p2pfwd.policy.shares import Party, Rank, RankOf, a_stranger

Work = Coroutine[Any, Any, None] | None
Handler = Callable[[DuplexStream], Work]
Talk = Callable[[Visit], Coroutine[Any, Any, None]]

OnOffence = Callable[[Carrier, str, bool], None]
"""(connection, cause, pays): it goes on opening or asking far too fast, and is to be slowed for that."""


def _everybody(_peer: PeerId, _protocol: str) -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One protocol, or all whose names begin with `name`. It has a `handler` or a `talk`."""

    name: str
    handler: Handler | None = None
    """Called with each inbound stream; what it awaits runs as a task."""
    talk: Talk | None = None
    """Called with each visit: a stream whose messages are read within the bounds."""
    accepts: Accepts = _everybody
    """Whether this peer may open this protocol."""
    is_listed: Callable[[PeerId], bool] = lambda _peer: True
    """Whether this peer is told of it by identify."""
    is_prefix: bool = False
    bounds: Bounds = UNBOUNDED
    """Services whose bounds have the same label share them."""


class Services:
    """The services of one swarm."""

    def __init__(
        self,
        tasks: Tasks,
        refusals: Refusals | None = None,
        on_offence: OnOffence = lambda _conn, _cause, _pays: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rank_of: RankOf = a_stranger
        """Set by the swarm."""
        self.refusals = refusals if refusals is not None else Refusals()
        self._tasks = tasks
        self._on_offence = on_offence
        self._clock = clock
        self._turns = Turns()
        self._exact: dict[str, Service] = {}
        self._prefixes: dict[str, Service] = {}
        self._rooms: dict[str, Room] = {}
        self._reserved: set[str] = set()
        self._parties: WeakKeyDictionary[Carrier, Party] = WeakKeyDictionary()
        self._haste: WeakKeyDictionary[Carrier, Pace] = WeakKeyDictionary()

    # --- what is served ---------------------------------------------------------------------------

    def serve(self, service: Service) -> None:
        """Serve it from now on. Raises ProtocolTaken where the name has a service."""
        table = self._prefixes if service.is_prefix else self._exact
        if service.name in table:
            raise ProtocolTaken(f"{service.name} is served already", protocol=service.name)
        table[service.name] = service
        label = service.bounds.label
        if label not in self._rooms:
            refuse = partial(self.refused, pays=service.bounds.pays)
            self._rooms[label] = Room(service.bounds, self._turns, refuse, self._clock, self._rank)

    def _rank(self, peer: PeerId) -> Rank:
        return self.rank_of(peer)

    def reserve(self, name: str) -> None:
        """Keep a name for one of the node's own protocols, also while it is not served."""
        self._reserved.add(name)

    def is_reserved(self, name: str) -> bool:
        """Whether `name` belongs to one of the node's own protocols."""
        return name in self._reserved

    def withdraw(self, name: str) -> None:
        """Serve it no more; live streams stay. Nothing where it was not served."""
        if self._exact.pop(name, None) is None:
            self._prefixes.pop(name, None)

    def names(self, peer: PeerId | None = None) -> list[str]:
        """What identify lists to this peer, or in all: protocols, and the bare prefixes."""
        served = (*self._exact.items(), *self._prefixes.items())
        return [name for name, service in served if peer is None or service.is_listed(peer)]

    def accepts(self, peer: PeerId, protocol: str) -> bool:
        """Whether a stream of this protocol is served to this peer."""
        return self._find(peer, protocol) is not None

    def _find(self, peer: PeerId, protocol: str) -> Service | None:
        service = self._exact.get(protocol)
        if service is not None:
            return service if service.accepts(peer, protocol) else None
        for service in self._prefixes.values():
            if protocol.startswith(service.name) and service.accepts(peer, protocol):
                return service
        return None

    # --- serving ----------------------------------------------------------------------------------

    def party(self, conn: Carrier) -> Party:
        """Whom a connection counts for."""
        party = self._parties.get(conn)
        if party is None:
            party = self._parties[conn] = Party.at(conn.remote_peer, conn.remote_addr)
        return party

    def room(self, label: str) -> Room:
        """What is held and asked of the services with this label. KeyError where none was ever served."""
        return self._rooms[label]

    def forget_full(self) -> None:
        """Let go of what is counted of those who have all of their shares again."""
        for room in self._rooms.values():
            room.forget_full()

    def dispatch(self, stream: DuplexStream) -> None:
        """Hand a negotiated inbound stream to its service, within its bounds."""
        assert stream.protocol is not None
        service = self._find(stream.remote_peer, stream.protocol)
        if service is None:  # withdrawn since the negotiation
            stream.reset()
            return
        visit = self._rooms[service.bounds.label].enter(stream, self.party(stream.conn))
        if visit is None:
            stream.reset()
            return
        if not visit.bounds.reads:
            stream.discard_input()
        if service.talk is not None:
            begin: Callable[[], Coroutine[Any, Any, None]] = partial(_conversation, service.talk, visit)
        else:
            assert service.handler is not None
            work = service.handler(stream)
            if work is None:
                stream.when_over(visit.leave)
                return
            begin = partial(_given, work)
        self._tasks.spawn(_run(begin, visit), f"serve {stream.protocol}")

    def refused(self, stream: DuplexStream, cause: str, *, hasty: bool, pays: bool = False) -> None:
        """Count a refusal; a peer refused for its own haste again and again is an offender.

        `pays`: whether a stranger is slowed for that, too.
        """
        self.refusals.note(cause, stream.remote_peer, said(cause))
        if not hasty:
            return
        conn, now = stream.conn, self._clock()
        patience = self._haste.get(conn)
        if patience is None:
            patience = self._haste[conn] = Pace(HASTE, now)
        if not patience.take(now):
            self._on_offence(conn, cause, pays and self.rank_of(stream.remote_peer) is not Rank.OWN)


async def _conversation(talk: Talk, visit: Visit) -> None:
    await visit.turn()
    await talk(visit)


async def _given(work: Coroutine[Any, Any, None]) -> None:
    await work


async def _run(begin: Callable[[], Coroutine[Any, Any, None]], visit: Visit) -> None:
    stream = visit.stream
    try:
        await begin()
    except P2PForwardError as exc:
        log.debug("%s from %s ended: %s", stream.protocol, stream.remote_peer, exc)
        stream.reset()
    except BaseException:
        stream.reset()
        raise
    finally:
        visit.served()
