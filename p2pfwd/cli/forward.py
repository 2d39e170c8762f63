"""`forward`: open local ports that lead to a peer's services, try them once, and say what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2pfwd.cli.advice import close_forward_command, next_step
from p2pfwd.cli.env import answer
from p2pfwd.cli.exits import warn
from p2pfwd.cli.foreground import hold, terminable, undone_if_interrupted, watch
from p2pfwd.cli.limits import Expires, ends_text, warn_of_declared_end
from p2pfwd.cli.narration import narrate_lookups
from p2pfwd.cli.options import (
    AsJson,
    Custom,
    Ephemeral,
    Foreground,
    LimitedRelay,
    NoStart,
    PathChoice,
    PathOption,
    Protocol,
)
from p2pfwd.cli.pairs import forward_pairs, make_all, one_or_list
from p2pfwd.cli.render import talk, write, write_json
from p2pfwd.cli.text import milliseconds, printable, short_address, short_peer
from p2pfwd.rpc.codec import result_to_json
from p2pfwd.rpc.schema import Check, CheckParams, ForwardParams, ForwardResult

if TYPE_CHECKING:
    from p2pfwd.cli.env import Env
    from p2pfwd.rpc.client import Client

CHECK_TIMEOUT_S = 10.0
"""How long a forward tries its peer before it returns: longer than any peer that is there takes to answer."""

UNREACHABLE = "peer-unreachable"
"""State of a check that did not get to the peer."""

UNBOUND = ("address-in-use", "bind-failed")
"""States of a forward whose local address is not to be had."""

EXPOSED = "exposed"
"""Code of the notice that others than this machine reach the local port."""

_GRACE_S = 5.0
"""What the daemon may need beyond a bound it was given, before this command stops waiting for it."""


ListenAt = Annotated[
    str,
    typer.Argument(
        metavar="LISTEN",
        help="Where to listen: a multiaddr, HOST:PORT, :PORT or PORT; port 0 takes a free one.",
    ),
]

Peers = Annotated[
    list[str],
    typer.Argument(
        metavar="PEER...",
        help="The peer: its ID or name, or addresses of it ending in /p2p/ID; before it, more pairs of "
        "PROTOCOL and LISTEN.",
    ),
]


def forward(
    ctx: typer.Context,
    protocol: Protocol,
    listen: ListenAt,
    peers: Peers,
    allow_custom_protocol: Custom = False,
    no_check: Annotated[bool, typer.Option("--no-check", help="Do not try the peer now.")] = False,
    path: PathOption = PathChoice.ANY,
    allow_limited_relay: LimitedRelay = False,
    ephemeral: Ephemeral = False,
    expires: Expires = None,
    foreground: Foreground = False,
    no_start: NoStart = False,
    as_json: AsJson = False,
) -> None:
    """Open a local port whose connections reach a peer's service, or several.

    The peer is tried once; the forward stands whether or not it answers, and tries again at each connection.
    It is saved: it is there whenever the daemon runs, until `close`.
    """
    pairs, peers = forward_pairs((protocol, listen), peers)
    params = [
        ForwardParams(
            protocol=protocol,
            listen=listen,
            peers=tuple(peers),
            allow_custom_protocol=allow_custom_protocol,
            foreground=foreground,
            ephemeral=ephemeral,
            path=path.value,
            allow_limited_relay=allow_limited_relay,
            expires_s=expires,
        )
        for protocol, listen in pairs
    ]
    env: Env = ctx.obj
    with ExitStack() as stack:
        interrupted = stack.enter_context(terminable()) if foreground else None
        client = stack.enter_context(env.connect_or_start(start=not no_start))
        subscription = None if interrupted is None else watch(client, interrupted)
        results = make_all(env, client, "p2p.forward", params, ForwardResult, as_json=as_json)
        made = [result.listener for result in results if not result.stood]
        with undone_if_interrupted(env, made):
            documents = _told(env, client, results, no_check=no_check, as_json=as_json)
            for result in results if documents is None else ():
                warn_of_declared_end(result.listener, expires)
        if subscription is not None:
            hold(env, client, subscription, made, documents)
        elif documents is not None:
            write_json(one_or_list(documents))


def _told(
    env: Env, client: Client, results: Sequence[ForwardResult], *, no_check: bool, as_json: bool
) -> list[dict[str, Any]] | None:
    """Say what stands, and what a try of it finds; with `as_json` the documents are to be printed."""
    if not as_json:
        for result in results:
            say_forward(result)
    checks = [None] * len(results) if no_check else try_forwards(env, client, results)
    if as_json:
        return list(map(forward_document, results, checks))
    say_checks(results, checks)
    return None


def try_forwards(env: Env, client: Client, results: Sequence[ForwardResult]) -> list[Check]:
    """Try each; a peer that one try did not reach is not tried for the others."""
    narrate_lookups(client)
    if env.talkative:
        talk(f"Trying {short_peer(results[0].peer)} ...")
    checks: list[Check] = []
    for result in results:
        if checks and checks[-1].state == UNREACHABLE:
            checks.append(checks[-1])
            continue
        params = CheckParams(listener=result.listener.id, timeout_s=CHECK_TIMEOUT_S)
        checks.append(answer(client, "p2p.check", params, Check, timeout_s=CHECK_TIMEOUT_S + _GRACE_S))
    return checks


def forward_document(result: ForwardResult, check: Check | None) -> dict[str, Any]:
    """What `--json` prints of one forward."""
    if check is None:
        return {**result_to_json(result), "Check": None}
    reason = check.reason if check.state != "ready" else None  # a remark on the try
    known = replace(result, listener=replace(result.listener, state=check.state, reason=reason))
    return {**result_to_json(known), "Check": result_to_json(check)}


def say_forward(result: ForwardResult) -> None:
    """What stands, how to use it, and how to stop it."""
    listener = result.listener
    local = short_address(listener.listen_address)
    forwarding = "Forwarding already:" if result.stood else "Forwarding"
    write(f"{forwarding} {local} -> {printable(listener.protocol)} at {short_peer(result.peer)}")
    write(f"  {next_step(listener.protocol, listener.listen_address)}")
    if listener.ends_at is not None:
        write(f"It {ends_text(listener.ends_at)}.")
    write(f"To stop: {close_forward_command(listener.listen_address)}")


def say_checks(results: Sequence[ForwardResult], checks: Sequence[Check | None]) -> None:
    """Of each what the try found; of a peer that was not reached, and of its addresses, once."""
    for index, (result, check) in enumerate(zip(results, checks, strict=True)):
        name = f"{printable(result.listener.protocol)}: " if len(results) > 1 else ""
        for notice in result.notices:
            # A try that failed has named the addresses itself.
            if notice.code == EXPOSED or (index == 0 and (check is None or check.ok)):
                warn(f"{name if notice.code == EXPOSED else ''}{notice.message}", notice.hint)
        if check is None:
            continue
        if check.ok:
            write(f"{name}{'the' if name else 'The'} peer answers: {_how(check)}.")
            if check.reason:
                write(f"  {printable(check.reason)}")
        elif check.state == UNREACHABLE and len(results) > 1:
            if index == 0 or checks[index - 1] is not check:
                warn(f"{check.reason}; the forwards stand and try again at each connection", check.hint)
        else:
            reason = check.reason or check.state
            then = "listens there once it can" if check.state in UNBOUND else "tries again at each connection"
            warn(f"{name}{reason}; the forward stands and {then}", check.hint)


def _how(check: Check) -> str:
    how: list[str] = [check.path or "direct"]
    if check.rtt_ms is not None:
        how.append(f"round trip {milliseconds(check.rtt_ms)}")
    if check.remote_address:
        how.append(check.remote_address)
    return ", ".join(how)
