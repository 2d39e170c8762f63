"""Pins how a forward learns why its peer resets streams, and what takes that back again."""

from __future__ import annotations

import asyncio
import logging

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.errors import ProtocolNotSupported, StreamReset
from p2pfwd.forwarding import probe
from p2pfwd.forwarding.service import Forwarding
from tests.unit.forwarding.conftest import MakeForwarding
from tests.unit.forwarding.fakes import (
    ALICE,
    FakeAcceptor,
    FakeHost,
    FakeSocket,
    FakeSplice,
    FakeStream,
    turns,
)

LOCAL = Multiaddr.parse("/ip4/127.0.0.1/tcp/0")
DEAD = "the peer serves the protocol, but its service does not answer"


def state(service: Forwarding) -> tuple[str, str | None]:
    info = service.listeners()[0]
    return info.state, info.reason


def answering(text: bytes) -> FakeStream:
    """The stream of a probe on which the peer says `text`."""
    stream = FakeStream(ALICE, probe.PREFIX + "/x/a")
    stream.incoming.put_nowait(text)
    return stream


async def connected(host: FakeHost) -> None:
    """One client, with its stream."""
    FakeAcceptor.made[-1].accepted(FakeSocket())
    await turns()


def test_a_peer_that_resets_is_asked_why_and_only_an_answer_takes_it_back(
    forwarding: MakeForwarding,
    host: FakeHost,
    splices: list[FakeSplice],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        service = forwarding()
        await service.forward("/x/a", LOCAL, ALICE)
        await connected(host)
        asked = answering(b"target-refused")
        host.swarm.answers = [asked]
        splices[0].end(StreamReset("reset", by="remote"))
        await turns()
        assert host.swarm.asked[-1] == (ALICE, (probe.PREFIX + "/x/a",)), "its service is left alone"
        assert asked.resets == 1, "nothing is left open"
        assert state(service) == ("target-refused", DEAD)
        await connected(host)
        assert state(service)[0] == "target-refused", "an accepted stream alone proves nothing"
        splices[1].end(StreamReset("reset", by="remote"))
        await turns()
        assert state(service)[0] == "target-refused"
        assert len(host.swarm.asked) == 3, "asked once in a while, not for every client"
        await connected(host)
        splices[2].bytes_in = 5
        assert state(service) == ("ready", None)
        await service.aclose()

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert [r.getMessage() for r in caplog.records] == [
        "forward 1 /x/a: the peer took the stream and reset it before any answer",
        f"forward 1 /x/a: {DEAD}",
    ]


def test_what_the_peer_says_of_its_reset_is_told(
    forwarding: MakeForwarding, host: FakeHost, splices: list[FakeSplice]
) -> None:
    # A go-libp2p at a limit of its own: 200 tunnels at once are too many for its defaults.
    async def main() -> None:
        service = forwarding()
        await service.forward("/x/a", LOCAL, ALICE)
        await connected(host)
        host.swarm.answers = [ProtocolNotSupported("no probes")]
        splices[0].end(StreamReset("reset", by="remote", reset_code=0x1002))
        await turns()
        code, said = state(service)
        assert code == "stream-reset" and said is not None
        assert said.endswith("reset it before any answer: it is at a limit of its own (code 0x1002)")
        await service.aclose()

    asyncio.run(main())


def test_a_reset_while_the_stream_is_opened_is_asked_about_too(
    forwarding: MakeForwarding, host: FakeHost, splices: list[FakeSplice]
) -> None:
    # The first stream to a peer: its refusal comes before the negotiation is over here.
    async def main() -> None:
        service = forwarding()
        await service.forward("/x/a", LOCAL, ALICE)
        host.swarm.answers = [StreamReset("reset", by="remote"), answering(b"target-timeout")]
        await connected(host)
        await turns()
        assert state(service) == ("target-timeout", f"{DEAD} in time")
        await service.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("answer", [ProtocolNotSupported("no probes"), answering(b"ready")])
def test_a_peer_that_does_not_say_why_leaves_what_was_seen(
    forwarding: MakeForwarding, host: FakeHost, splices: list[FakeSplice], answer: object
) -> None:
    # A Kubo, or a service that accepts and then resets.
    async def main() -> None:
        service = forwarding()
        await service.forward("/x/a", LOCAL, ALICE)
        await connected(host)
        host.swarm.answers = [answer]
        splices[0].end(StreamReset("reset", by="remote"))
        await turns()
        assert state(service)[0] == "stream-reset"
        await service.aclose()

    asyncio.run(main())


def test_an_answer_on_another_stream_beats_the_news_of_the_probe(
    forwarding: MakeForwarding, host: FakeHost, splices: list[FakeSplice]
) -> None:
    async def main() -> None:
        service = forwarding()
        await service.forward("/x/a", LOCAL, ALICE)
        await connected(host)
        late: asyncio.Future[FakeStream] = asyncio.get_running_loop().create_future()
        host.swarm.answers = [late]
        splices[0].end(StreamReset("reset", by="remote"))
        await turns()
        await connected(host)
        splices[1].bytes_in = 5
        assert state(service)[0] == "ready"
        late.set_result(answering(b"target-refused"))
        await turns()
        assert state(service)[0] == "ready"
        await service.aclose()

    asyncio.run(main())


def test_closing_the_forward_ends_the_question(
    forwarding: MakeForwarding, host: FakeHost, splices: list[FakeSplice]
) -> None:
    async def main() -> None:
        service = forwarding()
        await service.forward("/x/a", LOCAL, ALICE)
        await connected(host)
        host.swarm.answers = [asyncio.get_running_loop().create_future()]
        splices[0].end(StreamReset("reset", by="remote"))
        await turns()
        await service.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_streams_that_were_there_say_nothing_against_a_check(
    forwarding: MakeForwarding, host: FakeHost, splices: list[FakeSplice]
) -> None:
    async def main() -> None:
        service = forwarding()
        listener = await service.forward("/x/a", LOCAL, ALICE)
        await connected(host)
        splices[0].bytes_in = 5
        host.swarm.answers = [answering(b"target-refused")]
        assert not (await service.check(listener.id, timeout_s=5)).ok
        assert state(service)[0] == "target-refused", "the old stream's service may have died since"
        await service.aclose()

    asyncio.run(main())
