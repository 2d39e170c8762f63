"""`forward`: open a local port that leads to a peer's service, try it once, and say what to do next."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2pfwd.cli.advice import close_forward_command, next_step
from p2pfwd.cli.env import answer
from p2pfwd.cli.exits import warn
from p2pfwd.cli.foreground import hold, terminable, undone_if_interrupted, watch
from p2pfwd.cli.narration import narrate_lookups
from p2pfwd.cli.options import AsJson, Custom, Foreground, NoStart, Protocol
from p2pfwd.cli.render import talk, write, write_json
from p2pfwd.cli.text import milliseconds, printable, short_address, short_peer
from p2pfwd.rpc.codec import result_to_json
from p2pfwd.rpc.schema import Check, CheckParams, ForwardParams, ForwardResult

if TYPE_CHECKING:
    from p2pfwd.cli.env import Env
    from p2pfwd.rpc.client import Client

CHECK_TIMEOUT_S = 10.0
"""How long a forward tries its peer before it returns: longer than any peer that is there takes to answer."""

_GRACE_S = 5.0
"""What the daemon may need beyond a bound it was given, before this command stops waiting for it."""


def forward(
    ctx: typer.Context,
    protocol: Protocol,
    listen: Annotated[
        str,
        typer.Argument(
            metavar="LISTEN",
            help="Where to listen: a multiaddr, HOST:PORT, :PORT or PORT; port 0 takes a free one.",
        ),
    ],
    peer: Annotated[
        list[str],
        typer.Argument(metavar="PEER...", help="The peer: its ID, or addresses of it ending in /p2p/ID."),
    ],
    allow_custom_protocol: Custom = False,
    no_check: Annotated[bool, typer.Option("--no-check", help="Do not try the peer now.")] = False,
    foreground: Foreground = False,
    no_start: NoStart = False,
    as_json: AsJson = False,
) -> None:
    """Open a local port whose connections reach a peer's service.

    The peer is tried once; the forward stands whether or not it answers, and tries again at each connection.
    """
    params = ForwardParams(
        protocol=protocol,
        listen=listen,
        peers=tuple(peer),
        allow_custom_protocol=allow_custom_protocol,
        foreground=foreground,
    )
    env: Env = ctx.obj
    with ExitStack() as stack:
        if foreground:
            stack.enter_context(terminable())
        client = stack.enter_context(env.connect_or_start(start=not no_start))
        subscription = watch(client) if foreground else None
        result = answer(client, "p2p.forward", params, ForwardResult)
        with undone_if_interrupted(env, result.listener):
            if not as_json:
                _print(result)
            check = None if no_check else _try(env, client, result)
            document = _document(result, check) if as_json else None
            if document is None and check is not None:
                _print_check(check)
        if subscription is not None:
            hold(env, client, subscription, result.listener, document)
        elif document is not None:
            write_json(document)


def _try(env: Env, client: Client, result: ForwardResult) -> Check:
    narrate_lookups(client)
    if env.talkative:
        talk(f"Trying {short_peer(result.peer)} ...")
    params = CheckParams(listener=result.listener.id, timeout_s=CHECK_TIMEOUT_S)
    return answer(client, "p2p.check", params, Check, timeout_s=CHECK_TIMEOUT_S + _GRACE_S)


def _document(result: ForwardResult, check: Check | None) -> dict[str, Any]:
    if check is None:
        return {**result_to_json(result), "Check": None}
    known = replace(result, listener=replace(result.listener, state=check.state, reason=check.reason))
    return {**result_to_json(known), "Check": result_to_json(check)}


def _print(result: ForwardResult) -> None:
    listener = result.listener
    local = short_address(listener.listen_address)
    write(f"Forwarding {local} -> {printable(listener.protocol)} at {short_peer(result.peer)}")
    write(f"  {next_step(listener.protocol, listener.listen_address)}")
    write(f"To stop: {close_forward_command(listener.listen_address)}")


def _print_check(check: Check) -> None:
    if check.ok:
        how: list[str] = [check.path or "direct"]
        if check.rtt_ms is not None:
            how.append(f"round trip {milliseconds(check.rtt_ms)}")
        if check.remote_address:
            how.append(check.remote_address)
        write(f"The peer answers: {', '.join(how)}.")
        return
    warn(f"{check.reason or check.state}; the forward stands and tries again at each connection", check.hint)
