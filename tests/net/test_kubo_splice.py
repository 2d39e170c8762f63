"""The splice with a Kubo: when a held FIN goes out, and that a reset waits for the bytes before it.

Real socket pairs without a network, a fake stream, and a clock that the test moves.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from p2pfwd.errors import ConnectionLost, StreamReset
from p2pfwd.forwarding import kubo
from p2pfwd.forwarding.kubo import KuboSplice, make_splice
from p2pfwd.forwarding.looks import Looks
from p2pfwd.forwarding.splice import Splice, close_with_reset
from p2pfwd.system.sock_diag import SockDiag
from tests.net.swarm_rig import stranger

BY_PEER = StreamReset("the peer reset the stream", by="remote")


class Timer:
    """Handle of a timer of `Loop`; one that fired can be cancelled, to no effect."""

    def __init__(self, timers: list[Any], entry: Any) -> None:
        self._timers, self._entry = timers, entry

    def cancel(self) -> None:
        if self._entry in self._timers:
            self._timers.remove(self._entry)


class Loop:
    """The timers and watched descriptors of an event loop, run by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.readers: set[int] = set()
        self.writers: set[int] = set()

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> Any:
        self.timers.append((self.now + delay, callback))
        return Timer(self.timers, self.timers[-1])

    def advance(self, seconds: float) -> None:
        """Run what is due within `seconds`, in order."""
        end = self.now + seconds
        while due := sorted((timer for timer in self.timers if timer[0] <= end), key=lambda timer: timer[0]):
            self.timers.remove(due[0])
            self.now = due[0][0]
            due[0][1]()
        self.now = end

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        self.readers.add(fd)

    def watch_failure(self, fd: int, callback: Callable[[], None]) -> None:
        self.readers.add(fd)

    def remove_reader(self, fd: int) -> None:
        self.readers.discard(fd)

    def add_writer(self, fd: int, callback: Callable[[], None]) -> None:
        self.writers.add(fd)

    def remove_writer(self, fd: int) -> None:
        self.writers.discard(fd)


class Stream:
    """What a splice needs of a stream."""

    def __init__(self) -> None:
        self.direction, self.protocol = "outbound", "/x/test"
        self.remote_peer = stranger()
        self.fins = self.resets = 0

    def set_sink(self, sink: object, *, tunnel: bool = False) -> None:
        pass

    def let_go(self) -> None:
        pass

    def begin_frame(self) -> memoryview:
        return memoryview(bytearray(1000))

    def end_frame(self, n: int) -> None:
        pass

    def consumed(self, n: int) -> None:
        pass

    def gather(self, sink: object) -> bool:
        return False

    def close_write(self) -> None:
        self.fins += 1

    def reset(self, code: int = 0) -> None:
        self.resets += 1


class Rig:
    """A splice on one end of a connected pair; the test is the application at the other."""

    def __init__(self, local: socket.socket, application: socket.socket, *, hold_s: float | None) -> None:
        local.setblocking(False)
        self.loop, self.stream, self.application = Loop(), Stream(), application
        self.ended: list[Splice] = []
        self.splice = KuboSplice(
            self.stream,  # type: ignore[arg-type]
            local,
            self.loop,
            self.loop,  # type: ignore[arg-type]
            self.ended.append,
            hold_s=hold_s,
            looks=Looks(self.loop),  # type: ignore[arg-type]
        )
        self.splice.start()

    def application_sends_fin(self) -> None:
        """Half-close the application's end and let the splice read it."""
        self.application.shutdown(socket.SHUT_WR)
        self.splice._readable()


@contextmanager
def rig(*, hold_s: float | None = 0) -> Iterator[Rig]:
    """A rig over loopback TCP, closed at the end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        application = socket.create_connection(server.getsockname())
        local, _ = server.accept()
    made = Rig(local, application, hold_s=hold_s)
    try:
        yield made
    finally:
        made.splice.reset()
        if not made.ended:
            made.splice.stream_lost(ConnectionLost("the test is over"))
        application.close()


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[bool | None]:
    """What is known of the client from now on: its last entry."""
    known: list[bool | None] = [False]
    monkeypatch.setattr(SockDiag, "has_closed", lambda _self, _sock: known[-1])
    return known


def test_the_kind_of_splice_is_the_peers() -> None:
    """Only a Kubo's tunnels carry what Kubo needs."""
    loop = asyncio.new_event_loop()
    pair = socket.socketpair()
    try:
        for is_kubo, kind in ((True, KuboSplice), (False, Splice)):
            made = make_splice(
                Stream(),  # type: ignore[arg-type]
                pair[0],
                loop,
                loop,
                print,
                kubo=is_kubo,
                hold_s=None,
                looks=Looks(loop),
            )
            assert type(made) is kind
    finally:
        loop.close()
        for sock in pair:
            sock.close()


def test_a_waiting_clients_fin_is_held_until_the_reply_ends(closed: list[bool | None]) -> None:
    """A client that still has its socket waits, for as long as it likes."""
    with rig() as made:
        made.application_sends_fin()
        made.loop.advance(3600)
        assert made.stream.fins == 0
        made.splice.eof_received()
        assert made.stream.fins == 1
        assert made.ended == [made.splice] and made.splice.error is None
        assert made.loop.timers == []


def test_the_reply_side_holds_nothing(closed: list[bool | None]) -> None:
    """A listen's FIN is the end of the reply: the client behind the Kubo waits for it."""
    with rig(hold_s=None) as made:
        made.application_sends_fin()
        assert made.stream.fins == 1


def test_a_client_that_is_gone_waits_for_nothing(closed: list[bool | None]) -> None:
    """Closed altogether, at once or while its FIN is held: the FIN goes out."""
    closed.append(True)
    with rig() as made:
        made.application_sends_fin()
        assert made.stream.fins == 0, "the list of connections may be as old as this"
        made.loop.advance(kubo.FIRST_LOOK_S)
        assert made.stream.fins == 1
    closed.append(False)
    with rig() as made:
        made.application_sends_fin()
        made.loop.advance(60)
        assert made.stream.fins == 0
        closed.append(True)
        made.loop.advance(kubo.MAX_LOOK_S)
        assert made.stream.fins == 1


def test_after_silence_of_the_given_length_it_is_sent_all_the_same(
    closed: list[bool | None], caplog: pytest.LogCaptureFixture
) -> None:
    """The client waits, and so does a service that answers only at the end of its input."""
    caplog.set_level("INFO", "p2pfwd.forwarding")
    with rig(hold_s=60) as made:
        made.application_sends_fin()
        assert made.splice.holds_fin and caplog.text == ""
        made.loop.advance(2 * kubo.TOLD_S)
        assert "/x/test" in caplog.text and "kubo_hold_s" in caplog.text, "it is told once that it is held"
        made.splice.data_received(memoryview(b"half a reply"))
        made.loop.advance(59)
        assert made.stream.fins == 0 and len(caplog.records) == 1
        made.loop.advance(kubo.MAX_LOOK_S + 1)
        assert made.stream.fins == 1 and not made.splice.holds_fin
        assert "its end of data is sent" in caplog.text
        assert made.loop.timers == []


def test_a_fin_that_is_held_for_a_moment_is_not_told(
    closed: list[bool | None], caplog: pytest.LogCaptureFixture
) -> None:
    """Most replies end at once."""
    caplog.set_level("INFO", "p2pfwd.forwarding")
    with rig() as made:
        made.application_sends_fin()
        made.loop.advance(kubo.TOLD_S / 2)
        made.splice.eof_received()
        assert caplog.text == ""


def test_a_reset_while_a_fin_is_held_leaves_no_timer(closed: list[bool | None]) -> None:
    """One that fired after the close looked at a descriptor that was another's by then."""
    with rig() as made:
        made.application_sends_fin()
        made.splice.data_received(memoryview(b"half a reply"))
        made.splice.stream_lost(BY_PEER)
        assert len(made.loop.timers) <= 1
        made.application.recv(100)
        made.loop.advance(kubo.FLUSH_LOOK_S)
        assert made.ended == [made.splice] and made.loop.timers == []
        made.loop.advance(3600)
        assert made.stream.fins == 0


def test_a_client_that_aborts_while_its_fin_is_held_resets_the_stream(closed: list[bool | None]) -> None:
    """It waits for nothing, and the Kubo is to know."""
    with rig() as made:
        made.application_sends_fin()
        close_with_reset(made.application)
        made.splice._hung_up()
        assert made.stream.resets == 1 and made.loop.timers == []
        assert isinstance(made.splice.error, OSError)


def test_an_unknown_client_has_its_fin_sent_after_silence(closed: list[bool | None]) -> None:
    """On another machine: each byte of the reply puts it off, silence sends it."""
    closed.append(None)
    with rig() as made:
        made.application_sends_fin()
        for _ in range(20):
            made.loop.advance(kubo.QUIET_S / 2)
            made.splice.data_received(memoryview(b"still replying"))
        assert made.stream.fins == 0
        made.loop.advance(kubo.QUIET_S + 2 * kubo.MAX_LOOK_S)
        assert made.stream.fins == 1


@pytest.mark.parametrize("size", [10, 8_000_000])
def test_a_reset_waits_for_the_bytes_before_it(size: int) -> None:
    """The application reads all of them, then the reset; more than any socket buffer included."""
    payload = bytes(range(256)) * (size // 256 + 1)
    with rig() as made:
        made.splice.data_received(memoryview(payload))
        made.splice.stream_lost(BY_PEER)
        received = bytearray()
        made.application.settimeout(5)
        while len(received) < len(payload):
            received += made.application.recv(1 << 20)
            if made.splice._pending is not None:
                made.splice._writable()
            made.loop.advance(kubo.FLUSH_LOOK_S)
        made.loop.advance(1)
        assert bytes(received) == payload
        assert made.ended == [made.splice] and made.splice.error is BY_PEER
        with pytest.raises(ConnectionResetError):
            made.application.recv(1)


def test_an_application_that_reads_nothing_is_reset_in_the_end() -> None:
    """What it does not take is kept for a bounded time."""
    with rig() as made:
        made.splice.data_received(memoryview(bytes(8_000_000)))
        made.splice.stream_lost(BY_PEER)
        made.loop.advance(kubo.FLUSH_STALL_S - 1)
        assert made.ended == []
        made.loop.advance(2)
        for _ in range(50):  # the kernel of a busy machine may have passed on bytes meanwhile: it begins anew
            if not made.ended:
                made.loop.advance(kubo.FLUSH_STALL_S + 1)
        assert made.ended == [made.splice]
        assert made.loop.timers == [] and made.loop.readers == set() and made.loop.writers == set()


@pytest.mark.parametrize(
    "cause", [StreamReset("reset here", by="local"), ConnectionLost("the connection was lost")]
)
def test_other_ends_are_resets_at_once(cause: Exception) -> None:
    """Closed by a person, or the peer is gone: nothing is waited for."""
    with rig() as made:
        made.splice.data_received(memoryview(bytes(8_000_000)))
        made.splice.stream_lost(cause)
        assert made.ended == [made.splice] and made.splice.error is cause


def test_a_person_can_end_what_is_being_flushed() -> None:
    """`stream close` while the bytes before a reset drain."""
    with rig() as made:
        made.splice.data_received(memoryview(bytes(8_000_000)))
        made.splice.stream_lost(BY_PEER)
        made.splice.reset()
        assert made.ended == [made.splice] and made.loop.timers == []
