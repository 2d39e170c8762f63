"""`listen`: offer local services under protocol names, and say what that means."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2pfwd.cli.access import warn_of_config
from p2pfwd.cli.advice import close_listen_command, forward_command, forward_commands, passing_addresses
from p2pfwd.cli.exits import warn
from p2pfwd.cli.foreground import hold, terminable, undone_if_interrupted, watch
from p2pfwd.cli.limits import (
    Expires,
    IdleTimeout,
    MaxStreams,
    MaxStreamsPerPeer,
    RateOption,
    RatePerPeer,
    ends_text,
    limits_text,
    warn_of_declared_end,
)
from p2pfwd.cli.options import AsJson, Custom, Ephemeral, Foreground, NoStart, Protocol
from p2pfwd.cli.pairs import listen_pairs, make_all, one_or_list
from p2pfwd.cli.render import write, write_json
from p2pfwd.cli.text import printable, short_address
from p2pfwd.cli.who import allow_command, is_open, restrict_command, who
from p2pfwd.errors import UsageError
from p2pfwd.rpc.codec import result_to_json
from p2pfwd.rpc.schema import Listener, ListenParams, ListenResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2pfwd.cli.env import Env


class ProxyChoice(StrEnum):
    """What `--proxy-protocol` takes."""

    NONE = "none"
    V2 = "v2"


ProxyOption = Annotated[
    ProxyChoice,
    typer.Option(
        "--proxy-protocol", metavar="v2", help="Begin each connection to the target with a PROXY header."
    ),
]

AllowOption = Annotated[
    str | None,
    typer.Option(
        "--allow",
        metavar="PEER[,PEER...]",
        help="Let in only these: IDs or names; or any: every peer. As `p2pfwd allow` later.",
    ),
]

TellOption = Annotated[
    str | None,
    typer.Option(
        "--tell-denied",
        metavar="PEER[,PEER...]",
        help="Tell these, when they are denied, that they are; or any. To others the name is not there.",
    ),
]


Target = Annotated[
    str,
    typer.Argument(metavar="TARGET", help="The local service: a multiaddr, HOST:PORT, :PORT or PORT."),
]

More = Annotated[
    list[str] | None,
    typer.Argument(metavar="PAIR...", help="More pairs of PROTOCOL and TARGET.", show_default=False),
]

ReportPeerId = Annotated[
    bool,
    typer.Option(
        "-r", "--report-peer-id", help="Begin each connection to the target with the dialer's peer ID."
    ),
]

_RESET = "streams are reset until it answers"

WaitTargetOption = Annotated[
    float,
    typer.Option(
        "--wait-target",
        metavar="SECONDS",
        help="Let each stream wait so long for a target that is down.",
        show_default=False,
    ),
]

CheckOption = Annotated[
    str,
    typer.Option(
        "--check",
        metavar="CHECK",
        help="Watch the target: tcp (it listens) or http:/path (2xx or 3xx).",
        show_default=False,
    ),
]


def listen(
    ctx: typer.Context,
    protocol: Protocol,
    target: Target,
    more: More = None,
    allow_custom_protocol: Custom = False,
    report_peer_id: ReportPeerId = False,
    proxy_protocol: ProxyOption = ProxyChoice.NONE,
    wait_target: WaitTargetOption = 0.0,
    check: CheckOption = "",
    ephemeral: Ephemeral = False,
    expires: Expires = None,
    allow: AllowOption = None,
    max_streams: MaxStreams = None,
    max_streams_per_peer: MaxStreamsPerPeer = None,
    rate: RateOption = None,
    rate_per_peer: RatePerPeer = None,
    idle_timeout: IdleTimeout = None,
    tell_denied: TellOption = None,
    foreground: Foreground = False,
    no_start: NoStart = False,
    as_json: AsJson = False,
) -> None:
    """Offer a local service to other peers, or several.

    Prints who can connect, and the line the other person pastes. Without --allow, and without a rule of the
    name, that is any peer that knows this peer ID and the protocol name. It is saved: it is there whenever
    the daemon runs, until `close`.
    """
    params = ListenParams(
        protocol=protocol,
        target=target,
        allow_custom_protocol=allow_custom_protocol,
        report_peer_id=report_peer_id,
        foreground=foreground,
        ephemeral=ephemeral,
        allow=() if allow is None else tuple(_words(allow, "--allow")),
        tell_denied=() if tell_denied is None else tuple(_words(tell_denied, "--tell-denied")),
        max_streams=max_streams or 0,
        max_streams_per_peer=max_streams_per_peer or 0,
        rate=rate or 0,
        rate_per_peer=rate_per_peer or 0,
        idle_timeout_s=idle_timeout or 0,
        proxy_protocol=proxy_protocol.value,
        wait_target_s=wait_target,
        check=check,
        expires_s=expires,
    )
    pairs = listen_pairs((protocol, target), more or ())
    _offer(ctx.obj, [replace(params, protocol=name, target=at) for name, at in pairs], no_start, as_json)


def _offer(env: Env, params: Sequence[ListenParams], no_start: bool, as_json: bool) -> None:
    if params[0].report_peer_id and params[0].proxy_protocol != "none":
        hint = "leave -r out: the PROXY header has the peer ID, too"
        raise UsageError("--proxy-protocol and -r exclude each other", hint=hint)
    with ExitStack() as stack:
        interrupted = stack.enter_context(terminable()) if params[0].foreground else None
        client = stack.enter_context(env.connect_or_start(start=not no_start))
        subscription = None if interrupted is None else watch(client, interrupted)
        results = make_all(env, client, "p2p.listen", params, ListenResult, as_json=as_json)
        made = [result.listener for result in results if not result.stood]
        documents = list(map(_document, results)) if as_json else None
        with undone_if_interrupted(env, made):
            if documents is None:
                _print(results, params[0].allow)
                for result in results:
                    warn_of_declared_end(result.listener, params[0].expires_s)
        if subscription is not None:
            hold(env, client, subscription, made, documents)
        elif documents is not None:
            write_json(one_or_list(documents))


def _words(peers: str, option: str) -> list[str]:
    words = [word.strip() for word in peers.split(",")]
    if not all(words):
        hint = f"peers are parted by one comma: {option} laptop,12D3KooW...; or {option} any"
        raise UsageError(f"{option} has an empty place", hint=hint)
    return words


def _command(result: ListenResult) -> str:
    listener = result.listener
    return forward_command(listener.protocol, listener.target_address, result.peer, result.addresses)


def _document(result: ListenResult) -> dict[str, Any]:
    return {**result_to_json(result), "Command": _command(result)}


def _print(results: Sequence[ListenResult], allowed: Sequence[str]) -> None:
    listeners = [result.listener for result in results]
    for result in results:
        listener = result.listener
        sharing = "Sharing already:" if result.stood else "Sharing"
        write(f"{sharing} {printable(listener.protocol)} -> {_where(result)}.")
    for line in _who_can(listeners):
        write(line)
    for line in _until(listeners):
        write(line)
    write("On the other machine, run:")
    listens = [(listener.protocol, listener.target_address) for listener in listeners]
    commands = forward_commands(listens, results[0].peer, results[0].addresses)
    for command in commands:
        write(f"  {command}")
    stop = "; ".join(close_listen_command(listener.protocol) for listener in listeners)
    write(f"To stop sharing: {stop}")
    if results[0].taken_ports and results[0].addresses:
        until = "the line above holds" if len(commands) == 1 else "the lines above hold"
        warn(*passing_addresses(results[0].taken_ports, f"{until} as long", "listen"))
    for notice in {it.message: it for result in results for it in result.notices}.values():
        warn(notice.message, notice.hint)
    for result in results:
        if result.listener.access is not None:
            warn_of_config(result.listener.access, allowed)
        if not result.target_check.ok:
            target = short_address(result.listener.target_address)
            reason = result.target_check.reason or target
            waited_s = result.listener.wait_target_s
            what = f"each stream waits {waited_s:g} s for it" if waited_s else _RESET
            warn(f"{reason}; {what}", result.target_check.hint)


def _who_can(listeners: Sequence[Listener]) -> list[str]:
    """Who can connect, and the lines that change it."""
    if all(is_open(it.access) for it in listeners):
        name = "the protocol name" if len(listeners) == 1 else "a protocol name"
        commands = "; ".join(restrict_command(it.protocol) for it in listeners)
        return [
            f"Any peer that knows this peer ID and {name} can connect.",
            f"To let in only whom you allow: {commands}",
        ]
    lines = []
    for it in listeners:
        whom = "any peer" if it.access is None else who(it.access)
        line = f"{printable(it.protocol)} lets in {whom}."
        if it.access is not None and it.access.lets_in != "any":
            line += f" To let in a peer: {allow_command(it.protocol)}"
        lines.append(line)
    return lines


def _until(listeners: Sequence[Listener]) -> list[str]:
    """Their limits, and when they end."""
    lines = []
    for it in listeners:
        if it.limits is not None and (limits := limits_text(it.limits)):
            lines.append(f"Limits of {printable(it.protocol)}: {limits}.")
        if it.ends_at is not None:
            lines.append(f"{printable(it.protocol)} {ends_text(it.ends_at)}.")
    return lines


def _where(result: ListenResult) -> str:
    """The target, whether it answers, and at which of its addresses where it has several."""
    target, found = result.listener.target_address, result.target_check.remote_address
    if not result.target_check.ok:
        return f"{short_address(target)}, which does not answer now"
    at = f" at {short_address(found)}" if found not in (None, target) else ""
    return f"{short_address(target)}, which answers{at}"
