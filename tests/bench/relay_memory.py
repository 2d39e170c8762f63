"""`python -m tests.bench.relay_memory`: what 1,000 places and 200 idle circuits cost a relay, each.

The relay is a process of its own, which dials its clients: newcomers from one address come no faster than a
home's. A place's cost is that of its connection, too. Memory is the proportional set size.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.host.host import Host, HostSettings
from p2pfwd.net.settings import SwarmSettings
from p2pfwd.net.swarm import Swarm
from p2pfwd.net.transport import relay_transport
from p2pfwd.protocols.relay_service import RelayService
from p2pfwd.wire.circuit import Status
from tests.bench.__main__ import isolate, raise_file_limit
from tests.bench.procs import Memory
from tests.net.relay_rig import Target, reserve
from tests.support import lifeline

AT_ONCE = 32
ANY = Multiaddr.parse("/ip4/127.0.0.1/tcp/0")


async def relay() -> None:
    """Dial those named on stdin, and say how much is held; again for each line after them."""
    many = 1 << 20
    limits = SwarmSettings(max_connections=many, high_water=many, low_water=many)
    host = await Host.start(PrivateKey.generate(), [ANY], HostSettings(swarm=limits))
    service = RelayService(host.swarm)
    service.is_own = lambda _peer: True
    service.serve("peers")
    loop = asyncio.get_running_loop()
    clients = (await loop.run_in_executor(None, sys.stdin.readline)).split()
    gate = asyncio.Semaphore(AT_ONCE)

    async def dial(text: str) -> None:
        addr = Multiaddr.parse(text)
        peer = addr.peer_id()
        assert peer is not None
        async with gate:
            await host.swarm.connect(peer, [addr.without_peer_id()])

    def tell() -> None:
        print(Memory.of(os.getpid()).pss, len(service.places()), len(service.circuits()), flush=True)

    tell()
    await asyncio.gather(*map(dial, clients))
    tell()
    while await loop.run_in_executor(None, sys.stdin.readline):
        await asyncio.sleep(1.0)
        tell()
    service.close()
    await host.close()


async def clients(places: int, circuits: int) -> None:
    """Have so many, and print what the relay says."""
    words = [sys.executable, "-m", "tests.bench.relay_memory", "--relay"]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe, limit=1 << 20)
    assert process.stdin is not None and process.stdout is not None
    writer, reader = process.stdin, process.stdout

    async def answer() -> tuple[int, int, int]:
        pss, held, through = map(int, (await reader.readline()).split())
        return pss, held, through

    async def ask() -> tuple[int, int, int]:
        writer.write(b"\n")
        return await answer()

    async with AsyncExitStack() as stack:
        swarms = [await _client(stack) for _ in range(places)]
        addrs = [str(one.listen_addrs()[0].with_peer_id(one.peer_id)) for one in swarms]
        writer.write((" ".join(addrs) + "\n").encode())
        empty, connected = (await answer())[0], (await answer())[0]
        links = [one.conns()[0] for one in swarms]
        start = time.perf_counter()
        for at in range(0, places, AT_ONCE):
            found = await asyncio.gather(*map(reserve, links[at : at + AT_ONCE]))
            assert all(each.status is Status.OK for each in found)
        took_s = time.perf_counter() - start
        full, held, _ = await ask()
        for at in range(circuits):
            await relay_transport.connect(links[at], swarms[at + circuits].peer_id)
        carried, _, through = await ask()
        print(f"relay alone: {empty / 1e6:.1f} MB; {held} places asked for in {took_s:.1f} s")
        print(f"a connection: {(connected - empty) / places / 1e3:.1f} KB")
        print(f"a place with its connection: {(full - empty) / held / 1e3:.1f} KB (must: 64)")
        print(f"an idle circuit, of {through}: {(carried - full) / through / 1e3:.1f} KB (must: 64)")
        writer.close()
        await process.wait()


async def _client(stack: AsyncExitStack) -> Swarm:
    made = Swarm(PrivateKey.generate(), SwarmSettings())
    stack.push_async_callback(made.close)
    made.on_connected(lambda conn: conn.identified.set_result(None))
    await made.listen(ANY)
    Target(made)
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.relay_memory", description=__doc__)
    parser.add_argument("--relay", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--places", type=int, default=1000)
    parser.add_argument("--circuits", type=int, default=200)
    options = parser.parse_args(argv)
    raise_file_limit()
    if options.relay:
        asyncio.run(relay())
        return
    isolate()
    asyncio.run(clients(options.places, options.circuits))


if __name__ == "__main__":
    lifeline.hold()
    main()
