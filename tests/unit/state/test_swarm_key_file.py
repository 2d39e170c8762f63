"""swarm_key_file: Kubo's file is read, ours is private and never replaced, refusals name their cure."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from p2pfwd.errors import InvalidKey, NotFound, StorageFailed, UsageError
from p2pfwd.state import swarm_key_file

TEXT = json.loads((Path(__file__).parents[2] / "vectors/pnet.json").read_text())["swarm_key"].encode()


def written(path: Path, data: bytes = TEXT, mode: int = 0o600) -> Path:
    """`path`, with that content and mode."""
    path.write_bytes(data)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("", "/home/u/.p2pfwd/swarm.key"),
        ("office.key", "/home/u/.p2pfwd/office.key"),
        ("/etc/p2pfwd/swarm.key", "/etc/p2pfwd/swarm.key"),
        ("~/keys/swarm.key", "/home/u/keys/swarm.key"),
    ],
)
def test_where_the_file_is(setting: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/u")
    assert swarm_key_file.location(Path("/home/u/.p2pfwd"), setting) == Path(expected)


def test_a_key_that_is_made_is_private_and_reads_as_itself(tmp_path: Path) -> None:
    path = tmp_path / "new" / "swarm.key"
    key = swarm_key_file.create(path)
    assert swarm_key_file.load(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.read_bytes().startswith(b"/key/swarm/psk/1.0.0/\n/base16/\n")
    assert swarm_key_file.create(tmp_path / "other.key") != key


def test_kubos_file_is_read(tmp_path: Path) -> None:
    key = swarm_key_file.load(written(tmp_path / "swarm.key"))
    assert key.fingerprint() == "45fc986bbc9388a11d939df26f730f0c"


@pytest.mark.parametrize("dangling", [False, True])
def test_a_key_that_is_there_is_never_replaced(tmp_path: Path, dangling: bool) -> None:
    path = tmp_path / "swarm.key"
    if dangling:
        path.symlink_to(tmp_path / "elsewhere")
    else:
        written(path)
    with pytest.raises(UsageError, match="there is one already") as caught:
        swarm_key_file.create(path)
    assert caught.value.hint and "move it away" in caught.value.hint
    assert path.is_symlink() if dangling else path.read_bytes() == TEXT


def test_no_key_is_not_found_and_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"swarm key .*/swarm.key: there is none") as caught:
        swarm_key_file.load(tmp_path / "swarm.key")
    assert caught.value.hint and "p2pfwd swarm key new" in caught.value.hint


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path / "swarm.key", mode=mode)
    with pytest.raises(InvalidKey, match=f"other users can read it \\(mode {mode:04o}\\)") as caught:
        swarm_key_file.load(path)
    assert caught.value.hint == f"chmod 600 {path}"


def test_what_is_no_key_is_told_with_its_path_and_without_its_content(tmp_path: Path) -> None:
    secret = TEXT.split(b"\n")[2]
    for data in (b"", secret, TEXT + b"00", b"x" * 5000):
        with pytest.raises(InvalidKey, match=f"swarm key {tmp_path}/swarm.key: ") as caught:
            swarm_key_file.load(written(tmp_path / "swarm.key", data))
        assert caught.value.hint and secret.decode()[:8] not in caught.value.message


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path in (tmp_path / "fifo", tmp_path):
        with pytest.raises((InvalidKey, StorageFailed), match=r"not a file|Is a directory"):
            swarm_key_file.load(path)
    with pytest.raises(StorageFailed, match="Not a directory"):
        swarm_key_file.load(written(tmp_path / "file") / "swarm.key")
