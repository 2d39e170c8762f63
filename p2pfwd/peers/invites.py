"""Invites that this node has made: the table, its rules, and its file `invites.json`.

    made ──▶ open ──┬─ as many peers as it is for ──▶ used up
                    ├─ its time is over ────────────▶ expired
                    └─ revoked ─────────────────────▶ revoked

Rules: of a secret only its verifier is kept, so the file lets nobody in. A use is in the file, with the peer
it is for, before it is answered and before any right is given; the same peer needs no other, also when its
time is over, for the answer to the first may have been lost until then. That the right
was given is in the file afterwards: what its owner takes away later does not come back by the old word. A
change is written whole or not at all, off the event loop. An invite that has ended is kept a week, so that
who comes late is told why. A damaged file is moved aside: its invites let nobody in; one of a newer p2pfwd
stops the start.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from p2pfwd.core.durations import read_time
from p2pfwd.core.invite_token import SECRET_BYTES
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.quoting import quoted
from p2pfwd.errors import (
    NotFound,
    ResourceLimitExceeded,
    StorageFailed,
    UsageError,
)
from p2pfwd.state.json_file import JsonFile, on_copy
from p2pfwd.wire.invite import ID_BYTES, PROOF_BYTES, InviteStatus, Verifier, id_text, invite_id

log = logging.getLogger("p2pfwd.invites")

MAX_INVITES: Final = 256
MAX_USES: Final = 1024
"""Of one invite."""

MAX_LIFE_S: Final = 366 * 86_400.0
KEPT_S: Final = 7 * 86_400
"""How long an invite is known that has ended."""

MAX_FILE_BYTES: Final = 32 << 20
"""Longest file read; 256 invites, each taken by 1024 peers, take 20 MB, everyday ones a few KB."""

_WHAT: Final = "invites"
_WITHOUT: Final = "no invite is known, and new ones have to be made"

State = Literal["open", "used-up", "expired", "revoked"]

_STATUS: Final[dict[State, InviteStatus]] = {
    "open": InviteStatus.OK,
    "used-up": InviteStatus.USED_UP,
    "expired": InviteStatus.EXPIRED,
    "revoked": InviteStatus.REVOKED,
}


@dataclass(frozen=True, slots=True)
class Invite:
    """One entry. Times are Unix seconds."""

    id: str
    """As `wire.invite.id_text`."""
    protocol: str
    verifier: Verifier = field(repr=False)
    made: float
    expires: float
    uses: int
    """How many peers it is for."""
    name: str | None = None
    """What to call who takes it."""
    peers: tuple[PeerId, ...] = ()
    """Those who have taken it, the first one first."""
    revoked: bool = False
    let_in: frozenset[PeerId] = frozenset()
    """Those of them that were given their right; the others were interrupted."""

    def state(self, now: float) -> State:
        """Whether others can take it, or why not."""
        if self.revoked:
            return "revoked"
        if now >= self.expires:
            return "expired"
        return "open" if len(self.peers) < self.uses else "used-up"

    def status(self, peer: PeerId, now: float) -> InviteStatus:
        """What this peer is told who has the secret."""
        state = self.state(now)
        if state in ("used-up", "expired") and peer in self.peers:
            return InviteStatus.OK
        return _STATUS[state]


class Invites:
    """The table; `load` fills it from the file."""

    def __init__(self, path: Path, unix_time: Callable[[], float] = time.time) -> None:
        self.unix_time = unix_time
        empty: dict[str, Invite] = {}
        self._file = JsonFile(path, _WHAT, empty, encode=_to_json, log=log)

    def all(self) -> list[Invite]:
        """Every entry, the oldest first."""
        return sorted(self._file.table.values(), key=lambda it: (it.made, it.id))

    def find(self, invite: str) -> Invite | None:
        """The one with this ID."""
        return self._file.table.get(invite.lower())

    async def make(
        self, protocol: str, *, life_s: float, uses: int = 1, name: str | None = None
    ) -> tuple[Invite, bytes]:
        """A new invite: its entry, and its secret, which is kept nowhere.

        Raises UsageError, ResourceLimitExceeded, StorageFailed.
        """
        _check(life_s, uses)
        secret = secrets.token_bytes(SECRET_BYTES)
        while id_text(invite_id(secret)) in self._file.table:
            secret = secrets.token_bytes(SECRET_BYTES)
        now = self.unix_time()
        made = Invite(
            id_text(invite_id(secret)), protocol, Verifier.of(secret), now, now + life_s, uses, name
        )

        def change(invites: dict[str, Invite]) -> None:
            self._make_room(invites)
            invites[made.id] = made

        await self._file.change(on_copy(change))
        return made, secret

    async def claim(self, invite: str, peer: PeerId) -> InviteStatus:
        """A peer that has the secret takes it: on OK that is on the disk."""
        verdict = InviteStatus.UNKNOWN

        def change(invites: dict[str, Invite]) -> None:
            nonlocal verdict
            found = invites.get(invite)
            if found is None:
                return
            verdict = found.status(peer, self.unix_time())
            if verdict is InviteStatus.OK and peer not in found.peers:
                invites[invite] = replace(found, peers=(*found.peers, peer))

        try:
            await self._file.change(on_copy(change))
        except StorageFailed as exc:
            log.error("an invite was not taken: %s", exc.message)
            return InviteStatus.BUSY
        return verdict

    async def note_let_in(self, invite: str, peer: PeerId) -> None:
        """A peer that has taken it was given its right. Raises StorageFailed."""

        def change(invites: dict[str, Invite]) -> None:
            if (found := invites.get(invite)) is not None:
                invites[invite] = replace(found, let_in=found.let_in | {peer})

        await self._file.change(on_copy(change))

    async def revoke(self, invite: str) -> Invite:
        """Let nobody take it any more; the entry as it is now. Raises NotFound, StorageFailed."""
        revoked: list[Invite] = []

        def change(invites: dict[str, Invite]) -> None:
            found = invites.get(invite.lower())
            if found is None:
                raise NotFound(f"there is no invite {quoted(invite)}", hint="p2pfwd invite ls shows them")
            invites[found.id] = replace(found, revoked=True)
            revoked.append(invites[found.id])

        await self._file.change(on_copy(change))
        return revoked[0]

    def _make_room(self, invites: dict[str, Invite]) -> None:
        """Forget what ended long ago; of a full table the oldest that has ended. ResourceLimitExceeded."""
        now = self.unix_time()
        for one in [it for it in invites.values() if now >= it.expires + KEPT_S]:
            del invites[one.id]
        if len(invites) < MAX_INVITES:
            return
        ended = [it for it in invites.values() if it.state(now) != "open"]
        if not ended:
            raise ResourceLimitExceeded(
                f"there are {MAX_INVITES} open invites, which is the limit",
                hint="p2pfwd invite revoke takes one back",
            )
        del invites[min(ended, key=lambda it: it.made).id]

    @property
    def moved(self) -> Path | None:
        """Where `load` moved a damaged file."""
        return self._file.moved

    def load(self) -> None:
        """Read the file, if there is one.

        Raises InvalidConfig where a newer p2pfwd made it, InvalidKey where others can read it, StorageFailed.
        """
        why = self._file.load(_from_json, max_bytes=MAX_FILE_BYTES, without=_WITHOUT, secret=True)
        if why is not None:
            self._file.set_aside(why)


def _check(life_s: float, uses: int) -> None:
    if not 1 <= life_s <= MAX_LIFE_S:
        raise UsageError("an invite holds from one second to 366 days", hint="as in --expires 1h")
    if not 1 <= uses <= MAX_USES:
        raise UsageError(f"an invite is for 1 to {MAX_USES} machines", hint="as in --uses 3")


def _to_json(invites: dict[str, Invite]) -> dict[str, Any]:
    entries = [
        {
            "id": it.id,
            "protocol": it.protocol,
            "stored_key": it.verifier.stored_key.hex(),
            "inviter_key": it.verifier.inviter_key.hex(),
            "made": it.made,
            "expires": it.expires,
            "uses": it.uses,
            "name": it.name,
            "peers": [str(peer) for peer in it.peers],
            "revoked": it.revoked,
            "let_in": sorted(map(str, it.let_in)),
        }
        for it in invites.values()
    ]
    return {"invites": entries}


def _uses(value: object) -> int:
    if not isinstance(value, int) or not 1 <= value <= MAX_USES:
        raise ValueError(f"{value!r} is no number of uses")
    return value


def _from_json(document: dict[str, Any]) -> dict[str, Invite]:
    found = {}
    for entry in document["invites"]:
        verifier = Verifier(bytes.fromhex(entry["stored_key"]), bytes.fromhex(entry["inviter_key"]))
        name, protocol, it_is = entry["name"], entry["protocol"], entry["id"]
        if not isinstance(protocol, str) or not isinstance(name, str | None) or not isinstance(it_is, str):
            raise ValueError("a text is missing")
        sizes = len(it_is), len(verifier.stored_key), len(verifier.inviter_key)
        if sizes != (ID_BYTES * 8 // 5, PROOF_BYTES, PROOF_BYTES):
            raise ValueError(f"the keys of {quoted(it_is)} are none")
        found[it_is] = Invite(
            id=it_is,
            protocol=protocol,
            verifier=verifier,
            made=read_time(entry["made"]),
            expires=read_time(entry["expires"]),
            uses=_uses(entry["uses"]),
            name=name,
            peers=tuple(PeerId.parse(text) for text in entry["peers"]),
            revoked=entry["revoked"] is True,
            # Of a file without it nobody knows who was interrupted: the owner's word goes before.
            let_in=frozenset(PeerId.parse(text) for text in entry.get("let_in", entry["peers"])),
        )
    return found
