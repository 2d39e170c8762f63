"""The table of `protocols.autonat.filtering`: which of two servers gets in at a side door, and then what."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import BindFailed
from p2pfwd.policy.evidence import Filtering
from p2pfwd.protocols.autonat.filtering import find_filtering
from p2pfwd.protocols.autonat.v2 import Outcome, Trial
from p2pfwd.wire import identify
from tests.support.virtual_time import in_virtual_time

SEEN = Multiaddr.parse("/ip4/11.0.0.1/tcp/700")
DOOR = Multiaddr.parse("/ip4/10.0.0.7/tcp/9")


class Server:
    """A connection to one, and the link from the side door."""

    direction = "outbound"

    def __init__(self, host: str, outcome: str = "+") -> None:
        self.remote_addr = Multiaddr.parse(f"/ip4/{host}/tcp/4011")
        self.remote_peer = PeerId(b"\x00\x24\x08\x01\x12\x20" + host.encode().ljust(32, b"\0"))
        self.outcome = outcome
        self.is_closed = False

    async def open_stream(self, *_: object) -> Server:
        return self

    async def read_delimited(self, _most: int) -> bytes:
        return identify.encode(
            identify.IdentifyMessage(
                public_key=b"", listen_addrs=(), protocols=(), observed_addr=self.seen, protocol_version="",
                agent_version="", signed_peer_record=None,
            )
        )  # fmt: skip

    seen = SEEN

    def reset(self, code: int = 0) -> None:
        pass

    async def close(self) -> None:
        self.is_closed = True


class Ground:
    """Swarm, side door and client in one."""

    addr = DOOR

    def __init__(self, servers: list[Server]) -> None:
        self.servers = servers
        self.is_open = False
        self.asked: list[Server] = []
        self.refuses = False

    def side_door(self, _conn: Any) -> Ground:
        if self.refuses:
            raise BindFailed("no port")
        self.is_open = True
        return self

    async def dial(self, peer: PeerId, _addr: Multiaddr) -> Server:
        return next(one for one in self.servers if one.remote_peer == peer)

    def close(self) -> None:
        self.is_open = False

    async def test(self, conn: Any, addr: Multiaddr, arrives_at: Any) -> Trial:
        assert addr == SEEN and arrives_at(DOOR) and not arrives_at(SEEN)
        self.asked.append(conn)
        if conn.outcome == ".":
            await asyncio.Event().wait()
        outcomes = {"+": Outcome.WORKED, "-": Outcome.FAILED, "?": Outcome.NO_EVIDENCE}
        return Trial(outcomes[conn.outcome])

    async def find(self) -> Filtering:
        ground: Any = self
        found = await find_filtering(ground, ground, ground.servers)
        assert not self.is_open
        return found


@pytest.mark.parametrize(
    ("first", "others", "found"),
    [
        ("-", "", Filtering.BY_PORT),
        ("-", "+", Filtering.BY_PORT),
        ("+", "", Filtering.UNKNOWN),
        ("+", "-", Filtering.BY_ADDRESS),
        ("+", "+", Filtering.EVERYBODY),
        ("+", "?", Filtering.UNKNOWN),
        ("+", "?-", Filtering.BY_ADDRESS),
        ("?", "+", Filtering.UNKNOWN),
        ("+", "..+", Filtering.EVERYBODY),
        ("+", ".?.-", Filtering.BY_ADDRESS),
        ("+", ".........+", Filtering.UNKNOWN),  # they have half a minute together
    ],
)
@in_virtual_time
async def test_who_gets_in(first: str, others: str, found: Filtering) -> None:
    servers = [Server("12.0.0.1", first)]
    servers += [Server(f"12.1.0.{number}", outcome) for number, outcome in enumerate(others)]
    ground = Ground(servers)
    assert await ground.find() is found
    assert servers[0].is_closed


@in_virtual_time
async def test_a_second_server_in_the_same_place_is_none() -> None:
    ground = Ground([Server("12.0.0.1"), Server("12.0.0.1", "-")])
    assert await ground.find() is Filtering.UNKNOWN and len(ground.asked) == 1


@in_virtual_time
async def test_nothing_is_known_without_a_door_a_dialed_server_or_a_public_sight() -> None:
    for spoil in ("door", "direction", "sight"):
        ground = Ground([Server("12.0.0.1"), Server("12.0.0.2")])
        ground.refuses = spoil == "door"
        for server in ground.servers:
            server.direction = "inbound" if spoil == "direction" else "outbound"
            server.seen = DOOR if spoil == "sight" else SEEN
        assert await ground.find() is Filtering.UNKNOWN and not ground.asked
