"""What this node serves: every protocol declared once, with who may use it.

Rules: a name belongs to one service; a second claim is refused. Whether a peer is served is asked during the
negotiation, with the peer's proven ID. Handlers run as tasks of the swarm; what escapes from one is logged
and resets its stream.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import P2PForwardError, ProtocolTaken
from p2pfwd.net.link.conn import Accepts
from p2pfwd.net.link.stream import Stream
from p2pfwd.net.tasks import Tasks, log

Handler = Callable[[Stream], Coroutine[Any, Any, None] | None]


def _everybody(_peer: PeerId, _protocol: str) -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One protocol, or all whose names begin with `name`."""

    name: str
    handler: Handler
    """Called for each inbound stream; what it awaits runs as a task."""
    accepts: Accepts = _everybody
    """Whether this peer may open this protocol."""
    is_prefix: bool = False


class Services:
    """The services of one swarm."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._exact: dict[str, Service] = {}
        self._prefixes: dict[str, Service] = {}

    def serve(self, service: Service) -> None:
        """Serve it from now on. Raises ProtocolTaken where the name has a service."""
        table = self._prefixes if service.is_prefix else self._exact
        if service.name in table:
            raise ProtocolTaken(f"{service.name} is served already", protocol=service.name)
        table[service.name] = service

    def withdraw(self, name: str) -> None:
        """Serve it no more; live streams stay. Nothing where it was not served."""
        if self._exact.pop(name, None) is None:
            self._prefixes.pop(name, None)

    def names(self) -> list[str]:
        """What identify lists: protocols, and the bare prefixes."""
        return [*self._exact, *self._prefixes]

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

    def dispatch(self, stream: Stream) -> None:
        """Hand a negotiated inbound stream to its service."""
        assert stream.protocol is not None
        service = self._find(stream.remote_peer, stream.protocol)
        if service is None:  # withdrawn since the negotiation
            stream.reset()
            return
        work = service.handler(stream)
        if work is not None:
            self._tasks.spawn(_run(work, stream), f"serve {stream.protocol}")


async def _run(work: Coroutine[Any, Any, None], stream: Stream) -> None:
    try:
        await work
    except P2PForwardError as exc:
        log.debug("%s from %s ended: %s", stream.protocol, stream.remote_peer, exc)
        stream.reset()
    except BaseException:
        stream.reset()
        raise
