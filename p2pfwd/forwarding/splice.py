"""A splice: a local socket and a stream, moved into each other in callbacks.

Rules:
- Half-close is kept both ways; the splice ends when both FINs have passed.
- A reset or lost stream becomes a TCP RST on the socket; a socket error becomes a stream reset. Neither ever
  becomes an EOF. The socket lingers for no time until both FINs have passed, so that even the death of the
  daemon (SIGKILL, out of memory) is a RST.
- A socket that is not read, after its FIN or for want of credit, is still watched for failure.
- Back-pressure is withheld credit. What the socket does not take stays here and is not acknowledged; the
  stream's window bounds it. A stream that cannot send leaves the socket unread.
- What one read of the peer's socket brought goes on in one send. It lies in the read buffer until then:
  until the read is over, the stream ends, or another's turn has come in the same read, and never longer.
- There is no task, no queue and no timer per splice.

Each direction is in one of these states; the splice is over when both have ended, and at any failure:

    socket → stream   READING ──no credit──▶ PARKED ──credit, and nothing to read──▶ READING
                      READING, PARKED ──the socket's FIN──▶ ENDED

    stream → socket   PASSING ──the socket is full──▶ HOLDING ──all taken──▶ PASSING
                      PASSING ──the peer's FIN──▶ ENDED
                      HOLDING ──the peer's FIN──▶ LAST ──all taken──▶ ENDED
"""

from __future__ import annotations

import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from p2pfwd.net.link.contract import SplicedStream
from p2pfwd.system.buffers import CORKED_FRAMES
from p2pfwd.system.poller import Readiness

GATHER_BYTES: Final = 4096
"""Least size of a piece that waits for the next of its read: small ones are somebody's keystrokes."""

CHUNK_BYTES: Final = 64 * 1024
"""What the socket does not take is kept in pieces of at most this: cheap to extend, to send, to free."""


class State(Enum):
    """How it stands with one direction; the picture is at the head of the file."""

    __hash__ = object.__hash__  # Enum's own is Python, and four look-ups of TRANSITIONS make eight of them

    READING = auto()
    """The socket is read as soon as it has something."""
    PARKED = auto()
    """The stream cannot send: the socket is not read, and the stream asks for more when it can."""
    PASSING = auto()
    """What comes goes to the socket at once."""
    HOLDING = auto()
    """The socket is full; what comes is kept."""
    LAST = auto()
    """As HOLDING, and nothing more will come."""
    ENDED = auto()


class Input(Enum):
    """What changes a direction's state."""

    __hash__ = object.__hash__

    NO_CREDIT = auto()
    CREDIT = auto()
    FULL = auto()
    TAKEN = auto()
    FIN = auto()


TRANSITIONS: Final[dict[tuple[State, Input], State]] = {
    (State.READING, Input.NO_CREDIT): State.PARKED,
    (State.PARKED, Input.CREDIT): State.READING,
    (State.READING, Input.FIN): State.ENDED,
    (State.PARKED, Input.FIN): State.ENDED,
    (State.PASSING, Input.FULL): State.HOLDING,
    (State.HOLDING, Input.TAKEN): State.PASSING,
    (State.PASSING, Input.FIN): State.ENDED,
    (State.HOLDING, Input.FIN): State.LAST,
    (State.LAST, Input.TAKEN): State.ENDED,
}
"""A pair that is not here is a defect, and shows as a KeyError."""

_PARKED: Final = State.PARKED  # a name of the class costs a look-up for each frame

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_FLUSH_ON_CLOSE: Final = struct.pack("ii", 0, 0)


def reset_by_default(sock: socket.socket) -> None:
    """From now on a close of this TCP socket is a RST, that by the system included when the daemon is killed.

    What ends as it should is closed with `close_cleanly`.
    """
    _linger(sock, _RESET_ON_CLOSE)


def close_with_reset(sock: socket.socket) -> None:
    """Close a TCP socket so that its peer sees a RST, not an EOF."""
    reset_by_default(sock)
    sock.close()


def close_cleanly(sock: socket.socket) -> None:
    """Close a TCP socket after both FINs; the system delivers what is still in its buffer."""
    _linger(sock, _FLUSH_ON_CLOSE)
    sock.close()


def _linger(sock: socket.socket, how: bytes) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, how)
    except OSError:  # already disconnected: nobody is left to be told
        return


def _nobody(_splice: Splice) -> None:
    pass


class Splice:
    """One tunnelled connection. `on_closed(splice)` is called exactly once, when it is over."""

    __slots__ = (
        "_fd",
        "_from_socket",
        "_gathered",
        "_on_closed",
        "_pending",
        "_pending_offset",
        "_poller",
        "_sock",
        "_to_socket",
        "bytes_in",
        "bytes_out",
        "closed",
        "error",
        "stream",
    )

    def __init__(
        self,
        stream: SplicedStream,
        sock: socket.socket,
        poller: Readiness,
        on_closed: Callable[[Splice], None],
    ) -> None:
        """Takes over `sock`, connected, non-blocking and reset by default (`reset_by_default`)."""
        self.stream = stream
        self.bytes_in = 0
        """From the peer, taken by the socket."""
        self.bytes_out = 0
        """From the socket, sent to the peer."""
        self.closed = False
        self.error: Exception | None = None
        """Why it ended, if not by both FINs."""
        self._sock = sock
        self._fd = sock.fileno()
        self._poller = poller
        self._on_closed = on_closed
        self._from_socket = State.READING
        self._to_socket = State.PASSING
        self._gathered: tuple[memoryview, ...] = ()  # empty between callbacks
        self._pending: deque[bytearray] | None = None  # not None in HOLDING and LAST
        self._pending_offset = 0

    @property
    def holds_fin(self) -> bool:
        """Whether the end of the socket's data is held back: see `forwarding.kubo`."""
        return False

    @property
    def is_stalled(self) -> bool:
        """Whether bytes wait here that the peer, or the local socket, does not take."""
        return self._pending is not None or self.stream.is_stalled

    def start(self) -> None:
        """Begin to move bytes, what the stream already holds first."""
        self._poller.add_reader(self._fd, self._readable)
        self.stream.set_sink(self, tunnel=True)
        if self.stream.direction == "outbound" and not self.closed:
            self._readable()  # what is there already rides along with the stream's opening

    # --- local socket → stream --------------------------------------------------------------------

    def _readable(self) -> None:
        frame = self.stream.begin_frame()
        if frame is None:
            self._park()
            return
        n = self._receive(frame)
        if n == len(frame) and self.stream.cork():
            self._read_on(n)
        elif n:
            self.stream.end_frame(n)
        elif n == 0:
            self._end_local()

    def _read_on(self, n: int) -> None:
        """A read of `n` bytes filled its frame: so long as they do, up to `CORKED_FRAMES` go out together."""
        stream = self.stream
        try:
            stream.end_frame(n)
            for _ in range(CORKED_FRAMES - 1):
                frame = stream.begin_frame()
                if frame is None:
                    self._park()
                    break
                got = self._receive(frame)
                if got:
                    stream.end_frame(got)
                elif got == 0:
                    self._end_local()
                if got != len(frame):
                    break
        finally:
            stream.uncork()

    def _park(self) -> None:
        self._from_socket = TRANSITIONS[self._from_socket, Input.NO_CREDIT]
        self._poller.watch_failure(self._fd, self._hung_up)
        self.stream.want_to_send()

    def resume_sending(self) -> bool:
        """The stream may send: one frame's turn, straight from the socket. True if more may wait.

        The socket stays PARKED while it has something: the stream gives the next turn, and the poller is
        not asked.
        """
        if self._from_socket is not _PARKED or self.closed:
            return False
        frame = self.stream.begin_frame()
        if frame is None:
            self.stream.want_to_send()
            return False
        n = self._receive(frame)
        if n:
            if n == len(frame):
                self.stream.cork()  # for the frames of its next turns: those of one go out together anyway
            self.stream.end_frame(n)
            self.stream.want_to_send()
            return True
        if n == 0:
            self._end_local()
        elif not self.closed:
            self._from_socket = TRANSITIONS[_PARKED, Input.CREDIT]
            self._poller.add_reader(self._fd, self._readable)
        return False

    def _receive(self, frame: memoryview) -> int | None:
        """Receive into the frame; how many bytes, 0 at EOF, None if there was nothing."""
        try:
            n = self._sock.recv_into(frame)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as exc:
            self._fail(exc)
            return None
        if n:
            self.bytes_out += n
        return n

    def _end_local(self) -> None:
        self._from_socket = TRANSITIONS[self._from_socket, Input.FIN]
        self._send_fin()
        self._finish_if_done()
        if not self.closed:
            self._poller.watch_failure(self._fd, self._hung_up)

    def _hung_up(self) -> None:
        """The socket, which is not read now, has failed: the peer is told at once, not at the next send.

        Without an error it is a Unix socket whose program closed it. What it sent before still counts.
        """
        self._poller.remove_reader(self._fd)  # a socket stays hung up: this would be called for ever
        code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._fail(OSError(code, os.strerror(code)))

    def _send_fin(self) -> None:
        self.stream.close_write()

    # --- stream → local socket --------------------------------------------------------------------

    def data_received(self, view: memoryview) -> None:
        """Payload from the peer."""
        if self._pending is not None:
            self._hold(view)
            return
        size = len(view)
        if size >= GATHER_BYTES and self.stream.gather(self):
            self._gathered += (view,)
            return
        if self._gathered:
            self._gathered += (view,)
            self.pass_gathered()
            return
        try:  # as `pass_gathered` does it, and in half the time: a message alone is what somebody waits for
            n = self._sock.send(view)
        except (BlockingIOError, InterruptedError):
            n = 0
        except OSError as exc:
            self._fail(exc)
            return
        self.bytes_in += n
        if n < size:
            self._hold(view[n:])
        if n:
            self.stream.consumed(n)

    def pass_gathered(self) -> None:
        """All of it goes to the socket in one send, and is acknowledged together."""
        views, self._gathered = self._gathered, ()
        if not views:
            return
        try:
            n = self._sock.sendmsg(views) if len(views) > 1 else self._sock.send(views[0])
        except (BlockingIOError, InterruptedError):
            n = 0
        except OSError as exc:
            self._fail(exc)
            return
        self.bytes_in += n
        left = n
        for view in views:
            if left < len(view):
                self._hold(view[left:])
            left = max(0, left - len(view))
        if n:
            self.stream.consumed(n)

    def _hold(self, view: memoryview) -> None:
        pending = self._pending
        if pending is None:
            pending = self._pending = deque()
            self._to_socket = TRANSITIONS[self._to_socket, Input.FULL]
            self._poller.add_writer(self._fd, self._writable)
        if pending and len(pending[-1]) + len(view) <= CHUNK_BYTES:
            pending[-1] += view  # a byte object each would cost 40 times a small frame
            return
        for start in range(0, len(view), CHUNK_BYTES):
            pending.append(bytearray(view[start : start + CHUNK_BYTES]))

    def _writable(self) -> None:
        pending = self._pending
        assert pending is not None
        sent = 0
        try:
            while pending:
                chunk = pending[0]
                offset = self._pending_offset
                n = self._sock.send(memoryview(chunk)[offset:] if offset else chunk)
                sent += n
                if n + offset < len(chunk):
                    self._pending_offset = offset + n
                    break
                self._pending_offset = 0
                pending.popleft()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as exc:
            self._fail(exc)
            return
        self.bytes_in += sent
        if not pending:
            self._pending = None
            self._poller.remove_writer(self._fd)
            self._to_socket = TRANSITIONS[self._to_socket, Input.TAKEN]
            if self._to_socket is State.ENDED:
                self._end_remote()
        if sent and not self.closed:
            self.stream.consumed(sent)

    def eof_received(self) -> None:
        """The peer's FIN."""
        self.pass_gathered()
        if self.closed:
            return
        self._to_socket = TRANSITIONS[self._to_socket, Input.FIN]
        if self._to_socket is State.ENDED:
            self._end_remote()

    def _end_remote(self) -> None:
        if self._from_socket is State.ENDED:
            self.stream.close_write()  # one that was held back
            self._finish_if_done()  # closes the socket, which is the FIN
            return
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as exc:
            self._fail(exc)

    # --- ending -----------------------------------------------------------------------------------

    def _finish_if_done(self) -> None:
        if self._from_socket is State.ENDED and self._to_socket is State.ENDED:
            self._close()
            close_cleanly(self._sock)
            self._tell()

    def _close(self) -> None:
        self.closed = True
        self._gathered = ()
        self._poller.remove_reader(self._fd)
        if self._pending is not None:
            self._pending = None
            self._poller.remove_writer(self._fd)

    def stream_lost(self, exc: Exception) -> None:
        """Reset by the peer or by us, or the connection is gone: the application must see an error."""
        self.pass_gathered()
        if self.closed:
            return
        self.error = exc
        self._close()
        close_with_reset(self._sock)
        self._tell()

    def _tell(self) -> None:
        """Once; whom it knows then knows it no more: see `net.link.stream`."""
        on_closed, self._on_closed = self._on_closed, _nobody
        self.stream.let_go()
        on_closed(self)

    def _fail(self, exc: OSError) -> None:
        """The local socket failed: the peer must see an error."""
        if self.closed:
            return
        self.error = exc.with_traceback(None)  # its frames know the splice
        self._close()
        close_with_reset(self._sock)
        self.stream.reset()
        self._tell()

    def reset(self, code: int = 0) -> None:
        """End abruptly on both sides; `code` tells the peer why."""
        self.stream.reset(code)  # comes back through stream_lost
