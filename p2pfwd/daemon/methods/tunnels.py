"""The methods on tunnels: `p2p.listen`, `p2p.forward`, `p2p.close`, `p2p.ls`, `p2p.stream.*` (p2pfwd-rpc(7)).

Rules: a method decides nothing that the parts below can decide. What a client asked for and did not wait for
(its connection went while the call was under way) is undone. A foreground listener is closed with its
client's connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import nullcontext
from typing import Any, TypeVar

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.terms import LIMITS, ForwardTerms, Lifetime, ListenTerms, why_no_terms
from p2pfwd.core.typed import parse_endpoint, parse_target
from p2pfwd.core.word_order import check_forward, check_listen
from p2pfwd.daemon import notices
from p2pfwd.daemon.expiry import end_after
from p2pfwd.daemon.methods import views
from p2pfwd.daemon.methods.process import Node
from p2pfwd.errors import P2PForwardError, UsageError
from p2pfwd.forwarding.bind import numeric
from p2pfwd.forwarding.listen import RemoteListener
from p2pfwd.forwarding.registry import Listener
from p2pfwd.forwarding.values import CheckOutcome, CloseMatch
from p2pfwd.rpc import schema as s
from p2pfwd.rpc.server import CallContext, Handler
from p2pfwd.rpc.time_limit import check_timeout
from p2pfwd.state.tunnel_file import SavedTunnel

T = TypeVar("T")

TARGET_CHECK_S = 3.0
"""How long `listen` looks whether its target answers before it returns; a target may also come later."""


class TunnelMethods:
    """Methods of one daemon."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._listening = asyncio.Lock()

    def table(self) -> Mapping[str, Handler]:
        """Method name -> coroutine function."""
        return {
            "p2p.listen": self.listen,
            "p2p.forward": self.forward,
            "p2p.check": self.check,
            "p2p.close": self.close,
            "p2p.limit": self.limit,
            "p2p.ls": self.ls,
            "p2p.stream.ls": self.stream_ls,
            "p2p.stream.close": self.stream_close,
        }

    # --- listeners

    async def listen(self, context: CallContext, params: s.ListenParams) -> s.ListenResult:
        """Offer a service, and try its target once. Raises InvalidProtocol, InvalidPeerId, ListenerExists."""
        node = self._node
        check_listen(params.protocol, params.target)
        target, any_loopback = parse_target(params.target)
        terms = _listen_terms(params, any_loopback)
        wanted = SavedTunnel("listen", params.protocol, target, terms)
        only = [node.access.read(params.allow)] if params.allow else []
        tell = [node.access.read(params.tell_denied)] if params.tell_denied else []

        async def make() -> tuple[Listener, bool]:
            return await node.tunnels.make(wanted, _lifetime(params))

        async def say() -> Callable[[], Awaitable[None]]:
            return await node.access.say(params.protocol, only, tell)

        # Between the check and the listen a rule is written; who writes none waits for nobody's.
        async with self._listening if only or tell else nullcontext():
            if node.forwarding.is_listening(params.protocol):
                listener, stood = await make()
                undo = await _or(say(), lambda: node.tunnels.take_back(listener, stood))
            else:
                node.forwarding.check_listen(params.protocol, target, terms)
                undo = await say()
                listener, stood = await _or(make(), undo)
        if params.foreground:
            context.on_disconnect(lambda: node.tunnels.close_now(listener))

        async def take_back() -> None:
            # A listen that is still saved keeps what was said of it: it would come back open to more.
            if await node.tunnels.take_back(listener, stood):
                await undo()

        assert isinstance(listener, RemoteListener)  # which may be closed by now

        async def look() -> CheckOutcome:
            outcome = await node.forwarding.look(listener, TARGET_CHECK_S)
            await node.relays.first_place()
            return outcome

        outcome = await _or(look(), take_back)
        addrs = views.to_paste(node.host.swarm.listen_addrs())
        return s.ListenResult(
            listener=node.shown(listener.info()),
            target_check=views.check(outcome),
            peer=str(node.host.peer_id),
            addresses=views.full_addresses(addrs, node.host.peer_id),
            taken_ports=node.host.taken_ports,
            stood=stood,
            notices=(*notices.of_target(target), *notices.of_relays(node.relays)),
        )

    async def forward(self, context: CallContext, params: s.ForwardParams) -> s.ForwardResult:
        """Open a local address that leads to a peer. Raises PeerNotFound, AddressInUse, ListenerExists."""
        node = self._node
        check_forward(params.protocol, params.listen, params.peers)
        listen = parse_endpoint(params.listen)
        peer_id, addrs = await self._node.peering.read(params.peers)
        wanted = SavedTunnel(
            "forward",
            params.protocol,
            await numeric(listen),
            ForwardTerms(
                params.allow_custom_protocol,
                params.path,
                params.allow_limited_relay,
                end_after(params.expires_s),
            ),
            peer_id,
            addrs,
        )
        listener, stood = await node.tunnels.make(wanted, _lifetime(params))
        if params.foreground:
            context.on_disconnect(lambda: node.tunnels.close_now(listener))
        swarm = self._node.host.swarm
        told = (
            *notices.of_listening(listener.listen_address, swarm.own_addresses),
            *notices.of_peer_addresses(addrs, swarm.why_not),
        )
        return s.ForwardResult(node.shown(listener.info()), str(peer_id), told, stood)

    async def check(self, context: CallContext, params: s.CheckParams) -> s.Check:
        """Try a listener once; its state follows. Raises NotFound."""
        timeout_s = check_timeout(params.timeout_s)
        return views.check(await self._node.forwarding.check(params.listener, timeout_s))

    async def close(self, context: CallContext, params: s.CloseParams) -> s.CloseResult:
        """Close the listeners that every filter matches; their streams go on.

        Raises UsageError, StorageFailed.
        """
        match = CloseMatch(
            all=params.all,
            protocol=params.protocol,
            listen_address=self._filter(params.listen_address),
            target_address=self._filter(params.target_address),
        )
        return s.CloseResult(tuple(map(self._node.shown, await self._node.tunnels.close(match))))

    def _filter(self, text: str | None) -> Multiaddr | None:
        return None if text is None else self._node.peering.filter(text)

    async def limit(self, context: CallContext, params: s.LimitParams) -> s.LimitResult:
        """Change the limits of a listen, or only show them. Raises NotFound, UsageError, StorageFailed."""
        given = {name: getattr(params, name) for name in LIMITS}
        changes = {name: limit for name, limit in given.items() if limit is not None}
        listener = await self._node.tunnels.limit(params.protocol, changes)
        forwarding = self._node.forwarding
        streams = [stream for stream in forwarding.streams() if stream.listener_id == listener.id]
        info = listener.info(
            sum(stream.bytes_in for stream in streams), sum(stream.bytes_out for stream in streams)
        )
        rate_in, rate_out = sum(it.rate_in for it in streams), sum(it.rate_out for it in streams)
        return s.LimitResult(self._node.shown(info), info.busiest, float(rate_in), float(rate_out))

    async def ls(self, context: CallContext, params: s.Empty) -> s.LsResult:
        """All listeners, in the order they were made."""
        tunnels = self._node.tunnels
        lost = None if tunnels.lost is None else str(tunnels.lost)
        return s.LsResult(tuple(map(self._node.shown, tunnels.listeners())), lost)

    # --- streams

    async def stream_ls(self, context: CallContext, params: s.Empty) -> s.StreamLsResult:
        """All live streams, in the order they were opened."""
        return s.StreamLsResult(tuple(map(views.stream, self._node.forwarding.streams())))

    async def stream_close(self, context: CallContext, params: s.StreamCloseParams) -> s.StreamCloseResult:
        """Reset one stream, or all. Raises StreamNotFound, UsageError."""
        forwarding = self._node.forwarding
        if params.all:
            if params.id is not None:
                raise UsageError("can't combine --all with a stream id")
            return s.StreamCloseResult(tuple(map(views.stream, forwarding.close_all_streams())))
        if params.id is None:
            raise UsageError("no id specified", hint="p2pfwd stream ls shows the ids; -a closes all")
        if not (params.id.isascii() and params.id.isdecimal()):
            raise UsageError(
                f"stream id {params.id!r} is not a number", hint="p2pfwd stream ls shows the ids"
            )
        return s.StreamCloseResult((views.stream(forwarding.close_stream(int(params.id[:20]))),))


async def _or(work: Coroutine[Any, Any, T], undo: Callable[[], Awaitable[object]]) -> T:
    """Its result; where it fails, or nobody waits for it any more, what came before is undone."""
    try:
        return await work
    except (P2PForwardError, asyncio.CancelledError):
        await undo()
        raise


def _listen_terms(params: s.ListenParams, any_loopback: bool) -> ListenTerms:
    """Raises UsageError."""
    terms = ListenTerms(
        any_loopback,
        params.report_peer_id,
        params.allow_custom_protocol,
        **{name: getattr(params, name) for name in LIMITS},
        proxy_protocol=params.proxy_protocol,
        wait_target_s=float(params.wait_target_s),
        check=params.check,
        ends_at=end_after(params.expires_s),
    )
    if (why := why_no_terms(terms)) is not None:
        raise UsageError(why)
    return terms


def _lifetime(params: s.ListenParams | s.ForwardParams) -> Lifetime:
    if params.foreground:
        return "foreground"
    return "ephemeral" if params.ephemeral else "saved"
