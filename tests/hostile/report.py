"""What is demanded of a victim under attack, and the table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from tests.hostile.measure import Measured

SPEED: Final = 0.70
"""Honest speed, of what the control leaves."""
ECHO_MS: Final = 5.0
"""Median echo. Where the control itself takes longer than this, the machine is busy: half as much again."""
NEWCOMER_S: Final = 1.0
RSS_MB: Final = 150.0
BACK: Final = 1.20
"""Memory after half a minute, of that at the start."""
TCP_MB: Final = 150.0
"""What an attack may put into the queues of the victim's sockets. The kernel needs more for it."""
OWNER_S: Final = 3.0
"""The owner's `p2pfwd ls`."""

BUSY_CORES: Final = 0.3
"""What others may take of the processors; with more, a verdict on times says little."""

NOISE: Final = 0.35
"""A stranger's share of the processors does not take more from the honest than down to this."""

TIMES: Final = frozenset({"speed", "echo", "newcomer", "owner"})
"""The demands that a busy machine fails by itself."""

OK: Final = "ok"


def speed(m: Measured) -> bool:
    return m.speed_of_control >= SPEED


def echo(m: Measured) -> bool:
    limit_ms = max(ECHO_MS, 1.5 * max(m.burned.get("p50_ms", 0.0), m.before.get("p50_ms", 0.0)))
    return bool(m.during) and m.during["p50_ms"] <= limit_ms


def newcomer(m: Measured) -> bool:
    return bool(m.newcomers_s) and all(s is not None and s <= NEWCOMER_S for s in m.newcomers_s)


def memory(m: Measured) -> bool:
    return m.peak_mb <= RSS_MB


def back(m: Measured) -> bool:
    return m.after_mb is not None and m.after_mb <= BACK * m.start_mb


def kernel(m: Measured) -> bool:
    return m.tcp_mb <= TCP_MB


def owner(m: Measured) -> bool:
    return m.owner_s is not None and m.owner_s <= OWNER_S


def alive(m: Measured) -> bool:
    return not m.died


MUSTS: Final[dict[str, Callable[[Measured], bool]]] = {
    "speed": speed,
    "echo": echo,
    "newcomer": newcomer,
    "memory": memory,
    "back": back,
    "kernel": kernel,
    "owner": owner,
    "alive": alive,
}


def short_of(m: Measured) -> list[str]:
    """The musts that are not met."""
    return [name for name, met in MUSTS.items() if not met(m)]


def is_doubtful(m: Measured) -> bool:
    """Whether it is short of nothing but times, on a machine that others kept busy."""
    short = set(short_of(m)) - {"back"}  # not looked at yet
    by_noise = short <= TIMES and m.speed_of_control >= NOISE
    return bool(short) and by_noise and m.others_cores > BUSY_CORES


def verdict(m: Measured) -> str:
    """`ok`, or what it is short of; what went wrong with the harness goes before both."""
    if m.failed is not None:
        return f"harness: {m.failed}"
    short = short_of(m)
    return f"SHORT: {' '.join(short)}" if short else OK


@dataclass(frozen=True, slots=True)
class Column:
    """A heading and what stands under it."""

    heading: str
    cell: Callable[[Measured], str]


def _arrow(m: Measured, name: str, digits: int = 0) -> str:
    before, during = m.before.get(name), m.during.get(name)
    if before is None or during is None:
        return "-"
    return f"{before:.{digits}f} → {during:.{digits}f}"


def _newcomers(m: Measured) -> str:
    served = [s for s in m.newcomers_s if s is not None]
    worst = f" {max(served):.2f}" if served else ""
    return f"{len(served)}/{len(m.newcomers_s)}{worst}"


def _sent(m: Measured) -> str:
    mb_s = m.sent.get("bytes", 0) / 1e6 / max(0.1, m.seconds)
    return f"{mb_s:.2f}"


def _refused(m: Measured) -> str:
    """The cause that was counted most."""
    if not m.refused:
        return "-"
    cause = max(m.refused, key=lambda one: m.refused[one])
    return f"{cause} {m.refused[cause]}"


def _spinner(m: Measured) -> str:
    """Against the spinner, and how much of a processor the attacker had, and it."""
    of = m.speed_of_spinner
    return "-" if of is None else f"{100 * of:.0f} ({m.attacker_cores:.2f}, {m.spinner_cores:.2f})"


def _memory(m: Measured) -> str:
    after = "-" if m.after_mb is None else f"{m.after_mb:.0f}"
    return f"{m.start_mb:.0f} → {m.peak_mb:.0f} → {after}"


COLUMNS: Final = (
    Column("attack", lambda m: m.kind),
    Column("from", lambda m: m.spread),
    Column("sends MB/s", _sent),
    Column("honest MB/s", lambda m: _arrow(m, "mb_s")),
    Column("% of control", lambda m: f"{100 * m.speed_of_control:.0f}"),
    Column("of spinner", _spinner),
    Column("echo p50 ms", lambda m: _arrow(m, "p50_ms", 1)),
    Column("p99", lambda m: _arrow(m, "p99_ms")),
    Column("newcomer s", _newcomers),
    Column("RSS MB", _memory),
    Column("TCP MB", lambda m: f"{m.tcp_mb:+.0f} ({m.tcp_others_mb:+.0f})"),
    Column("CPU", lambda m: f"{m.victim_cores:.2f}"),
    Column("strangers", lambda m: f"{100 * m.strangers_share:.0f}"),
    Column("refused", _refused),
    Column("log", lambda m: str(m.log_lines)),
    Column("others", lambda m: f"{m.others_cores:.1f}"),
    Column("ls s", lambda m: "-" if m.owner_s is None else f"{m.owner_s:.1f}"),
    Column("verdict", verdict),
)


def aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Columns padded to their widest cell; the last is left as it is."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        yield "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])


def render(results: Sequence[Measured]) -> str:
    """The table, with the count of what is met below."""
    rows = [[column.heading for column in COLUMNS]]
    rows += [[column.cell(m) for column in COLUMNS] for m in results]
    lines = list(aligned(rows))
    good = sum(1 for m in results if verdict(m) == OK)
    lines += [
        "",
        f"{good} of {len(results)} held. Demanded: honest speed at least {100 * SPEED:.0f} % of the "
        f"control's, echo p50 at most {ECHO_MS:g} ms,",
        f"newcomers served within {NEWCOMER_S:g} s, memory at most {RSS_MB:.0f} MB and back within "
        f"{100 * BACK - 100:.0f} % after half a minute,",
        f"the victim's TCP queues at most {TCP_MB:.0f} MB, the owner's `ls` within {OWNER_S:g} s. "
        "Information, not a pass or a failure.",
    ]
    return "\n".join(lines)
