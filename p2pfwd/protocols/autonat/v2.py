"""AutoNAT v2: one address at a time, proved by a number that comes over a new connection; and the server."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import ConnectionLost, P2PForwardError, RemoteProtocolError, StreamReset
from p2pfwd.net.exchange import exchange
from p2pfwd.net.link.contract import Carrier, Link
from p2pfwd.net.swarm import Swarm
from p2pfwd.net.upgrader import describe
from p2pfwd.net.visits import Visit
from p2pfwd.policy.networks import household
from p2pfwd.policy.shares import Party
from p2pfwd.protocols.autonat.budget import Budget
from p2pfwd.wire import autonat2 as wire

log = logging.getLogger("p2pfwd.autonat")

DIAL_S: Final = 3.0
"""For a server's connect and handshake: two SYNs. go takes 10 s, in which nothing is known."""

BACK_S: Final = 5.0
"""For the stream with the number, and for its answer; as go."""

ANSWER_S: Final = 15.0
"""For a server's answer; as go."""


MAX_SILENT: Final = 64
"""Households remembered as silent, the last of them."""

BUSY_S: Final = 15.0
"""Before a server is asked again that was asked for more dials than it makes: a p2pfwd makes five a minute
for a peer (`AUTONAT_DIALS`), a go twelve, and three moves use them up."""


class Outcome(Enum):
    """Of one test."""

    WORKED = auto()
    FAILED = auto()
    NO_EVIDENCE = auto()
    """The server did not try, or is gone."""
    SILENT = auto()
    """Nothing came in time."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of a test; `back` is where the server's new connection came from."""

    outcome: Outcome
    back: Multiaddr | None = None
    again_s: float | None = None
    """After which the same server may be asked again, where that is soon."""


@dataclass(slots=True)
class _Expected:
    """A dial-back that is waited for."""

    arrived_at: Callable[[Multiaddr], bool]
    old: frozenset[Carrier]
    back: Multiaddr | None = None


class SecondClient:
    """Asks, and takes the numbers that come back."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm
        self._expected: dict[int, _Expected] = {}
        self._silent: dict[str, None] = {}

    def is_silent(self, conn: Link) -> bool:
        """Whether the last question to its household got no answer in time."""
        return household(conn.remote_addr) in self._silent

    async def test(self, conn: Link, addr: Multiaddr, arrives_at: Callable[[Multiaddr], bool]) -> Trial:
        """Have the peer dial `addr`. `arrives_at`: whether a local address is where such a dial ends."""
        nonce = secrets.randbits(64)
        expected = self._expected[nonce] = _Expected(arrives_at, frozenset(self._swarm.conns()))
        try:
            response = await self._question(conn, wire.Request((addr,), nonce))
        except TimeoutError:
            log.debug("%s did not tell in time whether it can dial %s", conn.remote_peer, addr)
            self._note_silent(household(conn.remote_addr))
            return Trial(Outcome.SILENT)
        except P2PForwardError as exc:
            log.debug("%s did not tell whether it can dial %s: %s", conn.remote_peer, addr, exc)
            return Trial(Outcome.NO_EVIDENCE, again_s=_again_s(exc))
        finally:
            del self._expected[nonce]
        self._silent.pop(household(conn.remote_addr), None)
        log.debug("%s on %s: %s, %s", conn.remote_peer, addr, response.status.name, response.dial.name)
        if response.status is not wire.Status.OK or response.index != 0:
            again_s = BUSY_S if response.status is wire.Status.REJECTED else None
            return Trial(Outcome.NO_EVIDENCE, again_s=again_s)
        if expected.back is not None:  # whatever is said: the number is the proof
            return Trial(Outcome.WORKED, expected.back)
        failed = response.dial is wire.DialStatus.DIAL_ERROR
        return Trial(Outcome.FAILED if failed else Outcome.NO_EVIDENCE)

    def _note_silent(self, place: str) -> None:
        self._silent.pop(place, None)
        self._silent[place] = None
        if len(self._silent) > MAX_SILENT:
            del self._silent[next(iter(self._silent))]

    async def _question(self, conn: Link, request: wire.Request) -> wire.Response:
        async with exchange(conn, wire.REQUEST, ANSWER_S) as stream:
            await stream.write_delimited(wire.encode_request(request))
            answer = wire.decode_answer(await stream.read_delimited(wire.MAX_MESSAGE_BYTES))
            if isinstance(answer, wire.DataRequest):
                if answer.index >= len(request.addrs) or answer.nbytes > wire.MAX_DATA_BYTES:
                    raise RemoteProtocolError(f"autonat: {answer.nbytes} bytes asked for one dial")
                for message in wire.data_messages(answer.nbytes):
                    await stream.write_delimited(message)
                answer = wire.decode_answer(await stream.read_delimited(wire.MAX_MESSAGE_BYTES))
            if isinstance(answer, wire.DataRequest):
                raise RemoteProtocolError("autonat: data asked for twice")
        return answer

    async def serve_back(self, visit: Visit) -> None:
        """A server delivers a number. Taken once, over a new connection that came to the asked address."""
        message = await visit.message()
        conn = visit.stream.conn
        expected = None if message is None else self._expected.get(wire.decode_back(message))
        if (
            expected is None
            or conn.direction == "outbound"
            or conn.is_relayed
            or conn in expected.old
            or not expected.arrived_at(conn.local_addr)
        ):
            raise RemoteProtocolError("autonat: a dial-back that nobody asked for")
        expected.back = conn.remote_addr
        await visit.answer(wire.encode_back_answer())
        await visit.stream.close()


def _again_s(failure: Exception) -> float | None:
    """A move ends the connection under a test; who is asked too often resets the stream."""
    if isinstance(failure, ConnectionLost):
        return 0.0
    return BUSY_S if isinstance(failure, StreamReset) else None


class SecondServer:
    """Dials back a peer that asks, at the IP it asks from and nowhere else, and hands over its number."""

    def __init__(self, swarm: Swarm, budget: Budget) -> None:
        self._swarm = swarm
        self._budget = budget

    async def serve(self, visit: Visit) -> None:
        """One stream: one request."""
        message = await visit.message()
        if message is not None:
            request = wire.decode_request(message)
            response = await self._answer(visit.stream.conn.remote_addr, visit.party, request)
            await visit.answer(wire.encode_response(response))
        await visit.stream.close()

    async def _answer(self, seen_at: Multiaddr, party: Party, request: wire.Request) -> wire.Response:
        index = wire.address_to_dial(request, party.peer, seen_at)
        addr = None if index is None else request.addrs[index]
        if index is None or addr is None or self._swarm.why_not(addr) is not None:
            return wire.Response(wire.Status.REFUSED)
        if not self._budget.take(party):
            return wire.Response(wire.Status.REJECTED)
        return wire.Response(wire.Status.OK, index, await self._dial(party.peer, addr, request.nonce))

    async def _dial(self, peer: PeerId, addr: Multiaddr, nonce: int) -> wire.DialStatus:
        try:
            async with asyncio.timeout(DIAL_S):
                conn = await self._swarm.dial_afresh(peer, addr.without_peer_id())
        except (P2PForwardError, OSError) as exc:
            log.debug("%s cannot be dialed back at %s: %s", peer, addr, describe(exc))
            return wire.DialStatus.DIAL_ERROR
        try:
            async with exchange(conn, wire.BACK, BACK_S) as stream:
                await stream.write_delimited(wire.encode_back(nonce))
                await stream.read_delimited(wire.MAX_BACK_BYTES)
        except (P2PForwardError, TimeoutError) as exc:
            log.debug("%s takes no dial-back at %s: %s", peer, addr, describe(exc))
            return wire.DialStatus.BACK_ERROR
        finally:
            await conn.close()
        return wire.DialStatus.OK
