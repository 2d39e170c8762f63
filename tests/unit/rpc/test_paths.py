"""rpc.paths: which files a home means, and what cannot be a home."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import NoReturn

import platformdirs
import pytest

from p2pfwd.errors import BindFailed, UsageError
from p2pfwd.rpc.paths import Paths, check_socket_path
from p2pfwd.system.unix_socket import MAX_PATH_BYTES


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
    paths = Paths.resolve(None, {})
    assert paths.config_file == xdg / "config/p2pfwd/config.toml"
    assert paths.key_file == xdg / "data/p2pfwd/identity.key"
    assert paths.log_file == xdg / "state/p2pfwd/daemon.log"
    assert paths.socket == xdg / "state/p2pfwd/rpc.sock"
    assert paths.environment() == {}


def test_a_session_that_comes_or_goes_does_not_move_the_socket(xdg: Path) -> None:
    (xdg / "run").mkdir(mode=0o700)
    with_session = Paths.resolve(None, {"XDG_RUNTIME_DIR": str(xdg / "run")})
    assert with_session.socket == Paths.resolve(None, {}).socket == xdg / "state/p2pfwd/rpc.sock"


@pytest.mark.parametrize("runtime", ["usable", "absent", "relative", "another user's"])
def test_only_a_socket_path_too_long_goes_to_the_runtime_directory(
    runtime: str, xdg: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = xdg / ("s" * MAX_PATH_BYTES)
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    value = {"usable": str(home), "absent": str(xdg / "no"), "relative": ".", "another user's": str(xdg)}
    if runtime == "another user's":
        uid = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.chdir(xdg)
    paths = Paths.resolve(None, {"XDG_RUNTIME_DIR": value[runtime]})
    if runtime == "usable":
        assert paths.socket == home / "p2pfwd/rpc.sock"
        return
    usual = state / "p2pfwd/rpc.sock"
    assert paths.socket in (usual, Path(f"/run/user/{os.geteuid()}/p2pfwd/rpc.sock"))


@pytest.mark.parametrize("said", ["Could not determine home directory.", None])
def test_a_user_without_a_home_is_told_what_to_set(said: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(path: str) -> str:
        raise RuntimeError(said) if said else KeyError("getpwuid(): uid not found: 12345")

    for name in ("CONFIG", "DATA", "STATE"):
        monkeypatch.delenv(f"XDG_{name}_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", no_home)
    with pytest.raises(UsageError, match="HOME is not set, and the system knows no user") as caught:
        Paths.resolve(None, {})
    assert "P2PFWD_HOME" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("home", "said"),
    [
        ("~", "home directory ~: HOME is not set, and the system knows no user with the uid "),
        ("~/x", "home directory ~/x: HOME is not set, and the system knows no user with the uid "),
        ("~nobody.here/x", "home directory ~nobody.here/x: the system knows no user nobody.here"),
    ],
)
@pytest.mark.parametrize("typed", [True, False])
def test_a_tilde_that_stands_for_nothing_is_no_directorys_name(
    home: str, said: str, typed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(_uid: int) -> NoReturn:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(UsageError) as caught:
        Paths.resolve(home if typed else None, {"P2PFWD_HOME": home})
    assert caught.value.message.startswith(said)
    assert caught.value.hint == "set P2PFWD_HOME (or --home) to a path that begins with /"


def test_a_home_that_is_not_absolute_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As some releases of platformdirs make it of a relative HOME."""
    monkeypatch.setattr(platformdirs.PlatformDirs, "user_state_dir", "somewhere/.local/state")
    with pytest.raises(UsageError, match="not an absolute path"):
        Paths.resolve(None, {})


def test_the_longest_socket_path_passes_and_one_byte_more_names_the_cure() -> None:
    check_socket_path(Path("/" + "a" * (MAX_PATH_BYTES - 1)))
    with pytest.raises(BindFailed) as caught:
        check_socket_path(Path("/" + "é" * (MAX_PATH_BYTES // 2) + "a"))
    assert caught.value.hint is not None
    assert "P2PFWD_HOME" in caught.value.hint
    assert "XDG_RUNTIME_DIR" in caught.value.hint


def test_a_home_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(UsageError, match="not UTF-8"):
        Paths.resolve(os.fsdecode(b"/tmp/\xff"), {})
