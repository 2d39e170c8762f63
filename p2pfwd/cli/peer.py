"""`peer …`: names for peers, and which of them are kept connected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from p2pfwd.cli.exits import warn
from p2pfwd.cli.options import AsJson, Headers, NoStart, new_group
from p2pfwd.cli.render import Column, write, write_json, write_lines, write_table
from p2pfwd.cli.text import age, printable, short_address, short_peer, shorten_peers
from p2pfwd.rpc.schema import (
    NamedPeer,
    PeerAddParams,
    PeerAddResult,
    PeerLsParams,
    PeerLsResult,
    PeerRmParams,
    PeerRmResult,
)

if TYPE_CHECKING:
    from p2pfwd.cli.env import Env

ADD_TIMEOUT_S = 35.0
"""A peer given as /dnsaddr/host is looked up in DNS, which may take its time."""

_COLUMNS = (
    Column("NAME", keep=12),
    Column("PEER", keep=11),
    Column("ADDRESS", keep=21),
    Column("KEPT"),
    Column("STATE"),
    Column("TRIED", right=True),
    Column("NEXT", right=True),
)

_STILL = "it is kept, forwarded to, or let in by a relay token; p2pfwd block shuts a peer out"

peer = new_group("Names for peers, and whom to keep connected.")


@peer.command("add", help="Name a peer, or name it anew.")
def add(
    ctx: typer.Context,
    new_name: Annotated[
        str, typer.Argument(metavar="NAME", help="Letters, digits, '.', '-' and '_'; at most 32.")
    ],
    peer: Annotated[
        list[str],
        typer.Argument(metavar="PEER...", help="Its ID, or addresses of it ending in /p2p/ID."),
    ],
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep it connected: dial it now, at each start, and when lost.")
    ] = False,
    no_start: NoStart = False,
    as_json: AsJson = False,
) -> None:
    """The name then stands for the peer wherever a PEER is asked, and its ID finds these addresses."""
    env: Env = ctx.obj
    params = PeerAddParams(name=new_name, peers=tuple(peer), keep=keep)
    result = env.save("peer.add", params, PeerAddResult, no_start=no_start, timeout_s=ADD_TIMEOUT_S)
    if as_json:
        write_json(result)
        return
    added = result.peer
    number = len(added.addresses)
    where = f"{number} addresses" if number > 1 else "1 address" if number else "no address"
    kept = ", kept connected" if added.kept == "static" else ""
    write(f"{'Renewed' if result.replaced else 'Added'} {added.name}: {added.peer}, {where}{kept}.")
    for notice in result.notices:
        warn(notice.message, notice.hint)


@peer.command("rm", help="Take a peer's name away; it is none of yours any more.")
def rm(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="PEER", help="Its name, as `peer ls` shows it, or its ID.")],
    no_start: NoStart = False,
    as_json: AsJson = False,
) -> None:
    """It is kept no more; connections and forwards stay."""
    env: Env = ctx.obj
    result = env.save("peer.rm", PeerRmParams(name=name), PeerRmResult, no_start=no_start)
    if as_json:
        write_json(result)
        return
    named = result.peer
    write(f"Removed {named.name}: {named.peer}." if named.name else f"Removed {named.peer}.")
    if result.still_own:
        warn(f"{short_peer(named.peer)} is one of your peers all the same", _STILL)


@peer.command("ls", help="List named peers, and how it stands with those that are kept.")
def ls(
    ctx: typer.Context,
    all_: Annotated[bool, typer.Option("-a", "--all", help="Also kept peers without a name.")] = False,
    headers: Headers = False,
    as_json: AsJson = False,
) -> None:
    """On a terminal a table; elsewhere one plain line each: name, peer ID, kept as, state."""
    env: Env = ctx.obj
    result = env.ask("peer.ls", PeerLsParams(all=all_), PeerLsResult)
    if as_json:
        write_json(result)
    elif not env.terminal:
        rows = [(it.name or "-", it.peer, it.kept or "-", it.state) for it in result.peers]
        write_lines(rows, ("Name", "Peer", "Kept", "State") if headers else None)
    elif not result.peers:
        write("No named peers.")
    else:
        write_table(_COLUMNS, list(map(_row, result.peers)), limit=env.columns, colour=env.colour)
        for it in result.peers:
            if it.last_outcome and it.state not in ("connected", "not-connected"):
                name = printable(it.name) or short_peer(it.peer)
                write(f"{name}: {printable(shorten_peers(it.last_outcome))}")


def _row(it: NamedPeer) -> tuple[str, ...]:
    address = it.remote_address or (it.addresses[0] if it.addresses else None)
    return (
        it.name or "-",
        short_peer(it.peer),
        short_address(address) if address else "-",
        it.kept or "-",
        it.state.replace("-", " "),
        "-" if it.last_try_s is None else age(it.last_try_s),
        "-" if it.next_try_s is None else age(it.next_try_s),
    )
