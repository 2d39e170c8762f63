"""What the figures are held against: each goal a comparison inside one run, with a must and an aim.

The verdict is information. A figure depends on the machine and on what else runs on it; what may fail a
build are tests, not this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.bench.floor import CIPHERS
from tests.bench.results import Results, Spread

Part = tuple[str, str]
"""Tunnel and figure."""


@dataclass(frozen=True, slots=True)
class Goal:
    """`formula` over `parts`, repeat by repeat; `unit` "x" is a ratio.

    With `since` it is that to the same of an earlier run: how a ratio has changed, machine for machine.
    """

    label: str
    against: str
    parts: Sequence[Part]
    formula: Callable[..., float]
    more_is_better: bool
    must: float | None = None
    aim: float | None = None
    unit: str = "x"
    since: bool = False

    def value(self, results: Results, earlier: Results | None = None) -> Spread | None:
        """None where a part was not measured, or there is no `earlier` run that is asked for."""
        value = results.combined(self.parts, self.formula)
        if not self.since:
            return value
        before = earlier.combined(self.parts, self.formula) if earlier is not None else None
        return value.over(before.median) if value is not None and before is not None else None

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


def half_a_thousandth(a: float) -> float:
    return a / 2e3


def millionth(a: float) -> float:
    return a / 1e6


def cpu_parts(ours: str, theirs: str) -> list[Part]:
    """The arguments of `mean_quotient`."""
    return [(tunnel, f"{way}_cpu") for tunnel in (ours, theirs) for way in ("up", "down")]


def _cpu(label: str, ours: str, theirs: str, must: float | None = None, aim: float | None = None) -> Goal:
    return Goal(label, theirs, cpu_parts(ours, theirs), mean_quotient, False, must, aim)


def floor_parts(way: str, cipher: str) -> list[Part]:
    """A floor: the arguments of `over_floor` after the first. `cipher` is one of `floor.CIPHERS`."""
    return [("relay", f"{way}_cpu"), ("aead", f"{cipher}_seal"), ("aead", f"{cipher}_open")]


def over_floor(cpu: float, relays: float, seal: float, opened: float) -> float:
    """Both daemons against two plain relays, one sealing and one opening."""
    return cpu / (relays + seal + opened)


def _floor(way: str) -> Sequence[Goal]:
    def one(tunnel: str, cipher: str, must: float | None, aim: float, note: str = "") -> Goal:
        parts = [(tunnel, f"{way}_cpu"), *floor_parts(way, cipher)]
        against = f"{CIPHERS[cipher][0]} floor"
        return Goal(f"CPU per GB, {way}{note}", against, parts, over_floor, False, must, aim)

    return [
        one("p2pfwd-noise", "aes", 1.6, 1.4),
        one("p2pfwd-no-aes", "chacha", None, 1.3, ", a side without AES"),
    ]


def _since(
    label: str, ours: str, name: str, more: bool, must: float | None = None, aim: float | None = None
) -> Goal:
    parts = [(ours, name), ("relay", name)]
    return Goal(label, "that run, both to relay", parts, quotient, more, must, aim, since=True)


def _cpu_since(label: str, ours: str, must: float | None = None) -> Goal:
    parts = cpu_parts(ours, "relay")
    return Goal(label, "that run, both to relay", parts, mean_quotient, False, must, since=True)


def _many(way: str) -> Sequence[Goal]:
    ours = "p2pfwd-noise"
    total, one = (ours, f"many_{way}"), (ours, f"many_{way}_one")
    even, echo = (ours, f"many_{way}_even"), (ours, f"many_{way}_echo_p99")
    label = f"20 streams {way}"
    return [
        Goal(f"{label}, total", "one stream", [total, one], quotient, True, 0.9, 1.0),
        Goal(f"{label}, slowest", "fastest", [even], itself, True, 0.5, 0.7),
        Goal(f"{label}, echo p99", "", [echo], thousandth, False, 20, 10, unit="ms"),
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


def _line(way: str) -> Sequence[Goal]:
    label, name = f"60 ms line, 512 MiB {way}", f"long_{way}_512"
    return [
        _compared(label, name, "long-p2pfwd", "long-ssh", True, 6, 10),
        _compared(label, name, "long-p2pfwd", "long-kubo", True),
    ]


GOALS: Sequence[Goal] = [
    _compared("bulk up, noise", "up", "p2pfwd-noise", "kubo-noise", True, 2.0, 2.5),
    _compared("bulk down, noise", "down", "p2pfwd-noise", "kubo-noise", True, 2.0, 2.5),
    _compared("bulk up, noise", "up", "p2pfwd-noise", "ssh-gcm", True, 1.25, 1.5),
    _compared("bulk down, noise", "down", "p2pfwd-noise", "ssh-gcm", True, 1.25, 1.5),
    _cpu("CPU per GB, noise", "p2pfwd-noise", "kubo-noise", 0.5, 0.42),
    _cpu("CPU per GB, noise", "p2pfwd-noise", "ssh-gcm", 0.75, 0.65),
    *_floor("up"),
    *_floor("down"),
    _compared("round trip p50", "rtt_p50", "p2pfwd-noise", "ssh", False, 1.0, 0.8),
    _compared("round trip p50", "rtt_p50", "p2pfwd-noise", "kubo-noise", False, 0.9, 0.6),
    _compared("open + 1 byte p50", "open_p50", "p2pfwd-noise", "kubo-noise", False, 0.9, 0.6),
    _compared("p2pfwd to Kubo, open + 1 byte p50", "open_p50", "p2pfwd-kubo", "kubo-noise", False, 1.5, 1.1),
    _compared("Kubo to p2pfwd, open + 1 byte p50", "open_p50", "kubo-p2pfwd", "kubo-noise", False),
    _compared("400 opens at once, last", "burst_max", "p2pfwd-noise", "kubo-noise", False),
    *_many("down"),
    *_many("up"),
    *_line("up"),
    *_line("down"),
    Goal(
        "idle memory of a daemon (RSS)", "", [("p2pfwd-noise", "idle_rss")], millionth, False, 45, 40,
        unit="MB",
    ),
    _compared("idle memory of a daemon (RSS)", "idle_rss", "p2pfwd-noise", "kubo-noise", False),
    Goal(
        "idle memory of a daemon (RSS)", "kubo-noise less its Python host",
        [("p2pfwd-noise", "idle_rss"), ("kubo-noise", "idle_rss_own")], quotient, False,
    ),
    Goal(
        "an idle stream, of 2,000, in a daemon", "", [("p2pfwd-noise", "per_stream")], half_a_thousandth,
        False, 4, unit="KB",
    ),
    _compared("an idle stream, of 2,000", "per_stream", "p2pfwd-noise", "kubo-noise", False),
    Goal(
        "a connected peer, of 1,000", "", [("p2pfwd-crowd", "peers_1000_each")], thousandth, False, 20,
        unit="KB",
    ),
    Goal(
        "p2pfwd ls", "python -c pass", [("p2pfwd-noise", "ls"), ("p2pfwd-noise", "python")], quotient, False,
        4, 3.5,
    ),
    *_relayed("up"),
    *_relayed("down"),
    _compared("bulk up, tls", "up", "p2pfwd-tls", "kubo-tls", True),
    _compared("bulk down, tls", "down", "p2pfwd-tls", "kubo-tls", True),
    _cpu("CPU per GB, tls", "p2pfwd-tls", "kubo-tls"),
    _compared("bulk up", "up", "p2pfwd-noise", "ssh", True),
    _compared("bulk down", "down", "p2pfwd-noise", "ssh", True),
    _compared("p2pfwd to Kubo, bulk up", "up", "p2pfwd-kubo", "kubo-noise", True),
    _compared("p2pfwd to Kubo, bulk down", "down", "p2pfwd-kubo", "kubo-noise", True),
    _compared("Kubo to p2pfwd, bulk up", "up", "kubo-p2pfwd", "kubo-noise", True),
    _compared("Kubo to p2pfwd, bulk down", "down", "kubo-p2pfwd", "kubo-noise", True),
    _since("bulk up, noise", "p2pfwd-noise", "up", True),
    _since("bulk down, noise", "p2pfwd-noise", "down", True),
    _cpu_since("CPU per GB, noise", "p2pfwd-noise"),
    _since("bulk up, a side without AES", "p2pfwd-no-aes", "up", True, 1.0),
    _since("bulk down, a side without AES", "p2pfwd-no-aes", "down", True, 1.0),
    _cpu_since("CPU per GB, a side without AES", "p2pfwd-no-aes", 1.0),
    _since("round trip p50", "p2pfwd-noise", "rtt_p50", False, 1.0, 0.9),
    _since("open + 1 byte p50", "p2pfwd-noise", "open_p50", False, 0.85, 0.7),
]  # fmt: skip
