"""`key`, `config show` and `log tail`: what needs no tunnels."""

from __future__ import annotations

import json
import os
import signal
import stat
import tomllib
from pathlib import Path

from tests.cli.conftest import Run
from tests.support.daemon import Program, run_cli
from tests.support.fake_daemon import FakeDaemon


def made_key(home: Path) -> str:
    from p2pfwd.state import identity_file

    key, _ = identity_file.load_or_create(home / "identity.key")
    return identity_file.encode(key)


def test_export_prints_the_key_of_the_home(home: Path, run: Run) -> None:
    text = made_key(home)
    result = run("key", "export")
    assert (result.status, result.out, result.err) == (0, text + "\n", "")


def test_export_to_a_file_is_private_and_replaces_nothing(home: Path, run: Run) -> None:
    text = made_key(home)
    target = home / "copy.key"
    result = run("key", "export", str(target))
    assert (result.status, result.out) == (0, "")
    assert target.read_text() == text + "\n"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    again = run("key", "export", str(target))
    assert (again.status, again.out) == (2, "")
    assert again.err == f"Error: key file {target}: it exists already\nhint: give the name of a new file\n"


def test_export_without_a_key(run: Run) -> None:
    result = run("key", "export")
    assert (result.status, result.out) == (4, "")


def test_import_makes_the_key_the_identity(home: Path, run: Run) -> None:
    other = home / "other"
    text = made_key(other)
    (home / "given.key").write_text(text)
    result = run("key", "import", str(home / "given.key"), "--json")
    assert result.status == 0
    assert json.loads(result.out)["ID"].startswith("12D3KooW")
    assert (home / "identity.key").read_text() == text + "\n"
    assert run("key", "export").out == text + "\n"


def test_import_reads_stdin(home: Path) -> None:
    text = made_key(home / "other")
    result = run_cli(home, "key", "import", "-", input=text)
    assert result.returncode == 0 and result.stdout.startswith("This node is now 12D3KooW")


def test_import_replaces_an_identity_only_by_force(home: Path, run: Run) -> None:
    mine, text = made_key(home), made_key(home / "other")
    (home / "given.key").write_text(text)
    refused = run("key", "import", str(home / "given.key"))
    assert refused.status == 2 and "has an identity already" in refused.err
    assert run("key", "export").out == mine + "\n"
    assert run("key", "import", str(home / "given.key"), "--force").status == 0
    assert run("key", "export").out == text + "\n"


def test_import_refuses_what_is_no_key(home: Path, run: Run) -> None:
    for content in (b"", b"not base64 !", b"AAAA", os.urandom(64), b"A" * 100_000):
        (home / "given.key").write_bytes(content)
        result = run("key", "import", str(home / "given.key"))
        assert (result.status, result.out) == (2, "")
        assert result.err.startswith("Error: imported key: ") and "\nhint: " in result.err
        assert not (home / "identity.key").exists()


def test_import_is_refused_while_a_daemon_runs(fake: FakeDaemon, home: Path, run: Run) -> None:
    (home / "given.key").write_text(made_key(home / "other"))
    result = run("key", "import", str(home / "given.key"))
    assert (result.status, result.out) == (1, "")
    assert result.err.startswith("Error: a daemon is running here (process 4242)")
    assert not (home / "identity.key").exists()


def test_config_show_is_toml_with_every_origin(home: Path, run: Run) -> None:
    from p2pfwd.daemon.config import load

    (home / "config.toml").write_text('[log]\nlevel = "debug"\n')
    result = run("config", "show")
    assert (result.status, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0] == f"# {home / 'config.toml'}"
    assert 'log.level = "debug"  # config.toml' in lines
    entries = list(load(home / "config.toml", {}).entries())
    assert len(lines) == 1 + len(entries)
    document = tomllib.loads(result.out)
    for entry in entries:
        section, _, name = entry.key.rpartition(".")
        value = list(entry.value) if isinstance(entry.value, tuple) else entry.value
        table = document[section] if section else document
        # The environment of the tests, in which every daemon is in the network lan, goes before the file.
        assert table[name] == ("lan" if name == "network" else value)


def test_config_show_json(home: Path, run: Run) -> None:
    document = json.loads(run("config", "show", "--json").out)
    assert (document["File"], document["Exists"]) == (str(home / "config.toml"), False)
    first = document["Settings"][0]
    assert (first["Key"], first["Value"], first["Default"]) == ("network", "lan", "public")
    assert first["Origin"] == "environment"
    assert {setting["Origin"] for setting in document["Settings"][1:]} == {"default"}


def test_config_show_of_a_corrupt_file(home: Path, run: Run) -> None:
    (home / "config.toml").write_text("[log\n")
    result = run("config", "show")
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith(f"Error: config file {home / 'config.toml'}: ")


def test_log_tail_prints_lines_until_the_daemon_stops(fake: FakeDaemon, home: Path) -> None:
    with Program(home, ["log", "tail"], {"TZ": "UTC"}) as program:
        fake.wait_for_call("events.subscribe")
        data = {"level": "warning", "logger": "swarm", "message": "odd\x1b", "trace": None}
        fake.emit("log", data)
        program.wait_for("WARNING")
        fake.emit("log", {"action": "dropped", "count": 3})
        program.wait_for("dropped")
        fake.emit("log", data | {"trace": "Traceback\n  boom"})
        program.wait_for("boom")
        fake.hang_up()
        assert (program.wait(), program.stderr) == (3, "Error: the daemon stopped\n")
        assert program.lines == [
            "2023-11-14 22:13:20.250 WARNING swarm: odd\\x1b",
            "2023-11-14 22:13:20.250 (3 lines dropped)",
            "2023-11-14 22:13:20.250 WARNING swarm: odd\\x1b",
            "Traceback",
            "  boom",
        ]


def test_log_tail_json_is_one_event_a_line(fake: FakeDaemon, home: Path) -> None:
    with Program(home, ["log", "tail", "--json"]) as program:
        fake.wait_for_call("events.subscribe")
        fake.emit("log", {"message": "a"})
        event = json.loads(program.wait_for("message"))
        program.process.send_signal(signal.SIGINT)
        assert program.wait() == 130
    assert event["Topic"] == "log" and event["Data"] == {"message": "a"}
    assert set(event) == {"Subscription", "Topic", "Time", "Data"}
