"""`close`, `ls`, `stream ls` and `stream close`: what is there, and ending it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from p2pfwd.cli.exits import warn
from p2pfwd.cli.limits import ends_text, limits_text
from p2pfwd.cli.options import AsJson, NoStart, new_group
from p2pfwd.cli.render import Column, write, write_json, write_lines, write_table
from p2pfwd.cli.text import age, counted, joined, milliseconds, printable, short_address, shorten_peers, size
from p2pfwd.cli.who import is_open, who
from p2pfwd.errors import UsageError
from p2pfwd.rpc.schema import (
    CloseParams,
    CloseResult,
    Empty,
    Listener,
    Problem,
    Stream,
    StreamCloseParams,
    StreamCloseResult,
    StreamLsResult,
)

if TYPE_CHECKING:
    from p2pfwd.cli.env import Env

NOTHING_SELECTED = "no matching options given"
ALL_AND_OTHERS = "can't combine --all with other matching options"

_LISTENER_COLUMNS = (
    Column("DIR"),
    Column("PROTOCOL", keep=16),
    Column("LISTEN", keep=16),
    Column("TARGET", keep=16),
    Column("STATE", state=True),
    Column("LIVE", right=True),
    Column("IN", right=True),
    Column("OUT", right=True),
)

_STREAM_COLUMNS = (
    Column("ID", right=True),
    Column("PROTOCOL", keep=16),
    Column("ORIGIN -> TARGET"),
    Column("AGE", right=True),
    Column("IN", right=True),
    Column("OUT", right=True),
    Column("RATE", right=True),
    Column("PATH", right=True),
    Column("RTT", right=True),
)

_CIPHER_COLUMN = Column("CIPHER")
"""With `-v`: most connections have the same."""

StreamHeaders = Annotated[
    bool,
    typer.Option(
        "-v", "--headers", help="A header above the plain lines too; in the table of streams what seals each."
    ),
]

stream = new_group("List and end live streams.")


def close(
    ctx: typer.Context,
    all_: Annotated[bool, typer.Option("-a", "--all", help="Close every listen and forward.")] = False,
    protocol: Annotated[
        str | None, typer.Option("-p", "--protocol", metavar="P", help="Those of this protocol name.")
    ] = None,
    listen_address: Annotated[
        str | None, typer.Option("-l", "--listen-address", metavar="M", help="Those listening here.")
    ] = None,
    target_address: Annotated[
        str | None, typer.Option("-t", "--target-address", metavar="M", help="Those leading here.")
    ] = None,
    no_start: NoStart = False,
    as_json: AsJson = False,
) -> None:
    """Close and forget listens and forwards: those that match every filter given.

    Live streams go on; `p2pfwd stream close` ends them.
    """
    filtered = any(value is not None for value in (protocol, listen_address, target_address))
    if all_ and filtered:
        raise UsageError(ALL_AND_OTHERS, hint="leave out -a, or all the others")
    if not (all_ or filtered):
        raise UsageError(NOTHING_SELECTED, hint="give -a, or some of -p, -l and -t")
    params = CloseParams(
        all=all_, protocol=protocol, listen_address=listen_address, target_address=target_address
    )
    env: Env = ctx.obj
    result = env.save("p2p.close", params, CloseResult, no_start=no_start)
    if as_json:
        write_json(result)
    else:
        write(closed_sentence(result.closed))
        for it in result.closed:
            if it.declared_in is not None:
                warn(
                    f"{it.protocol} is closed only until the next reload or restart: "
                    f"{it.declared_in}, declares it",
                    "to close it for good, take it out there",
                )


def closed_sentence(closed: Sequence[Listener]) -> str:
    """What a close did, named and counted."""
    if not closed:
        return "Nothing matched."
    parts = []
    for noun in ("forward", "listen"):
        if number := sum(listener.direction == noun for listener in closed):
            parts.append(counted(number, noun))
    text = f"Closed {joined(parts)}."
    if live := sum(listener.streams for listener in closed):
        text += f" {counted(live, 'stream')} still live: see 'p2pfwd stream ls'."
    return text


def ls(
    ctx: typer.Context,
    streams: Annotated[bool, typer.Option("--streams", help="Also the live streams.")] = False,
    headers: StreamHeaders = False,
    as_json: AsJson = False,
) -> None:
    """List listens and forwards.

    On a terminal a table; elsewhere one plain line each: protocol, listen address, target address.
    """
    env: Env = ctx.obj
    with env.connect() as client:
        found = client.call("p2p.ls", Empty())
        live = client.call("p2p.stream.ls", Empty()).streams if streams else ()
    listeners = found.listeners
    if found.lost is not None:
        cure = "make them again; then remove that file, and this goes with the daemon's next start"
        warn(f"the saved tunnels are lost: what is left of them is in {found.lost}", cure)
    if as_json:
        lost = {} if found.lost is None else {"Lost": found.lost}
        write_json({"Listeners": listeners} | ({"Streams": live} if streams else {}) | lost)
        return
    _print_listeners(env, listeners, headers=headers)
    if streams:
        if listeners and live:
            write("")
        _print_streams(env, live, headers=headers)


@stream.command("ls", help="List live streams.")
def stream_ls(ctx: typer.Context, headers: StreamHeaders = False, as_json: AsJson = False) -> None:
    """On a terminal a table; elsewhere one plain line each: ID, protocol, origin, target."""
    env: Env = ctx.obj
    result = env.ask("p2p.stream.ls", Empty(), StreamLsResult)
    if as_json:
        write_json(result)
    else:
        _print_streams(env, result.streams, headers=headers)


@stream.command("close", help="Reset live streams: one by its ID, or all.")
def stream_close(
    ctx: typer.Context,
    stream_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="As `stream ls` shows it.", show_default=False)
    ] = None,
    all_: Annotated[bool, typer.Option("-a", "--all", help="Every live stream.")] = False,
    as_json: AsJson = False,
) -> None:
    """Both ends see a reset."""
    if all_ and stream_id is not None:
        raise UsageError("can't combine --all with a stream ID", hint="leave out one of the two")
    if not all_ and stream_id is None:
        raise UsageError("no id specified", hint="give a stream ID (see 'p2pfwd stream ls') or -a")
    env: Env = ctx.obj
    result = env.ask("p2p.stream.close", StreamCloseParams(id=stream_id, all=all_), StreamCloseResult)
    if as_json:
        write_json(result)
    else:
        write(f"Closed {counted(len(result.closed), 'stream')}." if result.closed else "No live streams.")


def _print_listeners(env: Env, listeners: Sequence[Listener], *, headers: bool) -> None:
    if not env.terminal:
        header = ("Protocol", "Listen Address", "Target Address")
        rows = [(it.protocol, it.listen_address, it.target_address) for it in listeners]
        write_lines(rows, header if headers else None)
        return
    if not listeners:
        write("No listens and no forwards.")
        return
    write_table(
        _LISTENER_COLUMNS,
        [_listener_row(listener) for listener in listeners],
        limit=env.columns,
        colour=env.colour,
    )
    names = [listener.protocol for listener in listeners]
    for listener in listeners:
        name = printable(listener.protocol)
        if names.count(listener.protocol) > 1:
            name += f" at {short_address(listener.listen_address)}"
        if listener.reason:
            write(f"{name}: {printable(shorten_peers(listener.reason))}{_since(listener)}")
        elif listener.last_problem is not None:
            write(f"{name}: {printable(_was_wrong(listener.last_problem))}")
        if listener.waiting:
            wait = "waits" if listener.waiting == 1 else "wait"
            write(f"{name}: {counted(listener.waiting, 'local connection')} {wait} for the peer")
        if listener.warm is False and listener.id:
            write(f"{name}: {NOT_WARM}")
        if (said := _life(listener)) is not None:
            write(f"{name}: {said}")
        if listener.ends_at is not None:
            write(f"{name}: {ends_text(listener.ends_at)}")
        if listener.limits is not None and (limits := limits_text(listener.limits)):
            write(f"{name}: {limits}")
    for listener in listeners:
        if listener.access is not None and not is_open(listener.access):
            write(f"{printable(listener.protocol)}: lets in {who(listener.access)}")


def _since(listener: Listener) -> str:
    """For how long the target of a listen that is watched is down."""
    if not listener.check or listener.state_since is None:
        return ""
    return f", for {age(max(0.0, time.time() - listener.state_since))}"


def _life(listener: Listener) -> str | None:
    """How long it is there, where that is not until it is closed."""
    if listener.lifetime == "declared":
        return DECLARED.format(printable(listener.declared_in or "config.toml"))
    if listener.saved:
        return None
    return FOREGROUND if listener.foreground else EPHEMERAL


def _listener_row(listener: Listener) -> tuple[str, ...]:
    return (
        listener.direction,
        listener.protocol,
        short_address(listener.listen_address),
        short_address(listener.target_address),
        listener.state.replace("-", " "),
        str(listener.streams),
        size(listener.bytes_in),
        size(listener.bytes_out),
    )


def _was_wrong(problem: Problem) -> str:
    ago = age(max(0.0, time.time() - problem.time))
    return f"last problem {ago} ago: {shorten_peers(problem.reason)}"


DECLARED = "declared: {}"
EPHEMERAL = "ephemeral: it ends with the daemon"
FOREGROUND = "foreground: it ends with its command"
"""What `ls` says of those that are not saved."""

NOT_WARM = "its peer is not kept connected: those of forwards used later are, and there are many"

HELD_END = "the client has ended its data; a Kubo is told when the reply has ended"


def _print_streams(env: Env, streams: Sequence[Stream], *, headers: bool) -> None:
    if not env.terminal:
        header = ("ID", "Protocol", "Origin", "Target")
        rows = [(it.handler_id, it.protocol, it.origin_address, it.target_address) for it in streams]
        write_lines(rows, header if headers else None)
        return
    if not streams:
        write("No live streams.")
        return
    columns = (*_STREAM_COLUMNS, _CIPHER_COLUMN) if headers else _STREAM_COLUMNS
    cells = [(*_stream_row(stream), stream.cipher)[: len(columns)] for stream in streams]
    write_table(columns, cells, limit=env.columns, colour=env.colour)
    for stream in streams:
        if stream.holds_end:
            write(f"{stream.handler_id}: {HELD_END}")
        if stream.path_code != "direct":
            write(f"{stream.handler_id}: {stream.path_reason}{_limit_left(stream)}")


def _limit_left(stream: Stream) -> str:
    left = []
    if stream.limit_bytes_left is not None:
        left.append(size(stream.limit_bytes_left))
    if stream.limit_seconds_left is not None:
        left.append(f"{stream.limit_seconds_left} s")
    return f"; the relay carries {' or '.join(left)} more" if left else ""


def _stream_row(stream: Stream) -> tuple[str, ...]:
    return (
        stream.handler_id,
        stream.protocol,
        f"{short_address(stream.origin_address)} -> {short_address(stream.target_address)}",
        age(stream.age_s),
        size(stream.bytes_in),
        size(stream.bytes_out),
        f"{size(stream.rate_in + stream.rate_out)}/s",
        stream.path,
        milliseconds(stream.rtt_ms),
    )
