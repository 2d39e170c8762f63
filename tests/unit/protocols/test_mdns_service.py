"""The mDNS service on a segment in memory and a clock that jumps: finding, and what it costs everybody."""

from __future__ import annotations

import asyncio
import errno
import logging
from itertools import pairwise

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.policy.provenance import Provenance
from p2pfwd.protocols.mdns import LOG_RATE
from p2pfwd.system.interfaces import Interface
from p2pfwd.wire import dns_message, mdns
from p2pfwd.wire.dns_message import PTR, Message, Question
from p2pfwd.wire.mdns_near import MAX_HEARD
from p2pfwd.wire.mdns_pace import ASK_REST_S
from tests.support.virtual_time import in_virtual_time
from tests.unit.protocols.mdns_ether import Ether, Node, Sent

SECONDS_PER_HOUR = 3600


def nodes(ether: Ether, count: int) -> list[Node]:
    """Started, numbered from 1."""
    made = [Node(ether, number) for number in range(1, count + 1)]
    for node in made:
        node.mdns.start()
    return made


def close(*made: Node) -> None:
    for node in made:
        node.mdns.close()


def gaps(sent: list[Sent]) -> list[float]:
    return [later.at - earlier.at for earlier, later in pairwise(sent)]


# --- finding


@in_virtual_time
async def test_two_find_each_other_at_once() -> None:
    """Within a quarter of a second; both are told, and the peerstore has it with its source and time."""
    ether = Ether()
    a, b = nodes(ether, 2)
    found: list[PeerId] = []
    a.mdns.on_found(found.append)
    await asyncio.sleep(0.25)
    assert found == [b.peer_id]
    assert a.mdns.peers() == {b.peer_id: (b.addr,)} and b.mdns.peers() == {a.peer_id: (a.addr,)}
    (known,) = a.swarm.peerstore.known(b.peer_id)
    assert (known.addr, known.provenance) == (b.addr, Provenance.HEARSAY) and 300 < known.ttl_s <= 360
    close(a, b)


@in_virtual_time
async def test_who_comes_later_is_found_at_once_too() -> None:
    """He says so himself: nobody waits for the next question."""
    ether = Ether()
    (a,) = nodes(ether, 1)
    await asyncio.sleep(500)
    late = Node(ether, 2)
    late.mdns.start()
    await asyncio.sleep(0.25)
    assert set(a.mdns.peers()) == {late.peer_id} and set(late.mdns.peers()) == {a.peer_id}
    close(a, late)


@in_virtual_time
async def test_who_stays_is_known_and_who_leaves_is_not() -> None:
    """For an hour; one takes leave and is forgotten at once, another dies and is forgotten in 6 minutes."""
    ether = Ether()
    a, b, c = nodes(ether, 3)
    for _ in range(60):
        await asyncio.sleep(60)
        assert set(a.mdns.peers()) == {b.peer_id, c.peer_id}
    close(b)
    await asyncio.sleep(0.1)
    assert set(a.mdns.peers()) == {c.peer_id}
    ether.members = [member for member in ether.members if member.host != c.host]
    await asyncio.sleep(361)
    assert a.mdns.peers() == {}
    ether.members.extend(link.group for link in c.mdns._links.values())  # type: ignore[misc]
    close(a, c)


@in_virtual_time
async def test_the_peerstore_is_renewed_now_and_then() -> None:
    """Its changes go to the disk: not with every answer, and always before the address is stale."""
    ether = Ether()
    a, b = nodes(ether, 2)
    changes: list[PeerId] = []
    a.swarm.peerstore.on_change(changes.append)
    await asyncio.sleep(0.25)
    for _ in range(SECONDS_PER_HOUR // 10):
        await asyncio.sleep(10)
        assert a.swarm.peerstore.addrs(b.peer_id) == [b.addr]
    assert len(ether.answers(b.host)) > 30 and 8 <= len(changes) <= 31
    close(a, b)


@in_virtual_time
async def test_a_follower_hears_news_only() -> None:
    """Not the same again with every answer; a new address is news; who stopped following hears nothing."""
    ether = Ether()
    a, b = nodes(ether, 2)
    found: list[PeerId] = []
    unfollow = a.mdns.on_found(found.append)
    await asyncio.sleep(1000)
    assert found == [b.peer_id]
    b.swarm.listen[0] = Multiaddr.parse(f"/ip4/{b.host}/tcp/9999")
    await asyncio.sleep(100)
    assert found == [b.peer_id] * 2
    unfollow()
    b.swarm.listen[0] = Multiaddr.parse(f"/ip4/{b.host}/tcp/9998")
    await asyncio.sleep(100)
    assert found == [b.peer_id] * 2
    close(a, b)


@in_virtual_time
async def test_two_nodes_of_one_machine_find_each_other() -> None:
    """The same IP address and port 5353 twice: a question is known by its number, not by where it is from."""
    ether = Ether()
    pair = [Node(ether, number, host="10.0.0.1") for number in (1, 2)]
    for node in pair:
        node.mdns.start()
    await asyncio.sleep(0.25)
    assert [set(node.mdns.peers()) for node in pair] == [{pair[1].peer_id}, {pair[0].peer_id}]
    close(*pair)


@in_virtual_time
async def test_on_request_the_question_is_asked_at_once() -> None:
    ether = Ether()
    (a,) = nodes(ether, 1)
    await asyncio.sleep(1000)
    loop = asyncio.get_running_loop()
    if loop.time() - ether.questions()[-1].at <= ASK_REST_S:  # its own question of a moment ago
        await asyncio.sleep(ASK_REST_S)
    before = len(ether.questions())
    a.mdns.ask()
    await asyncio.sleep(0.01)
    assert len(ether.questions()) == before + 1
    for _ in range(100):  # whoever wants to know, and how often: one question a second
        a.mdns.ask()
        await asyncio.sleep(0.1)
    assert len(ether.questions()) <= before + 12
    close(a)


# --- where


@in_virtual_time
async def test_only_networks_this_node_listens_in_are_used() -> None:
    """Loopback alone: nothing is said to anybody. An address that comes later is used from then on."""
    ether = Ether()
    a = Node(ether, 1)
    here, loopback = a.swarm.listen
    a.swarm.listen = [loopback]
    a.mdns.start()
    await asyncio.sleep(1000)
    assert not ether.sent and not a.mdns.joined.is_set()
    a.swarm.listen = [loopback, here]
    a.mdns.ask()
    await asyncio.sleep(1)
    assert ether.questions() and ether.answers() and a.mdns.joined.is_set()
    close(a)
    assert not a.mdns.joined.is_set()


@in_virtual_time
async def test_each_network_is_told_its_own_address() -> None:
    """With two networks neither learns of the other's addresses."""
    ether = Ether()
    a = Node(ether, 1)
    a.swarm.listen.append(Multiaddr.parse("/ip4/192.168.7.1/tcp/4001"))
    a.interfaces.append(Interface("wlan0", 3, frozenset({"192.168.7.1"})))
    a.mdns.start()
    await asyncio.sleep(1)
    for sent in ether.answers():
        (peer,) = mdns.hear(sent.data, from_here=False).peers
        assert [str(addr).split("/")[2] for addr in peer.addrs] == [sent.host]
    assert {sent.host for sent in ether.answers()} == {"10.0.0.1", "192.168.7.1"}
    close(a)


@in_virtual_time
async def test_networks_come_and_go() -> None:
    """A vanished interface is left, one that comes back is joined anew; both IP versions are spoken."""
    ether = Ether()
    a = Node(ether, 1)
    a.interfaces = [Interface("eth0", 2, frozenset({a.host, "fe80::1"}))]
    a.mdns.start()
    assert sorted(member.host for member in ether.members) == [a.host, "fe80::1"]
    kept, a.interfaces = a.interfaces, []
    a.mdns.ask()
    await asyncio.sleep(1)
    assert not ether.members and not a.mdns.joined.is_set()
    a.interfaces = kept
    a.mdns.ask()
    await asyncio.sleep(2)
    assert len(ether.members) == 2
    close(a)
    assert not ether.members


@in_virtual_time
async def test_a_network_that_cannot_be_joined_is_told_once_and_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Somebody else has the port for himself: one warning, and it works as soon as it can."""
    ether = Ether()
    ether.refuse = OSError(errno.EADDRINUSE, "Address already in use")
    (a,) = nodes(ether, 1)
    await asyncio.sleep(1000)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["mDNS: not on eth0, IPv4: Address already in use"]
    ether.refuse = None
    await asyncio.sleep(100)
    assert a.mdns.joined.is_set() and ether.answers()
    close(a)


# --- what it costs


@in_virtual_time
async def test_a_node_alone_is_quiet() -> None:
    """In an hour it asks about once a minute, and never answers itself."""
    ether = Ether()
    (a,) = nodes(ether, 1)
    await asyncio.sleep(SECONDS_PER_HOUR)
    assert 45 <= len(ether.questions()) <= 70
    assert len(ether.answers()) == 1, "the announcement"
    close(a)
    assert len(ether.answers()) == 2, "the goodbye"


@in_virtual_time
async def test_many_nodes_share_their_questions() -> None:
    """24 nodes for 10 minutes: all know all all the time, and each sends less than two datagrams a minute."""
    ether = Ether()
    crowd = nodes(ether, 24)
    await asyncio.sleep(60)
    settled = len(ether.sent)
    for _ in range(10):
        await asyncio.sleep(60)
        assert all(len(node.mdns.peers()) == 23 for node in crowd)
    assert len(ether.sent) - settled < 24 * 10 * 2
    close(*crowd)


@in_virtual_time
async def test_a_flood_of_questions_brings_one_answer_a_second_of_each() -> None:
    """Two nodes, three thousand questions in 10 s from as many addresses: at most 12 answers from either."""
    ether = Ether()
    pair = nodes(ether, 2)
    await asyncio.sleep(5)
    before = [len(ether.answers(node.host)) for node in pair]
    for number in range(3000):
        ether.send(f"10.9.{number // 250}.{number % 250}", mdns.query(number % 65535 + 1))
        await asyncio.sleep(1 / 300)
    await asyncio.sleep(5)
    for node, count in zip(pair, before, strict=True):
        answers = ether.answers(node.host)
        assert 9 <= len(answers) - count <= 12
        assert min(gaps(answers)) >= 1.0
    close(*pair)


@in_virtual_time
async def test_one_flooding_asker_runs_out_of_answers() -> None:
    """A minute of questions from one address: his budget, and no more; the others are answered as ever."""
    ether = Ether()
    (a,) = nodes(ether, 1)
    await asyncio.sleep(5)
    before = len(ether.answers())
    for _ in range(1200):
        ether.send("10.9.9.9", mdns.query(7))
        await asyncio.sleep(0.05)
    assert len(ether.answers()) - before <= 10 + 60 * 0.2 + 1
    other = len(ether.answers())
    ether.send("10.9.9.8", mdns.query(8))
    await asyncio.sleep(1.2)
    assert len(ether.answers()) == other + 1
    close(a)


@in_virtual_time
async def test_answers_bring_no_answers() -> None:
    """However many answers come in, ours too: nothing is sent for them."""
    ether = Ether()
    (a,) = nodes(ether, 1)
    await asyncio.sleep(5)
    before = len(ether.sent)
    peer = Node(Ether(), 9)
    for _ in range(1000):
        ether.send("10.0.0.9", mdns.answer(b"b" * 32, peer.peer_id, [peer.addr]))
        ether.send(a.host, mdns.answer(b"a" * 32, a.peer_id, [a.addr]))
    await asyncio.sleep(0.5)
    assert len(ether.sent) == before + 2000
    assert set(a.mdns.peers()) == {peer.peer_id}, "and never itself"
    close(a)


@in_virtual_time
async def test_a_crowd_of_invented_peers_is_bounded_and_hides_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Thousands of announced peers fill neither the table nor the log, and one that comes later is found."""
    caplog.set_level(logging.INFO)
    ether = Ether()
    a, early = nodes(ether, 2)
    await asyncio.sleep(1)
    for number in range(2000):
        invented = Node(Ether(), number + 10)
        ether.send("10.0.0.9", mdns.answer(b"b" * 32, invented.peer_id, [invented.addr]))
    await asyncio.sleep(1)
    assert len(a.mdns.peers()) == MAX_HEARD
    assert early.peer_id in a.mdns.peers()
    late = Node(ether, 200)
    late.mdns.start()
    await asyncio.sleep(1)
    assert late.peer_id in a.mdns.peers() and late.peer_id in a.swarm.peerstore.peers()
    assert len([line for line in caplog.messages if line.startswith("near: ")]) < 3 * LOG_RATE.burst
    assert a.swarm.refusals.counts["mdns-table-full"] == 2000 - MAX_HEARD + 1 + 1
    close(a, early, late)


@in_virtual_time
async def test_what_is_broken_is_ignored() -> None:
    ether = Ether()
    (a,) = nodes(ether, 1)
    await asyncio.sleep(5)
    for member in tuple(ether.members):
        for data in (b"", b"_p2p", mdns.query(1)[:-1], b"\xff" * 9000 + b"_p2p"):
            member.heard(data, "10.0.0.9")
    assert a.mdns.peers() == {}
    close(a)


@in_virtual_time
async def test_the_directory_of_services_has_ours() -> None:
    """Asked by somebody who lists what is in the network."""
    ether = Ether()
    (a,) = nodes(ether, 1)
    await asyncio.sleep(5)
    before = len(ether.answers())
    question = Question(mdns.DIRECTORY, PTR)
    ether.send("10.0.0.9", dns_message.encode(Message(0, False, questions=(question,))))
    await asyncio.sleep(1)
    assert [sent.data for sent in ether.answers()[before:]] == [mdns.directory_answer()]
    close(a)


@in_virtual_time
async def test_closing_ends_everything() -> None:
    """Twice is as good as once; no timer is left that would send."""
    ether = Ether()
    a, b = nodes(ether, 2)
    await asyncio.sleep(0.01)
    close(a, b, a)
    count = len(ether.sent)
    await asyncio.sleep(1000)
    assert len(ether.sent) == count and not ether.members
    a.mdns.ask()
    await asyncio.sleep(10)
    assert len(ether.sent) == count
