"""Starting costs: what a command may import, so that `ls` answers before a person notices."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from p2pfwd.rpc.schema import LsResult
from tests.cli.samples import FORWARD
from tests.support.daemon import environment
from tests.support.fake_daemon import FakeDaemon

HEAVY = {"asyncio", "ssl", "rich", "multiaddr", "cryptography", "google", "pydantic", "uvloop"}

SCRIPT = """
import json, sys
from p2pfwd.cli.app import main
status = main(sys.argv[1:])
ours = [module for name, module in sys.modules.items() if name.startswith("p2pfwd")]
kinds = {value for module in ours for value in vars(module).values() if isinstance(value, type)}
dear = [kind.__name__ for kind in kinds if hasattr(kind, "__dataclass_fields__") and "__init__" in vars(kind)]
print(json.dumps([status, sorted({name.partition(".")[0] for name in sys.modules}), sorted(dear)]))
"""


@pytest.mark.parametrize(
    "arguments", [("ls",), ("ls", "--json"), ("close", "-a"), ("--help",), ("listen", "-h")]
)
def test_a_command_imports_nothing_heavy(fake: FakeDaemon, home: Path, arguments: tuple[str, ...]) -> None:
    fake.answers["p2p.ls"] = LsResult((FORWARD,))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        env=environment(home),
        capture_output=True,
        text=True,
        check=True,
    )
    _, modules, dear = json.loads(done.stdout.splitlines()[-1])
    assert set(modules) & HEAVY == set()
    if "ls" in arguments:
        assert dear == [], "each of these generates code, for up to a millisecond: see rpc.values.message"
