"""Forwards wait for an address that is not to be had, and get it when it is free; a lost one is let go."""

from __future__ import annotations

import asyncio
import errno
from socket import AF_INET6

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.errors import AddressInUse, BindFailed, DialFailed, P2PForwardError
from p2pfwd.forwarding import bind as binding
from p2pfwd.forwarding import forward, rebind, service
from p2pfwd.forwarding.bind import BoundSocket
from p2pfwd.forwarding.service import Forwarding
from p2pfwd.forwarding.values import CloseMatch
from tests.support.virtual_time import in_virtual_time
from tests.unit.forwarding.conftest import MakeForwarding
from tests.unit.forwarding.fakes import ALICE, FakeAcceptor, FakeHost, FakeSocket, fake_bind

LOCAL = Multiaddr.parse("/ip4/192.0.2.1/tcp/8080")


class Place:
    """The local address: taken, missing, or to be had (no failure)."""

    def __init__(self, failure: P2PForwardError | None) -> None:
        self.failure = failure
        self.tries = 0

    def bind(self, address: Multiaddr) -> BoundSocket:
        self.tries += 1
        if self.failure is not None:
            raise self.failure
        return fake_bind(address)


TAKEN = AddressInUse("cannot listen there: the address is already in use", hint="choose another port")
MISSING = BindFailed("no interface of this machine has that address")


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, forwarding: MakeForwarding) -> Place:
    made = Place(TAKEN)
    monkeypatch.setattr(service, "bind", made.bind)
    monkeypatch.setattr(forward, "bind", made.bind)
    return made


def state(made: Forwarding) -> tuple[str, str | None]:
    (info,) = made.listeners()
    return info.state, info.reason


@in_virtual_time
async def test_it_is_refused_unless_it_may_wait(forwarding: MakeForwarding, place: Place) -> None:
    made = forwarding()
    with pytest.raises(AddressInUse):
        await made.forward("/x/a", LOCAL, ALICE)
    assert made.listeners() == []
    await made.aclose()


@in_virtual_time
async def test_it_waits_says_why_and_is_bound_when_the_address_is_free(
    forwarding: MakeForwarding, place: Place
) -> None:
    made = forwarding()
    listener = await made.forward("/x/a", LOCAL, ALICE, may_wait=True)
    assert state(made) == ("address-in-use", TAKEN.message)
    assert listener.listen_address == LOCAL and FakeAcceptor.made == []
    await asyncio.sleep(3600)
    assert place.tries <= 3600 / rebind.MOST_S + 7  # it backs off
    assert state(made) == ("address-in-use", TAKEN.message)
    place.failure = None
    await asyncio.sleep(rebind.MOST_S)
    assert state(made) == ("unknown", None) and len(FakeAcceptor.made) == 1
    tries = place.tries
    await asyncio.sleep(3600)
    assert place.tries == tries
    await made.aclose()


@in_virtual_time
async def test_a_change_of_network_and_a_check_try_at_once(
    forwarding: MakeForwarding, place: Place, host: FakeHost
) -> None:
    made = forwarding()
    first = await made.forward("/x/a", LOCAL, ALICE, may_wait=True)
    outcome = await made.check(first.id)
    assert (outcome.ok, outcome.state, outcome.hint) == (False, "address-in-use", "choose another port")
    place.failure = None
    host.network.changed()
    assert state(made) == ("unknown", None)
    await made.aclose()


class File:
    """A socket file, which somebody may remove."""

    path = "/run/a.sock"

    def __init__(self) -> None:
        self.is_there = True

    def is_in_place(self) -> bool:
        return self.is_there

    def remove_file(self) -> None:
        self.is_there = False


@in_virtual_time
@pytest.mark.parametrize("failure", [None, TAKEN])
async def test_a_socket_file_that_was_removed_is_made_anew(
    forwarding: MakeForwarding, monkeypatch: pytest.MonkeyPatch, failure: P2PForwardError | None
) -> None:
    """Or waited for, where another program has made it meanwhile; nothing is looked at without one."""
    made, place, files = forwarding(), Place(None), [File()]

    def bind(address: Multiaddr) -> BoundSocket:
        bound = place.bind(address)
        bound.unix = files[-1]  # type: ignore[assignment]
        return bound

    monkeypatch.setattr(service, "bind", bind)
    monkeypatch.setattr(forward, "bind", bind)
    listener = await made.forward("/x/a", Multiaddr.parse("/unix/run/a.sock"), ALICE)
    listener.worked()
    await asyncio.sleep(3600)
    assert (place.tries, state(made)) == (1, ("ready", None))
    files[0].is_there, place.failure = False, failure
    files.append(File())
    await asyncio.sleep(rebind.LOOK_S)
    if failure is not None:
        assert state(made) == ("address-in-use", TAKEN.message)
        place.failure = None
        await asyncio.sleep(rebind.FIRST_S)
    assert listener.is_bound and state(made) == ("unknown", None)
    made.close(CloseMatch(all=True))
    await asyncio.sleep(rebind.LOOK_S)
    assert made._rebinding._looking is None
    await made.aclose()


@in_virtual_time
async def test_what_becomes_of_streams_and_peers_does_not_hide_it(
    forwarding: MakeForwarding, place: Place
) -> None:
    made = forwarding()
    listener = await made.forward("/x/a", LOCAL, ALICE, may_wait=True)
    listener.failed(DialFailed("nobody answers"))
    listener.told("ready", None, None)
    listener.peer_connected()
    assert state(made) == ("address-in-use", TAKEN.message)
    await made.aclose()


@in_virtual_time
async def test_one_that_waits_can_be_closed_and_its_key_is_taken_meanwhile(
    forwarding: MakeForwarding, place: Place
) -> None:
    made = forwarding()
    listener = await made.forward("/x/a", LOCAL, ALICE, may_wait=True)
    with pytest.raises(P2PForwardError, match="already registered"):
        await made.forward("/x/a", LOCAL, ALICE, may_wait=True)
    made.close(CloseMatch(all=True))
    await listener.closed
    place.failure = None
    tries = place.tries
    await asyncio.sleep(3600)
    assert made.listeners() == [] and place.tries == tries
    await made.aclose()


@in_virtual_time
async def test_an_address_that_goes_and_comes_back_is_bound_again(
    forwarding: MakeForwarding, place: Place, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.failure = None
    made = forwarding()
    await made.forward("/x/a", LOCAL, ALICE)
    (acceptor,) = FakeAcceptor.made
    monkeypatch.setattr(BoundSocket, "address_is_gone", lambda self: False)
    host.network.changed()
    assert not acceptor.closed
    monkeypatch.setattr(BoundSocket, "address_is_gone", lambda self: True)
    place.failure = MISSING
    host.network.changed()
    assert acceptor.closed and state(made) == ("bind-failed", MISSING.message)
    monkeypatch.setattr(BoundSocket, "address_is_gone", lambda self: False)
    place.failure = None
    await asyncio.sleep(rebind.MOST_S)
    assert state(made) == ("unknown", None) and len(FakeAcceptor.made) == 2
    await made.aclose()


@pytest.mark.parametrize(
    ("address", "gone"),
    [
        ("/ip4/192.0.2.1/tcp/80", True),
        ("/ip6/2001:db8::1/tcp/80", True),
        ("/ip6zone/wlan9/ip6/fe80::1/tcp/80", True),
        ("/ip4/127.0.0.1/tcp/80", False),
        ("/ip4/0.0.0.0/tcp/80", False),
        ("/unix/run/app.sock", False),
    ],
)
def test_whether_this_machine_has_an_address(address: str, gone: bool) -> None:
    bound = BoundSocket(None, Multiaddr.parse(address))  # type: ignore[arg-type]
    assert bound.address_is_gone() is gone


def test_a_socket_of_an_interface_that_was_made_anew_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unlike any other, one at a link-local address belongs to its interface, and that has another number."""
    monkeypatch.setattr(binding, "numeric_sockaddr", lambda host, port: (AF_INET6, ("::1", port, 0, number)))
    sock = FakeSocket(("::1", 80, 0, 5))
    bound = BoundSocket(sock, Multiaddr.parse("/ip6zone/vpn0/ip6/fe80::1/tcp/80"))  # type: ignore[arg-type]
    monkeypatch.setattr(FakeSocket, "getsockname", lambda self: self.name, raising=False)
    number = 7
    assert bound.address_is_gone()


def test_no_room_for_a_probe_is_no_lost_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_socket(*_: object) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(binding.socket, "socket", no_socket)
    bound = BoundSocket(None, Multiaddr.parse("/ip4/192.0.2.1/tcp/80"))  # type: ignore[arg-type]
    assert not bound.address_is_gone()
