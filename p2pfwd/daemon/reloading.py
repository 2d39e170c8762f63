"""`reload`: config.toml is read again, and what it says holds, as far as a running daemon can change it.

Rules: a file that is bad in any place changes nothing. What it declares is changed as `apply` changes it; a
setting that the parts take live holds at once, another is named with its cure. At the start one bad tunnel
does not keep the others from coming up, and lets in nobody; a bad name, rule or block, by which more might be
let in than was meant, stops the start. systemd is told before and after.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Final

from p2pfwd.daemon import config, logs
from p2pfwd.daemon.declared import Declared, is_shut, read, read_all, without_ended
from p2pfwd.daemon.kept import DeclaredTunnel
from p2pfwd.daemon.plan import State, plan, skipped, told
from p2pfwd.daemon.settings import Settings
from p2pfwd.daemon.tables import FORWARD, LISTEN
from p2pfwd.daemon.tunnels import to_its_end
from p2pfwd.errors import P2PForwardError
from p2pfwd.rpc.setup_values import ReloadResult
from p2pfwd.system.sd_notify import notify

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from p2pfwd.core.peer_id import PeerId
    from p2pfwd.daemon.access import AccessControl
    from p2pfwd.daemon.applying import Applying
    from p2pfwd.daemon.peering import Peering
    from p2pfwd.daemon.tunnels import Tunnels
    from p2pfwd.peers.named import NamedPeer
    from p2pfwd.state.tunnel_file import Key

log = logging.getLogger("p2pfwd.daemon")

RESTART: Final = "changed: it takes a restart: p2pfwd shutdown"

ACCESS_DEFAULT: Final = "access.default"
"""It holds with the rules, in one step."""

Live = Callable[[Settings], object]
"""Makes a setting hold, given all of them."""


class Reloading:
    """Of one daemon."""

    def __init__(
        self,
        path: Path,
        applying: Applying,
        tunnels: Tunnels,
        access: AccessControl,
        peering: Peering,
        own_id: PeerId,
        live: Mapping[str, Live],
    ) -> None:
        """`live`: what makes the settings hold that can change live, by key."""
        self._path = path
        self._applying = applying
        self._tunnels = tunnels
        self._access = access
        self._peering = peering
        self._own_id = own_id
        self._live: Mapping[str, Live] = {
            "log.level": lambda settings: logs.set_level("all", settings.log_level),
            **live,
        }
        self._loaded = config.Loaded(config.Config(Settings(), {}))
        self._settings = Settings()
        self.on_refused: Callable[[str], None] = lambda _why: None
        """Told why config.toml was not read again, where nobody waits for the answer."""

    # --- at the start -----------------------------------------------------------------------------

    def begin(self, loaded: config.Loaded) -> list[DeclaredTunnel]:
        """Put names, rules and blocks in force; the tunnels that there should be.

        Raises InvalidConfig, ResourceLimitExceeded where it is more than there may be.
        """
        found = loaded.config
        self._loaded, self._settings = loaded, found.settings
        declared, errors = read(found.tables, self._peering.names, self._own_id)
        for entry, error in errors:
            if entry.table not in (LISTEN, FORWARD):
                raise error
            shut = ", and its name lets in only whom commands allow" if is_shut(entry) else ""
            log.error("%s; hint: %s; it is left out%s", error.message, error.hint, shut)
        declared, over = without_ended(declared, time.time())
        for note in over:
            log.warning("%s", note)
        for it in skipped(declared):
            log.info("config.toml: %s %s is left out: %s", it.kind, it.name, it.text)
        plan(State(), declared, prune=False)
        self._applying.declared = declared
        self._peering.declare(declared.names, _used(declared))
        self._access.declare(declared.all_rules(), declared.blocks, found.settings.access_default)
        return list(self._places(declared).values())

    # --- again ------------------------------------------------------------------------------------

    async def reload(self) -> ReloadResult:
        """Raises InvalidConfig, and what keeps a setting from holding; then nothing has changed."""
        async with self._applying.lock:
            notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}", self._loaded.env)
            try:
                return await self._reload()
            finally:
                notify("READY=1", self._loaded.env)

    async def reload_by_signal(self) -> None:
        """The same where nobody waits for the answer: it is in the log."""
        try:
            await self.reload()
        except P2PForwardError as exc:
            hint = f"; hint: {exc.hint}" if exc.hint else ""
            log.error("config.toml was not reloaded, nothing was changed: %s%s", exc.message, hint)
            self.on_refused(exc.message)

    async def _reload(self) -> ReloadResult:
        found, declared = await asyncio.to_thread(self._read)  # a long one takes seconds
        self._applying.check_names(declared)
        declared, over = without_ended(declared, time.time())
        changes = plan(State.of(self._applying.declared), declared, prune=True)
        notes = [*over, *self._held(declared), *self._put_back(declared, changes.tunnels.unchanged)]
        keys = _changed(self._settings, found.settings)
        notes += await to_its_end(asyncio.create_task(self._put_in_force(declared, found.settings)))
        settings, restart = self._set(keys, found.settings)
        notes += self._applying.of_addresses(changes)
        notes += self._applying.not_well(list(declared.tunnels))
        for note in notes:
            log.warning("%s", note)
        said = changes.changes()
        log.info("config.toml was read again: %d changes", len(said) + len(settings))
        what = [f"{key} changed" for key in settings] + [f"{key} waits for a restart" for key in restart]
        self._applying.on_changed("config.toml was read again", told(said) + what)
        own = skipped(declared)
        return ReloadResult(said, changes.unchanged, settings, restart, tuple(notes), own)

    def _read(self) -> tuple[config.Config, Declared]:
        found = self._loaded.again(self._path)
        return found, read_all(found.tables, _Typed(self._peering), self._own_id)

    async def _put_in_force(self, declared: Declared, settings: Settings) -> list[str]:
        """Access holds before what opens is open, and after what closes is closed."""

        async def between() -> None:
            with self._access.held():
                self._peering.declare(declared.names, _used(declared))
                self._access.declare(declared.all_rules(), declared.blocks, settings.access_default)

        said = await self._tunnels.declare(self._places(declared), between)
        self._applying.declared = declared
        return said

    def _set(self, keys: Sequence[str], settings: Settings) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Which of the keys hold now, and which after a restart."""
        done = [key for key in keys if key in self._live or key == ACCESS_DEFAULT]
        for key in done:
            if key in self._live:
                self._live[key](settings)
        restart = tuple(key for key in keys if key not in done)
        for key in restart:
            log.warning("%s %s", key, RESTART)
        names = {it.metadata["key"]: it.name for it in fields(Settings)}
        new = {names[key]: getattr(settings, names[key]) for key in done}
        self._settings = replace(self._settings, **new)
        return tuple(done), restart

    def _held(self, declared: Declared) -> Iterable[str]:
        for key in declared.tunnels:
            if self._tunnels.held(key):
                yield (
                    f"a command in the foreground has {key[0]} {key[1]}: "
                    "end it, then p2pfwd reload, for what config.toml declares"
                )

    def _put_back(self, declared: Declared, keys: Iterable[Key]) -> Iterable[str]:
        """Declared ones that a command closed, or gave other limits."""
        standing = {info.key: info for info in self._tunnels.listeners()}
        for key in keys:
            if (info := standing.get(key)) is None:
                yield f"{key[0]} {key[1]} was closed, and is there again"
            elif info.lifetime == "declared" and info.terms != declared.tunnels[key].terms:
                yield f"{key[0]} {key[1]} was changed by a command, and is as config.toml says again"

    def _places(self, declared: Declared) -> dict[Key, DeclaredTunnel]:
        return {
            key: DeclaredTunnel(tunnel, _where(self._path, declared.places[key].line))
            for key, tunnel in declared.tunnels.items()
        }


class _Typed:
    """The names that commands gave; those of the file that is read are in it."""

    def __init__(self, peering: Peering) -> None:
        self._names = peering.names

    def find(self, text: str) -> NamedPeer | None:
        """As `Names.find`."""
        return self._names.typed.get(text.lower())


def _changed(before: Settings, after: Settings) -> list[str]:
    names = [(it.metadata["key"], it.name) for it in fields(Settings)]
    return [key for key, name in names if getattr(before, name) != getattr(after, name)]


def _used(declared: Declared) -> dict[str, str]:
    return {name: entry.where for name, entry in declared.uses.items()}


def _where(path: Path, line: int | None) -> str:
    return str(path) if line is None else f"{path}, line {line}"
