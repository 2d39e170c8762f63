"""`block`, `unblock` and `block ls`: with whom this node does not speak."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from p2pfwd.cli.options import AsJson, Headers, NoStart, help_without_command, new_acting_group
from p2pfwd.cli.render import Column, write, write_json, write_lines, write_table
from p2pfwd.cli.text import counted, joined, short_peer
from p2pfwd.rpc.schema import Block, BlockLsResult, BlockParams, BlockResult, Empty

if TYPE_CHECKING:
    from p2pfwd.cli.env import Env

_COLUMNS = (Column("KIND"), Column("BLOCKED", keep=21), Column("NAME", keep=12))

_WHOM = "Peer IDs, names, addresses ending in /p2p/ID; IP addresses, networks as 192.0.2.0/24."


block = new_acting_group()


@block.callback()
def add(
    ctx: typer.Context,
    whom: Annotated[list[str] | None, typer.Argument(metavar="PEER|NETWORK...", help=_WHOM)] = None,
    no_start: NoStart = False,
    as_json: AsJson = False,
) -> None:
    """Speak with these peers and networks no more: live connections end, new ones are refused.

    A peer is known once it has proved its ID; a network is refused before it has said a word. What programs
    of this machine ask of the daemon is not concerned.
    """
    if ctx.invoked_subcommand is not None:
        return
    if not whom:
        help_without_command(ctx)
        return
    env: Env = ctx.obj
    result = env.save("block.add", BlockParams(whom=tuple(whom)), BlockResult, no_start=no_start)
    if as_json:
        write_json(result)
        return
    write(f"Blocked {joined(list(map(_shown, result.blocked)))}.")
    if result.connections:
        write(f"Ended {counted(result.connections, 'connection')}, {counted(result.streams, 'live stream')}.")


@block.command("ls", help="List the peers and networks that are blocked.")
def ls(ctx: typer.Context, headers: Headers = False, as_json: AsJson = False) -> None:
    """On a terminal a table; elsewhere one plain line each: peer or network, and which."""
    env: Env = ctx.obj
    result = env.ask("block.ls", Empty(), BlockLsResult)
    if as_json:
        write_json(result)
    elif not env.terminal:
        rows = [(it.kind, it.what) for it in result.blocked]
        write_lines(rows, ("Kind", "Blocked") if headers else None)
    elif not result.blocked:
        write("Nobody is blocked.")
    else:
        table = [(it.kind, it.what, it.name or "-") for it in result.blocked]
        write_table(_COLUMNS, table, limit=env.columns, colour=env.colour)


def unblock(
    ctx: typer.Context,
    blocked: Annotated[
        list[str], typer.Argument(metavar="PEER|NETWORK...", help="As `block ls` shows them.")
    ],
    no_start: NoStart = False,
    as_json: AsJson = False,
) -> None:
    """Speak with these peers and networks again."""
    env: Env = ctx.obj
    result = env.save("block.rm", BlockParams(whom=tuple(blocked)), BlockLsResult, no_start=no_start)
    if as_json:
        write_json(result)
    else:
        write(f"Unblocked {joined(list(map(_shown, result.blocked)))}.")


def _shown(it: Block) -> str:
    return it.name or (short_peer(it.what) if it.kind == "peer" else it.what)
