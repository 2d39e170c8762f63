"""Asks the service behind a listen how it is. Failures are outcomes, never raised."""

from __future__ import annotations

import asyncio
import socket
import time

from p2pfwd.errors import P2PForwardError, RemoteProtocolError, TargetTimeout, TargetUnhealthy
from p2pfwd.forwarding.health import state_of
from p2pfwd.forwarding.target import Target
from p2pfwd.forwarding.values import READY, CheckOutcome
from p2pfwd.system.descriptors import reason
from p2pfwd.wire import http_check


async def check_target(target: Target, timeout_s: float, *, is_doubted: bool = False) -> CheckOutcome:
    """Does the service behind a listen answer? A connection is made only when looking cannot tell.

    `is_doubted`: it was seen to listen and not to answer.
    """
    started = time.monotonic()
    found = None if is_doubted else target.listening_at()
    if found is None:
        try:
            sock = await target.connect(timeout_s)
        except P2PForwardError as exc:
            return failure(exc, started)
        with sock:
            found = target.found_at(sock)
    elapsed_s = time.monotonic() - started
    return CheckOutcome(ok=True, state=READY, remote_address=str(found), elapsed_s=elapsed_s)


async def check_health(target: Target, path: str, greeting: bytes, timeout_s: float) -> CheckOutcome:
    """Is a GET of `path` answered with 2xx or 3xx? `greeting`: what a connection begins with."""
    started = time.monotonic()
    try:
        async with asyncio.timeout(timeout_s):
            with await target.connect(timeout_s) as sock:
                found = target.found_at(sock)
                status = await _status(sock, greeting + http_check.question(target.host, path))
        if not http_check.is_well(status):
            raise TargetUnhealthy(f"the target {target.address} answers a GET of {path} with {status}")
    except TimeoutError:
        late = TargetTimeout(
            f"the target {target.address} did not answer a GET of {path} within {timeout_s:g} s"
        )
        return failure(late, started)
    except RemoteProtocolError as exc:
        return failure(TargetUnhealthy(f"the target {target.address}: {exc.message}"), started)
    except OSError as exc:
        why = f"the target {target.address} broke off at a GET of {path}: {reason(exc.errno)}"
        return failure(TargetUnhealthy(why), started)
    except P2PForwardError as exc:
        return failure(exc, started)
    elapsed_s = time.monotonic() - started
    return CheckOutcome(ok=True, state=READY, remote_address=str(found), elapsed_s=elapsed_s)


async def _status(sock: socket.socket, question: bytes) -> int:
    """Ask, and read no more than needed. Raises OSError, RemoteProtocolError."""
    loop, answer = asyncio.get_running_loop(), http_check.Answer()
    await loop.sock_sendall(sock, question)
    while (status := answer.receive(await loop.sock_recv(sock, 1024))) is None:
        pass
    return status


def failure(exc: P2PForwardError, started: float) -> CheckOutcome:
    """What a try that began at `started`, monotonic, and failed with `exc` has found."""
    return CheckOutcome(
        ok=False,
        state=state_of(exc),
        reason=exc.message,
        hint=exc.hint,
        elapsed_s=time.monotonic() - started,
    )
