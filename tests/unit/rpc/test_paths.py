"""rpc.paths: which files a home means, and what cannot be a home."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from p2pfwd.errors import BindFailed, UsageError
from p2pfwd.rpc.paths import MAX_SOCKET_PATH_BYTES, Paths, check_socket_path


def test_a_home_holds_everything(tmp_path: Path) -> None:
    paths = Paths.resolve(str(tmp_path), {"P2PFWD_HOME": "/elsewhere"})
    files = (paths.config_file, paths.key_file, paths.lock_file, paths.start_lock_file, paths.log_file)
    assert {f.parent for f in (*files, paths.socket)} == {tmp_path}
    assert len(set(files)) == len(files)
    assert paths.environment() == {"P2PFWD_HOME": str(tmp_path)}


def test_the_variable_is_the_home_when_the_option_is_absent(tmp_path: Path) -> None:
    assert Paths.resolve(None, {"P2PFWD_HOME": str(tmp_path)}).home == tmp_path
    assert Paths.resolve("", {"P2PFWD_HOME": str(tmp_path)}).home == tmp_path


def test_a_relative_home_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Paths.resolve("here", {}).socket == tmp_path / "here" / "rpc.sock"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Paths.resolve("~/there", {}).home == tmp_path / "there"


@pytest.fixture
def xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("CONFIG", "DATA", "STATE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    return tmp_path


def test_without_a_home_the_xdg_directories_are_used(xdg: Path) -> None:
    paths = Paths.resolve(None, {"XDG_RUNTIME_DIR": str(xdg)})
    assert paths.config_file == xdg / "config/p2pfwd/config.toml"
    assert paths.key_file == xdg / "data/p2pfwd/identity.key"
    assert paths.log_file == xdg / "state/p2pfwd/daemon.log"
    assert paths.socket == xdg / "p2pfwd/rpc.sock"
    assert paths.environment() == {}


@pytest.mark.parametrize("runtime", ["absent", "relative", "another user's"])
def test_an_unusable_runtime_directory_is_not_used(
    runtime: str, xdg: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = {"absent": str(xdg / "no"), "relative": ".", "another user's": str(xdg)}[runtime]
    if runtime == "another user's":
        uid = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.chdir(xdg)
    paths = Paths.resolve(None, {"XDG_RUNTIME_DIR": value})
    runtime_dirs = (xdg / "state/p2pfwd/rpc.sock", Path(f"/run/user/{os.geteuid()}/p2pfwd/rpc.sock"))
    assert paths.socket in runtime_dirs


def test_the_longest_socket_path_passes_and_one_byte_more_names_the_cure() -> None:
    check_socket_path(Path("/" + "a" * (MAX_SOCKET_PATH_BYTES - 1)))
    with pytest.raises(BindFailed) as caught:
        check_socket_path(Path("/" + "é" * (MAX_SOCKET_PATH_BYTES // 2) + "a"))
    assert caught.value.hint is not None
    assert "P2PFWD_HOME" in caught.value.hint
    assert "XDG_RUNTIME_DIR" in caught.value.hint


def test_a_home_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(UsageError, match="not UTF-8"):
        Paths.resolve(os.fsdecode(b"/tmp/\xff"), {})
