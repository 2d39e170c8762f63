"""`join`: take up the invite that somebody's `p2pfwd invite` printed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from p2pfwd.cli.env import answer
from p2pfwd.cli.exits import warn
from p2pfwd.cli.forward import forward_document, say_checks, say_forward, try_forwards
from p2pfwd.cli.narration import narrate_lookups
from p2pfwd.cli.options import AsJson, Limit, NoStart
from p2pfwd.cli.render import document, write, write_json
from p2pfwd.cli.text import printable, short_peer
from p2pfwd.errors import UsageError
from p2pfwd.rpc.schema import Check, ForwardResult, InviteJoinParams, InviteJoinResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2pfwd.cli.env import Env

STDIN = "-"

_EXCHANGE_S = 40.0
"""What it may take beyond reaching the inviter."""


def join(
    ctx: typer.Context,
    token: Annotated[
        str,
        typer.Argument(
            metavar="TOKEN",
            help="What `p2pfwd invite` printed there; - reads it, on a terminal without showing it.",
        ),
    ] = STDIN,
    listen: Annotated[
        str | None,
        typer.Argument(
            metavar="LISTEN",
            help="Where to listen: a multiaddr, HOST:PORT, :PORT or PORT; a free port where it is left out.",
        ),
    ] = None,
    called: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="What to call the inviter here.")
    ] = None,
    no_check: Annotated[bool, typer.Option("--no-check", help="Do not try the service now.")] = False,
    timeout_s: Limit = 30.0,
    no_start: NoStart = False,
    as_json: AsJson = False,
) -> None:
    """Take up an invite: this machine is let in, and gets its forward.

    Not to be confused with `network join`, which takes the line of a hub.
    """
    from p2pfwd.core.invite_token import InviteToken

    word = _read() if token == STDIN else token
    InviteToken.parse(word)  # a slip is told before a daemon is started
    params = InviteJoinParams(token=word, listen=listen, name=called, timeout_s=timeout_s)
    env: Env = ctx.obj
    with env.connect_or_start(start=not no_start) as client:
        narrate_lookups(client)
        result = answer(client, "invite.join", params, InviteJoinResult, timeout_s=timeout_s + _EXCHANGE_S)
        made = ForwardResult(result.listener, result.peer, result.notices, result.stood)
        if not as_json:
            _say(result)
            say_forward(made)
        checks: Sequence[Check | None] = [None]
        if not no_check and result.listening:
            checks = try_forwards(env, client, [made])
    if as_json:
        write_json({**document(result), "Check": forward_document(made, checks[0])["Check"]})
    else:
        say_checks([made], checks)


def _read() -> str:
    """The word from standard input; typed or pasted at a terminal it is not shown."""
    if not sys.stdin.isatty():
        return sys.stdin.read(1 << 16)
    from getpass import getpass

    try:
        return getpass("Invite: ", stream=sys.stderr)
    except EOFError:
        raise UsageError("no invite is given", hint="paste what `p2pfwd invite` printed") from None


def _say(result: InviteJoinResult) -> None:
    name = "" if result.name is None else f", here named {result.name}"
    service = printable(result.listener.protocol)
    write(f"Joined: {short_peer(result.peer)}{name}, lets this machine use {service}.")
    if not result.listening:
        warn(
            "the service is not shared yet there; the forward stands and tries again at each connection",
            f"they run: p2pfwd listen {service} TARGET",
        )
