"""Who may use which listen, and who is blocked: the owner's word, and its file `access.json`.

Rules: a rule belongs to a protocol name, so it is there before its listen and stays after it. A change is in
the file before it holds and is answered: written whole or not at all, durably, off the event loop. A file of
a newer p2pfwd stops the start. One that cannot be understood is moved aside, and as long as it lies there
nobody is let in without a new rule: what it kept closed must not open by its loss.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from p2pfwd.core.durations import read_time
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import ResourceLimitExceeded, StorageFailed
from p2pfwd.policy.access import AtLarge, Rule
from p2pfwd.policy.blocks import Blocks, parse_network
from p2pfwd.state.json_file import JsonFile

log = logging.getLogger("p2pfwd.access")

MAX_RULES: Final = 1024
"""Protocol names with a rule."""

MAX_RULED_PEERS: Final = 16_384
"""Peers listed by all rules together."""

MAX_BLOCKS: Final = 4096
"""Peers and networks on the block list together."""

MAX_FILE_BYTES: Final = 8 << 20
"""Longest file read; full of everything, each peer told, too, and with an end, it takes 5 MB."""

_ANY: Final = "any"
_WHAT: Final = "access rules"


@dataclass(frozen=True, slots=True)
class AccessTable:
    """What the file says."""

    rules: Mapping[str, Rule] = field(default_factory=dict)
    blocks: Blocks = field(default_factory=Blocks)

    def next_end(self) -> float | None:
        """When the first right ends, unix seconds; None where none does."""
        return min((end for rule in self.rules.values() for end in rule.ends.values()), default=None)

    def ended(self, now: float) -> AccessTable:
        """Without the rights that have ended."""
        return replace(self, rules={name: rule.ended(now) for name, rule in self.rules.items()})


Change = Callable[[AccessTable], AccessTable]


class AccessRules:
    """The table; `load` fills it from the file."""

    def __init__(self, path: Path) -> None:
        self.lost: Path | None = None
        """A damaged file that lies aside: what the owner said is not known."""
        self._file = JsonFile(path, _WHAT, AccessTable(), encode=_to_json, log=log)

    @property
    def table(self) -> AccessTable:
        """What holds."""
        return self._file.table

    async def change(self, change: Change, apply: Callable[[], object]) -> None:
        """As `JsonFile.change`; raises ResourceLimitExceeded, too."""

        def checked(table: AccessTable) -> AccessTable:
            after = change(table)
            check_bounds(after)
            return after

        await self._file.change(checked, apply)

    async def end_due(self, now: float, apply: Callable[[], object]) -> None:
        """Take away what has ended, and call `apply`; it ends also where that cannot be written down then."""
        for name, rule in self.table.rules.items():
            for peer, end in rule.ends.items():
                if end <= now:
                    log.info("%s: what let in %s has ended (--expires)", name, peer or "any peer")
        try:
            await self._file.change_at_once(lambda table: table.ended(now), apply)
        except StorageFailed as exc:
            log.warning("rights that have ended are still written down: %s", exc.message)

    @property
    def moved(self) -> Path | None:
        """Where `load` moved a damaged file."""
        return self._file.moved

    def load(self) -> None:
        """Read the file, if there is one.

        Raises InvalidConfig where another version of p2pfwd made it, StorageFailed where it cannot be read.
        """
        without = "no rule is known, and nobody is blocked"
        why = self._file.load(_from_json, max_bytes=MAX_FILE_BYTES, without=without)
        if why is not None:
            self._file.set_aside(why)
        if self._file.aside.exists():
            self.lost = self._file.aside
            log.error(
                "%s lies there: as long as it does, nobody is let in without a rule. Mend it and move it "
                "back, or remove it, and start the daemon again",
                self.lost,
            )


def check_bounds(table: AccessTable) -> None:
    """Raises ResourceLimitExceeded for more than the file holds."""
    if len(table.rules) > MAX_RULES:
        hint = "p2pfwd access rm takes one away"
        raise ResourceLimitExceeded(f"there are {MAX_RULES} access rules, which is the limit", hint=hint)
    if sum(rule.size for rule in table.rules.values()) > MAX_RULED_PEERS:
        hint = "p2pfwd access rm takes a rule away"
        raise ResourceLimitExceeded(
            f"the access rules list {MAX_RULED_PEERS} peers, which is the limit", hint=hint
        )
    if len(table.blocks) > MAX_BLOCKS:
        hint = "p2pfwd unblock takes one off; a wider network takes the place of many addresses"
        raise ResourceLimitExceeded(f"the block list has {MAX_BLOCKS} entries, which is the limit", hint=hint)


def _to_json(table: AccessTable) -> dict[str, Any]:
    rules = [
        {
            "protocol": protocol,
            "at_large": rule.at_large,
            "allowed": sorted(map(str, rule.allowed)),
            "denied": sorted(map(str, rule.denied)),
            "ends": {_ANY if peer is None else str(peer): end for peer, end in rule.ends.items()},
            "told": sorted(map(str, rule.told)),
            "tells_any": rule.tells_any,
        }
        for protocol, rule in sorted(table.rules.items())
    ]
    blocked = {
        "peers": sorted(map(str, table.blocks.peers)),
        "networks": sorted(map(str, table.blocks.networks)),
    }
    return {"rules": rules, "blocked": blocked}


def _from_json(document: dict[str, Any]) -> AccessTable:
    """The table of a file. Raises ValueError and its like for what cannot be understood."""
    rules: dict[str, Rule] = {}
    for entry in document["rules"]:
        protocol = entry["protocol"]
        if not isinstance(protocol, str):
            raise ValueError("a protocol is no text")
        at_large, allowed = _at_large(entry["at_large"]), _peers(entry["allowed"])
        ends = _ends(entry.get("ends", {}), at_large, allowed)
        told = _peers(entry.get("told", []))  # earlier versions told nobody
        tells_any = entry.get("tells_any") is True
        rules[protocol] = Rule(at_large, allowed, _peers(entry["denied"]), ends, told, tells_any)
    blocked = document["blocked"]
    networks = [parse_network(text) for text in blocked["networks"]]
    if None in networks:
        raise ValueError("a network is none")
    table = AccessTable(rules, Blocks(_peers(blocked["peers"]), (it for it in networks if it is not None)))
    check_bounds(table)
    return table


def _at_large(value: Any) -> AtLarge | None:
    if value not in (None, "any", "listed"):
        raise ValueError(f"at_large is {value!r}")
    return value  # type: ignore[no-any-return]


def _peers(texts: Any) -> frozenset[PeerId]:
    if not isinstance(texts, list):
        raise ValueError("a list is missing")
    return frozenset(PeerId.parse(text) for text in texts)


def _ends(found: Any, at_large: AtLarge | None, allowed: frozenset[PeerId]) -> dict[PeerId | None, float]:
    if not isinstance(found, dict):
        raise ValueError("the ends are no object")
    ends: dict[PeerId | None, float] = {}
    for whom, end in found.items():
        peer = None if whom == _ANY else PeerId.parse(whom)
        if not (at := read_time(end)):
            raise ValueError("an end is at no time")
        if (peer is None and at_large != "any") or (peer is not None and peer not in allowed):
            raise ValueError(f"{whom} has an end and is not let in")
        ends[peer] = at
    return ends
