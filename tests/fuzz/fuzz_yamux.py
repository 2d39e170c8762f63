"""Any bytes, to a yamux session that is used meanwhile: state that adds up, or RemoteProtocolError.

The first byte says how the rest is cut and what is done here between the pieces (read, half-close, reset,
open, ping). Whatever comes: streams, answers and what is buffered stay within their bounds, every stream
tells its end once and nothing behind it, and credit is never given twice.
"""

from __future__ import annotations

from p2pfwd.errors import RemoteProtocolError
from p2pfwd.wire.yamux import frame as f
from p2pfwd.wire.yamux.session import (
    MAX_CONTROL_BYTES,
    Session,
    StreamFinished,
    StreamOpened,
    StreamWasReset,
)
from p2pfwd.wire.yamux.stream import State, StreamCore
from p2pfwd.wire.yamux.window import WindowBudget

MAX_INBOUND = 5
H = f.encode_header
OPEN, OPEN_3 = H(f.WINDOW_UPDATE, f.SYN, 1, 0), H(f.WINDOW_UPDATE, f.SYN, 3, 0)
DATA_1 = H(f.DATA, 0, 1, 5) + b"hello"
SEEDS = [
    b"\x00" + OPEN + DATA_1 + H(f.WINDOW_UPDATE, f.FIN, 1, 0),
    b"\x1b" + H(f.DATA, f.SYN, 1, 5) + b"hello" + H(f.DATA, f.FIN, 1, 2) + b"!!" + DATA_1,
    b"\x35" + H(f.WINDOW_UPDATE, f.ACK, 2, 0) + H(f.DATA, 0, 2, 3) + b"abc" + H(f.WINDOW_UPDATE, f.RST, 2, 1),
    b"\x42" + OPEN + OPEN_3 + H(f.WINDOW_UPDATE, 0, 1, 0xFFFB_FFFF) + H(f.WINDOW_UPDATE, 0, 1, 1),
    b"\x77" + H(f.PING, f.SYN, 0, 7) + H(f.PING, f.ACK, 0, 1) + H(f.GO_AWAY, 0, 0, 0) + OPEN,
    b"\x90" + OPEN + H(f.DATA, 0, 1, f.INITIAL_WINDOW_BYTES + 1),
    b"\xff" + b"".join(H(f.WINDOW_UPDATE, f.SYN, n, 0) for n in range(1, 20, 2)),
]


class Watched:
    """A session of the listening side, and what it has told about each stream."""

    def __init__(self) -> None:
        self.budget = WindowBudget()
        self.session = Session(client=False, max_inbound_streams=MAX_INBOUND, budget=self.budget)
        self.session.rtt_s = 0.1
        self.session.ping(1)
        self.told: dict[int, list[str]] = {}
        self.unread: dict[int, int] = {}
        self.session_open()

    def session_open(self) -> None:
        if self.session.can_open and len(self.session.streams) < 20:
            self.watch(self.session.open())

    def watch(self, core: StreamCore) -> None:
        assert core.id not in self.told, "an id is used once"
        self.told[core.id] = []
        self.unread[core.id] = len(core.backlog or b"")

        def sink(view: memoryview) -> None:
            assert len(view) > 0 and not self.told[core.id], "payload behind the end"
            assert core.state is not State.RESET
            self.unread[core.id] += len(view)

        core.sink = sink

    def receive(self, piece: bytes) -> None:
        for event in self.session.receive(memoryview(piece)):
            match event:
                case StreamOpened(core):
                    self.watch(core)
                case StreamFinished(core) | StreamWasReset(core):
                    kind = type(event).__name__
                    assert kind not in self.told[core.id] and "StreamWasReset" not in self.told[core.id]
                    self.told[core.id].append(kind)

    def act(self, choice: int, turn: int) -> None:
        """One thing an application might do now."""
        session = self.session
        streams = list(session.streams.values())
        if choice == 0 or not streams:
            self.session_open()
            return
        core = streams[turn % len(streams)]
        if choice == 1 and core.can_send:
            session.finish(core)
        elif choice == 2:
            session.reset(core)
        elif choice == 3 and core.can_send and core.send_window:
            session.write_data_header(core, 1, memoryview(bytearray(13)), 0)
        else:
            size, self.unread[core.id] = self.unread[core.id], 0
            session.consumed(core, size, turn * 0.01)

    def check(self) -> None:
        session = self.session
        assert sum(stream_id & 1 for stream_id in session.streams) == session._inbound <= MAX_INBOUND
        grown = held = 0
        for core in session.streams.values():
            window = core.receive_window
            assert 0 <= window.credit <= window.size
            assert 0 <= core.send_window <= f.MAX_WINDOW
            assert core.state not in (State.CLOSED, State.RESET)
            grown += window.size - f.INITIAL_WINDOW_BYTES
            held += window.unconsumed
        assert session.buffered_bytes == held
        assert self.budget.left >= 0 and grown + self.budget.left == self.budget.total


def one(data: bytes) -> None:
    """Feed `data` as its first byte says, and check the invariant after every piece."""
    watched = Watched()
    how, wire = (data[0], data[1:]) if data else (0, b"")
    step = (1, 5, 12, 1 << 20)[how & 3]
    for turn, at in enumerate(range(0, len(wire), step)):
        try:
            watched.receive(wire[at : at + step])
        except RemoteProtocolError as exc:
            assert exc.message.isprintable()
            return
        watched.act(how >> 2 & 7, turn)
        watched.check()
        assert len(watched.session.control) <= MAX_CONTROL_BYTES


if __name__ == "__main__":
    from mutator import main

    main(one, SEEDS)
