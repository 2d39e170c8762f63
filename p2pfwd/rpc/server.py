"""The control socket's server: JSON-RPC over a Unix socket, for this user only.

Implements p2pfwd-rpc(7): hello first, several calls in flight, subscriptions, leases.
Rules: the process at the other end must have this user's uid (or root's). The caller of `start` holds the
home's lock, so a socket file nobody answers on is stale and is unlinked. Closing either direction of a
connection ends it: its calls are cancelled, its subscriptions end, its leases (`CallContext.on_disconnect`)
are called. A client that does not read its replies is not read from. A stop cancels the calls under way, but
gives those that save something (`schema.SAVING`) their time: what was carried out is answered as that.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Any, cast

from p2pfwd import errors
from p2pfwd.errors import P2PForwardError, RpcProtocolError
from p2pfwd.rpc import codec
from p2pfwd.rpc.events import EventHub, EventQueue
from p2pfwd.rpc.paths import check_socket_path
from p2pfwd.rpc.schema import (
    MAX_LINE_BYTES,
    MAX_REPLY_BYTES,
    METHODS,
    RPC_MAJOR,
    SAVING,
    CancelParams,
    Empty,
    Event,
    HelloParams,
    SubscribeParams,
    SubscribeResult,
)
from p2pfwd.system import unix_socket
from p2pfwd.system.acceptor import BACKLOG, Acceptor, Sockaddr
from p2pfwd.system.descriptors import Spare, reason
from p2pfwd.system.peer_credentials import peer_uid
from p2pfwd.system.private_files import private_directory, storage_failed
from p2pfwd.system.unix_socket import UnixSocket

log = logging.getLogger("p2pfwd.rpc")

MAX_CONNECTIONS = 256
"""Clients at once: commands and a few foreground listens; beyond it something runs wild."""
MAX_CALLS_IN_FLIGHT = 64
"""Calls of one connection under way: with MAX_LINE_BYTES it bounds what one client makes us hold."""
MAX_SUBSCRIPTIONS = 16
"""Subscriptions of one connection."""
MAX_LINES_PER_TURN = 128
"""Lines of one client that are answered before others get their turn."""
SAVING_GRACE_S = 4.0
"""How long closing waits for calls that save something: a disk writes in milliseconds, unless it hangs."""
CLOSE_GRACE_S = 1.0
"""How long closing waits for clients to take the last replies."""
LOOK_S = 2.0
"""How often the daemon looks whether its socket's file is still there: cleaners of temporary directories take
it away, and so do people, and nobody could reach the daemon any more."""


class CallContext:
    """What a handler may know of its call, and the lease on its client."""

    __slots__ = ("_connection", "method")

    def __init__(self, connection: Connection, method: str) -> None:
        self._connection = connection
        self.method = method

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when the client's connection ends: at once if it has."""
        self._connection.add_lease(callback)


Handler = Callable[[CallContext, Any], Awaitable[Any]]


class RpcServer:
    """Serves `handlers` (method of `schema.METHODS` -> coroutine function) on the socket `path`.

    `events.*` are its own. `daemon.hello` must be among the handlers; the version is checked before.
    """

    def __init__(self, path: Path, handlers: Mapping[str, Handler]) -> None:
        self.hub = EventHub()
        self.handlers = handlers
        self.connections: set[Connection] = set()
        self.closing = False
        self._path = path
        self._socket: UnixSocket | None = None
        self._acceptor: Acceptor | None = None
        self._accepting: set[asyncio.Task[Any]] = set()
        self._spare: Spare | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._is_lost = False

    async def start(self) -> None:
        """Bind and serve; the caller holds the home's lock, and the directory exists.

        Raises BindFailed, StorageFailed, or DaemonRunning when another home's daemon answers there.
        """
        self._listen()
        self._looking = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _listen(self) -> None:
        bound = _bind(self._path)
        if self._acceptor is not None:
            self._acceptor.close()
        self._socket = bound
        if self._spare is None:
            self._spare = Spare()
        loop = asyncio.get_running_loop()
        self._acceptor = Acceptor(
            bound.sock,
            loop,
            self._accepted,
            spare=self._spare,  # the owner is to be heard, whatever strangers hold
            what="control socket: ",
        )

    def _look(self) -> None:
        self._looking = asyncio.get_running_loop().call_later(LOOK_S, self._look)
        if self._socket is None or self._socket.is_in_place():
            return
        try:
            private_directory(self._path.parent, "control socket's directory")
            self._listen()
        except P2PForwardError as exc:
            if not self._is_lost:
                log.warning("%s; commands cannot reach this daemon (it tries again)", exc.message)
            self._is_lost = True
            return
        self._is_lost = False
        log.warning("control socket %s: its file was gone, and is made anew", self._path)

    def _accepted(self, sock: socket.socket, _peer: Sockaddr) -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(loop.connect_accepted_socket(lambda: Connection(self), sock))
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)

    def publish(self, topic: str, data: dict[str, Any]) -> None:
        """Tell an event to its subscribers; never blocks, never fails."""
        self.hub.publish(topic, time.time(), data)

    async def close(self) -> None:
        """Answer the calls under way, end every connection, remove the socket. Idempotent.

        Those that save something have `SAVING_GRACE_S` to be carried out; the others end with ShuttingDown.
        """
        self.closing = True
        if self._looking is not None:
            self._looking.cancel()
        if self._acceptor is not None:
            self._acceptor.close()
        if self._spare is not None:
            self._spare.close()
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.remove_file()
            self._socket = None
        if self._accepting:
            await asyncio.wait(list(self._accepting))
        connections = list(self.connections)
        saving = [call for connection in connections for call in connection.shut(but=SAVING)]
        if saving:
            await asyncio.wait(saving, timeout=SAVING_GRACE_S)
        for connection in connections:
            connection.shut()
        if connections:
            await asyncio.wait([c.ended for c in connections], timeout=CLOSE_GRACE_S)
        for connection in connections:
            await connection.abort()


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, server: RpcServer) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._decoder = codec.LineDecoder(MAX_LINE_BYTES)
        self._calls: dict[codec.RequestId, asyncio.Task[None]] = {}
        """Each has the name of its method."""
        self._leases: list[Callable[[], None]] = []
        self._queues: dict[int, EventQueue] = {}
        self._greeted = False
        self._full = False
        self._lines: deque[bytes | None] = deque()
        """Came in one read and were not looked at yet; nothing more is read meanwhile."""

    # --- the transport's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        refusal = self._refusal(self._transport)
        self._server.connections.add(self)
        if refusal is not None:
            self._write(codec.encode_error(None, refusal))
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._lines.extend(self._decoder.feed(data))
        self._answer()

    def _answer(self) -> None:
        """Look at some lines; the rest waits for the next turn, or until the client has read its replies."""
        for _ in range(MAX_LINES_PER_TURN):
            if self._full or not self._lines:
                break
            self._take(self._lines.popleft())
        transport = self._transport
        if transport is None or transport.is_closing():
            self._lines.clear()
        elif self._lines and not self._full:
            transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._answer)
        elif not self._lines and not self._full:
            transport.resume_reading()

    def pause_writing(self) -> None:
        self._full = True
        for queue in self._queues.values():
            queue.pause()
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._full = False
        self._answer()
        for queue in list(self._queues.values()):
            queue.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._server.connections.discard(self)
        for queue in self._queues.values():
            self._server.hub.remove(queue)
        self._queues.clear()
        for call in self._calls.values():
            call.cancel()
        leases, self._leases = self._leases, []
        for lease in leases:
            lease()
        if not self.ended.done():
            self.ended.set_result(None)

    # --- for the server and the context

    def add_lease(self, callback: Callable[[], None]) -> None:
        """See `CallContext.on_disconnect`."""
        if self.ended.done():
            callback()
        else:
            self._leases.append(callback)

    def shut(self, but: Collection[str] = ()) -> list[asyncio.Task[None]]:
        """The server closes: cancel the calls, which answers them, then close when all is written.

        `but`: methods whose calls are not cancelled; those that are under way.
        """
        left = []
        for call in self._calls.values():
            if call.get_name() in but:
                left.append(call)
            else:
                call.cancel()
        if not self._calls and self._transport is not None:
            self._transport.close()
        return left

    async def abort(self) -> None:
        """End at once, and wait until nothing of this connection runs."""
        if self._transport is not None:
            self._transport.abort()
        if self._calls:
            await asyncio.wait(list(self._calls.values()))
        await self.ended

    # --- requests

    def _refusal(self, transport: asyncio.Transport) -> P2PForwardError | None:
        uid = peer_uid(transport.get_extra_info("socket"))
        if uid not in (None, 0, os.geteuid()):
            log.warning("control socket: refused a client of uid %d", uid)
            return errors.UsageError(f"control socket: it belongs to uid {os.geteuid()}, not to uid {uid}")
        if self._server.closing:
            return _shutting_down()
        if len(self._server.connections) >= MAX_CONNECTIONS:
            return errors.ResourceLimitExceeded(f"control socket: {MAX_CONNECTIONS} clients are connected")
        return None

    def _take(self, line: bytes | None) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if line is None:
            too_long = RpcProtocolError(f"RPC line: longer than {MAX_LINE_BYTES} bytes")
            self._write(codec.encode_error(None, too_long))
            return
        try:
            request = codec.decode_request(line)
        except codec.InvalidRequest as exc:
            self._write(codec.encode_error(exc.request_id, exc))
            return
        try:
            handler, params = self._route(request)
        except P2PForwardError as exc:
            self._write(codec.encode_error(request.id, exc))
            return
        context = CallContext(self, request.method)
        work = self._call(request.id, handler, context, params)
        call = asyncio.get_running_loop().create_task(work, name=request.method)
        self._calls[request.id] = call
        call.add_done_callback(lambda _: self._finished(request.id))

    def _route(self, request: codec.Request) -> tuple[Handler, Any]:
        method = request.method
        if self._server.closing:
            raise _shutting_down()
        if request.id in self._calls:
            raise RpcProtocolError(f"RPC request: a call with the id {request.id!r} is under way")
        if len(self._calls) >= MAX_CALLS_IN_FLIGHT:
            raise errors.ResourceLimitExceeded(f"control socket: {MAX_CALLS_IN_FLIGHT} calls are under way")
        if not self._greeted and method != "daemon.hello":
            raise RpcProtocolError("RPC request: the first call must be daemon.hello")
        own: dict[str, Handler] = {"events.subscribe": self._subscribe, "events.cancel": self._cancel}
        handler = own.get(method) or self._server.handlers.get(method)
        if handler is None or method not in METHODS:
            raise errors.MethodNotFound(f"the daemon has no RPC method {method!r}", method=method)
        params: Any = codec.params_from_json(METHODS[method][0], request.params, method)
        if isinstance(params, HelloParams):
            _check_major(params.rpc)
            self._greeted = True
        return handler, params

    async def _call(
        self, request_id: codec.RequestId, handler: Handler, context: CallContext, params: Any
    ) -> None:
        try:
            line = codec.encode_result(request_id, await handler(context, params))
            if len(line) > MAX_REPLY_BYTES:
                raise RpcProtocolError(f"RPC reply to {context.method}: {len(line)} bytes are too many")
        except asyncio.CancelledError:
            self._write(codec.encode_error(request_id, _cut_off(context.method)))
            raise
        except P2PForwardError as exc:
            line = codec.encode_error(request_id, exc)
        except Exception as exc:  # the root of an RPC call
            log.exception("defect in %s", context.method)
            line = codec.encode_error(request_id, _internal(exc))
        self._write(line)

    def _finished(self, request_id: codec.RequestId) -> None:
        del self._calls[request_id]
        if self._server.closing and not self._calls and self._transport is not None:
            self._transport.close()

    def _write(self, line: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(line)

    # --- subscriptions

    async def _subscribe(self, context: CallContext, params: SubscribeParams) -> SubscribeResult:
        if len(self._queues) >= MAX_SUBSCRIPTIONS:
            raise errors.ResourceLimitExceeded(f"control socket: {MAX_SUBSCRIPTIONS} subscriptions are open")
        queue = self._server.hub.subscribe(params.topics, self._send_event)
        if self._full:
            queue.pause()
        self._queues[queue.number] = queue
        return SubscribeResult(queue.number)

    async def _cancel(self, context: CallContext, params: CancelParams) -> Empty:
        queue = self._queues.pop(params.subscription, None)
        if queue is None:
            raise errors.NotFound(f"no subscription {params.subscription} on this connection")
        self._server.hub.remove(queue)
        return Empty()

    def _send_event(self, event: Event) -> bool:
        self._write(codec.encode_event(event))
        return not self._full


def _check_major(major: int) -> None:
    if major != RPC_MAJOR:
        raise errors.RpcVersionMismatch(
            f"control socket: the daemon speaks RPC {RPC_MAJOR}, the command RPC {major}",
            hint="restart the daemon so that both are of one version: p2pfwd shutdown, then p2pfwd daemon",
            daemon=RPC_MAJOR,
            client=major,
        )


def _shutting_down() -> P2PForwardError:
    return errors.ShuttingDown("the daemon is shutting down")


def _cut_off(method: str) -> P2PForwardError:
    """A call of this method was cancelled, and may have been carried out before it noticed."""
    if method not in SAVING:
        return _shutting_down()
    return errors.ShuttingDown(
        "the daemon was stopped in the middle of this: it may have been carried out, or not",
        hint="start it again, and look: p2pfwd export shows everything that is saved",
        may_be_done=True,
    )


def _internal(exc: Exception) -> P2PForwardError:
    return errors.InternalError(
        f"a defect in the daemon ({type(exc).__name__})",
        hint="the daemon's log has the trace; please report it",
    )


def _bind(path: Path) -> UnixSocket:
    check_socket_path(path)
    try:
        return unix_socket.listen(str(path), BACKLOG)
    except unix_socket.NotASocket:
        raise errors.StorageFailed(
            f"control socket {path}: there is a file of another kind", hint=f"move it away: {path}"
        ) from None
    except unix_socket.SomebodyListens:
        raise errors.DaemonRunning(
            f"control socket {path}: a daemon with another home answers there",
            hint="set XDG_STATE_HOME or P2PFWD_HOME (or --home) apart from the other daemon's",
            socket=str(path),
        ) from None
    except OSError as exc:
        if exc.errno in (errno.EACCES, errno.EPERM):
            raise storage_failed("control socket", path, exc) from exc
        raise errors.BindFailed(f"control socket {path}: {reason(exc.errno)}", path=str(path)) from exc
