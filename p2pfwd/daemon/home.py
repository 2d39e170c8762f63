"""One daemon's hold on its home: directories, lock, identity."""

from __future__ import annotations

from p2pfwd.core.keys import PrivateKey
from p2pfwd.rpc.paths import Paths, check_socket_path
from p2pfwd.state import identity_file
from p2pfwd.state.home_lock import HomeLock
from p2pfwd.system.private_files import private_directory


class Repo:
    """The home while this process holds it; `open` takes hold, `close` lets go."""

    def __init__(self, paths: Paths, lock: HomeLock, identity: PrivateKey, identity_is_new: bool) -> None:
        """Use `open`."""
        self.paths = paths
        self.identity = identity
        self.identity_is_new = identity_is_new
        self._lock = lock

    @classmethod
    def open(cls, paths: Paths) -> Repo:
        """Make the directories, take the lock, read or make the identity.

        Waits while another daemon is starting. Raises DaemonRunning, StorageFailed, BindFailed (socket path
        too long), InvalidKey; then nothing is held.
        """
        check_socket_path(paths.socket)
        private_directory(paths.home, "home directory")
        private_directory(paths.socket.parent, "control socket's directory")
        lock = HomeLock.take(paths.lock_file, paths.start_lock_file, paths.socket)
        try:
            return cls(paths, lock, *identity_file.load_or_create(paths.key_file))
        except BaseException:
            lock.close()
            raise

    def ready(self) -> None:
        """This daemon answers: let another that was started meanwhile find that out."""
        self._lock.ready()

    def close(self) -> None:
        """Let go of the home. Idempotent."""
        self._lock.close()
