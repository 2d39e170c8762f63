"""`allow`, `deny` and `access …`: who may use a listen, and who asked in vain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from p2pfwd.cli.exits import warn
from p2pfwd.cli.limits import Expires
from p2pfwd.cli.options import AsJson, Headers, NoStart, Protocol, new_group
from p2pfwd.cli.render import Column, write, write_json, write_lines, write_table
from p2pfwd.cli.text import age, counted, joined, printable, short_address, short_peer
from p2pfwd.cli.who import peers, restrict_command, who
from p2pfwd.rpc.schema import (
    Access,
    AccessAllowParams,
    AccessChangeParams,
    AccessChangeResult,
    AccessLsResult,
    AccessPeer,
    AccessRequest,
    AccessRequestsResult,
    AccessRmParams,
    AccessRule,
    Empty,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2pfwd.cli.env import Env

ANY = "any"

_RULES = (
    Column("PROTOCOL", keep=16),
    Column("LETS IN", keep=16),
    Column("BUT NOT", keep=11),
    Column("RULE"),
    Column("LISTEN"),
)
_REQUESTS = (
    Column("PEER", keep=11),
    Column("PROTOCOL", keep=16),
    Column("FROM", keep=21),
    Column("ASKED", right=True),
    Column("LAST", right=True),
)
_DEFAULTS = {"any": "any peer", "named": "peers with a name here", "none": "nobody"}

_CONFIG_CURE = "change it there, then p2pfwd reload"

access = new_group("Who may use which listen.")

Askers = Annotated[
    list[str],
    typer.Argument(
        metavar="PEER...", help="Peer IDs, names, or addresses ending in /p2p/ID; or any: every peer."
    ),
]
KeepLive = Annotated[
    bool, typer.Option("--keep-live", help="Let the streams run that this takes the right away from.")
]


def allow(
    ctx: typer.Context,
    protocol: Protocol,
    asker: Askers,
    expires: Expires = None,
    no_start: NoStart = False,
    as_json: AsJson = False,
) -> None:
    """Let peers use a listen, from now on, or for a time.

    The rule belongs to the name: it may be there before the listen, and stays after it.
    """
    params = AccessAllowParams(protocol=protocol, peers=tuple(asker), expires_s=expires)
    env: Env = ctx.obj
    result = env.save("access.allow", params, AccessChangeResult, no_start=no_start)
    if as_json:
        write_json(result)
        return
    _print_change(result)
    warn_of_config(result.rule.access, asker)
    if result.rule.access.lets_in == "any" and ANY not in asker:
        write(f"To let in only whom you allow: {restrict_command(protocol)}")


def warn_of_config(access: Access, asked: Sequence[str]) -> None:
    """Who was allowed and is kept out all the same is kept out by config.toml, which goes before."""
    texts = {text.rpartition("/p2p/")[2].lower() for text in asked}
    out = [it for it in access.denied if texts & {it.peer.lower(), it.name}]
    if out:
        warn(f"config.toml denies {joined(peers(out))}, and goes before", _CONFIG_CURE)
    if ANY in asked and access.lets_in != "any":
        warn("config.toml lets in only whom it or a command allows, and goes before", _CONFIG_CURE)


def deny(
    ctx: typer.Context,
    protocol: Protocol,
    asker: Askers,
    keep_live: KeepLive = False,
    no_start: NoStart = False,
    as_json: AsJson = False,
) -> None:
    """Keep peers from a listen, and reset their live streams.

    With any, only those that were allowed are let in.
    """
    params = AccessChangeParams(protocol=protocol, peers=tuple(asker), keep_live=keep_live)
    env: Env = ctx.obj
    result = env.save("access.deny", params, AccessChangeResult, no_start=no_start)
    if as_json:
        write_json(result)
    else:
        _print_change(result)


def _print_change(result: AccessChangeResult) -> None:
    rule = result.rule
    write(f"{printable(rule.protocol)} lets in {who(rule.access)}.")
    if result.streams:
        write(f"Reset {counted(result.streams, 'stream')}.")
    if not rule.listening:
        write("No listen has this name now.")


@access.command("ls", help="List whom each listen lets in, and the rules of names without one.")
def ls(ctx: typer.Context, headers: Headers = False, as_json: AsJson = False) -> None:
    """On a terminal a table; elsewhere one plain line each: protocol, whom at large, allowed, denied."""
    env: Env = ctx.obj
    result = env.ask("access.ls", Empty(), AccessLsResult)
    if as_json:
        write_json(result)
        return
    if result.lost is not None:
        cure = "mend it and move it back to access.json, or remove it; then start the daemon again"
        lost = f"the rules are lost, what is left of them is in {result.lost}"
        warn(f"{lost}; nobody is let in without a new one", cure)
    if not env.terminal:
        rows = [
            (it.protocol, it.access.lets_in, _ids(it.access.allowed), _ids(it.access.denied))
            for it in result.rules
        ]
        write_lines(rows, ("Protocol", "LetsIn", "Allowed", "Denied") if headers else None)
        return
    if result.rules:
        write_table(_RULES, list(map(_rule_row, result.rules)), limit=env.columns, colour=env.colour)
    write(f"Without a rule, a listen lets in {_DEFAULTS[result.default]} (access.default).")


def _ids(listed: Sequence[AccessPeer]) -> str:
    return ",".join(it.peer for it in listed) or "-"


def _rule_row(it: AccessRule) -> tuple[str, ...]:
    shown = who(it.access).partition(", but not ")[0]
    but_not = joined(peers(it.access.denied)) if it.access.denied else "-"
    return (
        it.protocol,
        shown,
        but_not,
        "yes" if it.saved else "default",
        "yes" if it.listening else "no",
    )


@access.command("rm", help="Forget the rule of a name: the default holds.")
def rm(
    ctx: typer.Context,
    ruled: Annotated[str, typer.Argument(metavar="PROTOCOL", help="As `access ls` shows it.")],
    keep_live: KeepLive = False,
    no_start: NoStart = False,
    as_json: AsJson = False,
) -> None:
    """Live streams of those that the default does not let in are reset."""
    env: Env = ctx.obj
    params = AccessRmParams(protocol=ruled, keep_live=keep_live)
    result = env.save("access.rm", params, AccessChangeResult, no_start=no_start)
    if as_json:
        write_json(result)
    else:
        _print_change(result)


@access.command("requests", help="List who asked for a listen and was denied it, the last first.")
def requests(ctx: typer.Context, headers: Headers = False, as_json: AsJson = False) -> None:
    """On a terminal a table, and the lines that let them in; elsewhere plain lines: protocol, peer, count."""
    env: Env = ctx.obj
    result = env.ask("access.requests", Empty(), AccessRequestsResult)
    if as_json:
        write_json(result)
    elif not env.terminal:
        rows = [(it.protocol, it.peer, str(it.count)) for it in result.requests]
        write_lines(rows, ("Protocol", "Peer", "Count") if headers else None)
    elif not result.requests:
        write("Nobody was denied anything since the daemon started.")
    else:
        write_table(_REQUESTS, list(map(_request_row, result.requests)), limit=env.columns, colour=env.colour)
        write("To let them in, or with deny in place of allow to hear of them no more:")
        for it in result.requests:
            write(f"  {printable(it.command)}")


def _request_row(it: AccessRequest) -> tuple[str, ...]:
    return (
        it.name or short_peer(it.peer),
        it.protocol,
        short_address(it.remote_address),
        str(it.count),
        age(it.last_s),
    )
