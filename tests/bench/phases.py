"""The measurements: each takes a running tunnel and returns its figures.

Names of figures (and units): `up`/`down` (MB/s, 10^6 bytes), `up_cpu`/`down_cpu` (CPU seconds per GB of
both ends; `_user` and `_sys` are its parts), `rtt_cpu`, `open_cpu` (CPU microseconds of one), `rtt_*` and
`open_*` and `burst_*` (microseconds), `many_*` (20 bulk streams: total MB/s, and that of one stream measured
in the same way just before, slowest through fastest, microseconds of the echo beside them), `circuits_*` (the
same over circuits of a relay, one stream each; the echo's worst of them), `*_relay_cpu` (the relay alone),
`paced_*` (a listen with a rate: its error and the daemons' CPU, %; another stream's speed, to that alone),
`idle_*`/`with_400_*` (bytes, one daemon), `per_stream` (bytes, both daemons), `ls` and `python` (ms),
`long_first` (microseconds of an open over the long line), `long_up_16` and so on (MB/s of so many MiB).
Scale has names of its own, see `beside`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from tests.bench.client import Client, ClientError
from tests.bench.crowd import Crowd
from tests.bench.procs import Cpu, Memory, run_s
from tests.bench.tunnels import LONG_RTT_S, RATE, Tunnel

MANY = 20
PACED_S = 10
BURST = 400
HELD = 400
IDLE = 2000
LONG_OPENS = 3
COUNTED = 100
"""So many streams or peers, and more, are worth dividing a daemon's growth by."""
LEAST_RELAY_CPU = 0.2
"""Seconds a GB: opening and sealing alone take more."""

SETTLE_S = 1.0
"""Before memory is read: what a daemon does after start or after a burst of opens is over by then."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything; the quick run takes less."""

    bulk_s: float = 1.5
    rounds: int = 1000
    opens: int = 100
    many_s: float = 2.0
    many_ways: tuple[str, ...] = ("down", "up")
    commands: int = 7
    aead_s: float = 0.3
    long_mib: tuple[int, ...] = (16, 128, 512)
    levels: tuple[int, ...] = (1, 10, 100, 1000)
    """Of scale: so many idle streams, or connected peers."""
    idle_s: float = 4.0
    """How long a daemon's idle CPU is looked at."""


QUICK = Sizes(
    bulk_s=0.8, rounds=500, opens=50, many_s=1.5, many_ways=("down",), commands=3, aead_s=0.2,
    long_mib=(16, 64), levels=(1000,), idle_s=1.5,
)  # fmt: skip

Phase = Callable[[Client, Tunnel, Sizes], dict[str, float]]


def bulk(client: Client, tunnel: Tunnel, sizes: Sizes) -> dict[str, float]:
    """One stream, each way: a probe of 32 MiB sets how much is sent in about `bulk_s`."""
    figures: dict[str, float] = {}
    for way in ("up", "down"):
        probe = client.run(way, tunnel.port, 32)["MBps"]
        mib = max(32, min(4096, int(probe * sizes.bulk_s)))
        before, relay_before = Cpu.of(tunnel.pids), Cpu.of(tunnel.relay_pids)
        result = client.run(way, tunnel.port, mib)
        used, relay_used = Cpu.of(tunnel.pids) - before, Cpu.of(tunnel.relay_pids) - relay_before
        gb = mib * 1.048576e-3
        figures[way] = result["MBps"]
        if tunnel.pids:
            figures[f"{way}_cpu"] = used.total_s / gb
            figures[f"{way}_user"] = used.user_s / gb
            figures[f"{way}_sys"] = used.system_s / gb
        if tunnel.relay_pids:
            figures[f"{way}_relay_cpu"] = relay_used.total_s / gb
            if relay_used.total_s / gb < LEAST_RELAY_CPU:
                raise ClientError("the bytes did not go over the relay")
    return figures


def round_trip(client: Client, tunnel: Tunnel, sizes: Sizes) -> dict[str, float]:
    before = Cpu.of(tunnel.pids)
    figures = _quantiles("rtt", client.run("rtt", tunnel.port, sizes.rounds)["us"], "p50", "p99")
    used = Cpu.of(tunnel.pids) - before
    if tunnel.pids:
        figures["rtt_cpu"] = used.total_s / sizes.rounds * 1e6
    return figures


def opening(client: Client, tunnel: Tunnel, sizes: Sizes) -> dict[str, float]:
    before = Cpu.of(tunnel.pids)
    figures = _quantiles("open", client.run("ttfb", tunnel.port, sizes.opens)["us"], "p50", "p99")
    used = Cpu.of(tunnel.pids) - before
    if tunnel.pids:
        figures["open_cpu"] = used.total_s / sizes.opens * 1e6
    return figures


def burst(client: Client, tunnel: Tunnel, sizes: Sizes) -> dict[str, float]:
    """400 opens at once: when the first byte was back, from the start of all."""
    result = client.run("burst", tunnel.port, BURST)
    failed = {"burst_failed": float(result["failed"])}
    if not result["us"]["n"]:
        return failed
    return failed | _quantiles("burst", result["us"], "p50", "max")


def many(client: Client, tunnel: Tunnel, sizes: Sizes) -> dict[str, float]:
    """20 bulk streams, and a keystroke's echo beside them; one before, for comparison."""
    figures: dict[str, float] = {}
    for way in sizes.many_ways:
        figures[f"many_{way}_one"] = client.run("many", tunnel.port, way, 1, sizes.many_s)["MBps"]
        result = client.run("many", tunnel.port, way, MANY, sizes.many_s)
        rates = result["streams"]
        figures[f"many_{way}"] = result["MBps"]
        figures[f"many_{way}_even"] = min(rates) / max(rates) if max(rates) else 0.0
        figures[f"many_{way}_lost"] = float(result["lost"])
        figures |= _quantiles(f"many_{way}_echo", result["us"], "p50", "p99")
    return figures


def circuits(client: Client, tunnel: Tunnel, sizes: Sizes) -> dict[str, float]:
    """A bulk stream over each of several circuits at once, and an echo beside each."""
    figures: dict[str, float] = {}
    for way in sizes.many_ways:

        def one(port: int, way: str = way) -> dict[str, Any]:
            return client.run("many", port, way, 1, sizes.many_s)

        with ThreadPoolExecutor(len(tunnel.circuits)) as pool:
            found = list(pool.map(one, tunnel.circuits))
        rates = [float(each["MBps"]) for each in found]
        figures[f"circuits_{way}"] = sum(rates)
        figures[f"circuits_{way}_even"] = min(rates) / max(rates)
        figures[f"circuits_{way}_echo_p99"] = max(float(each["us"]["p99"]) for each in found)
    return figures


def paced(client: Client, tunnel: Tunnel, sizes: Sizes) -> dict[str, float]:
    """A stream of a listen with a rate: how exact it is over ten seconds, and another's speed beside it."""
    if tunnel.paced is None:
        return {}
    port, figures = tunnel.paced(), dict[str, float]()
    mib = round(RATE * PACED_S / 1.048576e6)
    for way in ("up", "down"):
        probe = client.run(way, tunnel.port, 32)["MBps"]
        bulk_mib = max(32, min(4096, int(probe * sizes.bulk_s)))
        alone = client.run(way, tunnel.port, bulk_mib)["MBps"]
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(client.run, way, port, mib)
            time.sleep(1)
            beside = client.run(way, tunnel.port, bulk_mib)["MBps"]
            after_bulk, since = Cpu.of(tunnel.pids), time.monotonic()
            rate = slow.result()["MBps"]
        quiet = Cpu.of(tunnel.pids) - after_bulk
        figures[f"paced_{way}_error"] = (rate * 1e6 / RATE - 1) * 100
        figures[f"paced_{way}_beside"] = beside / alone
        figures[f"paced_{way}_cpu"] = quiet.total_s / (time.monotonic() - since) * 100
    return figures


def idle(client: Client, tunnel: Tunnel, sizes: Sizes) -> dict[str, float]:
    """Memory of fresh daemons that are connected and have nothing to do."""
    time.sleep(SETTLE_S)
    figures: dict[str, float] = {}
    total = _memory(tunnel, figures, "idle")
    if tunnel.host_bytes:
        figures["idle_rss_own"] = (total.rss - tunnel.host_bytes) / len(tunnel.pids)
    return figures


def streams(client: Client, tunnel: Tunnel, sizes: Sizes) -> dict[str, float]:
    """Memory of fresh daemons with 400 streams, and what each of 2,000 idle streams costs."""
    figures: dict[str, float] = {}
    before = sum((Memory.of(pid) for pid in tunnel.pids), Memory())
    with client.holding(tunnel.port, HELD):
        time.sleep(SETTLE_S)
        _memory(tunnel, figures, f"with_{HELD}")
        with client.holding(tunnel.port, IDLE - HELD):
            time.sleep(SETTLE_S)
            held = _memory(tunnel, figures, f"with_{IDLE}")
            figures["per_stream"] = (held.pss - before.pss) / IDLE
    return figures


def _memory(tunnel: Tunnel, figures: dict[str, float], name: str) -> Memory:
    """Sum over both daemons; the figures are of one daemon, on average."""
    each = [Memory.of(pid) for pid in tunnel.pids]
    total = sum(each, Memory())
    figures[f"{name}_rss"] = total.rss / len(each)
    figures[f"{name}_pss"] = total.pss / len(each)
    return total


def long(client: Client, tunnel: Tunnel, sizes: Sizes) -> dict[str, float]:
    """One stream over a long line, new for each size: how soon its windows fill the line."""
    figures = {"long_first": float(client.run("ttfb", tunnel.port, LONG_OPENS)["us"]["p50"])}
    if figures["long_first"] < LONG_RTT_S * 1e6:
        raise ClientError("the bytes did not go over the long line")
    for mib in sizes.long_mib:
        for way in ("up", "down"):
            figures[f"long_{way}_{mib}"] = client.run(way, tunnel.port, mib)["MBps"]
    return figures


def scale(client: Client, tunnel: Tunnel, sizes: Sizes) -> dict[str, float]:
    """Fresh daemons with more and more idle streams: what each costs, and what else does beside them."""
    figures: dict[str, float] = {}
    before, held = sum((Memory.of(pid) for pid in tunnel.pids), Memory()), 0
    with ExitStack() as stack:
        for level in sizes.levels:
            stack.enter_context(client.holding(tunnel.port, level - held))
            held = level
            figures |= beside("streams", level, tunnel.pids, before, client, tunnel, sizes)
    return figures


def crowd(client: Client, tunnel: Tunnel, sizes: Sizes) -> dict[str, float]:
    """A fresh daemon with more and more connected peers: the same, and the CPU of a new connection (ms)."""
    if tunnel.crowd is None:
        return {}
    figures: dict[str, float] = {}
    pids = tunnel.pids[:1]
    with ExitStack() as stack:
        peers = Crowd(stack, tunnel.crowd)
        before = Memory.of(*pids)  # the crowd's process shares pages with it
        for level in sizes.levels:
            new, spent = level - peers.count, run_s(pids)
            peers.grow(level)
            figures[f"peers_{level}_connect"] = (run_s(pids) - spent) / new * 1e3
            figures |= beside("peers", level, pids, before, client, tunnel, sizes)
        if len(tunnel.crowd.json("swarm", "peers")["Peers"]) <= peers.count:
            raise ClientError("not all peers are connected any more")
    return figures


def beside(
    what: str, level: int, pids: tuple[int, ...], before: Memory, client: Client, tunnel: Tunnel, sizes: Sizes
) -> dict[str, float]:
    """With `level` of `what` held: of a daemon of `pids`, bytes in all (`_rss`) and for each (`_each`) since
    `before`, and CPU milliseconds a second at rest (`_idle`); of the tunnel, a round trip's p50 (`_rtt`, µs)
    and CPU (`_rtt_cpu`, µs), and a bulk stream's CPU seconds per GB (`_bulk`)."""
    name = f"{what}_{level}"
    time.sleep(SETTLE_S)
    held = sum((Memory.of(pid) for pid in pids), Memory())
    spent, since = run_s(pids), time.monotonic()
    time.sleep(sizes.idle_s)
    at_rest = (run_s(pids) - spent) / (time.monotonic() - since)
    trip, moved = round_trip(client, tunnel, sizes), bulk(client, tunnel, sizes)
    each = {f"{name}_each": (held.pss - before.pss) / level / len(pids)} if level >= COUNTED else {}
    return each | {
        f"{name}_rss": held.rss / len(pids),
        f"{name}_idle": at_rest / len(pids) * 1e3,
        f"{name}_rtt": trip["rtt_p50"],
        f"{name}_rtt_cpu": trip["rtt_cpu"],
        f"{name}_bulk": (moved["up_cpu"] + moved["down_cpu"]) / 2,
    }


def commands(client: Client, tunnel: Tunnel, sizes: Sizes) -> dict[str, float]:
    """Wall time of `p2pfwd ls` against a daemon with one listener, and of Python doing nothing."""
    if tunnel.ls is None:
        return {}
    ls, argv = tunnel.ls, [sys.executable, "-c", "pass"]
    return {
        "ls": min(_wall_ms(ls) for _ in range(sizes.commands)),
        "python": min(_wall_ms(lambda: _checked(argv)) for _ in range(sizes.commands)),
    }


def _checked(argv: list[str]) -> None:
    subprocess.run(argv, check=True)


def _wall_ms(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


def _quantiles(name: str, us: dict[str, Any], *which: str) -> dict[str, float]:
    return {f"{name}_{quantile}": float(us[quantile]) for quantile in which}
