"""Transcripts: what each command prints, to a program and to a person, word for word.

The daemon is a fake one with fixed answers; the terminal is a real one, 80 cells wide.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from p2pfwd.errors import AddressInUse, ListenerExists, NotFound
from p2pfwd.policy.paths import PathCode
from p2pfwd.rpc.codec import params_to_json
from p2pfwd.rpc.schema import (
    AddrsResult,
    CloseResult,
    ConnectResult,
    DisconnectResult,
    DoctorResult,
    Finding,
    IdResult,
    ListenParams,
    LogLevelResult,
    LsResult,
    Notice,
    OwnAddress,
    PeersResult,
    PingResult,
    PortMapping,
    StatusResult,
    StreamCloseResult,
    StreamLsResult,
)
from tests.cli.conftest import Run
from tests.cli.samples import (
    CONNECTION,
    FORWARD,
    FORWARDED,
    INBOUND,
    LISTEN,
    LISTENED,
    REACHED,
    REFUSED,
    STREAM,
)
from tests.support.fake_daemon import OTHER, PEER, FakeDaemon

OnTerminal = Callable[..., str]


@pytest.fixture
def filled(fake: FakeDaemon) -> FakeDaemon:
    """A fake daemon with one listen, one forward and a stream in each."""
    fake.answers |= {
        "p2p.ls": LsResult((LISTEN, FORWARD)),
        "p2p.stream.ls": StreamLsResult((STREAM, INBOUND)),
        "swarm.peers": PeersResult((CONNECTION,)),
    }
    return fake


# --- ls -------------------------------------------------------------------------------------------


def test_ls_to_a_program_is_kubos_lines(filled: FakeDaemon, run: Run) -> None:
    result = run("ls")
    assert (result.status, result.err) == (0, "")
    assert result.out == (
        f"/x/web /p2p/{PEER} /ip4/127.0.0.1/tcp/8000\n/x/ssh /ip4/127.0.0.1/tcp/2222{' ' * 35}/p2p/{OTHER}\n"
    )


def test_ls_of_one_listen_is_exactly_kubos_line(fake: FakeDaemon, run: Run) -> None:
    fake.answers["p2p.ls"] = LsResult((LISTEN,))
    assert run("ls").out == f"/x/web /p2p/{PEER} /ip4/127.0.0.1/tcp/8000\n"


def test_ls_headers_come_once_and_when_there_is_nothing_else(fake: FakeDaemon, run: Run) -> None:
    fake.answers["p2p.ls"] = LsResult(())
    assert run("ls").out == ""
    assert run("ls", "-v").out == "Protocol Listen Address Target Address\n"


def test_ls_streams_follow_after_an_empty_line(filled: FakeDaemon, run: Run) -> None:
    listeners, streams = run("ls", "--streams", "--headers").out.split("\n\n")
    assert listeners.splitlines()[0].split() == ["Protocol", "Listen", "Address", "Target", "Address"]
    assert [line.split()[:2] for line in streams.splitlines()] == [
        ["ID", "Protocol"],
        ["7", "/x/ssh"],
        ["12", "/x/web"],
    ]


def test_ls_json_is_one_document_with_kubos_names(filled: FakeDaemon, run: Run) -> None:
    document = json.loads(run("ls", "--json").out)
    assert list(document) == ["Listeners"]
    first = document["Listeners"][0]
    assert (first["Protocol"], first["ListenAddress"]) == ("/x/web", f"/p2p/{PEER}")
    assert first["TargetAddress"] == "/ip4/127.0.0.1/tcp/8000"
    document = json.loads(run("ls", "--streams", "--json").out)
    assert [it["HandlerID"] for it in document["Streams"]] == ["7", "12"]
    assert document["Streams"][0]["OriginAddress"] == "/ip4/127.0.0.1/tcp/51822"


def test_ls_json_of_nothing_is_an_empty_list(fake: FakeDaemon, run: Run) -> None:
    fake.answers["p2p.ls"] = LsResult(())
    fake.answers["p2p.stream.ls"] = StreamLsResult(())
    assert json.loads(run("ls", "--json", "--streams").out) == {"Listeners": [], "Streams": []}


def test_ls_on_a_terminal_fits_80_cells(filled: FakeDaemon, on_terminal: OnTerminal) -> None:
    assert on_terminal("ls", "--streams") == (
        "DIR      PROTOCOL  LISTEN          TARGET          STATE      LIVE     IN    OUT\n"
        "listen   /x/web    12D3…defLcL     127.0.0.1:8000  target        0     0B     0B\n"
        "                                                   refused\n"
        "forward  /x/ssh    127.0.0.1:2222  12D3…wvuTHr     ready         1  1.2MB  310kB\n"
        "/x/web: target 127.0.0.1:8000: connection refused\n"
        "\n"
        "ID  PROTOCOL  ORIGIN -> TARGET           AGE     IN    OUT    RATE    PATH   RTT\n"
        " 7  /x/ssh    127.0.0.1:51822 ->       3m12s  1.2MB  310kB  12kB/s  direct  24ms\n"
        "              12D3…wvuTHr\n"
        "12  /x/web    12D3…wvuTHr ->           2h05m  1.2MB  310kB    0B/s  direct     -\n"
        "              127.0.0.1:8000\n"
    )


def test_ls_says_what_seals_each_stream_when_asked(filled: FakeDaemon, on_terminal: OnTerminal) -> None:
    for command in (("ls", "--streams"), ("stream", "ls")):
        head, first, *_ = on_terminal(*command, "-v", columns=120).splitlines()[-3:]
        assert head.endswith("RTT  CIPHER") and first.endswith("24ms  aes-256-gcm")
        assert "CIPHER" not in on_terminal(*command, columns=120)


def test_ls_says_which_stream_holds_its_clients_end_of_data(
    fake: FakeDaemon, on_terminal: OnTerminal
) -> None:
    fake.answers["p2p.ls"] = LsResult(())
    fake.answers["p2p.stream.ls"] = StreamLsResult((replace(STREAM, holds_end=True), INBOUND))
    held = "7: the client has ended its data; a Kubo is told when the reply has ended"
    assert on_terminal("ls", "--streams", columns=120).splitlines()[-1] == held
    assert on_terminal("stream", "ls", columns=120).splitlines()[-1] == held


def test_ls_says_why_a_stream_is_relayed_and_what_is_left_of_the_relay(
    fake: FakeDaemon, on_terminal: OnTerminal
) -> None:
    code = PathCode.SYMMETRIC_BOTH
    relayed = replace(
        STREAM,
        path="relayed",
        path_code=code.value,
        path_reason=code.words,
        limit_bytes_left=65536,
        limit_seconds_left=90,
    )
    fake.answers["p2p.stream.ls"] = StreamLsResult((relayed, INBOUND))
    assert on_terminal("stream", "ls", columns=120).splitlines()[-1] == (
        "7: relayed: both routers give every connection another port; the relay carries 66kB or 90 s more"
    )


def test_forward_says_what_its_connections_may_go_over(fake: FakeDaemon, run: Run) -> None:
    asked: list[Any] = []

    def forward(params: Any) -> Any:
        asked.append((params["path"], params["allow_limited_relay"]))
        return FORWARDED

    fake.answers["p2p.forward"] = forward
    run("forward", "--no-check", "--path", "direct", "/x/ssh", "2222", OTHER)
    run("forward", "--no-check", "--allow-limited-relay", "/x/ssh", "2222", OTHER)
    assert asked == [("direct", False), ("any", True)]
    refused = run("forward", "--path", "sideways", "/x/ssh", "2222", OTHER)
    assert refused.status == 2 and "'sideways'" in refused.err


def test_ls_names_the_forward_a_reason_is_for_when_several_have_its_protocol(
    fake: FakeDaemon, on_terminal: OnTerminal
) -> None:
    one = replace(FORWARDED.listener, state="peer-unreachable", reason="no address is known")
    other = replace(one, id=9, listen_address="/ip4/127.0.0.1/tcp/2223", reason=None)
    fake.answers["p2p.ls"] = LsResult((one, other))
    shown = on_terminal("ls")
    assert f"{one.protocol} at 127.0.0.1:2222: no address is known" in shown
    fake.answers["p2p.ls"] = LsResult((one,))
    assert f"{one.protocol}: no address is known" in on_terminal("ls")


def test_ls_says_which_are_not_saved(filled: FakeDaemon, on_terminal: OnTerminal, run: Run) -> None:
    ephemeral, tied = replace(LISTEN, saved=False), replace(FORWARD, saved=False, foreground=True)
    filled.answers["p2p.ls"] = LsResult((ephemeral, tied))
    assert on_terminal("ls").splitlines()[-3:] == [
        "/x/web: target 127.0.0.1:8000: connection refused",
        "/x/web: ephemeral: it ends with the daemon",
        "/x/ssh: foreground: it ends with its command",
    ]
    assert [it["Saved"] for it in json.loads(run("ls", "--json").out)["Listeners"]] == [False, False]


def test_ls_says_for_how_long_a_watched_target_is_down(filled: FakeDaemon, on_terminal: OnTerminal) -> None:
    down = replace(LISTEN, check="tcp", state_since=time.time() - 3723)
    filled.answers["p2p.ls"] = LsResult((down,))
    assert "/x/web: target 127.0.0.1:8000: connection refused, for 1h02m" in on_terminal("ls")


def test_ls_says_who_waits_and_whose_peer_is_not_kept_connected(
    filled: FakeDaemon, on_terminal: OnTerminal
) -> None:
    cold = replace(FORWARD, state="peer-unreachable", reason="cannot reach it", waiting=2, warm=False)
    filled.answers["p2p.ls"] = LsResult((cold, replace(FORWARD, protocol="/x/b", warm=True)))
    assert on_terminal("ls").splitlines()[-3:] == [
        "/x/ssh: cannot reach it",
        "/x/ssh: 2 local connections wait for the peer",
        "/x/ssh: its peer is not kept connected: those of forwards used later are, and there are many",
    ]


def test_ls_on_a_wide_terminal_takes_one_line_each(filled: FakeDaemon, on_terminal: OnTerminal) -> None:
    lines = on_terminal("ls", "--streams", columns=120).splitlines()
    assert lines[1].startswith("listen   /x/web    12D3…defLcL     127.0.0.1:8000  target refused     0")
    assert "127.0.0.1:51822 -> 12D3…wvuTHr" in lines[6]
    assert len(lines) == 8


def test_tables_lose_nothing_when_it_is_narrow(filled: FakeDaemon, on_terminal: OnTerminal) -> None:
    shown = on_terminal("ls", columns=40)
    assert "1.2MB" in shown and "310kB" in shown


def test_colour_only_on_a_terminal_without_no_color(filled: FakeDaemon, on_terminal: OnTerminal) -> None:
    assert "\x1b[" in on_terminal("ls", colour=True)
    assert "\x1b[" not in on_terminal("ls")


def test_nothing_is_said_in_words_on_a_terminal(fake: FakeDaemon, on_terminal: OnTerminal) -> None:
    fake.answers |= {"p2p.ls": LsResult(()), "p2p.stream.ls": StreamLsResult(())}
    assert on_terminal("ls", "--streams") == "No listens and no forwards.\nNo live streams.\n"


# --- streams, close -------------------------------------------------------------------------------


def test_stream_ls_to_a_program_is_kubos_lines(filled: FakeDaemon, run: Run) -> None:
    filled.answers["p2p.stream.ls"] = StreamLsResult((INBOUND,))
    assert run("stream", "ls").out == f"12 /x/web /p2p/{OTHER} /ip4/127.0.0.1/tcp/8000\n"


def test_stream_close_says_what_it_did(fake: FakeDaemon, run: Run) -> None:
    fake.answers["p2p.stream.close"] = StreamCloseResult((STREAM,))
    assert run("stream", "close", "7").out == "Closed 1 stream.\n"
    assert fake.called("p2p.stream.close") == [{"id": "7", "all": False}]
    fake.answers["p2p.stream.close"] = StreamCloseResult(())
    assert run("stream", "close", "-a").out == "No live streams.\n"


@pytest.mark.parametrize(
    ("closed", "sentence"),
    [
        ((), "Nothing matched."),
        ((LISTEN,), "Closed 1 listen."),
        ((LISTEN, replace(FORWARD, streams=0)), "Closed 1 forward and 1 listen."),
        ((FORWARD, FORWARD), "Closed 2 forwards. 2 streams still live: see 'p2pfwd stream ls'."),
    ],
)
def test_close_names_what_it_counts(
    fake: FakeDaemon, run: Run, closed: tuple[object, ...], sentence: str
) -> None:
    fake.answers["p2p.close"] = CloseResult(closed)  # type: ignore[arg-type]
    result = run("close", "-a")
    assert (result.status, result.out, result.err) == (0, sentence + "\n", "")


def test_close_hands_every_filter_over(fake: FakeDaemon, run: Run) -> None:
    fake.answers["p2p.close"] = CloseResult(())
    run("close", "-p", "/x/a", "-l", "2222", "-t", "/p2p/Q")
    assert fake.called("p2p.close") == [
        {"all": False, "protocol": "/x/a", "listen_address": "2222", "target_address": "/p2p/Q"}
    ]


# --- listen, forward ------------------------------------------------------------------------------


def test_listen_says_what_it_means_and_what_to_paste(fake: FakeDaemon, run: Run) -> None:
    fake.answers["p2p.listen"] = LISTENED
    result = run("listen", "/x/web", "8000")
    assert (result.status, result.err) == (0, "")
    assert result.out == (
        "Sharing /x/web -> 127.0.0.1:8000, which answers.\n"
        "Any peer that knows this peer ID and the protocol name can connect.\n"
        "To let in only whom you allow: p2pfwd deny /x/web any\n"
        "On the other machine, run:\n"
        f"  p2pfwd forward /x/web 127.0.0.1:18000 /ip4/192.0.2.7/tcp/4101/p2p/{PEER} "
        f"/ip6/2001:db8::7/tcp/4101/p2p/{PEER}\n"
        "To stop sharing: p2pfwd close -p /x/web\n"
    )


def test_listen_warns_of_a_target_that_does_not_answer(fake: FakeDaemon, run: Run) -> None:
    fake.answers["p2p.listen"] = replace(LISTENED, target_check=REFUSED)
    result = run("listen", "/x/web", "8000")
    assert result.status == 0
    assert result.out.startswith("Sharing /x/web -> 127.0.0.1:8000, which does not answer now.\n")
    assert result.err == (
        "Warning: target 127.0.0.1:8000: connection refused; streams are reset until it answers\n"
        "hint: start the service, or close this listen\n"
    )


def test_listen_says_that_no_relay_has_a_place_yet(fake: FakeDaemon, run: Run) -> None:
    fake.answers["p2p.listen"] = replace(LISTENED, notices=(Notice("no-place", "no relay yet", "again"),))
    result = run("listen", "/x/web", "8000")
    assert (result.status, result.err) == (0, "Warning: no relay yet\nhint: again\n")
    assert json.loads(run("listen", "/x/web", "8000", "--json").out)["Notices"][0]["Code"] == "no-place"


def test_listen_says_how_long_streams_wait_for_a_target_that_does_not_answer(
    fake: FakeDaemon, run: Run
) -> None:
    waits = replace(LISTENED.listener, wait_target_s=2.5)
    fake.answers["p2p.listen"] = replace(LISTENED, listener=waits, target_check=REFUSED)
    result = run("listen", "/x/web", "8000", "--wait-target", "2.5", "--check", "http:/health")
    assert result.err.splitlines()[0].endswith("connection refused; each stream waits 2.5 s for it")
    (asked,) = fake.called("p2p.listen")
    assert (asked["wait_target_s"], asked["check"]) == (2.5, "http:/health")


def test_listen_warns_where_the_line_to_paste_does_not_outlive_the_daemon(
    fake: FakeDaemon, run: Run
) -> None:
    fake.answers["p2p.listen"] = replace(LISTENED, taken_ports=(4011,))
    assert run("listen", "/x/web", "8000").err == (
        "Warning: port 4011 of this node's settings is taken by another program, and it listens on "
        "another one until the daemon restarts: the line above holds as long\n"
        "hint: free the port, or set swarm.listen to a free one, then p2pfwd shutdown and listen again\n"
    )
    document = json.loads(run("listen", "/x/web", "8000", "--json").out)
    assert document["TakenPorts"] == [4011]
    fake.answers["p2p.listen"] = replace(LISTENED, taken_ports=(4011,), addresses=())  # found by its ID
    assert run("listen", "/x/web", "8000").err == ""


def test_listen_json_has_the_line_to_paste_too(fake: FakeDaemon, run: Run) -> None:
    fake.answers["p2p.listen"] = LISTENED
    document = json.loads(run("listen", "/x/web", "8000", "--json", "-r").out)
    assert document["Listener"]["Protocol"] == "/x/web"
    assert document["TargetCheck"]["Ok"] is True
    assert document["Command"].startswith("p2pfwd forward /x/web 127.0.0.1:18000 /ip4/192.0.2.7/")
    expected = ListenParams(protocol="/x/web", target="8000", report_peer_id=True)
    assert fake.called("p2p.listen") == [params_to_json(expected)]


def test_what_stood_before_is_said_to_stand_already(fake: FakeDaemon, run: Run) -> None:
    fake.answers |= {
        "p2p.listen": replace(LISTENED, stood=True),
        "p2p.forward": replace(FORWARDED, stood=True),
        "p2p.check": REACHED,
    }
    assert run("listen", "/x/web", "8000").out.startswith("Sharing already: /x/web -> 127.0.0.1:8000, which")
    forwarding = run("forward", "/x/ssh", "2222", OTHER).out.splitlines()[0]
    assert forwarding == "Forwarding already: 127.0.0.1:2222 -> /x/ssh at 12D3…wvuTHr"
    assert json.loads(run("listen", "/x/web", "8000", "--json").out)["Stood"] is True


def test_a_pair_that_fails_does_not_take_back_what_stood_before(fake: FakeDaemon, run: Run) -> None:
    def listen(params: Mapping[str, Any]) -> Any:
        if params["protocol"] == "/x/web":
            return replace(LISTENED, stood=True)
        return ListenerExists("listener already registered: /x/taken", hint="close it first")

    fake.answers["p2p.listen"] = listen
    assert run("listen", "/x/web", "8000", "/x/taken", "8001").status == 1
    assert fake.called("p2p.close") == []


def test_ephemeral_is_handed_over(fake: FakeDaemon, run: Run) -> None:
    fake.answers |= {"p2p.listen": LISTENED, "p2p.forward": FORWARDED}
    run("listen", "/x/web", "8000", "--ephemeral")
    run("forward", "/x/ssh", "2222", OTHER, "--ephemeral", "--no-check")
    for method in ("p2p.listen", "p2p.forward"):
        assert [params["ephemeral"] for params in fake.called(method)] == [True]


def test_a_forward_whose_address_is_not_to_be_had_says_what_it_waits_for(fake: FakeDaemon, run: Run) -> None:
    check = replace(REFUSED, state="address-in-use", reason="cannot listen there: it is in use", hint=None)
    fake.answers |= {"p2p.forward": replace(FORWARDED, stood=True), "p2p.check": check}
    result = run("forward", "/x/ssh", "2222", OTHER)
    assert (result.status, result.err) == (
        0,
        "Warning: cannot listen there: it is in use; the forward stands and listens there once it can\n",
    )


def test_forward_says_what_to_do_next_and_how_the_peer_was_reached(fake: FakeDaemon, run: Run) -> None:
    fake.answers |= {"p2p.forward": FORWARDED, "p2p.check": REACHED}
    result = run("forward", "/x/ssh", "2222", OTHER, f"/ip4/192.0.2.7/tcp/4101/p2p/{OTHER}")
    assert (result.status, result.err) == (0, "")
    assert result.out == (
        "Forwarding 127.0.0.1:2222 -> /x/ssh at 12D3…wvuTHr\n"
        "  ssh -p 2222 localhost\n"
        "To stop: p2pfwd close -l 127.0.0.1:2222\n"
        "The peer answers: direct, round trip 0.42ms, /ip4/192.0.2.7/tcp/4101.\n"
    )
    assert fake.called("p2p.forward")[0]["peers"] == [OTHER, f"/ip4/192.0.2.7/tcp/4101/p2p/{OTHER}"]


def test_forward_says_why_the_peer_was_not_reached_and_stands(fake: FakeDaemon, run: Run) -> None:
    check = replace(REFUSED, state="peer-unreachable", reason="no address of the peer answers", hint=None)
    fake.answers |= {"p2p.forward": FORWARDED, "p2p.check": check}
    result = run("forward", "/x/ssh", "2222", OTHER)
    assert result.status == 0
    assert result.err == (
        "Warning: no address of the peer answers; the forward stands and tries again at each connection\n"
    )
    told = json.loads(run("forward", "/x/ssh", "2222", OTHER, "--json").out)
    assert told["Check"]["Ok"] is False
    assert told["Listener"]["State"] == told["Check"]["State"] == "peer-unreachable"
    assert told["Listener"]["Reason"] == told["Check"]["Reason"]


def test_forward_says_that_a_service_was_not_tried(fake: FakeDaemon, run: Run) -> None:
    check = replace(REACHED, state="unknown", reason="the service was not tried")
    fake.answers |= {"p2p.forward": FORWARDED, "p2p.check": check}
    result = run("forward", "/x/ssh", "2222", OTHER)
    assert (result.status, result.err) == (0, "")
    assert result.out.splitlines()[-2].startswith("The peer answers: direct")
    assert result.out.splitlines()[-1] == "  the service was not tried"
    fake.answers["p2p.check"] = replace(REACHED, state="ready", reason="a remark on the try")
    told = json.loads(run("forward", "/x/ssh", "2222", OTHER, "--json").out)
    assert (told["Listener"]["State"], told["Listener"]["Reason"]) == ("ready", None)
    assert told["Check"]["Reason"] == "a remark on the try"


def test_forward_no_check_does_not_check(fake: FakeDaemon, run: Run) -> None:
    fake.answers["p2p.forward"] = FORWARDED
    result = run("forward", "/x/ssh", "2222", OTHER, "--no-check")
    assert (result.status, result.err) == (0, "")
    assert "The peer answers" not in result.out and not fake.called("p2p.check")
    assert json.loads(run("forward", "--no-check", "/x/ssh", "2222", OTHER, "--json").out)["Check"] is None


def test_listen_says_at_which_address_the_service_was_found(fake: FakeDaemon, run: Run) -> None:
    check = replace(LISTENED.target_check, remote_address="/ip6/::1/tcp/8000")
    fake.answers["p2p.listen"] = replace(LISTENED, target_check=check)
    assert run("listen", "/x/web", "8000").out.startswith(
        "Sharing /x/web -> 127.0.0.1:8000, which answers at [::1]:8000.\n"
    )


def test_forward_warns_of_a_port_that_other_machines_reach_and_of_addresses_it_cannot_use(
    fake: FakeDaemon, run: Run
) -> None:
    exposed = Notice("exposed", "other machines can connect, too: whoever", "to keep it to this machine")
    quic = Notice("undialable", "/ip4/192.0.2.7/udp/1/quic-v1 is not used: QUIC", "give an address for TCP")
    everywhere = replace(FORWARDED.listener, listen_address="/ip4/0.0.0.0/tcp/2222")
    fake.answers |= {
        "p2p.forward": replace(FORWARDED, listener=everywhere, notices=(exposed, quic)),
        "p2p.check": REACHED,
    }
    result = run("forward", "/x/ssh", "0.0.0.0:2222", OTHER)
    assert result.status == 0 and "ssh -p 2222 localhost" in result.out
    assert result.err.splitlines() == [
        "Warning: other machines can connect, too: whoever",
        "hint: to keep it to this machine",
        "Warning: /ip4/192.0.2.7/udp/1/quic-v1 is not used: QUIC",
        "hint: give an address for TCP",
    ]
    told = json.loads(run("forward", "/x/ssh", "0.0.0.0:2222", OTHER, "--json").out)
    assert [it["Code"] for it in told["Notices"]] == ["exposed", "undialable"]
    # A try that failed names the addresses itself.
    fake.answers["p2p.check"] = replace(REFUSED, state="peer-unreachable", reason="QUIC", hint=None)
    assert run("forward", "/x/ssh", "0.0.0.0:2222", OTHER).err.count("QUIC") == 1


# --- several in one command -----------------------------------------------------------------------


def listened(params: Mapping[str, Any]) -> object:
    """What the daemon answers to one of several listens."""
    if params["protocol"] == "/x/taken":
        return ListenerExists("listener already registered: /x/taken", hint="close it first")
    target = f"/ip4/127.0.0.1/tcp/{params['target']}"
    listener = replace(LISTENED.listener, protocol=params["protocol"], target_address=target)
    return replace(LISTENED, listener=listener)


def forwarded(params: Mapping[str, Any]) -> object:
    """What the daemon answers to one of several forwards."""
    if params["protocol"] == "/x/taken":
        return AddressInUse("cannot listen on 127.0.0.1:9: the address is already in use")
    address = f"/ip4/127.0.0.1/tcp/{params['listen']}"
    number = int(params["listen"])
    listener = replace(FORWARDED.listener, id=number, protocol=params["protocol"], listen_address=address)
    return replace(FORWARDED, listener=listener)


def test_several_listens_give_one_line_to_paste(fake: FakeDaemon, run: Run) -> None:
    fake.answers["p2p.listen"] = listened
    result = run("listen", "/x/web", "8000", "/x/ssh", "22", "/x/www", "8000")
    assert (result.status, result.err) == (0, "")
    assert result.out == (
        "Sharing /x/web -> 127.0.0.1:8000, which answers.\n"
        "Sharing /x/ssh -> 127.0.0.1:22, which answers.\n"
        "Sharing /x/www -> 127.0.0.1:8000, which answers.\n"
        "Any peer that knows this peer ID and a protocol name can connect.\n"
        "To let in only whom you allow: p2pfwd deny /x/web any; p2pfwd deny /x/ssh any; "
        "p2pfwd deny /x/www any\n"
        "On the other machine, run:\n"
        "  p2pfwd forward /x/web 127.0.0.1:18000 /x/ssh 127.0.0.1:2222 /x/www 127.0.0.1:0 "
        f"/ip4/192.0.2.7/tcp/4101/p2p/{PEER} /ip6/2001:db8::7/tcp/4101/p2p/{PEER}\n"
        "To stop sharing: p2pfwd close -p /x/web; p2pfwd close -p /x/ssh; p2pfwd close -p /x/www\n"
    )
    documents = json.loads(run("listen", "/x/web", "8000", "/x/ssh", "22", "--json").out)
    assert [it["Listener"]["Protocol"] for it in documents] == ["/x/web", "/x/ssh"]
    assert documents[1]["Command"].startswith("p2pfwd forward /x/ssh 127.0.0.1:2222 ")


def test_custom_names_are_not_put_into_one_line(fake: FakeDaemon, run: Run) -> None:
    fake.answers["p2p.listen"] = listened
    out = run("listen", "/x/web", "8000", "/own", "22", "--allow-custom-protocol").out
    first, second = [line.strip() for line in out.splitlines() if line.startswith("  p2pfwd")]
    assert first.startswith("p2pfwd forward /x/web 127.0.0.1:18000 /ip4/")
    assert second.startswith("p2pfwd forward --allow-custom-protocol /own 127.0.0.1:2222 /ip4/")


def test_several_forwards_of_one_peer(fake: FakeDaemon, run: Run) -> None:
    fake.answers |= {"p2p.forward": forwarded, "p2p.check": REACHED}
    result = run("forward", "/x/web", "8081", "/x/ssh", "2222", OTHER, f"/ip4/1.2.3.4/tcp/1/p2p/{OTHER}")
    assert (result.status, result.err) == (0, "")
    assert result.out == (
        "Forwarding 127.0.0.1:8081 -> /x/web at 12D3…wvuTHr\n"
        "  http://127.0.0.1:8081/\n"
        "To stop: p2pfwd close -l 127.0.0.1:8081\n"
        "Forwarding 127.0.0.1:2222 -> /x/ssh at 12D3…wvuTHr\n"
        "  ssh -p 2222 localhost\n"
        "To stop: p2pfwd close -l 127.0.0.1:2222\n"
        "/x/web: the peer answers: direct, round trip 0.42ms, /ip4/192.0.2.7/tcp/4101.\n"
        "/x/ssh: the peer answers: direct, round trip 0.42ms, /ip4/192.0.2.7/tcp/4101.\n"
    )
    assert [call["peers"] for call in fake.called("p2p.forward")] == [
        [OTHER, f"/ip4/1.2.3.4/tcp/1/p2p/{OTHER}"]
    ] * 2
    documents = json.loads(run("forward", "/x/web", "8081", "/x/ssh", "2222", OTHER, "--json").out)
    assert [it["Listener"]["Protocol"] for it in documents] == ["/x/web", "/x/ssh"]
    assert [it["Check"]["Ok"] for it in documents] == [True, True]


def test_a_peer_that_is_not_reached_is_tried_and_told_once(fake: FakeDaemon, run: Run) -> None:
    check = replace(REFUSED, state="peer-unreachable", reason="no address answers", hint="is it on?")
    fake.answers |= {"p2p.forward": forwarded, "p2p.check": check}
    result = run("forward", "/x/web", "8081", "/x/ssh", "2222", OTHER)
    assert len(fake.called("p2p.check")) == 1
    assert result.err == (
        "Warning: no address answers; the forwards stand and try again at each connection\nhint: is it on?\n"
    )


@pytest.mark.parametrize("as_json", [(), ("--json",)])
@pytest.mark.parametrize("command", ["listen", "forward"])
def test_when_one_of_several_fails_none_is_left(
    fake: FakeDaemon, run: Run, command: str, as_json: tuple[str, ...]
) -> None:
    fake.answers |= {
        "p2p.listen": listened,
        "p2p.forward": forwarded,
        "p2p.close": CloseResult(()),
    }
    peer = (OTHER,) if command == "forward" else ()
    result = run(command, "/x/web", "8081", "/x/ssh", "2222", "/x/taken", "9", *peer, *as_json)
    assert (result.status, result.out) == (1, "")
    assert [call["protocol"] for call in fake.called("p2p.close")] == ["/x/ssh", "/x/web"]
    if as_json:
        assert "already" in json.loads(result.err)["Message"]
    else:
        assert result.err.startswith("Taken back: /x/web and /x/ssh.\nError: ")


def test_two_ports_for_one_name_and_two_free_ports_are_meant(fake: FakeDaemon, run: Run) -> None:
    fake.answers["p2p.forward"] = forwarded
    assert run("forward", "/x/web", "8081", "/x/web", "8082", OTHER, "--no-check").status == 0
    assert run("forward", "/x/web", "0", "/x/ssh", "0", OTHER, "--no-check").status == 0


def test_what_cannot_be_taken_back_is_told(fake: FakeDaemon, run: Run) -> None:
    fake.answers |= {"p2p.listen": listened, "p2p.close": NotFound("no")}
    result = run("listen", "/x/web", "8081", "/x/taken", "9")
    assert result.status == 1
    assert result.err.startswith("Error: listener already registered: /x/taken; and /x/web could not be")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("listen", "/x/web", "8081", "/x/ssh"), "'/x/ssh' has no partner"),
        (("listen", "/x/web", "8081", "2222"), "'2222' has no partner"),
        (("forward", "/x/web", "8081", "/x/ssh", "2222"), "no peer given: it comes last"),
        (("forward", "/x/web", "8081", "/x/ssh"), "no peer given: it comes last"),
        (("listen", "/x/web", "8081", "/x/web", "22"), "/x/web is given twice"),
        (("forward", "/x/a", "81", "/x/b", "localhost:81", OTHER), "127.0.0.1:81 is given twice"),
        (("listen", "/x/web", "8081", "/x/ssh", "localhost"), 'failed to parse multiaddr "localhost": must'),
    ],
)
def test_pairs_that_cannot_be_meant_are_refused_before_anything_is_done(
    fake: FakeDaemon, run: Run, arguments: tuple[str, ...], said: str
) -> None:
    result = run(*arguments)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith(f"Error: {said}") and "\nhint: " in result.err
    assert not fake.called("p2p.listen") and not fake.called("p2p.forward")


# --- the rest -------------------------------------------------------------------------------------


def test_swarm_peers(filled: FakeDaemon, run: Run, on_terminal: OnTerminal) -> None:
    assert run("swarm", "peers").out == f"/ip4/192.0.2.7/tcp/4101/p2p/{OTHER}\n"
    assert json.loads(run("swarm", "peers", "--json").out)["Peers"][0]["Peer"] == OTHER
    # The agent's escape sequence, a stranger's words, does not reach the terminal.
    assert on_terminal("swarm", "peers", columns=100) == (
        "PEER         ADDRESS         DIR  SECURITY        LIVE    AGE     RTT  AGENT\n"
        "12D3…wvuTHr  192.0.2.7:4101  out  noise/chacha20     1  1m01s  0.42ms  kubo/0.22.0/\\x1b[31m\n"
    )


def test_swarm_connect_and_disconnect(fake: FakeDaemon, run: Run) -> None:
    fake.answers["swarm.connect"] = ConnectResult(CONNECTION)
    assert run("swarm", "connect", f"/ip4/192.0.2.7/tcp/4101/p2p/{OTHER}").out == (
        f"Connected to {OTHER} (/ip4/192.0.2.7/tcp/4101, /noise, 0.42ms).\n"
    )
    fake.answers["swarm.disconnect"] = DisconnectResult(peer=OTHER, closed=2)
    assert run("swarm", "disconnect", OTHER).out == f"Closed 2 connections to {OTHER}.\n"


def test_swarm_addrs(fake: FakeDaemon, run: Run) -> None:
    fake.answers["swarm.addrs"] = AddrsResult(PEER, ("/ip4/10.0.0.2/tcp/4011",), ("/ip4/192.0.2.7/tcp/4011",))
    assert run("swarm", "addrs").out == (
        "listen    /ip4/10.0.0.2/tcp/4011\nobserved  /ip4/192.0.2.7/tcp/4011\n"
    )


def test_swarm_addrs_tells_what_was_proved(fake: FakeDaemon, run: Run) -> None:
    home, router = "/ip4/10.0.0.2/tcp/4011", "/ip4/192.0.2.7/tcp/4011"
    own = (OwnAddress(home, "bound"), OwnAddress(router, "proved", (OTHER,), 60.0, 2640.0))
    fake.answers["swarm.addrs"] = AddrsResult(PEER, (router, home), (), own)
    assert run("swarm", "addrs").out == f"proved  {router}\nlisten  {home}\n"
    told = json.loads(run("swarm", "addrs", "--json").out)["Own"][1]
    assert (told["Kind"], told["By"], told["LeftS"]) == ("proved", [OTHER], 2640.0)


def test_ping_prints_each_and_a_summary(fake: FakeDaemon, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pfwd.cli.swarm.PING_INTERVAL_S", 0)
    times = iter([0.4, 1.6, 0.4, 1.6])
    address = "/ip4/192.0.2.7/tcp/4101"
    fake.answers["ping"] = lambda params: PingResult(OTHER, address, "direct", next(times))
    assert run("ping", "-n", "2", OTHER).out == (
        f"12D3…wvuTHr: 0.40ms (direct, {address})\n"
        f"12D3…wvuTHr: 1.6ms (direct, {address})\n"
        "2 of 2 answered; round trip: least 0.40ms, mean 1.0ms, most 1.6ms\n"
    )
    document = json.loads(run("ping", "-n", "2", OTHER, "--json").out)
    assert (document["Sent"], document["Received"], document["MaxMilliseconds"]) == (2, 2, 1.6)


def test_id(fake: FakeDaemon, run: Run) -> None:
    fake.answers["id"] = IdResult(
        PEER, "CAES", (f"/ip4/10.0.0.2/tcp/4011/p2p/{PEER}",), "p2pfwd/0.1.0", "ipfs/0.1.0", ("/x/", "/y")
    )
    assert run("id").out == (
        f"peer ID     {PEER}\n"
        "public key  CAES\n"
        "agent       p2pfwd/0.1.0\n"
        f"addresses   /ip4/10.0.0.2/tcp/4011/p2p/{PEER}\n"
        "protocols   /x/\n"
        "            /y\n"
    )
    assert json.loads(run("id", "--json").out) == {
        "ID": PEER,
        "PublicKey": "CAES",
        "Addresses": [f"/ip4/10.0.0.2/tcp/4011/p2p/{PEER}"],
        "AgentVersion": "p2pfwd/0.1.0",
        "ProtocolVersion": "ipfs/0.1.0",
        "Protocols": ["/x/", "/y"],
    }


def test_status(fake: FakeDaemon, run: Run) -> None:
    fake.answers["daemon.status"] = StatusResult(
        "0.1.0", 42, PEER, 3725.0, home="/h", socket="/h/rpc.sock", log="/h/daemon.log", peers=1,
        connections=2, listeners=3, streams=4, bytes_in=1500, bytes_out=0, rss_bytes=38_000_000,
        addresses=("/ip4/10.0.0.2/tcp/4011", "/ip6/::1/tcp/4011"),
    )  # fmt: skip
    assert run("status").out == (
        "daemon     p2pfwd 0.1.0, running for 1h02m, process 42\n"
        "network    public\n"
        "reachable  not known yet: no peer has tried to dial back\n"
        f"peer ID    {PEER}\n"
        "addresses  /ip4/10.0.0.2/tcp/4011\n"
        "           /ip6/::1/tcp/4011\n"
        "tunnels    3 listeners, 4 live streams\n"
        "peers      1 peer over 2 connections\n"
        "traffic    1.5kB in, 0B out\n"
        "memory     38MB\n"
        "home       /h\n"
        "socket     /h/rpc.sock\n"
        "log        /h/daemon.log\n"
    )


def test_doctor_gives_each_check_a_line_its_cure_below_it_and_the_verdict_at_the_end(
    fake: FakeDaemon, run: Run
) -> None:
    found = (
        Finding("sockets", "good", "listening on /ip4/192.0.2.1/tcp/4011"),
        Finding("relay", "bad", "none has a place for this node", "name a relay in reach.relays"),
    )
    fake.answers["doctor"] = DoctorResult(found, False, "no stranger gets a tunnel")
    result = run("doctor")
    assert (result.status, result.out) == (
        1,
        "sockets  good: listening on /ip4/192.0.2.1/tcp/4011\n"
        "relay    bad: none has a place for this node\n"
        "               name a relay in reach.relays\n"
        "So no stranger gets a tunnel.\n",
    )
    fake.answers["doctor"] = DoctorResult(found[:1], True, "a stranger gets a tunnel: directly")
    assert run("doctor", OTHER).status == 0
    assert fake.called("doctor")[-1]["peer"] == OTHER
    assert json.loads(run("doctor", "--json").out)["Reachable"] is True


def test_ping_until_direct_tells_each_change_of_path_with_its_time(
    fake: FakeDaemon, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pfwd.cli.swarm.UNTIL_DIRECT_INTERVAL_S", 0.0)
    who = "12D3…wvuTHr:"
    told = [("relayed", "no-punch", "relayed: why"), ("direct", "punched", "direct: both dialed")]

    def pings() -> Iterator[PingResult]:
        for path, code, words in (told[0], told[0], told[1]):
            yield PingResult(OTHER, "/ip4/192.0.2.1/tcp/1", path, 1.0, code, words)  # type: ignore[arg-type]

    for words in (("ping", "--until-direct", OTHER), ("ping", "--until-direct", "--json", OTHER)):
        answers = pings()
        fake.answers["ping"] = lambda _params, answers=answers: next(answers)
        result = run(*words)
        assert result.status == 0
        if "--json" not in words:
            lines = result.out.splitlines()
            assert [line.split(" ")[0] for line in lines[:5]] == ["After", who, who, "After", who]
            assert lines[0].endswith(" s relayed: why.") and lines[3].endswith(" s direct: both dialed.")
            assert lines[5].startswith("3 of 3 answered")
        else:
            changes = json.loads(result.out)["Paths"]
            assert [(it["Path"], it["PathCode"], it["PathReason"]) for it in changes] == told
            assert 0 <= changes[0]["AfterSeconds"] <= changes[1]["AfterSeconds"]
    fake.answers["ping"] = PingResult(OTHER, "/ip4/192.0.2.1/tcp/1", "relayed", 1.0)
    result = run("ping", "--until-direct", "-n", "2", OTHER)
    assert result.status == 6 and "is still reached over a relay" in result.err
    result = run("ping", "--until-direct", "-n", "2", "--json", OTHER)
    assert result.status == 6 and json.loads(result.err)["Code"] == "timed-out"
    assert [it["Path"] for it in json.loads(result.out)["Paths"]] == ["relayed"], "what there was is told"


MAPPED = PortMapping(
    4011, "mapped", protocol="UPnP", router="10.0.0.1", address="/ip4/203.0.113.5/tcp/4012", left_s=3480.0
)


@pytest.mark.parametrize(
    ("one", "words"),
    [
        pytest.param(
            MAPPED,
            "the router maps 203.0.113.5:4012 to this node's 4011 by UPnP, for 58 more minutes",
            id="mapped",
        ),
        pytest.param(
            replace(MAPPED, left_s=None),
            "the router maps 203.0.113.5:4012 to this node's 4011 by UPnP, for good",
            id="permanent",
        ),
        pytest.param(
            replace(MAPPED, state="useless", reason="the router is behind another NAT"),
            "useless: the router is behind another NAT",
            id="useless",
        ),
        pytest.param(
            PortMapping(4011, "silent", "the router answers no port mapping protocol"),
            "the router answers no port mapping protocol",
            id="silent",
        ),
        pytest.param(
            PortMapping(4011, "searching"),
            "the router is being asked to lead a port to this node's 4011",
            id="searching",
        ),
    ],
)
def test_status_says_what_the_router_maps(
    fake: FakeDaemon, run: Run, one: PortMapping, words: str
) -> None:
    fake.answers["daemon.status"] = StatusResult("0.1.0", 42, PEER, 1.0, port_mappings=(one, one))
    assert f"mapping    {words}\n           {words}\n" in run("status").out
    assert json.loads(run("status", "--json").out)["PortMappings"][0]["State"] == one.state


@pytest.mark.parametrize(
    ("standing", "nat", "words"),
    [
        ("offline", "unknown", "no network"),
        ("public", "none", "public, by everybody"),
        ("mapped", "endpoint-independent", "public by a mapped port"),
        ("punchable", "endpoint-independent", "behind a NAT that can be punched"),
        ("punchable", "none", "behind a firewall that can be punched"),
        ("unpunchable", "symmetric", "behind a NAT that cannot be punched: every destination gets another"),
        ("hidden", "unknown", "not by strangers: peers could not dial back"),
        ("unknown", "unknown", "not known yet"),
    ],
)
def test_status_says_where_the_node_stands(
    fake: FakeDaemon, run: Run, standing: Any, nat: Any, words: str
) -> None:
    fake.answers["daemon.status"] = StatusResult("0.1.0", 42, PEER, 1.0, standing=standing, nat=nat)
    assert f"reachable  {words}" in run("status").out
    told = json.loads(run("status", "--json").out)
    assert (told["Standing"], told["NAT"]) == (standing, nat)


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        ("id", "nothing but the peer ID"),
        ("same-network", "the peer ID, by a peer on the same local network"),
        ("address", "the line that `p2pfwd listen` prints"),
        ("relay", "a relay that a tunnel can go over"),
    ],
)
def test_status_says_what_a_peer_needs(fake: FakeDaemon, run: Run, needs: Any, words: str) -> None:
    fake.answers["daemon.status"] = StatusResult("0.1.0", 42, PEER, 1.0, needs=needs)
    assert f"needed     {words}" in run("status").out
    assert json.loads(run("status", "--json").out)["Needs"] == needs


def test_status_tells_since_when_an_address_is_proved_and_by_whom(fake: FakeDaemon, run: Run) -> None:
    home, router = "/ip4/10.0.0.2/tcp/4011", "/ip4/192.0.2.7/tcp/4011"
    own = (OwnAddress(router, "proved", (OTHER,), 60.0, 2640.0, 3725.0), OwnAddress(home, "bound"))
    fake.answers["daemon.status"] = StatusResult("0.1.0", 42, PEER, 1.0, announced=own)
    assert f"\nproved     {router} for 1h02m, last by {OTHER}\n" in run("status").out
    assert json.loads(run("status", "--json").out)["Announced"][0]["SinceS"] == 3725.0


def test_status_tells_what_is_held_and_what_was_refused_most(fake: FakeDaemon, run: Run) -> None:
    fake.answers["daemon.status"] = StatusResult(
        "0.1.0",
        42,
        PEER,
        1.0,
        refused={"dht-requests": 3, "ping-streams": 12, "a-b": 3},
        swarm_streams=3,
        tasks=1,
        descriptors=21,
    )
    plain, told = run("status").out, run("status", "-v").out
    assert told.removeprefix(plain) == (
        "held       3 swarm streams, 1 task, 21 descriptors\n"
        "refused    12 ping-streams\n"
        "           3 a-b\n"
        "           3 dht-requests\n"
    )
    assert json.loads(run("status", "--json").out)["Refused"]["ping-streams"] == 12
    fake.answers["daemon.status"] = StatusResult("0.1.0", 42, PEER, 1.0)
    assert run("status", "--verbose").out.endswith("refused    nothing\n")


def test_log_level(fake: FakeDaemon, run: Run) -> None:
    fake.answers["log.level"] = LogLevelResult({"swarm": "debug", "rpc": "info"})
    assert run("log", "level", "swarm", "debug").out == "rpc   info\nswarm debug\n"
    assert fake.called("log.level") == [{"subsystem": "swarm", "level": "debug"}]


def test_a_table_leaves_wide_characters_their_two_cells(fake: FakeDaemon, on_terminal: OnTerminal) -> None:
    name = "/x/ウェブサーバ"
    fake.answers["p2p.ls"] = LsResult((replace(FORWARD, protocol=name),))
    row = on_terminal("ls").splitlines()[1]
    assert row.split()[:3] == ["forward", name, "127.0.0.1:2222"]
