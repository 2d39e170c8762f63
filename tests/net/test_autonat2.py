"""AutoNAT v2 between hosts on loopback, which counts as public here: tests, refusals, lies of both sides."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr
from p2pfwd.errors import StreamReset
from p2pfwd.host.host import Host
from p2pfwd.net.link.stream import Stream
from p2pfwd.net.services import Service
from p2pfwd.policy.service_bounds import DIAL_BACK
from p2pfwd.protocols.autonat.service import AutoNat, AutoNatSettings
from p2pfwd.protocols.autonat.v2 import BUSY_S, Outcome, SecondClient
from p2pfwd.wire import autonat as v1
from p2pfwd.wire import autonat2 as wire
from p2pfwd.wire.autonat2 import DataRequest, DialStatus, Request, Response, Status
from p2pfwd.wire.reachability import Reachability
from tests.net.swarm_rig import host, stranger
from tests.support.loops import on_loop, turns, until

QUICK = AutoNatSettings(ask_again_s=0.05, refresh_s=0.05)
ELSEWHERE = Multiaddr.parse("/ip4/127.0.0.9/tcp/9")

pytestmark = pytest.mark.usefixtures("public_loopback")


@pytest.fixture
def public_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback addresses are public to AutoNAT."""
    for module in (v1, wire):
        monkeypatch.setattr(module, "address_class", lambda _addr: AddressClass.PUBLIC)


@asynccontextmanager
async def asking() -> AsyncIterator[tuple[Host, AutoNat]]:
    """A host that wants to know."""
    async with host() as made:
        client = AutoNat(made.swarm, QUICK)
        client.start()
        try:
            yield made, client
        finally:
            await client.close()


@asynccontextmanager
async def serving() -> AsyncIterator[Host]:
    """A host that dials back."""
    async with host() as made:
        AutoNat(made.swarm).serve(True)
        yield made


async def join(near: Host, far: Host) -> None:
    conn = await near.swarm.connect(far.peer_id, far.swarm.listen_addrs())
    await conn.identified


async def ask(near: Host, far: Host, request: Request) -> Response:
    stream = await near.swarm.open_stream(far.peer_id, [wire.REQUEST])
    await stream.write_delimited(wire.encode_request(request))
    answer = wire.decode_answer(await stream.read_delimited(wire.MAX_MESSAGE_BYTES))
    await stream.close()
    assert isinstance(answer, Response)
    return answer


@on_loop
async def test_an_address_that_works_is_proved_and_leaves_no_connection() -> None:
    async with serving() as far, asking() as (near, client):
        await join(near, far)
        await until(lambda: client.reachability is Reachability.PUBLIC)
        own = near.swarm.own_addresses
        assert own.proofs.addresses() == (near.swarm.listen_addrs()[0],)
        await until(lambda: len(near.swarm.conns(far.peer_id)) == 1)


@on_loop
async def test_two_failures_refute_an_address_and_one_does_not() -> None:
    async with serving() as far, asking() as (near, client):
        near.swarm._listening.pop().close()  # a port that nobody answers any more
        tests = note_tests(client)
        await join(near, far)
        await until(lambda: client.reachability is Reachability.PRIVATE)
        assert tests[:2] == [Outcome.FAILED] * 2, "the only server there is asked twice"


@on_loop
async def test_a_place_that_the_router_maps_now_is_tested_anew_at_once() -> None:
    """It was refuted a moment ago, and would have been left alone for an hour."""
    async with serving() as far, asking() as (near, client):
        at = near.swarm._listening[0].addr
        near.swarm._listening.pop().close()
        await join(near, far)
        await until(lambda: client.reachability is Reachability.PRIVATE)
        client._settings = AutoNatSettings(ask_again_s=3600.0, refresh_s=3600.0)
        for candidate in client._candidates.values():
            candidate.ready = {far.peer_id: time.monotonic() + 3600.0}
        await near.swarm.listen(at)
        await turns()
        assert client.reachability is Reachability.PRIVATE
        near.swarm.own_addresses.set_mapped([at])
        await until(lambda: client.reachability is Reachability.PUBLIC)


@on_loop
async def test_a_node_with_v2_servers_asks_no_v1_server() -> None:
    async with serving() as far, host() as old, asking() as (near, client):
        asked = []

        async def lie(stream: Stream) -> None:
            asked.append(stream)
            stream.reset()

        old.swarm.services.serve(Service(name=v1.PROTOCOL, handler=lie))
        await join(near, far)
        await join(near, old)
        await until(lambda: client.reachability is Reachability.PUBLIC)
        assert not asked


def note_tests(client: AutoNat) -> list[Outcome]:
    outcomes: list[Outcome] = []
    test = client._second.test

    async def noted(*args: object) -> object:
        tested = await test(*args)  # type: ignore[arg-type]
        outcomes.append(tested.outcome)
        return tested

    client._second.test = noted  # type: ignore[method-assign, assignment]
    return outcomes


@on_loop
async def test_the_server_tests_the_first_address_of_the_asker_and_nobody_elses() -> None:
    async with serving() as far, host() as near:
        await join(near, far)
        (mine,) = near.swarm.listen_addrs()
        answer = await ask(near, far, Request((ELSEWHERE, mine, mine), 7))
        assert answer == Response(Status.OK, 1, DialStatus.BACK_ERROR), "nobody takes the number here"
        assert await ask(near, far, Request((ELSEWHERE,), 7)) == Response(Status.REFUSED)
        closed = Multiaddr.parse("/ip4/127.0.0.1/tcp/1")
        answer = await ask(near, far, Request((closed, mine), 7))
        assert answer == Response(Status.OK, 0, DialStatus.DIAL_ERROR)


@on_loop
async def test_both_versions_share_the_budget_of_dials() -> None:
    async with serving() as far, host() as near:
        await join(near, far)
        mine = tuple(near.swarm.listen_addrs())
        for _ in range(3):
            await ask(near, far, Request(mine, 7))
        message = v1.encode_request(v1.DialRequest(near.peer_id, mine))
        answers = []
        for _ in range(3):
            stream = await near.swarm.open_stream(far.peer_id, [v1.PROTOCOL])
            await stream.write_delimited(message)
            answers.append(v1.decode_answer(await stream.read_delimited(v1.MAX_MESSAGE_BYTES)).status)
            await stream.close()
        assert answers == [v1.Status.OK] * 2 + [v1.Status.DIAL_REFUSED]
        assert await ask(near, far, Request(mine, 7)) == Response(Status.REJECTED)


@on_loop
async def test_a_hostile_request_or_dial_back_ends_its_stream_and_nothing_else() -> None:
    async with serving() as far, asking() as (near, _client):
        await join(near, far)
        for message in (b"\xff" * 20, b"", bytes(wire.MAX_MESSAGE_BYTES + 1)):
            stream = await near.swarm.open_stream(far.peer_id, [wire.REQUEST])
            await stream.write_delimited(message)
            with pytest.raises(StreamReset):
                await stream.read()
        for message in (b"\xff" * 20, wire.encode_back(7), bytes(wire.MAX_BACK_BYTES + 1)):
            stream = await far.swarm.open_stream(near.peer_id, [wire.BACK])
            await stream.write_delimited(message)
            with pytest.raises(StreamReset):
                await stream.read()
        await near.ping(far.peer_id)


class Server:
    """A server of the test's own; `script(request, stream)` says what it does before its answer."""

    def __init__(self, far: Host, script: Callable[[Request, Stream], object], answer: Response) -> None:
        self.data_bytes = 0
        self.far = far
        self._script = script
        self._answer = answer
        far.swarm.services.serve(Service(name=wire.REQUEST, handler=self.serve))

    async def serve(self, stream: Stream) -> None:
        request = wire.decode_request(await stream.read_delimited(wire.MAX_MESSAGE_BYTES))
        work = self._script(request, stream)
        if asyncio.iscoroutine(work):
            await work
        await stream.write_delimited(wire.encode_response(self._answer))
        await stream.close()

    async def ask_for_data(self, stream: Stream, nbytes: int) -> None:
        await stream.write_delimited(wire.encode_data_request(DataRequest(0, nbytes)))
        while self.data_bytes < nbytes:
            message = await stream.read_delimited(wire.CHUNK_BYTES)
            self.data_bytes += len(message) - 6

    async def deliver(self, near: Host, nonce: int) -> None:
        """Over a new connection, as it should be."""
        conn = await self.far.swarm.dial_afresh(near.peer_id, near.swarm.listen_addrs()[0])
        stream = await conn.open_stream([wire.BACK])
        await stream.write_delimited(wire.encode_back(nonce))
        await stream.read_delimited(wire.MAX_BACK_BYTES)
        await conn.close()


async def outcome_of(near: Host, far: Host, addr: Multiaddr | None = None) -> Outcome:
    client = SecondClient(near.swarm)
    near.swarm.services.serve(Service(name=wire.BACK, talk=client.serve_back, bounds=DIAL_BACK))
    await join(near, far)
    (mine,) = near.swarm.listen_addrs()
    result = await client.test(near.swarm.conns(far.peer_id)[0], addr or mine, (addr or mine).__eq__)
    return result.outcome


WORKED = Response(Status.OK, 0, DialStatus.OK)


@on_loop
async def test_who_says_that_it_worked_without_the_number_proves_nothing() -> None:
    async with host() as far, host() as near:
        Server(far, lambda _request, _stream: None, WORKED)
        assert await outcome_of(near, far) is Outcome.NO_EVIDENCE


@pytest.mark.parametrize("dial", [DialStatus.OK, DialStatus.BACK_ERROR, DialStatus.DIAL_ERROR])
@on_loop
async def test_the_number_over_a_new_connection_is_the_proof_whatever_is_said(dial: DialStatus) -> None:
    async with host() as far, host() as near:
        answer = Response(Status.OK, 0, dial)
        server = Server(far, lambda request, _: server.deliver(near, request.nonce), answer)
        assert await outcome_of(near, far) is Outcome.WORKED


@on_loop
async def test_the_number_over_an_old_connection_or_at_another_address_is_no_proof() -> None:
    async with host() as far, host() as near:

        async def over_the_old_one(request: Request, stream: Stream) -> None:
            back = await far.swarm.open_stream(near.peer_id, [wire.BACK])
            await back.write_delimited(wire.encode_back(request.nonce))
            with pytest.raises(StreamReset):
                await back.read()

        Server(far, over_the_old_one, WORKED)
        assert await outcome_of(near, far) is Outcome.NO_EVIDENCE
    async with host() as far, host() as near:

        async def elsewhere(request: Request, _stream: Stream) -> None:
            with pytest.raises(StreamReset):
                await server.deliver(near, request.nonce)

        server = Server(far, elsewhere, WORKED)
        assert await outcome_of(near, far, ELSEWHERE) is Outcome.NO_EVIDENCE


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Response(Status.OK, 0, DialStatus.DIAL_ERROR), Outcome.FAILED),
        (Response(Status.OK, 1, DialStatus.DIAL_ERROR), Outcome.NO_EVIDENCE),
        (Response(Status.OK, 0, DialStatus.BACK_ERROR), Outcome.NO_EVIDENCE),
        (Response(Status.OK), Outcome.NO_EVIDENCE),
        (Response(Status.REFUSED), Outcome.NO_EVIDENCE),
        (Response(Status.REJECTED), Outcome.NO_EVIDENCE),
        (Response(Status.INTERNAL_ERROR), Outcome.NO_EVIDENCE),
    ],
)
@on_loop
async def test_only_a_dial_that_failed_is_evidence_against_an_address(
    answer: Response, outcome: Outcome
) -> None:
    async with host() as far, host() as near:
        Server(far, lambda _request, _stream: None, answer)
        assert await outcome_of(near, far) is outcome


@on_loop
async def test_a_server_that_asks_for_data_gets_it_and_one_that_asks_for_too_much_a_reset() -> None:
    async with host() as far, host() as near:
        server = Server(far, lambda _, stream: server.ask_for_data(stream, 100_000), WORKED)
        await outcome_of(near, far)
        assert server.data_bytes >= 100_000
    async with host() as far, host() as near:
        greedy = Server(far, lambda _, stream: greedy.ask_for_data(stream, wire.MAX_DATA_BYTES + 1), WORKED)
        assert await outcome_of(near, far) is Outcome.NO_EVIDENCE
        assert greedy.data_bytes == 0


@on_loop
async def test_a_server_that_does_not_answer_is_silent_until_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("p2pfwd.protocols.autonat.v2.ANSWER_S", 0.05)
    async with host() as far, host() as near:
        Server(far, lambda _request, _stream: asyncio.sleep(0.2), WORKED)
        client = SecondClient(near.swarm)
        await join(near, far)
        (conn,), (mine,) = near.swarm.conns(far.peer_id), near.swarm.listen_addrs()
        assert not client.is_silent(conn)
        assert (await client.test(conn, mine, mine.__eq__)).outcome is Outcome.SILENT
        assert client.is_silent(conn)
        monkeypatch.setattr("p2pfwd.protocols.autonat.v2.ANSWER_S", 10.0)
        assert (await client.test(conn, mine, mine.__eq__)).outcome is Outcome.NO_EVIDENCE
        assert not client.is_silent(conn)


@on_loop
async def test_servers_that_say_nothing_are_not_asked_one_after_the_other() -> None:
    async with host() as near, host() as one, host() as two, host() as three:
        asked: list[Request] = []
        for far in (one, two, three):
            Server(far, lambda request, _: asked.append(request), Response(Status.REFUSED))
        client = AutoNat(near.swarm)
        for far in (one, two, three):
            await join(near, far)
        client.start()
        await until(lambda: len(asked) == 2)
        await turns(200)
        assert len(asked) == 2 and client.reachability is Reachability.UNKNOWN
        await client.close()


@pytest.mark.parametrize(
    ("how", "within_s"), [("rejected", BUSY_S), ("reset", BUSY_S), ("lost", 0.0), ("refused", None)]
)
@on_loop
async def test_who_moves_often_need_not_wait_for_the_servers(how: str, within_s: float | None) -> None:
    """They have dialed enough for now, and say so or reset the stream; or the old network took them along."""
    status = {"rejected": Status.REJECTED, "refused": Status.REFUSED}.get(how, Status.OK)
    async with host() as far, host() as near:

        def act(_request: Request, stream: Stream) -> None:
            if how == "reset":
                stream.reset()
            elif how == "lost":
                stream.conn.abort()

        Server(far, act, Response(status))
        client = AutoNat(near.swarm)
        tests = note_tests(client)
        await join(near, far)
        client.start()
        await until(lambda: bool(tests))
        (candidate,) = client._candidates.values()
        await until(lambda: candidate.unanswered == 1)
        wait_s = candidate.ready.get(far.peer_id, 0.0) - time.monotonic()
        assert wait_s <= within_s if within_s is not None else wait_s > BUSY_S
        await client.close()


@on_loop
async def test_nobody_is_dialed_on_behalf_of_another_peer() -> None:
    async with serving() as far, host() as near:
        await join(near, far)
        (mine,) = near.swarm.listen_addrs()
        answer = await ask(near, far, Request((mine.with_peer_id(stranger()),), 7))
        assert answer == Response(Status.REFUSED)
