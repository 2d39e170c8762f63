"""At the door: connections that never become a session, or do so badly, or only to break."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from datetime import UTC, datetime
from typing import Any, Final

from p2pfwd.core.keys import PrivateKey
from p2pfwd.wire.multistream import HEADER, DialerNegotiation, encode_token
from p2pfwd.wire.noise import NOISE, xx
from p2pfwd.wire.noise.handshake import NoiseHandshake
from p2pfwd.wire.tls import ENTROPY_BYTES, TLS
from p2pfwd.wire.tls.engine import TlsHandshake
from p2pfwd.wire.yamux import YAMUX
from p2pfwd.wire.yamux import frame as f
from tests.hostile.kinds import EVERY, MANY, each, whole
from tests.hostile.stage import ADDRESS, LINES, NET24, NET48, ONE, Stage

SILENT: Final = 512
"""Silent connections kept up; each that is closed is made anew."""


async def _until_closed(sock: socket.socket) -> None:
    """Read until the victim ends it."""
    while await asyncio.get_running_loop().sock_recv(sock, 1 << 16):
        pass


async def _say_and_wait(stage: Stage, said: bytes) -> None:
    sock = await stage.tcp()
    with sock:
        if said:
            await stage.send_raw(sock, said)
        await _until_closed(sock)


def _silent(name: str, what: str, said: bytes, **how: Any) -> None:
    """A kind of connection that says something and then nothing."""

    async def run(stage: Stage) -> None:
        await stage.lines(lambda: _say_and_wait(stage, said), count=SILENT)

    whole(name, what, **how)(run)


def _noise_start() -> bytes:
    noise = NoiseHandshake(
        initiator=True,
        identity=PrivateKey.generate(),
        expected_peer=None,
        muxers=(YAMUX,),
        entropy=os.urandom(xx.ENTROPY_BYTES),
    )
    return noise.start()


_silent("silent", "TCP connections that say nothing", b"", fault="F3", spreads=(*MANY, ADDRESS))
_silent("half-header", "half a multistream header, then nothing", HEADER[:9], fault="F3", spreads=MANY)
_silent(
    "proposed", "the security protocol proposed, then nothing", HEADER + encode_token(NOISE), spreads=MANY
)
_silent(
    "half-noise",
    "the first Noise message, then nothing",
    HEADER + encode_token(NOISE) + _noise_start(),
    spreads=MANY,
)
_silent(
    "tls-record",
    "a TLS record announced, then nothing",
    HEADER + encode_token(TLS) + b"\x16\x03\x01\x40\x00" + bytes(100),
    spreads=MANY,
)
_silent("http", "a web browser's words", b"GET / HTTP/1.1\r\nHost: victim\r\n\r\n", spreads=MANY)


@whole("slow-handshakes", "handshakes, a byte a second: slowloris at the door", fault="F3", spreads=MANY)
async def slow_handshakes(stage: Stage) -> None:
    """512 of them side by side."""
    words = HEADER + encode_token(NOISE) + _noise_start()

    async def body() -> None:
        sock = await stage.tcp()
        with sock:
            for at in range(len(words)):
                await stage.send_raw(sock, words[at : at + 1])
                await asyncio.sleep(1)
            await _until_closed(sock)

    await stage.lines(body, count=SILENT)


@each("connects", "connections made and closed at once", spreads=EVERY)
async def connects(stage: Stage) -> None:
    """Thirty at a time."""
    for sock in await asyncio.gather(*(stage.tcp() for _ in range(30))):
        sock.close()
    stage.counts["things"] += 30


@each("connects-reset", "connections made and reset at once")
async def connects_reset(stage: Stage) -> None:
    """Thirty at a time."""
    for sock in await asyncio.gather(*(stage.tcp() for _ in range(30))):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    stage.counts["things"] += 30


@whole("handshakes", "whole handshakes, a new identity each, closed then", spreads=EVERY)
async def handshakes(stage: Stage) -> None:
    """As many side by side as the spread has lines, eight for one."""

    async def body() -> None:
        (await stage.peer()).close()
        stage.counts["things"] += 1

    await stage.lines(body, count=max(8, LINES[stage.spread] // 8))


@whole(
    "noise-starts",
    "the costly half of a handshake, again and again: the victim signs",
    spreads=(ADDRESS, NET24),
)
async def noise_starts(stage: Stage) -> None:
    """The first message is made once; the victim draws keys and signs for each."""
    words = HEADER + encode_token(NOISE) + _noise_start()
    await _until_answered(stage, words, 150)


@whole("tls-starts", "TLS handshakes up to the victim's certificate", spreads=(ADDRESS, NET24))
async def tls_starts(stage: Stage) -> None:
    """A client hello of a real client, made once; the victim makes a certificate for each."""
    words = HEADER + encode_token(TLS) + _tls(stage).start()
    await _until_answered(stage, words, 400)


async def _until_answered(stage: Stage, words: bytes, enough: int) -> None:
    """In 16 lines, again and again: send `words`, read until `enough` bytes have come."""

    async def body() -> None:
        sock = await stage.tcp()
        with sock:
            await stage.send_raw(sock, words)
            loop = asyncio.get_running_loop()
            got = 0
            while got < enough and (data := await loop.sock_recv(sock, 4096)):
                got += len(data)

    await stage.lines(body, count=16)


def _tls(stage: Stage) -> TlsHandshake:
    now = datetime.now(UTC)
    return TlsHandshake(
        initiator=True,
        identity=stage.identity(),
        expected_peer=None,
        muxers=(YAMUX,),
        now=now,
        entropy=os.urandom(ENTROPY_BYTES),
    )


@whole("tls-handshakes", "whole TLS handshakes, a new identity each, closed then", spreads=(ADDRESS, NET24))
async def tls_handshakes(stage: Stage) -> None:
    """Sixteen side by side; each costs the attacker as much as the victim."""

    async def body() -> None:
        with await stage.tcp() as sock:
            await _secure(stage, sock, TLS, _tls(stage))

    await stage.lines(body, count=16)


@whole("no-muxer", "a whole handshake, then nothing: no muxer is ever proposed", fault="F3", spreads=MANY)
async def no_muxer(stage: Stage) -> None:
    """The last stage at which a connection can be left hanging."""

    async def body() -> None:
        with await stage.tcp() as sock:
            identity = stage.identity()
            noise = NoiseHandshake(
                initiator=True,
                identity=identity,
                expected_peer=None,
                muxers=(),
                entropy=os.urandom(xx.ENTROPY_BYTES),
            )
            await _secure(stage, sock, NOISE, noise)
            await _until_closed(sock)

    await stage.lines(body, count=SILENT)


async def _secure(
    stage: Stage, sock: socket.socket, name: str, engine: NoiseHandshake | TlsHandshake
) -> None:
    """One side of a handshake up to where the victim says nothing more."""
    loop = asyncio.get_running_loop()
    negotiation = DialerNegotiation([name])
    await stage.send_raw(sock, negotiation.start(), 0)
    while negotiation.selected is None:
        negotiation.receive(await _some(loop, sock))
    await stage.send_raw(sock, engine.start(), 1)
    left = negotiation.leftover()
    while not engine.done:
        await stage.send_raw(sock, engine.receive(left or await _some(loop, sock)), 0)
        left = b""


async def _some(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> bytes:
    data = await loop.sock_recv(sock, 1 << 16)
    if not data:
        raise EOFError
    return data


def _bad_noise(name: str, what: str, message: bytes) -> None:
    """A kind whose handshake breaks at the victim."""
    words = HEADER + encode_token(NOISE) + len(message).to_bytes(2, "big") + message

    async def run(stage: Stage) -> None:
        await stage.lines(lambda: _say_and_wait(stage, words), count=16)

    whole(name, what, spreads=(ADDRESS, NET24))(run)


_bad_noise("noise-zero-key", "a first Noise message with a key of zeros", bytes(32))
_bad_noise("noise-short", "a first Noise message that is too short", b"short")
_bad_noise("noise-long", "a Noise message of 64 KiB announced", bytes(65_535))

VIOLATIONS: Final = {
    "another version": b"\x07" + bytes(11),
    "an unknown type": f.encode_header(9, 0, 0, 0),
    "data over credit": f.encode_header(f.DATA, f.SYN, 1, 0xFFFF_FFFF),
    "the other parity": f.encode_header(f.WINDOW_UPDATE, f.SYN, 2, 0),
}


@whole("violations", "frames that end the connection, and a new one", fault="C1", spreads=(ONE, NET24, NET48))
async def violations(stage: Stage) -> None:
    """Every kind of violation in turn, eight lines."""

    async def body() -> None:
        for wire in VIOLATIONS.values():
            async with await stage.peer() as peer:
                await stage.send(peer, wire)
                await _until_closed(peer.sock)

    await stage.lines(body, count=8)


@whole(
    "altered-messages", "a Noise message that does not decrypt, and a new connection", spreads=(ONE, NET24)
)
async def altered_messages(stage: Stage) -> None:
    """Eight lines."""

    async def body() -> None:
        async with await stage.peer() as peer:
            await stage.send_raw(peer.sock, (100).to_bytes(2, "big") + bytes(100))
            await _until_closed(peer.sock)

    await stage.lines(body, count=8)
