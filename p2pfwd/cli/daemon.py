"""`daemon`, `shutdown`, `status` and `id`: the process behind the commands."""

from __future__ import annotations

import fcntl
import signal
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2pfwd.cli.event_words import digest_line
from p2pfwd.cli.options import AsJson
from p2pfwd.cli.render import write, write_json, write_pairs
from p2pfwd.cli.text import age, counted, endpoint, host_port, short_peer, shorten_peers, size
from p2pfwd.errors import ConnectionLost, TimedOut
from p2pfwd.rpc.schema import Bootstrap, Empty, IdResult, PortMapping, Relay, StatusResult

if TYPE_CHECKING:
    from p2pfwd.cli.env import Env
    from p2pfwd.rpc.client import Subscription

SHUTDOWN_TIMEOUT_S = 60.0
"""For a daemon to drain its streams and go: six times what it gives them by default."""


def daemon(
    ctx: typer.Context,
    swarm: Annotated[
        list[str] | None,
        typer.Option(
            "--swarm",
            metavar="MULTIADDR",
            help="Listen for peers here, in place of the configured addresses; may be repeated.",
        ),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option("--network", metavar="NAME", help="public, lan or private, in place of the configured."),
    ] = None,
) -> int:
    """Run the daemon in the foreground.

    Prints the peer ID, the addresses and the socket's path, then "Daemon is ready".
    """
    from p2pfwd.daemon import run

    env: Env = ctx.obj
    overrides: dict[str, Any] = {"swarm.listen": list(swarm)} if swarm else {}
    if network is not None:
        overrides["network"] = network
    return run.main(env.paths(), overrides)


def shutdown(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Stop the daemon, and wait until it has stopped.

    Live streams get a bounded time to end; a second `shutdown` meanwhile ends them at once.
    """
    env: Env = ctx.obj
    deadline = time.monotonic() + SHUTDOWN_TIMEOUT_S
    with env.connect() as client:
        pid = client.hello.pid
        events = client.subscribe(("listeners",))
        client.call("daemon.shutdown")
        _wait_for_end(events, deadline)
    _wait_for_lock(env.paths().lock_file, deadline)
    if as_json:
        write_json({"PID": pid})
    else:
        write("The daemon has stopped.")


def _wait_for_end(events: Subscription, deadline: float) -> None:
    try:
        while True:
            events.next(deadline - time.monotonic())
    except ConnectionLost:
        return
    except TimedOut:
        raise _still_stopping() from None


def _wait_for_lock(path: Path, deadline: float) -> None:
    # The daemon closes its control socket before it lets go of its home; whoever waits for this command may
    # start another daemon at once.
    def late(number: int, frame: FrameType | None) -> None:
        raise _still_stopping()

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, max(0.001, deadline - time.monotonic()))
    try:
        with path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
    except FileNotFoundError:
        return
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _still_stopping() -> TimedOut:
    return TimedOut(
        f"the daemon is still stopping after {SHUTDOWN_TIMEOUT_S:g} s",
        hint="it waits for live streams (daemon.drain_timeout_s); p2pfwd shutdown again ends them at once",
    )


def status(
    ctx: typer.Context,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Also what it holds, and what was refused to strangers.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what the daemon is and holds."""
    env: Env = ctx.obj
    result = env.ask("daemon.status", Empty(), StatusResult)
    if as_json:
        write_json(result)
        return
    state = "draining" if result.draining else "running"
    pairs = [
        ("daemon", f"p2pfwd {result.version}, {state} for {age(result.uptime_s)}, process {result.pid}"),
        ("network", _network(result)),
        *_bootstrap(result.bootstrap),
        *([("reachable", _reachable(result))] if result.network != "lan" else []),
        *([("needed", _NEEDS[result.needs])] if result.needs in _NEEDS else []),
        ("peer ID", result.id),
        *(("addresses" if not index else "", address) for index, address in enumerate(result.addresses)),
        *(("relays" if not index else "", _relay(relay)) for index, relay in enumerate(result.relays)),
        *_proved(result),
        *_not_as_wished(result),
        *(("lost" if not index else "", _LOST.format(path)) for index, path in enumerate(result.lost)),
        *(("mapping" if not index else "", _mapping(one)) for index, one in enumerate(result.port_mappings)),
        ("tunnels", f"{counted(result.listeners, 'listener')}, {counted(result.streams, 'live stream')}"),
        ("peers", f"{counted(result.peers, 'peer')} over {counted(result.connections, 'connection')}"),
        ("traffic", f"{size(result.bytes_in)} in, {size(result.bytes_out)} out"),
        *([("history", digest_line(result.history, time.time()))] if result.history else []),
        ("memory", size(result.rss_bytes)),
        ("home", result.home),
        ("socket", result.socket),
        ("log", result.log or "stderr"),
    ]
    write_pairs([*pairs, _held(result), *_refused(result)] if verbose else pairs)


def _not_as_wished(status: StatusResult) -> list[tuple[str, str]]:
    """Where it listens otherwise than the settings say."""
    ports = ", ".join(map(str, status.taken_ports))
    absent = [("absent", _ABSENT.format(address)) for address in status.absent_addresses]
    return [*([("ports", _TAKEN.format(ports))] if ports else []), *absent]


def _bootstrap(found: Bootstrap | None) -> list[tuple[str, str]]:
    if found is None:
        return []
    return [("DHT", found.message), *([("", found.hint)] if found.state == "alone" and found.hint else [])]


def _held(status: StatusResult) -> tuple[str, str]:
    """What would grow if something were not let go of."""
    streams, tasks = counted(status.swarm_streams, "swarm stream"), counted(status.tasks, "task")
    return "held", f"{streams}, {tasks}, {counted(status.descriptors, 'descriptor')}"


def _refused(status: StatusResult) -> list[tuple[str, str]]:
    """What was refused most comes first."""
    causes = sorted(status.refused.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{count} {cause}" for cause, count in causes] or ["nothing"]
    return [("refused" if not index else "", text) for index, text in enumerate(shown)]


_TAKEN = "{} taken by another program: the addresses above hold until a restart"

_LOST = "what {} had before it was damaged; remove it, and this goes with the next start"

_ABSENT = "{}: this machine does not have that address now; peers reach it there when it has"

_STANDINGS: dict[str, str] = {
    "offline": "no network",
    "public": "public, by everybody: peers dialed back",
    "mapped": "public by a mapped port, by everybody: peers dialed back",
    "punchable": "behind a NAT that can be punched: strangers' dials do not get in",
    "unpunchable": "behind a NAT that cannot be punched: every destination gets another port",
    "hidden": "not by strangers: peers could not dial back; which kind of NAT it is, is not known yet",
    "unknown": "not known yet: no peer has tried to dial back",
}

_NEEDS: dict[str, str] = {
    "id": "nothing but the peer ID: the DHT tells where this node is",
    "same-network": "the peer ID, by a peer on the same local network",
    "address": "the line that `p2pfwd listen` prints: no DHT tells where this node is",
    "relay": "a relay that a tunnel can go over, and none has a place here: see `p2pfwd hub`",
}
"""What a peer needs to reach this node; the other standings say it themselves."""

_FIREWALL = "behind a firewall that can be punched: strangers' dials do not get in"


def _reachable(status: StatusResult) -> str:
    is_firewall = status.standing == "punchable" and status.nat == "none"
    return _FIREWALL if is_firewall else _STANDINGS[status.standing]


def _proved(status: StatusResult) -> list[tuple[str, str]]:
    """Since when each announced address is proved, and by whom at last."""
    proved = [own for own in status.announced if own.kind == "proved"]
    lines = [f"{own.address} for {age(own.since_s or 0)}, last by {', '.join(own.by)}" for own in proved]
    return [("proved" if not index else "", line) for index, line in enumerate(lines)]


def _relay(relay: Relay) -> str:
    name = short_peer(relay.relay)
    if relay.state != "held":
        return f"{name} has no place for this node: {shorten_peers(relay.reason or '')}"
    limits = [size(relay.limit_bytes)] if relay.limit_bytes else []
    limits += [age(relay.limit_s)] if relay.limit_s else []
    limit = f"circuits of at most {' and '.join(limits)}" if limits else "circuits without a limit"
    return f"{name} has a place for this node, renewed before {age(relay.left_s or 0)} are over; {limit}"


def _mapping(one: PortMapping) -> str:
    """What the router does for this node, in words."""
    where = host_port(one.address) if one.address is not None else None
    if one.state == "searching" or where is None:
        return one.reason or f"the router is being asked to lead a port to this node's {one.port}"
    maps = f"the router maps {endpoint(*where)} to this node's {one.port} by {one.protocol}"
    if one.state == "useless":
        return f"useless: {one.reason}"
    minutes = None if one.left_s is None else round(one.left_s / 60)
    return f"{maps}, " + ("for good" if minutes is None else f"for {counted(minutes, 'more minute')}")


def _network(status: StatusResult) -> str:
    fingerprint = status.swarm_key_fingerprint
    return status.network if fingerprint is None else f"{status.network}, swarm key {fingerprint}"


def show_id(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Show this node's peer ID, addresses and protocols."""
    env: Env = ctx.obj
    result = env.ask("id", Empty(), IdResult)
    if as_json:
        write_json(result)
        return
    write_pairs(
        [
            ("peer ID", result.id),
            ("public key", result.public_key),
            ("agent", result.agent_version),
            *(("addresses" if not index else "", address) for index, address in enumerate(result.addresses)),
            *(("protocols" if not index else "", name) for index, name in enumerate(result.protocols)),
        ]
    )
