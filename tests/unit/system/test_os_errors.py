"""system.os_errors: our own limits are told as ours, wherever they are met."""

from __future__ import annotations

import errno
import os

import pytest

from p2pfwd.cli import exits
from p2pfwd.net.upgrader import describe
from p2pfwd.system.acceptor import bind_failure
from p2pfwd.system.os_errors import reason

OURS = [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL]


@pytest.mark.parametrize("code", OURS)
def test_a_limit_of_this_machine_is_told_as_one(code: int, capsys: pytest.CaptureFixture[str]) -> None:
    error = OSError(code, os.strerror(code))
    assert reason(code).startswith(f"{os.strerror(code)} (") and "this machine" in reason(code)
    assert describe(error) == reason(code)
    exits.report(error, as_json=False)
    assert capsys.readouterr().err == f"Error: {reason(code)}\n"
    if code != errno.EADDRNOTAVAIL:  # of a bind it means something else
        assert reason(code) in bind_failure(error, "here").message


@pytest.mark.parametrize("code", [errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH])
def test_what_is_the_others_fault_stays_theirs(code: int) -> None:
    assert reason(code) == describe(OSError(code, "x")) == os.strerror(code)


def test_no_number_is_no_reason_to_fail() -> None:
    assert reason(None) == os.strerror(0)
