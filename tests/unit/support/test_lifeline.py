"""support.lifeline: whatever ends a run, what it has started ends too; every slow tier holds on to it."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support import daemon, lifeline
from tests.support.fake_daemon import until

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc")

OTHER = """
import signal, subprocess
print(subprocess.Popen(["sleep", "1000"]).pid, flush=True)
signal.pause()
"""

RUN = f"""
import subprocess, sys, tempfile
from tests.support import lifeline
lifeline.hold()
open(tempfile.mkdtemp(prefix="p2pfwd-lab-") + "/file", "w").close()
words = [sys.executable, "-c", {OTHER!r}]
child = subprocess.Popen(words, start_new_session=True, stdout=subprocess.PIPE, text=True)
print(child.pid, child.stdout.readline(), flush=True)
sys.stdin.readline()
"""
"""Makes a temporary directory; starts a process in a session of its own, which starts another; says both;
ends after a line."""


@contextmanager
def handles(pids: list[int]) -> Iterator[list[int]]:
    """A descriptor of each process, which can be read when it has ended; killed in the end."""
    with ExitStack() as stack:
        found = []
        for pid in pids:
            found.append(os.pidfd_open(pid))
            stack.callback(os.close, found[-1])
        try:
            yield found
        finally:
            for descriptor in found:
                try:
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                except ProcessLookupError:
                    continue


def have_ended(found: list[int], within_s: float = 20.0) -> bool:
    return all(select.select([descriptor], [], [], within_s)[0] for descriptor in found)


def run_of_its_own(directory: Path) -> dict[str, str]:
    """An environment in which `hold` begins a run, with its temporary files in `directory`."""
    return {name: value for name, value in os.environ.items() if name != lifeline.MARK} | {
        "TMPDIR": str(directory)
    }


@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "by itself"])
def test_whatever_ends_a_run_ends_what_it_has_started_and_removes_its_files(end: str, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", RUN], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, env=run_of_its_own(tmp_path),
    ) as run:  # fmt: skip
        assert run.stdin is not None and run.stdout is not None
        with handles([int(word) for word in run.stdout.readline().split()]) as started:
            assert len(started) == 2 and not have_ended(started[:1], 0.0)
            assert len(list(tmp_path.glob("p2pf-*/p2pfwd-lab-*/file"))) == 1
            if end == "by itself":
                run.stdin.close()
            else:
                run.send_signal(signal.Signals[end])
            assert have_ended(started)
    assert until(lambda: not any(tmp_path.iterdir()), 20.0)


PART = """
import tempfile
from tests.support import lifeline
before = tempfile.gettempdir()
lifeline.hold()
assert tempfile.gettempdir() == before
"""


def test_a_part_of_a_run_has_its_temporary_files_beside_the_others(tmp_path: Path) -> None:
    env = run_of_its_own(tmp_path) | {lifeline.MARK: "1-of-another"}
    subprocess.run([sys.executable, "-c", PART], cwd=ROOT, env=env, check=True)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("where", "is_left"), [("", True), ("/view", True), ("-other", False)])
def test_nothing_is_removed_where_something_is_mounted_below(
    tmp_path: Path, where: str, is_left: bool
) -> None:
    run = tmp_path / "run"
    (run / "view").mkdir(parents=True)
    lifeline.remove(str(run), [str(tmp_path), f"{run}{where}"])
    assert run.exists() == is_left


def test_the_run_is_held_once_and_its_mark_goes_to_every_daemon_and_command(tmp_path: Path) -> None:
    lifeline.hold()
    marked = lifeline.mark()
    lifeline.hold()
    assert lifeline.is_held() and lifeline.mark() == marked != {}
    assert marked.items() <= daemon.environment(tmp_path).items()


STARTS_NOTHING = {
    "tests.support.netns",
    "tests.interop.peers.fetch",
    "tests.bench.idle_network",
    "tests.bench.kad_simulation",
    "pytest",  # see tests/conftest.py
}


def test_all_that_make_runs_holds_on_to_it() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    programs = set(re.findall(r"\$\(PY\) -m ([a-z_.]+)", makefile)) - STARTS_NOTHING - {"pip"}
    assert len(programs) > 10
    for program in programs:
        path = ROOT.joinpath(*program.split("."))
        text = (path / "__main__.py" if path.is_dir() else path.with_suffix(".py")).read_text("utf-8")
        assert "lifeline.hold()" in text.partition('if __name__ == "__main__":')[2], program
    assert "lifeline.hold()" in (ROOT / "tests/conftest.py").read_text(encoding="utf-8")
