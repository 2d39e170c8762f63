"""Half-closed and closed are told apart, as the kernel says of real connections."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from p2pfwd.system.sock_diag import has_closed

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_NETLINK"), reason="no socket diagnosis here")


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
    home: Path, listening: socket.AddressFamily, calling: socket.AddressFamily, to: str | None
) -> None:
    host = "::1" if listening == socket.AF_INET6 else "127.0.0.1"
    address = str(home / "s") if listening == socket.AF_UNIX else (host, 0)
    try:
        client, accepted = ends(address, listening, calling, to)
    except OSError as exc:
        pytest.skip(f"no such connection here: {exc}")
    with client, accepted:
        assert has_closed(accepted) is False
        client.shutdown(socket.SHUT_WR)
        assert accepted.recv(1) == b""
        assert has_closed(accepted) is False
        client.close()
        assert has_closed(accepted) is True


def test_who_closed_first_is_gone_whatever_is_left_of_it() -> None:
    client, accepted = ends(("127.0.0.1", 0), socket.AF_INET, socket.AF_INET, None)
    with accepted:
        client.close()
        accepted.recv(1)
        accepted.shutdown(socket.SHUT_WR)  # the client's end is in TIME_WAIT now
        assert has_closed(accepted) is True


def test_a_client_on_another_machine_is_not_known_of() -> None:
    class Ends:
        family = socket.AF_INET

        def getsockname(self) -> tuple[str, int]:
            return "192.0.2.1", 2222

        def getpeername(self) -> tuple[str, int]:
            return "192.0.2.2", 50000

    assert has_closed(Ends()) is None  # type: ignore[arg-type]
