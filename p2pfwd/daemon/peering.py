"""The peers a daemon knows of: named ones, kept ones, and the address book; what a PEER argument means.

Rules: a named peer's addresses are pinned, so its bare ID finds it too. One marked to be kept is dialed at
start and kept. PEER arguments wait a moment for the address book that is being read: after a start, what was
known before is known at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.quoting import quoted
from p2pfwd.core.typed import parse_peer
from p2pfwd.errors import InvalidPeerId, NotFound, PeerExists, SelfDial
from p2pfwd.peers.arguments import Resolve, named_peer, read_filter, read_peers
from p2pfwd.peers.book import AddressBook
from p2pfwd.peers.named import MAX_NAME_CHARS, NamedPeer, NamedPeers, is_name, read_name

if TYPE_CHECKING:
    from p2pfwd.host.host import Host
    from p2pfwd.rpc.paths import Paths

log = logging.getLogger("p2pfwd.peers")

PIN: Final = "named"
"""Tag of the addresses of named peers in the peerstore."""

BOOK_WAIT_S: Final = 2.0
"""How long a command waits for the address book; it is read in milliseconds, unless the disk hangs."""


class Peering:
    """Made with the node; `start` reads what there is, `close` writes what is left."""

    def __init__(self, paths: Paths, host: Host, resolve: Resolve) -> None:
        self.keeper = host.keeper
        self.names = NamedPeers(paths.named_peers_file)
        self.swarm = host.swarm
        self._book = AddressBook(paths.address_book_file, host.swarm.peerstore)
        self._resolve = resolve
        self._applied: dict[PeerId, NamedPeer] = {}
        self._used: Mapping[str, str] = {}
        self._names_changed: list[Callable[[], None]] = []
        self.changing = asyncio.Lock()
        """Held from the look at the names to the change: what is answered in between is not undone."""

    def start(self) -> None:
        """Begin to read the address book, and to keep whom to keep. Raises StorageFailed."""
        self._book.start()
        self.names.load()
        self._apply()

    def on_names_changed(self, callback: Callable[[], None]) -> None:
        """Be told when a peer has got a name, or lost it."""
        self._names_changed.append(callback)

    @property
    def book_loaded(self) -> asyncio.Event:
        """Set when what the address book has is known."""
        return self._book.loaded

    async def close(self) -> None:
        """Write the address book's rest. Idempotent."""
        await self._book.close()

    # --- named peers ------------------------------------------------------------------------------

    async def add(self, name: str, texts: Sequence[str], keep: bool) -> tuple[NamedPeer, NamedPeer | None]:
        """Name a peer; the entry, and the one it replaces. Raises as `read` and `NamedPeers.add`."""
        name = read_name(name)
        peer_id, addrs = await self.read(texts)
        if peer_id == self.swarm.peer_id:
            raise SelfDial("the peer is this node itself", hint="use the peer ID of the other machine")
        named = NamedPeer(name, peer_id, addrs, keep)
        async with self.changing:
            try:
                replaced = await self.names.add(named)
            finally:
                self._apply()
        return named, replaced

    async def remove(self, text: str) -> NamedPeer:
        """Take a peer's name away, and that it was given in a command or forwarded to; connections stay.

        By its name, or by what has its ID: then it may have no name, and the entry has none. Raises as
        `NamedPeers.remove` and `identify`, NotFound where there is nothing to take away, and PeerExists where
        config.toml, without the name, could not be read again.
        """
        await self._until_book_is_read()
        async with self.changing:
            name = text
            if not is_name(text):
                peer_id = self.identify(text)
                if (name := self.names_by_id().get(str(peer_id), "")) == "":
                    return await self._disown(peer_id)
            if (where := self._used.get(name.lower())) is not None:
                raise PeerExists(
                    f"{where} uses the name {quoted(name)}", hint="change it there, then p2pfwd reload"
                )
            try:
                removed = await self.names.remove(name)
            finally:
                self._apply()
            await self._book.write(removed.peer_id)
            return removed

    async def _disown(self, peer_id: PeerId) -> NamedPeer:
        """Of a peer without a name."""
        if not self.swarm.peerstore.disown(peer_id):
            raise NotFound(
                f"{peer_id} has no name here, and no command gave an address of it",
                hint="p2pfwd peer ls -a shows who has a name or is kept; p2pfwd block shuts a peer out",
            )
        self._apply()
        await self._book.write(peer_id)
        return NamedPeer("", peer_id, (), keep=False)

    def names_by_id(self) -> dict[str, str]:
        """The names of peers, by the text of their ID."""
        return {str(named.peer_id): named.name for named in self.names.all()}

    async def name_if_free(self, wish: str, peer_id: PeerId, addrs: Sequence[Multiaddr] = ()) -> str:
        """The name of a peer: the one it has, else a new one; no other peer's is taken away.

        That is `wish`, or wish-2, wish-3, … Raises UsageError, ResourceLimitExceeded, StorageFailed.
        """
        base = read_name(wish)
        number = 1
        while True:
            known = next((it.name for it in self.names.all() if it.peer_id == peer_id), None)
            if known is not None:
                return known
            name = base if number == 1 else f"{base[: MAX_NAME_CHARS - 5].rstrip('._-')}-{number}"
            number += 1
            if self.names.find(name) is not None:
                continue
            try:
                async with self.changing:
                    await self.names.add(NamedPeer(name, peer_id, tuple(addrs), keep=False))
            except PeerExists:
                continue  # somebody was quicker
            finally:
                self._apply()
            return name

    async def put(self, wanted: Mapping[str, NamedPeer]) -> None:
        """These names and no others, beside those declared; the caller is `changing`.

        Raises as `NamedPeers.put`.
        """
        try:
            await self.names.put(wanted)
        finally:
            self._apply()

    def declare(self, named: Mapping[str, NamedPeer], used: Mapping[str, str]) -> None:
        """Names of config.toml, in the place of those it had before; and which others it uses, where."""
        self._used = used
        for given_way in self.names.declare(named):
            log.warning("the name %s gives way to one that config.toml declares", given_way.name)
        self._apply()

    def _apply(self) -> None:
        """Make pins and keeping agree with the table, whatever became of a change.

        Who loses its name loses what else its owner said of it.
        """
        wanted = {named.peer_id: named for named in self.names.all()}
        for peer_id in [*self._applied, *wanted]:
            old, new = self._applied.get(peer_id), wanted.get(peer_id)
            if old == new:
                continue
            if new is None:
                self.swarm.peerstore.unpin(peer_id, PIN)
                self.swarm.peerstore.disown(peer_id)
            else:
                self.swarm.peerstore.pin(peer_id, new.addrs, PIN)
            if new is None or not new.keep:
                self.keeper.release(peer_id)
            elif peer_id == self.swarm.peer_id:
                log.warning("%s is the name of this node itself, and not kept", new.name)
            else:
                self.keeper.keep(peer_id)
            if new is None:
                del self._applied[peer_id]
            else:
                self._applied[peer_id] = new
        for callback in self._names_changed:
            callback()

    # --- arguments --------------------------------------------------------------------------------

    async def read(self, texts: Sequence[str]) -> tuple[PeerId, tuple[Multiaddr, ...]]:
        """The peer that PEER arguments mean, and the addresses given for it; a name gives those it has.

        Raises as `read_peers`.
        """
        await self._until_book_is_read()
        return await read_peers(texts, self.names, self._resolve)

    async def _until_book_is_read(self) -> None:
        if not self._book.loaded.is_set():
            try:
                async with asyncio.timeout(BOOK_WAIT_S):
                    await self._book.loaded.wait()
            except TimeoutError:
                log.debug("a command goes on without the address book")

    def identify(self, text: str) -> PeerId:
        """The peer of an ID, of an address that ends in one, or of a name.

        Raises InvalidPeerId, InvalidMultiaddr.
        """
        named = named_peer(text, self.names)
        peer_id = named.peer_id if named is not None else parse_peer(text)[0]
        if peer_id is None:
            raise InvalidPeerId(
                f"{quoted(text)} has no peer ID in it", hint="p2pfwd peer ls shows the names known here"
            )
        return peer_id

    def filter(self, text: str) -> Multiaddr:
        """As `read_filter`."""
        return read_filter(text, self.names)
