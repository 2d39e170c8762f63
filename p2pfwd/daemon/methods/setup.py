"""The RPC's methods on whole setups: `p2p.export`, `p2p.apply` and `daemon.reload` (p2pfwd-rpc(7))."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from p2pfwd.rpc import schema as s
from p2pfwd.rpc.server import CallContext, Handler

if TYPE_CHECKING:
    from p2pfwd.daemon.applying import Applying
    from p2pfwd.daemon.reloading import Reloading


class SetupMethods:
    """Methods of one daemon."""

    def __init__(self, applying: Applying, reloading: Reloading) -> None:
        self._applying = applying
        self._reloading = reloading

    def table(self) -> Mapping[str, Handler]:
        """Method name -> coroutine function."""
        return {"p2p.export": self.export, "p2p.apply": self.apply, "daemon.reload": self.reload}

    async def export(self, context: CallContext, params: s.Empty) -> s.ExportResult:
        """Every tunnel, name, rule and block that is there tomorrow, as TOML."""
        return self._applying.export()

    async def apply(self, context: CallContext, params: s.ApplyParams) -> s.ApplyResult:
        """Make it as the TOML says. Raises InvalidConfig, ResourceLimitExceeded, StorageFailed."""
        return await self._applying.apply(
            params.text, params.name, prune=params.prune, dry_run=params.dry_run
        )

    async def reload(self, context: CallContext, params: s.Empty) -> s.ReloadResult:
        """Read config.toml again. Raises InvalidConfig."""
        return await self._reloading.reload()
