"""Peers for a daemon to be connected with: `python -m tests.bench.crowd`, one process for all of them.

Each line on stdin is a number; so many more listen on loopback then, and their addresses are the answer, in
one line. They have identify and ping, and say nothing of themselves. They are dialed, as newcomers from
one address come no faster than a home's.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import AsyncExitStack, ExitStack

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.errors import P2PForwardError
from p2pfwd.net.settings import SwarmSettings
from p2pfwd.net.swarm import Swarm
from p2pfwd.protocols.identify import Identify
from p2pfwd.protocols.ping import Ping
from p2pfwd.rpc.client import Client
from p2pfwd.rpc.paths import SOCKET
from p2pfwd.rpc.schema import ConnectParams
from tests.support.daemon import Daemon

ANY = Multiaddr.parse("/ip4/127.0.0.1/tcp/0")
CONNECT_S = 20.0


class Crowd:
    """Connected peers of one daemon, more of them from time to time; they end with `stack`."""

    def __init__(self, stack: ExitStack, daemon: Daemon) -> None:
        self.count = 0
        pipe = subprocess.PIPE
        words = [sys.executable, "-m", "tests.bench.crowd"]
        self._process = stack.enter_context(subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True))
        stack.callback(self._process.terminate)
        self.grow(0)  # it is up
        self._rpc = Client.connect(daemon.home / SOCKET, client="bench")
        stack.callback(self._rpc.close)

    def grow(self, count: int) -> None:
        """Have `count` of them. RuntimeError where they do not come."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        stdin.write(f"{count - self.count}\n")
        stdin.flush()
        for address in stdout.readline().split():
            try:
                self._rpc.call("swarm.connect", ConnectParams((address,)), timeout_s=CONNECT_S)
            except P2PForwardError as exc:
                raise RuntimeError(f"peer {self.count + 1} of {count} does not come: {exc}") from exc
            self.count += 1
        if self.count != count:
            raise RuntimeError(f"{self.count} of {count} peers came")


async def main() -> None:
    """Until stdin ends."""
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            made = [await _peer(stack) for _ in range(int(line))]
            print(*(one.listen_addrs()[0].with_peer_id(one.peer_id) for one in made), flush=True)


async def _peer(stack: AsyncExitStack) -> Swarm:
    made = Swarm(PrivateKey.generate(), SwarmSettings())
    stack.push_async_callback(made.close)
    Identify(made, "bench")
    Ping(made)
    await made.listen(ANY)
    return made


if __name__ == "__main__":
    asyncio.run(main())
