"""Seeded inputs through each of the wire's fuzz targets: a smoke test of the targets themselves.

The targets run longer by hand: `python tests/fuzz/fuzz_noise.py 600`.
"""

import runpy
from itertools import islice
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
inputs = runpy.run_path(str(FOLDER / "mutator.py"))["inputs"]


@pytest.mark.parametrize(
    ("target", "count"),
    [
        ("multistream", 2000),
        ("noise", 300),
        ("identify", 3000),
        ("tls_cert", 2000),
        ("mdns", 3000),
        ("autonat", 3000),
        ("dcutr", 3000),
        ("port_mapping", 3000),
        ("ssdp", 3000),
        ("autonat2", 3000),
        ("http_check", 300),
        ("invite", 3000),
        ("circuit", 3000),
        ("relay_token", 3000),
        ("role_search", 3000),
        ("rpc_line", 1500),
        ("kad_record", 3000),
    ],
)
def test_the_invariant_holds_for_seeded_inputs(target: str, count: int) -> None:
    module = runpy.run_path(str(FOLDER / f"fuzz_{target}.py"))
    for data in islice(inputs(module["SEEDS"], 2026), count):
        module["one"](data)
