"""Pins that connections from some networks are not taken, on real sockets, and come through later."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterator

import pytest

from p2pfwd.system import syn_filter

pytestmark = pytest.mark.skipif(not syn_filter.IS_HERE, reason="socket filters of this kind are Linux's")

PATIENCE_S = 30.0


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.fixture
def listener6() -> Iterator[socket.socket]:
    try:
        sock = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError as exc:
        pytest.skip(f"no IPv6 here: {exc}")
    with sock:
        yield sock


def begin(listener: socket.socket, host: str) -> socket.socket:
    sock = socket.socket(listener.family)
    sock.setblocking(False)
    sock.bind((host, 0))
    sock.connect_ex(listener.getsockname())
    return sock


def is_up(sock: socket.socket, seconds: float = 0.0) -> bool:
    return bool(select.select([], [sock], [], seconds)[1])


def comes_through(listener: socket.socket, out: str, through: str) -> bool:
    """Whether `through` is taken and `out`, which began before it, is not."""
    with begin(listener, out) as kept_out, begin(listener, through) as taken:
        return is_up(taken, PATIENCE_S) and not is_up(kept_out)


@pytest.mark.parametrize("network", ["127.9.8.0/24", "127.9.8.7/32"])
def test_a_network_is_kept_out_and_its_neighbour_is_not(listener: socket.socket, network: str) -> None:
    syn_filter.keep_out(listener, ["192.0.2.0/24", network, "2001:db8::/48"])
    assert comes_through(listener, "127.9.8.7", "127.9.9.7")
    assert network.endswith("/24") or comes_through(listener, "127.9.8.7", "127.9.8.6")


def test_the_last_word_counts_and_who_waited_comes_through_then(listener: socket.socket) -> None:
    syn_filter.keep_out(listener, ["127.9.8.0/24"])
    syn_filter.keep_out(listener, ["127.9.7.0/24"])
    assert comes_through(listener, "127.9.7.1", "127.9.8.1")
    with begin(listener, "127.9.7.1") as waits:
        assert not is_up(waits)
        syn_filter.keep_out(listener, [])
        syn_filter.take_all(listener)
        assert is_up(waits, PATIENCE_S), "its system asks again"


def test_connections_that_are_there_go_on(listener: socket.socket) -> None:
    with begin(listener, "127.9.8.7") as client:
        there, _ = listener.accept()
        with there:
            syn_filter.keep_out(listener, ["127.9.8.0/24"])
            with begin(listener, "127.9.9.7") as later:
                assert is_up(later, PATIENCE_S)
                heir, _ = listener.accept()
                with heir:
                    for ours, theirs in ((there, client), (heir, later)):
                        theirs.setblocking(True)
                        theirs.sendall(b"to")
                        ours.sendall(b"fro")
                        assert ours.recv(9) == b"to" and theirs.recv(9) == b"fro"


@pytest.mark.parametrize(
    ("network", "out"),
    [
        ("::/64", True),
        ("::/56", True),
        ("::/48", True),
        ("0:0:0:1::/64", False),
        ("0:0:0:100::/56", False),
        ("0:0:1::/48", False),
        ("0:1::/48", False),
        ("1::/64", False),
    ],
)
def test_networks_of_ipv6(listener6: socket.socket, network: str, out: bool) -> None:
    syn_filter.keep_out(listener6, [network])
    with (
        socket.create_server(("::1", 0), family=socket.AF_INET6) as unshut,
        begin(listener6, "::1") as sock,
        begin(unshut, "::1") as later,
    ):
        assert is_up(later, PATIENCE_S)
        assert not is_up(sock) if out else is_up(sock, PATIENCE_S)


def takes(code: bytes, flags: int, source: str) -> bool:
    """What the system would do with a segment from `source` to 2001:db8:1:2345::1, by hand."""
    packed = [socket.inet_pton(socket.AF_INET6, host) for host in (source, "2001:db8:1:2345::1")]
    header, segment = bytes(8) + b"".join(packed), bytes(13) + bytes([flags])
    loaded, at = 0, 0
    while True:
        operation, equal, unequal, value = struct.unpack_from("=HBBI", code, 8 * at)
        at += 1
        match operation:
            case 0x30:
                loaded = segment[value]
            case 0x20:
                (loaded,) = struct.unpack_from("!I", header, value - 0xFFF00000)
            case 0x54:
                loaded &= value
            case 0x15:
                at += equal if loaded == value else unequal
            case _:
                assert operation == 0x06
                return bool(value)


@pytest.mark.parametrize(
    ("network", "source", "out"),
    [
        ("2001:db8:1:2300::/56", "2001:db8:1:23ff::1", True),
        ("2001:db8:1:2300::/56", "2001:db8:1:2400::1", False),
        ("2001:db8:1::/48", "2001:db8:1:ffff::1", True),
        ("2001:db8:1::/48", "2001:db8:2::1", False),
        ("2001:db8:1:2345::/64", "2001:db8:1:2345:ffff::1", True),
        ("2001:db8:1:2345::/64", "2001:db8:1:2346::1", False),
        ("2001:db8:1:2345::/64", "2001:db9:1:2345::1", False),
    ],
)
def test_the_source_counts_and_of_it_the_networks_bits_and_of_what_comes_the_syn(
    network: str, source: str, out: bool
) -> None:
    """On loopback source and destination are the same."""
    code = syn_filter.program(socket.AF_INET6, ["2001:db8:ffff::/48", network, "2001:db8:1:2347::/64"])
    assert takes(code, 0x02, source) is not out
    assert all(takes(code, flags, source) for flags in (0x12, 0x10, 0x11, 0x04))


def test_as_many_networks_as_there_are_at_most_fit_and_the_others_are_left_out(
    listener: socket.socket, listener6: socket.socket
) -> None:
    many = [f"10.0.0.{n}/32" for n in range(syn_filter.MOST)]
    syn_filter.keep_out(listener, [*many, "127.9.9.7/32", "127.9.8.0/24"])
    assert comes_through(listener, "127.9.8.7", "127.9.9.7"), "the widest are kept out"
    syn_filter.keep_out(listener6, [f"2001:db8:0:{n:x}::/64" for n in range(2 * syn_filter.MOST)])
