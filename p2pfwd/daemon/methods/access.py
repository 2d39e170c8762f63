"""The RPC's methods on who may connect: `access.*` and `block.*` (p2pfwd-rpc(7))."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from p2pfwd.daemon.expiry import end_after
from p2pfwd.rpc import schema as s
from p2pfwd.rpc.server import CallContext, Handler

if TYPE_CHECKING:
    from p2pfwd.daemon.access import AccessControl


class AccessMethods:
    """Methods of one daemon."""

    def __init__(self, access: AccessControl) -> None:
        self._access = access

    def table(self) -> Mapping[str, Handler]:
        """Method name -> coroutine function."""
        return {
            "access.allow": self.allow,
            "access.deny": self.deny,
            "access.rm": self.rm,
            "access.ls": self.ls,
            "access.requests": self.requests,
            "block.add": self.block,
            "block.rm": self.unblock,
            "block.ls": self.blocked,
        }

    async def allow(self, context: CallContext, params: s.AccessAllowParams) -> s.AccessChangeResult:
        """Let peers in. Raises InvalidPeerId, InvalidProtocol, ResourceLimitExceeded, StorageFailed."""
        return s.AccessChangeResult(
            *await self._access.allow(
                params.protocol,
                params.peers,
                keep_live=params.keep_live,
                ends_at=end_after(params.expires_s),
            )
        )

    async def deny(self, context: CallContext, params: s.AccessChangeParams) -> s.AccessChangeResult:
        """Keep peers out. Raises as `allow`."""
        return s.AccessChangeResult(
            *await self._access.deny(params.protocol, params.peers, keep_live=params.keep_live)
        )

    async def rm(self, context: CallContext, params: s.AccessRmParams) -> s.AccessChangeResult:
        """Forget a rule. Raises NotFound, StorageFailed."""
        return s.AccessChangeResult(*await self._access.remove(params.protocol, keep_live=params.keep_live))

    async def ls(self, context: CallContext, params: s.Empty) -> s.AccessLsResult:
        """Every rule, and the listens without one."""
        return self._access.listing()

    async def requests(self, context: CallContext, params: s.Empty) -> s.AccessRequestsResult:
        """Who was denied what."""
        return self._access.requests()

    async def block(self, context: CallContext, params: s.BlockParams) -> s.BlockResult:
        """Block peers and networks. Raises UsageError, ResourceLimitExceeded, StorageFailed."""
        return await self._access.block(params.whom)

    async def unblock(self, context: CallContext, params: s.BlockParams) -> s.BlockLsResult:
        """Take them off the list. Raises NotFound, StorageFailed, and as `block`."""
        return await self._access.unblock(params.whom)

    async def blocked(self, context: CallContext, params: s.Empty) -> s.BlockLsResult:
        """The block list."""
        return self._access.blocked()
