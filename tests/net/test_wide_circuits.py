"""Bulk over a circuit goes in wide messages, each in one of a relay's frames, and all of it arrives."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from p2pfwd.net.channel import NoiseChannel
from p2pfwd.net.link import outbox
from p2pfwd.net.transport import circuit
from p2pfwd.net.transport.circuit import CircuitConduit
from p2pfwd.protocols.relay_service import RelayService
from p2pfwd.wire.noise.cipher import MAX_PLAINTEXT, MAX_WIDE_MESSAGE, TAG
from tests.net.program import Program
from tests.net.relay_rig import placed
from tests.net.swarm_rig import Taken, conn_of, host
from tests.support.loops import on_both_loops
from tests.support.mini_relay import MiniRelay

BULK = random.Random(1).randbytes(9_000_000)


class Sent:
    """The wide messages that channels send, by what is below them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.circuits: Counter[bool] = Counter()
        """By whether they are longer than others can be."""
        self.tcp: Counter[bool] = Counter()
        self.longest = 0
        """Of those in circuits."""
        was = NoiseChannel.send_wide

        def send_wide(channel: NoiseChannel, n: int) -> None:
            kind = self.circuits if isinstance(channel.conduit, CircuitConduit) else self.tcp
            kind[n > MAX_PLAINTEXT] += 1
            if kind is self.circuits:
                self.longest = max(self.longest, n)
            was(channel, n)

        monkeypatch.setattr(NoiseChannel, "send_wide", send_wide)


@pytest.mark.parametrize("relays_aes", [True, False])
@pytest.mark.parametrize("cuts", [True, False])
@on_both_loops
async def test_bulk_goes_both_ways_at_once_through_relays_that_cut_it_and_that_do_not(
    cuts: bool, relays_aes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "WIDE_WINDOW_BYTES", 262_200)  # windows need not have grown far
    monkeypatch.setattr(circuit, "BUSY_BYTES", 1 << 40)  # no leg
    sent = Sent(monkeypatch)
    async with host(aes=relays_aes) as relay, host(aes=True) as far, host(aes=True) as near:
        if cuts:  # what it passes on it reads in pieces of 64 KiB, into a window of the initial size
            MiniRelay(relay)
        else:
            service = RelayService(relay.swarm)
            service.serve("anyone")
            service.is_own = lambda _peer: True
        client, taken = await placed(far, relay), Taken(far.swarm)
        over = [far.swarm.listen_addrs()[-1]]
        await near.swarm.connect(far.peer_id, over, only=True)
        stream = await near.swarm.open_stream(far.peer_id, [taken.protocol])
        ends = Program(stream, BULK), Program(await taken.get(), BULK[::-1])
        await asyncio.gather(*(end.over for end in ends))
        assert bytes(ends[1].got) == BULK and bytes(ends[0].got) == BULK[::-1]
        inner = conn_of(stream)._channel
        assert inner.conduit.kept_bytes == inner.pool.kept_bytes == 0
        if not relays_aes:
            assert inner.max_wide == 0 and not sent.circuits, "the connection to the relay would cut it up"
        else:
            assert sent.circuits[True] >= 5, "how many it takes is a matter of what each read brings"
            assert sent.longest + TAG < MAX_WIDE_MESSAGE, "as long as fits a frame"
            # Each has a frame of the connection to the relay, and where that does not cut, another one there.
            assert sent.tcp[True] >= sent.circuits[True] * (1 if cuts else 1.5)
        await client.close()
        if not cuts:
            service.close()
