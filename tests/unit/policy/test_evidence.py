"""The two tables of reachability: what dial-backs say of an address, and addresses of the node."""

from __future__ import annotations

import pytest

from p2pfwd.policy.evidence import Evidence, Filtering, Finding, reachability
from p2pfwd.policy.nat_kind import NatKind
from p2pfwd.wire.reachability import Reachability

ALL = list(Filtering)
FORWARDED = [Filtering.EVERYBODY, Filtering.BY_PORT]
OPEN, DOUBTFUL, PROVED, REFUTED = Finding


@pytest.mark.parametrize(
    ("story", "filtering", "is_bound", "finding"),
    [
        ("", ALL, False, OPEN),
        ("-", ALL, True, OPEN),
        ("--", ALL, True, REFUTED),
        ("---", ALL, False, REFUTED),
        ("+", ALL, False, PROVED),
        ("c", ALL, True, PROVED),
        ("c", FORWARDED, False, PROVED),
        ("c", [Filtering.BY_ADDRESS], False, REFUTED),
        ("cc", [Filtering.UNKNOWN], False, DOUBTFUL),
        ("+-", ALL, False, PROVED),
        ("+--", ALL, False, REFUTED),
        ("+-+-", ALL, False, PROVED),
        ("+--c", [Filtering.UNKNOWN], False, DOUBTFUL),
        ("-+", ALL, False, PROVED),
        ("c-+", ALL, False, PROVED),
    ],
)
def test_what_dial_backs_say_of_an_address(
    story: str, filtering: list[Filtering], is_bound: bool, finding: Finding
) -> None:
    """`-` failed, `+` worked from a host never dialed, `c` from one that was."""
    evidence = Evidence()
    for step in story:
        if step == "-":
            evidence.failed()
        else:
            evidence.worked(afresh=step == "+")
    for each in filtering:
        assert evidence.finding(each, is_bound=is_bound) is finding, each


EASY, HARD, NEXT = NatKind.ENDPOINT_INDEPENDENT, NatKind.SYMMETRIC, NatKind.SEQUENTIAL


@pytest.mark.parametrize(
    ("findings", "nat", "has_public", "said"),
    [
        ([], NatKind.UNKNOWN, False, "unknown"),
        ([], HARD, False, "private"),
        ([OPEN], NEXT, False, "private"),
        ([OPEN], HARD, True, "unknown"),
        ([REFUTED, PROVED], HARD, False, "public"),
        ([REFUTED], EASY, False, "private"),
        ([REFUTED, REFUTED], NatKind.NONE, True, "private"),
        ([REFUTED, OPEN], EASY, False, "unknown"),
        ([REFUTED, DOUBTFUL], EASY, False, "unknown"),
    ],
)
def test_what_addresses_say_of_the_node(
    findings: list[Finding], nat: NatKind, has_public: bool, said: str
) -> None:
    assert reachability(findings, nat, has_public=has_public) is Reachability(said)
