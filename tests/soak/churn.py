"""What happens meanwhile: faults of machines and lines by one thread, commands by another."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from p2pfwd.rpc import schema as s
from tests.soak.lab import CONFIG, DATA, GUARDED, INVITED, LIMITED, NAMES, Lab, port_of

FAULT_PAUSE_S: Final = (4.0, 12.0)
COMMAND_PAUSE_S: Final = (0.5, 2.0)
KILLED: Final = ("spare", "guest")


class Faults:
    """Kills, cuts, moves and halts, one after the other, each of them mended before the next."""

    def __init__(self, lab: Lab, seed: int) -> None:
        self._lab, self._drawn = lab, random.Random(seed)
        self.happened: Counter[str] = Counter()
        self._moved: dict[str, bool] = {}
        self._kinds: dict[str, Callable[[], None]] = {
            "killed outright": self._kill,
            "stopped": self._stop,
            "cut": self._cut,
            "cut for a minute": self._long_cut,
            "another address": self._roam,
            "halted": self._halt,
        }
        self._weights = (4, 2, 4, 1, 3, 2)

    def run(self) -> None:
        """Until the lab is stopping."""
        while not self._lab.stopping.wait(self._drawn.uniform(*FAULT_PAUSE_S)):
            (kind,) = self._drawn.choices(list(self._kinds), self._weights)
            self._lab.tally.note(kind)
            self._kinds[kind]()
            self.happened[kind] += 1

    def _kill(self) -> None:
        name = self._drawn.choice(KILLED)
        self._lab.kill(name)
        self._lab.stopping.wait(self._drawn.uniform(0.0, 2.0))
        self._lab.start(name)

    def _stop(self) -> None:
        name = self._drawn.choice(KILLED)
        self._lab.tally.note(name)
        self._lab.daemons[name].signal(signal.SIGTERM)
        self._lab.end(name)
        self._lab.start(name)

    def _cut(self, longest_s: float = 12.0, least_s: float = 0.5) -> None:
        machine = self._lab.machines[self._drawn.choice(NAMES)]
        self._lab.segment.port_state(machine, forwarding=False)
        self._lab.stopping.wait(self._drawn.uniform(least_s, longest_s))
        self._lab.segment.port_state(machine, forwarding=True)

    def _long_cut(self) -> None:
        self._cut(70.0, 55.0)

    def _roam(self) -> None:
        """A machine has another address of its network, or its first one again, as by DHCP."""
        name = self._drawn.choice(NAMES)
        machine = self._lab.machines[name]
        self._moved[name] = not self._moved.get(name, False)
        first, _, last = machine.address.rpartition(".")
        address = f"{first}.{int(last) + 100}" if self._moved[name] else machine.address
        for command in (
            "ip -4 address flush dev eth0 scope global",
            f"ip address add {address}/16 dev eth0",
            "ip route replace 224.0.0.0/4 dev eth0",
        ):
            machine.run(*command.split())

    def _halt(self) -> None:
        daemon = self._lab.daemons[self._drawn.choice(NAMES)]
        daemon.signal(signal.SIGSTOP)
        self._lab.stopping.wait(self._drawn.uniform(0.5, 6.0))
        daemon.signal(signal.SIGCONT)


class Owner:
    """The owner of all four, who changes everything that can be changed live; runs on `near`."""

    def __init__(self, lab: Lab, seed: int) -> None:
        self._lab, self._drawn = lab, random.Random(seed)
        self.happened: Counter[str] = Counter()
        self._number = 0
        self._kinds: dict[str, Callable[[], None]] = {
            "deny and allow": self._access,
            "limits": self._limits,
            "listen, forward, close": self._tunnels,
            "invite and join": self._invite,
            "invite revoked": self._revoke,
            "apply": self._apply,
            "reload": self._reload,
            "name and forget a peer": self._name,
            "block and unblock": self._block,
            "streams closed": self._close_streams,
            "questions": self._questions,
        }

    def run(self) -> None:
        """Until the lab is stopping."""
        while not self._lab.stopping.wait(self._drawn.uniform(*COMMAND_PAUSE_S)):
            self._number += 1
            kind = self._drawn.choice(list(self._kinds))
            self._lab.tally.note(kind)
            self._kinds[kind]()
            self.happened[kind] += 1

    def _wait(self) -> None:
        self._lab.stopping.wait(self._drawn.uniform(0.2, 3.0))

    def _id(self, name: str) -> str:
        return self._lab.daemons[name].peer_id

    def _access(self) -> None:
        name = self._drawn.choice(("near", "guest"))
        change = s.AccessChangeParams(GUARDED, (self._id(name),))
        if self._lab.ask("far", "access.deny", change) is not None:
            self._lab.denied[name] = time.monotonic()
        self._wait()
        self._lab.denied.pop(name, None)
        self._lab.ask("far", "access.allow", s.AccessAllowParams(GUARDED, (self._id(name),)))

    def _limits(self) -> None:
        rate, most = self._drawn.choice((0, 500_000, 2_000_000)), self._drawn.choice((0, 1, 8))
        params = s.LimitParams(LIMITED, max_streams=most, rate=rate)
        answer = self._lab.ask("far", "p2p.limit", params)
        if answer is None:
            return
        held = answer.listener.limits or s.Limits()
        if (held.rate, held.max_streams) != (rate, most):
            self._lab.tally.fault(f"limits of {LIMITED} are {held}, and were answered as {params}")

    def _tunnels(self) -> None:
        server, protocol = self._drawn.choice(("far", "spare")), f"/x/short/{self._number}"
        target = self._lab.service[server].address
        self._lab.ask(server, "p2p.listen", s.ListenParams(protocol, target))
        port = self._lab.forward("near", protocol, server)
        if port is not None:
            self._lab.transfer("near", port, self._drawn)
        for name in ("near", server):
            self._lab.ask(name, "p2p.close", s.CloseParams(protocol=protocol))

    def _invite(self) -> None:
        made = self._lab.ask("far", "invite.new", s.InviteNewParams(INVITED))
        if made is None:
            return
        joined = self._lab.ask("near", "invite.join", s.InviteJoinParams(made.token))
        if joined is not None:
            self._lab.transfer("near", port_of(joined.listener), self._drawn)
            self._lab.ask("near", "p2p.close", s.CloseParams(protocol=INVITED))
        else:
            self._lab.ask("far", "invite.revoke", s.InviteRevokeParams(made.invite.id))
        self._lab.ask("far", "access.rm", s.AccessRmParams(INVITED))
        self._lab.ask("far", "access.deny", s.AccessChangeParams(INVITED, ("any",)))

    def _revoke(self) -> None:
        made = self._lab.ask("far", "invite.new", s.InviteNewParams(INVITED))
        if made is None:
            return
        if self._lab.ask("far", "invite.revoke", s.InviteRevokeParams(made.invite.id)) is None:
            return
        if self._lab.ask("near", "invite.join", s.InviteJoinParams(made.token)) is not None:
            self._lab.tally.fault("an invite that was revoked let somebody in")

    def _apply(self) -> None:
        name = self._drawn.choice(("far", "spare"))
        before = self._lab.ask(name, "p2p.export")
        if before is None:
            return
        target = self._lab.service[name].address
        more = f'\n[[listen]]\nprotocol = "/x/applied/{self._number}"\ntarget = "{target}"\n'
        self._lab.ask(name, "p2p.apply", s.ApplyParams(before.text + more))
        self._wait()
        self._lab.ask(name, "p2p.apply", s.ApplyParams(before.text, prune=True))

    def _reload(self) -> None:
        home = self._lab.daemons["far"].home
        target = self._lab.service["far"].address
        declared = f'\n[[listen]]\nprotocol = "/x/declared"\ntarget = "{target}"\n'
        for text in (CONFIG + declared, CONFIG):
            (home / "config.toml").write_text(text, encoding="utf-8")
            self._lab.ask("far", "daemon.reload")
            self._wait()

    def _name(self) -> None:
        params = s.PeerAddParams("companion", (self._lab.where("spare"),), keep=True)
        self._lab.ask("near", "peer.add", params)
        self._wait()
        self._lab.ask("near", "peer.rm", s.PeerRmParams("companion"))

    def _block(self) -> None:
        params = s.BlockParams((self._id("guest"),))
        self._lab.ask("far", "block.add", params)
        self._wait()
        self._lab.ask("far", "block.rm", params)

    def _close_streams(self) -> None:
        name = self._drawn.choice(NAMES)
        self._lab.tally.note(name)
        self._lab.ask(name, "p2p.stream.close", s.StreamCloseParams(all=True))

    def _questions(self) -> None:
        name = self._drawn.choice(NAMES)
        for method, params in (
            ("daemon.status", s.Empty()),
            ("p2p.ls", s.Empty()),
            ("p2p.stream.ls", s.Empty()),
            ("swarm.peers", s.Empty()),
            ("access.requests", s.Empty()),
            ("invite.ls", s.Empty()),
            ("events.ls", s.EventsParams(limit=200)),
        ):
            self._lab.ask(name, method, params)

    def tidy(self) -> None:
        """Leave everything as it was found."""
        for name in ("near", "guest"):
            self._lab.ask("far", "access.allow", s.AccessAllowParams(GUARDED, (self._id(name),)))
        self._lab.ask("far", "p2p.limit", s.LimitParams(LIMITED, max_streams=0, rate=0))
        for name in NAMES:
            kept = (DATA, GUARDED, LIMITED, *([INVITED] if name == "far" else []))
            for listener in (self._lab.ask(name, "p2p.ls") or s.LsResult(())).listeners:
                if listener.protocol not in kept:
                    self._lab.ask(name, "p2p.close", s.CloseParams(protocol=listener.protocol))
