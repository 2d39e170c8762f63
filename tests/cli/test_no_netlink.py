"""A daemon in a sandbox without AF_NETLINK: it serves with what its sockets tell, and says so once."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.no_netlink import SOCKET_CALL

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in SOCKET_CALL, reason="no filter for this system"
)

WITHIN = (sys.executable, "-m", "tests.support.no_netlink")


def test_the_daemon_serves_without_netlink(tmp_path: Path) -> None:
    with Daemon(tmp_path, swarm=("/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/0"), within=WITHIN) as daemon:
        addresses = daemon.json("swarm", "addrs")["Listen"]
        assert any(address.startswith("/ip4/127.0.0.1/tcp/") for address in addresses)
        assert not any("0.0.0.0" in address for address in addresses)
        log = daemon.stderr + daemon.stdout
        assert log.count("the interfaces cannot be listed") == 1 and "allow AF_NETLINK" in log
