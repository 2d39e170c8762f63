"""p2p.limit, the limits and ends of listens, forwards and rights: by the RPC, saved and live."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from p2pfwd.errors import ListenerExists, NotFound, StorageFailed, UsageError
from p2pfwd.rpc import schema as s
from p2pfwd.rpc.client import Client
from p2pfwd.state.tunnel_file import TunnelFile
from tests.rpc.test_access_methods import NAME, Node, forward, is_reset, listen, run, state, tunnel
from tests.rpc.test_saved_tunnels import PEER, Lives, lives, ls  # noqa: F401 - a fixture
from tests.support.loops import until
from tests.support.sockets import TcpServer

LIMITED = s.ListenParams("/x/web", "9", max_streams=5, rate=1_000_000, idle_timeout_s=60)
HELD = s.Limits(5, 0, 1_000_000, 0, 60)


def limit(client: Client, **changes: int | None) -> s.LimitResult:
    result: s.LimitResult = client.call("p2p.limit", s.LimitParams("/x/web", **changes))
    return result


def test_limits_are_saved_and_change_in_place(lives: Lives) -> None:  # noqa: F811
    def first(client: Client) -> None:
        made = client.call("p2p.listen", LIMITED).listener
        assert made.limits == HELD
        assert limit(client).listener.limits == HELD, "shown, and nothing changed"
        changed = limit(client, max_streams=0, max_streams_per_peer=2, rate_per_peer=500)
        assert changed.listener.limits == s.Limits(0, 2, 1_000_000, 500, 60)
        assert (changed.listener.id, changed.busiest_peer_streams) == (made.id, 0)

    def second(client: Client) -> None:
        (found,) = ls(client)
        assert found.limits == s.Limits(0, 2, 1_000_000, 500, 60)

    lives(first)
    lives(second)


def test_the_same_listen_with_other_limits_names_the_command(lives: Lives) -> None:  # noqa: F811
    def work(client: Client) -> None:
        client.call("p2p.listen", LIMITED)
        assert client.call("p2p.listen", s.ListenParams("/x/web", "9")).stood, "what is not said stays"
        assert client.call("p2p.listen", LIMITED).stood
        with pytest.raises(ListenerExists, match="its max-streams is 5, not 7") as caught:
            client.call("p2p.listen", s.ListenParams("/x/web", "9", max_streams=7, rate_per_peer=9))
        command = "p2pfwd limit /x/web --max-streams 7 --rate-per-peer 9"
        assert caught.value.hint == f"to change it: {command}"
        with pytest.raises(ListenerExists, match="--proxy-protocol is none") as caught:
            client.call("p2p.listen", s.ListenParams("/x/web", "9", max_streams=7, proxy_protocol="v2"))
        assert "p2pfwd close -p /x/web" in (caught.value.hint or "")

    lives(work)


@pytest.mark.parametrize("changes", [{"rate": -1}, {"max_streams": 1 << 50}, {"idle_timeout_s": -5}])
def test_what_is_no_limit_changes_nothing(lives: Lives, changes: dict[str, int]) -> None:  # noqa: F811
    def work(client: Client) -> None:
        client.call("p2p.listen", LIMITED)
        with pytest.raises(UsageError):
            limit(client, **changes)
        with pytest.raises(UsageError):
            client.call("p2p.listen", s.ListenParams("/x/other", "9", **changes))  # type: ignore[arg-type]
        assert [it.limits for it in ls(client)] == [HELD]

    lives(work)


def test_no_listen_no_limit(lives: Lives) -> None:  # noqa: F811
    def work(client: Client) -> None:
        with pytest.raises(NotFound, match="there is no listen"):
            limit(client, rate=5)

    lives(work)


def test_a_limit_that_the_disk_does_not_take_does_not_hold(
    lives: Lives,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageFailed("state file: no space left on device")

    def work(client: Client) -> None:
        client.call("p2p.listen", LIMITED)
        with monkeypatch.context() as patch:
            patch.setattr(TunnelFile, "change", full)
            with pytest.raises(StorageFailed):
                limit(client, max_streams=1)
        assert [it.limits for it in ls(client)] == [HELD]

    lives(work)


def test_the_peer_id_line_and_the_proxy_header_exclude_each_other(lives: Lives) -> None:  # noqa: F811
    def work(client: Client) -> None:
        both = s.ListenParams("/x/web", "9", report_peer_id=True, proxy_protocol="v2")
        with pytest.raises(UsageError, match="exclude each other"):
            client.call("p2p.listen", both)
        assert not ls(client)

    lives(work)


# --- ends -------------------------------------------------------------------------------------------


def until_gone(client: Client, count: int) -> None:
    deadline = time.monotonic() + 10
    while len(ls(client)) > count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("ephemeral", [True, False])
def test_a_listen_and_a_forward_end_by_themselves(lives: Lives, ephemeral: bool) -> None:  # noqa: F811
    def first(client: Client) -> None:
        now = time.time()
        listener = client.call(
            "p2p.listen", s.ListenParams("/x/web", "9", expires_s=0.3, ephemeral=ephemeral)
        ).listener
        assert now + 0.3 <= listener.ends_at <= time.time() + 0.3
        client.call(
            "p2p.forward", s.ForwardParams("/x/ssh", "0", (PEER,), expires_s=0.3, ephemeral=ephemeral)
        )
        client.call("p2p.listen", s.ListenParams("/x/stays", "9"))
        until_gone(client, 1)

    def second(client: Client) -> None:
        assert [it.protocol for it in ls(client)] == ["/x/stays"]

    lives(first)
    lives(second)


def test_what_ends_while_the_daemon_is_down_is_not_made_again(
    lives: Lives,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")

    def first(client: Client) -> float:
        client.call("p2p.listen", s.ListenParams("/x/long", "9", expires_s=3600))
        made = client.call("p2p.listen", s.ListenParams("/x/web", "9", expires_s=1.0)).listener
        return float(made.ends_at)

    def second(client: Client) -> None:
        (left,) = ls(client)
        assert left.protocol == "/x/long" and left.ends_at is not None
        assert 3500 < left.ends_at - time.time() < 3600

    ends_at = lives(first)
    time.sleep(max(0.0, ends_at - time.time() + 0.01))
    lives(second)
    assert "the listen /x/web has ended" in caplog.text


def test_the_same_command_moves_an_end_and_one_without_is_told_of_it(lives: Lives) -> None:  # noqa: F811
    def first(client: Client) -> None:
        client.call("p2p.listen", s.ListenParams("/x/web", "9", expires_s=100))
        again = client.call("p2p.listen", s.ListenParams("/x/web", "9", expires_s=9000))
        assert again.stood
        with pytest.raises(ListenerExists, match="it ends in 2 h 30 min"):
            client.call("p2p.listen", s.ListenParams("/x/web", "9"))

    def second(client: Client) -> None:
        (found,) = ls(client)
        assert found.ends_at is not None and found.ends_at > time.time() + 8000

    lives(first)
    lives(second)


def test_a_right_with_an_end_is_lost_then_with_its_live_streams(home: Path) -> None:
    async def script(owner: Node, asker: Node, server: TcpServer) -> None:
        await listen(owner, server)
        await owner.change("deny", "any")
        allowed = await owner.call("access.allow", s.AccessAllowParams(NAME, (asker.peer,), expires_s=1.5))
        (peer,) = allowed.rule.access.allowed
        assert peer.ends_at is not None and time.time() < peer.ends_at <= time.time() + 1.5
        port, listener = await forward(owner, asker)
        async with tunnel(port) as (reader, _):
            assert await is_reset(reader)
        assert await state(asker, listener) == "not-allowed"  # who was allowed once is told so
        (rule,) = (await owner.call("access.ls")).rules
        assert rule.access == s.Access("listed", told=(s.AccessPeer(asker.peer, None),))

    run(home, script)


def test_a_stream_of_a_listen_that_has_ended_goes_on(home: Path) -> None:
    async def script(owner: Node, asker: Node, server: TcpServer) -> None:
        await owner.call("p2p.listen", s.ListenParams(NAME, server.address, expires_s=1.0))
        port, _ = await forward(owner, asker)
        async with tunnel(port) as (reader, writer):
            await until(lambda: not owner.running.forwarding.listeners())
            writer.write(b"still")
            assert await reader.readexactly(5) == b"still"

    run(home, script)


def test_what_is_used_of_the_limits_is_shown(home: Path) -> None:
    async def script(owner: Node, asker: Node, server: TcpServer) -> None:
        await owner.call("p2p.listen", s.ListenParams(NAME, server.address, max_streams_per_peer=2))
        port, _ = await forward(owner, asker)
        async with tunnel(port), tunnel(port):
            shown: Any = await owner.call("p2p.limit", s.LimitParams(NAME))
            assert (shown.listener.streams, shown.busiest_peer_streams) == (2, 2)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await is_reset(reader)
            writer.close()
            assert (await owner.refused())["tunnel-limit"] == 1
            await owner.call("p2p.limit", s.LimitParams(NAME, max_streams_per_peer=3))
            async with tunnel(port):
                pass

    run(home, script)
