"""`swarm …` and `ping`: connections to peers, with no tunnel in between."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2pfwd.cli.env import answer
from p2pfwd.cli.narration import narrate_lookups
from p2pfwd.cli.options import AsJson, DiscoverLimit, Headers, new_group
from p2pfwd.cli.render import Column, document, talk, write, write_json, write_lines, write_pairs, write_table
from p2pfwd.cli.swarm_key import key
from p2pfwd.cli.text import age, counted, milliseconds, short_address, short_peer, shorten_peers
from p2pfwd.errors import P2PForwardError, TimedOut
from p2pfwd.rpc.schema import (
    AddrsResult,
    ConnectParams,
    ConnectResult,
    DisconnectParams,
    DisconnectResult,
    DiscoverParams,
    DiscoverResult,
    Empty,
    NearPeer,
    Peer,
    PeersResult,
    PingParams,
    PingResult,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2pfwd.cli.env import Env

DIAL_TIMEOUT_S = 35.0
"""Above the daemon's own dial budget of 30 s, so that its answer, with its reasons, arrives."""

DISCOVER_GRACE_S = 5.0
"""The daemon keeps the time limit itself; only its answer may take this long more."""

PINGS = 4
UNTIL_DIRECT_PINGS = 40
UNTIL_DIRECT_INTERVAL_S = 0.5
PING_INTERVAL_S = 1.0

_PEER_COLUMNS = (
    Column("PEER", keep=11),
    Column("ADDRESS", keep=21),
    Column("DIR"),
    Column("SECURITY"),
    Column("LIVE", right=True),
    Column("AGE", right=True),
    Column("RTT", right=True),
    Column("AGENT"),
)

_NEAR_COLUMNS = (
    Column("PEER", keep=11),
    Column("ADDRESS", keep=21),
    Column("TUNNELS"),
    Column("AGENT"),
)

swarm = new_group("Connections to peers.")
swarm.add_typer(key, name="key")

PeerArgument = Annotated[
    str, typer.Argument(metavar="PEER", help="Its ID or name, or an address ending in /p2p/ID.")
]


@swarm.command("connect", help="Connect to a peer.")
def connect(
    ctx: typer.Context,
    address: Annotated[
        list[str],
        typer.Argument(metavar="MULTIADDR...", help="Addresses of one peer, ending in /p2p/ID; or its name."),
    ],
    as_json: AsJson = False,
) -> None:
    """Succeeds at once when there is a connection already."""
    env: Env = ctx.obj
    params = ConnectParams(addresses=tuple(address))
    with env.connect() as client:
        narrate_lookups(client)
        result = answer(client, "swarm.connect", params, ConnectResult, timeout_s=DIAL_TIMEOUT_S)
    if as_json:
        write_json(result)
        return
    peer = result.connection
    how = [peer.addr, peer.security]
    if peer.rtt_ms is not None:
        how.append(milliseconds(peer.rtt_ms))
    write(f"Connected to {peer.peer} ({', '.join(how)}).")


@swarm.command("disconnect", help="Close the connections to a peer.")
def disconnect(ctx: typer.Context, peer: PeerArgument, as_json: AsJson = False) -> None:
    """Streams over them end with a reset."""
    env: Env = ctx.obj
    result = env.ask("swarm.disconnect", DisconnectParams(peer=peer), DisconnectResult)
    if as_json:
        write_json(result)
    else:
        write(f"Closed {counted(result.closed, 'connection')} to {result.peer}.")


@swarm.command("peers", help="List live connections.")
def peers(ctx: typer.Context, headers: Headers = False, as_json: AsJson = False) -> None:
    """On a terminal a table; elsewhere one multiaddr each, ending in the peer ID."""
    env: Env = ctx.obj
    result = env.ask("swarm.peers", Empty(), PeersResult)
    if as_json:
        write_json(result)
    elif not env.terminal:
        rows = [[_full(peer)] for peer in result.peers]
        write_lines(rows, ["Address"] if headers else None)
    elif not result.peers:
        write("No connections.")
    else:
        write_table(
            _PEER_COLUMNS, [_peer_row(peer) for peer in result.peers], limit=env.columns, colour=env.colour
        )
        for peer in result.peers:
            if peer.path_code != "direct":
                write(f"{short_peer(peer.peer)}: {peer.path_reason}")


@swarm.command("addrs", help="Show the addresses of this node.")
def addrs(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Those it listens on, those that a dial-back has proved, and those that peers saw it at."""
    env: Env = ctx.obj
    result = env.ask("swarm.addrs", Empty(), AddrsResult)
    if as_json:
        write_json(result)
        return
    proved = {own.address for own in result.own if own.kind == "proved"}
    pairs = [("proved" if address in proved else "listen", address) for address in result.listen]
    pairs += [("observed", address) for address in result.observed]
    if pairs:
        write_pairs(pairs)


@swarm.command("discover", help="List who is on the local network.")
def discover(
    ctx: typer.Context,
    timeout: DiscoverLimit = 5.0,
    headers: Headers = False,
    as_json: AsJson = False,
) -> None:
    """On a terminal a table; elsewhere a line each: peer, address, whether it takes tunnels, agent."""
    env: Env = ctx.obj
    params = DiscoverParams(timeout_s=timeout)
    result = env.ask("swarm.discover", params, DiscoverResult, timeout_s=timeout + DISCOVER_GRACE_S)
    if as_json:
        write_json(result)
        return
    rows = [(near.peer, *_near_row(near)) for near in result.peers]
    if not env.terminal:
        write_lines(rows, ["Peer", "Address", "Tunnels", "Agent"] if headers else None)
    elif not rows:
        write("Nobody answered.")
    else:
        shown = [
            (short_peer(peer), short_address(address.removesuffix(f"/p2p/{peer}")), *rest)
            for peer, address, *rest in rows
        ]
        write_table(_NEAR_COLUMNS, shown, limit=env.columns, colour=env.colour)
    for near in result.peers:
        if near.reason is not None:
            talk(f"{short_peer(near.peer)}: {shorten_peers(near.reason)}")


def _near_row(near: NearPeer) -> tuple[str, str, str]:
    takes = "-" if near.tunnels is None else "yes" if near.tunnels else "no"
    return near.addresses[0] if near.addresses else "-", takes, near.agent_version or "-"


def ping(
    ctx: typer.Context,
    peer: PeerArgument,
    count: Annotated[
        int | None,
        typer.Option("-n", "--count", metavar="COUNT", min=1, help="How many pings; 4 unless told."),
    ] = None,
    until_direct: Annotated[
        bool, typer.Option("--until-direct", help="Until no relay is between; 40 pings unless told.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure the round trip to a peer, connecting to it first.

    Fails when not one ping is answered, or none directly with --until-direct.
    """
    env: Env = ctx.obj
    answered: list[PingResult] = []
    paths = _Paths()
    failure: P2PForwardError | None = None
    count = count or (UNTIL_DIRECT_PINGS if until_direct else PINGS)
    interval_s = UNTIL_DIRECT_INTERVAL_S if until_direct else PING_INTERVAL_S
    begin = time.monotonic()
    with env.connect() as client:
        narrate_lookups(client)
        for number in range(count):
            if number:
                time.sleep(interval_s)  # the pace of pings, not a wait for anything
            try:
                result = answer(client, "ping", PingParams(peer=peer), PingResult, timeout_s=DIAL_TIMEOUT_S)
            except P2PForwardError as error:
                failure = error
                if not answered:
                    break
                if not as_json:
                    talk(f"no answer: {error.message}")
            else:
                answered.append(result)
                changed = paths.take(result, time.monotonic() - begin)
                if not as_json:
                    if changed is not None and until_direct:
                        write(changed)
                    write(_ping_line(result))
                if until_direct and result.path == "direct":
                    break
    if not answered:
        assert failure is not None
        raise failure
    summary = _summary(answered, number + 1) | {"Paths": paths.changes}
    if as_json:
        write_json(summary)
    elif number:
        least, mean, most = (milliseconds(summary[f"{name}Milliseconds"]) for name in ("Min", "Mean", "Max"))
        told = f"{len(answered)} of {number + 1} answered"
        write(f"{told}; round trip: least {least}, mean {mean}, most {most}")
    if until_direct and answered[-1].path != "direct":
        raise _still_relayed(answered[-1], time.monotonic() - begin)


def _still_relayed(result: PingResult, waited_s: float) -> TimedOut:
    return TimedOut(
        f"{short_peer(result.peer)} is still reached over a relay after {waited_s:.1f} s",
        hint="p2pfwd doctor, here and there, says what stands between",
    )


class _Paths:
    """Which way led to the peer, and since when: one entry for each change."""

    def __init__(self) -> None:
        self.changes: list[dict[str, Any]] = []

    def take(self, result: PingResult, after_s: float) -> str | None:
        """Of one answer: the change in words; None where it came as the one before."""
        last = self.changes[-1] if self.changes else None
        if last is not None and (last["Path"], last["PathCode"]) == (result.path, result.path_code):
            return None
        self.changes.append(
            {
                "AfterSeconds": after_s,
                "Path": result.path,
                "PathCode": result.path_code,
                "PathReason": result.path_reason,
                "RemoteAddress": result.remote_address,
            }
        )
        return f"After {after_s:.1f} s {result.path_reason or result.path}."


def _ping_line(result: PingResult) -> str:
    where = f"{result.path_reason or result.path}, {result.remote_address}"
    return f"{short_peer(result.peer)}: {milliseconds(result.rtt_ms)} ({where})"


def _summary(answered: Sequence[PingResult], count: int) -> dict[str, Any]:
    times = [result.rtt_ms for result in answered]
    return {
        "Peer": answered[-1].peer,
        "Pings": document(answered),
        "Sent": count,
        "Received": len(answered),
        "MinMilliseconds": min(times),
        "MeanMilliseconds": sum(times) / len(times),
        "MaxMilliseconds": max(times),
    }


def _full(peer: Peer) -> str:
    return peer.addr if peer.addr.endswith(f"/p2p/{peer.peer}") else f"{peer.addr}/p2p/{peer.peer}"


def _sealed_by(peer: Peer) -> str:
    """Such as noise/aes; the whole name is in the JSON."""
    return "/".join(filter(None, (peer.security.split("/")[1], peer.cipher.partition("-")[0])))


def _peer_row(peer: Peer) -> tuple[str, ...]:
    return (
        short_peer(peer.peer),
        short_address(peer.addr),
        peer.direction.removesuffix("bound"),
        _sealed_by(peer),
        str(peer.streams),
        age(peer.age_s),
        milliseconds(peer.rtt_ms),
        peer.agent_version or "-",
    )
