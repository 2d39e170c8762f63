"""Local connections whose peer is away: they wait, try again when there is reason to, and end in time."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.errors import (
    ConnectionLost,
    DialFailed,
    NoDirectPath,
    P2PForwardError,
    PeerBlocked,
    PeerIdMismatch,
    PeerNotFound,
    ProtocolNotSupported,
    TimedOut,
)
from p2pfwd.forwarding import forward, opening
from p2pfwd.forwarding.service import Forwarding
from p2pfwd.forwarding.values import CloseMatch
from p2pfwd.system.sock_diag import SockDiag
from tests.support.virtual_time import in_virtual_time
from tests.unit.forwarding.conftest import MakeForwarding
from tests.unit.forwarding.fakes import (
    ALICE,
    FakeAcceptor,
    FakeConn,
    FakeHost,
    FakeSocket,
    FakeSplice,
    FakeStream,
    turns,
)

LOCAL = Multiaddr.parse("/ip4/127.0.0.1/tcp/0")
AWAY = DialFailed("cannot reach it: refused")


@pytest.fixture(autouse=True)
def gone(monkeypatch: pytest.MonkeyPatch) -> set[FakeSocket]:
    """The sockets whose programs have gone."""
    found: set[FakeSocket] = set()
    monkeypatch.setattr(SockDiag, "has_gone", lambda _self, sock: sock in found)
    return found


async def opened(made: Forwarding) -> FakeAcceptor:
    await made.forward("/x/a", LOCAL, ALICE)
    return FakeAcceptor.made[-1]


def always(host: FakeHost, error: P2PForwardError) -> None:
    """The peer answers so, as often as it is tried."""
    host.swarm.answers = [error] * 1000


def info(made: Forwarding) -> tuple[str, str | None, int]:
    (found,) = made.listeners()
    return found.state, found.reason, found.waiting


@in_virtual_time
async def test_it_waits_and_goes_through_when_the_peer_is_back(
    forwarding: MakeForwarding, host: FakeHost, splices: list[FakeSplice]
) -> None:
    made = forwarding(wait_s=10.0)
    acceptor, sock = await opened(made), FakeSocket()
    always(host, AWAY)
    acceptor.accepted(sock)
    await asyncio.sleep(5)
    assert not sock.closed and info(made) == ("peer-unreachable", AWAY.message, 1)
    host.swarm.answers = []
    await asyncio.sleep(opening.MOST_S)
    assert [splice.sock for splice in splices] == [sock] and info(made) == ("ready", None, 0)
    await made.aclose()


@in_virtual_time
async def test_the_end_is_a_reset_with_the_reason_and_few_tries(
    forwarding: MakeForwarding, host: FakeHost
) -> None:
    made = forwarding(wait_s=10.0)
    acceptor, sock = await opened(made), FakeSocket()
    always(host, AWAY)
    acceptor.accepted(sock)
    await asyncio.sleep(9.9)
    assert not sock.closed
    await asyncio.sleep(0.2)
    assert sock.was_reset and info(made) == ("peer-unreachable", AWAY.message, 0)
    assert len(host.swarm.asked) == 9  # at 0, 0.25, 0.75, 1.75, 3.75, 5.75, 7.75, 9.75 and 10 s
    await asyncio.sleep(60)
    assert len(host.swarm.asked) == 9
    await made.aclose()


@pytest.mark.parametrize("news", ["network", "peer"])
def test_news_are_a_reason_to_try_at_once(
    forwarding: MakeForwarding, host: FakeHost, splices: list[FakeSplice], news: str
) -> None:
    @in_virtual_time
    async def main() -> None:
        made = forwarding(wait_s=600.0)
        acceptor = await opened(made)
        always(host, AWAY)
        acceptor.accepted(FakeSocket())
        acceptor.accepted(FakeSocket())
        await asyncio.sleep(60.1)
        host.swarm.answers = []
        if news == "network":
            host.network.changed()
        else:
            host.swarm.connected[-1](FakeConn(ALICE))
        await turns()
        assert len(splices) == 2
        await made.aclose()

    main()


@in_virtual_time
async def test_a_try_that_is_under_way_at_the_end_goes_on(
    forwarding: MakeForwarding, host: FakeHost, splices: list[FakeSplice]
) -> None:
    made = forwarding(wait_s=1.0)
    acceptor = await opened(made)
    slow: asyncio.Future[FakeStream] = asyncio.get_running_loop().create_future()
    host.swarm.answers = [slow]
    acceptor.accepted(FakeSocket())
    await asyncio.sleep(20)
    assert splices == []
    slow.set_result(FakeStream(ALICE, "/x/a"))
    await turns()
    assert len(splices) == 1
    await made.aclose()


@pytest.mark.parametrize("wait_s", [0.0, 10.0])
@pytest.mark.parametrize(
    ("error", "waits"),
    [
        (DialFailed("refused"), True),
        (PeerNotFound("no address"), True),
        (ConnectionLost("lost"), True),
        (TimedOut("no answer"), True),
        (PeerIdMismatch("another node"), False),
        (PeerBlocked("blocked"), False),
        (NoDirectPath("only a relay"), False),
        (ProtocolNotSupported("na"), False),
    ],
)
def test_what_is_worth_waiting_for(
    forwarding: MakeForwarding, host: FakeHost, error: P2PForwardError, waits: bool, wait_s: float
) -> None:
    @in_virtual_time
    async def main() -> None:
        made = forwarding(wait_s=wait_s)
        acceptor, sock = await opened(made), FakeSocket()
        always(host, error)
        acceptor.accepted(sock)
        await turns()
        assert sock.was_reset is not (waits and wait_s > 0)
        await made.aclose()

    main()


@pytest.mark.parametrize(
    ("agent", "age_s", "waits"),
    [
        ("p2pfwd/1.0", 1.0, True),
        ("p2pfwd/1.0", forward.COMING_BACK_S + 1, False),
        ("kubo/0.22.0/", 1.0, False),
        (None, 1.0, False),
    ],
)
def test_a_p2pfwd_that_has_just_come_back_may_make_its_listens_again(
    forwarding: MakeForwarding, host: FakeHost, agent: str | None, age_s: float, waits: bool
) -> None:
    @in_virtual_time
    async def main() -> None:
        made = forwarding(wait_s=10.0)
        acceptor, sock = await opened(made), FakeSocket()
        conn: Any = SimpleNamespace(opened_at=time.monotonic() - age_s)
        host.swarm.live[ALICE] = [conn]
        if agent is not None:
            host.swarm.peerstore.agents[ALICE] = agent
        always(host, ProtocolNotSupported("na"))
        acceptor.accepted(sock)
        await asyncio.sleep(0.1)
        assert sock.was_reset is not waits
        conn.opened_at -= forward.COMING_BACK_S
        await asyncio.sleep(3)
        assert sock.was_reset
        assert info(made)[0] == "protocol-not-supported"
        await made.aclose()

    main()


@in_virtual_time
async def test_a_program_that_gives_up_frees_its_place_while_waiting_and_while_a_try_is_under_way(
    forwarding: MakeForwarding, host: FakeHost, gone: set[FakeSocket]
) -> None:
    made = forwarding(wait_s=600.0, max_pending_opens=2)
    acceptor = await opened(made)
    waiting, trying = FakeSocket(), FakeSocket()
    host.swarm.answers = [AWAY, asyncio.get_running_loop().create_future(), *[AWAY] * 1000]
    acceptor.accepted(waiting)
    acceptor.accepted(trying)
    await asyncio.sleep(30)
    assert acceptor.paused
    gone.add(waiting)
    await asyncio.sleep(opening.LOOK_S + 0.1)
    assert waiting.closed and not trying.closed and not acceptor.paused and info(made)[2] == 0
    gone.add(trying)
    await asyncio.sleep(opening.LOOK_S + 0.1)
    assert trying.closed
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await made.aclose()


@in_virtual_time
async def test_close_ends_those_that_wait(forwarding: MakeForwarding, host: FakeHost) -> None:
    made = forwarding(wait_s=600.0)
    acceptor, sock = await opened(made), FakeSocket()
    always(host, AWAY)
    acceptor.accepted(sock)
    await asyncio.sleep(30)
    made.close(CloseMatch(all=True))
    assert sock.was_reset
    await made.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@in_virtual_time
async def test_one_line_in_the_log_says_that_it_failed_not_one_a_try(
    forwarding: MakeForwarding, host: FakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    made = forwarding(wait_s=5.0)
    acceptor = await opened(made)
    always(host, AWAY)
    acceptor.accepted(FakeSocket())
    await asyncio.sleep(30)
    await made.aclose()
    assert [it.getMessage() for it in caplog.records] == [f"forward 1 /x/a: {AWAY.message}"]
