"""The RPC in one table: method name -> (params, result) as frozen dataclasses (`values.message`).

Server, client, `p2pfwd-rpc.7` and the golden tests derive from `METHODS`. On the wire, parameters
keep their Python names; results carry `wire_name(field)`: Kubo's names where Kubo has one
(`ListenAddress`, `HandlerID`), CamelCase otherwise. Durations are seconds, sizes bytes, unless the
name says another unit. Empty lists are `[]`; an absent value is `null`.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any, Literal

from p2pfwd.rpc.access_values import (  # noqa: F401 - as below
    AccessAllowParams,
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
from p2pfwd.rpc.event_values import (  # noqa: F401 - as below
    EventsParams,
    EventsResult,
    HistoryDigest,
    HistoryEvent,
    PeerDrops,
)
from p2pfwd.rpc.invite_values import (  # noqa: F401 - as below
    Invite,
    InviteJoinParams,
    InviteJoinResult,
    InviteLsResult,
    InviteNewParams,
    InviteNewResult,
    InviteRevokeParams,
    InviteRevokeResult,
)
from p2pfwd.rpc.limit_values import LimitParams, LimitResult
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
    RelayPeer,
    RelayPlace,
    RelayToken,
    RelayTokenLsResult,
    RelayTokenNewParams,
    RelayTokenNewResult,
    RelayTokenRevokeParams,
    RelayTokenRevokeResult,
)
from p2pfwd.rpc.setup_values import (  # noqa: F401 - as below
    ApplyParams,
    ApplyResult,
    ExportResult,
    ReloadResult,
    SetupChange,
)
from p2pfwd.rpc.tunnel_values import (
    CheckParams,
    CloseParams,
    CloseResult,
    ForwardParams,
    ForwardResult,
    ListenParams,
    ListenResult,
    LsResult,
    StreamCloseParams,
    StreamCloseResult,
    StreamLsResult,
)
from p2pfwd.rpc.values import (  # noqa: F401 - the whole RPC under one name
    Access,
    AccessPeer,
    Check,
    DhtBucket,
    DhtTable,
    Empty,
    Limits,
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
    Problem,
    ProxyProtocol,
    Reachability,
    Standing,
    Stream,
    message,
    named,
    wire_name,
)

RPC_MAJOR = 1
MAX_LINE_BYTES = 1 << 20
"""Longest request line, newline included; a daemon holds no more than this of what it cannot parse yet."""

MAX_REPLY_BYTES = 16 << 20
"""Longest reply or event line: `p2p.stream.ls` takes about 500 bytes a stream, and 20,000 streams fit."""

TOPICS = ("log", "listeners", "streams", "peers", "lookups", "events")
"""What `events.subscribe` takes."""


# --- per method -----------------------------------------------------------------------------------


@message
class HelloParams(Message):
    """Parameters of `daemon.hello`."""

    rpc: int
    client: str = ""


@message
class HelloResult(Message):
    """Result of `daemon.hello`."""

    rpc: int
    version: str
    id: str
    pid: int


@message
class ConnectParams(Message):
    """Parameters of `swarm.connect`."""

    addresses: tuple[str, ...]  # as ForwardParams.peers
    timeout_s: float | None = None


@message
class ConnectResult(Message):
    """Result of `swarm.connect`."""

    connection: Peer


@message
class DisconnectParams(Message):
    """Parameters of `swarm.disconnect`."""

    peer: str


@message
class DisconnectResult(Message):
    """Result of `swarm.disconnect`."""

    peer: str
    closed: int  # connections


@message
class PeersResult(Message):
    """Result of `swarm.peers`."""

    peers: tuple[Peer, ...]


@message
class OwnAddress(Message):
    """One address of this node, and what it rests on."""

    address: str
    kind: Literal["bound", "proved", "mapped", "observed", "relayed"]
    by: tuple[str, ...] = ()  # the peers who proved it, or see this node there
    age_s: float | None = None  # of the proof
    left_s: float | None = None  # until the proof counts no longer
    since_s: float | None = None  # for how long it is proved without a break


@message
class AddrsResult(Message):
    """Result of `swarm.addrs`."""

    id: str
    listen: tuple[str, ...]  # told to others: bound addresses (unspecified ones expanded), and proved ones
    observed: tuple[str, ...]  # as peers see this node
    own: tuple[OwnAddress, ...] = ()  # each with what it rests on
    taken_ports: tuple[int, ...] = ()  # configured; the addresses have another, until the daemon restarts


@message
class DhtFindParams(Message):
    """Parameters of `dht.findpeer`."""

    peer: str  # a peer ID, or a name of `peer add`
    timeout_s: float = 60.0


@message
class DhtFindResult(Message):
    """Result of `dht.findpeer`."""

    peer: str
    addresses: tuple[str, ...]
    protocol: str  # of the DHT in which it was found
    asked: int  # peers
    hops: int
    elapsed_ms: float


@message
class DhtQueryParams(Message):
    """Parameters of `dht.query`."""

    peer: str  # a peer ID: the key whose nearest servers are looked for
    timeout_s: float = 60.0


@message
class DhtQueryResult(Message):
    """Result of `dht.query`."""

    closest: tuple[str, ...]  # servers that answered, nearest first
    protocol: str
    asked: int
    hops: int
    elapsed_ms: float


@message
class DhtStatResult(Message):
    """Result of `dht.stat`."""

    tables: tuple[DhtTable, ...]


@message
class DiscoverParams(Message):
    """Parameters of `swarm.discover`."""

    timeout_s: float = 5.0


@message
class DiscoverResult(Message):
    """Result of `swarm.discover`."""

    peers: tuple[NearPeer, ...]


@message
class IdResult(Message):
    """Result of `id`."""

    id: str
    public_key: str  # base64 of the PublicKey protobuf
    addresses: tuple[str, ...]
    agent_version: str
    protocol_version: str
    protocols: tuple[str, ...]


@message
class PingParams(Message):
    """Parameters of `ping`."""

    peer: str  # as one of ForwardParams.peers
    timeout_s: float = 30.0


@message
class PingResult(Message):
    """Result of `ping`."""

    peer: str
    remote_address: str
    path: Path
    rtt_ms: float = named("RTTMilliseconds")
    path_code: str = ""  # why it is this path: see Stream.path_code
    path_reason: str = ""


@message
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
    history: HistoryDigest | None = None
    absent_addresses: tuple[str, ...] = ()  # to listen on, and not this machine's at the moment
    swarm_streams: int = 0  # of all connections, those of tunnels among them
    tasks: int = 0  # of the event loop
    descriptors: int = 0  # open files and sockets
    lost: tuple[str, ...] = ()  # damaged files of tunnels and access rules that lie aside


@message
class LogLevelParams(Message):
    """Parameters of `log.level`."""

    subsystem: str  # a logger name below "p2pfwd", or "all"
    level: str


@message
class LogLevelResult(Message):
    """Result of `log.level`."""

    levels: dict[str, str]


@message
class SubscribeParams(Message):
    """Parameters of `events.subscribe`."""

    topics: tuple[str, ...]  # of TOPICS


@message
class SubscribeResult(Message):
    """Result of `events.subscribe`."""

    subscription: int


@message
class CancelParams(Message):
    """Parameters of `events.cancel`."""

    subscription: int


@message
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
    "daemon.reload": (Empty, ReloadResult),
    "doctor": (DoctorParams, DoctorResult),
    "p2p.listen": (ListenParams, ListenResult),
    "p2p.forward": (ForwardParams, ForwardResult),
    "p2p.check": (CheckParams, Check),
    "p2p.close": (CloseParams, CloseResult),
    "p2p.limit": (LimitParams, LimitResult),
    "p2p.ls": (Empty, LsResult),
    "p2p.export": (Empty, ExportResult),
    "p2p.apply": (ApplyParams, ApplyResult),
    "p2p.stream.ls": (Empty, StreamLsResult),
    "p2p.stream.close": (StreamCloseParams, StreamCloseResult),
    "access.allow": (AccessAllowParams, AccessChangeResult),
    "access.deny": (AccessChangeParams, AccessChangeResult),
    "access.rm": (AccessRmParams, AccessChangeResult),
    "access.ls": (Empty, AccessLsResult),
    "access.requests": (Empty, AccessRequestsResult),
    "block.add": (BlockParams, BlockResult),
    "block.rm": (BlockParams, BlockLsResult),
    "block.ls": (Empty, BlockLsResult),
    "invite.new": (InviteNewParams, InviteNewResult),
    "invite.ls": (Empty, InviteLsResult),
    "invite.revoke": (InviteRevokeParams, InviteRevokeResult),
    "invite.join": (InviteJoinParams, InviteJoinResult),
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
    "events.ls": (EventsParams, EventsResult),
    "events.subscribe": (SubscribeParams, SubscribeResult),
    "events.cancel": (CancelParams, Empty),
}

SAVING: frozenset[str] = frozenset(
    (
        *("p2p.listen", "p2p.forward", "p2p.close", "p2p.limit", "p2p.apply"),
        *("access.allow", "access.deny", "access.rm", "block.add", "block.rm"),
        *("invite.new", "invite.revoke", "invite.join", "peer.add", "peer.rm"),
        *("relay.token.new", "relay.token.revoke"),
    )
)
"""Methods that change what is there tomorrow: commands that call one start a daemon where none runs."""

TAKES_AWAY: frozenset[str] = frozenset(
    (
        *("p2p.close", "p2p.limit", "access.rm", "block.rm", "invite.revoke", "peer.rm"),
        "relay.token.revoke",
    )
)
"""Those of them that find nothing in a home where no daemon has ever run: none is started there for them."""
