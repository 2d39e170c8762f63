"""The attacker: `python -m tests.hostile.attacker`, one process for one kind of attack.

Its orders come as one JSON line on stdin (see `Orders`); it says `{"ready": true}`, attacks after the next
line, stops at the one after that, and then prints what it did. It speaks to the victim on loopback and to
nothing else. What a kind does is in `kinds/`.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import sys
from dataclasses import dataclass
from typing import Any

from p2pfwd.core.multiaddrs import Multiaddr
from tests.hostile import ground
from tests.hostile.kinds import KINDS
from tests.hostile.stage import Stage, strangers


@dataclass(frozen=True, slots=True)
class Orders:
    """What to attack, and how."""

    kind: str
    spread: str
    addr: str
    """The victim's, as a multiaddr: of IPv6 for a /48."""
    public: bool
    """Strangers come from public addresses."""
    control: str
    """Path of the victim's control socket."""

    @classmethod
    def read(cls, line: str) -> Orders:
        """From the JSON line."""
        return cls(**json.loads(line))


def flat(exc: BaseException) -> list[BaseException]:
    """The single failures in a group."""
    if isinstance(exc, BaseExceptionGroup):
        return [leaf for part in exc.exceptions for leaf in flat(part)]
    return [exc]


async def attack(orders: Orders) -> None:
    """Prepare, wait for the word, attack until the next word; the process ends with it."""
    random.seed(orders.kind)
    sources = strangers(orders.spread, public=orders.public)
    stage = Stage(Multiaddr.parse(orders.addr), orders.spread, sources, orders.control)
    loop = asyncio.get_running_loop()
    kind = KINDS[orders.kind]
    print(json.dumps({"ready": True}), flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    work = asyncio.ensure_future(kind.run(stage))
    word = loop.run_in_executor(None, sys.stdin.readline)
    await asyncio.wait({work, word}, return_when=asyncio.FIRST_COMPLETED)
    said: dict[str, Any] = {}
    if work.done() and not work.cancelled() and (exc := work.exception()) is not None:
        said["failed"] = "; ".join(sorted({repr(leaf) for leaf in flat(exc)}))
    await word
    print(json.dumps(said | {"counts": dict(stage.counts)}), flush=True)
    os._exit(0)  # the kernel closes the sockets: a stranger says no farewell


def main() -> None:
    """Run one attack."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if not ground.is_here():
        raise SystemExit("attacks start on their own ground only")
    orders = Orders.read(sys.stdin.readline())
    try:
        import uvloop

        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    except ImportError:
        runner = asyncio.Runner()
    with runner:
        runner.run(attack(orders))


if __name__ == "__main__":
    main()
