"""daemon.tunnels: many at once, in linear work and with a turn of the loop after each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.terms import ForwardTerms, ListenTerms
from p2pfwd.daemon.kept import DeclaredTunnel
from p2pfwd.daemon.tunnels import Tunnels
from p2pfwd.errors import StorageFailed
from p2pfwd.forwarding.values import CloseMatch
from p2pfwd.policy import warm
from p2pfwd.state.tunnel_file import SavedTunnel
from p2pfwd.state.tunnels import SavedTunnels
from tests.support.loops import on_loop
from tests.unit.forwarding.conftest import MakeForwarding, forwarding, host, splices
from tests.unit.forwarding.fakes import ALICE, BOB, SELF

__all__ = ["forwarding", "host", "splices"]

MANY = 40
TARGET = Multiaddr.parse("/ip4/127.0.0.1/tcp/22")
BY_A_STOP, FOR_ANOTHER = "closed by the daemon's stop", "closed, and another made"


def many(target: str = "22", ends_at: float = 0.0) -> list[SavedTunnel]:
    """Listens and forwards, half each."""
    to, terms = Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{target}"), ListenTerms(ends_at=ends_at)
    listens = [SavedTunnel("listen", f"/x/l{n}", to, terms, created=1.0) for n in range(MANY // 2)]
    return listens + [
        SavedTunnel(
            "forward",
            f"/x/to-{target}",
            Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{1000 + number}"),
            ForwardTerms(ends_at=ends_at),
            (ALICE, BOB)[number % 2],
            created=1.0,
        )
        for number in range(MANY // 2)
    ]


async def nothing() -> None:
    """Between closing and making."""


class Work:
    """What something costs: turns that others had meanwhile, and looks over all forwards and all names."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.looks = self.matches = 0
        warm_peers, matches = warm.warm_peers, CloseMatch.matches

        def looked(*args: object) -> object:
            self.looks += 1
            return warm_peers(*args)  # type: ignore[arg-type]

        def matched(*args: object) -> object:
            self.matches += 1
            return matches(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(warm, "warm_peers", looked)
        monkeypatch.setattr(CloseMatch, "matches", matched)

    async def of(self, doing: Awaitable[object]) -> tuple[int, int, int]:
        self.looks = self.matches = turns = 0
        task = asyncio.ensure_future(doing)
        while not task.done():
            turns += 1
            await asyncio.sleep(0)
        await task
        return turns, self.looks, self.matches


@on_loop
async def test_many_tunnels_give_turns_and_are_looked_over_once(
    home: Path, forwarding: MakeForwarding, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, now = forwarding(), [100.0]
    tunnels = Tunnels(home / "state.db", made, SELF, lambda: now[0])
    made.keep_warm()
    work = Work(monkeypatch)
    declared = {it.key: DeclaredTunnel(it, "config.toml") for it in many("23")}
    try:
        for what, doing in (
            ("made", tunnels.change(many(), (), nothing)),
            ("others in their place", tunnels.declare(declared, nothing)),
            ("and back", tunnels.declare({}, nothing)),
            ("dropped", tunnels.change((), [it.key for it in many()], nothing)),
            ("made to end", tunnels.change(many(ends_at=200.0), (), nothing)),
            ("ended", tunnels.end_due(300.0)),
        ):
            turns, looks, matches = await work.of(doing)
            assert turns >= MANY and looks <= 2 and matches == 0, what
        assert made.listeners() == []
        await tunnels.change(many(), (), nothing)
        turns, looks, matches = await work.of(tunnels.close(CloseMatch(all=True)))
        assert turns >= MANY and looks == 1 and matches == 2 * MANY, "what is saved, and what is live"
        assert made.listeners() == []
    finally:
        await made.aclose()
        await tunnels.close_file()


@on_loop
@pytest.mark.parametrize("gone", ["", BY_A_STOP, FOR_ANOTHER])
async def test_what_is_taken_back_is_forgotten_though_a_stop_has_closed_it(
    home: Path, forwarding: MakeForwarding, gone: str
) -> None:
    made, file = forwarding(), home / "state.db"
    tunnels, saved = Tunnels(file, made, SELF), SavedTunnels(file)
    wanted = SavedTunnel("listen", "/x/a", TARGET, ListenTerms())
    try:
        listener, stood = await tunnels.make(wanted, "saved")
        if gone == BY_A_STOP:
            made.close(CloseMatch(all=True))
        elif gone == FOR_ANOTHER:
            await tunnels.close(CloseMatch(all=True))
            await tunnels.make(wanted, "saved")
        # What was said of who may use it is undone only then: what is left would come back open to more.
        assert await tunnels.take_back(listener, stood) is (gone != FOR_ANOTHER)
        await tunnels.close_file()
        left = [it.key for it in await saved.load()]
        assert left == ([listener.key] if gone == FOR_ANOTHER else [])
        assert len(made.listeners()) == len(left)
    finally:
        await made.aclose()
        await tunnels.close_file()
        await saved.close()


@on_loop
async def test_a_change_that_is_undone_makes_nothing_anew_that_a_command_in_the_foreground_had(
    home: Path, forwarding: MakeForwarding
) -> None:
    made, wanted = forwarding(), SavedTunnel("listen", "/x/a", TARGET, ListenTerms(), created=1.0)
    before = Tunnels(home / "state.db", made, SELF)
    await before.make(wanted, "saved")
    await before.close_file()
    made.close(CloseMatch(all=True))
    tunnels = Tunnels(home / "state.db", made, SELF)
    try:
        await tunnels.load()
        listener, _ = await tunnels.make(wanted, "foreground")

        async def between() -> None:
            tunnels.close_now(listener)  # the command ends
            raise StorageFailed("no room")

        with pytest.raises(StorageFailed):
            await tunnels.change((), [wanted.key], between)
        assert made.listeners() == []
    finally:
        await made.aclose()
        await tunnels.close_file()
