"""Port mapping against a real miniupnpd: each protocol, reboots, routers that lie, refuse, lead nowhere."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from p2pfwd.net.port_mapping.contract import No, Sign, Way
from p2pfwd.net.port_mapping.datagrams import NatPmp, Pcp
from p2pfwd.net.port_mapping.upnp import Upnp
from p2pfwd.policy.port_mapping import Grant
from p2pfwd.system.gateway import Gateway, default_gateway
from p2pfwd.wire import port_mapping as wire
from tests.netns.lab import Segment
from tests.netns.mapping_router import MappingRouter
from tests.netns.two_machines import Machine, Unavailable
from tests.support.daemon import Daemon

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]

PORT = 4011
THREAD = Path("/proc/thread-self/net")
KNOWN_S = 60.0
BACK_S = 20.0
"""A mapping is back within two; the rest is for a machine busy with other tests."""

NO_UPNP, NO_PMP = "enable_upnp=no", "enable_natpmp=no"
BOTH = ("enable_upnp=yes", "enable_natpmp=yes")


class House:
    """A router on the public segment, the machine behind it, and two machines outside."""

    def __init__(self, home: Path, stack: ExitStack) -> None:
        segment = stack.enter_context(Segment(2, "11.78"))
        self.outside, self.stranger = segment.machines
        self.router = MappingRouter(segment)
        self.wan = self.router.machine.address
        self.client = self.router.client
        self._home, self._stack = home, stack
        self._count = 0

    def daemon(self, machine: Machine, host: str = "0.0.0.0", **env: str) -> Daemon:
        """One in the network `public`, without mDNS and bootstrap peers."""
        fixed = {"P2PFWD_NETWORK": "public", "P2PFWD_DISCOVERY_MDNS": "off", "P2PFWD_BOOTSTRAP_PEERS": ""}
        fixed["P2PFWD_REACH_PORT_MAPPING"] = "auto"
        self._count += 1
        place, where = self._home / str(self._count), f"/ip4/{host}/tcp/{PORT}"
        made = Daemon(place, swarm=(where,), env={**fixed, **env}, within=machine.within)
        self._stack.callback(lambda: made.process.poll() is None and made.stop())
        return made


@pytest.fixture
def house(home: Path) -> Iterator[House]:
    with ExitStack() as stack:
        try:
            made = House(home, stack)
        except Unavailable as exc:
            pytest.skip(str(exc))
        yield made


def until(what: Callable[[], Any], wanted: Callable[[Any], bool], limit_s: float = KNOWN_S) -> Any:
    """Ask until the answer is as wanted; nothing tells a command line of it."""
    deadline = time.monotonic() + limit_s
    while not wanted(found := what()):
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


def mapping(daemon: Daemon) -> dict[str, Any]:
    (one,) = daemon.json("status")["PortMappings"]
    return dict(one)


def becomes(daemon: Daemon, state: str) -> dict[str, Any]:
    found = until(lambda: mapping(daemon), lambda one: one["State"] == state)
    return dict(found)


def reachability(daemon: Daemon) -> str:
    return str(daemon.json("status")["Reachability"])


def announced(daemon: Daemon) -> set[str]:
    return {address.partition("/p2p/")[0] for address in daemon.json("status")["Addresses"]}


# --- the protocols by themselves ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Pcp, NatPmp, Upnp])
def test_each_protocol_maps_is_checked_renews_and_unmaps(house: House, kind: type[Way]) -> None:
    house.router.start(*BOTH)

    async def life() -> None:
        way, gateway = kind(), default_gateway(THREAD)
        assert gateway == Gateway(house.router.gateway, house.client.address)
        for _ in range(2):
            grant = await way.map(gateway, PORT, PORT, 3600)
            assert isinstance(grant, Grant), grant
            assert (grant.host, grant.port) == (house.wan, PORT) and 3590 <= grant.lease_s <= 3600
        assert house.router.mapped() == {PORT}
        sign = await way.check(gateway, PORT, grant)
        assert isinstance(sign, Sign) and sign.has_mapping and sign.host in (None, house.wan)
        await way.unmap(gateway, PORT, grant)
        assert house.router.mapped() == set()
        if kind is Upnp:
            sign = await way.check(gateway, PORT, grant)
            assert sign is not None and not sign.has_mapping

    within(house.client, life)


def test_upnp_that_refuses_says_no_and_a_silent_router_nothing(house: House) -> None:
    async def ask() -> Grant | No | None:
        gateway = default_gateway(THREAD)
        assert gateway is not None
        return await Upnp().map(gateway, PORT, PORT, 3600)

    assert within(house.client, ask) is None
    house.router.start(NO_PMP, allow=False)
    said = within(house.client, ask)
    assert isinstance(said, No) and said.words, said


def within(machine: Machine, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return machine.call(lambda: asyncio.run(work()))


# --- the daemon ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "protocol"), [(BOTH, "PCP"), ((NO_PMP, BOTH[0]), "UPnP")], ids=["PCP", "UPnP"]
)
def test_a_mapped_port_is_proved_announced_used_and_given_back(
    house: House, lines: tuple[str, ...], protocol: str
) -> None:
    house.router.start(*lines)
    server, hidden = house.daemon(house.outside), house.daemon(house.client)
    found = becomes(hidden, "mapped")
    outside = f"/ip4/{house.wan}/tcp/{PORT}"
    assert (found["Protocol"], found["Address"], found["Port"]) == (protocol, outside, PORT)
    assert outside not in announced(hidden), "nobody has proved it"
    said = f"the router maps {house.wan}:{PORT} to this node's {PORT} by {protocol}, for "
    assert said in hidden.ok("status")
    hidden.ok("swarm", "connect", server.address)
    until(lambda: reachability(hidden), lambda known: known == "public")
    assert outside in announced(hidden) and hidden.json("status")["Standing"] == "mapped"
    seeker = house.daemon(house.stranger)
    assert "direct" in seeker.ok("ping", "-n", "1", f"{outside}/p2p/{hidden.peer_id}")
    assert house.router.mapped() == {PORT}
    hidden.stop()
    assert house.router.mapped() == set()


@pytest.mark.parametrize(("lines", "times"), [(BOTH, 3), ((NO_PMP, BOTH[0]), 1)], ids=["PCP", "UPnP"])
def test_a_mapping_is_back_within_seconds_of_the_routers_reboot(
    house: House, lines: tuple[str, ...], times: int
) -> None:
    house.router.start(*lines)
    hidden = house.daemon(house.client)
    becomes(hidden, "mapped")
    for _ in range(times):
        house.router.reboot()
        until(house.router.mapped, lambda ports: ports == {PORT}, BACK_S)


def test_after_a_crash_the_port_is_mapped_again(house: House) -> None:
    house.router.start(*BOTH)
    hidden = house.daemon(house.client)
    becomes(hidden, "mapped")
    hidden.process.kill()
    hidden.stop()
    assert house.router.mapped() == {PORT}
    found = becomes(house.daemon(house.client), "mapped")
    assert found["Address"] == f"/ip4/{house.wan}/tcp/{PORT}"


def test_another_network_is_asked_anew(house: House) -> None:
    house.router.start(*BOTH)
    hidden = house.daemon(house.client)
    becomes(hidden, "mapped")
    house.client.run("ip", "route", "del", "default")
    assert becomes(hidden, "no-router")["Reason"]
    house.client.run("ip", "address", "flush", "dev", "eth0")
    gateway = house.router.gateway
    house.client.run("ip", "address", "add", gateway.replace(".254", ".99/24"), "dev", "eth0")
    house.client.run("ip", "route", "add", "default", "via", gateway)
    assert becomes(hidden, "mapped")["Router"] == gateway


def test_a_router_that_lies_is_not_believed(house: House) -> None:
    house.router.start(*BOTH, works=False)
    server, hidden = house.daemon(house.outside), house.daemon(house.client)
    becomes(hidden, "mapped")
    hidden.ok("swarm", "connect", server.address)
    until(lambda: reachability(hidden), lambda known: known == "private")
    assert announced(hidden) == {f"/ip4/{house.client.address}/tcp/{PORT}", f"/ip4/127.0.0.1/tcp/{PORT}"}


def test_a_router_that_refuses_is_quoted(house: House) -> None:
    with fake_router(house.router, refusing):
        hidden = house.daemon(house.client)
        said = "the router refuses by NAT-PMP: port mapping is switched off"
        assert becomes(hidden, "refused")["Reason"] == said and said in hidden.ok("status")


def test_without_any_protocol_the_router_is_said_to_be_silent(house: House) -> None:
    hidden = house.daemon(house.client)
    becomes(hidden, "silent")
    assert "the router answers no port mapping protocol" in hidden.ok("status")


def test_a_router_that_peers_see_elsewhere_is_behind_another_nat(house: House) -> None:
    house.router.start(*BOTH, "ext_ip=11.99.0.1")
    server, hidden = house.daemon(house.outside), house.daemon(house.client)
    becomes(hidden, "mapped")
    hidden.ok("swarm", "connect", server.address)
    reason = becomes(hidden, "useless")["Reason"]
    assert reason == f"the router is behind another NAT (it says 11.99.0.1, and peers see {house.wan})"


def test_a_router_with_a_private_address_is_behind_another_nat(house: House) -> None:
    """By NAT-PMP: miniupnpd itself maps nothing there."""
    with fake_router(house.router, private):
        hidden = house.daemon(house.client)
        found = becomes(hidden, "useless")
        assert found["Protocol"] == "NAT-PMP" and "10.8.0.2" in found["Reason"]
        assert "useless: the router is behind another NAT" in hidden.ok("status")
        hidden.stop()


def test_a_miniupnpd_behind_another_nat_says_so_itself(house: House) -> None:
    """It maps nothing where its own address is private."""
    wan = house.router.machine
    wan.run("ip", "address", "flush", "dev", "eth0")
    wan.run("ip", "address", "add", "10.8.0.2/16", "dev", "eth0")
    house.router.start(*BOTH)
    hidden = house.daemon(house.client)
    assert "behind another NAT" in becomes(hidden, "refused")["Reason"]


def test_nothing_is_asked_where_it_is_off(house: House) -> None:
    house.router.start(*BOTH)
    for env in ({"P2PFWD_REACH_PORT_MAPPING": "off"}, {"P2PFWD_NETWORK": "lan"}):
        with house.daemon(house.client, **env) as hidden:
            assert hidden.json("status")["PortMappings"] == []
    with house.daemon(house.client, "127.0.0.1") as hidden:
        assert mapping(hidden)["State"] == "not-needed"
    with house.daemon(house.outside) as public:
        assert mapping(public)["State"] == "no-router"
    assert house.router.mapped() == set()


# --- routers that miniupnpd is not --------------------------------------------------------------------


def refusing(question: bytes) -> bytes:
    """PCP and NAT-PMP: not allowed."""
    if question[0] == 2:
        return struct.pack(">BBxBII12x", 2, 0x80 | question[1], 2, 1800, 9) + question[24:]
    return struct.pack(">BBHI", 0, 0x80 | question[1], 2, 9)


def private(question: bytes) -> bytes:
    """NAT-PMP alone: it grants all, at an address that is private itself."""
    if question[0] != 0:
        return struct.pack(">BBHI", 0, 0x80, 1, 9)
    if question[1] == 0:
        return struct.pack(">BBHI4s", 0, 0x80, 0, 9, bytes((10, 8, 0, 2)))
    return struct.pack(">BBHI", 0, 0x82, 0, 9) + question[4:12]


@contextmanager
def fake_router(router: MappingRouter, answer: Callable[[bytes], bytes]) -> Iterator[None]:
    machine, where = router.machine, (router.gateway, wire.PORT)

    def opened() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(where)
        return sock

    def serve() -> None:
        while (data := sock.recvfrom(1100))[0] != b"bye":
            sock.sendto(answer(data[0]), data[1])

    def say_farewell() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.sendto(b"bye", where)

    with machine.call(opened) as sock:
        served = threading.Thread(target=serve)
        served.start()
        try:
            yield
        finally:
            machine.call(say_farewell)
            served.join()
