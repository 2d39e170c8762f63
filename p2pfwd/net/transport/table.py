"""The transports of a node, in the order in which they are asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from p2pfwd.net.settings import SwarmSettings
from p2pfwd.net.transport.contract import Transport
from p2pfwd.net.transport.legs import Legs
from p2pfwd.net.transport.relay_transport import Reach, RelayTransport
from p2pfwd.net.transport.tcp_transport import Spawn, TcpTransport
from p2pfwd.net.upgrader import Upgrader
from p2pfwd.system.loop_io import LoopIo

MakeTransports = Callable[[Upgrader, LoopIo, SwarmSettings, Spawn, Reach, Legs], Sequence[Transport]]


def transports(
    upgrader: Upgrader, io: LoopIo, settings: SwarmSettings, spawn: Spawn, reach: Reach, legs: Legs
) -> Sequence[Transport]:
    """Those of a real node."""
    relays = RelayTransport(upgrader, io.pool, settings, reach, legs)
    return TcpTransport(upgrader, io, settings, spawn), relays
