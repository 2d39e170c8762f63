"""Pins the rate of a listen: exact over time, fair, lossless, without a timer where nobody waits."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import StreamReset
from p2pfwd.forwarding.pacing import BURST_S, PacedStream, Pacing
from tests.support.virtual_time import in_virtual_time
from tests.unit.forwarding.fakes import ALICE, BOB

FRAME = 65536


class Inner:
    """The stream below: takes every frame at once, unless it is `full`."""

    def __init__(self, remote_peer: PeerId = ALICE) -> None:
        self.direction, self.protocol, self.remote_peer = "inbound", "/x/a", remote_peer
        self.is_stalled = self.full = False
        self.sent = self.taken = 0
        self.wants = 0
        self.sink: Any = None
        self.reset_with: int | None = None
        self.finished = False

    def set_sink(self, sink: Any, *, tunnel: bool = False) -> None:
        self.sink = sink

    change_sink = set_sink

    def begin_frame(self) -> memoryview | None:
        return None if self.full else memoryview(bytearray(FRAME))

    def end_frame(self, n: int) -> None:
        self.sent += n

    def want_to_send(self) -> None:
        self.wants += 1
        if not self.full:
            asyncio.get_running_loop().call_soon(self.sink.resume_sending)

    def consumed(self, n: int) -> None:
        self.taken += n

    def close_write(self) -> None:
        self.finished = True

    def reset(self, code: int = 0) -> None:
        self.reset_with = code
        if self.sink is not None:
            self.sink.stream_lost(StreamReset("here", by="local"))


class Program:
    """The splice and what is behind it: always has `left` to send, takes everything."""

    def __init__(self, stream: PacedStream, left: int = 1 << 40) -> None:
        self.stream, self.left = stream, left
        self.got = bytearray()
        self.events: list[str] = []
        stream.set_sink(self)  # type: ignore[arg-type]

    def data_received(self, view: memoryview) -> None:
        self.got += view
        self.stream.consumed(len(view))

    def eof_received(self) -> None:
        self.events.append("eof")

    def stream_lost(self, exc: Exception) -> None:
        self.events.append("lost")

    def resume_sending(self) -> bool:
        frame = self.stream.begin_frame()
        if frame is None:
            self.stream.want_to_send()
            return False
        n = min(len(frame), self.left)
        if not n:
            return False
        self.left -= n
        self.stream.end_frame(n)
        self.stream.want_to_send()
        return True


def paced(
    rate: int, per_peer: int = 0, *peers: PeerId
) -> tuple[Pacing, list[tuple[Inner, PacedStream, Program]]]:
    pacing = Pacing(asyncio.get_running_loop())
    pacing.set_rates(rate, per_peer)
    made = []
    for peer in peers or (ALICE,):
        inner = Inner(peer)
        stream = pacing.carry(inner)  # type: ignore[arg-type]
        made.append((inner, stream, Program(stream)))
    return pacing, made


def feed(stream: PacedStream, nbytes: int, seed: int = 0) -> bytes:
    data = (bytes(range(251)) * (nbytes // 251 + 2))[seed : seed + nbytes]
    stream.data_received(memoryview(data))
    return data


@pytest.mark.parametrize("rate", [10, 1_000, 500_000, 10_000_000])
@in_virtual_time
async def test_what_goes_out_keeps_the_rate_over_ten_seconds(rate: int) -> None:
    _, [(inner, stream, program)] = paced(rate)
    program.resume_sending()
    await asyncio.sleep(10)
    assert rate * 10 * 0.95 <= inner.sent <= rate * 10 * 1.05
    stream.reset()


@pytest.mark.parametrize("rate", [10, 1_000, 500_000])
@in_virtual_time
async def test_what_comes_in_keeps_the_rate_and_its_credit_is_withheld(rate: int) -> None:
    _, [(inner, stream, program)] = paced(rate)
    data = feed(stream, 12 * rate)
    assert len(program.got) <= max(1, rate * BURST_S)
    await asyncio.sleep(10)
    assert rate * 10 * 0.95 <= len(program.got) <= rate * 10 * 1.05
    assert inner.taken == len(program.got), "what is held is not acknowledged"
    await asyncio.sleep(3)
    assert bytes(program.got) == data
    stream.reset()


@in_virtual_time
async def test_nothing_is_lost_and_the_end_comes_behind_everything() -> None:
    pacing, [(_, stream, program)] = paced(1000)
    data = feed(stream, 700) + feed(stream, 1800, seed=3)
    stream.eof_received()
    assert program.events == []
    await asyncio.sleep(3)
    assert bytes(program.got) == data and program.events == ["eof"]
    assert pacing._timer is None, "nobody waits"


@in_virtual_time
async def test_below_the_rate_nothing_waits_and_there_is_no_timer() -> None:
    pacing, [(inner, stream, program)] = paced(1_000_000)
    program.left = 500
    program.resume_sending()
    feed(stream, 500)
    assert inner.sent == 500 and len(program.got) == 500
    assert pacing._timer is None
    await asyncio.sleep(1)


@in_virtual_time
async def test_streams_of_one_listen_share_its_rate_evenly() -> None:
    _, made = paced(400_000, 0, ALICE, ALICE, BOB, BOB)
    for _, _, program in made:
        program.resume_sending()
    await asyncio.sleep(10)
    sent = [inner.sent for inner, _, _ in made]
    assert 4_000_000 * 0.95 <= sum(sent) <= 4_000_000 * 1.05
    assert max(sent) < min(sent) * 1.1, sent
    for _, stream, _ in made:
        stream.reset()


@in_virtual_time
async def test_a_peers_rate_holds_for_its_streams_together_and_for_nobody_else() -> None:
    _, made = paced(0, 100_000, ALICE, ALICE, BOB)
    for _, stream, program in made:
        program.resume_sending()
        feed(stream, 900_000)
    await asyncio.sleep(10)
    sent = [inner.sent for inner, _, _ in made]
    assert 950_000 <= sent[0] + sent[1] <= 1_050_000
    assert 950_000 <= sent[2] <= 1_050_000
    for _, stream, _ in made:
        stream.reset()


@in_virtual_time
async def test_what_one_peer_does_not_use_is_for_the_others() -> None:
    """Alice has her own bound far below the listen's: Bob gets the rest."""
    _, made = paced(1_000_000, 900_000, ALICE, BOB)
    made[0][2].left = 50_000
    for _, _, program in made:
        program.resume_sending()
    await asyncio.sleep(10)
    assert made[0][0].sent == 50_000
    assert 8_500_000 <= made[1][0].sent <= 9_450_000
    for _, stream, _ in made:
        stream.reset()


@in_virtual_time
async def test_a_reset_is_at_once_and_leaves_no_timer() -> None:
    pacing, [(inner, stream, program)] = paced(1000)
    program.resume_sending()
    feed(stream, 5000)
    stream.reset(7)
    assert inner.reset_with == 7 and program.events == ["lost"]
    assert len(program.got) == 200, "what was held is given up"
    assert pacing._timer is None


@in_virtual_time
async def test_what_came_before_a_peers_reset_goes_on_first() -> None:
    """A Kubo may reset where its FIN should be: the reply is whole before it."""
    pacing, [(_, stream, program)] = paced(1000)
    data = feed(stream, 5000)
    stream.stream_lost(StreamReset("by the peer", by="remote"))
    assert bytes(program.got) == data and program.events == ["lost"]
    assert pacing._timer is None


@in_virtual_time
async def test_a_stream_without_room_waits_for_its_room_and_not_for_the_rate() -> None:
    pacing, [(inner, stream, program)] = paced(1_000_000)
    inner.full = True
    program.resume_sending()
    assert inner.wants == 1 and pacing._timer is None
    inner.full = False
    stream.resume_sending()
    assert inner.sent > 0
    stream.reset()


@in_virtual_time
async def test_other_rates_hold_from_now_on() -> None:
    pacing, [(inner, stream, program)] = paced(1000)
    program.resume_sending()
    await asyncio.sleep(10)
    before = inner.sent
    pacing.set_rates(100_000, 0)
    await asyncio.sleep(10)
    assert 950_000 <= inner.sent - before <= 1_050_000
    feed(stream, 90_000)
    program.left = 500_000
    pacing.set_rates(0, 0)
    await asyncio.sleep(0.1)
    assert len(program.got) == 90_000 and program.left == 0, "the stream's own turns are enough"
    assert pacing._timer is None


@in_virtual_time
async def test_a_live_stream_is_taken_over_without_a_gap() -> None:
    pacing = Pacing(asyncio.get_running_loop())
    pacing.set_rates(1000, 0)
    inner = Inner()

    class Live:
        stream: Any = inner

        def __init__(self) -> None:
            self.got = 0

        def data_received(self, view: memoryview) -> None:
            self.got += len(view)

        def stream_lost(self, exc: Exception) -> None:
            pass

    live = Live()
    pacing.adopt(live, inner)  # type: ignore[arg-type]
    assert inner.sink is live.stream
    pacing.adopt(live, inner)  # type: ignore[arg-type]
    assert inner.sink is live.stream, "once"
    inner.sink.data_received(memoryview(bytes(1000)))
    assert live.got == 200
    await asyncio.sleep(1)
    assert live.got == 1000


def test_security_md_has_the_burst() -> None:
    text = " ".join((Path(__file__).parents[3] / "SECURITY.md").read_text(encoding="utf-8").split())
    assert f"No more than {BURST_S} s of the rate passes at once" in text
