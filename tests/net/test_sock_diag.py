"""Half-closed and closed are told apart, as the kernel says of real connections."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.system import proc_net, sock_diag
from p2pfwd.system.sock_diag import SockDiag, listening_at

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_NETLINK"), reason="no socket diagnosis here")


@pytest.fixture
def diag() -> Iterator[SockDiag]:
    """Closed at the end."""
    made = SockDiag()
    yield made
    made.close()


def ends(address: object, listening: socket.AddressFamily, calling: socket.AddressFamily, to: str | None):  # type: ignore[no-untyped-def]
    """(client, accepted) of a connection; `to` is how the client calls the server's host."""
    with socket.socket(listening) as listener:
        listener.bind(address)  # type: ignore[arg-type]
        listener.listen()
        name = listener.getsockname()
        client = socket.socket(calling)
        client.connect(name if to is None else (to, name[1]))
        return client, listener.accept()[0]


@pytest.mark.parametrize(
    ("listening", "calling", "to"),
    [
        pytest.param(socket.AF_INET, socket.AF_INET, None, id="ip4"),
        pytest.param(socket.AF_INET6, socket.AF_INET6, None, id="ip6"),
        pytest.param(socket.AF_INET, socket.AF_INET6, "::ffff:127.0.0.1", id="ip4-through-ip6"),
        pytest.param(socket.AF_UNIX, socket.AF_UNIX, None, id="unix"),
    ],
)
def test_half_closed_and_closed(
    home: Path,
    diag: SockDiag,
    listening: socket.AddressFamily,
    calling: socket.AddressFamily,
    to: str | None,
) -> None:
    host = "::1" if listening == socket.AF_INET6 else "127.0.0.1"
    address = str(home / "s") if listening == socket.AF_UNIX else (host, 0)
    try:
        client, accepted = ends(address, listening, calling, to)
    except OSError as exc:
        pytest.skip(f"no such connection here: {exc}")
    with client, accepted:
        assert diag.has_closed(accepted) is False and not diag.has_gone(accepted)
        client.shutdown(socket.SHUT_WR)
        assert accepted.recv(1) == b""
        assert diag.has_closed(accepted) is False and not diag.has_gone(accepted)
        client.close()
        assert diag.has_closed(accepted) is True and diag.has_gone(accepted)


@pytest.mark.parametrize("by_reset", [False, True])
def test_who_has_gone_is_known_before_what_he_sent_is_read(diag: SockDiag, by_reset: bool) -> None:
    client, accepted = ends(("127.0.0.1", 0), socket.AF_INET, socket.AF_INET, None)
    with accepted:
        client.sendall(b"GET / HTTP/1.1")
        assert not diag.has_gone(accepted)
        if by_reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        assert diag.has_gone(accepted)


def test_who_closed_first_is_gone_whatever_is_left_of_it(diag: SockDiag) -> None:
    client, accepted = ends(("127.0.0.1", 0), socket.AF_INET, socket.AF_INET, None)
    with accepted:
        client.close()
        accepted.recv(1)
        accepted.shutdown(socket.SHUT_WR)  # the client's end is in TIME_WAIT now
        assert diag.has_closed(accepted) is True


def test_a_client_on_another_machine_is_not_known_of(diag: SockDiag) -> None:
    class Ends:
        family = socket.AF_INET

        def getsockname(self) -> tuple[str, int]:
            return "192.0.2.1", 2222

        def getpeername(self) -> tuple[str, int]:
            return "192.0.2.2", 50000

    assert diag.has_closed(Ends()) is None  # type: ignore[arg-type]


def test_the_socket_is_kept_and_another_one_opened_when_it_fails(
    diag: SockDiag, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that fails later, or has an answer left that nobody waited for, gives no wrong one."""
    client, accepted = ends(("127.0.0.1", 0), socket.AF_INET, socket.AF_INET, None)
    opened: list[socket.socket] = []
    real = sock_diag._open
    monkeypatch.setattr(sock_diag, "_open", lambda: opened.append(real()) or opened[-1])  # type: ignore[func-returns-value]
    with client, accepted:
        assert diag.has_closed(accepted) is False and diag.has_closed(accepted) is False
        assert len(opened) == 1
        opened[0].close()
        assert diag.has_closed(accepted) is False and len(opened) == 2
        opened[1].send(sock_diag._question(socket.AF_INET, 1, bytes(36), 0, 0))  # a stale answer is there now
        assert diag.has_closed(accepted) is False and len(opened) == 2
        for _ in range(2 * sock_diag._MAX_STALE):
            opened[1].send(sock_diag._question(socket.AF_INET, 1, bytes(36), 0, 0))
        assert diag.has_closed(accepted) is False and len(opened) == 3


@pytest.mark.parametrize("refused", ["opening", "asking", "answering"])
def test_where_the_kernel_may_not_be_asked_nothing_is_known(
    diag: SockDiag, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """And it is asked again the next time."""

    class Silent(socket.socket):
        def send(self, *_: object) -> int:
            if refused == "asking":
                raise PermissionError
            return 0

    def open_() -> socket.socket:
        if refused == "opening":
            raise PermissionError
        return Silent(socket.AF_NETLINK, socket.SOCK_RAW, sock_diag._NETLINK_SOCK_DIAG)

    client, accepted = ends(("127.0.0.1", 0), socket.AF_INET, socket.AF_INET, None)
    with client, accepted:
        with monkeypatch.context() as patched:
            patched.setattr(sock_diag, "_open", open_)
            assert diag.has_closed(accepted) is None
        assert diag.has_closed(accepted) is False


@pytest.mark.parametrize(
    ("family", "host", "packed"),
    [
        (socket.AF_INET, "127.0.0.1", b"\x7f\0\0\1"),
        (socket.AF_INET, "0.0.0.0", bytes(4)),
        (socket.AF_INET6, "::1", bytes(15) + b"\1"),
    ],
)
def test_who_listens_at_a_port(family: int, host: str, packed: bytes) -> None:
    try:
        listener = socket.create_server((host, 0), family=family)
    except OSError as exc:
        pytest.skip(f"no such address here: {exc}")
    with listener:
        port = listener.getsockname()[1]
        assert listening_at(family, port) == [packed]
        with socket.create_connection(("::1" if family == socket.AF_INET6 else "127.0.0.1", port)):
            assert listening_at(family, port) == [packed], "connections are not told"
    assert listening_at(family, port) == []


def test_a_target_is_seen_without_reading_the_list_of_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    # HOUSE L18: up to 4 MiB of it were read in the event loop.
    monkeypatch.setattr(proc_net, "_lines", lambda _path: pytest.fail("the list was read"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        target = Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{listener.getsockname()[1]}")
        assert proc_net.somebody_listens(target)
    assert not proc_net.somebody_listens(target)


def test_where_the_kernel_may_not_be_asked_the_list_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> list[bytes]:
        raise PermissionError

    monkeypatch.setattr(proc_net, "listening_at", refuse)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert proc_net.somebody_listens(Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{listener.getsockname()[1]}"))
