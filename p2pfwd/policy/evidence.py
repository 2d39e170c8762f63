"""What dial-backs say of our addresses, and so of the node: a pure policy.

A server that we have dialed from the listening port proves little: some routers let in whatever was sent to,
from any port of it (address-restricted filtering). Its success counts where the address is bound here, so
that no router translates it, or where it is known whom the router lets in (`Filtering`).

| dial-backs to an address | finding |
| --- | --- |
| one worked, from a host never dialed from that port | proved |
| one worked, and the address is bound here | proved |
| one worked, and the router lets in everybody | proved |
| one worked, and the router lets in answers alone | proved: the port is forwarded |
| one worked, and the router lets in whoever was dialed | refuted: strangers are not let in |
| one worked, and it is not known whom the router lets in | doubtful |
| two in a row failed | refuted |
| else | open |

| the node | reachability |
| --- | --- |
| an address is proved | public |
| every destination sees another port of ours, and no public address is bound | private |
| there are addresses, and all of them are refuted | private |
| else | unknown |
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum, auto
from typing import Final

from p2pfwd.policy.nat_kind import NatKind
from p2pfwd.wire.reachability import Reachability

FAILURES: Final = 2
"""One server may have a bad line."""


class Filtering(Enum):
    """Whom the router lets in at a port from which somebody was dialed."""

    UNKNOWN = auto()
    EVERYBODY = auto()
    BY_ADDRESS = auto()
    """Whatever was dialed, from any port of it."""
    BY_PORT = auto()
    """Answers alone."""


class Finding(Enum):
    """Of one address."""

    OPEN = auto()
    DOUBTFUL = auto()
    PROVED = auto()
    REFUTED = auto()


class Evidence:
    """Of one address: what dial-backs to it came to."""

    def __init__(self) -> None:
        self._worked = False
        self._worked_afresh = False
        self._failures = 0

    def worked(self, *, afresh: bool) -> None:
        """A dial-back worked; `afresh`: from a host that we never dialed from the port it came to."""
        self._worked = True
        self._worked_afresh |= afresh
        self._failures = 0

    def failed(self) -> None:
        """A server could not connect."""
        self._failures += 1
        if self._failures >= FAILURES:
            self._worked = self._worked_afresh = False

    def finding(self, filtering: Filtering, *, is_bound: bool) -> Finding:
        """What is known of the address; `is_bound`: to an interface of this machine."""
        if self._worked_afresh or (self._worked and is_bound):
            return Finding.PROVED
        if self._worked:
            return _OF_FILTERING[filtering]
        return Finding.REFUTED if self._failures >= FAILURES else Finding.OPEN


_OF_FILTERING: Final = {
    Filtering.EVERYBODY: Finding.PROVED,
    Filtering.BY_PORT: Finding.PROVED,
    Filtering.BY_ADDRESS: Finding.REFUTED,
    Filtering.UNKNOWN: Finding.DOUBTFUL,
}


def reachability(findings: Collection[Finding], nat: NatKind, *, has_public: bool) -> Reachability:
    """Of the node; `has_public`: whether a public address is bound here."""
    if Finding.PROVED in findings:
        return Reachability.PUBLIC
    if nat.is_per_destination and not has_public:
        return Reachability.PRIVATE
    if findings and all(finding is Finding.REFUTED for finding in findings):
        return Reachability.PRIVATE
    return Reachability.UNKNOWN
