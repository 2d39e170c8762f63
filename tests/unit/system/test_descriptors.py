"""Pins the limit of open files: raised as far as it goes, one kept to spare; our own limits are told as ours.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator

import pytest

from p2pfwd.cli import exits
from p2pfwd.net.upgrader import describe
from p2pfwd.system.acceptor import bind_failure
from p2pfwd.system.descriptors import CURE, Spare, cure, in_use, raise_limit, reason, shortage

OURS = [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL]


@pytest.fixture
def limits() -> Iterator[tuple[int, int]]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield soft, hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_soft_limit_is_raised_to_the_hard_one(limits: tuple[int, int]) -> None:
    _, hard = limits
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
    assert raise_limit() == min(hard, 65_536) == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert raise_limit() >= min(hard, 65_536), "and stays"


def test_a_shortage_is_this_machines_and_named() -> None:
    assert "as many files open as this machine allows it" in (shortage(errno.EMFILE) or "")
    assert "this machine" in (shortage(errno.ENFILE) or "")
    assert "this machine" in (shortage(errno.ENOMEM) or "")
    assert shortage(errno.ECONNREFUSED) is None and shortage(None) is None


@pytest.mark.parametrize("code", OURS)
def test_a_limit_of_this_machine_is_told_as_one(code: int, capsys: pytest.CaptureFixture[str]) -> None:
    error = OSError(code, os.strerror(code))
    assert "this machine" in reason(code)
    assert describe(error) == reason(code)
    exits.report(error, as_json=False)
    hint = f"hint: {cure(code)}\n" if cure(code) else ""
    assert capsys.readouterr().err == f"Error: {reason(code)}\n{hint}"
    if code != errno.EADDRNOTAVAIL:  # of a bind it means something else
        failure = bind_failure(error, "here")
        assert reason(code) in failure.message and failure.hint == cure(code)


def test_the_limit_of_open_files_is_the_cure_of_its_own_shortage_only() -> None:
    assert [cure(code) for code in OURS] == [CURE, None, None, None, None]
    assert "ulimit -n" in reason(errno.EMFILE) and "fs.file-max" in reason(errno.ENFILE)


@pytest.mark.parametrize("code", [errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH])
def test_what_is_the_others_fault_stays_theirs(code: int) -> None:
    assert reason(code) == describe(OSError(code, "x")) == os.strerror(code)


def test_no_number_is_no_reason_to_fail() -> None:
    assert reason(None) == os.strerror(0)


def test_the_spare_is_given_once_and_taken_again(limits: tuple[int, int]) -> None:
    _, hard = limits
    spare = Spare()
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    taken: list[int] = []
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        assert spare.give()
        taken.append(os.open(os.devnull, os.O_RDONLY))
        assert not spare.give()
        spare.keep()
        assert not spare.give(), "there was none to be had"
    finally:
        for fd in taken:
            os.close(fd)
    spare.keep()
    spare.keep()
    assert spare.give()
    spare.close()


def test_it_tells_how_many_are_open() -> None:
    before = in_use()
    with open(os.devnull, "rb"), open(os.devnull, "rb"):
        assert in_use() == before + 2
    assert in_use() == before
