"""What a client behind a NAT sends and receives while nobody uses it, by its network card's counters.

    python -m tests.netns.idle_cost [--minutes 10] [--kind cone]

It holds places at two hubs of its own. The counters have all: headers, acknowledgements, mDNS,
dials in vain. The goal is 1 MB an hour in all; exit status 1 where it is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.netns.nat import KINDS, Router
from tests.netns.recovery_hubs import HubNetwork, held
from tests.netns.two_machines import Machine, Unavailable
from tests.support import lifeline

GOAL_MB: Final = 1.0
SETTLE_S: Final = 60.0
"""Start, tests of reachability and first look-ups are not idle."""


def moved(machine: Machine) -> int:
    """Bytes that its card has received and sent so far."""
    for line in Path(f"/proc/{machine.pid}/net/dev").read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        if name.strip() == "eth0":
            fields = rest.split()
            return int(fields[0]) + int(fields[8])
    raise AssertionError("no eth0")


def main() -> int:
    """Measure, and print a line a minute."""
    parser = argparse.ArgumentParser(prog="idle_cost")
    parser.add_argument("--minutes", type=int, default=10)
    parser.add_argument("--kind", choices=KINDS, default="cone")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="p2pfwd-idle-") as home, HubNetwork(Path(home) / "w") as net:
            machine = Router(net.segment, options.kind).host()
            client = net.client(machine, "client")
            time.sleep(SETTLE_S)
            first = before = moved(machine)
            for minute in range(1, options.minutes + 1):
                time.sleep(60.0)
                now = moved(machine)
                print(f"minute {minute}: {(now - before) / 1e3:.1f} KB", flush=True)
                before = now
            places = len(held(client))
    except Unavailable as exc:
        print(exc)
        return 2
    per_hour = (before - first) / 1e6 * 60 / options.minutes
    print(f"{per_hour:.2f} MB an hour, with {places} places held (goal: {GOAL_MB:g} MB an hour)")
    return int(per_hour > GOAL_MB or places != len(net.hubs))


if __name__ == "__main__":
    lifeline.hold()
    sys.exit(main())
