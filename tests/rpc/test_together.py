"""Where the parts of a node meet: setups, access, invites, ends, limits and the history of all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from p2pfwd.errors import InvalidConfig, InviteRefused, StorageFailed
from p2pfwd.forwarding.values import CloseMatch
from p2pfwd.peers.access_rules import AccessRules
from p2pfwd.rpc import schema as s
from tests.rpc.test_setup import LAPTOP, PHONE, SSH, WEB, Home, run, start
from tests.support.loops import until

RULE = '[[rule]]\nprotocol = "/x/ssh"\n'


def run_two(home: Path, script: Callable[[Home, Home], Awaitable[None]], text: str = "") -> None:
    """A script with a node whose config.toml has this text, and another."""

    async def main() -> None:
        one, other = await start(home / "a", text), await start(home / "b")
        try:
            await script(one, other)
        finally:
            await one.running.stop()
            await other.running.stop()

    asyncio.run(asyncio.wait_for(main(), 40))


async def invited(node: Home, protocol: str = "/x/ssh") -> s.InviteNewResult:
    result: s.InviteNewResult = await node.call("invite.new", s.InviteNewParams(protocol))
    return result


async def join(node: Home, token: str, **more: Any) -> s.InviteJoinResult:
    result: s.InviteJoinResult = await node.call(
        "invite.join", s.InviteJoinParams(token, timeout_s=10.0, **more)
    )
    return result


async def told(node: Home, *kinds: str) -> list[str]:
    """Codes of the history, the oldest first."""
    found = await node.call("events.ls", s.EventsParams(kinds=kinds))
    return [it.code for it in found.events]


async def allowed(node: Home, name: str) -> dict[str, float | None]:
    rules = (await node.call("access.ls")).rules
    return {it.peer: it.ends_at for rule in rules if rule.protocol == name for it in rule.access.allowed}


# --- invites and what config.toml says -------------------------------------------------------------


def test_who_is_denied_by_config_toml_uses_up_no_invite(home: Path) -> None:
    async def script(owner: Home, asker: Home) -> None:
        await owner.reload(f'{SSH}{RULE}deny = ["{asker.peer}"]\n')
        invite = await invited(owner)
        with pytest.raises(InviteRefused, match="kept out there by its peer ID"):
            await join(asker, invite.token)
        (left,) = (await owner.call("invite.ls")).invites
        assert left.state == "open" and left.taken_by == ()
        assert await allowed(owner, "/x/ssh") == {}
        assert await told(owner, "access")
        assert "invite-refused" in await told(owner)

    run_two(home, script)


def test_an_invite_lets_in_beside_those_of_config_toml_and_stays_over_apply(home: Path) -> None:
    async def script(owner: Home, asker: Home) -> None:
        await owner.reload(SSH + f'allow = ["{LAPTOP}"]\n')
        invite = await invited(owner)
        await owner.apply(WEB, prune=True)
        await join(asker, invite.token)
        await join(asker, invite.token)
        for _ in range(2):
            await owner.call("invite.revoke", s.InviteRevokeParams(invite.invite.id))
        assert set(await allowed(owner, "/x/ssh")) == {LAPTOP, asker.peer}
        codes = [code for code in await told(owner) if code.startswith("invite")]
        assert codes == ["invite-made", "invite-taken", "invite-revoked"]

    run_two(home, script)


def test_a_declared_forward_is_the_one_that_a_join_finds(home: Path) -> None:
    async def script(owner: Home, asker: Home) -> None:
        await owner.apply(SSH)
        text = f'[[forward]]\nprotocol = "/x/ssh"\nlisten = "/unix{home}/s"\npeer = ["{owner.address}"]\n'
        await asker.reload(text)
        joined = await join(asker, (await invited(owner)).token)
        assert joined.stood and joined.listener.listen_address == f"/unix{home}/s"
        assert len(await asker.ls()) == 1

    run_two(home, script)


# --- a setup and commands beside it ----------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_answered_while_a_setup_is_applied_is_not_undone(
    home: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    async def script(node: Home) -> None:
        await node.apply(f'{SSH}[[peer]]\nname = "old"\npeer = "{LAPTOP}"\n')
        running, gate = node.running, asyncio.Event()
        change = running.tunnels.change

        async def slow(*args: Any) -> None:
            await gate.wait()
            if fails:
                raise StorageFailed("the disk is full")
            await change(*args)

        monkeypatch.setattr(running.tunnels, "change", slow)
        text = f'{WEB}{RULE}others = "any"\n[[peer]]\nname = "new"\npeer = "{LAPTOP}"\n'
        applying = asyncio.create_task(running.applying.apply(text, "t", prune=True, dry_run=False))
        await asyncio.sleep(0.05)
        commands = [
            asyncio.create_task(running.peering.add("phone", [PHONE], False)),
            asyncio.create_task(running.access.deny("/x/ssh", [PHONE], keep_live=False)),
            asyncio.create_task(running.access.block(["192.0.2.0/24"])),
        ]
        await asyncio.sleep(0.05)
        gate.set()
        (outcome,) = await asyncio.gather(applying, return_exceptions=True)
        assert isinstance(outcome, StorageFailed) == fails
        await asyncio.gather(*commands)
        assert running.peering.names.typed["phone"]
        assert [str(it) for it in running.access.rules.table.rules["/x/ssh"].denied] == [PHONE]
        assert running.access.rules.table.blocks.networks
        again = AccessRules(running.paths.access_file)
        again.load()
        assert again.table.rules == running.access.rules.table.rules and again.table.blocks.networks

    run(home, script)


@pytest.mark.parametrize("text", ["", "# nothing\n"])
def test_an_empty_file_prunes_nothing(home: Path, text: str) -> None:
    async def script(node: Home) -> None:
        await node.apply(SSH)
        before = await node.everything()
        with pytest.raises(InvalidConfig, match="there is nothing in it"):
            await node.apply(text, prune=True)
        assert (await node.apply(text)).changes == ()
        assert await node.everything() == before

    run(home, script)


def test_every_option_is_the_same_text_on_another_node(home: Path) -> None:
    every = f"""
[[peer]]
name = "laptop"
peer = ["/ip4/192.0.2.1/tcp/4011/p2p/{LAPTOP}"]
keep = true
[[listen]]
protocol = "/x/all"
target = "127.0.0.1:9"
max_streams = 20
max_streams_per_peer = 4
rate = 2000000
rate_per_peer = 1000
idle_timeout_s = 600
proxy_protocol = "v2"
wait_target_s = 2.5
check = "http:/health"
ends_at = {time.time() + 1000}
allow = ["laptop"]
[[listen]]
protocol = "/my/own"
target = "/unix{home}/t"
custom_protocol = true
report_peer_id = true
[[forward]]
protocol = "/my/own"
listen = "/unix{home}/l"
peer = "laptop"
path = "direct"
limited_relay = true
custom_protocol = true
[[rule]]
protocol = "/x/other"
allow = ["laptop"]
deny = ["{PHONE}"]
tell = ["{PHONE}"]
tell_any = true
others = "any"
[[block]]
whom = ["{PHONE}", "192.0.2.0/24", "2001:db8::/32"]
"""

    async def script(one: Home, other: Home) -> None:
        await one.apply(every)
        text = await one.export()
        await other.apply(text)
        assert await other.export() == text
        assert (await other.apply(text)).changes == ()
        assert (await one.apply(every)).changes == ()

    run_two(home, script)


def test_a_right_that_ends_by_itself_outlives_a_change_of_its_rule(home: Path) -> None:
    async def script(node: Home) -> None:
        await node.apply(f'{SSH}{RULE}others = "none"\n')
        await node.call("access.allow", s.AccessAllowParams("/x/ssh", (PHONE,), expires_s=1000))
        (end,) = (await allowed(node, "/x/ssh")).values()
        await node.apply(f'{SSH}{RULE}others = "none"\nallow = ["{LAPTOP}"]\n')
        assert await allowed(node, "/x/ssh") == {LAPTOP: None, PHONE: end}
        assert PHONE not in await node.export()
        await node.apply(f'{SSH}{RULE}others = "none"\ndeny = ["{PHONE}"]\n')
        assert await allowed(node, "/x/ssh") == {}

    run(home, script)


# --- ends ------------------------------------------------------------------------------------------


def test_what_a_file_says_is_over_is_left_out_and_said(home: Path) -> None:
    over = f"{SSH}ends_at = 1.0\n"

    async def script(node: Home) -> None:
        result = await node.apply(over + WEB)
        assert [it.name for it in result.changes] == ["/x/web"]
        assert result.notes[0] == "listen /x/ssh: its end, ends_at, is over; it is left out"
        result = await node.reload(over)
        assert (result.changes, len(result.notes)) == ((), 1)
        assert list(await node.ls()) == ["/x/web"]

    run(home, script, over)


def test_a_declared_tunnel_that_has_ended_is_not_exported_nor_there_again(home: Path) -> None:
    async def script(node: Home) -> None:
        text = f"{SSH}ends_at = {time.time() + 1.0}\n"
        await node.reload(text)
        await node.call("p2p.ls")
        await until(lambda: not node.running.tunnels.listeners())
        assert "/x/ssh" not in await node.export()
        result = await node.reload(text)
        assert result.notes == ("listen /x/ssh: its end, ends_at, is over; it is left out",)
        assert await told(node, "tunnel") == ["tunnel-made", "tunnel-ended"]

    run(home, script)


def test_what_ends_while_the_daemon_is_down_is_in_the_history(home: Path) -> None:
    async def main() -> None:
        first = await start(home / "a")
        end = time.time() + 0.6
        await first.apply(f"{SSH}ends_at = {end}\n")
        await first.running.stop()
        await asyncio.sleep(max(0.0, end - time.time()))
        second = await start(home / "a")
        try:
            assert await told(second, "tunnel") == ["tunnel-made", "tunnel-ended"]
        finally:
            await second.running.stop()

    asyncio.run(asyncio.wait_for(main(), 40))


def test_a_change_of_a_rule_is_in_the_history_and_not_the_whole_of_it(home: Path) -> None:
    async def script(node: Home) -> None:
        async def change(what: str, *peers: str) -> str:
            await node.call(f"access.{what}", s.AccessChangeParams("/x/ssh", peers))
            found = (await node.call("events.ls", s.EventsParams(kinds=("access",)))).events
            return str(found[-1].data["change"])

        assert await change("deny", "any") == "nobody"
        assert await change("allow", PHONE) == f"those allowed; now allowed: {PHONE}"
        assert await change("allow", LAPTOP) == f"those allowed; now allowed: {LAPTOP}"
        text = f"; no longer allowed: {PHONE}; now denied: {PHONE}"
        assert (await change("deny", PHONE)).startswith(f"those allowed{text}; now told")
        assert await change("allow", "any") == "any peer"

    run(home, script)


def test_a_right_that_has_ended_is_in_the_history(home: Path) -> None:
    async def script(node: Home) -> None:
        await node.call("access.allow", s.AccessAllowParams("/x/ssh", (PHONE,), expires_s=0.3))
        found: tuple[s.HistoryEvent, ...] = ()
        while len(found) < 2:
            found = (await node.call("events.ls", s.EventsParams(kinds=("access",)))).events
        assert found[-1].data["change"] == f"any peer; the time of {PHONE} is over"

    run(home, script)


# --- a command beside a close ---


def test_a_listen_that_is_closed_at_once_was_made(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(node: Home) -> None:
        tunnels = node.running.tunnels
        make = tunnels.make

        async def make_and_close(*args: Any) -> Any:
            made = await make(*args)
            await tunnels.close(CloseMatch(protocol="/x/ssh"))
            return made

        monkeypatch.setattr(tunnels, "make", make_and_close)
        result = await node.call("p2p.listen", s.ListenParams("/x/ssh", "127.0.0.1:9"))
        assert (result.listener.protocol, result.stood) == ("/x/ssh", False)
        assert await node.ls() == {}
        assert await told(node, "tunnel") == ["tunnel-made", "tunnel-closed"]

    run(home, script)


def test_doctor_leaves_out_a_forward_that_is_closed_meanwhile(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(here: Home, there: Home) -> None:
        await here.call("p2p.forward", s.ForwardParams("/x/ssh", "0", (there.address,)))
        tunnels, forwarding = here.running.tunnels, here.running.forwarding
        check = forwarding.check

        async def close_and_check(*args: Any) -> Any:
            await tunnels.close(CloseMatch(all=True))
            return await check(*args)

        monkeypatch.setattr(forwarding, "check", close_and_check)
        found = await here.call("doctor", s.DoctorParams(peer=there.address))
        assert "/x/ssh: it was closed meanwhile" in [it.text for it in found.findings]

    run_two(home, script)


# --- limits and the history of setups --------------------------------------------------------------


def test_limits_that_a_command_changed_are_those_of_config_toml_again(home: Path) -> None:
    text = f"{SSH}max_streams = 5\n"

    async def script(node: Home) -> None:
        await node.call("p2p.limit", s.LimitParams("/x/ssh", max_streams=7))
        assert (await node.ls())["/x/ssh"].limits.max_streams == 7
        result = await node.reload(text)
        assert result.notes[0] == "listen /x/ssh was changed by a command, and is as config.toml says again"
        assert (await node.ls())["/x/ssh"].limits.max_streams == 5
        assert await told(node, "tunnel") == ["tunnel-limits"]

    run(home, script, text)


def test_a_setup_is_in_the_history_with_what_it_changed(home: Path) -> None:
    async def script(node: Home) -> None:
        await node.apply(SSH + 'allow = ["any"]\n')
        await node.apply(SSH + 'allow = ["any"]\n')
        await node.reload(f'{WEB}[log]\nlevel = "warning"\n[[block]]\nwhom = ["192.0.2.0/24"]\n')
        found = (await node.call("events.ls", s.EventsParams(kinds=("config", "access")))).events
        assert [(it.code, it.data.get("change")) for it in found] == [
            ("access-changed", "any peer"),
            ("config-changed", "listen /x/ssh added, rule /x/ssh added"),
            ("blocks-changed", "192.0.2.0/24 blocked"),
            ("config-changed", "listen /x/web added, block 192.0.2.0/24 added, log.level changed"),
        ]
        (node.running.paths.config_file).write_text("listen = 1\n")
        await node.running.reloading.reload_by_signal()
        assert (await told(node))[-1] == "config-refused"

    run(home, script)
