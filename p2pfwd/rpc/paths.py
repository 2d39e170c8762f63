"""Where the files of one daemon are. Shared by the CLI and the daemon, so it imports next to nothing.

Rules: with `--home` or `P2PFWD_HOME` everything is in that one directory. Without, the XDG directories
of the user hold it, found by platformdirs. The control socket is in the state directory: the session's
runtime directory comes with a login and goes with the last logout, and the daemon outlives both. Only a path
too long for a socket makes it go there. (A place under /tmp could be made by somebody else first.) Whoever
looks for a running daemon asks the lock file (`rpc.reach`), not this module.
Nothing here creates, opens or locks a file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from p2pfwd.errors import BindFailed, UsageError
from p2pfwd.system.unix_socket import MAX_PATH_BYTES

APP = "p2pfwd"
HOME_VARIABLE = "P2PFWD_HOME"
SOCKET = "rpc.sock"


class Paths(NamedTuple):
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

        An empty string counts as absent. Raises UsageError for a home that is not UTF-8 text, or begins with
        a ~ that stands for no directory.
        """
        chosen = home or env.get(HOME_VARIABLE)
        if chosen:
            return cls._under(Path(os.path.abspath(_expanded(_utf8(chosen)))))
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
            socket=home / SOCKET,
        )

    @classmethod
    def _xdg(cls, env: Mapping[str, str]) -> Paths:
        data, state, config = map(Path, _xdg_directories())
        return cls(
            home=data,
            single=False,
            config_file=config / "config.toml",
            key_file=data / "identity.key",
            lock_file=data / "daemon.lock",
            start_lock_file=data / "start.lock",
            log_file=state / "daemon.log",
            socket=_xdg_socket(state, env),
        )

    @property
    def named_peers_file(self) -> Path:
        """Peers that were given a name."""
        return self.home / "peers.json"

    @property
    def address_book_file(self) -> Path:
        """Addresses of peers met before; a cache."""
        return self.home / "peers.db"

    @property
    def state_file(self) -> Path:
        """The saved listens and forwards."""
        return self.home / "state.db"

    @property
    def events_file(self) -> Path:
        """The history of events."""
        return self.home / "events.db"

    @property
    def relay_tokens_file(self) -> Path:
        """Who may use this node as a relay."""
        return self.home / "relay-tokens.json"

    @property
    def invites_file(self) -> Path:
        """Invites that this node has made; no secret is in it."""
        return self.home / "invites.json"

    @property
    def access_file(self) -> Path:
        """Who may use which listen, and who is blocked."""
        return self.home / "access.json"

    def environment(self) -> dict[str, str]:
        """The variables a child needs to resolve to the same paths."""
        return {HOME_VARIABLE: str(self.home)} if self.single else {}


def check_socket_path(path: Path) -> None:
    """Raise BindFailed when no Unix socket can have this path: it is too long."""
    if not _fits(path):
        raise BindFailed(
            f"control socket: the path {path} has {len(os.fsencode(path))} bytes, and a Unix socket's path "
            f"may have {MAX_PATH_BYTES}",
            hint=f"set {HOME_VARIABLE} (or --home), or XDG_RUNTIME_DIR, to a shorter directory",
            path=str(path),
            limit=MAX_PATH_BYTES,
        )


def _xdg_directories() -> tuple[str, str, str]:
    """The user's directories for data, state and configuration. Raises UsageError where he has none."""
    from platformdirs import PlatformDirs

    dirs = PlatformDirs(APP, appauthor=False)
    try:
        found = (dirs.user_data_dir, dirs.user_state_dir, dirs.user_config_dir)
    except (RuntimeError, KeyError):  # pathlib's and pwd's words for the same
        raise UsageError(
            f"home directory: HOME is not set, and the system knows no user with the uid {os.geteuid()}",
            hint=f"set {HOME_VARIABLE} (or --home) to a directory of your own, or set HOME",
        ) from None
    for path in found:
        if not os.path.isabs(path):  # the daemon works in /, and would find another one
            raise UsageError(
                f"home directory: {path} is not an absolute path",
                hint=f"mend HOME or the XDG variables, or set {HOME_VARIABLE} (or --home)",
            )
        _utf8(path)
    return found


def _xdg_socket(state: Path, env: Mapping[str, str]) -> Path:
    usual = state / SOCKET
    runtime = _runtime_dir(env)
    return usual if runtime is None or _fits(usual) else runtime / SOCKET


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= MAX_PATH_BYTES


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


def _expanded(path: str) -> str:
    """With the directory that a ~ stands for; none is made that has it for its name. Raises UsageError."""
    found = os.path.expanduser(path)
    if found.startswith("~"):
        user = found.partition("/")[0][1:]
        without = f"the system knows no user {user}"
        if not user:
            without = f"HOME is not set, and the system knows no user with the uid {os.geteuid()}"
        raise UsageError(
            f"home directory {found}: {without}",
            hint=f"set {HOME_VARIABLE} (or --home) to a path that begins with /",
        )
    return found


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
