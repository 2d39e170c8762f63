"""A splice with a Kubo, whose `ipfs p2p` pipe knows no half-close.

A Kubo ends a tunnel both ways at the first FIN from either side, and what is still under way is lost. So
a forward holds its client's FIN until the reply has ended. Held for ever it would keep a service that
reads to the end of its input (an upload) from ending: the FIN goes out when the client waits for no reply,
being gone altogether, or when nothing is known of the client and no byte has come for `QUIET_S`.

When its own application closes, a Kubo closes the stream in one goroutine and may reset it in another:
once in thirty downloads on a busy machine the reset comes where the FIN should, behind every byte. It
stays a reset, for nobody can tell it from a failure, but the application gets the bytes before it.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from collections.abc import Callable
from typing import Final

from p2pfwd.errors import StreamReset
from p2pfwd.forwarding.splice import Splice
from p2pfwd.net.link.stream import Stream
from p2pfwd.system.poller import Readiness
from p2pfwd.system.sock_diag import has_closed

AGENTS: Final = ("kubo/", "go-ipfs/")

FIRST_LOOK_S: Final = 0.05
MAX_LOOK_S: Final = 8.0
"""How often a client whose FIN is held is looked at: twice as late each time, up to this."""

QUIET_S: Final = 10.0
"""Silence after which the reply of a client on another machine is taken to have ended."""

FLUSH_LOOK_S: Final = 0.02
FLUSH_STALL_S: Final = 5.0
"""How long an application may take no byte of what came before a reset."""


def make_splice(
    stream: Stream,
    sock: socket.socket,
    poller: Readiness,
    loop: asyncio.AbstractEventLoop,
    on_closed: Callable[[Splice], None],
    *,
    kubo: bool,
    hold_fin: bool,
) -> Splice:
    """The splice for a peer: `kubo` if it is one, `hold_fin` if its pipe must not see our FIN first."""
    if kubo:
        return KuboSplice(stream, sock, poller, loop, on_closed, hold_fin=hold_fin)
    return Splice(stream, sock, poller, on_closed)


class KuboSplice(Splice):
    """One tunnelled connection with a Kubo at the other end."""

    __slots__ = (
        "_flushing",
        "_heard",
        "_hold_fin",
        "_look_s",
        "_loop",
        "_progressed_at",
        "_timer",
        "_unsent",
    )

    def __init__(
        self,
        stream: Stream,
        sock: socket.socket,
        poller: Readiness,
        loop: asyncio.AbstractEventLoop,
        on_closed: Callable[[Splice], None],
        *,
        hold_fin: bool,
    ) -> None:
        super().__init__(stream, sock, poller, on_closed)
        self._loop = loop
        self._hold_fin = hold_fin
        self._timer: asyncio.TimerHandle | None = None
        self._look_s = FIRST_LOOK_S
        self._heard = 0
        self._progressed_at = 0.0
        self._flushing: Exception | None = None
        self._unsent = 0

    # --- our FIN ----------------------------------------------------------------------------------

    def _send_fin(self) -> None:
        if self._hold_fin and not self._remote_eof:
            self._progressed_at = self._loop.time()
            self._timer = self._loop.call_later(self._look_s, self._look)
        else:
            self.stream.close_write()

    def _look(self) -> None:
        """Send the held FIN if its client waits for no reply any more; look again later otherwise."""
        now = self._loop.time()
        if self._pending is not None or self.bytes_in != self._heard:
            self._heard, self._progressed_at = self.bytes_in, now
        gone = has_closed(self._sock)
        if gone or (gone is None and now - self._progressed_at >= QUIET_S):
            self.stream.close_write()
        else:
            self._timer = self._loop.call_later(self._look_s, self._look)
            self._look_s = min(2 * self._look_s, MAX_LOOK_S)

    # --- its reset --------------------------------------------------------------------------------

    def stream_lost(self, exc: Exception) -> None:
        """A reset by the peer waits until the application has what came before it."""
        by_peer = isinstance(exc, StreamReset) and exc.details.get("by") == "remote"
        if self.closed or not by_peer or not self._left():
            super().stream_lost(exc)
            return
        self._poller.remove_reader(self._fd)
        self._flushing = exc
        self._progressed_at = self._loop.time()
        self._flush()

    def _flush(self) -> None:
        assert self._flushing is not None
        now, left = self._loop.time(), self._left()
        if left != self._unsent:
            self._unsent, self._progressed_at = left, now
        if left and now - self._progressed_at < FLUSH_STALL_S:
            self._timer = self._loop.call_later(FLUSH_LOOK_S, self._flush)
        else:
            super().stream_lost(self._flushing)

    def _left(self) -> int:
        """Bytes that the application's side has not acknowledged."""
        waiting = sum(map(len, self._pending)) - self._pending_offset if self._pending else 0
        try:
            answer = fcntl.ioctl(self._fd, termios.TIOCOUTQ, bytes(4))
        except OSError:  # not to be had for this socket: what was sent counts as taken
            return waiting
        return waiting + int(struct.unpack("=i", answer)[0])

    def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super()._close()

    def reset(self) -> None:
        """End abruptly on both sides, now."""
        if self._flushing is not None:
            super().stream_lost(self._flushing)
        else:
            super().reset()
