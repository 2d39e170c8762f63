"""daemon.sd_notify: one datagram, and never a failure."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from p2pfwd.system.sd_notify import notify


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_the_state_arrives(home: Path, kind: str) -> None:
    address = str(home / "notify") if kind == "path" else f"@{home}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address.replace("@", "\0"))
        assert notify("READY=1", {"NOTIFY_SOCKET": address})
        assert manager.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", [None, "", "relative", "/nonexistent/notify"])
def test_no_manager_is_no_error(address: str | None) -> None:
    assert not notify("READY=1", {} if address is None else {"NOTIFY_SOCKET": address})
