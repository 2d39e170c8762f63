"""Values of the forwarding service: what it is given and what it tells.

Frozen, without behaviour beyond checks; the daemon maps the infos onto `rpc.schema`. Durations are
seconds, sizes bytes, times unix seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.terms import ForwardTerms, Lifetime, ListenTerms
from p2pfwd.errors import UsageError
from p2pfwd.policy.paths import PathCode
from p2pfwd.wire.circuit import Limit

Direction = Literal["listen", "forward"]
Change = Literal["added", "changed", "removed"]

READY = "ready"
UNKNOWN = "unknown"
PEER_UNREACHABLE = "peer-unreachable"


@dataclass(frozen=True, slots=True)
class ForwardingLimits:
    """Bounds on what strangers and local programs can make the service hold, and its time limits."""

    max_streams: int = 8192
    max_streams_per_peer: int = 4096
    max_streams_per_listener: int = 4096
    max_pending_targets: int = 4096  # target dials under way, over all listens; each costs as a stream does
    max_pending_opens: int = 256  # accepted connections waiting for a stream, per forward
    wait_s: float = 10.0  # how long an accepted connection waits for a peer that is away
    open_timeout_s: float = 30.0  # dial + negotiation per accepted connection, as in Kubo
    target_timeout_s: float = 10.0
    kubo_half_close: Literal["auto", "on", "off"] = "auto"
    """Hold our FIN until the remote's: Kubo's pipe dies at the first FIN. auto = by the peer's agent."""
    kubo_hold_s: float = 600.0
    """The longest silence for which it is held; 0: for ever."""


@dataclass(frozen=True, slots=True)
class CloseMatch:
    """Which listeners to close: the filters given AND together, over both directions."""

    all: bool = False
    protocol: str | None = None
    listen_address: Multiaddr | None = None
    target_address: Multiaddr | None = None

    def __post_init__(self) -> None:
        filters = (self.protocol, self.listen_address, self.target_address)
        if self.all and any(f is not None for f in filters):
            raise UsageError("can't combine --all with other matching options")
        if not self.all and all(f is None for f in filters):
            raise UsageError("no matching options given", hint="give --all, -p, -l or -t")

    def matches(self, protocol: str, listen_address: Multiaddr, target_address: Multiaddr) -> bool:
        """Whether a listener with these three properties is meant."""
        return (
            self.protocol in (None, protocol)
            and self.listen_address in (None, listen_address)
            and self.target_address in (None, target_address)
        )


@dataclass(frozen=True, slots=True)
class ListenerInfo:
    """One listen or forward at one moment."""

    id: int
    direction: Direction
    protocol: str
    listen_address: Multiaddr  # listen: /p2p/<self>; forward: the bound address
    target_address: Multiaddr  # listen: the local service; forward: /p2p/<peer>
    state: str  # READY, UNKNOWN, PEER_UNREACHABLE or an error code
    reason: str | None  # one sentence when the state is bad
    hint: str | None
    state_since: float  # when state or reason last changed
    streams: int
    bytes_in: int  # from the remote peer, over all streams so far
    bytes_out: int
    foreground: bool
    saved: bool  # it is in the state file
    created: float
    terms: ListenTerms | ForwardTerms
    ends_at: float | None = None  # None: when it is closed
    busiest: int = 0  # of a listen: streams of the peer that has most
    waiting: int = 0  # local connections of a forward that wait for its peer
    warm: bool = False  # the peer of a saved or declared forward is kept connected
    lifetime: Lifetime = "ephemeral"

    @property
    def key(self) -> tuple[Direction, str]:
        """What no second one may have."""
        return self.direction, self.protocol if self.direction == "listen" else str(self.listen_address)


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """One live tunnelled connection at one moment."""

    id: int
    listener_id: int
    direction: Literal["inbound", "outbound"]
    protocol: str
    origin_address: str  # forward: the local client; listen: /p2p/<dialer>
    target_address: str  # forward: /p2p/<peer>; listen: the local service
    peer: str
    age_s: float
    bytes_in: int
    bytes_out: int
    rate_in: float  # bytes per second since the last snapshot
    rate_out: float
    path: Literal["direct", "relayed"]
    code: PathCode  # why it is this path
    limit_left: Limit | None  # of a limited relay
    remote_address: str
    cipher: str  # what seals that connection
    rtt_s: float | None
    dialing_target: bool  # listen: the local service has not answered yet
    holds_end: bool  # forward to a Kubo: the client's end of data waits for the end of the reply


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """What one try of a forward or of a target found; failures are told, not raised."""

    ok: bool
    state: str
    reason: str | None = None
    hint: str | None = None
    path: Literal["direct", "relayed"] | None = None
    remote_address: str | None = None
    security: str | None = None
    elapsed_s: float = 0.0
    rtt_s: float | None = None


@dataclass(frozen=True, slots=True)
class ForwardingEvent:
    """A listener or stream came, changed its state, or went; exactly one of the two infos is set."""

    change: Change
    listener: ListenerInfo | None = None
    stream: StreamInfo | None = None
