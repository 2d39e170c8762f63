"""daemon.sd_notify: one datagram, and never a failure."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from p2pfwd.system.sd_notify import is_journal, notify, watchdog_interval


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


@pytest.mark.parametrize(
    ("env", "interval"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 20.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 20.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "often"}, None),
        ({}, None),
    ],
)
def test_a_watchdog_is_told_three_times_as_often_as_it_looks(
    env: dict[str, str], interval: float | None
) -> None:
    assert watchdog_interval({"NOTIFY_SOCKET": "/run/notify", **env}) == interval
    assert watchdog_interval(env) is None, "nobody could be told"


def test_the_journal_is_known_by_its_socket(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        found = os.fstat(file.fileno())
        assert is_journal(file.fileno(), {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"})
        assert not is_journal(file.fileno(), {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + 1}"})
        assert not is_journal(file.fileno(), {})
    assert not is_journal(10_000, {"JOURNAL_STREAM": "1:2"})
