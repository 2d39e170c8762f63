"""What a connection is to whoever uses one: a `Link`, and the streams on it.

`net.link.conn.Conn` is the link over a conduit, a secure channel and yamux, a relayed circuit's as well as
TCP's. A transport with streams of its own (QUIC) brings a link of its own. Nobody above `net.link` and
`net.transport` knows which it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import P2PForwardError
from p2pfwd.net.conduit.contract import GatheringSink, StreamSink
from p2pfwd.net.limits import Holder
from p2pfwd.policy.networks import Network
from p2pfwd.wire.circuit import Limit

Direction = Literal["inbound", "outbound"]

Accepts = Callable[[PeerId, str], bool]
"""Whether a peer is served a protocol."""


class Carrier(Protocol):
    """What a stream shows of the link it is on."""

    remote_peer: PeerId
    remote_addr: Multiaddr
    local_addr: Multiaddr
    direction: Direction
    crowd: str
    """The network of its address, as `policy.networks.crowd`."""
    is_relayed: bool
    limit: Limit | None
    """What a relay lets it carry; None: it has no bound."""
    security: str
    cipher: str
    """What seals the bytes: `aes-256-gcm`, `chacha20-poly1305`, `aes-128-gcm`."""

    @property
    def holdings(self) -> Holder:
        """What the peer makes this node hold."""

    @property
    def limit_left(self) -> Limit | None:
        """What is left of the limit; None where there is none."""

    @property
    def rtt_s(self) -> float | None:
        """Smoothed round trip, seconds; None until it was measured."""

    async def measure_rtt(self, timeout_s: float) -> float:
        """One round trip, seconds. Raises TimedOut, ConnectionLost."""


class SplicedStream(Protocol):
    """What a splice needs of its stream; the words are those of `net.link.stream`."""

    direction: Direction
    protocol: str | None
    """None while a peer that is known to serve it has not confirmed it."""

    @property
    def remote_peer(self) -> PeerId: ...
    @property
    def is_stalled(self) -> bool: ...

    def set_sink(self, sink: StreamSink, *, tunnel: bool = False) -> None: ...
    def let_go(self) -> None: ...
    def begin_frame(self) -> memoryview | None: ...
    def end_frame(self, n: int) -> None: ...
    def cork(self) -> bool: ...
    def uncork(self) -> None: ...
    def want_to_send(self) -> None: ...
    def consumed(self, n: int) -> None: ...
    def gather(self, sink: GatheringSink) -> bool:
        """Whether a view just given may be kept, for more may come in this read: see `pass_gathered`."""
        ...

    def close_write(self) -> None: ...
    def reset(self, code: int = 0) -> None: ...


class DuplexStream(SplicedStream, Protocol):
    """A negotiated stream, as services use it."""

    @property
    def conn(self) -> Carrier: ...
    @property
    def id(self) -> int: ...
    @property
    def error(self) -> P2PForwardError | None: ...
    @property
    def is_over(self) -> bool: ...
    def when_over(self, callback: Callable[[], object]) -> None: ...

    # slow face
    async def read(self, max_bytes: int = 65536) -> bytes: ...
    async def read_exactly(self, n: int) -> bytes: ...
    async def read_length(self, prefix: bytes = b"") -> int: ...
    async def read_delimited(self, max_bytes: int, prefix: bytes = b"") -> bytes: ...
    async def write(self, data: bytes | bytearray | memoryview) -> None: ...
    async def write_delimited(self, message: bytes) -> None: ...
    def discard_input(self) -> None: ...

    # fast face, beside a splice's
    @property
    def wide_bytes(self) -> int: ...
    def begin_frame(self, size: int = 0) -> memoryview | None: ...
    def set_sink(self, sink: StreamSink, *, tunnel: bool = False, circuit: bool = False) -> None: ...
    def change_sink(self, sink: StreamSink) -> None: ...

    async def close(self) -> None: ...


class Life(Protocol):
    """What is known of whether the peer is there; see `net.link.liveness`."""

    doubtful: bool
    address_gone: bool
    on_doubt: Callable[[Link, bool], None]
    """Called with the connection and whether it is in doubt."""
    on_suspicion: Callable[[Link], None]
    """Called with the connection."""
    is_urgent: Callable[[PeerId], bool]

    @property
    def is_stale(self) -> bool: ...
    @property
    def silent_s(self) -> float: ...
    @property
    def is_challenged(self) -> bool: ...
    async def prove(self, within_s: float | None = None) -> bool: ...
    def challenge(self) -> None: ...
    def replaced(self) -> None: ...


class Link(Carrier, Protocol):
    """One live connection to a peer."""

    loop: asyncio.AbstractEventLoop
    muxer: str
    networks: tuple[Network, ...]
    opened_at: float
    useful_at: float
    """Monotonic seconds: when it last served this node."""
    closed: asyncio.Future[Exception | None]
    """Done when it is over; its result is the cause, None after a close of ours."""
    identified: asyncio.Future[None]
    """Done when the peer has told who it is, or has failed to."""

    @property
    def liveness(self) -> Life: ...
    @property
    def streams(self) -> Mapping[int, DuplexStream]: ...
    @property
    def can_open(self) -> bool:
        """Whether streams can be opened: neither side has begun to end it."""

    @property
    def is_usable(self) -> bool:
        """Whether streams are best opened here: it can be done, and the peer is not in doubt."""

    @property
    def ended_by_us(self) -> bool:
        """Whether it was closed here, and not lost."""

    @property
    def ended_by_peer(self) -> bool:
        """Whether the peer has said that it ends it."""

    async def open_stream(
        self,
        protocols: Sequence[str],
        timeout_s: float = 15.0,
        *,
        known: bool = False,
        settled: Callable[[DuplexStream], None] = lambda _stream: None,
    ) -> DuplexStream:
        """See `Conn.open_stream`."""

    def open_at_once(self, protocol: str, settled: Callable[[DuplexStream], None]) -> DuplexStream | None:
        """See `Conn.open_at_once`."""

    def abort(self, exc: Exception | None = None) -> None:
        """End at once; every stream fails with `exc` as its cause."""

    async def close(self) -> None:
        """End gracefully. Idempotent."""
