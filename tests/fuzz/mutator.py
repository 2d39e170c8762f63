"""Seeded random mutation of known inputs: what the fuzz targets run on, without an external fuzzer.

`python tests/fuzz/fuzz_x.py [seconds] [seed]` runs one target; a failure prints the input that caused
it as hex and how to replay it. A test runs each target over `inputs(...)` with a fixed seed.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count

INTERESTING = (b"\0", b"\x01", b"\x7f", b"\x80", b"\xff", b"/", b"\xff\xff\xff\xff\x0f", b"%", b"\x80" * 10)


def _mutate(data: bytearray, seeds: Sequence[bytes], rng: random.Random, draw: Callable[[], float]) -> None:
    # int(draw() * n) is uniform enough, and five times as fast as randrange(n): a target is as fast as this.
    at = int(draw() * (len(data) + 1))
    match int(draw() * 7):
        case 0 if data:
            data[at % len(data)] ^= 1 << int(draw() * 8)
        case 1 if data:
            data[at % len(data)] = int(draw() * 256)
        case 2:
            data[at:at] = INTERESTING[int(draw() * len(INTERESTING))]
        case 3:
            del data[at : at + 1 + int(draw() * 8)]
        case 4:
            other = seeds[int(draw() * len(seeds))]
            data[at:] = other[int(draw() * (len(other) + 1)) :]
        case 5:
            data[at:at] = data[at : at + 1 + int(draw() * 32)]
        case _:
            data[at:at] = rng.randbytes(1 + int(draw() * 8))


def inputs(seeds: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """The seeds themselves, then mutations of them for ever; the same sequence for the same `seed`."""
    yield from seeds
    rng = random.Random(seed)
    draw = rng.random
    while True:
        data = bytearray(seeds[int(draw() * len(seeds))])
        for _ in range(1 + int(draw() * 5)):
            _mutate(data, seeds, rng, draw)
        yield bytes(data)


def main(one: Callable[[bytes], None], seeds: Sequence[bytes]) -> None:
    """Run `one` over mutations of `seeds` for the seconds of the command line (default 10)."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(1 << 32)
    deadline = time.monotonic() + seconds
    for number, data in zip(count(1), inputs(seeds, seed)):
        try:
            one(data)
        except BaseException:
            print(f"input {number} of seed {seed} broke the invariant: bytes.fromhex({data.hex()!r})")
            raise
        if time.monotonic() > deadline:
            break
    print(f"{number} inputs of seed {seed} in {seconds:g} s: the invariant held")
