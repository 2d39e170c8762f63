"""The RPC's values of limits: `p2p.limit`."""

from __future__ import annotations

from p2pfwd.rpc.values import Listener, Message, message


@message
class LimitParams(Message):
    """Parameters of `p2p.limit`; null: as it is, 0: none. All null: nothing is changed."""

    protocol: str
    max_streams: int | None = None
    max_streams_per_peer: int | None = None
    rate: int | None = None  # bytes a second each way
    rate_per_peer: int | None = None
    idle_timeout_s: int | None = None


@message
class LimitResult(Message):
    """Result of `p2p.limit`: the listen with what holds now, and what is used of it."""

    listener: Listener
    busiest_peer_streams: int  # of the peer that has most
    rate_in: float  # bytes a second now, of all its live streams
    rate_out: float
