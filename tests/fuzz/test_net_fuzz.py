"""Seeded inputs through the yamux fuzz target: a smoke test of the target itself.

It runs longer by hand: `python tests/fuzz/fuzz_yamux.py 600`.
"""

import runpy
from itertools import islice
from pathlib import Path

FOLDER = Path(__file__).parent
inputs = runpy.run_path(str(FOLDER / "mutator.py"))["inputs"]


def test_the_invariant_holds_for_seeded_inputs() -> None:
    module = runpy.run_path(str(FOLDER / "fuzz_yamux.py"))
    for data in islice(inputs(module["SEEDS"], 2026), 3000):
        module["one"](data)
