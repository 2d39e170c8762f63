"""The blocking client of the control socket. Nothing it imports imports asyncio: the CLI stands on it.

Rules: one connection, one thread. `connect` says `daemon.hello` before it returns. Answers are matched
by id; events that arrive meanwhile wait for their `Subscription`. A daemon's error is raised as the class
its code names in `p2pfwd.errors`. After a TimedOut the late answer is dropped when it comes.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from p2pfwd import errors
from p2pfwd.errors import ConnectionLost, DaemonNotRunning, RpcProtocolError, RpcVersionMismatch, TimedOut
from p2pfwd.rpc import codec
from p2pfwd.rpc.paths import check_socket_path
from p2pfwd.rpc.schema import (
    MAX_REPLY_BYTES,
    METHODS,
    RPC_MAJOR,
    CancelParams,
    Empty,
    Event,
    HelloParams,
    HelloResult,
    SubscribeParams,
)
from p2pfwd.system.peer_credentials import peer_uid
from p2pfwd.system.private_files import storage_failed

READ_BYTES = 1 << 16
MAX_WAITING_EVENTS = 10_000
"""Events kept for a subscription nobody reads while calls go on; more is a defect of the caller."""


class Client:
    """A connection to the daemon."""

    hello: HelloResult

    def __init__(self, sock: socket.socket) -> None:
        """Takes over a connected socket; `connect` is the way to one."""
        self._sock = sock
        self._decoder = codec.LineDecoder(MAX_REPLY_BYTES)
        self._lines: deque[bytes | None] = deque()
        self._events: deque[Event] = deque()
        self._tell: Callable[[Event], None] | None = None
        self._told: frozenset[str] = frozenset()
        self._interrupt: int | None = None
        self._last_id = 0

    @classmethod
    def connect(cls, path: Path, timeout_s: float | None = 10.0, *, client: str = "") -> Client:
        """Connect to the daemon at the control socket `path` and greet it; `timeout_s` bounds both.

        Raises DaemonNotRunning, RpcVersionMismatch, TimedOut, BindFailed (the path is too long), or
        StorageFailed (the socket is there and this user may not use it).
        """
        deadline = _deadline(timeout_s)
        self = cls(_connected(path, timeout_s))
        try:
            self.hello = self.call("daemon.hello", HelloParams(RPC_MAJOR, client), timeout_s=_left(deadline))
            if self.hello.rpc != RPC_MAJOR:
                raise RpcVersionMismatch(
                    f"control socket: the daemon speaks RPC {self.hello.rpc}, this command {RPC_MAJOR}",
                    hint="restart the daemon: p2pfwd shutdown, then the command again",
                )
        except ConnectionLost:
            self.close()
            raise _not_running(path) from None
        except BaseException:
            self.close()
            raise
        return self

    def call(self, method: str, params: object = None, *, timeout_s: float | None = None) -> Any:
        """The result dataclass of `method` (see `schema.METHODS`); no `params` means Empty().

        Raises the daemon's error, TimedOut after `timeout_s`, ConnectionLost when the daemon goes.
        """
        deadline = _deadline(timeout_s)
        self._last_id += 1
        request_id = self._last_id
        line = codec.encode_request(request_id, method, Empty() if params is None else params)
        self._send(line, deadline)
        while True:
            reply = self._read(deadline)
            if isinstance(reply, codec.Response) and reply.id in (request_id, None):
                break
        if reply.error is not None:
            raise reply.error
        return codec.result_from_json(METHODS[method][1], reply.result, method)

    def subscribe(self, topics: Sequence[str]) -> Subscription:
        """Events of `topics` ("log", "listeners", "streams", "peers") from now on."""
        result = self.call("events.subscribe", SubscribeParams(tuple(topics)))
        return Subscription(self, result.subscription)

    def narrate(self, topics: Sequence[str], tell: Callable[[Event], None]) -> None:
        """Hand events of `topics` to `tell` as they come in while a call waits for its answer."""
        self.subscribe(topics)
        self._told, self._tell = frozenset(topics), tell

    def interrupt_on(self, fd: int) -> None:
        """From now on whatever waits for the daemon raises KeyboardInterrupt once `fd` is readable."""
        self._interrupt = fd

    def next_event(self, subscription: int, timeout_s: float | None = None) -> Event:
        """The next event of one subscription; raises TimedOut and ConnectionLost."""
        deadline = _deadline(timeout_s)
        while True:
            for event in self._events:
                if event.subscription == subscription:
                    self._events.remove(event)
                    return event
            self._read(deadline)

    def close(self) -> None:
        """Close the connection; leases and subscriptions end with it. Idempotent."""
        self._sock.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, line: bytes, deadline: float | None) -> None:
        try:
            self._sock.settimeout(_left(deadline))
            self._sock.sendall(line)
        except TimeoutError:
            raise TimedOut("control socket: the daemon does not take the request") from None
        except OSError:
            # It closed on us. What it said before may still be there to read; if not, reading tells.
            return

    def _read(self, deadline: float | None) -> codec.Response | codec.Notification:
        while not self._lines:
            self._await_interruptibly(deadline)
            try:
                self._sock.settimeout(_left(deadline))
                data = self._sock.recv(READ_BYTES)
            except TimeoutError:
                raise TimedOut("control socket: the daemon did not answer in time") from None
            except OSError as exc:
                raise _lost() from exc
            if not data:
                raise _lost()
            self._lines.extend(self._decoder.feed(data))
        line = self._lines.popleft()
        if line is None:
            raise RpcProtocolError(f"RPC reply: a line longer than {MAX_REPLY_BYTES} bytes")
        message = codec.decode_reply(line)
        if isinstance(message, codec.Notification) and message.method == codec.EVENT_METHOD:
            event = codec.result_from_json(Event, message.params, codec.EVENT_METHOD)
            if self._tell is not None and event.topic in self._told:
                self._tell(event)
                return message
            if len(self._events) == MAX_WAITING_EVENTS:
                raise RpcProtocolError("control socket: more events than anybody reads here")
            self._events.append(event)
        return message

    def _await_interruptibly(self, deadline: float | None) -> None:
        if self._interrupt is None:
            return
        ready, _, _ = select.select((self._sock.fileno(), self._interrupt), (), (), _left(deadline))
        if self._interrupt in ready:
            raise KeyboardInterrupt


class Subscription:
    """Iterator over the events of one `Client.subscribe`; raises ConnectionLost when the daemon goes."""

    def __init__(self, client: Client, subscription: int) -> None:
        self.id = subscription
        self._client = client

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        return self._client.next_event(self.id)

    def next(self, timeout_s: float | None = None) -> Event:
        """The next event; raises TimedOut when none comes within `timeout_s`."""
        return self._client.next_event(self.id, timeout_s)

    def cancel(self) -> None:
        """End the subscription."""
        self._client.call("events.cancel", CancelParams(self.id))


def _connected(path: Path, timeout_s: float | None) -> socket.socket:
    check_socket_path(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _bound_connect(sock, timeout_s)
        sock.connect(os.fsencode(path))
        uid = peer_uid(sock)
    except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError, NotADirectoryError):
        sock.close()
        raise _not_running(path) from None
    except (TimeoutError, BlockingIOError):
        sock.close()
        raise TimedOut("control socket: the daemon does not accept connections") from None
    except OSError as exc:
        sock.close()
        raise storage_failed("control socket", path, exc) from exc
    if uid not in (None, 0, os.geteuid()) and os.geteuid() != 0:
        sock.close()
        raise errors.StorageFailed(
            f"control socket {path}: it is held by another user (uid {uid})",
            hint="set P2PFWD_HOME (or --home) to a directory of your own",
            path=str(path),
        )
    return sock


def _bound_connect(sock: socket.socket, timeout_s: float | None) -> None:
    # Not settimeout: a non-blocking connect to a Unix socket fails at once when the backlog is full.
    if timeout_s is not None:
        seconds, rest = divmod(max(timeout_s, 0.001), 1)
        timeval = struct.pack("@ll", int(seconds), int(rest * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)


def _not_running(path: Path) -> DaemonNotRunning:
    return DaemonNotRunning(
        f"no daemon is running (control socket {path})",
        hint="start it with: p2pfwd daemon (a command that saves something starts it by itself)",
        socket=str(path),
    )


def _lost() -> ConnectionLost:
    return ConnectionLost("control socket: the daemon ended the connection")


def _deadline(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else time.monotonic() + timeout_s


def _left(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimedOut("control socket: the daemon did not answer in time")
    return left
