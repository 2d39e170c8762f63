"""The words for how a node gets into its network: what was tried, why it failed, and the cure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pytest

from p2pfwd.daemon.bootstrap_report import FOR_A_HUB, NONE_CONFIGURED, BootstrapReport
from p2pfwd.policy.bootstrap import Outcome

P, A, N, S, R = Outcome.PENDING, Outcome.ANSWERS, Outcome.NO_NAME, Outcome.SILENT, Outcome.REFUSES
U = Outcome.UNDIALABLE


def report(
    names: Sequence[Outcome] = (),
    addresses: Sequence[Outcome] = (),
    *,
    state: Literal["joined", "searching", "alone"] = "alone",
    remembered: tuple[int, int] = (0, 0),
    near_tried: int = 0,
    is_hub: bool = False,
) -> BootstrapReport:
    """`remembered`: how many, and how many of them were tried."""
    return BootstrapReport(state, 12, tuple(names), tuple(addresses), *remembered, near_tried, is_hub)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            report([N, N], [S] * 4),
            "none of the 6 bootstrap peers answers (2 names, 4 addresses): "
            "2 names cannot be looked up, 4 do not answer",
        ),
        (
            report([N, S], [R]),
            "none of the 3 bootstrap peers answers (2 names, 1 address): "
            "1 name cannot be looked up, 1 does not answer, 1 answers and cannot be spoken to",
        ),
        (report([], [S]), "the bootstrap peer does not answer (1 address): 1 does not answer"),
        (
            report([P], [S], state="searching"),
            "none of the 2 bootstrap peers has answered yet (1 name, 1 address): 1 does not answer",
        ),
        (report([], [A, S]), "1 bootstrap peer of 2 answers, and none serves this network's DHT"),
        (report(), "there are no bootstrap peers"),
        (
            report(is_hub=True, remembered=(2, 2)),
            "this node is a bootstrap peer itself, and nobody else of the network is here; "
            "none of 2 peers that served the DHT before answers",
        ),
        (report([], [S], is_hub=True), "the bootstrap peer does not answer (1 address): 1 does not answer"),
        (
            report([], [S, S], remembered=(12, 12)),
            "none of the 2 bootstrap peers answers (2 addresses): 2 do not answer; "
            "none of 12 peers that served the DHT before answers",
        ),
        (
            report(state="searching", remembered=(12, 4), near_tried=2),
            "there are no bootstrap peers; 4 of 12 peers that served the DHT before tried so far, in vain; "
            "2 peers on the local network cannot help",
        ),
        (
            report(remembered=(1, 1)),
            "there are no bootstrap peers; the one peer that served the DHT before does not answer",
        ),
        (report([A], state="joined", remembered=(3, 3)), "in the network, with 12 nodes of the DHT known"),
    ],
)
def test_what_is_said(made: BootstrapReport, message: str) -> None:
    assert made.message == message


@pytest.mark.parametrize(
    ("made", "cures"),
    [
        (report([N], [S]), ["check the name", "is this machine's network up"]),
        (report([], [R]), ["are they in this network"]),
        (report([], [U]), ["name addresses for TCP"]),
        (report(), [NONE_CONFIGURED]),
        (report(is_hub=True), [FOR_A_HUB]),
        (report([A], is_hub=True), [NONE_CONFIGURED]),
        (report([A]), [NONE_CONFIGURED]),
        (report([A], state="joined"), []),
    ],
)
def test_the_cure_fits_what_failed(made: BootstrapReport, cures: list[str]) -> None:
    found = made.hint.split("; ") if made.hint else []
    assert len(found) == len(cures)
    assert all(one.startswith(start) for one, start in zip(found, cures, strict=True))
