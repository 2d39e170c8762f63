"""daemon.feed: each fact of the parts is one event, and what is no news is none. The parts are stand-ins."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.terms import PLAIN_FORWARD, PLAIN_LISTEN
from p2pfwd.daemon.feed import OVER, PROBLEM_OF_STATE, Feed
from p2pfwd.errors import PeerBlocked, TimedOut
from p2pfwd.forwarding.values import PEER_UNREACHABLE, READY, UNKNOWN, ForwardingEvent, ListenerInfo
from p2pfwd.host.port_mapping import MappedPort
from p2pfwd.net.own_addresses import Change
from p2pfwd.policy.paths import PathCode
from p2pfwd.policy.port_mapping import Protocol
from p2pfwd.policy.shares import Party
from p2pfwd.policy.standing import Standing
from tests.support.peers import peer

LAPTOP, STRANGER = peer(1), peer(2)
ADDRESS = Multiaddr.parse("/ip4/192.0.2.1/tcp/4001")


class Callbacks:
    """Takes callbacks by any name (`on_connected`, …), and calls them."""

    def __init__(self, **more: Any) -> None:
        self.__dict__.update(more)
        self.called: dict[str, list[Callable[..., None]]] = {}

    def __getattr__(self, name: str) -> Callable[[Callable[..., None]], None]:
        if not (name.startswith("on_") or name == "watch_streams"):
            raise AttributeError(name)
        return lambda callback: self.called.setdefault(name, []).append(callback)

    def tell(self, name: str, *args: Any) -> None:
        for callback in self.called[name]:
            callback(*args)


class Parts:
    """A feed, and the parts it follows."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.live: dict[PeerId, list[Any]] = {}
        self.names: list[Any] = []
        self.bound = (ADDRESS,)
        self.standing = Standing.UNKNOWN
        self.code = PathCode.DIRECT
        self.places: list[Any] = []
        self.refusing: dict[PeerId, str] = {}
        self.swarm = Callbacks(
            conns=lambda who: self.live.get(who, []),
            paths=Callbacks(code=lambda conn: self.code),
            own_addresses=Callbacks(bound=lambda: self.bound),
            refusals=SimpleNamespace(),
            peerstore=SimpleNamespace(is_chosen=lambda who: who == LAPTOP),
            services=SimpleNamespace(party=lambda conn: Party(conn.remote_peer)),
        )
        host: Any = SimpleNamespace(swarm=self.swarm, keeper=SimpleNamespace(status=lambda who: None))
        history: Any = SimpleNamespace(record=self.record, folding=SimpleNamespace(spends=lambda *_: True))
        self.discovery: Any = SimpleNamespace(standing=lambda: self.standing, autonat=Callbacks())
        self.forwarding: Any = Callbacks(access=SimpleNamespace())
        self.peering: Any = Callbacks(names=SimpleNamespace(all=lambda: self.names))
        self.relays: Any = SimpleNamespace(
            is_named=lambda who: who == LAPTOP,
            client=Callbacks(places=lambda: self.places, refusals=lambda: dict(self.refusing)),
        )
        self.access: Any = SimpleNamespace()
        self.tunnels: Any = SimpleNamespace()
        self.applying: Any = SimpleNamespace()
        self.reloading: Any = SimpleNamespace()
        self.inviting: Any = SimpleNamespace()
        self.mapped: tuple[Any, ...] = ()
        self.mapping: Any = SimpleNamespace(statuses=lambda: self.mapped)
        self.feed = Feed(history, host, self.forwarding, self.discovery)
        self.feed.start(self)

    def record(self, code: str, **fields: Any) -> None:
        self.events.append((code, fields))

    def told(self) -> list[str]:
        """The codes since the last look."""
        codes = [code for code, _ in self.events]
        self.events.clear()
        return codes

    def link(self, who: PeerId, cause: Exception | None = None, **more: bool) -> Any:
        closed = SimpleNamespace(result=lambda: cause)
        ends = {"ended_by_us": False, "ended_by_peer": False, **more}
        return SimpleNamespace(remote_peer=who, remote_addr=ADDRESS, closed=closed, is_relayed=False, **ends)

    def connect(self, conn: Any) -> None:
        self.live.setdefault(conn.remote_peer, []).append(conn)
        self.swarm.tell("on_connected", conn)

    def disconnect(self, conn: Any) -> None:
        self.live[conn.remote_peer].remove(conn)
        self.swarm.tell("on_disconnected", conn)

    def tunnel(
        self, state: str, change: Any = "changed", direction: Any = "forward", number: int = 1
    ) -> None:
        event = ForwardingEvent(change, listener=self.info(state, direction, number))
        self.forwarding.tell("on_listener_event", event)

    def info(self, state: str, direction: Any = "forward", number: int = 1) -> ListenerInfo:
        to_peer = Multiaddr.parse(f"/p2p/{LAPTOP}")
        return ListenerInfo(
            id=number,
            direction=direction,
            protocol="/x/a",
            listen_address=ADDRESS if direction == "forward" else to_peer,
            target_address=to_peer if direction == "forward" else ADDRESS,
            state=state,
            reason=None if state in (READY, UNKNOWN) else "why",
            hint=None,
            state_since=0.0,
            streams=0,
            bytes_in=0,
            bytes_out=0,
            foreground=False,
            saved=True,
            created=0.0,
            terms=PLAIN_LISTEN if direction == "listen" else PLAIN_FORWARD,
        )


@pytest.fixture
def parts() -> Iterator[Parts]:
    async def made() -> Parts:
        return Parts()

    with asyncio.Runner() as runner:
        found = runner.run(made())
        assert found.told() == ["daemon-started"]
        yield found


@pytest.mark.parametrize(
    ("states", "codes"),
    [
        ((UNKNOWN, READY), []),
        ((READY, UNKNOWN, READY), []),
        (("address-in-use", UNKNOWN, READY), ["tunnel-port-taken", "tunnel-port-bound"]),
        (("address-in-use", "bind-failed", READY), ["tunnel-port-taken", "tunnel-port-bound"]),
        ((PEER_UNREACHABLE, PEER_UNREACHABLE, UNKNOWN), ["tunnel-peer-away", "tunnel-peer-back"]),
        (("target-refused", UNKNOWN, READY, READY), ["tunnel-target-down", "tunnel-target-up"]),
        (("target-refused", "target-timeout", UNKNOWN, "target-refused"), ["tunnel-target-down"]),
        (
            ("stream-reset", "target-refused", READY),
            ["tunnel-failing", "tunnel-target-down", "tunnel-target-up"],
        ),
        (("protocol-not-supported", READY), ["tunnel-failing", "tunnel-works"]),
        (("not-allowed", UNKNOWN, READY), ["tunnel-not-allowed", "tunnel-allowed"]),
    ],
)
def test_the_states_of_a_tunnel(parts: Parts, states: tuple[str, ...], codes: list[str]) -> None:
    for state in states:
        parts.tunnel(state)
        parts.tunnel(READY, number=2)
    assert parts.told() == codes
    assert set(PROBLEM_OF_STATE.values()) | {"tunnel-failing"} == set(OVER)


def test_a_tunnel_is_told_with_what_ls_shows_of_it(parts: Parts) -> None:
    parts.tunnel("target-refused", direction="listen")
    parts.tunnel(PEER_UNREACHABLE, number=2)
    assert [fields for _, fields in parts.events] == [
        {"peer": None, "protocol": "/x/a", "direction": "listen", "address": str(ADDRESS), "reason": "why"},
        {
            "peer": str(LAPTOP),
            "protocol": "/x/a",
            "direction": "forward",
            "address": str(ADDRESS),
            "reason": "why",
        },
    ]


def test_what_a_start_makes_again_and_a_stop_closes_is_no_news(parts: Parts) -> None:
    parts.tunnel(UNKNOWN, "added")
    parts.names = [SimpleNamespace(peer_id=LAPTOP, name="laptop")]
    parts.peering.tell("on_names_changed")
    parts.feed.tunnels_are_made(parts.peering)
    assert parts.told() == []
    parts.tunnel(UNKNOWN, "added", number=2)
    parts.tunnel(UNKNOWN, "removed", number=2)
    assert parts.told() == ["tunnel-made", "tunnel-closed"]
    parts.feed.stopping()
    parts.tunnel(UNKNOWN, "removed")
    parts.feed.stop()
    parts.connect(parts.link(LAPTOP))
    parts.feed.stop()
    assert parts.told() == ["daemon-stopped"]


def test_the_names_that_come_and_go(parts: Parts) -> None:
    parts.feed.tunnels_are_made(parts.peering)
    for names in (["laptop"], ["laptop"], ["notebook"], []):
        parts.names = [SimpleNamespace(peer_id=LAPTOP, name=name) for name in names]
        parts.peering.tell("on_names_changed")
    assert parts.told() == ["peer-named", "peer-unnamed", "peer-named", "peer-unnamed"]


@pytest.mark.parametrize(
    ("cause", "more", "code", "reason"),
    [
        (TimedOut("no sign of life for 15 s"), {}, "peer-lost", "no sign of life for 15 s"),
        (ConnectionResetError("the peer closed"), {}, "peer-lost", "the peer closed"),
        (ConnectionResetError("the peer closed"), {"ended_by_peer": True}, "peer-down", "by the peer"),
        (None, {"ended_by_us": True}, "peer-down", "by this node"),
        (PeerBlocked("it was blocked"), {}, "peer-down", "by this node"),
    ],
)
def test_how_a_peer_goes(
    parts: Parts, cause: Exception | None, more: dict[str, bool], code: str, reason: str
) -> None:
    first, second = parts.link(LAPTOP, cause, **more), parts.link(LAPTOP, cause, **more)
    parts.connect(first)
    parts.connect(second)
    parts.disconnect(first)
    assert parts.told() == ["peer-up"], "one of two is no news"
    parts.disconnect(second)
    assert parts.events == [(code, {"peer": str(LAPTOP), "stranger": False, "reason": reason})]


def test_a_stranger_is_counted_and_told_only_where_he_used_a_listen(parts: Parts) -> None:
    conn = parts.link(STRANGER, TimedOut("silent"))
    parts.connect(conn)
    parts.disconnect(conn)
    assert parts.told() == ["strangers-up"]
    parts.connect(conn)
    listener = SimpleNamespace(protocol="/x/a", direction="listen")
    stream = SimpleNamespace(remote_peer=STRANGER, conn=conn)
    entry: Any = SimpleNamespace(
        id=1, stream=stream, listener=listener, party=Party(STRANGER), splice=None, opened_at=0.0
    )
    parts.feed.opened(entry)
    parts.feed.ended(entry)
    parts.disconnect(conn)
    assert all(fields["stranger"] for _, fields in parts.events)
    assert parts.told() == ["strangers-up", "stream-opened", "stream-broken", "peer-lost"]


def test_a_way_is_news_when_it_is_another_and_found_out_of(parts: Parts) -> None:
    conn = parts.link(LAPTOP)
    parts.code = PathCode.RELAYED
    parts.connect(conn)
    for code in (PathCode.RELAYED, PathCode.PUNCHING, PathCode.PUNCHED, PathCode.PUNCHED, PathCode.FAILED):
        parts.swarm.paths.tell("on_change", LAPTOP, code)
    parts.swarm.paths.tell("on_change", STRANGER, PathCode.PUNCHED)
    told = [(it["path"], it["path_code"]) for code, it in parts.events if code in ("peer-up", "peer-path")]
    codes = (PathCode.RELAYED, PathCode.PUNCHED, PathCode.FAILED)
    assert told == [(code.words, code.value) for code in codes]


def test_a_silent_peer_is_told_once_and_that_it_answers(parts: Parts) -> None:
    parts.live[LAPTOP] = [parts.link(LAPTOP)]
    for error in (TimedOut("silent"), TimedOut("still"), None, None, TimedOut("again")):
        parts.swarm.tell("on_silent", LAPTOP, error)
        parts.swarm.tell("on_silent", STRANGER, error)
    assert parts.told() == ["peer-silent", "peer-answers", "peer-silent"]


def test_a_peer_that_is_lost_is_not_told_to_be_silent(parts: Parts) -> None:
    conn = parts.link(LAPTOP, ConnectionResetError())
    parts.connect(conn)
    parts.disconnect(conn)
    parts.swarm.tell("on_silent", LAPTOP, TimedOut("the connection was lost, and a new one fails"))
    assert parts.told() == ["peer-up", "peer-lost"]


def test_relays(parts: Parts) -> None:
    relays = parts.relays.client
    for places, refusing in (
        ([LAPTOP], {}),
        ([LAPTOP, STRANGER], {}),
        ([], {LAPTOP: "full", STRANGER: "full"}),
    ):
        parts.places = [SimpleNamespace(relay=who) for who in places]
        parts.refusing = refusing
        relays.tell("on_change")
    relays.tell("on_change")
    found = [(code, fields["peer"]) for code, fields in parts.events]
    assert found[:2] == [("relay-got", str(LAPTOP)), ("relay-got", str(STRANGER))]
    assert sorted(found[2:]) == [
        ("relay-lost", str(LAPTOP)),
        ("relay-lost", str(STRANGER)),
        ("relay-refused", str(LAPTOP)),
    ]
    of_strangers = [
        bool(fields.get("stranger")) for _, fields in parts.events if fields["peer"] == str(STRANGER)
    ]
    assert of_strangers == [True, True], "they may be many, and come and go"


def test_how_others_get_here_and_where_this_node_is(parts: Parts) -> None:
    parts.discovery.autonat.tell("on_change")
    parts.standing = Standing.PUBLIC
    parts.discovery.autonat.tell("on_change")
    assert parts.events == [("reachability", {"standing": "public", "before": "unknown"})]
    parts.events.clear()
    own = parts.swarm.own_addresses
    own.tell("on_changed", Change.STIRRED)
    parts.bound = ()
    own.tell("on_changed", Change.MOVED | Change.TOLD)
    assert parts.events == [("network-changed", {"addresses": "no address"})]


def test_ports_that_the_router_leads_here(parts: Parts) -> None:
    parts.mapped = (MappedPort(4011, "mapped", None, Protocol.PCP, "10.0.0.1", ADDRESS),)
    parts.mapping.on_changed()
    parts.mapping.on_changed()
    assert parts.events == [("mapping-got", {"port": 4011, "address": str(ADDRESS), "way": "PCP"})]
    parts.feed.stop()
    parts.mapped = ()
    parts.mapping.on_changed()
    assert parts.told() == ["mapping-got", "daemon-stopped"]


def test_access_and_refusals(parts: Parts) -> None:
    parts.feed.tunnels_are_made(parts.peering)
    party = Party(STRANGER)
    parts.forwarding.access.on_denied(party, "/x/a", True)
    parts.forwarding.access.on_denied(party, "/x/a", False)
    parts.access.on_changed("/x/a", "any peer")
    parts.access.on_changed(None, "192.0.2.0/24 blocked")
    parts.swarm.refusals.on_noted("dht-opens", 7)
    parts.swarm.refusals.on_noted("dht-opens", 2)
    parts.swarm.refusals.on_noted("tunnel-denied", 1)
    parts.swarm.refusals.on_noted("invite-refused", 1)
    parts.feed._flush_sums()
    assert parts.events[-1] == ("refused", {"stranger": True, "times": 9, "cause": "dht-opens"})
    assert all(fields["stranger"] is party for _, fields in parts.events[:2])
    assert parts.told() == [
        "access-requested",
        "access-denied",
        "access-changed",
        "blocks-changed",
        "refused",
    ]


def test_rules_that_a_start_puts_in_force_are_no_news(parts: Parts) -> None:
    parts.access.on_changed("/x/a", "any peer")
    parts.access.on_changed(None, "192.0.2.0/24 blocked")
    assert parts.told() == []


def test_invites(parts: Parts) -> None:
    parts.told()
    invite = SimpleNamespace(id="slt4r7de", protocol="/x/a", uses=3)
    for what, whom in (("made", None), ("taken", LAPTOP), ("revoked", None)):
        parts.inviting.on_changed(invite, what, whom)
    party = Party(STRANGER)
    parts.inviting.on_refused(party, "used up")
    codes = [code.removeprefix("invite-") for code, _ in parts.events]
    assert codes == ["made", "taken", "revoked", "refused"]
    assert parts.events[1][1]["peer"] == str(LAPTOP)
    assert parts.events[3][1] == {"peer": str(STRANGER), "stranger": party, "cause": "used up"}


def test_what_ends_by_itself_is_told_once(parts: Parts) -> None:
    parts.feed.tunnels_are_made(parts.peering)
    parts.told()
    parts.tunnel(READY, "added")
    over = replace(parts.info(READY), ends_at=1.0)
    parts.forwarding.tell("on_listener_event", ForwardingEvent("removed", listener=over))
    parts.tunnels.on_ended(over)
    assert parts.told() == ["tunnel-made", "tunnel-ended"]


def test_changed_limits_and_what_is_read_again(parts: Parts) -> None:
    parts.told()
    parts.tunnels.on_limited(parts.info(READY), {"rate": 1_500_000, "idle_timeout_s": 0, "max_streams": 8})
    parts.tunnels.on_limited(parts.info(READY), {"rate_per_peer": 2000, "idle_timeout_s": 1_209_600})
    parts.tunnels.on_limited(parts.info(READY), {})
    parts.applying.on_changed("a.toml was applied", ["listen /x/a added", "rule /x/a added"])
    parts.applying.on_changed("a.toml was applied", [])
    parts.reloading.on_refused("it is no TOML")
    assert [(code, fields.get("change", fields.get("reason"))) for code, fields in parts.events] == [
        ("tunnel-limits", "rate 1.5MB/s, idle-timeout none, max-streams 8"),
        ("tunnel-limits", "rate-per-peer 2kB/s, idle-timeout 14 d"),
        ("config-changed", "listen /x/a added, rule /x/a added"),
        ("config-refused", "it is no TOML"),
    ]


def test_streams_that_are_summed_are_recorded_before_the_stop(parts: Parts) -> None:
    conn = parts.link(LAPTOP)
    listener = SimpleNamespace(protocol="/x/a", direction="forward")
    stream = SimpleNamespace(remote_peer=LAPTOP, conn=conn)
    splice = SimpleNamespace(error=None, bytes_in=5, bytes_out=7)
    for number in range(100):
        entry: Any = SimpleNamespace(
            id=number, stream=stream, listener=listener, party=None, splice=splice, opened_at=0.0
        )
        parts.feed.opened(entry)
        parts.feed.ended(entry)
    parts.feed.stop()
    (summed,) = [fields for code, fields in parts.events if code == "streams-summed"]
    codes = parts.told()
    assert codes.count("stream-ended") + summed["times"] == 100 and codes[-2:] == [
        "streams-summed",
        "daemon-stopped",
    ]
    assert (summed["bytes_in"], summed["bytes_out"]) == (5 * summed["times"], 7 * summed["times"])
