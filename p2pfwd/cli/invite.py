"""`invite`, `invite ls`, `invite revoke`: one word that lets one machine in."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from p2pfwd.cli.advice import passing_addresses
from p2pfwd.cli.exits import warn
from p2pfwd.cli.limits import parse_time
from p2pfwd.cli.options import AsJson, Headers, NoStart, help_without_command, new_acting_group
from p2pfwd.cli.render import Column, talk, write, write_json, write_lines, write_table
from p2pfwd.cli.text import age, counted, joined, printable, short_peer
from p2pfwd.rpc.invite_values import DEFAULT_EXPIRES_S
from p2pfwd.rpc.schema import (
    Empty,
    Invite,
    InviteLsResult,
    InviteNewParams,
    InviteNewResult,
    InviteRevokeParams,
    InviteRevokeResult,
)

if TYPE_CHECKING:
    from p2pfwd.cli.env import Env

_COLUMNS = (
    Column("ID"),
    Column("PROTOCOL", keep=16),
    Column("STATE"),
    Column("LEFT", right=True),
    Column("USED", right=True),
    Column("NAME", keep=12),
    Column("TAKEN BY", keep=11),
)

invite = new_acting_group()


@invite.callback()
def new(
    ctx: typer.Context,
    protocol: Annotated[
        str | None, typer.Argument(metavar="PROTOCOL", help="Name of the service, such as /x/ssh.")
    ] = None,
    expires: Annotated[
        int | None,
        typer.Option(
            "--expires",
            metavar="TIME",
            parser=parse_time,
            help="How long it is good: 30m, 2h, 1d12h; an hour unless told.",
        ),
    ] = None,
    uses: Annotated[int, typer.Option("--uses", metavar="N", help="For how many machines it is good.")] = 1,
    called: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="What to call the machine that takes it."),
    ] = None,
    qr: Annotated[bool, typer.Option("--qr", help="Show the invite as a QR code, too.")] = False,
    no_start: NoStart = False,
    as_json: AsJson = False,
) -> None:
    """Invite somebody to a service: prints one word that `p2pfwd join` takes up on the other machine.

    The first machine that joins with it is let in by its peer ID, as by `allow`. Not to be confused with
    `network join`, which takes the line of a hub.
    """
    if ctx.invoked_subcommand is not None:
        return
    if protocol is None:
        help_without_command(ctx)
        return
    expires_s = DEFAULT_EXPIRES_S if expires is None else expires
    params = InviteNewParams(protocol=protocol, expires_s=expires_s, uses=uses, name=called)
    env: Env = ctx.obj
    result = env.save("invite.new", params, InviteNewResult, no_start=no_start)
    if as_json:
        write_json(result)
        return
    write(result.token)
    if qr:
        from p2pfwd.cli.qr import qr_code

        write(qr_code(result.token.upper(), colour=env.colour))
    talk("On the other machine, run:")
    talk(f"  {result.command}")
    talk(_what_it_does(result.invite))
    talk(f"To take it back: p2pfwd invite revoke {result.invite.id}")
    if result.taken_ports and result.addresses:
        warn(*passing_addresses(result.taken_ports, "the addresses in the word above hold as long", "invite"))
    for notice in result.notices:
        warn(notice.message, notice.hint)


def _what_it_does(made: Invite) -> str:
    """In one sentence whom it lets in, for how long, and under which name."""
    whom = "the first machine" if made.uses == 1 else f"the first {made.uses} machines"
    joins = "joins" if made.uses == 1 else "join"
    name = "" if made.name is None else f", as {made.name}"
    life = age(made.expires - made.made)
    return f"It lets {whom} that {joins} within {life} use {printable(made.protocol)}{name}."


@invite.command("ls", help="List the invites that were made here, the oldest first.")
def ls(ctx: typer.Context, headers: Headers = False, as_json: AsJson = False) -> None:
    """On a terminal a table; elsewhere one plain line each: ID, protocol, state, expiry, uses, taken by."""
    env: Env = ctx.obj
    result = env.ask("invite.ls", Empty(), InviteLsResult)
    if as_json:
        write_json(result)
    elif not env.terminal:
        rows = [
            (it.id, it.protocol, it.state, _time(it.expires), f"{len(it.taken_by)}/{it.uses}", _ids(it))
            for it in result.invites
        ]
        titles = ("ID", "Protocol", "State", "Expires", "Used", "TakenBy")
        write_lines(rows, titles if headers else None)
    elif not result.invites:
        write("No invites.")
    else:
        write_table(_COLUMNS, list(map(_row, result.invites)), limit=env.columns, colour=env.colour)


def _time(unix_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_s))


def _ids(it: Invite) -> str:
    return ",".join(taker.peer for taker in it.taken_by) or "-"


def _row(it: Invite) -> tuple[str, ...]:
    return (
        it.id,
        it.protocol,
        it.state.replace("-", " "),
        age(it.left_s) if it.state == "open" else "-",
        f"{len(it.taken_by)}/{it.uses}",
        it.name or "-",
        _takers(it) or "-",
    )


def _takers(it: Invite) -> str:
    if len(it.taken_by) > 2:
        return counted(len(it.taken_by), "peer")
    return ", ".join(taker.name or short_peer(taker.peer) for taker in it.taken_by)


@invite.command("revoke", help="Take an invite back: nobody can join with it any more.")
def revoke(
    ctx: typer.Context,
    invite_id: Annotated[str, typer.Argument(metavar="ID", help="As `invite ls` shows it.")],
    no_start: NoStart = False,
    as_json: AsJson = False,
) -> None:
    """Who has joined with it stays allowed; `deny` takes that right away."""
    env: Env = ctx.obj
    params = InviteRevokeParams(id=invite_id)
    result = env.save("invite.revoke", params, InviteRevokeResult, no_start=no_start)
    if as_json:
        write_json(result)
        return
    it = result.invite
    write(f"Revoked {it.id}: nobody can join {printable(it.protocol)} with it any more.")
    if result.let_in:
        import shlex

        taken = joined([taker.name or short_peer(taker.peer) for taker in result.let_in[:4]])
        stays = "stays" if len(result.let_in) == 1 else "stay"
        command = shlex.join(["p2pfwd", "deny", it.protocol, *(taker.peer for taker in result.let_in[:4])])
        write(f"{taken} {stays} allowed. To change that: {command}")
