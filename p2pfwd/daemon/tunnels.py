"""The listens and forwards of a daemon, the state file that remembers them, and those of config.toml.

Rules: what is answered with success is on the disk first, and a change that the disk does not take changes
nothing. One change after the other, each to its end, so that memory and file agree. A stop of the daemon
forgets nothing. What is kept and cannot be made at the start stays, is listed with why, and can be closed.
What config.toml declares goes before a saved one of its key, which stays in the state file and comes back
when it is declared no more; closed it is until config.toml is read again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.terms import KEPT, ForwardTerms, Life, Lifetime, ListenTerms, limited, why_no_terms
from p2pfwd.daemon.differences import can_become, differences, how_to_change
from p2pfwd.daemon.kept import DeclaredTunnel, as_it_stands, as_made, info_of, knowing, three, who_wins
from p2pfwd.errors import ListenerExists, P2PForwardError, StorageFailed, UsageError
from p2pfwd.forwarding.forward import LocalListener
from p2pfwd.forwarding.listen import RemoteListener
from p2pfwd.forwarding.rebind import try_to_bind
from p2pfwd.forwarding.registry import Listener
from p2pfwd.forwarding.service import Forwarding
from p2pfwd.forwarding.values import CloseMatch, ListenerInfo
from p2pfwd.state.tunnel_file import Key, SavedTunnel
from p2pfwd.state.tunnels import SavedTunnels

log = logging.getLogger("p2pfwd.state")

T = TypeVar("T")


class Tunnels:
    """Of one daemon; `load` and `start` make again what is saved. Needs a running loop."""

    def __init__(
        self,
        path: Path,
        forwarding: Forwarding,
        own_id: PeerId,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.ends_changed: Callable[[], None] = lambda: None
        """Called when something ends at another time than before."""
        self.on_ended: Callable[[ListenerInfo], None] = lambda _info: None
        """Told of each that has ended by itself."""
        self.on_limited: Callable[[ListenerInfo, Mapping[str, int]], None] = lambda _info, _changes: None
        """Told of a listen whose limits a command has changed, and of those."""
        self._forwarding = forwarding
        self._file = SavedTunnels(path)
        self._own = Multiaddr.parse(f"/p2p/{own_id}")
        self._saved: dict[Key, SavedTunnel] = {}
        self._declared: dict[Key, DeclaredTunnel] = {}
        self._not_made: dict[Key, P2PForwardError] = {}
        self._lock = asyncio.Lock()
        self._clock = clock

    async def load(self) -> None:
        """Read what is saved. Raises InvalidConfig where a newer p2pfwd saved it, StorageFailed."""
        self._saved = {tunnel.key: tunnel for tunnel in await self._file.load()}

    async def start(self, declared: Iterable[DeclaredTunnel] = ()) -> None:
        """Make what is saved and declared, without a turn of the loop.

        A local address that is not to be had is waited for.
        """
        self._declared = {it.tunnel.key: it for it in declared}
        for key, tunnel in self._saved.items():
            if key not in self._declared:
                await self._try_to_make(tunnel, "saved")
        for said in self._who_wins(self._declared):
            log.warning("%s", said)
        for it in self._declared.values():
            await self._try_to_make(it.tunnel, "declared")
        await self.end_due(self._clock())

    async def _try_to_make(self, tunnel: SavedTunnel, lifetime: Lifetime) -> None:
        """One that cannot be made is listed, with why; one that has ended is not made."""
        self._not_made.pop(tunnel.key, None)
        if 0 < tunnel.terms.ends_at <= self._clock():
            return
        try:
            await self._listener(tunnel, lifetime, may_wait=True)
        except P2PForwardError as exc:
            self._not_made[tunnel.key] = exc
            log.warning("the %s %s %s cannot be made: %s", lifetime, *tunnel.key, exc.message)

    def _who_wins(self, declared: Mapping[Key, DeclaredTunnel]) -> list[str]:
        """Of each that is now in the place of a saved one, in words."""
        found = []
        for key, it in declared.items():
            listener = self._forwarding.standing(*key)
            if key in self._saved and (listener is None or listener.lifetime != "declared"):
                found.append(who_wins(it, self._saved[key]))
        return found

    async def close_file(self) -> None:
        """The last step of a stop. Idempotent."""
        await self._file.close()

    @property
    def lost(self) -> Path | None:
        """See `SavedTunnels`."""
        return self._file.lost

    @property
    def moved(self) -> Path | None:
        """See `SavedTunnels`."""
        return self._file.moved

    def listeners(self) -> list[ListenerInfo]:
        """As `Forwarding.listeners`, and those that could not be made."""
        return self._forwarding.listeners() + [self._info(key) for key in self._not_made]

    def kept(self) -> dict[Key, SavedTunnel]:
        """Those that are there tomorrow: saved ones, and in their place declared ones."""
        return self._saved | {key: it.tunnel for key, it in self._declared.items()}

    def declared_in(self, key: Key) -> str | None:
        """Where config.toml declares this one."""
        it = self._declared.get(key)
        return None if it is None else it.where

    def held(self, key: Key) -> bool:
        """Whether a command in the foreground has it."""
        listener = self._forwarding.standing(*key)
        return listener is not None and listener.lifetime == "foreground"

    def kept_forward(self, protocol: str, peer: PeerId) -> SavedTunnel | None:
        """The first forward of this name to this peer that is saved or declared."""
        found = (it for it in self.kept().values() if it.peer == peer and it.protocol == protocol)
        return next(found, None)

    # --- ends -------------------------------------------------------------------------------------

    def next_end(self) -> float | None:
        """See `expiry.Ending`."""
        ends = [listener.ends_at for listener in self._forwarding.ending()]
        ends += [tunnel.terms.ends_at for tunnel in self._saved.values() if tunnel.terms.ends_at]
        return min(ends, default=None)

    async def end_due(self, now: float) -> None:
        """Close and forget what has ended; what the disk keeps now is forgotten at the next start."""
        async with self._lock:
            over = [listener for listener in self._forwarding.ending() if listener.ends_at <= now]
            due = [key for key, tunnel in self._saved.items() if 0 < tunnel.terms.ends_at <= now]
            ended = {key: info_of(self._saved[key], self._own) for key in due}
            ended |= {listener.key: listener.info() for listener in over}
            await self._close_each(over)
            for key, info in ended.items():
                if self._forwarding.standing(*key) is None:  # else it had given way to another
                    log.info("the %s %s has ended: it was made with --expires", *key)
                    self.on_ended(info)
            if due:
                try:
                    await self._file.forget(due)
                except StorageFailed as exc:
                    log.warning("what has ended is still in the state file: %s", exc.message)
                for key in due:
                    self._drop(key)

    # --- changing ---------------------------------------------------------------------------------

    async def limit(self, protocol: str, changes: Mapping[str, int]) -> RemoteListener:
        """The listen of this name with these limits in place of its own, for its live streams too.

        Raises NotFound, UsageError, StorageFailed; then nothing has changed.
        """
        return await to_its_end(asyncio.create_task(self._limit(protocol, changes)))

    async def _limit(self, protocol: str, changes: Mapping[str, int]) -> RemoteListener:
        async with self._lock:
            listener = self._forwarding.listening(protocol)
            terms = limited(listener.terms, changes)
            if (why := why_no_terms(terms)) is not None:
                raise UsageError(why)
            if terms != listener.terms:
                if listener.lifetime == "saved":
                    await self._save(replace(self._saved[listener.key], terms=terms))
                listener.set_terms(terms)
                self.on_limited(listener.info(), changes)
            return listener

    # --- making -----------------------------------------------------------------------------------

    async def make(self, wanted: SavedTunnel, lifetime: Lifetime) -> tuple[Listener, bool]:
        """The listener, and whether it stood already; one that is the same does, whoever made it.

        The peer's addresses are no difference: those that are new are added. Raises ListenerExists, with what
        differs, StorageFailed, ResourceLimitExceeded, and as `Forwarding.listen` and `Forwarding.forward`.
        """
        making = asyncio.create_task(self._make(wanted, lifetime))
        try:
            return await to_its_end(making)
        except asyncio.CancelledError:
            # Not done, where the daemon ends, too, and does not wait for a disk that hangs.
            if making.done() and not making.cancelled() and making.exception() is None:
                await self.take_back(*making.result())
            raise

    async def take_back(self, listener: Listener, stood: bool) -> bool:
        """Undo `make`, for whose answer nobody waits; whether it is neither there nor saved now."""
        return not stood and await to_its_end(asyncio.create_task(self._take_back(listener)))

    def close_now(self, listener: Listener) -> None:
        """Close exactly this one, if it is still there, in memory alone: its lease is over."""
        self._forwarding.close_one(listener)

    async def _close_each(self, listeners: Iterable[Listener]) -> None:
        """The same of many, with a turn of the loop after each: streams wait for none of this."""
        with self._forwarding.together():
            for listener in listeners:
                self.close_now(listener)
                await asyncio.sleep(0)

    async def _make(self, wanted: SavedTunnel, lifetime: Lifetime) -> tuple[Listener, bool]:
        async with self._lock:
            try:
                listener = await self._listener(wanted, lifetime)
            except ListenerExists as exc:
                return await self._standing(wanted, lifetime, exc), True
            if lifetime == "saved":
                try:
                    await self._save(as_made(wanted, listener))
                except P2PForwardError:
                    self.close_now(listener)
                    raise
            if listener.ends_at:
                self.ends_changed()
            return listener, False

    async def _listener(self, tunnel: SavedTunnel, lifetime: Lifetime, *, may_wait: bool = False) -> Listener:
        life, terms = Life(lifetime, tunnel.created or None), tunnel.terms
        if isinstance(terms, ListenTerms):
            return await self._forwarding.listen(tunnel.protocol, tunnel.address, terms, life)
        assert tunnel.peer is not None
        return await self._forwarding.forward(
            tunnel.protocol, tunnel.address, tunnel.peer, tunnel.peer_addrs, terms, life, may_wait=may_wait
        )

    async def _standing(self, wanted: SavedTunnel, lifetime: Lifetime, exc: ListenerExists) -> Listener:
        """The listener that stands in the way, if it is what is wanted. Raises ListenerExists."""
        listener = self._forwarding.listener(exc.details["listener"])
        if differing := differences(listener, wanted, lifetime):
            where = self.declared_in(listener.key) if listener.lifetime == "declared" else None
            reload = f"{where}, then p2pfwd reload"
            how = how_to_change(listener, wanted, lifetime) if where is None else reload
            raise ListenerExists(
                f"{exc.message}; {', and '.join(differing)}",
                hint=f"to change it: {how}",
                listener=listener.id,
            )
        if (ends_at := wanted.terms.ends_at) and ends_at != listener.ends_at:
            if listener.lifetime == "saved":
                saved = self._saved[listener.key]
                await self._save(replace(saved, terms=replace(saved.terms, ends_at=ends_at)))
            listener.renew(ends_at)
            self.ends_changed()
        if isinstance(listener, LocalListener):
            if not set(wanted.peer_addrs) <= set(listener.addrs):
                if listener.lifetime == "saved":
                    await self._save(knowing(self._saved[listener.key], wanted.peer_addrs))
                listener.know(wanted.peer_addrs)
            if not listener.is_bound:
                try_to_bind(listener)
        return listener

    async def _save(self, tunnel: SavedTunnel) -> None:
        await self._file.save(tunnel)
        self._saved[tunnel.key] = tunnel
        self._not_made.pop(tunnel.key, None)

    async def _take_back(self, listener: Listener) -> bool:
        async with self._lock:
            if self._forwarding.standing(*listener.key) not in (None, listener):
                return False
            self.close_now(listener)  # a stop has done so already
            saved = self._saved.get(listener.key)
            if saved is not None and saved.created == listener.created:
                try:
                    await self._forget([listener.key])
                except StorageFailed as exc:
                    log.warning("%s comes back at the next start: %s", listener.describe(), exc.message)
                    return False
            return True

    # --- many at once -----------------------------------------------------------------------------

    async def change(
        self, put: Collection[SavedTunnel], drop: Collection[Key], between: Callable[[], Awaitable[object]]
    ) -> None:
        """Forget and close `drop`, and save and make `put`, in the place of what has its keys.

        A tunnel whose terms alone differ is changed where it stands; another is closed, and made anew after
        `between`, to which access belongs. Streams stay. One that cannot be made stays listed, with why.
        Raises StorageFailed, ResourceLimitExceeded, ListenerExists (a command in the foreground has one), and
        what `between` raises: then all is as it was.
        """
        await to_its_end(asyncio.create_task(self._change(put, drop, between)))

    async def _change(
        self, put: Collection[SavedTunnel], drop: Collection[Key], between: Callable[[], Awaitable[object]]
    ) -> None:
        async with self._lock:
            if held := [tunnel for tunnel in put if self.held(tunnel.key)]:
                what = "a command in the foreground has {} {}".format(*held[0].key)
                raise ListenerExists(what, hint="end that command first")
            tunnels = [self._since(tunnel) for tunnel in put]
            touched = (*drop, *(tunnel.key for tunnel in tunnels))
            before = {key: self._saved[key] for key in touched if key in self._saved}
            stood = [it for key in touched if (it := self._forwarding.standing(*key)) is not None]
            # What a command in the foreground has is never closed here, and is gone with that command.
            as_they_stood = [(as_it_stands(it), it.lifetime) for it in stood if it.lifetime != "foreground"]
            not_made = {key: self._not_made[key] for key in touched if key in self._not_made}
            await self._file.change(tunnels, drop)
            for key in drop:
                self._drop(key)
            self._saved |= {tunnel.key: tunnel for tunnel in tunnels}
            try:
                await self._turn_into([(tunnel, "saved") for tunnel in tunnels], drop, between)
            except P2PForwardError:
                await self._turn_back(before, [key for key in touched if key not in before], as_they_stood)
                self._not_made |= not_made
                raise

    async def _turn_back(
        self,
        before: Mapping[Key, SavedTunnel],
        added: Collection[Key],
        stood: Collection[tuple[SavedTunnel, Lifetime]],
    ) -> None:
        """What was saved is saved, and what stood stands, for as long as it was to."""
        try:
            await self._file.change(before.values(), added)
        except P2PForwardError as exc:
            log.error("the state file has what could not be done, for the next start: %s", exc.message)
        for key in added:
            self._saved.pop(key, None)
        self._saved |= before
        await self._put_each(stood)
        for tunnel, lifetime in stood:
            if lifetime not in KEPT and (error := self._not_made.pop(tunnel.key, None)) is not None:
                log.error("the %s %s %s is gone: %s", lifetime, *tunnel.key, error.message)

    async def declare(
        self, declared: Mapping[Key, DeclaredTunnel], between: Callable[[], Awaitable[object]]
    ) -> list[str]:
        """Put these in the place of what config.toml declared before, as `change` does; what stands stays.

        One that a command in the foreground holds is left to it. Says which of them are now in the place of
        a saved one.
        """
        return await to_its_end(asyncio.create_task(self._declare(declared, between)))

    async def _declare(
        self, declared: Mapping[Key, DeclaredTunnel], between: Callable[[], Awaitable[object]]
    ) -> list[str]:
        async with self._lock:
            gone = [key for key in self._declared if key not in declared]
            said = self._who_wins(declared)
            self._declared = dict(declared)
            for key in gone:
                self._not_made.pop(key, None)
            put = [replace(it.tunnel, created=self._made_at(key)) for key, it in declared.items()]
            wanted: list[tuple[SavedTunnel, Lifetime]] = []
            wanted += [(tunnel, "declared") for tunnel in put if not self.held(tunnel.key)]
            wanted += [(self._saved[key], "saved") for key in gone if key in self._saved]
            await self._turn_into(wanted, [key for key in gone if key not in self._saved], between)
            return said

    def _since(self, tunnel: SavedTunnel) -> SavedTunnel:
        old = self._saved.get(tunnel.key)
        addrs = () if old is None or old.peer != tunnel.peer else old.peer_addrs
        made = time.time() if old is None else old.created
        return knowing(replace(tunnel, peer_addrs=addrs, created=made), tunnel.peer_addrs)

    def _made_at(self, key: Key) -> float:
        listener = self._forwarding.standing(*key)
        return 0.0 if listener is None else listener.created

    async def _turn_into(
        self,
        put: Collection[tuple[SavedTunnel, Lifetime]],
        drop: Collection[Key],
        between: Callable[[], Awaitable[object]],
    ) -> None:
        """In memory: close what goes, and what cannot be changed where it stands; then the rest."""
        standing = self._forwarding.standing
        gone = [it for key in drop if (it := standing(*key)) is not None and it.lifetime in KEPT]
        for tunnel, _ in put:
            listener = standing(*tunnel.key)
            if listener is not None and not can_become(listener, tunnel):
                gone.append(listener)
        await self._close_each(gone)
        await between()
        await self._put_each(put)
        self.ends_changed()

    async def _put_each(self, put: Iterable[tuple[SavedTunnel, Lifetime]]) -> None:
        with self._forwarding.together():
            for tunnel, lifetime in put:
                await self._put(tunnel, lifetime)
                await asyncio.sleep(0)

    async def _put(self, tunnel: SavedTunnel, lifetime: Lifetime) -> None:
        """Have it as it is wanted: the one way in which a tunnel that stands is changed."""
        listener = self._forwarding.standing(*tunnel.key)
        if listener is not None and not can_become(listener, tunnel):
            self.close_now(listener)
            listener = None
        if listener is None:
            await self._try_to_make(tunnel, lifetime)
            return
        if isinstance(listener, LocalListener) and isinstance(tunnel.terms, ForwardTerms):
            if not set(tunnel.peer_addrs) <= set(listener.addrs):
                listener.know(tunnel.peer_addrs)
            if listener.terms != tunnel.terms:
                listener.set_terms(tunnel.terms)
        elif (
            isinstance(listener, RemoteListener)
            and isinstance(tunnel.terms, ListenTerms)
            and listener.terms != tunnel.terms
        ):
            listener.set_terms(tunnel.terms)
        if listener.lifetime != lifetime:
            listener.lives(lifetime)

    # --- closing ----------------------------------------------------------------------------------

    async def close(self, match: CloseMatch) -> list[ListenerInfo]:
        """Forget and close those that match; their streams stay. Raises StorageFailed: then all stand.

        A saved one that has given way to a declared one is not there to be closed.
        """
        return await to_its_end(asyncio.create_task(self._close(match)))

    async def _close(self, match: CloseMatch) -> list[ListenerInfo]:
        async with self._lock:
            here = (it for it in self._saved.values() if it.key not in self._declared)  # the others come back
            saved = [tunnel for tunnel in here if match.matches(*three(tunnel, self._own))]
            not_made = [it for it in self._not_made if match.matches(*three(self.kept()[it], self._own))]
            found = self._forwarding.matching(match)
            live = {listener.key for listener, _ in found if listener.lifetime in KEPT}
            kept = dict.fromkeys((*not_made, *(it.key for it in saved)))
            infos = [self._info(key) for key in kept if key not in live]
            if saved:
                await self._forget([tunnel.key for tunnel in saved])
            for key in not_made:
                self._not_made.pop(key, None)
            await self._close_each([listener for listener, _ in found])
            return [info for _, info in found] + infos

    async def _forget(self, keys: list[Key]) -> None:
        await self._file.forget(keys)
        for key in keys:
            self._drop(key)

    def _drop(self, key: Key) -> None:
        """It is saved no more; a declared one of its key that could not be made stays listed."""
        self._saved.pop(key, None)
        if key not in self._declared:
            self._not_made.pop(key, None)

    def _info(self, key: Key) -> ListenerInfo:
        """Of one that is kept and does not live."""
        is_declared = key in self._declared
        return info_of(self.kept()[key], self._own, self._not_made.get(key), is_declared=is_declared)


async def to_its_end(task: asyncio.Task[T]) -> T:
    """Its result; a caller that is cancelled waits for its end first: nothing is left half done.

    One that is cancelled again waits no longer.
    """
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # it was asked for: the caller has none to raise it to
        raise
