"""Who may connect to this daemon: the owner's rules and block list, in force on its listens and its swarm.

Rules: a rule is about peers by their ID; a name of `peer add` is read once, when the rule is made. What is
taken away ends the live streams that it let in, and a block the connections. With `access.default` named, a
peer that loses its name loses what the name gave. Rules and blocks of config.toml hold beside those that
commands made, and whom either keeps out is out: a command never opens what the file shuts.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.quoting import quoted
from p2pfwd.daemon.access_arguments import check_number, read_allowed, read_blocks
from p2pfwd.errors import NotFound, StorageFailed, UsageError
from p2pfwd.forwarding.names import check_protocol
from p2pfwd.peers.access_rules import AccessRules, AccessTable, Change
from p2pfwd.policy.access import NO_RULE, Access, Default, Rule, joined
from p2pfwd.policy.blocks import Blocks, Network
from p2pfwd.rpc import schema as s

if TYPE_CHECKING:
    from p2pfwd.daemon.peering import Peering
    from p2pfwd.forwarding.service import Forwarding
    from p2pfwd.forwarding.values import ListenerInfo
    from p2pfwd.host.host import Host
    from p2pfwd.rpc.paths import Paths

log = logging.getLogger("p2pfwd.access")


class AccessControl:
    """Of one daemon; `start` reads the file."""

    def __init__(
        self,
        host: Host,
        paths: Paths,
        forwarding: Forwarding,
        peering: Peering,
        default: Default,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self.rules = AccessRules(paths.access_file)
        self._host = host
        self._forwarding = forwarding
        self._peering = peering
        self._default = default
        peering.on_names_changed(self._names_changed)
        self.on_changed: Callable[[str | None, str], None] = lambda _protocol, _change: None
        """Told of which name the rule has changed (None: the block list), and how, in words."""
        self.ends_changed: Callable[[], None] = lambda: None
        self.applied: Callable[[], None] = lambda: None
        """Told when other peers may have a right, or a name."""
        self.changing = asyncio.Lock()
        """Held from the look at the rules to the change: what is answered in between is not undone."""
        self._declared = AccessTable()
        self._told = AccessTable()
        self._holds = 0
        self._named: Mapping[PeerId, str] | None = None  # until a name is changed

    def start(self) -> None:
        """Read the rules, and put them in force. Raises as `AccessRules.load`."""
        self.rules.load()
        self._host.swarm.block(self.table.blocks)
        self._apply(keep_live=False)
        self._told = self.table

    @property
    def table(self) -> AccessTable:
        """What holds: the rules and blocks that commands made, with those of config.toml."""
        typed, declared = self.rules.table, self._declared
        rules = {name: joined(it, typed.rules.get(name, NO_RULE)) for name, it in declared.rules.items()}
        blocks = Blocks(
            declared.blocks.peers | typed.blocks.peers, declared.blocks.networks | typed.blocks.networks
        )
        return AccessTable({**typed.rules, **rules}, blocks)

    def declare(self, rules: Mapping[str, Rule], blocks: Blocks, default: Default) -> None:
        """Put this in the place of what config.toml said before."""
        self._declared, self._default = AccessTable(rules, blocks), default
        self.put_in_force()

    @contextmanager
    def held(self) -> Iterator[None]:
        """What holds at its begin holds until its end, whatever is changed meanwhile: then all at once."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            self.put_in_force()

    def put_in_force(self) -> None:
        """Let what is known by now hold, and end what it allows no more."""
        if not self._holds:
            self._host.swarm.block(self.table.blocks)
            self._apply(keep_live=False)
            self._tell()

    def _tell(self) -> None:
        """Tell which rules and blocks are others than were told last."""
        before, now = self._told, self.table
        self._told = now
        for name in {**before.rules, **now.rules}:
            if before.rules.get(name) != now.rules.get(name):
                old, new = before.rules.get(name, NO_RULE), now.rules.get(name, NO_RULE)
                self.on_changed(name, self._in_words(name, old, new))
        for words, one, other in (("blocked", before, now), ("blocked no longer", now, before)):
            peers, networks = one.blocks.peers, one.blocks.networks
            more = (*(other.blocks.peers - peers), *(other.blocks.networks - networks))
            if more:
                self.on_changed(None, f"{', '.join(sorted(map(str, more)))} {words}")

    @property
    def default(self) -> Default:
        """Whom a listen without a rule lets in."""
        return "none" if self.rules.lost is not None else self._default

    def _apply(self, *, keep_live: bool) -> int:
        if self._holds:
            return 0
        rules = self.table.ended(self._clock()).rules
        access = Access(self.default, rules, self._names())
        ended = self._forwarding.set_access(access, keep_live=keep_live)
        self.applied()
        return len(ended)

    def _names_changed(self) -> None:
        self._named = None
        self._apply(keep_live=False)

    # --- rules ------------------------------------------------------------------------------------

    async def allow(
        self, protocol: str, texts: Sequence[str], *, keep_live: bool, ends_at: float = 0.0
    ) -> tuple[s.AccessRule, int]:
        """Let these in, for good or until then: the rule, and how many streams were reset.

        Raises as `_change`.
        """
        peers = self.read(texts)
        if peers is None:
            changed = await self._change(protocol, lambda rule: rule.let_in("any", ends_at), keep_live)
        else:
            changed = await self._change(protocol, lambda rule: rule.allow(peers, ends_at), keep_live)
        self.ends_changed()
        return changed

    async def let_in(self, protocol: str, peer: PeerId) -> bool:
        """As `allow`, for who has taken an invite; False where its ID is denied. Raises as `_change`."""

        def change(rule: Rule) -> Rule:
            return rule if self.is_denied(protocol, peer) else rule.allow({peer})

        await self._change(protocol, change, keep_live=True)
        return not self.is_denied(protocol, peer)

    def is_denied(self, protocol: str, peer: PeerId) -> bool:
        """Whether the owner keeps this peer out by its ID, config.toml included."""
        return peer in self.table.rules.get(protocol, NO_RULE).denied

    async def deny(self, protocol: str, texts: Sequence[str], *, keep_live: bool) -> tuple[s.AccessRule, int]:
        """Keep these out; `any`: all that the rule does not allow. As `allow`."""
        peers = self.read(texts)
        if peers is None:
            return await self._change(protocol, lambda rule: rule.let_in("listed"), keep_live)
        return await self._change(protocol, lambda rule: rule.deny(peers), keep_live)

    async def say(
        self,
        protocol: str,
        only: Sequence[frozenset[PeerId] | None],
        tell: Sequence[frozenset[PeerId] | None],
    ) -> Callable[[], Awaitable[None]]:
        """What a `listen` says of its name, in one change; gives what undoes it. Raises as `_change`.

        `only`: let in these alone in place of what held before; `tell`: tell these when they are denied.
        Each is one set of peers, None for any, or empty where nothing is said.
        """
        if not only and not tell:
            return _nothing
        before = self.rules.table.rules.get(protocol)
        after = NO_RULE

        def change(rule: Rule) -> Rule:
            nonlocal before, after
            before, after = self.rules.table.rules.get(protocol), rule
            for peers in only:
                after = after.let_in("any") if peers is None else after.only(peers)
            for peers in tell:
                after = after.tell(peers)
            return after

        async def undo() -> None:
            def back(table: AccessTable) -> AccessTable:
                if table.rules.get(protocol) is not after:
                    return table  # somebody has changed it since
                rules = {name: rule for name, rule in table.rules.items() if name != protocol}
                return replace(table, rules=rules if before is None else {**table.rules, protocol: before})

            try:
                await self._in_force(protocol, back, keep_live=True)
            except StorageFailed as exc:
                log.error("the rule of %s stays, and its listen does not: %s", protocol, exc.message)

        try:
            await self._change(protocol, change, keep_live=False)
        except asyncio.CancelledError:
            await undo()  # it was written all the same
            raise
        return undo

    async def remove(self, protocol: str, *, keep_live: bool) -> tuple[s.AccessRule, int]:
        """Forget a rule: the default holds. Raises NotFound, StorageFailed."""

        def change(table: AccessTable) -> AccessTable:
            if protocol not in table.rules:
                hint = "p2pfwd access ls shows the rules"
                if protocol in self._declared.rules:
                    hint = "config.toml declares it: take it out there, then p2pfwd reload"
                raise NotFound(f"there is no access rule for {quoted(protocol)}", hint=hint)
            left = {name: rule for name, rule in table.rules.items() if name != protocol}
            return replace(table, rules=left)

        return await self._in_force(protocol, change, keep_live)

    async def _change(
        self, protocol: str, change: Callable[[Rule], Rule], keep_live: bool
    ) -> tuple[s.AccessRule, int]:
        """Raises InvalidProtocol, ResourceLimitExceeded, StorageFailed; then nothing has changed."""
        check_protocol(protocol, allow_custom=True, serving=True)

        def changed(table: AccessTable) -> AccessTable:
            rule = change(table.rules.get(protocol, NO_RULE))
            return replace(table, rules={**table.rules, protocol: rule})

        return await self._in_force(protocol, changed, keep_live)

    async def _in_force(self, protocol: str, change: Change, keep_live: bool) -> tuple[s.AccessRule, int]:
        streams = 0

        def apply() -> None:
            nonlocal streams
            streams = self._apply(keep_live=keep_live)

        async with self.changing:
            await self.rules.change(change, apply)
        self._tell()
        return self._rule(protocol, self.table.rules), streams

    def next_end(self) -> float | None:
        """See `expiry.Ending`."""
        return self.rules.table.next_end()

    async def end_due(self, now: float) -> None:
        """Those whose time is over are let in no more; their live streams are reset.

        At once: a command that waits for the disk holds up what is written down alone.
        """
        self._apply(keep_live=False)
        async with self.changing:
            await self.rules.end_due(now, lambda: self._apply(keep_live=False))
        self._tell()

    # --- blocks -----------------------------------------------------------------------------------

    async def block(self, texts: Sequence[str]) -> s.BlockResult:
        """Speak to these no more. Raises UsageError and its kin, ResourceLimitExceeded, StorageFailed."""
        peers, networks = self._read_blocks(texts)
        if self._host.peer_id in peers:
            raise UsageError("the peer is this node itself", hint="use the peer ID of the other machine")

        def change(table: AccessTable) -> AccessTable:
            old = table.blocks
            return replace(table, blocks=Blocks(old.peers | peers, old.networks | networks))

        ended = streams = 0

        def apply() -> None:
            nonlocal ended, streams
            before = len(self._forwarding.streams())
            ended = len(self._host.swarm.block(self.table.blocks))
            streams = before - len(self._forwarding.streams())
            self._forwarding.access.requests.forget(lambda peer, _protocol: peer in peers)

        async with self.changing:
            await self.rules.change(change, apply)
        self._tell()
        return s.BlockResult(self._blocks(peers, networks), ended, streams)

    async def unblock(self, texts: Sequence[str]) -> s.BlockLsResult:
        """Speak to these again. Raises NotFound for one that is not on the list, and as `block`."""
        peers, networks = self._read_blocks(texts)

        def change(table: AccessTable) -> AccessTable:
            old = table.blocks
            missing = [*map(str, peers - old.peers), *map(str, networks - old.networks)]
            declared = self._declared.blocks
            if peers & declared.peers or networks & declared.networks:
                hint = "take it out there, then p2pfwd reload"
                raise NotFound("config.toml declares the block", hint=hint)
            if missing:
                hint = "p2pfwd block ls shows the list; a network is taken off as it was put on"
                raise NotFound(f"{missing[0]} is not blocked", hint=hint)
            return replace(table, blocks=Blocks(old.peers - peers, old.networks - networks))

        async with self.changing:
            await self.rules.change(change, lambda: self._host.swarm.block(self.table.blocks))
        self._tell()
        return s.BlockLsResult(self._blocks(peers, networks))

    def blocked(self) -> s.BlockLsResult:
        """The block list: peers, then networks."""
        blocks = self.table.blocks
        return s.BlockLsResult(self._blocks(blocks.peers, blocks.networks))

    # --- arguments --------------------------------------------------------------------------------

    def read(self, texts: Sequence[str]) -> frozenset[PeerId] | None:
        """The peers that arguments mean; None for `any`.

        Raises InvalidPeerId, InvalidMultiaddr, UsageError.
        """
        check_number(texts)
        return read_allowed(texts, self._peering.names)

    def _read_blocks(self, texts: Sequence[str]) -> tuple[frozenset[PeerId], frozenset[Network]]:
        check_number(texts)
        return read_blocks(texts, self._peering.names)

    # --- what is shown ----------------------------------------------------------------------------

    def listing(self) -> s.AccessLsResult:
        """Every rule, and what holds for the listens without one."""
        listens = [it.protocol for it in self._forwarding.listeners() if it.direction == "listen"]
        ruled = self.table.rules
        names = sorted({*ruled, *listens})
        lost = self.rules.lost
        rows = tuple(self._rule(name, ruled) for name in names)
        return s.AccessLsResult(self.default, None if lost is None else str(lost), rows)

    def requests(self) -> s.AccessRequestsResult:
        """Who was denied what, the one who asked last first."""
        requests, names = self._forwarding.access.requests, self._names()
        now = requests.clock()
        return s.AccessRequestsResult(
            tuple(
                s.AccessRequest(
                    protocol=it.protocol,
                    peer=str(it.party.peer),
                    name=names.get(it.party.peer),
                    count=it.count,
                    first_s=now - it.first_at,
                    last_s=now - it.last_at,
                    remote_address=it.address,
                    command=shlex.join(("p2pfwd", "allow", it.protocol, str(it.party.peer))),
                )
                for it in requests.all()
            )
        )

    def of_listener(self, info: ListenerInfo) -> s.Access | None:
        """Whom it lets in; None of a forward."""
        return self.of(info.protocol) if info.direction == "listen" else None

    def of(self, protocol: str) -> s.Access:
        """Whom the listen of this name lets in."""
        rules, names = self._forwarding.access.rules, self._names()
        rule = rules.rules.get(protocol, NO_RULE)
        return s.Access(
            rules.lets_in(protocol),
            _peers(rule.allowed, names, rule.ends),
            _peers(rule.denied, names),
            rule.ends.get(None),
            _peers(rule.told, names),
            rule.tells_any,
        )

    def _rule(self, protocol: str, ruled: Mapping[str, Rule]) -> s.AccessRule:
        is_ruled, listens = protocol in ruled, self._forwarding.is_listening(protocol)
        return s.AccessRule(protocol, self.of(protocol), is_ruled, listens)

    def _in_words(self, protocol: str, before: Rule, now: Rule) -> str:
        """Whom it lets in at large, and what else is another than before: an event has room for few peers."""
        access, names = self.of(protocol), self._names()
        over = {whom for whom, end in before.ends.items() if end <= self._clock()} - now.ends.keys()
        words = [_LETS_IN[access.lets_in] if access.lets_in != "listed" or access.allowed else "nobody"]
        if over:
            whom = ("any peer" if it is None else names.get(it, str(it)) for it in over)
            words.append(f"the time of {', '.join(sorted(whom))} is over")
        for what, had, has in (
            ("allowed", before.allowed, now.allowed),
            ("denied", before.denied, now.denied),
            ("told when denied", before.told, now.told),
        ):
            for when, peers in (("now", has - had), ("no longer", had - has)):
                if others := peers - over:
                    listed = ", ".join(sorted(names.get(it, str(it)) for it in others))
                    words.append(f"{when} {what}: {listed}")
        if now.tells_any != before.tells_any:
            words.append(f"{'now' if now.tells_any else 'no longer'} told when denied: any")
        return "; ".join(words)

    def _blocks(self, peers: frozenset[PeerId], networks: frozenset[Network]) -> tuple[s.Block, ...]:
        found = [s.Block("peer", it.peer, it.name) for it in _peers(peers, self._names())]
        found += [
            s.Block("network", str(it), None) for it in sorted(networks, key=lambda it: (it.version, it))
        ]
        return tuple(found)

    def _names(self) -> Mapping[PeerId, str]:
        """By peer; made once for all rows of a list."""
        if self._named is None:
            self._named = {named.peer_id: named.name for named in self._peering.names.all()}
        return self._named


async def _nothing() -> None:
    """Nothing was said, and nothing is to be undone."""


_LETS_IN: Final = {"any": "any peer", "named": "peers with a name here", "listed": "those allowed"}


def _peers(
    peers: frozenset[PeerId], names: Mapping[PeerId, str], ends: Mapping[PeerId | None, float] = NO_RULE.ends
) -> tuple[s.AccessPeer, ...]:
    """Those with a name first."""
    shown = [s.AccessPeer(str(peer), names.get(peer), ends.get(peer)) for peer in peers]
    return tuple(sorted(shown, key=lambda it: (it.name is None, it.name or "", it.peer)))
