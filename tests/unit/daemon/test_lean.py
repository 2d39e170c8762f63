"""daemon.lean: without OpenSSL where that goes, and with it rather than without uvloop; half of protobuf."""

from __future__ import annotations

import os
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


@pytest.mark.parametrize(
    ("chosen", "left_out"), [({}, True), ({"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}, False)]
)
def test_messages_are_made_and_read_without_the_python_half_of_protobuf(
    chosen: dict[str, str], left_out: bool
) -> None:
    script = (
        "import sys\n"
        "from p2pfwd.daemon import lean\n"
        "print(lean.leave_out_python_protobuf())\n"
        "from p2pfwd.core.pb.keys_pb2 import PublicKey\n"
        "message = PublicKey(type=1, data=b'x')\n"
        "assert PublicKey.FromString(message.SerializeToString()) == message and 'data' in repr(message)\n"
        "print('google.protobuf.internal.decoder' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **chosen},
    )
    assert (done.stdout, done.stderr) == (f"{left_out}\n{not left_out}\n", "")
