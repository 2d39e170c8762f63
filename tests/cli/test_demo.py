"""`make demo` itself: it works from end to end, and Ctrl-C in the middle leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.daemon import daemons_of

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "tools.demo"]


def environment(tmp_path: Path) -> dict[str, str]:
    """Everything the demo makes goes below `tmp_path`, whose path is short enough for a socket."""
    return {**os.environ, "TMPDIR": str(tmp_path), "NO_COLOR": "1", "COLUMNS": "100"}


def test_demo_runs_to_its_end(home: Path) -> None:
    """Exit 0; the page and the 100 MB came through; the homes are gone."""
    done = subprocess.run(
        COMMAND, cwd=ROOT, env=environment(home), capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "<title>It works</title>" in done.stdout
    assert ": as sent\n" in done.stdout
    assert "Closed 1 forward." in done.stdout
    assert done.stderr == ""
    assert list(home.iterdir()) == []


def test_interrupted_demo_cleans_up(home: Path) -> None:
    """SIGINT to all of it while the 100 MB flow: exit 130, no process and no directory left."""
    with subprocess.Popen(
        COMMAND, cwd=ROOT, env=environment(home), stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as demo:
        assert demo.stdout is not None
        while not demo.stdout.readline().startswith("100 MB:"):
            assert demo.poll() is None
        pids = daemons_of(demo.pid)
        for _ in range(3):  # an impatient person
            os.killpg(demo.pid, signal.SIGINT)
        assert demo.stdout.read().endswith("Interrupted; the daemons are stopped and their homes removed.\n")
        assert demo.wait(20) == 130
    assert len(pids) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert list(home.iterdir()) == []
