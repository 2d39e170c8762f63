"""Who is let in: streams that are denied, requests without end, invites replayed; a sick disk meanwhile."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from p2pfwd.core.invite_token import InviteToken
from p2pfwd.forwarding.probe import PREFIX
from p2pfwd.rpc.client import Client
from p2pfwd.rpc.schema import InviteNewParams
from p2pfwd.wire import invite
from p2pfwd.wire.invite import Hello
from p2pfwd.wire.yamux import frame as f
from tests.hostile.disk import Disk
from tests.hostile.kinds import EVERY, MANY, each, whole
from tests.hostile.stage import ONE, Stage, draining
from tests.hostile.victim import ECHO, GUARDED
from tests.support.raw_peer import RawPeer, delimited, hello, opened

AT_ONCE: Final = 100
ASKERS: Final = 64
"""Side by side, where a thousand identities come one after the other."""


async def _flood(stage: Stage, words: bytes, flags: int = f.SYN) -> None:
    """Streams that begin with `words`, as fast as they are taken."""
    async with await stage.peer() as peer, draining(peer):
        for start in range(1, 1 << 31, 2 * AT_ONCE):
            ids = range(start, start + 2 * AT_ONCE, 2)
            await stage.send(peer, b"".join(opened(n, words, flags) for n in ids), AT_ONCE)


@each("denied-streams", "streams to a listen that lets nobody in", spreads=EVERY)
async def denied_streams(stage: Stage) -> None:
    """Each is refused as if there were no such name, and counted for the owner."""
    await _flood(stage, hello(GUARDED) + b"x")


@each("denied-asks", "may I, and why not? as fast as it is answered", spreads=EVERY)
async def denied_asks(stage: Stage) -> None:
    """The probe of a listen that lets nobody in."""
    await _flood(stage, hello(PREFIX + GUARDED), f.SYN | f.FIN)


async def _ask(stage: Stage) -> None:
    """As a new identity ask once by a stream and once by a probe, and go."""
    async with await stage.peer() as peer:
        await stage.send(peer, opened(1, hello(GUARDED)) + opened(3, hello(PREFIX + GUARDED)), 2)
        for _ in range(2):
            await peer.next()


@whole("askers", "a thousand identities, each of which asks to be let in and goes", spreads=EVERY)
async def askers(stage: Stage) -> None:
    """The table of requests is the owner's; strangers fill their share of it."""
    await stage.lines(lambda: _ask(stage), count=ASKERS)


# --- invites --------------------------------------------------------------------------------------


class _Taker:
    """Somebody who takes up an invite, message by message."""

    def __init__(self, peer: RawPeer, secret: bytes) -> None:
        self._peer, self._secret = peer, secret
        self._hello = Hello(invite.invite_id(secret), os.urandom(invite.NONCE_BYTES))

    async def prove(self) -> bytes:
        """The verdict is asked for; what was said up to it."""
        first = delimited(invite.encode_hello(self._hello))
        await self._peer.open(1, invite.PROTOCOL)
        await self._peer.frame(f.DATA, 0, 1, body=first)
        nonce = (await self._peer.payload(1, 1 + invite.NONCE_BYTES))[1:]
        ends = self._peer.peer_id, self._peer.remote_peer
        assert ends[1] is not None
        transcript = invite.transcript(self._hello, nonce, ends[0], ends[1])
        second = delimited(invite.joiner_proof(self._secret, transcript))
        await self._peer.frame(f.DATA, 0, 1, body=second)
        await self._peer.until(f.DATA, 0, 1)
        return first + second

    async def take(self) -> bytes:
        """It is taken; all that was said."""
        said, last = await self.prove(), delimited(invite.TAKE)
        await self._peer.frame(f.DATA, 0, 1, body=last)
        await self._peer.until(f.DATA, 0, 1)
        return said + last


async def _used_up(stage: Stage) -> tuple[bytes, bytes]:
    """The secret of an invite that somebody has taken, and what he said."""
    with Client.connect(Path(stage.control)) as client:
        token = InviteToken.parse(client.call("invite.new", InviteNewParams(ECHO)).token)
    async with await stage.peer() as peer:
        return token.secret, await _Taker(peer, token.secret).take()


@whole("invite-replays", "a used invite shown again, and what its taker said said again", spreads=EVERY)
async def invite_replays(stage: Stage) -> None:
    """Who has the secret is told at once that it is used up; who has not waits."""
    secret, said = await _used_up(stage)

    async def body() -> None:
        async with await stage.peer() as peer:
            await _Taker(peer, secret).prove()
            stage.counts["things"] += 1
            async with draining(peer):
                for start in range(3, 1 << 31, 2 * AT_ONCE):
                    ids = range(start, start + 2 * AT_ONCE, 2)
                    words = hello(invite.PROTOCOL) + said
                    await stage.send(peer, b"".join(opened(n, words) for n in ids), AT_ONCE)

    await stage.lines(body)


# --- a sick disk ----------------------------------------------------------------------------------


def _sick(name: str, what: str, disk: Disk, spreads: Sequence[str]) -> None:
    """Everything above at once, while what is to be written down cannot be."""

    async def run(stage: Stage) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(stage.lines(lambda: _ask(stage), count=ASKERS))
            group.create_task(stage.lines(lambda: denied_streams(stage)))

    whole(name, what, spreads=spreads, disk=disk)(run)


_sick("disk-full", "askers and denied streams while the victim's disk is full", "full", (*MANY, ONE))
_sick("disk-slow", "askers and denied streams while each write of the victim hangs", "slow", (*MANY, ONE))
