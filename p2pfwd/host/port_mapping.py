"""Port mapping: the default gateway is asked to lead a port of its own to each of ours.

`policy.port_mapping` says what is asked next and when, `net/port_mapping` asks. Rules:
- One question at a time. Another gateway, another address of ours towards it, other ports: all anew, at once.
- Ports are mapped that listen at our address towards the gateway; none where that address is public.
- What the gateway maps is no more than a candidate: it is told to others when a stranger has come in by it.
- Announcements count from the gateway alone, and only make us ask it.
- At the end the mappings are undone, which takes `UNMAP_S` at most; that which was being asked for, too: the
  gateway may have agreed by then.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class, tcp_endpoint
from p2pfwd.net.own_addresses import Change
from p2pfwd.net.port_mapping import upnp
from p2pfwd.net.port_mapping.contract import Way
from p2pfwd.net.port_mapping.datagrams import NatPmp, Pcp
from p2pfwd.net.port_mapping.upnp import Upnp
from p2pfwd.net.swarm import Swarm
from p2pfwd.policy.port_mapping import LEASE_S, Grant, Phase, Plan, Protocol, Step, Task, why_useless
from p2pfwd.system.gateway import Gateway, default_gateway
from p2pfwd.system.interfaces import Interface
from p2pfwd.system.multicast import GroupSocket
from p2pfwd.wire import port_mapping as wire
from p2pfwd.wire import ssdp

log = logging.getLogger("p2pfwd.mapping")

MAX_PORTS: Final = 4
"""Of ours that are mapped; one is usual."""

UNMAP_S: Final = 3.0

State = Literal["searching", "mapped", "useless", "refused", "silent", "no-router", "not-needed"]

NO_ROUTER: Final = "this machine has no IPv4 default route by a router"
NOT_NEEDED: Final = "this machine needs none: its address is public"
NO_PORT: Final = "this node does not listen where a router could lead a port to"
NO_PROTOCOL: Final = "the router answers no port mapping protocol (PCP, NAT-PMP, UPnP)"
NO_PROTOCOL_BUT: Final = f"the router answers neither PCP nor NAT-PMP; UPnP was not tried: {upnp.MISSING}"

HearGroup = Callable[[Interface, str, int, int, Callable[[bytes, str], None]], GroupSocket]


@dataclass(frozen=True, slots=True)
class MappedPort:
    """What became of one listen port, or of all where `port` is None."""

    port: int | None
    state: State
    reason: str | None = None  # in words, unless all is well
    protocol: Protocol | None = None
    router: str | None = None
    addr: Multiaddr | None = None  # outside
    left_s: float | None = None  # of the lease; None: permanent, or no mapping


def usual_ways() -> dict[Protocol, Way]:
    """Those that this installation has."""
    ways: dict[Protocol, Way] = {Protocol.PCP: Pcp(), Protocol.NAT_PMP: NatPmp()}
    return {**ways, Protocol.UPNP: Upnp()} if upnp.is_installed() else ways


class PortMapping:
    """Of one swarm; `start` begins, `close` undoes what the gateway maps. Needs a running loop."""

    def __init__(
        self,
        swarm: Swarm,
        *,
        ways: Mapping[Protocol, Way] | None = None,
        find_gateway: Callable[[], Gateway | None] = default_gateway,
        hear_group: HearGroup = GroupSocket,
        rng: random.Random | None = None,
    ) -> None:
        self._swarm = swarm
        self._own = swarm.own_addresses
        self._ways = dict(usual_ways() if ways is None else ways)
        self._find_gateway = find_gateway
        self._hear_group = hear_group
        self._rng = rng or random.Random()
        self._loop = asyncio.get_running_loop()
        self._gateway: Gateway | None = None
        self._plans: dict[int, Plan] = {}
        self._asked: dict[int, Grant] = {}
        """By port: what the gateway is being asked for, and has not answered."""
        self._groups: list[GroupSocket] = []
        self._boot: bytes | None = None
        """What the gateway's UPnP said with its last restart."""
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._said: dict[int, str] = {}
        self.on_changed: Callable[[], None] = lambda: None
        """Told when `statuses` may say something else; not of the end."""

    def start(self) -> None:
        """Begin to ask."""
        self._own.on_changed(self._changed)
        self._look_around()
        self._task = self._swarm.spawn(self._run(), "port mapping")

    async def close(self) -> None:
        """Undo the mappings, and end. Idempotent."""
        if self._task is None:
            return
        task, self._task = self._task, None
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        self._hear_nobody()
        self._own.set_mapped(())
        gateway = self._gateway
        if gateway is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(UNMAP_S):
                    for port, grant in self._given().items():
                        await self._ways[grant.protocol].unmap(gateway, port, grant)

    def _given(self) -> dict[int, Grant]:
        """By port: what the gateway maps, or may map by now."""
        grants = {port: plan.grant for port, plan in self._plans.items() if plan.grant is not None}
        return self._asked | grants

    # --- where we are -----------------------------------------------------------------------------

    def _changed(self, change: Change) -> None:
        if self._task is None:
            return
        if change & (Change.MOVED | Change.STIRRED) and self._look_around():
            self._task.cancel()  # what it waits for is another network's
            self._task = self._swarm.spawn(self._run(), "port mapping")
        elif change & (Change.MOVED | Change.STIRRED | Change.SEEN):
            for plan in self._plans.values():
                plan.look(self._loop.time())
            self._news.set()
        self.on_changed()

    def _look_around(self) -> bool:
        """Find the gateway and the ports; whether they are others than before."""
        gateway = self._find_gateway()
        ports = self._ports(gateway)
        if gateway == self._gateway and ports == list(self._plans):
            return False
        self._gateway = gateway
        protocols, now = tuple(self._ways), self._loop.time()
        self._plans = {port: Plan(port, now, self._rng, protocols) for port in ports}
        self._asked, self._boot = {}, None
        self._said.clear()
        self._own.set_mapped(())
        self._hear_nobody()
        if gateway is not None and self._plans:
            self._hear(gateway)
        return True

    def _ports(self, gateway: Gateway | None) -> list[int]:
        """Those of ours that a router at `gateway` could lead to."""
        if gateway is None or _is_public(gateway.own_host):
            return []
        ends = map(tcp_endpoint, self._own.bound())
        found = {end.port: None for end in ends if end is not None and end.host == gateway.own_host}
        return list(found)[:MAX_PORTS]

    def _hear(self, gateway: Gateway) -> None:
        """Whether it begins anew."""
        listing = self._own.interfaces.listing()
        interface = next((each for each in listing if gateway.own_host in each.hosts), None)
        if interface is None:
            return
        groups = [(wire.ANNOUNCE_GROUP, wire.ANNOUNCE_PORT, wire.MAX_PCP_BYTES)]
        if Protocol.UPNP in self._ways:
            groups.append((ssdp.GROUP, ssdp.PORT, ssdp.MAX_BYTES))
        for group, port, max_bytes in groups:
            try:
                self._groups.append(self._hear_group(interface, group, port, max_bytes, self._heard))
            except OSError as exc:
                log.info("a restart of the router may go unheard, at %s: %s", group, exc.strerror or exc)

    def _hear_nobody(self) -> None:
        for group in self._groups:
            group.close()
        self._groups.clear()

    def _heard(self, data: bytes, sender: str) -> None:
        if self._gateway is None or sender != self._gateway.host:
            return
        now, epoch_s, boot = self._loop.time(), wire.heard_epoch(data), ssdp.boot_of(data)
        if epoch_s is None and boot in (None, self._boot):  # UPnP tells that it is there each minute
            return
        self._boot = boot or self._boot
        for plan in self._plans.values():
            if epoch_s is not None:
                plan.heard(epoch_s, now)
            elif plan.grant is not None and plan.grant.protocol is Protocol.UPNP:
                plan.look(now)
        self._news.set()

    # --- asking -----------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            self._news.clear()
            plan = min(self._plans.values(), key=lambda plan: plan.step().at, default=None)
            gateway, wait_s = self._gateway, None
            if plan is not None and gateway is not None:
                step = plan.step()
                wait_s = step.at - self._loop.time()
                if wait_s <= 0:
                    await self._take(gateway, plan, step)
                    self._tell(plan)
                    continue
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._news.wait()

    async def _take(self, gateway: Gateway, plan: Plan, step: Step) -> None:
        """Ask, and note what came of it."""
        way = self._ways[step.protocol]
        if step.task is Task.CHECK:
            assert plan.grant is not None
            sign = await way.check(gateway, plan.port, plan.grant)
            now = self._loop.time()
            if sign is None:
                plan.silent(now)
            elif not sign.has_mapping:
                plan.lost(now)
            else:
                plan.alive(sign.epoch_s, sign.host, now)
            return
        self._asked = {plan.port: Grant(step.protocol, gateway.host, step.external_port, LEASE_S)}
        said = await way.map(gateway, plan.port, step.external_port, LEASE_S)
        self._asked = {}
        now = self._loop.time()
        if said is None:
            plan.silent(now)
        elif isinstance(said, Grant):
            plan.granted(said, now)
        elif said.taken:
            plan.taken(now)
        else:
            plan.refused(said.words, now)

    def _tell(self, plan: Plan) -> None:
        """Those who want to know: other rooms at once, people where it is new to them."""
        grants = (plan.grant for plan in self._plans.values())
        self._own.set_mapped(_outside(grant) for grant in grants if grant is not None)
        self.on_changed()
        status = self._status(plan)
        if status.state == "mapped":
            assert status.protocol is not None
            text = f"the router maps {status.addr} to this node's {plan.port} by {status.protocol.value}"
        elif status.reason is not None:
            text = f"port mapping: {status.reason}"
        else:
            return
        if self._said.get(plan.port) != text:
            self._said[plan.port] = text
            log.info("%s", text)

    # --- for people -------------------------------------------------------------------------------

    def statuses(self) -> tuple[MappedPort, ...]:
        """Of each port; where none can be mapped, one with the reason."""
        if self._plans:
            return tuple(map(self._status, self._plans.values()))
        if self._gateway is None:
            return (MappedPort(None, "no-router", NO_ROUTER),)
        reason = NOT_NEEDED if _is_public(self._gateway.own_host) else NO_PORT
        return (MappedPort(None, "not-needed", reason, router=self._gateway.host),)

    def _status(self, plan: Plan) -> MappedPort:
        assert self._gateway is not None
        grant, router = plan.grant, self._gateway.host
        if grant is not None:
            left_s = None if grant.until is None else max(0.0, grant.until - self._loop.time())
            why = why_useless(grant.host, self._observed())
            state: State = "mapped" if why is None else "useless"
            return MappedPort(plan.port, state, why, grant.protocol, router, _outside(grant), left_s)
        if plan.phase is Phase.SEARCHING:
            return MappedPort(plan.port, "searching", router=router)
        if plan.refusal is not None:
            protocol, words = plan.refusal
            reason = f"the router refuses by {protocol.value}: {words}"
            return MappedPort(plan.port, "refused", reason, protocol, router)
        reason = NO_PROTOCOL if Protocol.UPNP in self._ways else NO_PROTOCOL_BUT
        return MappedPort(plan.port, "silent", reason, router=router)

    def _observed(self) -> set[str]:
        """The public IPv4 hosts at which peers see this node."""
        ends = (tcp_endpoint(addr) for addr in self._own.observed() if _is(addr, AddressClass.PUBLIC))
        return {end.host for end in ends if end is not None and end.family == "ip4"}


def _outside(grant: Grant) -> Multiaddr:
    return Multiaddr.parse(f"/ip4/{grant.host}/tcp/{grant.port}")


def _is(addr: Multiaddr, kind: AddressClass) -> bool:
    return address_class(addr) is kind


def _is_public(host: str) -> bool:
    return _is(Multiaddr.parse(f"/ip4/{host}/tcp/1"), AddressClass.PUBLIC)
