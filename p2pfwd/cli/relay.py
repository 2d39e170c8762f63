"""`relay token …`: who may use this node as a relay, beside those who have a name here."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from p2pfwd.cli.exits import warn
from p2pfwd.cli.options import AsJson, Headers, NoStart, new_group
from p2pfwd.cli.render import Column, talk, write, write_json, write_lines, write_table
from p2pfwd.cli.text import age, counted, short_peer
from p2pfwd.rpc.schema import (
    Empty,
    RelayToken,
    RelayTokenLsResult,
    RelayTokenNewParams,
    RelayTokenNewResult,
    RelayTokenRevokeParams,
    RelayTokenRevokeResult,
)

if TYPE_CHECKING:
    from p2pfwd.cli.env import Env

_COLUMNS = (Column("NAME", keep=12), Column("FOR"), Column("MADE", right=True), Column("SHOWN BY", keep=11))

_STILL = (
    "it has another token, is kept, forwarded to or allowed, or has a name or was given in a command: p2pfwd "
    "peer rm ends these two, and p2pfwd block shuts a peer out"
)

relay = new_group("This node as a relay for others.")
token = new_group("Tokens that let a peer in at this relay.")
relay.add_typer(token, name="token")


@token.command("new", help="Make a token for one more machine.")
def new(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="What to call it; as the name of a peer.")
    ] = None,
    many: Annotated[
        bool, typer.Option("--many", help="An invitation: it lets in every machine that shows it.")
    ] = False,
    no_start: NoStart = False,
    as_json: AsJson = False,
) -> None:
    """It is printed this once. The first peer that shows it keeps it."""
    env: Env = ctx.obj
    params = RelayTokenNewParams(name=name, many=many)
    result = env.save("relay.token.new", params, RelayTokenNewResult, no_start=no_start)
    if as_json:
        write_json(result)
        return
    write(result.token)
    whom = "every machine that shows it" if many else "the first machine that shows it"
    talk(f"{result.name} lets in {whom}. It is kept nowhere here, and cannot be shown again.")
    talk("There, behind this node's address in reach.relays: /ip4/…/p2p/ID#TOKEN")


@token.command("ls", help="List the tokens, and who has shown them.")
def ls(ctx: typer.Context, headers: Headers = False, as_json: AsJson = False) -> None:
    """On a terminal a table; elsewhere one plain line each: name, for one or many, who has shown it."""
    env: Env = ctx.obj
    result = env.ask("relay.token.ls", Empty(), RelayTokenLsResult)
    if as_json:
        write_json(result)
    elif not env.terminal:
        rows = [(it.name, _whom(it), ",".join(it.peers) or "-") for it in result.tokens]
        write_lines(rows, ("Name", "For", "ShownBy") if headers else None)
    elif not result.tokens:
        write("No relay tokens.")
    else:
        now = time.time()
        table = [
            (it.name, _whom(it), age(max(0.0, now - it.made)), _shown_by(it.peers)) for it in result.tokens
        ]
        write_table(_COLUMNS, table, limit=env.columns, colour=env.colour)


@token.command("revoke", help="Take a token away, and cut those it let in.")
def revoke(
    ctx: typer.Context,
    token_name: Annotated[str, typer.Argument(metavar="NAME", help="As `relay token ls` shows it.")],
    no_start: NoStart = False,
    as_json: AsJson = False,
) -> None:
    """Their places end, and live circuits are reset."""
    env: Env = ctx.obj
    params = RelayTokenRevokeParams(name=token_name)
    result = env.save("relay.token.revoke", params, RelayTokenRevokeResult, no_start=no_start)
    if as_json:
        write_json(result)
        return
    write(
        f"Revoked {result.token.name}: {counted(len(result.token.peers), 'peer')}, "
        f"{counted(result.circuits, 'circuit')} reset."
    )
    for peer in result.still:
        warn(f"{short_peer(peer)} may use this relay all the same: it is one of your peers", _STILL)


def _whom(it: RelayToken) -> str:
    return "many" if it.many else "one"


def _shown_by(peers: tuple[str, ...]) -> str:
    if not peers:
        return "-"
    return short_peer(peers[0]) if len(peers) == 1 else counted(len(peers), "peer")
