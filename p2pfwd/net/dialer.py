"""Dialing one peer: resolve, plan, race, and say precisely why nothing worked.

An address that failed is left alone for a moment (back-off), unless a person asked. The back-off is
short: a peer that comes back is reached within five seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from p2pfwd.core.multiaddrs import Multiaddr, tcp_endpoint
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import DialFailed, DialTimeout, P2PForwardError, PeerIdMismatch, PeerNotFound
from p2pfwd.net import dial_plan, tcp
from p2pfwd.net.buffers import BufferPool
from p2pfwd.net.conn import Conn
from p2pfwd.net.peerstore import Peerstore
from p2pfwd.net.resolver import Resolver
from p2pfwd.net.settings import SwarmSettings
from p2pfwd.net.upgrader import Upgrader, describe

BACKOFF_FIRST_S: Final = 0.5
BACKOFF_MOST_S: Final = 4.0
MAX_BACKOFFS: Final = 4096


@dataclass(slots=True)
class _Backoff:
    until: float
    delay_s: float
    reason: str


class Dialer:
    """Makes connections; keeps nothing but back-offs."""

    def __init__(
        self,
        upgrader: Upgrader,
        resolver: Resolver,
        peerstore: Peerstore,
        pool: BufferPool,
        settings: SwarmSettings,
    ) -> None:
        self._upgrader = upgrader
        self._resolver = resolver
        self._peerstore = peerstore
        self._pool = pool
        self._settings = settings
        self._backoffs: dict[Multiaddr, _Backoff] = {}

    async def dial(
        self, peer_id: PeerId, addrs: Sequence[Multiaddr], own: Sequence[Multiaddr], *, force: bool = False
    ) -> Conn:
        """One connection to `peer_id`, over the first of `addrs` that works.

        `force` ignores back-offs. Raises PeerNotFound when there is nothing to dial, DialTimeout, or
        DialFailed; `details["attempts"]` lists every address and why it failed.
        """
        attempts: list[tuple[str, str]] = []
        budget_s = self._settings.dial_timeout_s
        try:
            async with asyncio.timeout(budget_s):
                planned = dial_plan.plan(await self._resolve(peer_id, addrs, attempts), own)
                if not planned and not attempts:
                    raise self._nothing_to_dial(peer_id, addrs)
                conn = await self._race(peer_id, planned, attempts, force)
        except TimeoutError:
            raise self._failed(DialTimeout, peer_id, attempts, f" within {budget_s:g} s") from None
        if conn is None:
            raise self._failed(DialFailed, peer_id, attempts, "")
        return conn

    def _nothing_to_dial(self, peer_id: PeerId, addrs: Sequence[Multiaddr]) -> PeerNotFound:
        if addrs:
            listed = ", ".join(map(str, addrs))
            return PeerNotFound(f"none of the known addresses of {peer_id} can be dialed over TCP: {listed}")
        hint = f"give its address too: /ip4/<address>/tcp/<port>/p2p/{peer_id}"
        return PeerNotFound(f"no address is known for {peer_id}", hint=hint)

    def _failed(
        self, kind: type[DialFailed], peer_id: PeerId, attempts: list[tuple[str, str]], when: str
    ) -> DialFailed:
        tried = "; ".join(f"{addr}: {reason}" for addr, reason in attempts) or "nothing answered"
        listed = [{"Address": addr, "Reason": reason} for addr, reason in attempts]
        return kind(f"cannot reach {peer_id}{when}: {tried}", attempts=listed)

    async def _resolve(
        self, peer_id: PeerId, addrs: Sequence[Multiaddr], attempts: list[tuple[str, str]]
    ) -> list[Multiaddr]:
        found: list[Multiaddr] = []
        for addr in addrs:
            try:
                found += await self._resolver.resolve(addr.with_peer_id(peer_id))  # a dnsaddr lists many
            except PeerNotFound as exc:
                attempts.append((str(addr), exc.message))
        return found

    async def _race(
        self,
        peer_id: PeerId,
        planned: Sequence[dial_plan.PlannedDial],
        attempts: list[tuple[str, str]],
        force: bool,
    ) -> Conn | None:
        loop = asyncio.get_running_loop()
        begin, queue = loop.time(), list(reversed(planned))
        running: dict[asyncio.Task[Conn], Multiaddr] = {}
        try:
            while queue or running:
                while queue and (not running or loop.time() - begin >= queue[-1].delay_s):
                    addr = queue.pop().addr
                    backoff = self._backoffs.get(addr)
                    if not force and backoff is not None and backoff.until > loop.time():
                        attempts.append((str(addr), f"{backoff.reason} (tried a moment ago)"))
                    else:
                        running[loop.create_task(self._attempt(peer_id, addr))] = addr
                if not running:
                    continue
                wait_s = queue[-1].delay_s - (loop.time() - begin) if queue else None
                done, _ = await asyncio.wait(running, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    addr = running.pop(task)
                    if task.exception() is None:
                        self._backoffs.pop(addr, None)
                        return task.result()
                    self._note_failure(peer_id, addr, task.exception(), attempts)
            return None
        except BaseException:
            attempts += [(str(addr), "no answer") for addr in running.values()]
            raise
        finally:
            await _cancel(running, lambda conn: conn.close())

    def _note_failure(
        self,
        peer_id: PeerId,
        addr: Multiaddr,
        exc: BaseException | None,
        attempts: list[tuple[str, str]],
    ) -> None:
        assert exc is not None
        if not isinstance(exc, OSError | P2PForwardError):  # TimeoutError is an OSError
            raise exc
        if isinstance(exc, PeerIdMismatch):
            self._peerstore.drop_addr(peer_id, addr)
        reason = describe(exc)
        attempts.append((str(addr), reason))
        previous = self._backoffs.get(addr)
        delay_s = min(previous.delay_s * 2, BACKOFF_MOST_S) if previous is not None else BACKOFF_FIRST_S
        if previous is None and len(self._backoffs) >= MAX_BACKOFFS:
            self._backoffs.pop(next(iter(self._backoffs)))
        until = asyncio.get_running_loop().time() + delay_s
        self._backoffs[addr] = _Backoff(until, delay_s, reason)

    async def _attempt(self, peer_id: PeerId, addr: Multiaddr) -> Conn:
        endpoint = tcp_endpoint(addr)
        assert endpoint is not None
        settings = self._settings
        loop = asyncio.get_running_loop()
        conduit = await tcp.connect(endpoint, loop, self._pool, settings.connect_timeout_s)
        async with asyncio.timeout(settings.upgrade_timeout_s):
            return await self._upgrader.upgrade(conduit, "outbound", peer_id)


async def _cancel(
    tasks: dict[asyncio.Task[Conn], Multiaddr], dispose: Callable[[Conn], Awaitable[None]]
) -> None:
    """End the losers of a race; one that had won meanwhile is disposed of."""
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Conn):
            await dispose(result)
