"""system.unix_socket: private from the first moment, in place of stale files alone."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from p2pfwd.system import unix_socket


def test_a_socket_is_private_and_its_file_goes_with_it(home: Path) -> None:
    mask = os.umask(0)
    try:
        bound = unix_socket.listen(str(home / "s"), 1)
    finally:
        os.umask(mask)
    assert stat.S_IMODE((home / "s").stat().st_mode) == 0o600
    assert bound.is_in_place()
    bound.remove_file()
    assert not bound.is_in_place()
    bound.remove_file()
    bound.sock.close()


def test_a_stale_file_is_taken_over_and_then_left_to_its_new_owner(home: Path) -> None:
    first = unix_socket.listen(str(home / "s"), 1)
    first.sock.close()
    second = unix_socket.listen(str(home / "s"), 1)
    assert not first.is_in_place()
    first.remove_file()
    assert second.is_in_place()
    second.sock.close()


@pytest.mark.parametrize("backlog", ["free", "full"])
def test_a_socket_somebody_answers_on_is_left_alone(home: Path, backlog: str) -> None:
    bound = unix_socket.listen(str(home / "s"), 0)
    with socket.socket(socket.AF_UNIX) as waiting, socket.socket(socket.AF_UNIX) as another:
        if backlog == "full":
            waiting.connect(str(home / "s"))
            another.setblocking(False)
            with pytest.raises(BlockingIOError):
                another.connect(str(home / "s"))
        with pytest.raises(unix_socket.SomebodyListens):
            unix_socket.listen(str(home / "s"), 1)
    assert bound.is_in_place()
    bound.sock.close()


def test_a_file_of_another_kind_is_left_alone(home: Path) -> None:
    (home / "s").write_text("precious")
    with pytest.raises(unix_socket.NotASocket):
        unix_socket.listen(str(home / "s"), 1)
    assert (home / "s").read_text() == "precious"


def test_a_directory_that_is_not_there_is_the_systems_error(home: Path) -> None:
    with pytest.raises(FileNotFoundError):
        unix_socket.listen(str(home / "none" / "s"), 1)


def test_of_one_that_cannot_be_made_private_nothing_is_left(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: str, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refused)
    with pytest.raises(PermissionError):
        unix_socket.listen(str(home / "s"), 1)
    assert not (home / "s").exists()
