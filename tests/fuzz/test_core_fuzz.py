"""A few thousand seeded inputs through each of core's fuzz targets: a smoke test of the targets themselves.

The targets run longer by hand: `python tests/fuzz/fuzz_multiaddr.py 600`.
"""

import runpy
from itertools import islice
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
inputs = runpy.run_path(str(FOLDER / "mutator.py"))["inputs"]


TARGETS = ["varint", "multiaddr", "peer_id", "keys", "record", "arguments", "swarm_key"]


@pytest.mark.parametrize("target", TARGETS)
def test_the_invariant_holds_for_seeded_inputs(target: str) -> None:
    module = runpy.run_path(str(FOLDER / f"fuzz_{target}.py"))
    for data in islice(inputs(module["SEEDS"], 2026), 3000):
        module["one"](data)
