"""What one connection's peer makes this node hold, and how it gives way when that is too much."""

from __future__ import annotations

from collections.abc import Callable

from p2pfwd.errors import ResourceLimitExceeded
from p2pfwd.net.channel import Channel
from p2pfwd.net.link.intake import Intake
from p2pfwd.wire.yamux.session import Session
from p2pfwd.wire.yamux.stream import StreamCore


class Holdings:
    """Of one connection, made when that is asked for it. `reset` ends a stream, `abort` the connection."""

    def __init__(
        self,
        session: Session,
        channel: Channel,
        intake: Intake,
        reset: Callable[[StreamCore], None],
        abort: Callable[[Exception], None],
    ) -> None:
        self.remote_peer = channel.remote_peer
        self.remote_addr = channel.conduit.remote_addr
        self.crowd = intake.crowd
        self._session = session
        self._channel = channel
        self._intake = intake
        self._reset = reset
        self.abort = abort

    @property
    def held_bytes(self) -> int:
        """Payload nobody took, frames that wait for their turn, answers that the peer does not read."""
        session = self._session
        waiting = self._intake.held_bytes + self._channel.kept_bytes
        return session.buffered_bytes + waiting + len(session.control)

    @property
    def streams(self) -> int:
        """Streams that the peer has open."""
        return self._session.inbound_streams

    def shed_bytes(self) -> None:
        """Reset the stream that holds most; end the connection where it is no stream that does."""
        session = self._session
        if session.buffered_bytes * 2 < self.held_bytes:
            self.abort(ResourceLimitExceeded("the peer made this node hold too much"))
        else:
            self._reset(max(session.streams.values(), key=lambda core: core.receive_window.unconsumed))

    def offended(self) -> None:
        """See `Intake`."""
        self._intake.offended()

    def shed_streams(self, count: int) -> None:
        """Reset `count` streams, those that are no tunnel before others, the oldest first."""
        cores = sorted(self._session.streams.values(), key=lambda core: core.is_tunnel)
        for core in cores[:count]:
            self._reset(core)
