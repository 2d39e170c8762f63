"""Where the files of one daemon are. Shared by the CLI and the daemon, so it imports next to nothing.

Rules: with `--home` or `P2PFWD_HOME` everything is in that one directory. Without, the XDG directories
of the user hold it, found by platformdirs, except that the control socket goes to `$XDG_RUNTIME_DIR`
(or `/run/user/UID`) only when that directory exists and belongs to this user, and to the state directory
otherwise: a place under /tmp could be made by somebody else first, and would move with TMPDIR.
Nothing here creates, opens or locks a file.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from p2pfwd.errors import BindFailed, UsageError

APP = "p2pfwd"
HOME_VARIABLE = "P2PFWD_HOME"

MAX_SOCKET_PATH_BYTES = 107 if sys.platform.startswith("linux") else 103
"""Longest path of a Unix socket: `sockaddr_un.sun_path` (108 on Linux, 104 on BSD and macOS) less its NUL."""


@dataclass(frozen=True, slots=True)
class Paths:
    """Every file of one daemon; none of them need exist."""

    home: Path
    single: bool  # everything is under `home`
    config_file: Path
    key_file: Path
    lock_file: Path  # held by the daemon for its life
    start_lock_file: Path  # held by a daemon from its first step until it answers
    log_file: Path
    socket: Path

    @classmethod
    def resolve(cls, home: str | None, env: Mapping[str, str]) -> Paths:
        """The paths for `home` (`--home`), else `P2PFWD_HOME` of `env`, else the user's XDG directories.

        An empty string counts as absent. Raises UsageError for a home that is not UTF-8 text.
        """
        chosen = home or env.get(HOME_VARIABLE)
        if chosen:
            return cls._under(Path(os.path.abspath(os.path.expanduser(_utf8(chosen)))))
        return cls._xdg(env)

    @classmethod
    def _under(cls, home: Path) -> Paths:
        return cls(
            home=home,
            single=True,
            config_file=home / "config.toml",
            key_file=home / "identity.key",
            lock_file=home / "daemon.lock",
            start_lock_file=home / "start.lock",
            log_file=home / "daemon.log",
            socket=home / "rpc.sock",
        )

    @classmethod
    def _xdg(cls, env: Mapping[str, str]) -> Paths:
        from platformdirs import PlatformDirs

        dirs = PlatformDirs(APP, appauthor=False)
        data = Path(_utf8(dirs.user_data_dir))
        state = Path(dirs.user_state_dir)
        return cls(
            home=data,
            single=False,
            config_file=Path(dirs.user_config_dir) / "config.toml",
            key_file=data / "identity.key",
            lock_file=data / "daemon.lock",
            start_lock_file=data / "start.lock",
            log_file=state / "daemon.log",
            socket=(_runtime_dir(env) or state) / "rpc.sock",
        )

    @property
    def named_peers_file(self) -> Path:
        """Peers that were given a name."""
        return self.home / "peers.json"

    @property
    def address_book_file(self) -> Path:
        """Addresses of peers met before; a cache."""
        return self.home / "peers.db"

    def environment(self) -> dict[str, str]:
        """The variables a child needs to resolve to the same paths."""
        return {HOME_VARIABLE: str(self.home)} if self.single else {}


def check_socket_path(path: Path) -> None:
    """Raise BindFailed when no Unix socket can have this path: it is too long."""
    length = len(os.fsencode(path))
    if length > MAX_SOCKET_PATH_BYTES:
        raise BindFailed(
            f"control socket: the path {path} has {length} bytes, and a Unix socket's path "
            f"may have {MAX_SOCKET_PATH_BYTES}",
            hint=f"set {HOME_VARIABLE} (or --home), or XDG_RUNTIME_DIR, to a shorter directory",
            path=str(path),
            limit=MAX_SOCKET_PATH_BYTES,
        )


def _runtime_dir(env: Mapping[str, str]) -> Path | None:
    for base in (env.get("XDG_RUNTIME_DIR"), f"/run/user/{os.geteuid()}"):
        if base and os.path.isabs(base) and _is_own_directory(base):
            return Path(base) / APP
    return None


def _is_own_directory(path: str) -> bool:
    # `su` and `sudo` leave the other user's XDG_RUNTIME_DIR in the environment.
    try:
        info = os.stat(path)
    except OSError:
        return False
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid()


def _utf8(path: str) -> str:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        shown = path.encode("utf-8", "replace").decode()
        raise UsageError(
            f"home directory {shown}: the path is not UTF-8 text",
            hint=f"set {HOME_VARIABLE} (or --home) to a path in UTF-8",
        ) from None
    return path
