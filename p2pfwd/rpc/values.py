"""What the RPC's results are made of: values that several methods share (see `rpc.schema`)."""

from __future__ import annotations

from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Never, TypeVar, dataclass_transform

Way = Literal["inbound", "outbound"]
Path = Literal["direct", "relayed"]
PathWish = Literal["any", "direct", "relay"]
ProxyProtocol = Literal["none", "v2"]
Network = Literal["public", "lan", "private"]
Reachability = Literal["unknown", "public", "private"]
"""By strangers."""
Standing = Literal["offline", "public", "mapped", "punchable", "unpunchable", "hidden", "unknown"]
"""How others can get here."""
Needs = Literal["id", "same-network", "address", "relay", "network", "unknown"]
"""What a peer needs to reach this node."""
Nat = Literal["unknown", "none", "endpoint-independent", "symmetric", "sequential"]
"""How connections from the listening port are translated."""

M = TypeVar("M", bound="Message")

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
    """Base of every `message`: makes, compares and shows one, and keeps it as it was made.

    `dataclass` would generate code for that, class by class, and compiling it was a fifth of every command's
    start (`python -X importtime -c 'import p2pfwd.rpc.schema'`).
    """

    if TYPE_CHECKING:  # `dataclass` sets them; else they would be evaluated anew for each value's reader
        __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
        __match_args__: ClassVar[tuple[str, ...]]

    def __init__(self, *given: Any, **named: Any) -> None:
        """As the dataclass's: fields in order, or by name; raises TypeError for one too few or too many."""
        names, kind = self.__match_args__, type(self).__name__
        if len(given) > len(names):
            raise TypeError(f"{kind}: more values than fields")
        values = dict(zip(names, given, strict=False))
        for name in named:
            if name not in names or name in values:
                fault = f"{name} is given twice" if name in names else f"no field {name}"
                raise TypeError(f"{kind}: {fault}")
        values |= named
        for f in fields(self):
            if f.name not in values:
                values[f.name] = _default(kind, f)
        self.__dict__.update(values)

    def __setattr__(self, name: str, value: Never) -> None:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__match_args__)

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash((type(self), self._values()))

    def __repr__(self) -> str:
        shown = zip(self.__match_args__, self._values(), strict=True)
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown)})"


def _default(kind: str, f: Field[Any]) -> Any:
    if f.default is not MISSING:
        return f.default
    if f.default_factory is not MISSING:
        return f.default_factory()
    raise TypeError(f"{kind}: {f.name} is missing")


@dataclass_transform(frozen_default=True, field_specifiers=(field, named))
def message(cls: type[M]) -> type[M]:
    """A frozen dataclass of the RPC, a subclass of `Message`, which does what is generated otherwise.

    It wants a docstring: without one `dataclass` makes a signature's text, which costs as much again.
    """
    return dataclass(init=False, eq=False, repr=False)(cls)


@message
class AccessPeer(Message):
    """One peer of an access rule."""

    peer: str
    name: str | None  # as `peer add` gave it
    ends_at: float | None = None  # unix seconds: when it is let in no more; null: not by itself


@message
class Access(Message):
    """Whom a listen lets in."""

    lets_in: Literal["any", "named", "listed"]  # beside those allowed: any peer, those with a name, nobody
    allowed: tuple[AccessPeer, ...] = ()
    denied: tuple[AccessPeer, ...] = ()  # whoever else is let in
    any_ends_at: float | None = None  # when only those listed are let in, where it is any peer until then
    told: tuple[AccessPeer, ...] = ()  # who is told when it is denied
    tells_any: bool = False  # everybody is


@message
class Limits(Message):
    """Limits of a listen; 0: none."""

    max_streams: int = 0
    max_streams_per_peer: int = 0
    rate: int = 0  # bytes a second each way, of all its streams together
    rate_per_peer: int = 0
    idle_timeout_s: int = named("IdleTimeoutSeconds", default=0)


@message
class Problem(Message):
    """What was last wrong with a tunnel, in the last 24 hours."""

    code: Literal[
        "tunnel-port-taken", "tunnel-peer-away", "tunnel-target-down", "tunnel-not-allowed", "tunnel-failing"
    ]
    time: float  # unix seconds
    reason: str


@message
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
    saved: bool = False  # it is in the state file
    access: Access | None = None  # of a listen
    last_problem: Problem | None = None
    limits: Limits | None = None  # of a listen
    proxy_protocol: ProxyProtocol = "none"
    ends_at: float | None = None  # unix seconds; null: when it is closed
    state_since: float | None = None  # unix seconds: since when state and reason are these
    wait_target_s: float = named("WaitTargetSeconds", default=0.0)  # of a listen: for a target that is down
    check: str = ""  # of a listen: how its target is watched
    waiting: int = 0  # local connections of a forward that wait for its peer
    warm: bool | None = None  # of a saved or declared forward: its peer is kept connected for it
    lifetime: Literal["saved", "ephemeral", "foreground", "declared"] = "saved"
    declared_in: str | None = None  # config.toml, and the line of its table


@message
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
    cipher: str = ""  # what seals the connection underneath: see Peer.cipher


@message
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
    cipher: str = ""  # what seals its bytes: aes-256-gcm, chacha20-poly1305, aes-128-gcm


@message
class NamedPeer(Message):
    """One peer that has a name, or is kept without one."""

    name: str  # "" without one
    peer: str
    addresses: tuple[str, ...]  # those given with the name, without the peer ID
    kept: Literal["static", "relay", "forward", "bootstrap"] | None  # null: not kept
    state: Literal["connected", "dialing", "waiting", "not-connected"]  # the last: and not kept
    remote_address: str | None  # of its connection
    last_outcome: str | None  # of the last try to keep it connected, in words
    last_try_s: float | None = named("LastTrySeconds")  # ago
    next_try_s: float | None = named("NextTrySeconds")  # from now
    failures: int = 0  # in a row


@message
class PortMapping(Message):
    """Whether the router leads a port of its own to one of this node's."""

    port: int | None  # of this node; null: no port can be mapped
    state: Literal["searching", "mapped", "useless", "refused", "silent", "no-router", "not-needed"]
    reason: str | None = None  # in words, where it is not searching and not mapped
    protocol: Literal["PCP", "NAT-PMP", "UPnP"] | None = None
    router: str | None = None  # its IP address on this side
    address: str | None = None  # multiaddr of the port on its other side
    left_s: float | None = named("LeftSeconds", default=None)  # of the lease; null: permanent, or no mapping


@message
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


@message
class Notice(Message):
    """What a person should know of a request that was carried out all the same."""

    code: str  # p2pfwd-rpc(7) has them
    message: str
    hint: str | None


@message
class Empty(Message):
    """No parameters, or no result."""


@message
class DhtBucket(Message):
    """One bucket of a routing table: peers that share `prefix_bits` bits of their key with this node."""

    prefix_bits: int
    last: bool  # this bucket also holds the peers that share more bits
    peers: tuple[str, ...]  # least recently seen first
    replacements: tuple[str, ...]


@message
class DhtTable(Message):
    """One DHT of this node."""

    protocol: str
    scope: Literal["wan", "lan", "private"]
    mode: Literal["client", "server"]
    peers: int
    refreshed_s: float | None = named("RefreshedSeconds")  # ago; null: not yet
    buckets: tuple[DhtBucket, ...] = ()


@message
class NearPeer(Message):
    """One peer on the local network."""

    peer: str
    addresses: tuple[str, ...]  # as it told them, each ending in /p2p/<peer>
    source: Literal["mdns"]  # how it was found
    agent_version: str | None
    tunnels: bool | None  # whether it lists /x/, or a protocol below it; null: it could not be asked
    reason: str | None  # why not
