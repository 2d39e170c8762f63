"""What a relay and its neighbours in the protocols may be asked: places, circuits, dial-backs, punches."""

from __future__ import annotations

import asyncio
import itertools
from typing import Final

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.wire import autonat2, circuit, dcutr
from p2pfwd.wire.dcutr import HolePunch
from p2pfwd.wire.yamux import frame as f
from tests.hostile.kinds import each
from tests.hostile.stage import ADDRESS, NET24, ONE, Stage, drain, draining
from tests.support.raw_peer import RawPeer, delimited, hello, opened

AT_ONCE: Final = 100
SPREADS: Final = (ONE, ADDRESS, NET24)
RESERVE: Final = circuit.encode_hop_request(circuit.HopRequest())

THIRD: Final = "98.7.6.5"
"""Whom the victim is asked to knock at; there is no way to it."""


async def _asked(stage: Stage, peer: RawPeer, words: bytes) -> None:
    """The same request for ever, each on a stream of its own."""
    for start in range(1, 1 << 31, 2 * AT_ONCE):
        ids = range(start, start + 2 * AT_ONCE, 2)
        await stage.send(peer, b"".join(opened(n, words, f.SYN | f.FIN) for n in ids), AT_ONCE)


@each("relay-places", "a place at the relay, again and again", spreads=SPREADS, public=True)
async def relay_places(stage: Stage) -> None:
    """Each identity may have one; a network has its share."""
    async with await stage.peer() as peer, draining(peer):
        await _asked(stage, peer, hello(circuit.HOP) + delimited(RESERVE))


@each("relay-circuits", "circuits to nowhere, again and again", spreads=SPREADS, public=True)
async def relay_circuits(stage: Stage) -> None:
    """To peers that have no place."""
    nobody = PeerId.from_public_key(PrivateKey.generate().public_key)
    async with await stage.peer() as peer, draining(peer):
        request = circuit.encode_hop_request(circuit.HopRequest(nobody))
        await _asked(stage, peer, hello(circuit.HOP) + delimited(request))


@each("relay-stalled", "circuits to one who never answers, held", spreads=SPREADS, public=True)
async def relay_stalled(stage: Stage) -> None:
    """Each line is a target and its dialer."""
    identity = stage.identity()
    async with await stage.peer(identity=identity) as target, await stage.peer() as dialer:
        await stage.send(target, opened(1, hello(circuit.HOP) + delimited(RESERVE)))
        request = circuit.encode_hop_request(circuit.HopRequest(PeerId.from_public_key(identity.public_key)))
        words = hello(circuit.HOP) + delimited(request)
        async with asyncio.TaskGroup() as group:
            for peer in (target, dialer):
                group.create_task(drain(peer))
            for stream_id in itertools.count(1, 2):
                await stage.send(dialer, opened(stream_id, words))
                await asyncio.sleep(0.01)


@each("autonat2", "dial me back, version 2, again and again", spreads=SPREADS, public=True)
async def autonat2_asks(stage: Stage) -> None:
    """At the asker's own IP, where nobody listens."""
    async with await stage.peer() as peer, draining(peer):
        await _asked(stage, peer, _dial_back(peer.sock.getsockname()[0]))


@each("autonat2-others", "dial third parties and private addresses back", spreads=SPREADS, public=True)
async def autonat2_others(stage: Stage) -> None:
    """None of them is dialed."""
    async with await stage.peer() as peer, draining(peer):
        await _asked(stage, peer, _dial_back(THIRD, "10.0.0.1", "127.0.0.1", "169.254.169.254"))


def _dial_back(*hosts: str) -> bytes:
    addrs = tuple(Multiaddr.parse(f"/ip4/{host}/tcp/4001") for host in hosts)
    request = autonat2.encode_request(autonat2.Request(addrs, 7))
    return hello(autonat2.REQUEST) + delimited(request)


@each("punches", "dial third parties at the same time, again and again", spreads=SPREADS, public=True)
async def punches(stage: Stage) -> None:
    """On a connection over no relay, where it is nobody's turn to ask (else: `test_punches_under_attack`)."""
    addrs = tuple(Multiaddr.parse(f"/ip4/{host}/tcp/4001") for host in (THIRD, "10.0.0.1"))
    connect = delimited(dcutr.encode(HolePunch(dcutr.Kind.CONNECT, addrs)))
    sync = delimited(dcutr.encode(HolePunch(dcutr.Kind.SYNC)))
    async with await stage.peer() as peer, draining(peer):
        await _asked(stage, peer, hello(dcutr.PROTOCOL) + connect + sync)
