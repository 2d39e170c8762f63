"""Pins that a host under attack serves newcomers meanwhile and holds nothing afterwards.

The attackers are those of the hostile table, one line each, on loopback; they are stopped by what they have
sent, not by time.
"""

from __future__ import annotations

import pytest

from tests.hostile.honest import newcome
from tests.hostile.host_rig import attacked, victim
from tests.hostile.victim import ECHO
from tests.support.loops import on_loop, until

ENOUGH = {"things": 2000, "bytes": 4 << 20, "connections": 20, "refused or lost": 3}
"""Of any of these."""

KINDS = (
    "syns-unread",
    "huge-lengths",
    "pushes",
    "find-node",
    "add-provider",
    "ping-protocol",
    "uploads-unread",
    "violations",
    "noise-short",
)


@pytest.mark.parametrize("kind", KINDS)
@on_loop
async def test_newcomers_are_served_meanwhile_and_nothing_is_held_afterwards(kind: str) -> None:
    async with victim() as made:
        async with attacked(made, kind) as stage:
            await until(lambda: any(stage.counts[name] >= n for name, n in ENOUGH.items()))
            await newcome(made.addr, "127.0.0.1", ECHO)
        await made.left_alone()
