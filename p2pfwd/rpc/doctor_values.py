"""The RPC's values of `doctor`: every check once, each a line with its result and the cure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from p2pfwd.rpc.values import Message

FindingState = Literal["good", "bad", "note", "left out"]
"""`note`: it is as it is, and no fault. `left out`: it has no meaning here."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DoctorParams(Message):
    """Parameters of `doctor`."""

    peer: str | None = None  # also the way to this one: as PEER of other methods
    timeout_s: float = 30.0  # for what is tried with the peer


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Finding(Message):
    """What one check has found."""

    check: str  # its name, one word or two
    state: FindingState
    text: str
    hint: str | None = None  # the cure


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DoctorResult(Message):
    """Result of `doctor`."""

    findings: tuple[Finding, ...]
    reachable: bool  # whether a stranger could get a tunnel, or, with a peer, whether this one can be reached
    verdict: str  # the same in words
