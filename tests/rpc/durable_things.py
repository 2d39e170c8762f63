"""What a durability run changes and looks for again: one class per kind of thing that a command changes.

Each thing is changed by one writer alone, so what it may be after a kill is known: what the last answer said
(`stands`), or what the one command without an answer asked for (`asked`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import ListenerExists
from p2pfwd.rpc import schema as s
from p2pfwd.rpc.client import Client

PEERS: Final = (
    "12D3KooWNBSMhmHonfyQbXYczUq24ujJKQxhpNNgSaLxvupFZ5uu",
    "12D3KooWGcQcL3RfR1bmquTwxEF25cPLg3c1EdrSUicVJm1WijhL",
)

Value = tuple[object, ...] | None
"""What a thing is; None: it is not there."""


@dataclass(frozen=True, slots=True)
class Found:
    """Everything that a daemon has."""

    listeners: tuple[s.Listener, ...]
    rules: dict[str, s.AccessRule]
    blocked: frozenset[str]
    peers: dict[str, s.NamedPeer]
    invites: tuple[s.Invite, ...]

    @classmethod
    def by(cls, client: Client) -> Found:
        """As this daemon answers."""
        return cls(
            client.call("p2p.ls").listeners,
            {it.protocol: it for it in client.call("access.ls").rules if it.saved},
            frozenset(it.what for it in client.call("block.ls").blocked),
            {it.name: it for it in client.call("peer.ls", s.PeerLsParams()).peers},
            client.call("invite.ls").invites,
        )

    def tunnel(self, direction: str, text: str) -> s.Listener | None:
        """The listen of a protocol, or the forward at an address."""
        for it in self.listeners:
            is_named = text in (it.protocol, it.listen_address)
            if is_named and it.direction == direction:
                return it
        return None


class Thing:
    """One of them; subclasses say how it is changed and where it is found."""

    kind = ""

    def __init__(self) -> None:
        self.stands: Value = None
        self.asked: Value = None  # differs from `stands` while a command has no answer

    def change(self, client: Client, drawn: random.Random) -> None:
        """Give one command. Raises ConnectionLost."""
        raise NotImplementedError

    def look(self, found: Found) -> Value:
        """What it is."""
        raise NotImplementedError

    def check(self, found: Found) -> str | None:
        """What of it was lost, if anything; from now on it is what it was found to be."""
        there = self.look(found)
        lost = there not in (self.stands, self.asked)
        text = f"{self.kind}: {self.stands} or {self.asked} became {there}" if lost else None
        self.stands = self.asked = there
        return text

    def _ask(self, client: Client, wanted: Value, method: str, params: object) -> None:
        self.asked = wanted
        client.call(method, params)
        self.stands = wanted


class Tunnel(Thing):
    """A listen of a name, or a forward at an address: made, made again, and closed."""

    def __init__(self, direction: str, text: str) -> None:
        super().__init__()
        self.kind = direction
        self._text = text

    def change(self, client: Client, drawn: random.Random) -> None:
        """Make it, or close it."""
        if self.stands is not None and drawn.random() < 0.6:
            is_listen = self.kind == "listen"
            text = {"protocol": self._text} if is_listen else {"listen_address": self._text}
            self._ask(client, None, "p2p.close", s.CloseParams(**text))
            return
        wanted = self._any(drawn)
        (where,) = wanted
        params: object = s.ForwardParams("/x/f", self._text, (where,))
        if self.kind == "listen":
            params = s.ListenParams(self._text, where)
        self.asked = wanted if self.stands is None else self.stands
        try:
            answer = client.call(f"p2p.{self.kind}", params)
        except ListenerExists:
            assert self.stands not in (None, wanted)
            return
        assert answer.stood == (self.stands is not None)
        self.stands = wanted

    def _any(self, drawn: random.Random) -> tuple[str]:
        if self.kind == "forward":
            return (drawn.choice(PEERS),)
        return (f"/ip4/127.0.0.1/tcp/{drawn.randint(1, 3)}",)

    def look(self, found: Found) -> Value:
        """Where it leads."""
        there = found.tunnel(self.kind, self._text)
        return None if there is None else (there.target_address.removeprefix("/p2p/"),)


class Limit(Thing):
    """The limits of a listen that always stands."""

    kind = "limit"

    def __init__(self, protocol: str) -> None:
        super().__init__()
        self._protocol = protocol

    def change(self, client: Client, drawn: random.Random) -> None:
        """Make the listen first."""
        if self.stands is None:
            wanted: Value = (0, 0)
            self._ask(client, wanted, "p2p.listen", s.ListenParams(self._protocol, "9"))
            return
        most, rate = drawn.randint(1, 9), 1000 * drawn.randint(1, 9)
        params = s.LimitParams(self._protocol, max_streams=most, rate=rate)
        self._ask(client, (most, rate), "p2p.limit", params)

    def look(self, found: Found) -> Value:
        """Both of them."""
        there = found.tunnel("listen", self._protocol)
        if there is None:
            return None
        limits = there.limits or s.Limits()
        return limits.max_streams, limits.rate


class Rule(Thing):
    """What the rule of a name says of one peer: allowed, denied, or there is no rule."""

    kind = "rule"

    def __init__(self, protocol: str) -> None:
        super().__init__()
        self._protocol = protocol

    def change(self, client: Client, drawn: random.Random) -> None:
        """Allow it, deny it, or remove the rule."""
        kind = drawn.choice(("allow", "deny", "rm"))
        if kind == "allow":
            wanted: Value = ("allowed",)
            params: object = s.AccessAllowParams(self._protocol, PEERS[:1])
        elif kind == "deny":
            wanted, params = ("denied",), s.AccessChangeParams(self._protocol, PEERS[:1])
        elif self.stands is None:
            return
        else:
            wanted, params = None, s.AccessRmParams(self._protocol)
        self._ask(client, wanted, f"access.{kind}", params)

    def look(self, found: Found) -> Value:
        """In which list it is."""
        rule = found.rules.get(self._protocol)
        if rule is None:
            return None
        lists = (("allowed", rule.access.allowed), ("denied", rule.access.denied))
        return tuple(name for name, peers in lists if PEERS[0] in {it.peer for it in peers})


class Block(Thing):
    """Whether a network is blocked."""

    kind = "block"

    def __init__(self, network: str) -> None:
        super().__init__()
        self._network = network

    def change(self, client: Client, drawn: random.Random) -> None:
        """Block it, or take it off."""
        wanted = ("blocked",) if self.stands is None else None
        method = "block.rm" if wanted is None else "block.add"
        self._ask(client, wanted, method, s.BlockParams((self._network,)))

    def look(self, found: Found) -> Value:
        """Whether it is there."""
        return ("blocked",) if self._network in found.blocked else None


class Name(Thing):
    """A name: whether it is given, and where its peer is."""

    kind = "name"

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._peer = str(PeerId.from_public_key(PrivateKey.generate().public_key))

    def change(self, client: Client, drawn: random.Random) -> None:
        """Name a peer, or forget it."""
        if self.stands is not None and drawn.random() < 0.4:
            self._ask(client, None, "peer.rm", s.PeerRmParams(self._name))
            return
        self._ask(client, *self.named(drawn))

    def named(self, drawn: random.Random) -> tuple[Value, str, s.PeerAddParams]:
        """What it will be, and the command that makes it so."""
        peer, address = self._peer, f"/ip4/10.1.2.3/tcp/{drawn.randint(1, 9)}"
        return (peer, address), "peer.add", s.PeerAddParams(self._name, (f"{address}/p2p/{peer}",))

    def look(self, found: Found) -> Value:
        """The peer and its address."""
        there = found.peers.get(self._name)
        return None if there is None else (there.peer, *there.addresses)


class Invites(Thing):
    """Those of one listen: `stands` are the open ones. A new one without an answer may be there or not."""

    kind = "invites"
    MOST = 5

    def __init__(self, protocol: str) -> None:
        super().__init__()
        self._protocol = protocol
        self.stands = self.asked = ()
        self._revoked: set[object] = set()
        self._is_making = False

    def change(self, client: Client, drawn: random.Random) -> None:
        """Make one, or take one back."""
        there = self.stands or ()
        if there and (len(there) >= self.MOST or drawn.random() < 0.5):
            gone = str(drawn.choice(there))
            self.asked = tuple(it for it in there if it != gone)
            client.call("invite.revoke", s.InviteRevokeParams(gone))
            self.stands = self.asked
            self._revoked.add(gone)
            return
        self._is_making = True
        made = client.call("invite.new", s.InviteNewParams(self._protocol, expires_s=86_400.0))
        self.stands = self.asked = (*there, made.invite.id)
        self._is_making = False

    def look(self, found: Found) -> Value:
        """Those that are open."""
        return tuple(it.id for it in found.invites if it.protocol == self._protocol and it.state == "open")

    def check(self, found: Found) -> str | None:
        """As Thing.check: one more may be there where a new one had no answer."""
        there = set(self.look(found) or ())
        stands, asked = set(self.stands or ()), set(self.asked or ())
        more = there - stands
        lost = (stands & asked) - there or more & self._revoked or len(more) > self._is_making
        text = f"{self.kind}: {stands} or {asked} became {there}" if lost else None
        self.stands = self.asked = tuple(sorted(there))
        self._is_making = False
        return text


class Applied(Thing):
    """A file with a listen and a name. Either may be changed already where there is no answer."""

    kind = "apply"

    def __init__(self, protocol: str, name: str) -> None:
        super().__init__()
        self._tunnel, self._named = Tunnel("listen", protocol), Name(name)
        self._protocol, self._name = protocol, name

    def change(self, client: Client, drawn: random.Random) -> None:
        """Apply another file."""
        target = f"/ip4/127.0.0.1/tcp/{drawn.randint(1, 9)}"
        wanted, _, params = self._named.named(drawn)
        text = (
            f'[[listen]]\nprotocol = "{self._protocol}"\ntarget = "{target}"\n'
            f'[[peer]]\nname = "{self._name}"\npeer = "{params.peers[0]}"\n'
        )
        self._tunnel.asked, self._named.asked = (target,), wanted
        client.call("p2p.apply", s.ApplyParams(text))
        self._tunnel.stands, self._named.stands = (target,), wanted

    def check(self, found: Found) -> str | None:
        """Of both."""
        lost = [text for it in (self._tunnel, self._named) if (text := it.check(found)) is not None]
        return f"{self.kind}: {'; '.join(lost)}" if lost else None


def things(writer: int, base: Path) -> list[Thing]:
    """What one writer changes."""
    return [
        *(Tunnel("listen", f"/x/{writer}/{n}") for n in range(3)),
        *(Tunnel("forward", f"/unix{base}/{writer}-{n}") for n in range(2)),
        Limit(f"/x/limited/{writer}"),
        Rule(f"/x/ruled/{writer}"),
        Block(f"10.{writer}.0.0/16"),
        Name(f"friend-{writer}"),
        Invites(f"/x/invited/{writer}"),
        Applied(f"/x/applied/{writer}", f"applied-{writer}"),
    ]
