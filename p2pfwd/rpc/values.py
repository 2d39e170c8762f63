"""What the RPC's results are made of: values that several methods share (see `rpc.schema`)."""

from __future__ import annotations

from dataclasses import Field, dataclass, field
from typing import Any, Literal

Way = Literal["inbound", "outbound"]
Path = Literal["direct", "relayed"]
PathWish = Literal["any", "direct", "relay"]
Network = Literal["public", "lan", "private"]
Reachability = Literal["unknown", "public", "private"]
"""By strangers."""
Standing = Literal["offline", "public", "mapped", "punchable", "unpunchable", "hidden", "unknown"]
"""How others can get here."""
Needs = Literal["id", "same-network", "address", "relay", "network", "unknown"]
"""What a peer needs to reach this node."""
Nat = Literal["unknown", "none", "endpoint-independent", "symmetric", "sequential"]
"""How connections from the listening port are translated."""

_ACRONYMS = {"id": "ID", "rtt": "RTT", "pid": "PID", "rpc": "RPC", "rss": "RSS", "nat": "NAT"}


def named(wire: str, **kw: Any) -> Any:
    """A dataclass field whose name on the wire is `wire`."""
    return field(metadata={"wire": wire}, **kw)


def wire_name(f: Field[Any]) -> str:
    """The name a result field has on the wire: its metadata, else CamelCase."""
    if "wire" in f.metadata:
        return str(f.metadata["wire"])
    return "".join(_ACRONYMS.get(word, word.capitalize()) for word in f.name.split("_"))


class Message:
    """Base of every dataclass here: compares and shows them.

    That `dataclass` need not generate code for it, class by class, takes 6 of 16 ms off every command's start
    (`python -X importtime -c 'import p2pfwd.rpc.schema'`); the docstrings take another 2 off, since without
    one it makes a signature's text.
    """

    __slots__ = ()

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__match_args__)  # type: ignore[attr-defined]

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash((type(self), self._values()))

    def __repr__(self) -> str:
        shown = zip(self.__match_args__, self._values(), strict=True)  # type: ignore[attr-defined]
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown)})"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class AccessPeer(Message):
    """One peer of an access rule."""

    peer: str
    name: str | None  # as `peer add` gave it


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Access(Message):
    """Whom a listen lets in."""

    lets_in: Literal["any", "named", "listed"]  # beside those allowed: any peer, those with a name, nobody
    allowed: tuple[AccessPeer, ...] = ()
    denied: tuple[AccessPeer, ...] = ()  # whoever else is let in


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Listener(Message):
    """One listen or forward, as `ls` shows it."""

    id: int  # 0: it is saved, and could not be made at the start
    direction: Literal["listen", "forward"]
    protocol: str
    listen_address: str  # listen: /p2p/<self>; forward: the bound address
    target_address: str  # listen: the local service; forward: /p2p/<peer>
    state: str  # "ready", "unknown", "peer-unreachable", or the code of an error
    reason: str | None  # one sentence when the state is bad
    streams: int
    bytes_in: int  # from the remote peer, over all streams so far
    bytes_out: int  # to the remote peer
    foreground: bool
    created: float  # unix seconds
    saved: bool = False  # it outlives the daemon
    access: Access | None = None  # of a listen


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Stream(Message):
    """One live tunnelled connection."""

    handler_id: str = named("HandlerID")
    direction: Way = "inbound"  # inbound: of a listen; outbound: of a forward
    protocol: str = ""
    origin_address: str = ""  # forward side: the local client; listen side: /p2p/<dialer>
    target_address: str = ""
    peer: str = ""
    age_s: float = named("AgeSeconds", default=0.0)
    bytes_in: int = 0  # from the peer
    bytes_out: int = 0  # to the peer
    rate_in: float = 0.0  # bytes per second since the last snapshot
    rate_out: float = 0.0
    path: Path = "direct"
    remote_address: str = ""  # multiaddr of the connection underneath
    rtt_ms: float | None = named("RTTMilliseconds", default=None)
    holds_end: bool = False  # forward side: a Kubo is not told yet that the client has ended its data
    path_code: str = "direct"  # why it is this path: direct, punched, relayed, relayed-…
    path_reason: str = "direct"  # the same in words
    limit_bytes_left: int | None = None  # each way, of a limited relay
    limit_seconds_left: int | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Peer(Message):
    """One live connection."""

    peer: str
    addr: str
    direction: Way
    security: str  # its protocol: "/noise", "/tls/1.0.0"
    muxer: str
    agent_version: str | None
    streams: int
    age_s: float = named("AgeSeconds")
    rtt_ms: float | None = named("RTTMilliseconds")
    path: Path = "direct"
    path_code: str = "direct"  # why it is this path: see Stream.path_code
    path_reason: str = "direct"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class NamedPeer(Message):
    """One peer that has a name, or is kept without one."""

    name: str  # "" without one
    peer: str
    addresses: tuple[str, ...]  # those given with the name, without the peer ID
    kept: Literal["static", "relay", "bootstrap"] | None  # null: not kept
    state: Literal["connected", "dialing", "waiting", "not-connected"]  # the last: and not kept
    remote_address: str | None  # of its connection
    last_outcome: str | None  # of the last try to keep it connected, in words
    last_try_s: float | None = named("LastTrySeconds")  # ago
    next_try_s: float | None = named("NextTrySeconds")  # from now
    failures: int = 0  # in a row


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PortMapping(Message):
    """Whether the router leads a port of its own to one of this node's."""

    port: int | None  # of this node; null: no port can be mapped
    state: Literal["searching", "mapped", "useless", "refused", "silent", "no-router", "not-needed"]
    reason: str | None = None  # in words, where it is not searching and not mapped
    protocol: Literal["PCP", "NAT-PMP", "UPnP"] | None = None
    router: str | None = None  # its IP address on this side
    address: str | None = None  # multiaddr of the port on its other side
    left_s: float | None = named("LeftSeconds", default=None)  # of the lease; null: permanent, or no mapping


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Check(Message):
    """Outcome of trying a forward or a target once."""

    ok: bool
    state: str  # as Listener.state
    reason: str | None
    hint: str | None
    path: Path | None
    remote_address: str | None
    security: str | None
    elapsed_ms: float
    rtt_ms: float | None = named("RTTMilliseconds")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Notice(Message):
    """What a person should know of a request that was carried out all the same."""

    code: str  # "exposed" | "undialable"
    message: str
    hint: str | None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Empty(Message):
    """No parameters, or no result."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DhtBucket(Message):
    """One bucket of a routing table: peers that share `prefix_bits` bits of their key with this node."""

    prefix_bits: int
    last: bool  # this bucket also holds the peers that share more bits
    peers: tuple[str, ...]  # least recently seen first
    replacements: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DhtTable(Message):
    """One DHT of this node."""

    protocol: str
    scope: Literal["wan", "lan", "private"]
    mode: Literal["client", "server"]
    peers: int
    refreshed_s: float | None = named("RefreshedSeconds")  # ago; null: not yet
    buckets: tuple[DhtBucket, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class NearPeer(Message):
    """One peer on the local network."""

    peer: str
    addresses: tuple[str, ...]  # as it told them, each ending in /p2p/<peer>
    source: Literal["mdns"]  # how it was found
    agent_version: str | None
    tunnels: bool | None  # whether it lists /x/, or a protocol below it; null: it could not be asked
    reason: str | None  # why not
