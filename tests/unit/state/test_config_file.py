"""Setting keys in a config.toml that somebody has written: his lines stay, and it says what is wanted."""

from __future__ import annotations

import stat
import tomllib
from pathlib import Path

import pytest

from p2pfwd.errors import InvalidConfig
from p2pfwd.state.config_file import change, edited

CHANGES = {"network": "private", "bootstrap.peers": ["/a", "/b"], "dht.mode": "server"}
ALL = {"network": "private", "bootstrap": {"peers": ["/a", "/b"]}, "dht": {"mode": "server"}}

OWN = """\
# my settings
network = "public"  # for now

[swarm]
listen = [
  "/ip4/0.0.0.0/tcp/4011",  # the router forwards it
]

[bootstrap]
# nobody yet
peers = ["auto"] # "#"

[log]
level = "debug"
"""

DONE = """\
# my settings
network = "private"  # for now

[swarm]
listen = [
  "/ip4/0.0.0.0/tcp/4011",  # the router forwards it
]

[bootstrap]
# nobody yet
peers = ["/a", "/b"]  # "#"

[log]
level = "debug"

[dht]
mode = "server"
"""


def test_other_lines_and_comments_stay() -> None:
    assert edited(OWN, CHANGES) == DONE
    assert edited(DONE, CHANGES) == DONE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "# nothing\n",
        'network="lan"',
        "[dht]\n",
        '[dht]\nprefix = "/x"\n\n[log]\nlevel = "info"\n',
        'dht.prefix = "/x"\nbootstrap.peers = []\n[log]\nlevel = "info"\n',
        '[log]\nlevel = """info"""\n[bootstrap]\npeers = [\n "[dht]",\n]\n',
        "[bootstrap]\npeers = [ # first\n]\n[dht] # here\n\nmode = 'auto'",
        '\tnetwork = "a#b"#c\r\n',
    ],
)
def test_what_is_wanted_comes_out(text: str) -> None:
    before = tomllib.loads(text)
    after = tomllib.loads(edited(text, CHANGES))
    for key, value in ALL.items():
        if isinstance(value, dict):
            assert after[key] == before.get(key, {}) | value
        else:
            assert after[key] == value
    for key in before.keys() - ALL.keys():
        assert after[key] == before[key]


DECLARED = """\
# tunnels of the office
[[listen]]  # ssh
protocol = "/x/[dht]"
target = "22"
mode = "x"

[access."x"]
default = "any"

[[forward]]
protocol = "/x/web"
peer = [
  "/a",
]
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            DECLARED,
            'network = "private"\n'
            + DECLARED
            + '\n[bootstrap]\npeers = ["/a", "/b"]\n\n[dht]\nmode = "server"\n',
        ),
        (
            DECLARED + "[dht]\nmode = 'auto'\n",
            'network = "private"\n'
            + DECLARED
            + '[dht]\nmode = "server"\n\n[bootstrap]\npeers = ["/a", "/b"]\n',
        ),
        (
            "[dht]\nprefix = '/x'\n" + DECLARED,
            'network = "private"\n[dht]\nprefix = \'/x\'\nmode = "server"\n'
            + DECLARED
            + '\n[bootstrap]\npeers = ["/a", "/b"]\n',
        ),
    ],
)
def test_tables_of_tunnels_and_their_comments_stay_as_they_are(before: str, after: str) -> None:
    assert edited(before, CHANGES) == after


def test_a_value_of_several_lines_stays_as_a_comment() -> None:
    text = '[bootstrap]\npeers = [\n  "/a",  # the first\n]\n'
    assert edited(text, {"bootstrap.peers": ["/b"]}) == (
        '[bootstrap]\n# peers = [\n#   "/a",  # the first\n# ]\npeers = ["/b"]\n'
    )


@pytest.mark.parametrize(
    "text", ["dht = { prefix = '/x' }\n", "[[bootstrap]]\n", "'network' = 'lan'\n", "dht = 3"]
)
def test_what_cannot_be_changed_is_left_alone_with_the_lines_to_write(text: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        edited(text, CHANGES)
    assert caught.value.hint is not None and 'dht.mode = "server"' in caught.value.hint


def test_a_file_that_is_no_toml_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("network = \n")
    with pytest.raises(InvalidConfig):
        change(path, CHANGES)
    assert path.read_text() == "network = \n"


def test_a_byte_order_mark_is_no_statement(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xef\xbb\xbf" + OWN.encode())
    change(path, CHANGES)
    assert path.read_text() == edited(OWN, CHANGES)


def test_a_new_file_is_the_users_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "config.toml"
    change(path, CHANGES)
    assert tomllib.loads(path.read_text()) == ALL
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
