"""What the node's parts tell, as the RPC schema says it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.terms import KEPT, LIMITS, PLAIN_LISTEN, ListenTerms
from p2pfwd.history.kinds import KINDS
from p2pfwd.policy.bootstrap import Outcome
from p2pfwd.rpc import schema

if TYPE_CHECKING:
    from collections.abc import Mapping

    from p2pfwd.daemon.bootstrap_report import BootstrapReport
    from p2pfwd.daemon.relays import Relays
    from p2pfwd.forwarding.values import CheckOutcome, ListenerInfo, StreamInfo
    from p2pfwd.history.digest import Digest, Problem
    from p2pfwd.history.folding import Event
    from p2pfwd.host.port_mapping import MappedPort
    from p2pfwd.net.link.contract import Link
    from p2pfwd.net.own_addresses import OwnAddress
    from p2pfwd.policy.paths import PathCode

_USELESS_ELSEWHERE = (AddressClass.LOOPBACK, AddressClass.UNSPECIFIED, AddressClass.LINK_LOCAL)


def own_address(own: OwnAddress) -> schema.OwnAddress:
    """One of our addresses, with what it rests on."""
    by = tuple(map(str, own.by))
    return schema.OwnAddress(str(own.addr), own.kind, by, own.age_s, own.left_s, own.since_s)


def port_mapping(mapped: MappedPort) -> schema.PortMapping:
    """What became of one of our ports at the router."""
    return schema.PortMapping(
        port=mapped.port,
        state=mapped.state,
        reason=mapped.reason,
        protocol=mapped.protocol and mapped.protocol.value,
        router=mapped.router,
        address=None if mapped.addr is None else str(mapped.addr),
        left_s=mapped.left_s,
    )


def listener(
    info: ListenerInfo,
    access: schema.Access | None = None,
    problem: Problem | None = None,
    declared_in: str | None = None,
) -> schema.Listener:
    """One row of `ls`; `access`: whom a listen lets in, `problem`: what was last wrong with it.

    `declared_in`: a place in config.toml.
    """
    terms = info.terms if isinstance(info.terms, ListenTerms) else PLAIN_LISTEN
    limits = schema.Limits(*(getattr(terms, name) for name in LIMITS))
    return schema.Listener(
        id=info.id,
        direction=info.direction,
        protocol=info.protocol,
        listen_address=str(info.listen_address),
        target_address=str(info.target_address),
        state=info.state,
        reason=info.reason,
        streams=info.streams,
        bytes_in=info.bytes_in,
        bytes_out=info.bytes_out,
        foreground=info.foreground,
        created=info.created,
        saved=info.saved,
        access=access,
        last_problem=problem and schema.Problem(problem.code, problem.at, problem.reason),  # type: ignore[arg-type]
        limits=limits if info.direction == "listen" else None,
        proxy_protocol=terms.proxy_protocol,
        ends_at=info.ends_at,
        state_since=info.state_since,
        wait_target_s=terms.wait_target_s,
        check=terms.check,
        waiting=info.waiting,
        warm=info.warm if info.lifetime in KEPT and info.direction == "forward" else None,
        lifetime=info.lifetime,
        declared_in=declared_in,
    )


def event(it: Event, names: Mapping[str, str]) -> schema.HistoryEvent:
    """One event; `names`: of peers, by their ID."""
    return schema.HistoryEvent(
        id=it.id,
        time=it.time,
        until=it.until,
        count=it.count,
        code=it.code,
        topic=KINDS[it.code].topic if it.code in KINDS else "other",
        peer=it.peer,
        name=names.get(it.peer or ""),
        protocol=it.protocol,
        stranger=it.share == "strangers",
        data=dict(it.data),
    )


def digest(found: Digest, names: Mapping[str, str], now: float, failure: str | None) -> schema.HistoryDigest:
    """The last 24 hours of the history; `now` in unix seconds."""
    drops = [
        schema.PeerDrops(it.peer, names.get(it.peer), it.times, it.last_at, it.reason)
        for it in found.drops(now)
    ]
    return schema.HistoryDigest(
        drops=tuple(drops),
        streams=found.count("streams", now),
        denied=found.count("denied", now),
        daemon_lost=found.count("lost", now),
        failure=failure,
    )


def stream(info: StreamInfo) -> schema.Stream:
    """One row of `ls --streams`."""
    return schema.Stream(
        handler_id=str(info.id),
        direction=info.direction,
        protocol=info.protocol,
        origin_address=info.origin_address,
        target_address=info.target_address,
        peer=info.peer,
        age_s=info.age_s,
        bytes_in=info.bytes_in,
        bytes_out=info.bytes_out,
        rate_in=info.rate_in,
        rate_out=info.rate_out,
        path=info.path,
        remote_address=info.remote_address,
        rtt_ms=_ms(info.rtt_s),
        holds_end=info.holds_end,
        path_code=info.code.value,
        path_reason=info.code.words,
        limit_bytes_left=(info.limit_left.data_bytes or None) if info.limit_left else None,
        limit_seconds_left=(info.limit_left.duration_s or None) if info.limit_left else None,
        cipher=info.cipher,
    )


def check(outcome: CheckOutcome) -> schema.Check:
    """What one try found."""
    return schema.Check(
        ok=outcome.ok,
        state=outcome.state,
        reason=outcome.reason,
        hint=outcome.hint,
        path=outcome.path,
        remote_address=outcome.remote_address,
        security=outcome.security,
        elapsed_ms=outcome.elapsed_s * 1000,
        rtt_ms=_ms(outcome.rtt_s),
    )


def peer(conn: Link, agent: str | None, now: float, code: PathCode) -> schema.Peer:
    """One row of `swarm peers`; `now` is monotonic."""
    return schema.Peer(
        peer=str(conn.remote_peer),
        addr=str(conn.remote_addr),
        direction=conn.direction,
        security=conn.security,
        muxer=conn.muxer,
        agent_version=agent,
        streams=len(conn.streams),
        age_s=now - conn.opened_at,
        rtt_ms=_ms(conn.rtt_s),
        path=path(conn),
        path_code=code.value,
        path_reason=code.words,
        cipher=conn.cipher,
    )


def relays(known: Relays, own: PeerId, now: float) -> tuple[schema.Relay, ...]:
    """Those that have a place for this node, refuse one, or are named and do neither; `now` is monotonic."""
    client = known.client
    held = (
        schema.Relay(
            relay=str(place.relay),
            state="held",
            addresses=full_addresses(list(place.addrs), own),
            age_s=now - place.since,
            left_s=max(0.0, place.until - now),
            limit_bytes=place.limit.data_bytes if place.limit is not None else 0,
            limit_s=place.limit.duration_s if place.limit is not None else 0,
        )
        for place in client.places()
    )
    refused = (schema.Relay(str(relay), "refused", why) for relay, why in client.refusals().items())
    missing = (schema.Relay(relay, "missing", why) for relay, why in known.missing().items())
    return (*held, *refused, *missing)


def bootstrap(report: BootstrapReport) -> schema.Bootstrap:
    """How this node gets into its network."""
    return schema.Bootstrap(
        state=report.state,
        message=report.message,
        hint=report.hint,
        servers=report.servers,
        peers=len(report.outcomes),
        names=len(report.names),
        addresses=len(report.addresses),
        outcomes={outcome.value: count for outcome in Outcome if (count := report.count(outcome))},
        remembered=report.remembered,
        remembered_tried=report.remembered_tried,
        near_tried=report.near_tried,
    )


def path(conn: Link) -> schema.Path:
    """How the connection leads to its peer."""
    return "relayed" if conn.is_relayed else "direct"


def full_addresses(addrs: list[Multiaddr], peer_id: PeerId) -> tuple[str, ...]:
    """The addresses with `/p2p/<peer ID>` at their end, in their order."""
    return tuple(str(addr.with_peer_id(peer_id)) for addr in addrs)


def to_paste(addrs: list[Multiaddr]) -> list[Multiaddr]:
    """Those of `addrs` that another machine can use; all of them when none can."""
    return [addr for addr in addrs if address_class(addr) not in _USELESS_ELSEWHERE] or addrs


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000
