"""system.private_files: what is made is ours alone, and other people's leftovers get their cure."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from p2pfwd.errors import StorageFailed
from p2pfwd.system import private_files
from p2pfwd.system.private_files import create_atomically, private_directory, storage_failed, write_atomically


@pytest.fixture
def known_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The random part of temporary names is known: an attacker's luck."""
    monkeypatch.setattr(os, "urandom", lambda size: b"\0" * size)


TEMPORARY = ".secret.0000000000000000.tmp"


@pytest.mark.parametrize("write", [write_atomically, create_atomically])
@pytest.mark.parametrize("planted", ["file", "link"])
def test_a_secret_goes_into_no_file_that_somebody_else_made(
    tmp_path: Path, known_name: None, write: object, planted: str
) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_text("")
    theirs.chmod(0o666)
    if planted == "file":
        theirs.rename(tmp_path / TEMPORARY)
        theirs = tmp_path / TEMPORARY
    else:
        (tmp_path / TEMPORARY).symlink_to(theirs)
    with pytest.raises((StorageFailed, FileExistsError)):
        write(tmp_path / "secret", b"zebra", "key file")  # type: ignore[operator]
    assert theirs.read_bytes() == b""
    assert not (tmp_path / "secret").exists()


def test_temporary_names_cannot_be_foretold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (seen.append(str(a)), replace(a, b)))
    for _ in range(2):
        write_atomically(tmp_path / "secret", b"zebra", "key file")
    assert len(set(seen)) == 2
    assert os.listdir(tmp_path) == ["secret"]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("old")
    (tmp_path / "secret").symlink_to(tmp_path / "theirs")
    write_atomically(tmp_path / "secret", b"zebra", "key file")
    assert (tmp_path / "theirs").read_text() == "old"
    assert not (tmp_path / "secret").is_symlink()


@pytest.mark.parametrize("links", [True, False])
def test_what_is_made_new_replaces_nothing_however_late_it_came(
    tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on a file system without hard links. The other file appears when ours is written already."""
    path, link, rivals = tmp_path / "secret", os.link, [b"rival"]

    def late(source: Path, target: Path, **more: bool) -> None:
        if rivals:
            target.write_bytes(rivals.pop())
        if not links:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        link(source, target, **more)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(FileExistsError):
        create_atomically(path, b"zebra", "key file")
    assert path.read_bytes() == b"rival"
    path.unlink()
    create_atomically(path, b"zebra", "key file")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"zebra", 0o600)
    assert os.listdir(tmp_path) == ["secret"]


def test_a_full_disk_leaves_no_rest_of_a_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for operation in ("write", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, operation, full)
            with pytest.raises(StorageFailed, match="No space left on device"):
                create_atomically(tmp_path / "secret", b"zebra", "key file")
        assert os.listdir(tmp_path) == []


# --- other people's leftovers ---------------------------------------------------------------------

DENIED = PermissionError(errno.EACCES, "Permission denied")


def owned_by(monkeypatch: pytest.MonkeyPatch, me: int, owners: dict[Path, int]) -> None:
    """This process is `me`, and what is in `owners` belongs to others; all else is `me`'s."""
    lstat, real_stat = os.lstat, os.stat

    def seen(found: os.stat_result, path: object) -> os.stat_result:
        values = list(found)[:10]
        values[stat.ST_UID] = owners.get(Path(os.fspath(path)), me)  # type: ignore[call-overload]
        return os.stat_result(values)

    monkeypatch.setattr(os, "geteuid", lambda: me)
    monkeypatch.setattr(os, "lstat", lambda path, **more: seen(lstat(path, **more), path))
    monkeypatch.setattr(os, "stat", lambda path, **more: seen(real_stat(path, **more), path))


def test_what_root_left_in_ones_directory_is_told_with_the_way_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "p2pfwd"
    home.mkdir()
    owned_by(monkeypatch, 54321, {home: 0, home / "daemon.lock": 0})
    error = storage_failed("lock file", home / "daemon.lock", DENIED)
    assert error.message == (
        f"lock file {home}/daemon.lock: Permission denied; {home} belongs to root (uid 0)"
    )
    assert error.hint is not None
    assert error.hint.endswith(f"sudo chown -R 54321 {home}")


def test_nobody_is_told_to_take_what_never_was_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "p2pfwd"
    home.mkdir()
    owned_by(monkeypatch, 54321, dict.fromkeys([home, *home.parents], 0))
    error = storage_failed("lock file", home / "daemon.lock", DENIED)
    assert "chown" not in str(error.hint)
    assert "P2PFWD_HOME" in str(error.hint)


def test_a_directory_that_root_made_is_refused_by_its_owner_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "p2pfwd"
    home.mkdir()
    owned_by(monkeypatch, 54321, {home: 0})
    monkeypatch.setattr(os, "access", lambda path, wanted: False)
    with pytest.raises(StorageFailed, match=r"it belongs to root \(uid 0\)") as caught:
        private_directory(home, "home directory")
    assert f"sudo chown -R 54321 {home}" in str(caught.value.hint)


@pytest.mark.parametrize("there", [True, False])
def test_root_neither_uses_nor_makes_directories_of_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """`sudo -E`: its owner could replace the socket, and could not use what root makes."""
    home = tmp_path / "share" / "p2pfwd"
    if there:
        home.mkdir(parents=True)
    owned_by(monkeypatch, 0, dict.fromkeys([home, home.parent, *home.parents], 54321))
    with pytest.raises(StorageFailed, match="belongs to uid 54321") as caught:
        private_directory(home, "home directory")
    assert "without sudo" in str(caught.value.hint)
    assert home.exists() == there


def test_people_are_named_as_chown_takes_them() -> None:
    assert (private_files.user_name(0), private_files.user_name(0, numeric=True)) == ("root (uid 0)", "root")
    assert private_files.user_name(4_000_000_000) == "uid 4000000000"
    assert private_files.user_name(4_000_000_000, numeric=True) == "4000000000"
