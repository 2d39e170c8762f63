"""policy.port_mapping: what a router is asked next, and when; hours pass as arguments."""

from __future__ import annotations

import random

import pytest

from p2pfwd.policy.port_mapping import (
    AGAIN_MOST_S,
    AGAIN_S,
    CHECK_S,
    HEARD_S,
    HINT_S,
    LEASE_S,
    PATIENCE,
    PORTS,
    RENEW_LEAST_S,
    RETRY_S,
    Grant,
    Phase,
    Plan,
    Protocol,
    Step,
    Task,
    went_back,
    why_useless,
)

PCP, PMP, UPNP = Protocol
WAN = "11.1.0.1"


def plan(*protocols: Protocol) -> Plan:
    return Plan(4011, 0.0, random.Random(1), protocols or tuple(Protocol))


def granted(
    protocol: Protocol = PCP, *, at: float = 0.0, port: int = 4011, lease_s: int = LEASE_S, epoch_s: int = 500
) -> Plan:
    """One that a router has just said yes to."""
    made = plan()
    made.granted(Grant(protocol, WAN, port, lease_s, None if protocol is UPNP else epoch_s), at)
    return made


def map_(at: float, protocol: Protocol, port: int = 4011) -> Step:
    return Step(at, Task.MAP, protocol, port)


def check(at: float, protocol: Protocol, port: int = 4011) -> Step:
    return Step(at, Task.CHECK, protocol, port)


def test_one_protocol_after_the_other_is_asked_for_our_own_port() -> None:
    searching = plan()
    for now, protocol in enumerate(Protocol):
        assert searching.step() == map_(now and float(now), protocol)
        searching.silent(now + 1.0)
    assert searching.phase is Phase.RESTING and searching.grant is None and searching.refusal is None


def test_a_fruitless_search_is_tried_again_ever_more_seldom() -> None:
    searching, now, pauses = plan(PCP), 0.0, []
    for _ in range(9):
        searching.silent(now)
        pauses.append(searching.step().at - now)
        now = searching.step().at
    assert pauses[:3] == [AGAIN_S, 2 * AGAIN_S, 4 * AGAIN_S] and pauses[-1] == AGAIN_MOST_S


@pytest.mark.parametrize(
    ("noes", "told"),
    [((PCP, PMP, UPNP), PMP), ((PCP, UPNP), PCP), ((PMP, UPNP), PMP), ((UPNP,), UPNP)],
)
def test_people_are_told_the_no_that_says_most(noes: tuple[Protocol, ...], told: Protocol) -> None:
    searching = plan()
    for protocol in Protocol:
        if protocol in noes:
            searching.refused(protocol.value, 0.0)
        else:
            searching.silent(0.0)
    assert searching.refusal == (told, told.value)


def test_a_no_is_told_when_all_protocols_have_been_tried() -> None:
    searching = plan()
    searching.silent(0.0)
    searching.refused("it is switched off", 0.0)
    assert searching.phase is Phase.SEARCHING and searching.refusal is None
    searching.refused("something else", 0.0)
    assert searching.phase is Phase.RESTING and searching.refusal == (PMP, "it is switched off")
    searching.granted(Grant(PCP, WAN, 4011, 60), 99.0)
    assert searching.refusal is None


def test_where_the_port_is_taken_some_others_are_tried() -> None:
    searching = plan(UPNP)
    asked = [searching.step().external_port]
    for _ in range(PORTS - 1):
        searching.taken(0.0)
        asked.append(searching.step().external_port)
    assert asked[0] == 4011 and len(set(asked)) == PORTS and all(port >= 10000 for port in asked[1:])
    searching.taken(0.0)
    assert searching.phase is Phase.RESTING and searching.refusal is not None


@pytest.mark.parametrize(
    ("lease_s", "renewed_after_s", "until"),
    [
        pytest.param(7200, 3600, 7200.0, id="as asked"),
        pytest.param(3600, 1800, 3600.0, id="shorter"),
        pytest.param(86400, 3600, 86400.0, id="longer: half of what was asked"),
        pytest.param(1, RENEW_LEAST_S, 1.0, id="no mill"),
        pytest.param(0, 3600, None, id="permanent leases only"),
    ],
)
def test_a_mapping_is_renewed_at_half_its_lease(
    lease_s: int, renewed_after_s: float, until: float | None
) -> None:
    mapped = granted(port=4012, lease_s=lease_s)
    assert mapped.grant is not None and mapped.grant.until == until
    while (step := mapped.step()).task is Task.CHECK:
        mapped.alive(500 + int(step.at), None, step.at)
    assert step == map_(renewed_after_s, PCP, 4012), "the port that the router gave"
    mapped.granted(Grant(PCP, WAN, 4012, lease_s, 500 + int(step.at)), step.at)
    assert mapped.phase is Phase.MAPPED and mapped.step().at > step.at


@pytest.mark.parametrize("protocol", Protocol)
def test_between_renewals_the_router_is_asked_whether_it_is_the_same(protocol: Protocol) -> None:
    mapped = granted(protocol)
    every_s = CHECK_S[protocol]
    assert mapped.step() == check(every_s, protocol)
    mapped.alive(None if protocol is UPNP else 500 + int(every_s), WAN, every_s)
    assert mapped.step() == check(2 * every_s, protocol)


@pytest.mark.parametrize(
    ("epoch_s", "host"),
    [
        pytest.param(3, None, id="its epoch went back"),
        pytest.param(3, WAN, id="its epoch went back, same address"),
        pytest.param(560, "11.1.0.9", id="its address changed"),
        pytest.param(None, "11.1.0.9", id="its address changed, by UPnP"),
    ],
)
def test_a_router_that_is_another_is_asked_for_the_same_mapping_at_once(
    epoch_s: int | None, host: str | None
) -> None:
    mapped = granted(port=4012)
    mapped.alive(epoch_s, host, 60.0)
    assert mapped.step() == map_(60.0, PCP, 4012)


def test_a_mapping_that_the_router_has_lost_is_asked_for_at_once() -> None:
    mapped = granted(UPNP)
    mapped.lost(300.0)
    assert mapped.step() == map_(300.0, UPNP)


def test_a_silent_router_gets_time_then_all_protocols_and_only_then_the_mapping_is_gone() -> None:
    mapped = granted(PMP, port=4012)
    now = mapped.step().at
    for _ in range(PATIENCE - 1):
        mapped.silent(now)
        now += RETRY_S
        assert mapped.step() == check(now, PMP, 4012)
    mapped.silent(now)
    for protocol in (PMP, PCP, UPNP):
        assert mapped.step() == map_(now, protocol, 4012), "what worked last goes first"
        assert mapped.grant is not None, "it may still be there"
        mapped.silent(now)
    assert mapped.phase is Phase.RESTING and mapped.grant is None


def test_a_silence_to_a_renewal_is_asked_about_again() -> None:
    mapped = granted(lease_s=60)
    mapped.lost(10.0)
    mapped.silent(12.0)
    assert mapped.step() == map_(12.0 + RETRY_S, PCP)
    mapped.granted(Grant(PCP, WAN, 4011, 7200, 520), 20.0)
    for number in range(1, PATIENCE):  # counted from the start again
        mapped.silent(20.0 + number)
        assert mapped.phase is Phase.MAPPED


def test_a_refused_renewal_is_a_search_at_once() -> None:
    mapped = granted(PMP, port=4012)
    mapped.refused("it has no room", 3600.0)
    assert mapped.phase is Phase.SEARCHING and mapped.step() == map_(3600.0, PMP, 4012)
    mapped.refused("it has no room", 3600.0)
    assert mapped.step() == map_(3600.0, PCP, 4012)


def test_an_announcement_counts_where_it_says_that_the_router_began_anew() -> None:
    mapped = granted()
    mapped.heard(600, 100.0)
    assert mapped.step() == check(60.0, PCP)
    mapped.heard(1, 101.0)
    assert mapped.step() == map_(101.0, PCP)
    young = granted(epoch_s=1)
    young.heard(0, 1.0)
    assert young.step() == map_(1.0, PCP), "two restarts within seconds"
    by_upnp = granted(UPNP)
    by_upnp.heard(1000, 20.0)
    assert by_upnp.step().task is Task.CHECK, "it has been there since before the mapping"
    by_upnp.heard(3, 20.0)
    assert by_upnp.step() == map_(20.0, UPNP)


def test_an_announcement_ends_a_rest() -> None:
    resting = plan(PCP)
    resting.silent(0.0)
    resting.heard(1, 10.0)
    assert resting.phase is Phase.SEARCHING and resting.step() == map_(10.0, PCP)


def test_forged_news_makes_few_questions() -> None:
    mapped, asked = granted(), 0
    for tenth in range(1000):
        now = tenth / 10
        mapped.heard(0, now)
        mapped.look(now)
        if mapped.step().at <= now:
            asked += 1
            mapped.granted(Grant(PCP, WAN, 4011, 7200, 10_000), now)
    assert asked <= 100 / HEARD_S + 100 / HINT_S + 2


def test_a_hint_makes_the_next_check_come_at_once() -> None:
    mapped = granted(UPNP)
    mapped.look(10.0)
    assert mapped.step() == check(10.0, UPNP)
    searching = plan()
    searching.look(10.0)
    assert searching.step() == map_(0.0, PCP), "it is being asked as it is"


def test_another_network_is_another_router() -> None:
    mapped = granted(UPNP, port=4012)
    mapped.anew(50.0)
    assert mapped.grant is None and mapped.phase is Phase.SEARCHING
    assert mapped.step() == map_(50.0, PCP, 4011)


@pytest.mark.parametrize(
    ("epoch_s", "now", "back"),
    [
        pytest.param(560, 60.0, False, id="as time goes by"),
        pytest.param(551, 60.0, False, id="a slow clock"),
        pytest.param(549, 60.0, True, id="slower than RFC 6886 allows"),
        pytest.param(900, 60.0, False, id="we slept"),
        pytest.param(0, 1.0, True, id="anew"),
        pytest.param(498, 0.0, False, id="seconds are rounded"),
    ],
)
def test_an_epoch_that_went_back(epoch_s: int, now: float, back: bool) -> None:
    assert went_back((500, 0.0), epoch_s, now) is back
    assert not went_back(None, epoch_s, now)


@pytest.mark.parametrize(
    ("host", "observed", "words"),
    [
        pytest.param("11.1.0.1", (), None, id="nobody has seen us yet"),
        pytest.param("11.1.0.1", ("11.2.0.1", "11.1.0.1"), None, id="seen there"),
        pytest.param("10.8.0.2", ("11.1.0.1",), "its own address there is 10.8.0.2", id="RFC 1918"),
        pytest.param("100.64.3.4", (), "its own address there is 100.64.3.4", id="carrier-grade NAT"),
        pytest.param("169.254.1.1", (), "its own address there is 169.254.1.1", id="link-local"),
        pytest.param("192.0.2.1", (), "its own address there is 192.0.2.1", id="nobody's"),
        pytest.param("0.0.0.0", (), "the router has no address on the Internet", id="offline"),
        pytest.param("11.1.0.1", ("11.9.0.1",), "it says 11.1.0.1, and peers see 11.9.0.1", id="elsewhere"),
    ],
)
def test_a_useless_mapping_is_known_by_its_address(
    host: str, observed: tuple[str, ...], words: str | None
) -> None:
    said = why_useless(host, observed)
    assert said == words if words is None else said is not None and words in said
