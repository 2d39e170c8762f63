"""`export` and `apply`: all tunnels, names and rules of this node out as one text, and in again.

Rules: everything is checked before anything is changed. Nothing that does not change is touched. Ephemeral
and foreground tunnels are left alone: a text is about what is there tomorrow. In between no listen is open to
more than the state before or the one after allows (`policy.setup_changes`), after a crash neither.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from p2pfwd.core.terms import ListenTerms
from p2pfwd.daemon import notices
from p2pfwd.daemon.declared import Declared, read_all, without_ended
from p2pfwd.daemon.plan import Plan, State, plan, skipped, told
from p2pfwd.daemon.tables import parse
from p2pfwd.daemon.tunnels import to_its_end
from p2pfwd.errors import InvalidConfig, InvalidProtocol, P2PForwardError, UsageError
from p2pfwd.forwarding.values import READY, UNKNOWN
from p2pfwd.peers.access_rules import AccessTable, Change
from p2pfwd.policy.access import NO_RULE
from p2pfwd.policy.blocks import Blocks
from p2pfwd.policy.setup_changes import names_on_the_way, rules_on_the_way
from p2pfwd.rpc.setup_values import ApplyResult, ExportResult

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from p2pfwd.daemon.access import AccessControl
    from p2pfwd.daemon.peering import Peering
    from p2pfwd.daemon.tunnels import Tunnels
    from p2pfwd.forwarding.service import Forwarding
    from p2pfwd.net.swarm import Swarm
    from p2pfwd.peers.named import NamedPeer
    from p2pfwd.policy.access import Rule
    from p2pfwd.state.tunnel_file import Key

log = logging.getLogger("p2pfwd.daemon")


class Applying:
    """Of one daemon."""

    def __init__(
        self,
        tunnels: Tunnels,
        access: AccessControl,
        peering: Peering,
        forwarding: Forwarding,
        swarm: Swarm,
    ) -> None:
        self.declared = Declared()
        """What config.toml declares, as it was read last."""
        self.lock = asyncio.Lock()
        """One setup after the other."""
        self.on_changed: Callable[[str, list[str]], None] = lambda _what, _changes: None
        """Told of what was read and what it changed, in words."""
        self._tunnels = tunnels
        self._access = access
        self._peering = peering
        self._forwarding = forwarding
        self._swarm = swarm

    def export(self) -> ExportResult:
        """Everything that is there tomorrow."""
        from p2pfwd.daemon.export import written  # hardly ever needed

        state = self._state()
        return ExportResult(
            written(state.tunnels.values(), state.names.values(), state.rules, state.blocks)
        )

    async def apply(self, text: str, name: str, *, prune: bool, dry_run: bool) -> ApplyResult:
        """Make it so. Raises InvalidConfig, ResourceLimitExceeded, StorageFailed: nothing has changed."""
        async with self.lock:
            wanted = await asyncio.to_thread(self._read, text, name)  # a long one takes seconds
            self.check_names(wanted)
            if prune and wanted.is_empty:
                raise InvalidConfig(
                    f"{name}: there is nothing in it, and with --prune all tunnels, names and rules would go",
                    hint="is it the right file? p2pfwd close -a closes all tunnels",
                )
            wanted, over = without_ended(wanted, time.time())
            async with self._access.changing, self._peering.changing:
                found = plan(self._state(), wanted, prune=prune, fixed=self.declared)
                self._refuse_held(found, wanted)
                if not dry_run:
                    await to_its_end(asyncio.create_task(self._carry_out(found)))
            notes, changes = (*found.notes, *over, *self.of_addresses(found)), found.changes()
            if not dry_run:
                notes += self.not_well((*found.tunnels.changed, *found.tunnels.added))
                self.on_changed(f"{name} was applied", told(changes))
            return ApplyResult(changes, found.unchanged, notes, dry_run, skipped(wanted))

    def _read(self, text: str, name: str) -> Declared:
        return read_all(parse(text, name), self._peering.names, self._swarm.peer_id)

    def check_names(self, wanted: Declared) -> None:
        """Raises InvalidConfig for a listen whose name this node serves itself."""
        for key, tunnel in wanted.tunnels.items():
            if isinstance(tunnel.terms, ListenTerms):
                try:
                    self._forwarding.check_name(tunnel.protocol, tunnel.terms)
                except UsageError as exc:
                    at = "protocol" if isinstance(exc, InvalidProtocol) else None
                    raise wanted.places[key].wrong(at, exc.message, exc.hint) from exc

    def not_well(self, keys: Collection[Key]) -> tuple[str, ...]:
        """Why those of them that are made do not work yet."""
        infos = {info.key: info for info in self._tunnels.listeners()}
        wanted = [infos[key] for key in keys if key in infos]
        return tuple(
            f"{it.direction} {it.key[1]}: {it.reason or it.state}; it stands, and works once it can"
            for it in wanted
            if it.state not in (READY, UNKNOWN)
        )

    def of_addresses(self, found: Plan) -> list[str]:
        """What is told of the addresses of new tunnels where they are typed."""
        wanted = [found.after.tunnels[key] for key in (*found.tunnels.changed, *found.tunnels.added)]
        return [
            f"{' '.join(it.key)}: {notice.message}; {notice.hint}"
            for it in wanted
            for notice in notices.of_tunnel(it.direction, it.address, self._swarm.own_addresses)
        ]

    def _state(self) -> State:
        table = self._access.table
        names = {it.name: it for it in self._peering.names.all()}
        # A rule of nothing but rights that end by themselves is none here.
        lasting = {name: (rule, rule.lasting) for name, rule in table.rules.items()}
        rules = {name: it for name, (rule, it) in lasting.items() if it != NO_RULE or not rule.ends}
        now, kept = time.time(), self._tunnels.kept()
        tunnels = {key: it for key, it in kept.items() if not 0 < it.terms.ends_at <= now}
        return State(tunnels, names, rules, table.blocks)

    def _refuse_held(self, found: Plan, wanted: Declared) -> None:
        for key in (*found.tunnels.changed, *found.tunnels.added):
            if self._tunnels.held(key):
                what = f"a command in the foreground has {key[0]} {key[1]}"
                raise wanted.places[key].wrong(None, what, "end that command first")

    # --- doing it ---------------------------------------------------------------------------------

    async def _carry_out(self, found: Plan) -> None:
        tunnels, names = found.tunnels, found.names
        rights = bool(found.rules or found.blocks)
        before = self._access.rules.table, dict(self._peering.names.typed)
        put = [found.after.tunnels[key] for key in (*tunnels.changed, *tunnels.added)]
        with ExitStack() as held:
            held.enter_context(self._access.held())

            async def between() -> None:
                if names:
                    await self._peering.put(self._typed_names(found))
                if rights:
                    await self._write(lambda table: _after(table, found))
                held.close()

            try:
                if rights and (tunnels or names):
                    await self._write(lambda table: _on_the_way(table, found))
                if names.removed or names.changed:
                    await self._peering.put(names_on_the_way(before[1], self._typed_names(found)))
                if tunnels:
                    await self._tunnels.change(put, tunnels.removed, between)
                else:
                    await between()
            except P2PForwardError:
                await self._take_back(*before)
                raise

    def _typed_names(self, found: Plan) -> dict[str, NamedPeer]:
        """The names of the file peers.json afterwards."""
        changed = (*found.names.changed, *found.names.added)
        kept = {k: it for k, it in self._peering.names.typed.items() if k not in found.names.removed}
        return kept | {name: found.after.names[name] for name in changed}

    async def _write(self, change: Change) -> None:
        await self._access.rules.change(change, lambda: None)

    async def _take_back(self, table: AccessTable, names: dict[str, NamedPeer]) -> None:
        """After a failure: rules and names as they were."""
        try:
            if self._access.rules.table is not table:
                await self._write(lambda _: table)
            if self._peering.names.typed != names:
                await self._peering.put(names)
        except P2PForwardError as exc:
            log.error("apply: rules and names could not be put back, and let in fewer: %s", exc.message)


def _on_the_way(table: AccessTable, found: Plan) -> AccessTable:
    """Of the rules that are changed, what both states allow; all that either blocks."""
    changed = (*found.rules.removed, *found.rules.changed, *found.rules.added)
    old = {name: rule for name, rule in found.before.rules.items() if name in changed}
    new = {name: rule for name, rule in found.after.rules.items() if name in changed}
    rules = _with_ends(table, rules_on_the_way(old, new))
    return AccessTable({**table.rules, **rules}, _more(table.blocks, found))


def _after(table: AccessTable, found: Plan) -> AccessTable:
    changed = (*found.rules.changed, *found.rules.added)
    rules = {name: rule for name, rule in table.rules.items() if name not in found.rules.removed}
    rules |= _with_ends(table, {name: found.after.rules[name] for name in changed})
    gone = set(found.blocks.removed)
    blocks = _more(table.blocks, found)
    return AccessTable(
        rules,
        Blocks(
            (it for it in blocks.peers if str(it) not in gone),
            (it for it in blocks.networks if str(it) not in gone),
        ),
    )


def _with_ends(table: AccessTable, rules: Mapping[str, Rule]) -> dict[str, Rule]:
    """What ends by itself is in no file, and stays."""
    return {name: rule.keeping_ends(table.rules.get(name, NO_RULE)) for name, rule in rules.items()}


def _more(blocks: Blocks, found: Plan) -> Blocks:
    """With those that come."""
    after, added = found.after.blocks, set(found.blocks.added)
    return Blocks(
        blocks.peers | {it for it in after.peers if str(it) in added},
        blocks.networks | {it for it in after.networks if str(it) in added},
    )
