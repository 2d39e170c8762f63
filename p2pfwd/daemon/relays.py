"""The daemon's relays: those that the settings name are kept connected while this node needs a place."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import P2PForwardError
from p2pfwd.host.host import Host
from p2pfwd.net.own_addresses import Change
from p2pfwd.policy.dial_schedule import Priority
from p2pfwd.protocols.relay_client import RelayClient

log = logging.getLogger("p2pfwd.relay")

Read = Callable[[Sequence[str]], Awaitable[tuple[PeerId, tuple[Multiaddr, ...]]]]

RETRY_S: Final = 30.0
"""Between two looks at a relay in the settings whose name nobody has."""


class Relays:
    """Of one daemon; `start` begins, `close` ends it."""

    def __init__(
        self, host: Host, texts: Sequence[str], read: Read, *, strangers: bool, is_public: Callable[[], bool]
    ) -> None:
        """`texts`: of the settings; `read` says whom they mean. The others: see `RelayClient`."""
        self.client = RelayClient(host.swarm, strangers=strangers, is_public=is_public)
        self._host = host
        self._texts = tuple(texts)
        self._read = read
        self._is_public = is_public
        self._named: dict[PeerId, tuple[Multiaddr, ...]] = {}
        self._kept = True

    def start(self) -> None:
        """Connect to the named relays, and hold places."""
        for text in self._texts:
            self._host.swarm.spawn(self._learn(text), "relay of the settings")
        self._host.swarm.own_addresses.on_changed(self._addresses_changed)
        self.client.start()

    async def close(self) -> None:
        """Ask no more. Idempotent."""
        await self.client.close()

    async def _learn(self, text: str) -> None:
        said = False
        while True:
            try:
                relay, addrs = await self._read([text])
                break
            except P2PForwardError as exc:
                if not said:
                    log.warning("reach.relays: %s cannot be used yet: %s", text, exc.message)
                    said = True
            await asyncio.sleep(RETRY_S)
        if relay == self._host.peer_id:
            log.warning("reach.relays: %s is this node itself", text)
            return
        self._named[relay] = addrs
        if self._kept:
            self._host.keeper.keep(relay, addrs, Priority.RELAY)
        self.client.name(relay)

    def reachability_changed(self) -> None:
        """Whether strangers reach this node may have changed: with a relay, or without."""
        wanted = not self._is_public()
        if wanted != self._kept:
            self._kept = wanted
            for relay, addrs in self._named.items():
                if wanted:
                    self._host.keeper.keep(relay, addrs, Priority.RELAY)
                else:
                    self._host.keeper.release(relay, Priority.RELAY)
        self.client.look_again()

    def _addresses_changed(self, change: Change) -> None:
        if change & (Change.MOVED | Change.STIRRED):
            self.client.look_again()
