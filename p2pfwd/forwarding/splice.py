"""A splice: a local socket and a stream, moved into each other in callbacks.

Truth: half-close is kept both ways and the splice ends when both FINs have passed; a reset
or lost stream becomes a TCP RST on the socket, a socket error becomes a stream reset, never an EOF; so
does the death of the daemon (SIGKILL, out of memory): the socket lingers for no time until both FINs passed.
Back-pressure is withheld credit: what the socket does not take stays here, bounded by the stream's
window, and is not acknowledged; a stream that cannot send leaves the socket unread. No task, no
queue, no timer per splice.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from p2pfwd.net.link.stream import Stream
from p2pfwd.system.poller import Readiness

CHUNK_BYTES: Final = 64 * 1024
"""What the socket does not take is kept in pieces of at most this: cheap to extend, to send, to free."""

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_FLUSH_ON_CLOSE: Final = struct.pack("ii", 0, 0)


def reset_by_default(sock: socket.socket) -> None:
    """From now on a close of this TCP socket is a RST, that by the system included when the daemon is killed.

    What ends as it should is closed with `close_cleanly`.
    """
    with suppress(OSError):  # already disconnected: nobody is left to be told
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


def close_with_reset(sock: socket.socket) -> None:
    """Close a TCP socket so that its peer sees a RST, not an EOF."""
    reset_by_default(sock)
    sock.close()


def close_cleanly(sock: socket.socket) -> None:
    """Close a TCP socket after both FINs; the system delivers what is still in its buffer."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _FLUSH_ON_CLOSE)
    sock.close()


class Splice:
    """One tunnelled connection. `on_closed(splice)` is called exactly once, when it is over."""

    __slots__ = (
        "_fd",
        "_local_eof",
        "_on_closed",
        "_parked",
        "_pending",
        "_pending_offset",
        "_poller",
        "_remote_eof",
        "_sock",
        "_writing",
        "bytes_in",
        "bytes_out",
        "closed",
        "error",
        "stream",
    )

    def __init__(
        self,
        stream: Stream,
        sock: socket.socket,
        poller: Readiness,
        on_closed: Callable[[Splice], None],
    ) -> None:
        """Takes over `sock`, connected and non-blocking."""
        reset_by_default(sock)
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
        self._pending: deque[bytearray] | None = None
        self._pending_offset = 0
        self._local_eof = False
        self._remote_eof = False
        self._parked = False
        self._writing = False

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
            self._poller.remove_reader(self._fd)
            self._parked = True
            self.stream.want_to_send()
        elif self._move(frame) == 0:
            self._poller.remove_reader(self._fd)
            self._end_local()

    def resume_sending(self) -> bool:
        """The stream may send: one frame's turn, straight from the socket. True if more may wait."""
        if not self._parked or self.closed:
            return False
        frame = self.stream.begin_frame()
        if frame is None:
            self.stream.want_to_send()
            return False
        n = self._move(frame)
        if n:
            self.stream.want_to_send()  # another turn, without the selector, until nothing is there
            return True
        if n == 0:
            self._parked = False
            self._end_local()
        elif not self.closed:
            self._unpark()
        return False

    def _move(self, frame: memoryview) -> int | None:
        """Receive into the frame and send it; bytes moved, 0 at EOF, None if there was nothing."""
        try:
            n = self._sock.recv_into(frame)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as exc:
            self._fail(exc)
            return None
        if n:
            self.bytes_out += n
            self.stream.end_frame(n)
        return n

    def _unpark(self) -> None:
        self._parked = False
        self._poller.add_reader(self._fd, self._readable)

    def _end_local(self) -> None:
        self._local_eof = True
        self._send_fin()
        self._finish_if_done()

    def _send_fin(self) -> None:
        self.stream.close_write()

    # --- stream → local socket --------------------------------------------------------------------

    def data_received(self, view: memoryview) -> None:
        """Payload from the peer."""
        if self._pending is not None:
            self._hold(view)
            return
        try:
            n = self._sock.send(view)
        except (BlockingIOError, InterruptedError):
            n = 0
        except OSError as exc:
            self._fail(exc)
            return
        self.bytes_in += n
        if n < len(view):
            self._pending = deque((bytearray(view[n:]),))
            self._writing = True
            self._poller.add_writer(self._fd, self._writable)
        if n:
            self.stream.consumed(n)

    def _hold(self, view: memoryview) -> None:
        assert self._pending is not None
        last = self._pending[-1]
        if len(last) + len(view) <= CHUNK_BYTES:  # a byte object each would cost 40 times a small frame
            last += view
        else:
            self._pending.append(bytearray(view))

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
            self._writing = False
            self._poller.remove_writer(self._fd)
            if self._remote_eof:
                self._end_remote()
        if sent and not self.closed:
            self.stream.consumed(sent)

    def eof_received(self) -> None:
        """The peer's FIN."""
        self._remote_eof = True
        if self._pending is None:
            self._end_remote()

    def _end_remote(self) -> None:
        if self._local_eof:
            self.stream.close_write()  # one that was held back
            self._finish_if_done()  # closes the socket, which is the FIN
            return
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as exc:
            self._fail(exc)

    # --- ending -----------------------------------------------------------------------------------

    def _finish_if_done(self) -> None:
        if self._local_eof and self._remote_eof and self._pending is None:
            self._close()
            close_cleanly(self._sock)
            self._on_closed(self)

    def _close(self) -> None:
        self.closed = True
        self._pending = None
        self._poller.remove_reader(self._fd)
        if self._writing:
            self._poller.remove_writer(self._fd)

    def stream_lost(self, exc: Exception) -> None:
        """Reset by the peer or by us, or the connection is gone: the application must see an error."""
        if self.closed:
            return
        self.error = exc
        self._close()
        close_with_reset(self._sock)
        self._on_closed(self)

    def _fail(self, exc: OSError) -> None:
        """The local socket failed: the peer must see an error."""
        if self.closed:
            return
        self.error = exc
        self._close()
        close_with_reset(self._sock)
        self.stream.reset()
        self._on_closed(self)

    def reset(self) -> None:
        """End abruptly on both sides."""
        self.stream.reset()  # comes back through stream_lost
