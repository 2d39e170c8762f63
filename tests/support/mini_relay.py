"""A relay (circuit v2) in a few lines, which can be told to misbehave, for a relay client's tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.host.host import Host
from p2pfwd.net.link.contract import DuplexStream
from p2pfwd.net.services import Service
from p2pfwd.wire import circuit as wire
from p2pfwd.wire.circuit import HopAnswer, Limit, Reservation, Status, StopRequest, Voucher

Alter = Callable[[bytes], bytes]


class MiniRelay:
    """Serves hop on a host. Everything public may be changed at any time."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.ttl_s = 3600.0
        self.limit: Limit | None = None
        self.refuses: Status | None = None
        self.addrs: tuple[Multiaddr, ...] = ()
        self.voucher: Callable[[PeerId, int], bytes] = self._voucher
        self.claims: PeerId | None = None
        """Whom it tells the target that the circuit comes from; None: the truth."""
        self.detour: PeerId | None = None
        """To whom circuits lead, whoever is asked for; None: the truth."""
        self.cuts_after: int | None = None
        """Bytes to the target after which it ends a circuit, whatever it has said of limits."""
        self.stalled = asyncio.Event()
        """While this is clear nothing is passed on."""
        self.stalled.set()
        self.alter: Alter = lambda data: data
        """What it makes of bytes on their way to the target."""
        self.reserved: dict[PeerId, int] = {}
        """How often each has asked for a place."""
        self.bytes = 0
        self.streams: list[DuplexStream] = []
        host.swarm.services.serve(Service(name=wire.HOP, handler=self._hop))

    def _voucher(self, peer: PeerId, expires_at: int) -> bytes:
        return Voucher(self.host.peer_id, peer, expires_at).to_signed(self.host.swarm.identity)

    async def _hop(self, stream: DuplexStream) -> None:
        request = wire.decode_hop_request(await stream.read_delimited(wire.MAX_MESSAGE_BYTES))
        if request.peer is not None:
            await self._connect(stream, request.peer)
            return
        peer = stream.remote_peer
        self.reserved[peer] = self.reserved.get(peer, 0) + 1
        answer = HopAnswer(self.refuses or Status.OK)
        if self.refuses is None:
            expires_at = int(time.time() + self.ttl_s)
            place = Reservation(expires_at, self.addrs, self.voucher(peer, expires_at))
            answer = HopAnswer(Status.OK, place, self.limit)
        await stream.write_delimited(wire.encode_hop_answer(answer))
        await stream.close()

    async def _connect(self, source: DuplexStream, peer: PeerId) -> None:
        status, target = Status.NO_RESERVATION, None
        await self.stalled.wait()
        peer = self.detour or peer
        if peer in self.reserved and (conns := self.host.swarm.conns(peer)):
            target = await conns[0].open_stream([wire.STOP])
            asked = StopRequest(self.claims or source.remote_peer, self.limit)
            await target.write_delimited(wire.encode_stop_request(asked))
            status = wire.decode_stop_answer(await target.read_delimited(wire.MAX_MESSAGE_BYTES))
        await source.write_delimited(wire.encode_hop_answer(HopAnswer(status, None, self.limit)))
        if status is not Status.OK or target is None:
            await source.close()
            return
        self.streams += [source, target]
        await asyncio.gather(self._copy(source, target, True), self._copy(target, source, False))

    async def _copy(self, source: DuplexStream, target: DuplexStream, altered: bool) -> None:
        moved = 0
        most = self.cuts_after or (self.limit.data_bytes if self.limit is not None else 0)
        try:
            while data := await source.read():
                await self.stalled.wait()
                if most:
                    data = data[: most - moved]
                moved += len(data)
                self.bytes += len(data)
                await target.write(self.alter(data) if altered else data)
                if most and moved >= most:
                    break
            target.close_write()
        except BaseException:
            target.reset()
            source.reset()
            raise
