"""The bench's report: plain text tables, medians with least and greatest over the repeats."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.floor import CIPHERS
from tests.bench.goals import GOALS, Goal, floor_parts, over_floor
from tests.bench.results import Results, Spread
from tests.bench.tunnels import SETUPS

Cell = Callable[[Results, str], str]

LEVELS = (1, 10, 100, 1000)
LEVEL_COLUMNS = [
    ("MB", "rss", 1e-6), ("KB each", "each", 1e-3), ("idle, CPU ms/s", "idle", 1),
    ("round trip, µs", "rtt", 1), ("its CPU", "rtt_cpu", 1), ("bulk, CPU s/GB", "bulk", 1),
    ("a new one, CPU ms", "connect", 1),
]  # fmt: skip
"""Headings, names as `phases.beside` gives them, and scales."""

LEAST_LINE_MBPS = 400
"""Below, the rig that makes the line long is what is measured over it."""


def number(value: float) -> str:
    """Three figures that count."""
    if value == 0:
        return "0"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def spread(value: Spread | None, scale: float = 1.0) -> str:
    """`median (least–greatest)`, the median alone where all are one."""
    if value is None:
        return "-"
    text = number(value.median * scale)
    if value.least == value.greatest:
        return text
    return f"{text} ({number(value.least * scale)}–{number(value.greatest * scale)})"


@dataclass(frozen=True, slots=True)
class Column:
    """A heading and what stands under it for a tunnel."""

    heading: str
    cell: Cell


def figure(heading: str, name: str, scale: float = 1.0) -> Column:
    return Column(heading, lambda results, tunnel: spread(results.spread(tunnel, name), scale))


def against(heading: str, name: str, other: Callable[[str], str]) -> Column:
    """Ratio of `name` to that of the tunnel `other` names; empty for the tunnel itself."""

    def cell(results: Results, tunnel: str) -> str:
        base = other(tunnel)
        if base == tunnel:
            return "1" if results.values(tunnel, name) else "-"
        return spread(results.ratio((tunnel, name), (base, name)))

    return Column(heading, cell)


def against_one(way: str) -> Column:
    """Many streams together against one, through the same tunnel."""
    many, one = f"many_{way}", f"many_{way}_one"
    return Column("/ one stream", lambda found, tunnel: spread(found.ratio((tunnel, many), (tunnel, one))))


def kubo_of(tunnel: str) -> str:
    """The Kubo pair a tunnel is held against."""
    return "kubo-tls" if tunnel.endswith("tls") else "kubo-noise"


def relays(tunnel: str) -> str:
    return "relay"


def parts(way: str) -> Column:
    """User and kernel share of the CPU."""

    def cell(results: Results, tunnel: str) -> str:
        user, kernel = results.spread(tunnel, f"{way}_user"), results.spread(tunnel, f"{way}_sys")
        return f"{number(user.median)} + {number(kernel.median)}" if user and kernel else "-"

    return Column("user + kernel", cell)


def above_floor(way: str, cipher: str) -> Column:
    """CPU against two relays, a sealing and an opening."""

    def cell(results: Results, tunnel: str) -> str:
        if tunnel == "relay":
            return "-"
        return spread(results.combined([(tunnel, f"{way}_cpu"), *floor_parts(way, cipher)], over_floor))

    return Column(f"/ {cipher} floor", cell)


def ssh_there(tunnel: str) -> str:
    return "long-ssh"


TABLES: Sequence[tuple[str, str, Sequence[Column]]] = [
    (
        "One bulk stream, MB/s",
        "up",
        [
            figure("up", "up"), against("/ Kubo", "up", kubo_of), against("/ relay", "up", relays),
            figure("down", "down"), against("/ Kubo", "down", kubo_of), against("/ relay", "down", relays),
        ],
    ),
    *(
        (
            f"CPU seconds per GB {way}, both ends; a floor: two plain relays, one sealing, one opening",
            f"{way}_cpu",
            [
                figure(way, f"{way}_cpu"), parts(way), against("/ Kubo", f"{way}_cpu", kubo_of),
                above_floor(way, "chacha"), above_floor(way, "aes"),
            ],
        )
        for way in ("up", "down")
    ),
    (
        "1 byte there and back over one connection, µs",
        "rtt_p50",
        [
            figure("p50", "rtt_p50"), figure("p99", "rtt_p99"), against("p50 / Kubo", "rtt_p50", kubo_of),
            against("p50 / relay", "rtt_p50", relays), figure("CPU of both ends", "rtt_cpu"),
        ],
    ),
    (
        "A new connection to its first byte back, µs",
        "open_p50",
        [
            figure("p50", "open_p50"), figure("p99", "open_p99"), against("p50 / Kubo", "open_p50", kubo_of),
            against("p50 / relay", "open_p50", relays), figure("CPU of both ends", "open_cpu"),
        ],
    ),
    (
        "400 connections opened at once, ms to the first byte back",
        "burst_p50",
        [
            figure("half of them", "burst_p50", 1e-3), figure("all", "burst_max", 1e-3),
            against("all / Kubo", "burst_max", kubo_of), figure("failed", "burst_failed"),
        ],
    ),
    (
        "20 bulk streams down, MB/s, and a 1-byte echo beside them, ms",
        "many_down",
        [
            figure("total", "many_down"), against_one("down"), figure("slowest / fastest", "many_down_even"),
            figure("lost", "many_down_lost"),
            figure("echo p50", "many_down_echo_p50", 1e-3), figure("echo p99", "many_down_echo_p99", 1e-3),
        ],
    ),
    (
        "20 bulk streams up",
        "many_up",
        [
            figure("total", "many_up"), against_one("up"), figure("slowest / fastest", "many_up_even"),
            figure("lost", "many_up_lost"),
            figure("echo p50", "many_up_echo_p50", 1e-3), figure("echo p99", "many_up_echo_p99", 1e-3),
        ],
    ),
    *(
        (
            f"Eight circuits over one relay, a bulk stream {way} each, MB/s; an echo beside each, ms",
            f"circuits_{way}",
            [
                figure("total", f"circuits_{way}"), figure("slowest / fastest", f"circuits_{way}_even"),
                figure("worst echo p99", f"circuits_{way}_echo_p99", 1e-3),
                figure("one, CPU s/GB of the relay", f"{way}_relay_cpu"),
            ],
        )
        for way in ("down", "up")
    ),
    (
        "A listen with --rate, 10 s: its error, %; another stream beside it / alone; CPU of both ends, %",
        "paced_up_error",
        [
            figure(heading.format(way=way), f"paced_{way}_{name}")
            for way in ("up", "down")
            for heading, name in (("{way}", "error"), ("beside", "beside"), ("CPU", "cpu"))
        ],
    ),
    *(
        (
            f"One stream {way} over a line of 60 ms, MB/s, by its MiB; ms to an open's first byte",
            f"long_{way}_16",
            [
                *(
                    column
                    for mib in (16, 64, 128, 512)
                    for name in [f"long_{way}_{mib}"]
                    for column in (figure(f"{mib}", name), against("/ ssh", name, ssh_there))
                ),
                figure("first byte", "long_first", 1e-3),
            ],
        )
        for way in ("up", "down")
    ),
    (
        "Memory of one daemon, MB (RSS; PSS), and KB per idle stream over both",
        "idle_rss",
        [
            figure("idle", "idle_rss", 1e-6), figure("PSS", "idle_pss", 1e-6),
            figure("Kubo less Python", "idle_rss_own", 1e-6),
            figure("400 streams", "with_400_rss", 1e-6), figure("2,000 streams", "with_2000_rss", 1e-6),
            figure("KB a stream", "per_stream", 1e-3), against("/ Kubo", "per_stream", kubo_of),
        ],
    ),
    (
        "`p2pfwd ls`, wall time, ms",
        "ls",
        [figure("ls", "ls"), figure("python -c pass", "python")],
    ),
]  # fmt: skip


def grid(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows under their headings: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for index, row in enumerate(rows):
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        yield "  ".join([row[0].ljust(widths[0]), *cells[1:]]).rstrip()
        if index == 0:
            yield "  ".join("-" * w for w in widths)


def table(results: Results, columns: Sequence[Column], needs: str) -> Iterator[str]:
    """One table, a row per tunnel that has the figure `needs`; nothing where none has."""
    rows = [["tunnel", *(column.heading for column in columns)]]
    for tunnel in SETUPS:
        if results.values(tunnel, needs):
            rows.append([tunnel, *(column.cell(results, tunnel) for column in columns)])
    if len(rows) > 1:
        yield from grid(_without_empty(rows))


def levels(results: Results, what: str) -> Iterator[str]:
    """What idle streams or connected peers cost (`phases.beside`): a row for each number of them."""
    rows = [[what, *(heading for heading, _, _ in LEVEL_COLUMNS)]]
    for tunnel in SETUPS:
        for level in LEVELS:
            cells = [
                spread(results.spread(tunnel, f"{what}_{level}_{name}"), scale)
                for _, name, scale in LEVEL_COLUMNS
            ]
            if any(cell != "-" for cell in cells):
                rows.append([f"{tunnel}, {level:,}", *cells])
    if len(rows) > 1:
        yield from grid(_without_empty(rows))


def _without_empty(rows: Sequence[Sequence[str]]) -> Sequence[Sequence[str]]:
    """The columns in which something stands."""
    kept = [i for i in range(len(rows[0])) if any(row[i] != "-" for row in rows[1:])]
    return [[row[i] for i in kept] for row in rows]


def line_note(results: Results) -> Iterator[str]:
    """What the long line itself carries, and whether that bounds what is measured over it."""
    for way in ("up", "down"):
        found = [results.spread("long-direct", f"long_{way}_{mib}") for mib in (512, 64)]
        alone = next((each for each in found if each is not None), None)
        if alone is not None:
            text = f"The line of 60 ms alone carries {spread(alone)} MB/s {way}"
            yield text + ("." if alone.median >= LEAST_LINE_MBPS else ", which bounds what goes over it.")


def bound(goal: Goal, value: float | None) -> str:
    if value is None:
        return ""
    return f"{'≥' if goal.more_is_better else '≤'} {value:g} {goal.unit}"


def verdicts(results: Results, earlier: Results | None = None) -> list[dict[str, Any]]:
    """One document per goal that could be judged."""
    found = []
    for goal in GOALS:
        value = goal.value(results, earlier)
        if value is not None:
            found.append({
                "figure": goal.label, "against": goal.against, "unit": goal.unit,
                "median": value.median, "least": value.least, "greatest": value.greatest,
                "must": goal.must, "aim": goal.aim, "verdict": goal.verdict(value),
            })  # fmt: skip
    return found


def verdict_table(results: Results, earlier: Results | None = None) -> Iterator[str]:
    rows = [["figure", "against", "measured", "must", "aim", "verdict"]]
    for goal in GOALS:
        value = goal.value(results, earlier)
        if value is not None:
            measured = f"{spread(value)} {goal.unit}"
            limits = [bound(goal, goal.must), bound(goal, goal.aim)]
            rows.append([goal.label, goal.against, measured, *limits, goal.verdict(value)])
    if len(rows) > 1:
        yield from grid(rows)


def render(results: Results, earlier: Results | None = None) -> str:
    """The whole report; `earlier`: a run that goals may compare this one with."""
    about = results.about
    lines = [
        f"{about['processors']} processors, Linux {about['kernel']}, Python {about['python']}, "
        f"client: {about['client']}. Daemons, client and server share the processors.",
        f"AES in hardware: {about['aes']}.",
        f"Medians of {about['repeats']} interleaved repeats (least–greatest).",
    ]
    for title, needs, columns in TABLES:
        body = list(table(results, columns, needs))
        if body:
            lines += ["", title, "", *body]
    for what in ("streams", "peers"):
        body = list(levels(results, what))
        if body:
            lines += ["", f"With so many idle {what}: a daemon's memory, and other work beside", "", *body]
    lines += ["", *line_note(results)]
    for short, (name, _) in CIPHERS.items():
        seal, opened = results.spread("aead", f"{short}_seal"), results.spread("aead", f"{short}_open")
        if seal and opened:
            lines.append(f"{name} at 64 KiB, s/GB: sealing {spread(seal)}, opening {spread(opened)}.")
    if results.ciphers:
        told = (f"{tunnel}: {name}" for tunnel, name in results.ciphers.items())
        lines.append("Sealed by: " + "; ".join(told))
    judged = list(verdict_table(results, earlier))
    if judged:
        lines += ["", "Against the goals (information, not a pass or a failure)", "", *judged]
    if results.others_cores:
        typical, worst = statistics.median(results.others_cores), max(results.others_cores)
        lines += ["", f"Other processes meanwhile: {typical:.2f} processors (median), {worst:.2f} (worst)."]
    lines += [f"Not measured: {tunnel}: {reason}" for tunnel, reason in results.skipped.items()]
    lines += [f"Failed: {line}" for line in results.failures]
    return "\n".join(lines)
