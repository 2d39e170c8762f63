"""What strangers may hold and ask of each protocol: the one table of these bounds, with their reasons.

`net.services` enforces it; SECURITY.md shows it. Honest use is far below every line: a busy node makes a few
dozen DHT requests a second, asks who one is once per connection, and pushes a few times a minute.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from p2pfwd.policy.pace import Rate
from p2pfwd.policy.shares import Most, Rates


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Of one service, or of several that share them."""

    label: str
    """What causes of refusals begin with: `<label>-streams`, `<label>-opens`, …"""
    most: Most
    """Streams at once."""
    opens: Rates | None = None
    """Streams opened a second; more are reset."""
    requests: Rates | None = None
    """Messages a second; more wait, at most `SLOWED_S`, then their stream is reset."""
    message_bytes: int = 0
    """Longest message read."""
    messages: int | None = None
    """Messages read from one stream; None: as many as come."""
    idle_s: float = 60.0
    """For the next message to be complete, or for an answer to be sent."""
    delimited: bool = False
    """Whether messages have their length in front; else all are `message_bytes` long, if any are read."""
    pays: bool = True
    """Whether who is refused for its haste, and goes on, is slowed for that, then dropped."""
    reads: bool = True
    """False: what comes with or after the opening is dropped at once."""


SLOWED_S: Final = 5.0
"""How long a request above the rate waits for its turn. Longer, and the asker has given up anyway."""

HASTE: Final = Rate(1.0, 100)
"""Refusals for opening or asking too fast that one connection may earn: beyond it is a flood, no slip."""

REQUESTS_PER_TURN: Final = 8
"""Requests answered, over all connections, before the event loop gets its turn: 2 ms or so."""

NO_BOUND: Final = 1 << 30

IDENTIFY: Final = Bounds(
    label="identify",
    most=Most(all=512, peer=4, network=64),
    # Once per connection; rust asks again every five minutes. A company behind one NAT may all come at once.
    opens=Rates(peer=Rate(1, 16), network=Rate(10, 128), all=Rate(100, 1024)),
    idle_s=5.0,
    reads=False,
)

PUSH: Final = Bounds(
    label="push",
    most=Most(all=128, peer=2, network=16),
    # A push tells of changed addresses or protocols, and costs a signature's check: up to 1 ms.
    opens=Rates(peer=Rate(0.2, 10), network=Rate(2, 40), all=Rate(20, 200)),
    message_bytes=8192,
    delimited=True,
    messages=10,
    idle_s=5.0,
)

PING: Final = Bounds(
    label="ping",
    most=Most(all=128, peer=2, network=32),
    # Some open a stream for each ping; a person pings once a second, a program as fast as the line is.
    opens=Rates(peer=Rate(5, 50), network=Rate(20, 200), all=Rate(100, 1000)),
    requests=Rates(peer=Rate(100, 500), network=Rate(100, 500), all=Rate(500, 2000)),
    message_bytes=32,
)

DHT: Final = Bounds(
    label="dht",
    # All DHTs of the node together. 32 of a peer: three lookups of alpha 10.
    # What is slowed waits in its stream's window: 256 KiB each.
    most=Most(all=256, peer=32, network=64),
    opens=Rates(peer=Rate(50, 200), network=Rate(100, 400), all=Rate(400, 1600)),
    requests=Rates(peer=Rate(50, 200), network=Rate(100, 400), all=Rate(400, 1600)),
    # The longest honest request stores an IPNS record of 10 KiB; rust takes 16 KiB at most.
    message_bytes=16 * 1024,
    delimited=True,
)

AUTONAT: Final = Bounds(
    label="autonat",
    most=Most(all=32, peer=2, network=8),
    opens=Rates(peer=Rate(0.2, 6), network=Rate(1, 16), all=Rate(4, 64)),
    message_bytes=4096,
    delimited=True,
    messages=1,
    idle_s=30.0,
)

AUTONAT2: Final = Bounds(
    label="autonat2",
    most=Most(all=16, peer=2, network=8),
    opens=Rates(peer=Rate(0.2, 6), network=Rate(1, 16), all=Rate(4, 64)),
    message_bytes=8192,
    delimited=True,
    messages=1,
    idle_s=15.0,
)

DIAL_BACK: Final = Bounds(
    label="dial-back",
    # One for each test that this node has asked for; the number in it is looked up, and that is all.
    most=Most(all=16, peer=2, network=8),
    opens=Rates(peer=Rate(0.2, 5), network=Rate(1, 16), all=Rate(4, 64)),
    message_bytes=1024,
    delimited=True,
    messages=1,
    idle_s=5.0,
)

AUTONAT_DIALS: Final = Rates(peer=Rate(5 / 60, 5), network=Rate(10 / 60, 10), all=Rate(40 / 60, 40))
"""Requests that are answered with dials, of both versions. Who starts asks each server for two or three."""

HOP: Final = Bounds(
    label="relay",
    # Requests only: what they lead to, places and circuits, is counted by policy.relay_bounds.
    most=Most(all=64, peer=8, network=32),
    # After a restart of the relay all its clients come at once.
    opens=Rates(peer=Rate(5, 64), network=Rate(20, 256), all=Rate(100, 1024)),
    message_bytes=4096,
    delimited=True,
    messages=1,
    idle_s=5.0,
)

RELAY_TOKEN: Final = Bounds(
    label="relay-token",
    # Shown once per connection; a first time costs a write to disk.
    most=Most(all=16, peer=2, network=8),
    opens=Rates(peer=Rate(0.2, 8), network=Rate(5, 64), all=Rate(50, 512)),
    message_bytes=256,
    delimited=True,
    messages=1,
    idle_s=10.0,
)

INVITE: Final = Bounds(
    label="invite",
    # Once in a machine's life, and again where it was interrupted; it costs the disk two or three writes. Who
    # guesses, at 128 bits, holds a stream for two seconds each time.
    most=Most(all=16, peer=2, network=8),
    opens=Rates(peer=Rate(0.1, 6), network=Rate(0.5, 24), all=Rate(10, 128)),
    message_bytes=37,
    delimited=True,
    messages=3,
    idle_s=10.0,
)

STOP: Final = Bounds(
    label="circuit",
    # Circuits that a relay brings: it is one that this node chose. Each is a connection of a stranger's, and
    # counts with the others once it is secured; until then it holds a place among the handshakes.
    most=Most(all=512, peer=256, network=256),
    # As many as a relay of ours lets be asked for (HOP): who is at the other end the message says.
    opens=Rates(peer=Rate(100, 1024), network=Rate(120, 1024), all=Rate(200, 2048)),
    pays=False,  # the relay brings what others ask it for
    message_bytes=4096,
    delimited=True,
    messages=1,
    idle_s=15.0,
)

BROUGHT: Final = Rates(peer=Rate(2, 16), network=Rate(10, 64), all=Rate(40, 256))
"""Circuits a second, by who is at their other end, by the relay that brings them, and in all: a handshake
each. The owner's peers are bound by the first alone, or any stranger could keep them from coming."""

DCUTR: Final = Bounds(
    label="dcutr",
    # A peer that this node has dialed over a relay asks it to dial at the same time: three times in a row, on
    # one stream or several, then again after a minute.
    most=Most(all=32, peer=2, network=16),
    opens=Rates(peer=Rate(0.2, 8), network=Rate(1, 32), all=Rate(4, 64)),
    message_bytes=4096,
    delimited=True,
    messages=8,
    idle_s=15.0,
)

PUNCHES: Final = Rates(peer=Rate(6 / 60, 6), network=Rate(12 / 60, 12), all=Rate(60 / 60, 60))
"""Tries of a hole punch with strangers; the networks are those of all addresses that are dialed. Each is four
addresses at most, dialed for five seconds: three SYNs each."""

MAX_PUNCHED: Final = 64
"""Peers with which a direct connection is being tried, or will be again; the owner's own come on top. With
more, who has rested longest after its tries gives way."""

PROBE: Final = Bounds(
    label="probe",
    # One probe per forward when a peer comes back: somebody may have dozens of forwards.
    most=Most(all=512, peer=64, network=128),
    opens=Rates(peer=Rate(10, 100), network=Rate(20, 200), all=Rate(100, 1000)),
    idle_s=5.0,
    reads=False,
)

UNUSED_TUNNELS: Final = Rates(peer=Rate(20, 2048), network=Rate(40, 4096))
"""Tunnels reset by the peer before a byte came either way, or whose target did not answer: each costs a
connection to a local service. A browser that is closed leaves hundreds, a port scan thousands. Not bounded
in all: nobody may be kept out by what strangers elsewhere do. Tunnels that are used have no rate."""

ACCESS_REQUESTS: Final = Most(all=128, peer=4, network=8)
"""Denied requests that the owner is shown: as many as a person looks through."""

NEW_ACCESS_REQUESTS: Final = Rates(peer=Rate(0.1, 4), network=Rate(0.2, 8), all=Rate(2, 128))
"""New ones a second; who asks again for the same name is known already."""

STRANGERS_EVENTS: Final = Rates(
    # Of what one stranger causes in ten minutes, one kind and listen is one event. All together fill their
    # part of the history in a day and a half at the earliest, and never the owner's.
    peer=Rate(1 / 600, 6),
    network=Rate(1 / 300, 12),
    all=Rate(1 / 60, 60),
)
"""New events a second in the history; those beyond are counted in one event for all."""


def tunnels(streams: int, per_peer: int) -> Bounds:
    """Of all listens together, where the node has `streams` tunnels at most; those in all are counted by
    `forwarding.streams`, which keeps the last eighth for the owner's forwards."""
    network = max(per_peer, streams * 5 // 8)
    return Bounds(label="tunnel", most=Most(all=NO_BOUND, peer=per_peer, network=network))


UNBOUNDED: Final = Bounds(label="service", most=Most(all=NO_BOUND, peer=NO_BOUND, network=NO_BOUND))
"""Of a service that names none: a test's."""

TABLE: Final = (
    *(IDENTIFY, PUSH, PING, DHT, AUTONAT, AUTONAT2, DIAL_BACK, STOP, HOP, RELAY_TOKEN, INVITE, DCUTR, PROBE),
    tunnels(8192, 4096),
)
"""Every service there is, with the default settings."""

OTHER_CAUSES: Final = (
    "autonat-dials",
    "dcutr-dials",
    "invite-refused",
    "relay-circuits",
    "relay-gave-way",
    "relay-limit",
    "relay-reservations",
    "relay-stranger",
    "relay-token-refused",
    "tunnel-denied",
    "tunnel-dials",
    "tunnel-limit",
    "tunnel-unused",
    "offender",
)


def causes() -> set[str]:
    """The names under which refusals of services are counted."""
    found = set(OTHER_CAUSES)
    for bounds in TABLE:
        what = {
            "streams": True,
            "opens": bounds.opens is not None,
            "requests": bounds.requests is not None,
            "message": bounds.delimited,
        }
        found.update(f"{bounds.label}-{one}" for one, is_bound in what.items() if is_bound)
    return found
