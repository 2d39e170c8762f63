"""`listen`: offer a local service under a protocol name, and say what that means."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2pfwd.cli.advice import close_listen_command, forward_command
from p2pfwd.cli.env import answer
from p2pfwd.cli.exits import warn
from p2pfwd.cli.foreground import hold, terminable, undone_if_interrupted, watch
from p2pfwd.cli.options import AsJson, Custom, Foreground, NoStart, Protocol
from p2pfwd.cli.render import write, write_json
from p2pfwd.cli.text import printable, short_address
from p2pfwd.rpc.codec import result_to_json
from p2pfwd.rpc.schema import ListenParams, ListenResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2pfwd.cli.env import Env


def listen(
    ctx: typer.Context,
    protocol: Protocol,
    target: Annotated[
        str,
        typer.Argument(metavar="TARGET", help="The local service: a multiaddr, HOST:PORT, :PORT or PORT."),
    ],
    allow_custom_protocol: Custom = False,
    report_peer_id: Annotated[
        bool,
        typer.Option(
            "-r", "--report-peer-id", help="Begin each connection to the target with the dialer's peer ID."
        ),
    ] = False,
    foreground: Foreground = False,
    no_start: NoStart = False,
    as_json: AsJson = False,
) -> None:
    """Offer a local service to other peers.

    Prints the line the other person pastes. Any peer that knows this peer ID and the protocol name can
    connect.
    """
    params = ListenParams(
        protocol=protocol,
        target=target,
        allow_custom_protocol=allow_custom_protocol,
        report_peer_id=report_peer_id,
        foreground=foreground,
    )
    env: Env = ctx.obj
    with ExitStack() as stack:
        if foreground:
            stack.enter_context(terminable())
        client = stack.enter_context(env.connect_or_start(start=not no_start))
        subscription = watch(client) if foreground else None
        result = answer(client, "p2p.listen", params, ListenResult)
        document = _document(result) if as_json else None
        with undone_if_interrupted(env, result.listener):
            if document is None:
                _print(result)
        if subscription is not None:
            hold(env, client, subscription, result.listener, document)
        elif document is not None:
            write_json(document)


def _command(result: ListenResult) -> str:
    listener = result.listener
    return forward_command(listener.protocol, listener.target_address, result.peer, result.addresses)


def _document(result: ListenResult) -> dict[str, Any]:
    return {**result_to_json(result), "Command": _command(result)}


def _print(result: ListenResult) -> None:
    listener, check = result.listener, result.target_check
    target = short_address(listener.target_address)
    answers = ", which answers" if check.ok else ", which does not answer now"
    write(f"Sharing {printable(listener.protocol)} -> {target}{answers}.")
    write("Any peer that knows this peer ID and the protocol name can connect.")
    write("On the other machine, run:")
    write(f"  {_command(result)}")
    write(f"To stop sharing: {close_listen_command(listener.protocol)}")
    if result.taken_ports and result.addresses:
        _warn_of_passing_addresses(result.taken_ports)
    if not check.ok:
        warn(f"{check.reason or target}; streams are reset until it answers", check.hint)


def _warn_of_passing_addresses(taken: Sequence[int]) -> None:
    ports = ", ".join(map(str, taken))
    port, is_taken = ("port", "is") if len(taken) == 1 else ("ports", "are")
    warn(
        f"{port} {ports} of this node's settings {is_taken} taken by another program, and it listens on "
        "another one until the daemon restarts: the line above holds as long",
        "free the port, or set swarm.listen to a free one, then p2pfwd shutdown and listen again",
    )
