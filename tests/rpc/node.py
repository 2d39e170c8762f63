"""A daemon in the test's own process, with a client's calls from another thread."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from p2pfwd.core.keys import PrivateKey
from p2pfwd.daemon.networks import profile
from p2pfwd.daemon.node import Running
from p2pfwd.daemon.settings import Settings
from p2pfwd.rpc.client import Client
from p2pfwd.rpc.paths import Paths

STRANGER = "12D3KooWR4KPFhaHT7S5cNqip4Tc5SX8sBge946crSC2bqCucLPg"


class Node:
    """A running node with a client's calls; `address` is where it can be reached."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.peer = str(running.host.peer_id)
        self.address = f"{running.host.swarm.listen_addrs()[0]}/p2p/{self.peer}"

    async def call(self, method: str, params: Any = None) -> Any:
        """As `Client.call`."""

        def work() -> Any:
            with Client.connect(self.running.paths.socket) as client:
                return client.call(method, params)

        return await asyncio.to_thread(work)


async def running(home: Path, settings: Settings, identity: PrivateKey | None = None) -> Running:
    """A daemon that runs in `home`."""
    paths = Paths.resolve(str(home), {})
    return await Running.start(paths, settings, profile(settings), identity or PrivateKey.generate())
