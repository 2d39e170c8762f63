"""What the figures are held against: each goal a comparison inside one run, with a must and an aim.

The verdict is information. A figure depends on the machine and on what else runs on it; what may fail a
build are tests, not this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.bench.results import Results, Spread

Part = tuple[str, str]
"""Tunnel and figure."""


@dataclass(frozen=True, slots=True)
class Goal:
    """`formula` over `parts`, repeat by repeat; `unit` "x" is a ratio."""

    label: str
    against: str
    parts: Sequence[Part]
    formula: Callable[..., float]
    more_is_better: bool
    must: float | None = None
    aim: float | None = None
    unit: str = "x"

    def value(self, results: Results) -> Spread | None:
        return results.combined(self.parts, self.formula)

    def verdict(self, value: Spread) -> str:
        """ "aim", "must", "short" by the median; "" where nothing is asked."""
        sign = 1 if self.more_is_better else -1
        for name, bound in (("aim", self.aim), ("must", self.must)):
            if bound is not None and sign * value.median >= sign * bound:
                return name
        return "short" if self.must is not None else "over" if self.aim is not None else ""


def quotient(a: float, b: float) -> float:
    return a / b


def itself(a: float) -> float:
    return a


def thousandth(a: float) -> float:
    return a / 1e3


def _compared(
    label: str, name: str, ours: str, theirs: str, more: bool,
    must: float | None = None, aim: float | None = None,
) -> Goal:  # fmt: skip
    return Goal(label, theirs, [(ours, name), (theirs, name)], quotient, more, must, aim)


def mean_quotient(a: float, b: float, c: float, d: float) -> float:
    return (a + b) / (c + d)


def of_half(a: float, b: float) -> float:
    return a / (b / 2)


def _cpu(label: str, ours: str, theirs: str, must: float | None = None, aim: float | None = None) -> Goal:
    parts = [(ours, "up_cpu"), (ours, "down_cpu"), (theirs, "up_cpu"), (theirs, "down_cpu")]
    return Goal(label, theirs, parts, mean_quotient, False, must, aim)


def floor_parts(way: str) -> list[Part]:
    """What the floor is made of: the arguments of `over_floor` after the first."""
    return [("relay", f"{way}_cpu"), ("aead", "aead_seal"), ("aead", "aead_open")]


def over_floor(cpu: float, relays: float, seal: float, opened: float) -> float:
    """Both daemons against two plain relays, one sealing and one opening."""
    return cpu / (relays + seal + opened)


def _floor(way: str) -> Goal:
    parts = [("p2pfwd-noise", f"{way}_cpu"), *floor_parts(way)]
    return Goal(f"CPU per GB, {way}", "floor", parts, over_floor, False, None, 1.3)


def _many(way: str) -> Sequence[Goal]:
    ours = "p2pfwd-noise"
    total, one = (ours, f"many_{way}"), (ours, f"many_{way}_one")
    even, echo = (ours, f"many_{way}_even"), (ours, f"many_{way}_echo_p99")
    label = f"20 streams {way}"
    return [
        Goal(f"{label}, total", "one stream", [total, one], quotient, True, 0.9),
        Goal(f"{label}, slowest", "fastest", [even], itself, True, 0.5),
        Goal(f"{label}, echo p99", "", [echo], thousandth, False, 50, unit="ms"),
    ]


def _relayed(way: str) -> Sequence[Goal]:
    ours, pair = "p2pfwd-relayed", "p2pfwd-noise"
    even, echo = (ours, f"circuits_{way}_even"), (ours, f"circuits_{way}_echo_p99")
    relay, both = (ours, f"{way}_relay_cpu"), (pair, f"{way}_cpu")
    return [
        Goal(f"relayed, bulk {way}", pair, [(ours, way), (pair, way)], quotient, True, 0.45),
        Goal(f"relay's CPU per GB, {way}", "a daemon of that", [relay, both], of_half, False, 1.2),
        Goal(f"relay's CPU per GB, {way}", "an end of it", [relay, (ours, f"{way}_cpu")], of_half, False),
        Goal(f"8 circuits {way}, slowest", "fastest", [even], itself, True, 0.5),
        Goal(f"8 circuits {way}, echo p99", "", [echo], thousandth, False, 50, unit="ms"),
    ]


GOALS: Sequence[Goal] = [
    _compared("bulk up, noise", "up", "p2pfwd-noise", "kubo-noise", True, 1.3, 1.7),
    _compared("bulk down, noise", "down", "p2pfwd-noise", "kubo-noise", True, 1.3, 1.7),
    _cpu("CPU per GB, noise", "p2pfwd-noise", "kubo-noise", 0.75, 0.6),
    _floor("up"),
    _floor("down"),
    _compared("round trip p50", "rtt_p50", "p2pfwd-noise", "kubo-noise", False, 0.9, 0.6),
    _compared("open + 1 byte p50", "open_p50", "p2pfwd-noise", "kubo-noise", False, 0.9, 0.6),
    _compared("400 opens at once, last", "burst_max", "p2pfwd-noise", "kubo-noise", False),
    _compared("idle memory (RSS)", "idle_rss", "p2pfwd-noise", "kubo-noise", False, 0.6, 0.5),
    Goal(
        "idle memory (RSS)", "kubo-noise less its Python host",
        [("p2pfwd-noise", "idle_rss"), ("kubo-noise", "idle_rss_own")], quotient, False,
    ),
    *_many("down"),
    *_many("up"),
    *_relayed("up"),
    *_relayed("down"),
    Goal(
        "2,000 idle streams, each", "", [("p2pfwd-noise", "per_stream")], thousandth, False, 40, 20,
        unit="KB",
    ),
    _compared("2,000 idle streams, each", "per_stream", "p2pfwd-noise", "kubo-noise", False),
    _compared("bulk up, tls", "up", "p2pfwd-tls", "kubo-tls", True),
    _compared("bulk down, tls", "down", "p2pfwd-tls", "kubo-tls", True),
    _cpu("CPU per GB, tls", "p2pfwd-tls", "kubo-tls"),
    _compared("bulk up", "up", "p2pfwd-noise", "ssh", True),
    _compared("bulk down", "down", "p2pfwd-noise", "ssh", True),
    _compared("round trip p50", "rtt_p50", "p2pfwd-noise", "ssh", False),
    _compared("p2pfwd to Kubo, bulk up", "up", "p2pfwd-kubo", "kubo-noise", True),
    _compared("p2pfwd to Kubo, bulk down", "down", "p2pfwd-kubo", "kubo-noise", True),
    _compared("Kubo to p2pfwd, bulk up", "up", "kubo-p2pfwd", "kubo-noise", True),
    _compared("Kubo to p2pfwd, bulk down", "down", "kubo-p2pfwd", "kubo-noise", True),
    Goal(
        "p2pfwd ls", "python -c pass", [("p2pfwd-noise", "ls"), ("p2pfwd-noise", "python")], quotient, False,
        4,
    ),
]  # fmt: skip
