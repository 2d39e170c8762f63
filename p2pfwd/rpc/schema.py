"""The RPC in one table: method name -> (params, result) as frozen dataclasses.

Server, client, `p2pfwd-rpc.7` and the golden tests derive from `METHODS`. On the wire, parameters
keep their Python names; results carry `wire_name(field)`: Kubo's names where Kubo has one
(`ListenAddress`, `HandlerID`), CamelCase otherwise. Durations are seconds, sizes bytes, unless the
name says another unit. Empty lists are `[]`; an absent value is `null`.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field
from typing import Any

RPC_MAJOR = 1
MAX_LINE_BYTES = 1 << 20
"""Longest request line, newline included; a daemon holds no more than this of what it cannot parse yet."""

MAX_REPLY_BYTES = 16 << 20
"""Longest reply or event line: `p2p.stream.ls` takes about 500 bytes a stream, and 20,000 streams fit."""

TOPICS = ("log", "listeners", "streams", "peers")
"""What `events.subscribe` takes."""

_ACRONYMS = {"id": "ID", "rtt": "RTT", "pid": "PID", "rpc": "RPC"}


def named(wire: str, **kw: Any) -> Any:
    """A dataclass field whose name on the wire is `wire`."""
    return field(metadata={"wire": wire}, **kw)


def wire_name(f: Field[Any]) -> str:
    """The name a result field has on the wire: its metadata, else CamelCase."""
    if "wire" in f.metadata:
        return str(f.metadata["wire"])
    return "".join(_ACRONYMS.get(word, word.capitalize()) for word in f.name.split("_"))


# --- shared values --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Listener:
    """One listen or forward, as `ls` shows it."""

    id: int
    direction: str  # "listen" | "forward"
    protocol: str
    listen_address: str  # listen: /p2p/<self>; forward: the bound address
    target_address: str  # listen: the local service; forward: /p2p/<peer>
    state: str  # "ready" | "unknown" | "peer-unreachable" | "target-refused" | other error code
    reason: str | None  # one sentence when the state is bad
    streams: int
    bytes_in: int  # from the remote peer, over all streams so far
    bytes_out: int  # to the remote peer
    foreground: bool
    created: float  # unix seconds


@dataclass(frozen=True, slots=True)
class Stream:
    """One live tunnelled connection."""

    handler_id: str = named("HandlerID")
    direction: str = "inbound"  # "inbound" (listen side) | "outbound" (forward side)
    protocol: str = ""
    origin_address: str = ""  # forward side: the local client; listen side: /p2p/<dialer>
    target_address: str = ""
    peer: str = ""
    age_s: float = named("AgeSeconds", default=0.0)
    bytes_in: int = 0  # from the peer
    bytes_out: int = 0  # to the peer
    rate_in: float = 0.0  # bytes per second since the last snapshot
    rate_out: float = 0.0
    path: str = "direct"  # "direct" | "relayed"
    remote_address: str = ""  # multiaddr of the connection underneath
    rtt_ms: float | None = named("RTTMilliseconds", default=None)


@dataclass(frozen=True, slots=True)
class Peer:
    """One live connection."""

    peer: str
    addr: str
    direction: str  # "inbound" | "outbound"
    security: str  # "/noise" | "/tls/1.0.0"
    muxer: str
    agent_version: str | None
    streams: int
    age_s: float = named("AgeSeconds")
    rtt_ms: float | None = named("RTTMilliseconds")


@dataclass(frozen=True, slots=True)
class Check:
    """Outcome of trying a forward or a target once."""

    ok: bool
    state: str  # as Listener.state
    reason: str | None
    hint: str | None
    path: str | None  # "direct" | "relayed"
    remote_address: str | None
    security: str | None
    elapsed_ms: float
    rtt_ms: float | None = named("RTTMilliseconds")


@dataclass(frozen=True, slots=True)
class Empty:
    """No parameters, or no result."""


# --- per method -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HelloParams:
    rpc: int
    client: str = ""


@dataclass(frozen=True, slots=True)
class HelloResult:
    rpc: int
    version: str
    id: str
    pid: int


@dataclass(frozen=True, slots=True)
class ListenParams:
    protocol: str
    target: str
    allow_custom_protocol: bool = False
    report_peer_id: bool = False
    foreground: bool = False


@dataclass(frozen=True, slots=True)
class ListenResult:
    listener: Listener
    target_check: Check
    peer: str  # own peer ID
    addresses: tuple[str, ...]  # own full addresses, each ending in /p2p/<self>, best first


@dataclass(frozen=True, slots=True)
class ForwardParams:
    protocol: str
    listen: str
    peers: tuple[str, ...]  # peer ID, /p2p/ID, multiaddr ending in /p2p/ID, /dnsaddr/host; all of one peer
    allow_custom_protocol: bool = False
    foreground: bool = False


@dataclass(frozen=True, slots=True)
class ForwardResult:
    listener: Listener
    peer: str


@dataclass(frozen=True, slots=True)
class CheckParams:
    listener: int  # Listener.id
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class CloseParams:
    all: bool = False
    protocol: str | None = None
    listen_address: str | None = None
    target_address: str | None = None


@dataclass(frozen=True, slots=True)
class CloseResult:
    closed: tuple[Listener, ...]


@dataclass(frozen=True, slots=True)
class LsResult:
    listeners: tuple[Listener, ...]


@dataclass(frozen=True, slots=True)
class StreamLsResult:
    streams: tuple[Stream, ...]


@dataclass(frozen=True, slots=True)
class StreamCloseParams:
    id: str | None = None
    all: bool = False


@dataclass(frozen=True, slots=True)
class StreamCloseResult:
    closed: tuple[Stream, ...]


@dataclass(frozen=True, slots=True)
class ConnectParams:
    addresses: tuple[str, ...]  # as ForwardParams.peers
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class ConnectResult:
    connection: Peer


@dataclass(frozen=True, slots=True)
class DisconnectParams:
    peer: str


@dataclass(frozen=True, slots=True)
class DisconnectResult:
    peer: str
    closed: int  # connections


@dataclass(frozen=True, slots=True)
class PeersResult:
    peers: tuple[Peer, ...]


@dataclass(frozen=True, slots=True)
class AddrsResult:
    id: str
    listen: tuple[str, ...]  # bound addresses, unspecified ones expanded to interfaces
    observed: tuple[str, ...]  # as peers see this node


@dataclass(frozen=True, slots=True)
class IdResult:
    id: str
    public_key: str  # base64 of the PublicKey protobuf
    addresses: tuple[str, ...]
    agent_version: str
    protocol_version: str
    protocols: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PingParams:
    peer: str  # as one of ForwardParams.peers
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class PingResult:
    peer: str
    remote_address: str
    path: str
    rtt_ms: float = named("RTTMilliseconds")


@dataclass(frozen=True, slots=True)
class StatusResult:
    version: str
    pid: int
    id: str
    uptime_s: float = named("UptimeSeconds")
    home: str = ""
    socket: str = ""
    log: str | None = None
    addresses: tuple[str, ...] = ()
    connections: int = 0
    peers: int = 0
    listeners: int = 0
    streams: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    rss_bytes: int = 0
    draining: bool = False


@dataclass(frozen=True, slots=True)
class LogLevelParams:
    subsystem: str  # a logger name below "p2pfwd", or "all"
    level: str


@dataclass(frozen=True, slots=True)
class LogLevelResult:
    levels: dict[str, str]


@dataclass(frozen=True, slots=True)
class SubscribeParams:
    topics: tuple[str, ...]  # of TOPICS


@dataclass(frozen=True, slots=True)
class SubscribeResult:
    subscription: int


@dataclass(frozen=True, slots=True)
class CancelParams:
    subscription: int


@dataclass(frozen=True, slots=True)
class Event:
    """Body of an `event` notification."""

    subscription: int
    topic: str
    time: float
    data: dict[str, Any]


METHODS: dict[str, tuple[type, type]] = {
    "daemon.hello": (HelloParams, HelloResult),
    "daemon.status": (Empty, StatusResult),
    "daemon.shutdown": (Empty, Empty),
    "p2p.listen": (ListenParams, ListenResult),
    "p2p.forward": (ForwardParams, ForwardResult),
    "p2p.check": (CheckParams, Check),
    "p2p.close": (CloseParams, CloseResult),
    "p2p.ls": (Empty, LsResult),
    "p2p.stream.ls": (Empty, StreamLsResult),
    "p2p.stream.close": (StreamCloseParams, StreamCloseResult),
    "swarm.connect": (ConnectParams, ConnectResult),
    "swarm.disconnect": (DisconnectParams, DisconnectResult),
    "swarm.peers": (Empty, PeersResult),
    "swarm.addrs": (Empty, AddrsResult),
    "id": (Empty, IdResult),
    "ping": (PingParams, PingResult),
    "log.level": (LogLevelParams, LogLevelResult),
    "events.subscribe": (SubscribeParams, SubscribeResult),
    "events.cancel": (CancelParams, Empty),
}
