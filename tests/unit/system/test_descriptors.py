"""Pins the limit of open files: raised as far as it goes, named when it is met, one kept to spare."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator

import pytest

from p2pfwd.system.descriptors import Spare, raise_limit, shortage


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
