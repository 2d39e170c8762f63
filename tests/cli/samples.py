"""Answers of a daemon, made to show every form a command prints."""

from __future__ import annotations

from dataclasses import replace

from p2pfwd.rpc.schema import Check, ForwardResult, Listener, ListenResult, Peer, Stream
from tests.support.fake_daemon import OTHER, PEER

LISTEN = Listener(
    id=1,
    direction="listen",
    protocol="/x/web",
    listen_address=f"/p2p/{PEER}",
    target_address="/ip4/127.0.0.1/tcp/8000",
    state="target-refused",
    reason="target 127.0.0.1:8000: connection refused",
    streams=0,
    bytes_in=0,
    bytes_out=0,
    foreground=False,
    created=1_700_000_000.0,
    saved=True,
)

FORWARD = Listener(
    id=2,
    direction="forward",
    protocol="/x/ssh",
    listen_address="/ip4/127.0.0.1/tcp/2222",
    target_address=f"/p2p/{OTHER}",
    state="ready",
    reason=None,
    streams=1,
    bytes_in=1_234_567,
    bytes_out=310_000,
    foreground=False,
    created=1_700_000_000.0,
    saved=True,
)

STREAM = Stream(
    handler_id="7",
    direction="outbound",
    protocol="/x/ssh",
    origin_address="/ip4/127.0.0.1/tcp/51822",
    target_address=f"/p2p/{OTHER}",
    peer=OTHER,
    age_s=192.4,
    bytes_in=1_234_567,
    bytes_out=310_000,
    rate_in=11_900.0,
    rate_out=0.0,
    path="direct",
    remote_address="/ip4/192.0.2.7/tcp/4101",
    rtt_ms=24.2,
    cipher="aes-256-gcm",
)

INBOUND = replace(
    STREAM,
    handler_id="12",
    direction="inbound",
    protocol="/x/web",
    origin_address=f"/p2p/{OTHER}",
    target_address="/ip4/127.0.0.1/tcp/8000",
    age_s=7_501.0,
    rate_in=0.0,
    rtt_ms=None,
)

REACHED = Check(
    ok=True,
    state="ready",
    reason=None,
    hint=None,
    path="direct",
    remote_address="/ip4/192.0.2.7/tcp/4101",
    security="/noise",
    elapsed_ms=12.5,
    rtt_ms=0.42,
)

REFUSED = Check(
    ok=False,
    state="target-refused",
    reason="target 127.0.0.1:8000: connection refused",
    hint="start the service, or close this listen",
    path=None,
    remote_address=None,
    security=None,
    elapsed_ms=1.0,
    rtt_ms=None,
)

LISTENED = ListenResult(
    listener=replace(LISTEN, state="ready", reason=None),
    target_check=replace(REACHED, path=None, remote_address=None, security=None),
    peer=PEER,
    addresses=(
        f"/ip4/127.0.0.1/tcp/4101/p2p/{PEER}",
        f"/ip4/192.0.2.7/tcp/4101/p2p/{PEER}",
        f"/ip6/2001:db8::7/tcp/4101/p2p/{PEER}",
    ),
)

FORWARDED = ForwardResult(listener=replace(FORWARD, streams=0), peer=OTHER)

CONNECTION = Peer(
    peer=OTHER,
    addr="/ip4/192.0.2.7/tcp/4101",
    direction="outbound",
    security="/noise",
    muxer="/yamux/1.0.0",
    agent_version="kubo/0.22.0/\x1b[31m",
    streams=1,
    age_s=61.0,
    rtt_ms=0.42,
    cipher="chacha20-poly1305",
)
