"""A forward: a local address whose every connection becomes one stream to one peer.

Rules: accept at once but never more than `max_pending_opens` connections ahead of their streams (the
rest waits in the kernel's backlog); one short task per connection, none per stream; a connection that
gets no stream ends with RST, because a clean EOF would look like an empty answer (DESIGN §5).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from typing import TYPE_CHECKING, ClassVar

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import (
    ConnectionLost,
    P2PForwardError,
    ProtocolNotSupported,
    ResourceLimitExceeded,
    StreamReset,
)
from p2pfwd.forwarding.bind import BoundSocket
from p2pfwd.forwarding.events import Events
from p2pfwd.forwarding.listeners import Listener
from p2pfwd.forwarding.splice import close_with_reset
from p2pfwd.forwarding.streams import StreamRegistry
from p2pfwd.forwarding.values import PEER_UNREACHABLE, READY, UNKNOWN, Direction, ForwardingLimits
from p2pfwd.net.acceptor import Acceptor

if TYPE_CHECKING:
    from p2pfwd.net.swarm import Swarm

log = logging.getLogger("p2pfwd.forwarding")


class LocalListener(Listener):
    """One forward. Made by `Forwarding.forward`."""

    direction: ClassVar[Direction] = "forward"

    def __init__(
        self,
        listener_id: int,
        protocol: str,
        peer_id: PeerId,
        bound: BoundSocket,
        swarm: Swarm,
        streams: StreamRegistry,
        events: Events,
        limits: ForwardingLimits,
        *,
        foreground: bool,
    ) -> None:
        super().__init__(listener_id, protocol, events, foreground=foreground)
        self.peer_id = peer_id
        self.pin_tag = f"forward/{listener_id}"
        self._bound = bound
        self._target = Multiaddr.parse(f"/p2p/{peer_id}")
        self._swarm = swarm
        self._streams = streams
        self._limits = limits
        self._protocols = (protocol,)
        self._opening: dict[socket.socket, asyncio.Task[None]] = {}
        self._acceptor: Acceptor | None = None
        self._loop = asyncio.get_running_loop()
        self._reset_id = -1  # of the stream that was reset last before any answer
        if bound.path is None and address_class(bound.address) is not AddressClass.LOOPBACK:
            log.warning("%s: other machines can connect to %s", self.describe(), bound.address)

    @property
    def listen_address(self) -> Multiaddr:
        """The bound address, with the real port."""
        return self._bound.address

    @property
    def target_address(self) -> Multiaddr:
        """`/p2p/<peer>`."""
        return self._target

    @property
    def key(self) -> tuple[Direction, str]:
        """One forward per bound address."""
        return ("forward", str(self._bound.address))

    def start(self) -> None:
        """Begin to accept."""
        self._acceptor = Acceptor(self._bound.sock, self._loop, self._accepted, self._exhausted)

    def peer_connected(self) -> None:
        """The peer is there: what was said of its absence no longer holds."""
        if self.health.state == PEER_UNREACHABLE:
            self.told(UNKNOWN, None, None)

    def peer_disconnected(self) -> None:
        """The last connection to the peer is over; nobody knows whether the next dial will work."""
        if self.health.state == READY:
            self.told(UNKNOWN, None, None)

    def stream_ended(self, stream_id: int, error: Exception | None, bytes_in: int) -> None:
        """What the end of a stream says about the peer."""
        if isinstance(error, ProtocolNotSupported | ConnectionLost):
            self.failed(error)
        elif bytes_in:
            self.stream_answered(stream_id)
        elif isinstance(error, StreamReset) and error.details.get("by") == "remote":
            self._reset_id = stream_id
            self.failed(
                StreamReset(
                    "the peer took the stream and reset it before any answer",
                    hint="its service may be down, or it does not want this node: see `p2pfwd ls` there",
                )
            )

    def stream_answered(self, stream_id: int) -> None:
        """The peer sent something on a stream: takes back what an earlier one's reset made us say."""
        if self.health.state == StreamReset.code and stream_id > self._reset_id:
            self.worked()

    def _exhausted(self, exc: OSError | None) -> None:
        if exc is None:
            self.worked()
        else:
            why = os.strerror(exc.errno or 0)
            self.failed(ResourceLimitExceeded(f"no more connections can be accepted for now: {why}"))

    def _accepted(self, sock: socket.socket) -> None:
        try:
            self._streams.admit(self, self.peer_id)
        except ResourceLimitExceeded as exc:
            close_with_reset(sock)
            self.failed(exc)
            return
        self._opening[sock] = self._loop.create_task(self._open(sock))
        if len(self._opening) >= self._limits.max_pending_opens and self._acceptor is not None:
            self._acceptor.pause()

    async def _open(self, sock: socket.socket) -> None:
        """The one task of a connection: it ends when the stream is there."""
        try:
            stream = await self._swarm.open_stream(
                self.peer_id, self._protocols, timeout_s=self._limits.open_timeout_s
            )
            try:
                entry = self._streams.add(self, stream, sock.getpeername())
            except (ResourceLimitExceeded, OSError):
                stream.reset()
                raise
            self._streams.splice(entry, sock)
            if self.health.state != StreamReset.code:  # a peer that resets takes every stream at first
                self.worked()
        except P2PForwardError as exc:
            close_with_reset(sock)
            self.failed(exc)
        except OSError as exc:  # the client has gone while its stream was being opened
            log.debug("%s: a client left before its stream was open: %s", self.describe(), exc)
            close_with_reset(sock)
        except asyncio.CancelledError:
            close_with_reset(sock)
            raise
        except Exception:
            close_with_reset(sock)
            log.exception("%s: a defect here ended a connection", self.describe())
        finally:
            self._opened(sock)

    def _opened(self, sock: socket.socket) -> None:
        self._opening.pop(sock, None)
        if self._acceptor is not None and len(self._opening) < self._limits.max_pending_opens:
            self._acceptor.resume()

    def stop(self) -> None:
        """Close the address and end the connections that have no stream yet, with RST."""
        if self._acceptor is None:
            return
        self._acceptor.close()
        self._acceptor = None
        self._bound.remove_file()
        self._swarm.peerstore.unpin(self.peer_id, self.pin_tag)
        dropped = set(self._opening.values())

        def ended(task: asyncio.Task[None]) -> None:
            dropped.discard(task)
            if not dropped:
                self.closed.set()

        for sock, task in self._opening.items():
            close_with_reset(sock)  # a task cancelled before its first step would not do it
            task.cancel()
            task.add_done_callback(ended)
        if not dropped:
            self.closed.set()
