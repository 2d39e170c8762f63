"""daemon.lean: without OpenSSL where that goes, and with it rather than without uvloop."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys
from p2pfwd.daemon import lean
assert lean.leave_out_openssl()
for name in {lacking}:
    setattr(lean, name, ())
uvloop = lean.import_uvloop()
import asyncio
print(asyncio.Runner(loop_factory=uvloop.new_event_loop).run(asyncio.sleep(0, "works")))
print("_ssl" in sys.modules and sys.modules["_ssl"] is not None)
"""


@pytest.mark.parametrize(("lacking", "openssl"), [([], False), (["_CLASSES"], True)])
def test_uvloop_serves_whatever_it_reads_of_ssl(lacking: list[str], openssl: bool) -> None:
    pytest.importorskip("uvloop")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(lacking=lacking)], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == (f"works\n{openssl}\n", "")


def test_where_uvloop_is_not_installed_there_is_none() -> None:
    script = (
        "import sys; sys.modules['uvloop'] = None\n"
        "from p2pfwd.daemon import lean\n"
        "lean.leave_out_openssl(); print(lean.import_uvloop())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("None\n", "")
