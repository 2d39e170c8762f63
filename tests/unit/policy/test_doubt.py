"""policy.doubt: fine, doubtful, dead; when the peer is asked, and when to look again."""

from __future__ import annotations

from typing import Any

import pytest

from p2pfwd.policy.doubt import (
    ASKED_S,
    BUSY_IDLE_S,
    CHALLENGE_S,
    CHALLENGED_S,
    DOUBT_S,
    IDLE_S,
    LOOK_BUSY_S,
    LOOK_IDLE_S,
    LOOK_WAITING_S,
    PONG_S,
    STALL_S,
    Line,
    Standing,
    is_suspect,
    judge,
    next_look_s,
    wants_ping,
)

FINE, DOUBTFUL, DEAD = Standing.FINE, Standing.DOUBTFUL, Standing.DEAD


def line(**known: Any) -> Line:
    """A LAN's line with streams, unless it is said otherwise."""
    known.setdefault("silent_s", known.get("waiting_s") or 0.0)
    return Line(**{"rtt_s": 0.01, "streams": True, **known})


@pytest.mark.parametrize(
    ("state", "standing"),
    [
        pytest.param(line(), FINE, id="it speaks"),
        pytest.param(line(silent_s=3600), FINE, id="silent, and nothing waits"),
        pytest.param(line(waiting_s=DOUBT_S - 0.1), FINE, id="a segment or two may be lost"),
        pytest.param(line(waiting_s=DOUBT_S), DOUBTFUL, id="it waits for too long"),
        pytest.param(
            line(waiting_s=34, streams=False), DOUBTFUL, id="alone it stays, however long TCP needs"
        ),
        pytest.param(line(waiting_s=7.9, rtt_s=2.0), FINE, id="a line of 2 s has time"),
        pytest.param(line(waiting_s=8.0, rtt_s=2.0), DOUBTFUL, id="but not for ever"),
        pytest.param(line(waiting_s=0.9, rtt_s=None), FINE, id="a round trip that is not known"),
        # no answer to a ping
        pytest.param(line(silent_s=4, pinged_s=4), FINE, id="a busy process may be slow"),
        pytest.param(
            line(silent_s=6, pinged_s=ASKED_S), DOUBTFUL, id="its kernel lives, its process is silent"
        ),
        pytest.param(line(silent_s=1, pinged_s=30), FINE, id="it speaks, and does not answer pings"),
        pytest.param(line(silent_s=IDLE_S + PONG_S, pinged_s=PONG_S + 1), DOUBTFUL, id="just not dead"),
        pytest.param(line(silent_s=IDLE_S + PONG_S + 0.1, pinged_s=PONG_S + 0.1), DEAD, id="nobody is there"),
        pytest.param(line(silent_s=60, pinged_s=1), FINE, id="long silent, asked only now"),
        # the socket
        pytest.param(line(stalled_s=STALL_S + 0.1), DEAD, id="it takes no byte"),
        pytest.param(line(stalled_s=STALL_S), FINE, id="it may yet"),
        # another connection beside it
        pytest.param(line(waiting_s=2, replaced_s=0.5), DOUBTFUL, id="replaced: streams wait for TCP"),
        pytest.param(line(waiting_s=2, replaced_s=0, streams=False), DEAD, id="replaced, nothing on it"),
        pytest.param(
            line(waiting_s=21, replaced_s=1), DOUBTFUL, id="after a cut of 20 s TCP may need 20 more"
        ),
        pytest.param(line(waiting_s=34, replaced_s=14), DOUBTFUL, id="still"),
        pytest.param(line(waiting_s=4.2, replaced_s=2.7), DEAD, id="TCP has sent again by now, in vain"),
        pytest.param(
            line(waiting_s=1.5, replaced_s=1.5, stuck_s=6), DOUBTFUL, id="stuck before it was asked"
        ),
        pytest.param(line(waiting_s=4.2, replaced_s=2.7, waited_s=5), DOUBTFUL, id="the cut was longer"),
        pytest.param(line(waiting_s=0.5, replaced_s=3), FINE, id="it was heard meanwhile"),
        pytest.param(
            line(silent_s=9, pinged_s=8, replaced_s=7), DOUBTFUL, id="a slow process keeps its streams"
        ),
        pytest.param(line(waiting_s=1, replaced_s=0, address_gone=True), DEAD, id="and from an address gone"),
        # another network
        pytest.param(line(waiting_s=CHALLENGED_S - 0.1, challenged=True), FINE, id="asked, in time"),
        pytest.param(line(waiting_s=CHALLENGED_S, challenged=True), DOUBTFUL, id="asked, late"),
        pytest.param(line(waiting_s=5.9, challenged=True, rtt_s=2.0), FINE, id="asked on a line of 2 s"),
        pytest.param(
            line(waiting_s=0, challenged=True, address_gone=True), DOUBTFUL, id="our address is gone"
        ),
        pytest.param(
            line(waiting_s=0, challenged=True, address_gone=True, streams=False), DEAD, id="nothing is on it"
        ),
        pytest.param(
            line(silent_s=6, waiting_s=6, pinged_s=CHALLENGE_S + 0.1, challenged=True, streams=False),
            DEAD,
            id="idle and not there",
        ),
        pytest.param(
            line(silent_s=6, waiting_s=6, pinged_s=5.1, challenged=True, streams=False, rtt_s=2.0),
            DOUBTFUL,
            id="idle on a bad line: not yet",
        ),
    ],
)
def test_how_it_stands(state: Line, standing: Standing) -> None:
    assert judge(state) is standing


@pytest.mark.parametrize("rtt_s", [0.001, 0.05, 0.3, 2.0])
def test_a_dead_peer_is_noticed_within_10_seconds_while_something_waits(rtt_s: float) -> None:
    assert judge(line(waiting_s=9.0, rtt_s=rtt_s)) is DOUBTFUL


@pytest.mark.parametrize(
    ("state", "wanted"),
    [
        pytest.param(line(silent_s=4), False, id="just heard"),
        pytest.param(line(silent_s=BUSY_IDLE_S + 1, spoke_s=6), True, id="an answer may be on its way"),
        pytest.param(line(silent_s=BUSY_IDLE_S + 1, spoke_s=61), False, id="streams, idle for long"),
        pytest.param(line(silent_s=6, spoke_s=6, streams=False), False, id="no streams"),
        pytest.param(line(silent_s=IDLE_S + 1, streams=False), True, id="idle"),
        pytest.param(line(silent_s=IDLE_S + 1, pinged_s=1), False, id="one is out"),
        pytest.param(line(waiting_s=0.6), False, id="the kernel tells more than a ping behind lost data"),
        pytest.param(line(waiting_s=0.6, kernel_tells=False), True, id="it does not tell"),
        pytest.param(line(waiting_s=0.4, kernel_tells=False), False, id="too early"),
    ],
)
def test_when_the_peer_is_asked(state: Line, wanted: bool) -> None:
    assert wants_ping(state) is wanted


@pytest.mark.parametrize(
    ("state", "look_s"),
    [
        (line(streams=False), LOOK_IDLE_S),
        (line(), LOOK_BUSY_S),
        (line(spoke_s=5), BUSY_IDLE_S),
        (line(spoke_s=5, silent_s=0.4), BUSY_IDLE_S - 0.4),
        (line(spoke_s=5, silent_s=0.9), LOOK_WAITING_S),
        (line(spoke_s=61, silent_s=0.4), LOOK_BUSY_S),
        (line(waiting_s=0.1), LOOK_WAITING_S),
        (line(pinged_s=0.1, streams=False), LOOK_WAITING_S),
    ],
)
def test_when_to_look_again(state: Line, look_s: float) -> None:
    assert next_look_s(state) == look_s


@pytest.mark.parametrize(
    ("state", "suspect"),
    [
        (line(), False),
        (line(waiting_s=CHALLENGED_S - 0.1), False),
        (line(waiting_s=CHALLENGED_S), True),
        (line(waiting_s=0.8, rtt_s=0.3), False),
        (line(waiting_s=0.9, rtt_s=0.3), True),
    ],
)
def test_when_others_are_asked_too(state: Line, suspect: bool) -> None:
    assert is_suspect(state) is suspect


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        (Line(silent_s=60.0), True),
        (Line(silent_s=60.0, urgent=False), False),
        (Line(silent_s=121.0, urgent=False), True),
        (Line(silent_s=60.0, urgent=False, streams=True), True),
    ],
)
def test_a_peer_nobody_would_wait_for_is_asked_seldom(line: Line, asked: bool) -> None:
    """Keepalive was most of what an idle node sent."""
    assert wants_ping(line) is asked
