"""What every tier has: the proof that a test leaves nothing behind, and short directories for sockets."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import leaks, lifeline

os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # `tmp_path` is there to be looked at
lifeline.hold()

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A background job of a script ignores Ctrl-C, and every program started from it would, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail the test if it leaves a task, a thread or a descriptor open."""
    with leaks.watch():
        yield


@pytest.fixture(autouse=True)
def log_levels() -> Iterator[None]:
    """A daemon in this process sets them as its configuration says: what the next test logs is its own."""
    before = logging.getLogger("p2pfwd").level
    yield
    logging.getLogger("p2pfwd").setLevel(before)


@pytest.fixture
def home(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A fresh directory with a short path: a Unix socket's path may have 107 bytes, `tmp_path` takes half."""
    path = Path(tempfile.mkdtemp(prefix="p2pf-"))
    yield path
    shutil.rmtree(path)
