"""`limit`, and the options and words of a listen's limits; `--expires`, and when what has it ends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from p2pfwd.cli.exits import warn
from p2pfwd.cli.options import AsJson, NoStart, Protocol
from p2pfwd.cli.render import write, write_json
from p2pfwd.cli.text import counted, printable, size
from p2pfwd.errors import UsageError
from p2pfwd.rpc.schema import LimitParams, LimitResult

if TYPE_CHECKING:
    from p2pfwd.cli.env import Env
    from p2pfwd.rpc.schema import Limits, Listener


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise UsageError(
            f"'{printable(text)}' is no number of streams", hint="give 1 to 999999999, or 0 for no limit"
        )
    return int(text)


def _rate(text: str) -> int:
    from p2pfwd.core.byte_rates import parse_rate

    try:
        return parse_rate(text)
    except ValueError as exc:
        raise UsageError(str(exc), hint="0 is no limit") from None


def _idle(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 9 else parse_time(text)


def parse_time(text: str) -> int:
    """Seconds of `30m`, `2h`, `1d12h`. Raises UsageError."""
    from p2pfwd.core.durations import parse_duration

    try:
        return parse_duration(text)
    except ValueError as exc:
        raise UsageError(str(exc)) from None


MaxStreams = Annotated[
    int | None,
    typer.Option("--max-streams", metavar="N", parser=_count, help="At most N streams at once; 0: no limit."),
]
MaxStreamsPerPeer = Annotated[
    int | None,
    typer.Option(
        "--max-streams-per-peer",
        metavar="N",
        parser=_count,
        help="At most N streams of one peer; 0: no limit.",
    ),
]
RateOption = Annotated[
    int | None,
    typer.Option(
        "--rate",
        metavar="BYTES/s",
        parser=_rate,
        help="Each way, of all its streams together: 500k, 2M, 1MiB/s; 0: no limit.",
    ),
]
RatePerPeer = Annotated[
    int | None,
    typer.Option(
        "--rate-per-peer", metavar="BYTES/s", parser=_rate, help="The same for the streams of each peer."
    ),
]
IdleTimeout = Annotated[
    int | None,
    typer.Option(
        "--idle-timeout",
        metavar="TIME",
        parser=_idle,
        help="Reset a stream on which no byte passes for so long: 90, 30m, 2h; 0: never.",
    ),
]
Expires = Annotated[
    int | None,
    typer.Option("--expires", metavar="TIME", parser=parse_time, help="It ends by itself: 30m, 2h, 1d12h."),
]


def limit(
    ctx: typer.Context,
    protocol: Protocol,
    max_streams: MaxStreams = None,
    max_streams_per_peer: MaxStreamsPerPeer = None,
    rate: RateOption = None,
    rate_per_peer: RatePerPeer = None,
    idle_timeout: IdleTimeout = None,
    no_start: NoStart = False,
    as_json: AsJson = False,
) -> None:
    """Show or change the limits of a listen, live streams included.

    What is not given stays as it is. Streams that are there already go on, also where a limit is now lower.
    """
    params = LimitParams(
        protocol=protocol,
        max_streams=max_streams,
        max_streams_per_peer=max_streams_per_peer,
        rate=rate,
        rate_per_peer=rate_per_peer,
        idle_timeout_s=idle_timeout,
    )
    changes = (max_streams, max_streams_per_peer, rate, rate_per_peer, idle_timeout)
    is_changed = any(it is not None for it in changes)
    env: Env = ctx.obj
    if is_changed:
        result = env.save("p2p.limit", params, LimitResult, no_start=no_start)
    else:
        result = env.ask("p2p.limit", params, LimitResult)
    if as_json:
        write_json(result)
        return
    limits = result.listener.limits
    assert limits is not None, "it is a listen"
    write(f"{printable(protocol)}: {limits_text(limits) or 'no limits'}.")
    now = f"{counted(result.listener.streams, 'stream')} now"
    if result.listener.streams:
        now += (
            f", at most {result.busiest_peer_streams} of one peer, "
            f"{size(result.rate_in)}/s in and {size(result.rate_out)}/s out"
        )
    write(f"{now}.")
    if result.listener.declared_in is not None and is_changed:
        warn(
            f"these limits of {protocol} hold only until the next reload or restart: "
            f"{result.listener.declared_in}, declares it",
            "to change them for good, change them there",
        )


def warn_of_declared_end(listener: Listener, expires: float | None) -> None:
    """An end that a command gives a declared tunnel is not in its file."""
    if expires is not None and listener.declared_in is not None:
        warn(
            f"this end of {listener.protocol} holds only until the next reload or restart: "
            f"{listener.declared_in}, declares it",
            "to have it end for good, set ends_at there",
        )


def limits_text(limits: Limits) -> str:
    """`at most 5 streams, 1MiB/s each way`; empty where there are none. Bounds are told unrounded."""
    from p2pfwd.core.byte_rates import rate_text
    from p2pfwd.core.durations import exact_duration_text

    parts = []
    if limits.max_streams:
        parts.append(f"at most {counted(limits.max_streams, 'stream')}")
    if limits.max_streams_per_peer:
        parts.append(f"at most {limits.max_streams_per_peer} of one peer")
    if limits.rate:
        parts.append(f"{rate_text(limits.rate)} each way")
    if limits.rate_per_peer:
        parts.append(f"{rate_text(limits.rate_per_peer)} each way for each peer")
    if limits.idle_timeout_s:
        parts.append(f"idle for at most {exact_duration_text(limits.idle_timeout_s)}")
    return ", ".join(parts)


def ends_text(ends_at: float) -> str:
    """`ends in 1 h 12 min`."""
    from p2pfwd.core.durations import time_left_text

    return f"ends in {time_left_text(ends_at - time.time())}"
