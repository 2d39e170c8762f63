"""`dht …`: what the DHT knows, and asking it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from p2pfwd.cli.options import AsJson, Headers, Limit, new_group
from p2pfwd.cli.render import Column, talk, write, write_json, write_lines, write_table
from p2pfwd.cli.text import age, counted
from p2pfwd.rpc.schema import (
    DhtFindParams,
    DhtFindResult,
    DhtQueryParams,
    DhtQueryResult,
    DhtStatResult,
    Empty,
)

if TYPE_CHECKING:
    from p2pfwd.cli.env import Env

GRACE_S = 5.0
"""The daemon keeps the time limit itself; only its answer may take this long more."""

Target = Annotated[str, typer.Argument(metavar="ID", help="A peer ID, or a name of `peer add`.")]

_COLUMNS = (
    Column("DHT", keep=20),
    Column("MODE"),
    Column("BITS", right=True),
    Column("PEERS", right=True),
    Column("REPLACEMENTS", right=True),
    Column("REFRESHED", right=True),
)

dht = new_group("The distributed table in which peers are found by their ID.")


@dht.command("findpeer", help="Find a peer's addresses by its ID.")
def find_peer(ctx: typer.Context, peer: Target, timeout: Limit = 60.0, as_json: AsJson = False) -> None:
    """The addresses go to stdout, one a line; what it took to stderr."""
    env: Env = ctx.obj
    params = DhtFindParams(peer=peer, timeout_s=timeout)
    result = env.ask("dht.findpeer", params, DhtFindResult, timeout_s=timeout + GRACE_S)
    if as_json:
        write_json(result)
        return
    for address in result.addresses:
        write(address)
    _cost(result.protocol, result.asked, result.elapsed_ms)


@dht.command("query", help="Find the servers nearest to a peer ID.")
def query(ctx: typer.Context, peer: Target, timeout: Limit = 60.0, as_json: AsJson = False) -> None:
    """Their IDs go to stdout, nearest first."""
    env: Env = ctx.obj
    params = DhtQueryParams(peer=peer, timeout_s=timeout)
    result = env.ask("dht.query", params, DhtQueryResult, timeout_s=timeout + GRACE_S)
    if as_json:
        write_json(result)
        return
    for nearest in result.closest:
        write(nearest)
    _cost(result.protocol, result.asked, result.elapsed_ms)


@dht.command("stat", help="Show the routing tables.")
def stat(ctx: typer.Context, headers: Headers = False, as_json: AsJson = False) -> None:
    """On a terminal a table with a row per bucket; elsewhere a line each: protocol, mode, bits, peers."""
    env: Env = ctx.obj
    result = env.ask("dht.stat", Empty(), DhtStatResult)
    if as_json:
        write_json(result)
        return
    rows = [
        (
            table.protocol,
            table.mode,
            f"{bucket.prefix_bits}{'+' if bucket.last else ''}",
            str(len(bucket.peers)),
            str(len(bucket.replacements)),
            "-" if table.refreshed_s is None else age(table.refreshed_s),
        )
        for table in result.tables
        for bucket in table.buckets
    ]
    if not env.terminal:
        write_lines(rows, tuple(column.title for column in _COLUMNS) if headers else None)
    elif not result.tables:
        write("This daemon takes part in no DHT.")
    elif not rows:
        write("The routing tables are empty: no node of the DHT is connected.")
    else:
        write_table(_COLUMNS, rows, limit=env.columns, colour=env.colour)


def _cost(protocol: str, asked: int, elapsed_ms: float) -> None:
    talk(f"{counted(asked, 'peer')} of {protocol} answered, {elapsed_ms / 1000:.1f} s")
