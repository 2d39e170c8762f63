"""The daemon's relays: those that the settings name are kept connected while this node needs a place.

Rules: a relay may stand in the settings several times, at an address each; it is named as long as one of them
means it. A name is read anew whenever names change: it may mean another peer, or nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.relay_token import read_token
from p2pfwd.errors import P2PForwardError
from p2pfwd.host.host import Host
from p2pfwd.net.link.contract import Link
from p2pfwd.net.own_addresses import Change
from p2pfwd.policy.dial_schedule import Priority
from p2pfwd.policy.standing import Place
from p2pfwd.protocols import relay_token
from p2pfwd.protocols.relay_client import RelayClient
from p2pfwd.wire.circuit import HOP

log = logging.getLogger("p2pfwd.relay")

Read = Callable[[Sequence[str]], Awaitable[tuple[PeerId, tuple[Multiaddr, ...]]]]

FIRST_PLACE_S: Final = 3.0
"""After a relay was named, until nobody waits for a place any more: a dial and three questions take less."""

RETRY_S: Final = 30.0
"""Between two looks at a relay in the settings whose name nobody has, where no name is given meanwhile."""


class _Meant(NamedTuple):
    """What one text of the settings means."""

    relay: PeerId
    addrs: tuple[Multiaddr, ...]
    token: str | None


class Relays:
    """Of one daemon; `start` begins, `close` ends it."""

    def __init__(
        self, host: Host, texts: Sequence[str], read: Read, *, strangers: bool, is_public: Callable[[], bool]
    ) -> None:
        """`texts`: of the settings; `read` says whom they mean. The others: see `RelayClient`."""
        self.client = RelayClient(host.swarm, strangers=strangers, is_public=is_public)
        self._host = host
        self._texts = tuple(dict.fromkeys(texts))
        self._learning: dict[str, asyncio.Task[None]] = {}
        self._meant: dict[str, _Meant] = {}  # by text of the settings
        self._unusable: dict[str, str] = {}  # text of the settings -> why it means nobody to ask
        self._read = read
        self._is_public = is_public
        self._kept = True
        self._names_changed = asyncio.Event()
        """Set when names may mean others, and replaced: who waits looks again."""
        self._named_at = 0.0  # the last one, of the loop's clock
        self._answered = asyncio.Event()
        """Set when a place is got or lost or refused, and replaced: as `_names_changed`."""
        self.client.on_change(self._places_changed)
        self._shown: WeakKeyDictionary[Link, dict[str, asyncio.Task[None]]] = WeakKeyDictionary()
        """By connection and token."""
        host.swarm.introduce = self._introduce

    def start(self) -> None:
        """Connect to the named relays, and hold places."""
        for text in self._texts:
            self._begin(text)
        self._host.swarm.own_addresses.on_changed(self._addresses_changed)
        self.client.start()

    async def close(self) -> None:
        """Ask no more. Idempotent."""
        showings = [showing for shown in self._shown.values() for showing in shown.values()]
        for showing in showings:
            showing.cancel()
        await asyncio.gather(*showings, return_exceptions=True)
        await self.client.close()

    def _begin(self, text: str) -> None:
        self._named_at = asyncio.get_running_loop().time()
        self._learning[text] = self._host.swarm.spawn(self._learn(text), "relay of the settings")

    def change(self, texts: Sequence[str]) -> None:
        """Other relays from now on; a place at one that is named no more is not renewed."""
        for text in set(self._texts).difference(texts):
            self._learning.pop(text).cancel()
            self._unusable.pop(text, None)
            self._means_nobody(text)
        before, self._texts = self._texts, tuple(dict.fromkeys(texts))
        for text in self._texts:
            if text not in before:
                self._begin(text)

    async def _learn(self, text: str) -> None:
        address, _, token = text.partition("#")
        said = ""
        while True:
            names_changed = self._names_changed  # while it is read, too
            try:
                relay, addrs = await self._read([address])
            except P2PForwardError as exc:
                self._means_nobody(text)
                self._unusable[text] = exc.message
                if said != exc.message:
                    log.warning("reach.relays: %s cannot be used yet: %s", address, exc.message)
                    said = exc.message
                with suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_S):
                        await names_changed.wait()
                continue
            said = ""
            self._means(text, _Meant(relay, addrs, read_token(token) if token else None))
            if address.startswith("/"):
                return
            await names_changed.wait()

    def _means(self, text: str, now: _Meant) -> None:
        before = self._meant.get(text)
        if now == before:
            return
        if before is not None and before.relay != now.relay:
            self._means_nobody(text)
        if now.relay == self._host.peer_id:
            if text not in self._unusable:
                log.warning("reach.relays: %s is this node itself", text.partition("#")[0])
            self._unusable[text] = "it is this node itself; name another machine's in reach.relays"
            return
        self._unusable.pop(text, None)
        self._meant[text] = now
        if self._kept:
            self._keep(now.relay)
        if before is None or before.relay != now.relay:
            self.client.name(now.relay)

    def _means_nobody(self, text: str) -> None:
        """Any more, if it meant anybody."""
        if (before := self._meant.pop(text, None)) is None:
            return
        if not self.is_named(before.relay):
            self._host.keeper.release(before.relay, Priority.RELAY)
            self.client.unname(before.relay)
        elif self._kept:
            self._keep(before.relay)

    def _keep(self, relay: PeerId) -> None:
        addrs = dict.fromkeys(addr for it in self._meant.values() if it.relay == relay for addr in it.addrs)
        self._host.keeper.keep(relay, addrs, Priority.RELAY)

    async def _introduce(self, link: Link) -> None:
        """Show the relay its token, each once for a connection; where it has several, the last one."""
        tokens = [it.token for it in self._meant.values() if it.relay == link.remote_peer and it.token]
        token = tokens[-1] if tokens else None
        if token is None:
            return
        shown = self._shown.setdefault(link, {})
        showing = shown.get(token)
        if showing is None or (showing.done() and _failed(showing)):
            showing = shown[token] = asyncio.create_task(relay_token.show(link, token))
        await asyncio.shield(showing)

    def is_named(self, relay: PeerId) -> bool:
        """Whether the settings name it."""
        return any(it.relay == relay for it in self._meant.values())

    def best_place(self) -> Place:
        """Of those held."""
        limits = [place.limit for place in self.client.places()]
        if not limits:
            return Place.NONE
        return Place.UNLIMITED if None in limits else Place.LIMITED

    async def first_place(self) -> None:
        """Wait for a place where none is held, only just after relays were named.

        What is told of this node then leads here through one.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._named_at + FIRST_PLACE_S):
                while self.missing() and not self.client.places():
                    await self._answered.wait()

    def _places_changed(self) -> None:
        self._answered.set()
        self._answered = asyncio.Event()

    def missing(self) -> dict[str, str]:
        """Named relays that give no place and refused none -> why; none where none is needed.

        By peer ID, or, where that is not known, by what the settings say, without a token.
        """
        if self._is_public():
            return {}
        answered = {place.relay for place in self.client.places()} | set(self.client.refusals())
        found: dict[str, str] = {}
        for text in self._texts:
            meant = self._meant.get(text)
            if meant is None:
                found[text.partition("#")[0]] = self._unusable.get(text, "it is being looked up")
            elif meant.relay not in answered:
                found[str(meant.relay)] = self._why_missing(meant.relay)
        return found

    def _why_missing(self, relay: PeerId) -> str:
        swarm, kept = self._host.swarm, self._host.keeper.status(relay)
        if not swarm.conns(relay):
            why = None if kept is None else kept.outcome
            return f"it is not connected: {why}" if why else "it is being dialed"
        if relay in self.client.asked():
            return "it is connected, and is being asked"
        if not all(conn.identified.done() for conn in swarm.conns(relay)):
            return "it is connected, and has yet to tell whether it is a relay"
        if HOP not in swarm.peerstore.protocols(relay):
            return "it is connected, and is no relay; p2pfwd status there, and relay.serve, say why"
        return "it is connected, and is asked when another one is lost"

    def names_changed(self) -> None:
        """A peer has got a name or lost it, or there is another network to ask for names."""
        self._names_changed.set()
        self._names_changed = asyncio.Event()

    def reachability_changed(self) -> None:
        """Whether strangers reach this node may have changed: with a relay, or without."""
        wanted = not self._is_public()
        if wanted != self._kept:
            self._kept = wanted
            for relay in {it.relay for it in self._meant.values()}:
                if wanted:
                    self._keep(relay)
                else:
                    self._host.keeper.release(relay, Priority.RELAY)
        self.client.look_again()

    def _addresses_changed(self, change: Change) -> None:
        if change & (Change.MOVED | Change.STIRRED):
            self.client.look_again()
            self.names_changed()


def _failed(showing: asyncio.Task[None]) -> bool:
    return showing.cancelled() or showing.exception() is not None
