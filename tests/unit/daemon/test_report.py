"""Pins how a daemon that cannot run says why when its log is on the disk that is full."""

from __future__ import annotations

import errno
import io
import os

import pytest

from p2pfwd.daemon import run
from p2pfwd.daemon.run import report
from p2pfwd.errors import StorageFailed
from p2pfwd.rpc import codec
from p2pfwd.rpc.autostart import READY_VARIABLE


class FullDisk(io.StringIO):
    """A stderr that takes nothing."""

    def write(self, text: str) -> int:
        """Fail as a file on a full disk does."""
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_the_command_that_started_it_is_told_when_stderr_takes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = StorageFailed("lock file: No space left on device", hint="free some space")
    reader, writer = os.pipe()
    monkeypatch.setattr("sys.stderr", FullDisk())
    status = report(error, {READY_VARIABLE: str(writer)})
    assert status == error.exit_status
    with open(reader, "rb") as pipe:
        reply = codec.decode_reply(pipe.read())
    assert isinstance(reply, codec.Response) and reply.error is not None
    assert (reply.error.message, reply.error.hint) == (error.message, error.hint)


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (0.0, "says 1970-01-01, which cannot be"),
        (1.6e9, "says 2020-09-13, which cannot be"),
        (1.8e9, None),
        (2.08e9, None),
        (2.14e9, "says 2037-10-24, which can hardly be: what --expires has ended"),
    ],
)
def test_a_clock_that_cannot_be_right_is_told(
    now: float, told: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    run.warn_of_the_clock(now)
    assert told is None or f"the clock of this machine {told}" in caplog.text
    assert len(caplog.records) == (told is not None)
