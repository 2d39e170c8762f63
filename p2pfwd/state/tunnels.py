"""The saved tunnels of a running daemon: the state file, off the event loop.

Rules: the loop never waits for the disk. A call returns when its change is on the disk, or has failed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from p2pfwd.state.file_thread import FileThread
from p2pfwd.state.tunnel_file import Key, SavedTunnel, TunnelFile

log = logging.getLogger("p2pfwd.state")


class SavedTunnels:
    """What the state file has. Needs a running loop.

    A caller is not to be cancelled meanwhile: the change would be made.
    """

    def __init__(self, path: Path) -> None:
        self.lost: Path | None = None
        """A damaged file that lies aside: what was saved in it is not known."""
        self._file = TunnelFile(path)
        self._thread = FileThread("state file", self._file.close)

    async def load(self) -> list[SavedTunnel]:
        """Every saved tunnel, in the order in which they were saved. Raises InvalidConfig, StorageFailed."""
        found = await self._thread.submit(self._file.load) if self._file.path.exists() else []
        if self._file.aside.exists():
            self.lost = self._file.aside
            log.error("%s lies there: the tunnels that were saved in it are lost", self.lost)
        return found

    @property
    def moved(self) -> Path | None:
        """Where `load` moved a damaged file."""
        return self._file.moved

    async def save(self, tunnel: SavedTunnel) -> None:
        """Save it, in the place of one with its key. Raises StorageFailed, ResourceLimitExceeded."""
        await self._thread.submit(lambda: self._file.change(put=[tunnel]))

    async def forget(self, keys: Iterable[Key]) -> None:
        """Forget those with these keys. Raises StorageFailed: then all of them are still saved."""
        await self.change((), keys)

    async def change(self, put: Iterable[SavedTunnel], drop: Iterable[Key]) -> None:
        """Both at once, or neither. Raises as `save`."""
        saved, dropped = list(put), list(drop)
        await self._thread.submit(lambda: self._file.change(put=saved, drop=dropped))

    async def close(self) -> None:
        """End the thread; gives up on a disk that hangs. Idempotent."""
        await self._thread.close()
