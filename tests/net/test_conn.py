"""Pins a connection between two swarms on real sockets: every way up, whole bytes, ends, fairness."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace

import pytest

from p2pfwd.errors import (
    ConnectionLost,
    LocalProtocolError,
    ProtocolNotSupported,
    RemoteProtocolError,
    StreamReset,
    TimedOut,
)
from p2pfwd.net.link.stream import Stream
from p2pfwd.net.services import Service
from p2pfwd.wire.noise import NOISE
from p2pfwd.wire.tls import TLS
from p2pfwd.wire.yamux import frame as f
from p2pfwd.wire.yamux.frame import INITIAL_WINDOW_BYTES
from tests.net.swarm_rig import ECHO, TAKE, Taken, conn_of, echo, pair, read_all, stream_pair, swarm
from tests.support.loops import on_both_loops, turns, until
from tests.support.raw_peer import RawListener

BULK = random.Random(1).randbytes(3 << 20)


@pytest.mark.parametrize("security", [NOISE, TLS])
@pytest.mark.parametrize("early", [(True, True), (True, False), (False, True), (False, False)])
@on_both_loops
async def test_every_way_up_ends_in_a_connection_that_carries_streams(
    security: str, early: tuple[bool, bool]
) -> None:
    async with (
        swarm(security=(security,), early_muxer=early[0]) as near,
        swarm(early_muxer=early[1]) as far,
    ):
        far.services.serve(Service(name=ECHO, handler=echo))
        await near.connect(far.peer_id, far.listen_addrs())
        stream = await near.open_stream(far.peer_id, [ECHO])
        await stream.write(b"hello")
        stream.close_write()
        assert await read_all(stream) == b"hello"
        (conn,) = near.conns()
        (other,) = far.conns()
        assert conn.security == other.security == security
        assert (conn.direction, other.direction) == ("outbound", "inbound")
        assert conn.remote_peer == far.peer_id and other.remote_peer == near.peer_id
        assert conn.remote_addr == other.local_addr and conn.local_addr == other.remote_addr


@on_both_loops
async def test_without_a_common_security_protocol_the_dial_says_so() -> None:
    async with swarm(security=(TLS,)) as near, swarm(security=(NOISE,)) as far:
        with pytest.raises(Exception, match="no common security protocol"):
            await near.connect(far.peer_id, far.listen_addrs())
        assert near.conns() == far.conns() == []


@pytest.mark.parametrize("security", [NOISE, TLS])
@on_both_loops
async def test_bulk_both_ways_at_once_arrives_whole(security: str) -> None:
    async with stream_pair(security=(security,)) as (near, far):

        async def send(stream: Stream) -> None:
            await stream.write(BULK)
            stream.close_write()

        _, _, at_far, at_near = await asyncio.gather(send(near), send(far), read_all(far), read_all(near))
        assert at_far == BULK and at_near == BULK
        await turns()
        assert conn_of(near).streams == conn_of(far).streams == {}


@on_both_loops
async def test_each_half_closes_alone() -> None:
    async with stream_pair() as (near, far):
        await near.write(b"question")
        near.close_write()
        near.close_write()
        assert await read_all(far) == b"question"
        await far.write(b"answer, long after the question's end")
        far.close_write()
        assert await read_all(near) == b"answer, long after the question's end"
        assert await near.read() == b"", "the end stays the end"


@on_both_loops
async def test_a_write_after_the_half_close_is_an_error_of_ours() -> None:
    async with stream_pair() as (near, far):
        near.close_write()
        with pytest.raises(LocalProtocolError):
            await near.write(b"late")
        await far.write(b"still open this way")
        assert await near.read() == b"still open this way"


@on_both_loops
async def test_a_half_close_under_a_write_that_waits_ends_the_write() -> None:
    async with stream_pair() as (near, _):
        writing = asyncio.ensure_future(near.write(BULK))
        await until(lambda: near.core.send_window == 0)
        near.close_write()
        with pytest.raises(LocalProtocolError):
            await writing


@on_both_loops
async def test_a_closed_stream_that_is_over_both_ways_is_kept_alive_by_nothing() -> None:
    async with pair() as (near, _):
        loop = asyncio.get_running_loop()
        timers: list[asyncio.TimerHandle] = []
        call_later = loop.call_later

        def noted(*args: object) -> asyncio.TimerHandle:
            timers.append(call_later(*args))  # type: ignore[arg-type]
            return timers[-1]

        for end in ("the peer's FIN", "a reset", "no connection"):
            stream = await near.open_stream([ECHO])
            near.loop = SimpleNamespace(call_later=noted, call_soon=loop.call_soon)  # type: ignore[assignment]
            await stream.close()
            await stream.close()
            near.loop = loop
            if end == "a reset":
                stream.reset()
            elif end == "no connection":
                near.abort()
            else:
                await until(lambda: not near.streams)
            assert len(timers) == 1, "closing twice is closing once"
            assert timers.pop().cancelled(), end


@on_both_loops
async def test_a_reset_is_an_error_at_once_on_both_sides() -> None:
    async with stream_pair() as (near, far):
        waiting = asyncio.ensure_future(far.read())
        await near.write(b"not to be delivered for certain")
        await turns()
        waiting.cancel()
        near.reset()
        near.reset()
        with pytest.raises(StreamReset) as local:
            await near.write(b"x")
        assert local.value.details["by"] == "local"
        with pytest.raises(StreamReset) as remote:
            while True:
                await far.read()
        assert remote.value.details["by"] == "remote"
        with pytest.raises(StreamReset):
            await far.write(b"x")


@on_both_loops
async def test_what_a_peer_says_of_its_reset_is_in_the_error() -> None:
    async with swarm() as node:
        with RawListener() as listener:
            loop = asyncio.get_running_loop()
            connecting = loop.create_task(node.connect(listener.peer_id, [listener.addr]))
            async with await listener.accept() as peer:
                opening = loop.create_task((await connecting).open_stream([ECHO]))
                stream_id, _ = await peer.accept()
                await peer.frame(f.WINDOW_UPDATE, f.RST, stream_id, 0x1002)
                with pytest.raises(StreamReset, match=r"a limit of its own \(code 0x1002\)") as reset:
                    await (await opening).read()
                assert reset.value.details["reset_code"] == 0x1002


@on_both_loops
async def test_a_lost_connection_is_an_error_to_readers_and_writers_and_never_eof() -> None:
    async with stream_pair() as (near, far):

        async def write_until_it_fails() -> None:
            while True:
                await near.write(bytes(65536))

        writing = asyncio.ensure_future(write_until_it_fails())
        reading = asyncio.ensure_future(near.read())
        await turns()
        conn_of(far).abort(TimedOut("for the test"))
        for task in (writing, reading):
            with pytest.raises(ConnectionLost):
                await task
        with pytest.raises(ConnectionLost, match="for the test"):
            await far.read()


@on_both_loops
async def test_a_graceful_close_delivers_all_that_was_written_and_every_fin() -> None:
    async with stream_pair() as (near, far):
        await near.write(BULK[:250_000])
        near.close_write()
        closing = asyncio.ensure_future(conn_of(near).close())
        assert await read_all(far) == BULK[:250_000]
        await closing


@on_both_loops
async def test_a_slow_reader_still_gets_what_came_before_a_graceful_close() -> None:
    async with stream_pair() as (near, far):
        await near.write(BULK[:200_000])
        near.close_write()
        await conn_of(near).close()
        await conn_of(far).closed
        assert await read_all(far, pause=turns) == BULK[:200_000]
        with pytest.raises(ConnectionLost):
            await far.write(b"nobody is there")


@on_both_loops
async def test_a_close_of_ours_has_no_cause_and_the_others_is_told() -> None:
    async with pair() as (near, far):
        await asyncio.gather(near.close(), near.close())
        assert near.closed.result() is None
        assert isinstance(await far.closed, ConnectionResetError)
        with pytest.raises(ConnectionLost):
            await near.open_stream([ECHO])


@on_both_loops
async def test_the_second_proposal_is_taken_when_the_first_is_not_served() -> None:
    async with pair() as (near, _):
        stream = await near.open_stream(["/nobody/1", "/nobody/2", ECHO])
        assert stream.protocol == ECHO
        stream.reset()


@on_both_loops
async def test_a_protocol_nobody_serves_is_refused_by_name() -> None:
    async with pair() as (near, far):
        with pytest.raises(ProtocolNotSupported, match="/nobody/1"):
            await near.open_stream(["/nobody/1"])
        await turns()
        assert near.streams == {}
        assert not near.closed.done() and not far.closed.done()


@on_both_loops
async def test_a_known_protocol_is_opened_without_waiting_and_data_rides_along() -> None:
    async with pair() as (near, _):
        settled: list[Stream] = []
        stream = await near.open_stream([ECHO], known=True, settled=settled.append)
        assert stream.protocol is None, "not confirmed yet"
        await stream.write(b"early")
        stream.close_write()
        assert await read_all(stream) == b"early"
        assert stream.protocol == ECHO and settled == [stream]


@on_both_loops
async def test_a_known_protocol_that_is_refused_after_all_fails_the_stream() -> None:
    async with pair() as (near, _):
        settled: list[Stream] = []
        stream = await near.open_stream(["/gone/1"], known=True, settled=settled.append)
        await stream.write(b"data that is no proposal, and long enough to be read as one" * 50)
        with pytest.raises(ProtocolNotSupported, match="/gone/1"):
            await stream.read()
        with pytest.raises(ProtocolNotSupported):
            await stream.write(b"x")
        assert settled == [stream]


@on_both_loops
async def test_a_message_written_and_closed_before_the_answer_arrives_with_its_end() -> None:
    async with swarm() as near, swarm() as far:
        taken = Taken(far)
        conn = await near.connect(far.peer_id, far.listen_addrs())
        stream = await conn.open_stream([TAKE], known=True)
        await stream.write(b"push")
        await stream.close()
        got = await taken.get()
        assert await read_all(got) == b"push"
        await got.close()
        await turns()
        assert conn.streams == {}


@on_both_loops
async def test_an_unread_stream_costs_its_window_and_others_keep_their_speed() -> None:
    # D12: a stalled stream must not stall its neighbours, and its writer waits.
    async with swarm() as near, swarm() as far:
        far.services.serve(Service(name=ECHO, handler=echo))
        taken = Taken(far)
        await near.connect(far.peer_id, far.listen_addrs())
        stalled = await near.open_stream(far.peer_id, [TAKE])
        unread = await taken.get()
        stuck = asyncio.ensure_future(stalled.write(BULK))
        lively = await near.open_stream(far.peer_id, [ECHO])
        for _ in range(4):
            sending = asyncio.ensure_future(lively.write(BULK[:500_000]))
            assert await lively.read_exactly(500_000) == BULK[:500_000]
            await sending
        assert not stuck.done()
        assert unread.core.receive_window.unconsumed <= INITIAL_WINDOW_BYTES
        whole = asyncio.ensure_future(unread.read_exactly(len(BULK)))
        await stuck
        assert await whole == BULK


@on_both_loops
async def test_more_streams_than_may_be_unacknowledged_open_in_turn() -> None:
    async with pair() as (near, _):
        streams = await asyncio.gather(*(near.open_stream([ECHO]) for _ in range(600)))
        assert len({stream.id for stream in streams}) == 600
        for stream in streams:
            stream.reset()


@on_both_loops
async def test_streams_beyond_the_peers_limit_are_reset_and_the_others_live() -> None:
    async with swarm() as near, swarm(max_streams_per_connection=3) as far:
        far.services.serve(Service(name=ECHO, handler=echo))
        conn = await near.connect(far.peer_id, far.listen_addrs())
        streams = [await conn.open_stream([ECHO]) for _ in range(3)]
        with pytest.raises(StreamReset):
            await conn.open_stream([ECHO])
        await streams[0].write(b"alive")
        assert await streams[0].read() == b"alive"
        streams[1].close_write()
        assert await streams[1].read() == b""
        again = await conn.open_stream([ECHO])
        assert again.protocol == ECHO


@on_both_loops
async def test_a_peer_that_closes_in_the_middle_of_a_message_is_at_fault() -> None:
    async with stream_pair() as (near, far):
        await near.write_delimited(b"whole")
        await near.write(b"\x05ha")
        near.close_write()
        assert await far.read_delimited(10) == b"whole"
        with pytest.raises(RemoteProtocolError, match="2 of 5"):
            await far.read_delimited(10)


@on_both_loops
async def test_a_message_above_its_bound_is_refused_at_its_length() -> None:
    async with stream_pair() as (near, far):
        await near.write(b"\xff\xff\xff\xff\x0f")
        with pytest.raises(RemoteProtocolError, match="4294967295 bytes, more than 100"):
            await far.read_delimited(100)


@on_both_loops
async def test_the_round_trip_is_measured_at_the_start_and_on_request() -> None:
    async with pair() as (near, far):
        first, second = await asyncio.gather(near.measure_rtt(5), near.measure_rtt(5))
        assert first == second and near.rtt_s is not None and 0 < near.rtt_s < 5
        with pytest.raises(TimedOut):
            await near.measure_rtt(0)
        assert 0 < await near.measure_rtt(5) < 5
        await far.close()
        await near.closed
        with pytest.raises(ConnectionLost):
            await near.measure_rtt(5)
