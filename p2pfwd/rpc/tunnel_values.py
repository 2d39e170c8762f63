"""The RPC's values of tunnels: `p2p.listen`, `p2p.forward` and their kin."""

from __future__ import annotations

from p2pfwd.rpc.values import Check, Listener, Message, Notice, PathWish, ProxyProtocol, Stream, message


@message
class ListenParams(Message):
    """Parameters of `p2p.listen`."""

    protocol: str
    target: str
    allow_custom_protocol: bool = False
    report_peer_id: bool = False
    foreground: bool = False
    ephemeral: bool = False
    allow: tuple[str, ...] = ()  # whom alone to let in, as AccessChangeParams.peers; none: as it is
    max_streams: int = 0  # as Limits
    max_streams_per_peer: int = 0
    rate: int = 0
    rate_per_peer: int = 0
    idle_timeout_s: int = 0
    proxy_protocol: ProxyProtocol = "none"
    expires_s: float | None = None  # from now, until it is closed by itself
    wait_target_s: float = 0.0  # how long a stream waits for a target that is down
    check: str = ""  # how the target is watched: "tcp", "http:/path"; "": not at all
    tell_denied: tuple[str, ...] = ()  # who is told when it is denied, in the same words


@message
class ListenResult(Message):
    """Result of `p2p.listen`."""

    listener: Listener
    target_check: Check
    peer: str  # own peer ID
    addresses: tuple[str, ...]  # own full addresses, each ending in /p2p/<self>, best first
    taken_ports: tuple[int, ...] = ()  # configured; the addresses have another, until the daemon restarts
    stood: bool = False  # before this call, just as it was asked for
    notices: tuple[Notice, ...] = ()


@message
class ForwardParams(Message):
    """Parameters of `p2p.forward`."""

    protocol: str
    listen: str
    peers: tuple[str, ...]  # peer ID, /p2p/ID, multiaddr ending in /p2p/ID, /dnsaddr/host; all of one peer
    allow_custom_protocol: bool = False
    foreground: bool = False
    path: PathWish = "any"
    allow_limited_relay: bool = False
    ephemeral: bool = False
    expires_s: float | None = None  # as ListenParams


@message
class ForwardResult(Message):
    """Result of `p2p.forward`."""

    listener: Listener
    peer: str
    notices: tuple[Notice, ...] = ()
    stood: bool = False  # as ListenResult.stood


@message
class CheckParams(Message):
    """Parameters of `p2p.check`."""

    listener: int  # Listener.id
    timeout_s: float = 30.0


@message
class CloseParams(Message):
    """Parameters of `p2p.close`."""

    all: bool = False
    protocol: str | None = None
    listen_address: str | None = None
    target_address: str | None = None


@message
class CloseResult(Message):
    """Result of `p2p.close`."""

    closed: tuple[Listener, ...]


@message
class LsResult(Message):
    """Result of `p2p.ls`."""

    listeners: tuple[Listener, ...]
    lost: str | None = None  # a damaged state file that lies aside: what was saved in it is lost


@message
class StreamLsResult(Message):
    """Result of `p2p.stream.ls`."""

    streams: tuple[Stream, ...]


@message
class StreamCloseParams(Message):
    """Parameters of `p2p.stream.close`."""

    id: str | None = None
    all: bool = False


@message
class StreamCloseResult(Message):
    """Result of `p2p.stream.close`."""

    closed: tuple[Stream, ...]
