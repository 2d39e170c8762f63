"""A splice with a Kubo, whose `ipfs p2p` pipe knows no half-close.

A Kubo ends a tunnel both ways at the first FIN from either side, and what is still under way is lost. So
a forward holds its client's FIN until the reply has ended. Held for ever it would keep a service that
reads to the end of its input (an upload) from ending, and a client that waits for such a service would
wait for ever. So the FIN goes out

- when the client waits for no reply any more, being gone altogether;
- when nothing is known of the client, being on another machine, and no byte has come for `QUIET_S`;
- in any case when no byte has come for `hold_s` (`forward.kubo_hold_s`).

When its own application closes, a Kubo closes the stream in one goroutine and may reset it in another:
once in thirty downloads on a busy machine the reset comes where the FIN should, behind every byte. It
stays a reset, for nobody can tell it from a failure, but the application gets the bytes before it.

Beside the states of a `Splice` it has these; each state that waits has the only timer there is:

    PLAIN ──the client's FIN, and the reply has not ended──▶ HOLDING ──see above, or the reply's end──▶ PLAIN
    PLAIN, HOLDING ──a reset by the peer, bytes before it under way──▶ FLUSHING
    FLUSHING ──all taken, nothing taken for `FLUSH_STALL_S`, or a reset here──▶ closed
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import math
import socket
import struct
import termios
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from p2pfwd.errors import StreamReset
from p2pfwd.forwarding.looks import TICK_S, Look, Looks
from p2pfwd.forwarding.splice import Splice, State
from p2pfwd.net.link.contract import SplicedStream
from p2pfwd.system.poller import Readiness

log = logging.getLogger("p2pfwd.forwarding")

AGENTS: Final = ("kubo/", "go-ipfs/")

FIRST_LOOK_S: Final = TICK_S
MAX_LOOK_S: Final = 8.0
"""How often a client whose FIN is held is looked at: twice as late each time, up to this."""

QUIET_S: Final = 10.0
"""Silence after which the reply of a client on another machine is taken to have ended."""

TOLD_S: Final = 5.0
"""A FIN that is held for longer is told in the log."""

FLUSH_LOOK_S: Final = 0.02
FLUSH_STALL_S: Final = 5.0
"""How long an application may take no byte of what came before a reset."""


class Wait(Enum):
    """What the splice waits for beside its two directions; the picture is at the head of the file."""

    PLAIN = auto()
    HOLDING = auto()
    FLUSHING = auto()


def make_splice(
    stream: SplicedStream,
    sock: socket.socket,
    poller: Readiness,
    loop: asyncio.AbstractEventLoop,
    on_closed: Callable[[Splice], None],
    *,
    kubo: bool,
    hold_s: float | None,
    looks: Looks,
) -> Splice:
    """The splice for a peer: `kubo` if it is one; `hold_s`: see `KuboSplice`."""
    if kubo:
        return KuboSplice(stream, sock, poller, loop, on_closed, hold_s=hold_s, looks=looks)
    return Splice(stream, sock, poller, on_closed)


class KuboSplice(Splice):
    """One tunnelled connection with a Kubo at the other end."""

    __slots__ = (
        "_flushing",
        "_heard",
        "_held_at",
        "_hold_s",
        "_look_s",
        "_looks",
        "_loop",
        "_progressed_at",
        "_timer",
        "_told",
        "_unsent",
        "_wait",
    )

    def __init__(
        self,
        stream: SplicedStream,
        sock: socket.socket,
        poller: Readiness,
        loop: asyncio.AbstractEventLoop,
        on_closed: Callable[[Splice], None],
        *,
        hold_s: float | None,
        looks: Looks,
    ) -> None:
        """`hold_s`: the longest silence for which our FIN is held, 0 for ever; None: it is not held."""
        super().__init__(stream, sock, poller, on_closed)
        self._loop = loop
        self._hold_s = None if hold_s is None else hold_s or math.inf
        self._looks = looks
        self._wait = Wait.PLAIN
        self._timer: asyncio.TimerHandle | Look | None = None
        self._look_s = FIRST_LOOK_S
        self._heard = 0
        self._held_at = 0.0
        self._told = False
        self._progressed_at = 0.0
        self._flushing: Exception | None = None
        self._unsent = 0

    def _waits(self, what: Wait) -> None:
        """Enter a state; the timer of the one before ends with it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wait = what

    # --- our FIN ----------------------------------------------------------------------------------

    @property
    def holds_fin(self) -> bool:
        """Whether the client has ended its data, and the peer has not been told."""
        return self._wait is Wait.HOLDING

    def _send_fin(self) -> None:
        if self._hold_s is None or self._to_socket in (State.LAST, State.ENDED):
            self.stream.close_write()
            return
        self._waits(Wait.HOLDING)
        self._held_at = self._progressed_at = self._loop.time()
        self._timer = self._looks.later(self._look_s, self._look)

    def _look(self) -> None:
        """Send the held FIN if nothing speaks for holding it any more; look again later otherwise."""
        assert self._hold_s is not None
        now = self._loop.time()
        if self._pending is not None or self.bytes_in != self._heard:
            self._heard, self._progressed_at = self.bytes_in, now
        gone, silent_s = self._looks.diag.has_closed(self._sock), now - self._progressed_at
        most_s = self._hold_s if gone is not None else min(QUIET_S, self._hold_s)
        if gone or silent_s >= most_s:
            if not gone and self._told:
                log.warning("%s: nothing came for %.0f s: its end of data is sent", self._name(), silent_s)
            self._waits(Wait.PLAIN)
            self.stream.close_write()
            return
        if not self._told and now - self._held_at >= TOLD_S:
            self._told = True
            log.info(
                "%s: its client's end of data is held until the reply has ended, for a Kubo would cut the "
                "reply off (forward.kubo_hold_s)",
                self._name(),
            )
        self._timer = self._looks.later(min(self._look_s, most_s - silent_s), self._look)
        self._look_s = min(2 * self._look_s, MAX_LOOK_S)

    def _name(self) -> str:
        return f"{self.stream.protocol} with {self.stream.remote_peer.short()}"

    def eof_received(self) -> None:
        """The peer's FIN, which is the reply's end: ours is held no longer."""
        if self._wait is Wait.HOLDING:
            self._waits(Wait.PLAIN)
        super().eof_received()

    # --- its reset --------------------------------------------------------------------------------

    def stream_lost(self, exc: Exception) -> None:
        """A reset by the peer waits until the application has what came before it."""
        self.pass_gathered()
        by_peer = isinstance(exc, StreamReset) and exc.details.get("by") == "remote"
        if self.closed or not by_peer or not self._left():
            super().stream_lost(exc)
            return
        self._poller.remove_reader(self._fd)
        self._waits(Wait.FLUSHING)
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
        self._waits(Wait.PLAIN)
        super()._close()

    def reset(self, code: int = 0) -> None:
        """End abruptly on both sides, now."""
        if self._flushing is not None:
            super().stream_lost(self._flushing)
        else:
            super().reset(code)
