"""The RPC in one table: method name -> (params, result) as frozen dataclasses.

Server, client, `p2pfwd-rpc.7` and the golden tests derive from `METHODS`. On the wire, parameters
keep their Python names; results carry `wire_name(field)`: Kubo's names where Kubo has one
(`ListenAddress`, `HandlerID`), CamelCase otherwise. Durations are seconds, sizes bytes, unless the
name says another unit. Empty lists are `[]`; an absent value is `null`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from p2pfwd.rpc.access_values import (  # noqa: F401 - as below
    AccessChangeParams,
    AccessChangeResult,
    AccessLsResult,
    AccessRequest,
    AccessRequestsResult,
    AccessRmParams,
    AccessRule,
    Block,
    BlockLsResult,
    BlockParams,
    BlockResult,
)
from p2pfwd.rpc.doctor_values import Bootstrap, DoctorParams, DoctorResult, Finding  # noqa: F401
from p2pfwd.rpc.peer_values import (
    PeerAddParams,
    PeerAddResult,
    PeerLsParams,
    PeerLsResult,
    PeerRmParams,
    PeerRmResult,
)
from p2pfwd.rpc.relay_values import (  # noqa: F401 - as below
    Relay,
    RelayCircuit,
    RelayLsResult,
    RelayPlace,
    RelayToken,
    RelayTokenLsResult,
    RelayTokenNewParams,
    RelayTokenNewResult,
    RelayTokenRevokeParams,
    RelayTokenRevokeResult,
)
from p2pfwd.rpc.values import (  # noqa: F401 - the whole RPC under one name
    Access,
    AccessPeer,
    Check,
    DhtBucket,
    DhtTable,
    Empty,
    Listener,
    Message,
    NamedPeer,
    Nat,
    NearPeer,
    Needs,
    Network,
    Notice,
    Path,
    PathWish,
    Peer,
    PortMapping,
    Reachability,
    Standing,
    Stream,
    named,
    wire_name,
)

RPC_MAJOR = 1
MAX_LINE_BYTES = 1 << 20
"""Longest request line, newline included; a daemon holds no more than this of what it cannot parse yet."""

MAX_REPLY_BYTES = 16 << 20
"""Longest reply or event line: `p2p.stream.ls` takes about 500 bytes a stream, and 20,000 streams fit."""

TOPICS = ("log", "listeners", "streams", "peers", "lookups")
"""What `events.subscribe` takes."""


# --- per method -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class HelloParams(Message):
    """Parameters of `daemon.hello`."""

    rpc: int
    client: str = ""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class HelloResult(Message):
    """Result of `daemon.hello`."""

    rpc: int
    version: str
    id: str
    pid: int


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ListenParams(Message):
    """Parameters of `p2p.listen`."""

    protocol: str
    target: str
    allow_custom_protocol: bool = False
    report_peer_id: bool = False
    foreground: bool = False
    ephemeral: bool = False
    allow: tuple[str, ...] = ()  # whom alone to let in, as AccessChangeParams.peers; none: as it is


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ListenResult(Message):
    """Result of `p2p.listen`."""

    listener: Listener
    target_check: Check
    peer: str  # own peer ID
    addresses: tuple[str, ...]  # own full addresses, each ending in /p2p/<self>, best first
    taken_ports: tuple[int, ...] = ()  # configured; the addresses have another, until the daemon restarts
    stood: bool = False  # before this call, just as it was asked for


@dataclass(frozen=True, slots=True, eq=False, repr=False)
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


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ForwardResult(Message):
    """Result of `p2p.forward`."""

    listener: Listener
    peer: str
    notices: tuple[Notice, ...] = ()
    stood: bool = False  # as ListenResult.stood


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CheckParams(Message):
    """Parameters of `p2p.check`."""

    listener: int  # Listener.id
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CloseParams(Message):
    """Parameters of `p2p.close`."""

    all: bool = False
    protocol: str | None = None
    listen_address: str | None = None
    target_address: str | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CloseResult(Message):
    """Result of `p2p.close`."""

    closed: tuple[Listener, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LsResult(Message):
    """Result of `p2p.ls`."""

    listeners: tuple[Listener, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StreamLsResult(Message):
    """Result of `p2p.stream.ls`."""

    streams: tuple[Stream, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StreamCloseParams(Message):
    """Parameters of `p2p.stream.close`."""

    id: str | None = None
    all: bool = False


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StreamCloseResult(Message):
    """Result of `p2p.stream.close`."""

    closed: tuple[Stream, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ConnectParams(Message):
    """Parameters of `swarm.connect`."""

    addresses: tuple[str, ...]  # as ForwardParams.peers
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ConnectResult(Message):
    """Result of `swarm.connect`."""

    connection: Peer


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DisconnectParams(Message):
    """Parameters of `swarm.disconnect`."""

    peer: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DisconnectResult(Message):
    """Result of `swarm.disconnect`."""

    peer: str
    closed: int  # connections


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PeersResult(Message):
    """Result of `swarm.peers`."""

    peers: tuple[Peer, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class OwnAddress(Message):
    """One address of this node, and what it rests on."""

    address: str
    kind: str  # "bound" | "proved" | "mapped" | "observed" | "relayed"
    by: tuple[str, ...] = ()  # the peers who proved it, or see this node there
    age_s: float | None = None  # of the proof
    left_s: float | None = None  # until the proof counts no longer
    since_s: float | None = None  # for how long it is proved without a break


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class AddrsResult(Message):
    """Result of `swarm.addrs`."""

    id: str
    listen: tuple[str, ...]  # told to others: bound addresses (unspecified ones expanded), and proved ones
    observed: tuple[str, ...]  # as peers see this node
    own: tuple[OwnAddress, ...] = ()  # each with what it rests on


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DhtFindParams(Message):
    """Parameters of `dht.findpeer`."""

    peer: str  # a peer ID, or a name of `peer add`
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DhtFindResult(Message):
    """Result of `dht.findpeer`."""

    peer: str
    addresses: tuple[str, ...]
    protocol: str  # of the DHT in which it was found
    asked: int  # peers
    hops: int
    elapsed_ms: float


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DhtQueryParams(Message):
    """Parameters of `dht.query`."""

    peer: str  # a peer ID: the key whose nearest servers are looked for
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DhtQueryResult(Message):
    """Result of `dht.query`."""

    closest: tuple[str, ...]  # servers that answered, nearest first
    protocol: str
    asked: int
    hops: int
    elapsed_ms: float


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DhtStatResult(Message):
    """Result of `dht.stat`."""

    tables: tuple[DhtTable, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DiscoverParams(Message):
    """Parameters of `swarm.discover`."""

    timeout_s: float = 5.0


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DiscoverResult(Message):
    """Result of `swarm.discover`."""

    peers: tuple[NearPeer, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class IdResult(Message):
    """Result of `id`."""

    id: str
    public_key: str  # base64 of the PublicKey protobuf
    addresses: tuple[str, ...]
    agent_version: str
    protocol_version: str
    protocols: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PingParams(Message):
    """Parameters of `ping`."""

    peer: str  # as one of ForwardParams.peers
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PingResult(Message):
    """Result of `ping`."""

    peer: str
    remote_address: str
    path: Path
    rtt_ms: float = named("RTTMilliseconds")
    path_code: str = ""  # why it is this path: see Stream.path_code
    path_reason: str = ""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StatusResult(Message):
    """Result of `daemon.status`."""

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
    network: Network = "public"
    swarm_key_fingerprint: str | None = None  # of a private network, as Kubo shows it
    reachability: Reachability = "unknown"
    standing: Standing = "unknown"
    needs: Needs = "unknown"
    nat: Nat = "unknown"
    announced: tuple[OwnAddress, ...] = ()  # what others are told, bound or proved
    refused: dict[str, int] = field(default_factory=dict)  # to strangers since the start: cause -> how often
    taken_ports: tuple[int, ...] = ()  # configured; the addresses have another, until the daemon restarts
    relays: tuple[Relay, ...] = ()
    bootstrap: Bootstrap | None = None
    port_mappings: tuple[PortMapping, ...] = ()  # none where port mapping is off


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LogLevelParams(Message):
    """Parameters of `log.level`."""

    subsystem: str  # a logger name below "p2pfwd", or "all"
    level: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LogLevelResult(Message):
    """Result of `log.level`."""

    levels: dict[str, str]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SubscribeParams(Message):
    """Parameters of `events.subscribe`."""

    topics: tuple[str, ...]  # of TOPICS


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SubscribeResult(Message):
    """Result of `events.subscribe`."""

    subscription: int


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CancelParams(Message):
    """Parameters of `events.cancel`."""

    subscription: int


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Event(Message):
    """Body of an `event` notification."""

    subscription: int
    topic: str
    time: float
    data: dict[str, Any]


METHODS: dict[str, tuple[type, type]] = {
    "daemon.hello": (HelloParams, HelloResult),
    "daemon.status": (Empty, StatusResult),
    "daemon.shutdown": (Empty, Empty),
    "doctor": (DoctorParams, DoctorResult),
    "p2p.listen": (ListenParams, ListenResult),
    "p2p.forward": (ForwardParams, ForwardResult),
    "p2p.check": (CheckParams, Check),
    "p2p.close": (CloseParams, CloseResult),
    "p2p.ls": (Empty, LsResult),
    "p2p.stream.ls": (Empty, StreamLsResult),
    "p2p.stream.close": (StreamCloseParams, StreamCloseResult),
    "access.allow": (AccessChangeParams, AccessChangeResult),
    "access.deny": (AccessChangeParams, AccessChangeResult),
    "access.rm": (AccessRmParams, AccessChangeResult),
    "access.ls": (Empty, AccessLsResult),
    "access.requests": (Empty, AccessRequestsResult),
    "block.add": (BlockParams, BlockResult),
    "block.rm": (BlockParams, BlockLsResult),
    "block.ls": (Empty, BlockLsResult),
    "swarm.connect": (ConnectParams, ConnectResult),
    "swarm.disconnect": (DisconnectParams, DisconnectResult),
    "swarm.peers": (Empty, PeersResult),
    "swarm.addrs": (Empty, AddrsResult),
    "swarm.discover": (DiscoverParams, DiscoverResult),
    "peer.add": (PeerAddParams, PeerAddResult),
    "peer.rm": (PeerRmParams, PeerRmResult),
    "peer.ls": (PeerLsParams, PeerLsResult),
    "dht.findpeer": (DhtFindParams, DhtFindResult),
    "dht.query": (DhtQueryParams, DhtQueryResult),
    "dht.stat": (Empty, DhtStatResult),
    "relay.ls": (Empty, RelayLsResult),
    "relay.token.new": (RelayTokenNewParams, RelayTokenNewResult),
    "relay.token.ls": (Empty, RelayTokenLsResult),
    "relay.token.revoke": (RelayTokenRevokeParams, RelayTokenRevokeResult),
    "id": (Empty, IdResult),
    "ping": (PingParams, PingResult),
    "log.level": (LogLevelParams, LogLevelResult),
    "events.subscribe": (SubscribeParams, SubscribeResult),
    "events.cancel": (CancelParams, Empty),
}
