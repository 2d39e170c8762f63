"""What can be set on the swarm, with its defaults and their reasons."""

from __future__ import annotations

from dataclasses import dataclass, field

from p2pfwd.policy.waking import Mode
from p2pfwd.wire.noise import NOISE
from p2pfwd.wire.tls import TLS


@dataclass(frozen=True, slots=True)
class SwarmSettings:
    """Durations in seconds, counts otherwise."""

    security: tuple[str, ...] = (NOISE, TLS)
    """In order of preference; Noise is as fast in place and needs one library less."""
    aes: bool | None = None
    """Offer AES-256-GCM inside Noise, as other p2pfwd do; None: where `net.aes_speed` finds it fast."""
    psk: bytes | None = field(default=None, repr=False)
    """Pre-shared key of a private network, 32 secret bytes: only those who have it can be spoken to."""
    local_only: bool = False
    """Neither dial nor accept, nor ask a name server, beyond loopback, private and link-local addresses."""
    early_muxer: bool = True
    """Agree on yamux inside the handshake; saves a round trip. Off only to test the other path."""
    connect_timeout_s: float = 5.0
    """One TCP connect, as go."""
    upgrade_timeout_s: float = 15.0
    """From accepted or connected to muxed, as go."""
    dial_timeout_s: float = 30.0
    """All addresses of one peer."""
    stream_timeout_s: float = 15.0
    """Opening a stream, its negotiation included."""
    max_connections: int = 512
    max_connections_per_ip: int = 32
    """Inbound, from one address that is not loopback (go: 8; a company behind one NAT is one address)."""
    max_pending_inbound: int = 64
    """Handshakes under way that strangers began."""
    max_pending_inbound_per_ip: int = 8
    max_turned_away: int = 512
    """Connections that came too fast, at all listening addresses, that stay unread until they are closed."""
    max_connections_per_peer: int = 8
    max_streams_per_connection: int = 4096
    """Inbound, on one connection; more are reset. What they buffer is bounded by the session."""
    high_water: int = 192
    """Connections above which idle, unprotected ones are closed..."""
    low_water: int = 160
    """... down to this many."""
    idle_s: float = 180.0
    """A connection that this node opened and nobody needs is let go after this time."""
    grace_s: float = 20.0
    """A connection younger than this is not trimmed."""
    busy_poll: Mode = "auto"
    """Whether the loop stays awake in a lively exchange of messages: on mains power, where it pays."""
    dns_servers: tuple[str, ...] = ()
    """Name servers `ip` or `ip:port`; empty: the system's."""
