"""`daemon`, `shutdown`, `status` and `id`: the process behind the commands."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated

import typer

from p2pfwd.cli.options import AsJson
from p2pfwd.cli.render import write, write_json, write_pairs
from p2pfwd.cli.text import age, counted, size
from p2pfwd.errors import ConnectionLost, TimedOut
from p2pfwd.rpc.schema import Empty, IdResult, StatusResult

if TYPE_CHECKING:
    from p2pfwd.cli.env import Env

SHUTDOWN_TIMEOUT_S = 30.0
"""For a daemon to drain its streams and go; it gives them 10 s."""


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
) -> int:
    """Run the daemon in the foreground.

    Prints the peer ID, the addresses and the socket's path, then "Daemon is ready".
    """
    from p2pfwd.daemon import run

    env: Env = ctx.obj
    overrides = {"swarm.listen": list(swarm)} if swarm else {}
    return run.main(env.paths(), overrides)


def shutdown(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Stop the daemon, and wait until it has stopped.

    Live streams get a bounded time to end.
    """
    env: Env = ctx.obj
    with env.connect() as client:
        pid = client.hello.pid
        client.call("daemon.shutdown")
        with contextlib.suppress(ConnectionLost):
            client.subscribe(("peers",)).next(SHUTDOWN_TIMEOUT_S)
    if as_json:
        write_json({"PID": pid})
    else:
        write("The daemon has stopped.")


def status(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Show what the daemon is and holds."""
    env: Env = ctx.obj
    result = env.ask("daemon.status", Empty(), StatusResult)
    if as_json:
        write_json(result)
        return
    state = "draining" if result.draining else "running"
    pairs = [
        ("daemon", f"p2pfwd {result.version}, {state} for {age(result.uptime_s)}, process {result.pid}"),
        ("peer ID", result.id),
        *(("addresses" if not index else "", address) for index, address in enumerate(result.addresses)),
        ("tunnels", f"{counted(result.listeners, 'listener')}, {counted(result.streams, 'live stream')}"),
        ("peers", f"{counted(result.peers, 'peer')} over {counted(result.connections, 'connection')}"),
        ("traffic", f"{size(result.bytes_in)} in, {size(result.bytes_out)} out"),
        ("memory", size(result.rss_bytes)),
        ("home", result.home),
        ("socket", result.socket),
        ("log", result.log or "stderr"),
    ]
    write_pairs(pairs)


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


__all__ = ["TimedOut", "daemon", "show_id", "shutdown", "status"]
