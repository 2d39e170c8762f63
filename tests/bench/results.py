"""What was measured: figures by tunnel and repeat, and the arithmetic on them.

A figure is a named number of one tunnel in one repeat. Ratios are taken repeat by repeat, between
measurements made next to each other, and then summed up: that takes slow drift of the machine out.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and greatest of some values."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """None of no values."""
        known = list(values)
        return cls(statistics.median(known), min(known), max(known)) if known else None

    def over(self, base: float) -> Spread:
        """As a ratio to `base`."""
        return Spread(self.median / base, self.least / base, self.greatest / base)


@dataclass(slots=True)
class Results:
    """All figures of a run; `figures[tunnel][name][repeat]`."""

    figures: dict[str, dict[str, dict[int, float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(dict))
    )
    skipped: dict[str, str] = field(default_factory=dict)
    """Tunnel → why it was not measured."""
    ciphers: dict[str, str] = field(default_factory=dict)
    """Tunnel → what seals its bytes, of those that tell."""
    failures: list[str] = field(default_factory=list)
    """Measurements that did not come to their end."""
    others_cores: list[float] = field(default_factory=list)
    """Per measurement: processors' worth of work by processes that are not ours."""
    about: dict[str, Any] = field(default_factory=dict)
    """The machine, versions, sizes."""

    def add(self, tunnel: str, repeat: int, figures: dict[str, float]) -> None:
        """Record figures of one measurement."""
        for name, value in figures.items():
            self.figures[tunnel][name][repeat] = value

    def has(self, tunnel: str) -> bool:
        return tunnel in self.figures

    def values(self, tunnel: str, name: str) -> dict[int, float]:
        """Repeat → value; empty where it was not measured."""
        return self.figures[tunnel][name] if name in self.figures.get(tunnel, {}) else {}

    def spread(self, tunnel: str, name: str) -> Spread | None:
        return Spread.of(self.values(tunnel, name).values())

    def ratio(self, numerator: tuple[str, str], denominator: tuple[str, str]) -> Spread | None:
        """Spread over the repeats of one (tunnel, figure) divided by another."""
        return self.combined([numerator, denominator], lambda a, b: a / b)

    def combined(
        self, parts: Sequence[tuple[str, str]], formula: Callable[..., float]
    ) -> Spread | None:
        """Spread over the repeats, in which all `parts` were measured, of `formula` on their values."""
        columns = [self.values(*part) for part in parts]
        repeats = [r for r in columns[0] if all(r in column for column in columns)]
        return Spread.of(formula(*(column[r] for column in columns)) for r in repeats)

    def document(self) -> dict[str, Any]:
        """Everything as JSON; the repeats' values in order."""
        return {
            "about": self.about,
            "figures": {
                tunnel: {name: [by_repeat[r] for r in sorted(by_repeat)] for name, by_repeat in named.items()}
                for tunnel, named in self.figures.items()
            },
            "ciphers": self.ciphers,
            "skipped": self.skipped,
            "failures": self.failures,
            "others_cores": [round(value, 2) for value in self.others_cores],
        }

    @classmethod
    def of_document(cls, document: dict[str, Any]) -> Results:
        """What `document` made into JSON, figures and machine alone."""
        results = cls(about=document["about"], ciphers=document.get("ciphers", {}))
        for tunnel, named in document["figures"].items():
            for name, values in named.items():
                for repeat, value in enumerate(values):
                    results.add(tunnel, repeat, {name: value})
        return results
