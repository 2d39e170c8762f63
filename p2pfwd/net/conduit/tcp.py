"""TCP conduits: non-blocking sockets read and written in event-loop callbacks.

Rules: send on the socket itself and own what remains (transports copy or keep the view, depending
on the Python version); one read per turn and connection, with level-triggered readers; read always, unless
the receiver says `pause`: then what it left is kept, and the rest waits in the kernel, which slows the peer.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import struct
import sys
import termios
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from p2pfwd.core.multiaddrs import Multiaddr, TcpEndpoint
from p2pfwd.net.conduit.contract import Receiver
from p2pfwd.system import sockaddrs, tcp_socket
from p2pfwd.system.buffers import CORKED_FRAMES, FRAME_BYTES, LARGE_BYTES, READ_BYTES
from p2pfwd.system.loop_io import LoopIo
from p2pfwd.wire.circuit import Limit

UNSENT_LOWAT_BYTES: Final = 256 * 1024
"""TCP_NOTSENT_LOWAT: unsent bytes the kernel takes. Bounds how long an ssh keystroke waits behind a
bulk copy; measured at 20 bulk streams, the echo's p99 follows it."""

SPARE_READ_BYTES: Final = 32 * 1024
"""Read at once from a peer whose frames cost more than their bytes: the rest stays with the kernel."""

SO_BUF_LOCK: Final = 72
"""Linux 5.15; socket(7) has it, Python's socket does not."""

NEAR_S: Final = 0.001
"""A round trip of less is a short way, see `is_near`: within a machine, or a local network."""

USER_TIMEOUT_MS: Final = 40_000
"""TCP_USER_TIMEOUT: unacknowledged data for this long means a dead peer (found within 45 s)."""


def tune(sock: socket.socket) -> None:
    """Options every connection of ours has."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_NOTSENT_LOWAT", UNSENT_LOWAT_BYTES), ("TCP_USER_TIMEOUT", USER_TIMEOUT_MS)):
        option = getattr(socket, name, None) or {"TCP_NOTSENT_LOWAT": 25}.get(name)
        if option is not None:
            try:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
            except OSError as exc:
                if exc.errno not in (errno.ENOPROTOOPT, errno.EINVAL):  # a kernel without it does without
                    raise


_LAST_ACK, _SEND_WINDOW, _INFO_BYTES = 56, 228, 232
"""In Linux' tcp_info: where the time since the last ACK is, and the peer's window; how much of it we want."""

_TICK_S: Final = 0.01
"""The kernel counts in steps of 1 to 10 ms."""


def acknowledged_s(sock: socket.socket) -> float | None:
    """See `Conduit.acknowledged_s`; only Linux tells."""
    if sys.platform != "linux":
        return None
    try:
        (unacknowledged,) = struct.unpack("=i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
    except OSError:
        return None
    shut = len(info) == _INFO_BYTES and info[_SEND_WINDOW:] == bytes(4)
    if not unacknowledged:
        return 0.0
    if shut:
        return _TICK_S / 10
    (last_ack_ms,) = struct.unpack_from("=I", info, _LAST_ACK)
    return float(last_ack_ms) / 1000 + _TICK_S


_MIN_RTT: Final = 148
"""In Linux' tcp_info: the shortest round trip, in microseconds."""

_SEGMENTS_IN, _DATA_SEGMENTS_IN = 140, 152
"""In Linux' tcp_info: how many segments have come, and those of them with data."""

_CLOSE_WAIT: Final = 8
"""The state, its first byte, in which a FIN has come."""


class TcpConduit:
    """A connected TCP socket as a conduit. Reads once `start` has been called."""

    __slots__ = (
        "_at_eof",
        "_carry",
        "_closed",
        "_fd",
        "_finishing",
        "_loop",
        "_moved",
        "_partial",
        "_paused",
        "_poller",
        "_pool",
        "_read_bytes",
        "_receiver",
        "_sock",
        "_tail",
        "_told",
        "_told_always",
        "_unsent",
        "congested",
        "heard",
        "local_addr",
        "progressed_at",
        "remote_addr",
    )

    limit: Limit | None = None
    limit_left: Limit | None = None
    segment_bytes: int | None = None
    wide_bytes = LARGE_BYTES

    def __init__(self, sock: socket.socket, io: LoopIo) -> None:
        self.local_addr: Multiaddr = sockaddrs.multiaddr_of(sock.getsockname())
        self.remote_addr: Multiaddr = sockaddrs.multiaddr_of(sock.getpeername())
        self.congested = False
        self.heard = False
        """Whether anything has come yet."""
        self.progressed_at = 0.0
        """Monotonic time of the last send that the kernel took while congested."""
        self._sock = sock
        self._fd = sock.fileno()
        self._loop = io.loop
        self._poller = io.poller
        self._pool = io.pool
        self._told_always: Callable[[int], None] = io.busy_poll.moved
        self._told: Callable[[int], None] = self._told_always
        self._moved: Callable[[int], None] = self._told
        self._read_bytes = READ_BYTES
        self._paused = False
        self._receiver: Receiver | None = None
        self._carry = b""
        self._partial: tuple[memoryview, int, int] | None = None
        """A read buffer that is kept, for a wide message has come in part: from where to where it lies."""
        self._unsent: list[memoryview] = []
        """Frames that wait for more, or for room; each lies in its frame, kept meanwhile, or is a copy."""
        self._tail = bytearray()
        self._finishing = False
        self._closed = False
        self._at_eof = False

    def start(self, receiver: Receiver, leftover: bytes = b"") -> None:
        """Begin, or go on, with this receiver; it is given `leftover` first."""
        if self._closed:
            receiver.conduit_lost(None)
            return
        first = self._receiver is None
        self._receiver = receiver
        if first:
            self._poller.add_reader(self._fd, self._readable)
        if leftover:
            view = memoryview(bytearray(leftover))  # channels open messages in place
            self._keep(view[receiver.data_received(view) :])
        if self._at_eof:
            receiver.eof_received()

    def has_crossed(self) -> bool:
        """Asked as it comes up: whether our connect met the peer's own, or itself (simultaneous open).

        Both ends have dialed then, and neither would listen. Of a plain connect one segment without data has
        come, SYN-ACK; of a crossed one SYN and SYN-ACK. After a lost ACK there are two as well: the price is
        one connect more.
        """
        if self.local_addr == self.remote_addr:
            return True
        if sys.platform != "linux":
            return False
        info = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        if len(info) < _DATA_SEGMENTS_IN + 4:  # before Linux 4.6
            return False
        (segments,) = struct.unpack_from("=I", info, _SEGMENTS_IN)
        (with_data,) = struct.unpack_from("=I", info, _DATA_SEGMENTS_IN)
        return int(segments) - int(with_data) - (info[0] == _CLOSE_WAIT) > 1

    # --- receiving --------------------------------------------------------------------------------

    def pause(self) -> None:
        """See Conduit.pause."""
        if not self._paused:
            self._paused = True
            if not (self._closed or self._at_eof):  # who has gone must not keep its place
                self._poller.watch_failure(self._fd, self._failed)

    def _failed(self) -> None:
        code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or errno.ECONNRESET
        self._lose(OSError(code, os.strerror(code)))

    def resume(self) -> None:
        """See Conduit.resume."""
        if not self._paused or self._closed:
            return
        self._paused = False
        if self._carry and self._receiver is not None:
            view = memoryview(bytearray(self._carry))  # not in the scratch: another's read may lie there
            self._keep(view[self._receiver.data_received(view) :])
        if not (self._paused or self._closed or self._at_eof):
            self._poller.add_reader(self._fd, self._readable)

    def spare(self, spare: bool) -> None:
        """See Conduit.spare. What such a connection does keeps nobody else waiting: it is not told of."""
        self._read_bytes = SPARE_READ_BYTES if spare else READ_BYTES
        self._moved = self._told
        if spare:
            self._moved = _untold

    def tell(self, moved: Callable[[], None] | None) -> None:
        """See Conduit.tell."""
        self._told = self._told_always if moved is None else partial(_both, moved, self._told_always)
        if self._moved is not _untold:
            self._moved = self._told

    @property
    def is_near(self) -> bool:
        """See Conduit.is_near. Only Linux tells."""
        if self._closed or sys.platform != "linux":
            return False
        info = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        if len(info) < _MIN_RTT + 4:  # before Linux 4.6
            return False
        (rtt_us,) = struct.unpack_from("=I", info, _MIN_RTT)
        return float(rtt_us) < NEAR_S * 1e6

    def squeeze(self, room: int | None) -> None:
        """See Conduit.squeeze. Left to itself the system takes 6 MB of a flood that nobody reads."""
        try:
            if room is not None:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
            else:
                self._sock.setsockopt(socket.SOL_SOCKET, SO_BUF_LOCK, 0)  # sized by the system again
        except OSError as exc:
            if exc.errno not in (errno.ENOPROTOOPT, errno.EINVAL, errno.EBADF):  # old kernels; closed
                raise

    @property
    def kept_bytes(self) -> int:
        """See Conduit.kept_bytes."""
        partial = LARGE_BYTES if self._partial is not None else 0
        unsent = sum(memoryview(view.obj).nbytes for view in self._unsent)
        return len(self._carry) + len(self._tail) + partial + unsent

    def _keep(self, left: memoryview) -> None:
        self._pool.kept_bytes += len(left) - len(self._carry)
        self._carry = bytes(left)
        if self._closed and self._carry:
            self._keep(left[:0])

    def _readable(self) -> None:
        receiver, partial = self._receiver, self._partial
        assert receiver is not None
        scratch, start, kept, room = self._pool.scratch, 0, len(self._carry), self._read_bytes
        if partial is not None:
            scratch, start, kept = partial
        elif kept:
            scratch[:kept] = self._carry
        if kept and receiver.missing:
            room = min(room, receiver.missing)  # the next message begins at the start of the next read
        try:
            n = self._sock.recv_into(scratch[kept : kept + room])
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self._lose(exc)
            return
        if n == 0:
            self._at_eof = True
            self._poller.remove_reader(self._fd)
            receiver.eof_received()
            return
        self._moved(n)
        self.heard = True
        end = kept + n
        used = start + receiver.data_received(scratch[start:end])
        if partial is not None or end - used > FRAME_BYTES:
            self._keep_partial(scratch, used, end, receiver.missing)
        elif kept or used < end:
            self._keep(scratch[used:end])

    def _keep_partial(self, scratch: memoryview, start: int, end: int, missing: int) -> None:
        """Let what was left of a read lie where it is, if it is much and the rest of it fits behind it."""
        if self._closed:
            return
        if missing and end + missing <= LARGE_BYTES:
            if self._partial is None:
                self._keep(scratch[:0])
                self._pool.keep_scratch()
            self._partial = scratch, start, end
        else:
            self._keep(scratch[start:end])
            self._release_partial()

    def _release_partial(self) -> None:
        if self._partial is not None:
            buffer, self._partial = self._partial[0].obj, None
            assert isinstance(buffer, bytearray)
            self._pool.release_scratch(buffer)

    def acknowledged_s(self) -> float | None:
        """See Conduit; nearly 0 while the peer's window is shut: only one that is there can say that."""
        return None if self._closed else acknowledged_s(self._sock)

    def retry_within(self, seconds: float | None) -> None:
        """See Conduit: Linux tries once more before the user timeout, whatever its pause would be."""
        if not self._closed and sys.platform == "linux":
            wanted_ms = USER_TIMEOUT_MS if seconds is None else min(USER_TIMEOUT_MS, int(seconds * 1000))
            with suppress(OSError):
                self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, wanted_ms)

    # --- sending ----------------------------------------------------------------------------------

    def send(self, view: memoryview, *, framed: bool = False, more: bool = False) -> None:
        """Send a view; see Conduit.send. Silently nothing once closed."""
        if more or self._unsent or self._closed:
            self._send_with_others(view, framed, more)
            return
        try:
            n = self._sock.send(view)
        except (BlockingIOError, InterruptedError):
            n = 0
        except OSError as exc:
            self._loop.call_soon(self._lose, exc)  # not inside the sender's call
            return
        if n == len(view):
            self._moved(n)
            return
        self._keep_unsent(view[n:], framed)
        self._congest()

    def _send_with_others(self, view: memoryview, framed: bool, more: bool) -> None:
        if self._closed:
            return
        if self.congested:
            self._tail += view
            return
        self._keep_unsent(view, framed)
        if not more or len(self._unsent) == CORKED_FRAMES or self._pool.is_scarce:
            self.uncork()

    def uncork(self) -> None:
        """See Conduit.uncork."""
        if self.congested or not self._unsent:
            return
        try:
            n = self._sock.sendmsg(self._unsent)
        except (BlockingIOError, InterruptedError):
            n = 0
        except OSError as exc:
            self._release()
            self._loop.call_soon(self._lose, exc)  # not inside the sender's call
            return
        self._sent(n)
        if self._unsent:
            self._congest()
        else:
            self._moved(n)

    def _congest(self) -> None:
        self.congested = True
        self.progressed_at = time.monotonic()
        self._poller.add_writer(self._fd, self._writable)

    def _writable(self) -> None:
        try:
            n = self._sock.sendmsg(self._unsent)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self._lose(exc)
            return
        self.progressed_at = time.monotonic()
        self._sent(n)
        if self._unsent:
            return
        if self._tail:
            tail, self._tail = self._tail, bytearray()
            self._keep_unsent(memoryview(tail), framed=False)
            return
        self.congested = False
        if self._finishing:
            self._shutdown()
        elif self._receiver is not None:
            self._receiver.drained()
        if not self.congested and not self._closed:
            self._poller.remove_writer(self._fd)

    def _keep_unsent(self, view: memoryview, framed: bool) -> None:
        """To be sent later: with the frame that it lies in, or as a copy."""
        if framed:
            self._pool.keep(view)
        else:
            view = memoryview(bytes(view))
            self._pool.kept_bytes += len(view)
        self._unsent.append(view)

    def _sent(self, n: int) -> None:
        """Let go of what has been sent of it."""
        unsent = self._unsent
        while unsent and n >= len(unsent[0]):
            view = unsent.pop(0)  # of five at most
            n -= len(view)
            self._give_back(view)
        if n:
            unsent[0] = unsent[0][n:]

    def _give_back(self, view: memoryview) -> None:
        """What a view lies in: a frame, or a copy."""
        buffer = view.obj
        if isinstance(buffer, bytearray):
            self._pool.release(buffer)
        else:
            self._pool.kept_bytes -= memoryview(buffer).nbytes

    def _release(self) -> None:
        for view in self._unsent:
            self._give_back(view)
        self._unsent.clear()

    # --- ending -----------------------------------------------------------------------------------

    def finish(self) -> None:
        """EOF after what waits."""
        self.uncork()
        self._finishing = True
        if not self.congested and not self._closed:
            self._shutdown()

    def _shutdown(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as exc:
            self._loop.call_soon(self._lose, exc)

    def abort(self) -> None:
        """End at once."""
        self._lose(None)

    def _lose(self, exc: Exception | None) -> None:
        if self._closed:
            return
        self._closed = True
        self.congested = False
        self._poller.remove_reader(self._fd)
        self._poller.remove_writer(self._fd)
        self._release()
        self._tail.clear()
        self._release_partial()
        self._keep(memoryview(b""))
        self._sock.close()
        if self._receiver is not None:
            receiver, self._receiver = self._receiver, None
            receiver.conduit_lost(exc)


def _both(moved: Callable[[], None], always: Callable[[int], None], nbytes: int) -> None:
    moved()
    always(nbytes)


def _untold(_nbytes: int) -> None:
    pass


async def connect(
    endpoint: TcpEndpoint, io: LoopIo, timeout_s: float, *, local_port: int | None = None
) -> TcpConduit:
    """Connect to a literal ip4 or ip6 endpoint, from any free port or that of a listening socket of ours.

    Raises OSError (EADDRNOTAVAIL: from `local_port` there is a connection to it), or TimeoutError after
    `timeout_s`.
    """
    family, sockaddr = sockaddrs.sockaddr_of(endpoint)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        tune(sock)
        if local_port is not None:
            tcp_socket.bind_to_shared(sock, local_port)
        async with asyncio.timeout(timeout_s):
            await sockaddrs.connect(sock, sockaddr)
        return TcpConduit(sock, io)
    except BaseException:
        sock.close()
        raise
