"""The man pages say what the program does: every command, option, exit status, setting, method, error code.

Both ways: what the program has and a page lacks fails, and what a page has and the program lacks.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from string import Formatter
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from p2pfwd import errors
from p2pfwd.cli.tree import root_command
from p2pfwd.core.terms import ForwardTerms, ListenTerms
from p2pfwd.daemon import inviting, networks, notices
from p2pfwd.daemon.config import Config
from p2pfwd.daemon.settings import Settings
from p2pfwd.history import file as history_file
from p2pfwd.history.kinds import KINDS, TOPICS
from p2pfwd.policy import service_bounds
from p2pfwd.policy.paths import PathCode
from p2pfwd.rpc import schema
from p2pfwd.rpc.paths import Paths
from p2pfwd.state import swarm_key_file
from p2pfwd.wire.invite import InviteStatus
from p2pfwd.wire.yamux import reset_codes

ROOT = Path(__file__).parents[2]
MAN = ROOT / "man"
PACKAGE = ROOT / "p2pfwd"
SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
PAGES = ("p2pfwd.1", "p2pfwd-daemon.8", "p2pfwd-protocols.7", "p2pfwd-rpc.7")


def sections(page: str, macro: str) -> dict[str, list[str]]:
    """Lines below each heading of a page: `Sh` or `Ss`."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in (MAN / page).read_text().splitlines():
        if line.startswith(f".{macro} "):
            lines = found[line.split(" ", 1)[1]] = []
        elif line.startswith(".Sh "):
            lines = []
        else:
            lines.append(line)
    return found


def flags(lines: list[str]) -> set[str]:
    """The options that the tags of a list name: `.It Fl f , Fl \\-foreground` is -f and --foreground."""
    words = [word for line in lines if line.startswith(".It Fl ") for word in line.split()]
    named = {words[index + 1] for index, word in enumerate(words) if word.endswith("Fl")}
    return {"-" + word.replace("\\", "") for word in named}


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command that is no group, by its words."""
    command = command or root_command()
    context = command.context_class(command, info_name="p2pfwd")
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        if hasattr(found, "commands"):
            if found.params:
                yield " ".join((*path, name)), found  # a group that is a command, too
            yield from commands(found, (*path, name))
        else:
            yield " ".join((*path, name)), found


COMMANDS = dict(commands())


def test_the_commands_are_those_of_the_program() -> None:
    described = [name for name in sections("p2pfwd.1", "Ss") if name[0].islower()]
    assert described == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_options_of_a_command(name: str) -> None:
    lines = sections("p2pfwd.1", "Ss")[name]
    options = [it for it in COMMANDS[name].params if it.param_type_name == "option"]
    assert flags(lines) == {spelling for option in options for spelling in option.opts}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_arguments_of_a_command(name: str) -> None:
    synopsis = next(line for line in sections("p2pfwd.1", "Ss")[name] if line.startswith(".D1 "))
    assert synopsis.startswith(f".D1 Nm Cm {name}")
    arguments = [it for it in COMMANDS[name].params if it.param_type_name == "argument"]
    for argument in arguments:
        word = argument.metavar.removesuffix("...")
        assert re.search(rf"\b{word}\b", synopsis), argument.metavar
        assert (argument.nargs == -1) == (f"{word} ..." in synopsis)


def test_the_options_of_every_command() -> None:
    options = [it for it in root_command().params if it.param_type_name == "option"]
    spelled = {spelling for option in options for spelling in option.opts}
    described = flags(sections("p2pfwd.1", "Ss")["Options for every command"])
    assert described == spelled | {"-h", "--help"}


def test_the_exit_statuses() -> None:
    lines = sections("p2pfwd.1", "Sh")["EXIT STATUS"]
    assert [int(line[4:]) for line in lines if line.startswith(".It ")] == [
        int(it) for it in errors.ExitStatus
    ]


def test_the_settings() -> None:
    lines = sections("p2pfwd-daemon.8", "Sh")["SETTINGS"]
    tags = [line.removeprefix(".It Va ") for line in lines if line.startswith(".It Va ")]
    defaults = [line.removeprefix("Default: ") for line in lines if line.startswith("Default: ")]
    entries = list(Config(Settings(), {}).entries())
    assert dict(zip(tags, defaults, strict=True)) == {it.key: json.dumps(it.default) for it in entries}
    texts = re.findall(r"^\.It Va (\S+)\n(.*?)\nDefault: ", "\n".join(lines), re.MULTILINE | re.DOTALL)
    assert {key: text.replace("\n", " ") for key, text in texts} == {it.key: it.doc for it in entries}


def test_the_options_of_the_daemon() -> None:
    options = [it for it in COMMANDS["daemon"].params if it.param_type_name == "option"]
    described = flags(sections("p2pfwd-daemon.8", "Sh")["DESCRIPTION"])
    assert described == {spelling for option in options for spelling in option.opts}


def test_the_methods_of_the_rpc() -> None:
    described = [name for name in sections("p2pfwd-rpc.7", "Ss") if name[0].islower()]
    assert described == list(schema.METHODS)


@pytest.mark.parametrize("method", schema.METHODS)
def test_the_parameters_and_results_of_a_method(method: str) -> None:
    params, result = schema.METHODS[method]
    lines = sections("p2pfwd-rpc.7", "Ss")[method]
    described = [line.removeprefix(".It Va ") for line in lines if line.startswith(".It Va ")]
    required = [f.name + " *" if f.default is MISSING else f.name for f in fields(params)]
    assert described == required
    if result is schema.Check:
        assert ".Sx Check ." in lines
    else:
        assert members(lines) == [schema.wire_name(f) for f in fields(result)]


@pytest.mark.parametrize(
    "kind",
    [
        schema.Listener,
        schema.Limits,
        schema.SetupChange,
        schema.Stream,
        schema.Peer,
        schema.Access,
        schema.AccessRule,
        schema.AccessRequest,
        schema.Block,
        schema.HistoryEvent,
        schema.HistoryDigest,
        schema.NamedPeer,
        schema.NearPeer,
        schema.RelayPlace,
        schema.RelayPeer,
        schema.RelayCircuit,
        schema.RelayToken,
        schema.Invite,
        schema.DhtTable,
        schema.DhtBucket,
        schema.PortMapping,
        schema.Check,
        schema.Notice,
    ],
)
def test_the_objects_of_the_rpc(kind: Any) -> None:
    assert members(sections("p2pfwd-rpc.7", "Ss")[kind.__name__]) == [
        schema.wire_name(f) for f in fields(kind)
    ]


def parts(kind: Any) -> Iterator[Any]:
    """The types that a type is made of, itself among them."""
    yield kind
    for part in get_args(kind):
        yield from parts(part)


def described(name: str) -> str:
    """A section of the RPC's page, with those that it refers to."""
    page = sections("p2pfwd-rpc.7", "Ss")
    referred = [line.split()[1] for line in page[name] if line.startswith(".Sx ")]
    return " ".join(line for it in (name, *referred) for line in page.get(it, []))


def words_of(kind: Any) -> set[str]:
    """The fixed words of an object's fields; of objects without a section of their own also their names."""
    found: set[str] = set()
    for hint in get_type_hints(kind).values():
        for part in parts(hint):
            if get_origin(part) is Literal:
                found.update(get_args(part))
            elif is_dataclass(part) and part.__name__ not in sections("p2pfwd-rpc.7", "Ss"):
                found.update(schema.wire_name(f) for f in fields(part))
                found |= words_of(part)
    return found


OBJECTS = {name: getattr(schema, name, None) for name in sections("p2pfwd-rpc.7", "Ss")}


@pytest.mark.parametrize("name", OBJECTS)
def test_the_words_of_a_section_of_the_rpc(name: str) -> None:
    kinds = schema.METHODS[name] if name in schema.METHODS else (OBJECTS[name],)
    words = set().union(*(words_of(kind) for kind in kinds if is_dataclass(kind)))
    text = described(name)
    assert {it for it in words if not re.search(rf"(?<![\w-]){re.escape(it)}(?![\w-])", text)} == set()


OWN_JSON = {
    "config": "config show",
    "daemon": "shutdown",
    "foreground": "listen Fl \\-foreground , Ic forward Fl \\-foreground",
    "forward": "forward , join",
    "hub": "hub",
    "join": "forward , join",
    "key": "key import",
    "listen": "listen",
    "network": "network join",
    "p2p": "ls",
    "service": "service install , service uninstall , service status",
    "swarm": "ping",
    "swarm_key": "swarm key new , swarm key show",
}
"""Modules of the command line that name something in what they print, and where the page tells it."""


def names_given_by(module: Path) -> set[str]:
    """The keys of JSON objects that a module writes: those of its dicts that begin with a capital."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        keys = node.keys if isinstance(node, ast.Dict) else []
        texts = [key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]
        found.update(text for text in texts if re.fullmatch(r"[A-Z][A-Za-z]+", text))
    return found


def test_the_names_in_json_that_no_method_has() -> None:
    given = {path.stem: names_given_by(path) for path in (PACKAGE / "cli").glob("*.py")}
    assert given.pop("exits") == {"Code", "Message", "Hint"}
    described: dict[str, set[str]] = {}
    for line in sections("p2pfwd.1", "Sh")["JSON"]:
        if line.startswith(".It Ic "):
            names = described[line.removeprefix(".It Ic ")] = set()
        elif line.startswith(".It Vt "):
            names.add(line.removeprefix(".It Vt "))
    assert {module: described[place] for module, place in OWN_JSON.items()} == {
        module: names for module, names in given.items() if names
    }
    assert set(described) == set(OWN_JSON.values())


NOT_TO_BE_SET = {"INVOCATION_ID", "P2PFWD_READY_FD", "PYTHONPATH"}
"""Variables by which processes of ours, and systemd, know each other."""


VARIABLE = re.compile(
    r"(P2PFWD|LIBP2P|XDG|NOTIFY|WATCHDOG|JOURNAL|INVOCATION)_[A-Z_]*[A-Z]|PYTHON[A-Z]+|NO_COLOR|TERM"
)


def test_the_variables_of_the_environment() -> None:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.update([node.value] if VARIABLE.fullmatch(node.value) else [])
    assert {"P2PFWD_HOME", "TERM", "PYTHONMALLOC"} <= found, "the search finds them"
    told = set()
    for page in ("p2pfwd.1", "p2pfwd-daemon.8"):
        lines = [line for line in sections(page, "Sh")["ENVIRONMENT"] if line.startswith(".It Ev ")]
        told.update(word for line in lines for word in line.removeprefix(".It Ev ").split(" , "))
    assert told - {"COLUMNS"} == found - NOT_TO_BE_SET


def test_the_files() -> None:
    paths = Paths.resolve("/home", {})
    named = [getattr(paths, name) for name in dir(paths) if name.endswith("_file")]
    files = {path.name for path in (*named, paths.socket, swarm_key_file.location(paths.home, ""))}
    lines = sections("p2pfwd-daemon.8", "Sh")["FILES"]
    assert {line.rpartition("/")[2] for line in lines if line.startswith(".It Pa ")} == files


def members(lines: list[str]) -> list[str]:
    return [line.removeprefix(".It Vt ") for line in lines if line.startswith(".It Vt ")]


def test_the_topics_of_the_rpc() -> None:
    lines = sections("p2pfwd-rpc.7", "Sh")["EVENTS"]
    tags = [line.removeprefix(".It Cm ") for line in lines if line.startswith(".It Cm ")]
    assert tuple(tags) == schema.TOPICS


def test_the_error_codes_and_their_exit_statuses() -> None:
    found = [it for it in vars(errors).values() if isinstance(it, type)]
    codes = {it.code: int(it.exit_status) for it in found if issubclass(it, errors.P2PForwardError)}
    lines = sections("p2pfwd-rpc.7", "Sh")["ERRORS"]
    tags = [re.fullmatch(r"\.It Er (\S+) Pq (\d+)", line) for line in lines if line.startswith(".It ")]
    assert {tag[1]: int(tag[2]) for tag in tags if tag} == codes


def causes_in_code() -> set[str]:
    """Every cause that a `refusals.note` or a `services.refused` names, and those of the services' table."""
    found = service_bounds.causes()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                named = [it.value for it in node.args if isinstance(it, ast.Constant)]
                causes = [it for it in named if isinstance(it, str) and re.fullmatch(r"[a-z-]+", it)]
                if node.func.attr in ("note", "refused"):
                    found.update(causes)
                elif node.func.attr == "_shed":  # it makes its cause of what is held
                    found.update(f"{it}-shed" for it in causes)
    return found


def test_the_causes_of_refusals() -> None:
    causes = causes_in_code()
    assert {"memory-shed", "mdns-table-full", "tunnel-unused"} <= causes, "the search finds them"
    lines = sections("p2pfwd-rpc.7", "Sh")["REFUSALS"]
    assert {line.removeprefix(".It Li ") for line in lines if line.startswith(".It Li ")} == causes
    (listed,) = re.findall(r"is counted by its cause \(`net/refusals`\): (.*?)\.\n\n", SECURITY, re.DOTALL)
    assert set(re.findall(r"`(.*?)`", listed)) == causes - service_bounds.causes()


def protocols_in_code() -> set[str]:
    """Every name below /p2pfwd/ with a version that a module has as a constant."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.update(re.findall(r"^/p2pfwd/[a-z-]+/\d+(?:\.\d+\.\d+|/)$", node.value))
    return found


def test_the_protocols_of_our_own() -> None:
    lines = (MAN / "p2pfwd-protocols.7").read_text().splitlines()
    named = [line.split()[1] for line in lines if line.startswith(".Li /p2pfwd/")]
    private = f"{networks.OWN}/kad/1.0.0"
    assert {"/p2pfwd/invite/1.0.0", "/p2pfwd/probe/1.0.0"} <= protocols_in_code(), "the search finds them"
    assert {it.removesuffix("/x/ssh") for it in named} == protocols_in_code() | {private}


def test_the_reset_codes_of_our_own() -> None:
    """Whatever lies beyond libp2p's own."""
    lines = sections("p2pfwd-protocols.7", "Sh")["WHY A STREAM IS RESET"]
    told = [int(line.removeprefix(".It Li "), 16) for line in lines if line.startswith(".It Li ")]
    codes = {value for value in vars(reset_codes).values() if isinstance(value, int)}
    assert told == sorted(code for code in codes if code >= 0x2000)


def test_the_statuses_of_an_invite() -> None:
    lines = sections("p2pfwd-protocols.7", "Sh")["INVITE"]
    tags = [line.removeprefix(".It Li ") for line in lines if line.startswith(".It Li ")]
    assert tags == [f"{status.value} {status.name}" for status in InviteStatus]


def test_the_limits_of_the_rpc() -> None:
    text = (MAN / "p2pfwd-rpc.7").read_text()
    from p2pfwd.rpc import codec, events

    assert f"may have {schema.MAX_LINE_BYTES} bytes" in text
    assert f"at most {codec.MAX_ID_CHARS} characters" in text
    assert f"up to {events.MAX_QUEUED_EVENTS} of them" in text
    assert f'"rpc":{schema.RPC_MAJOR}' in text


@pytest.mark.parametrize("page", PAGES)
def test_the_page_is_sound_mdoc(page: str) -> None:
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    done = subprocess.run(
        ["groff", "-mdoc", "-Tutf8", "-ww", str(MAN / page)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) > 50


def test_every_page_is_there_and_is_installed_where_man_looks() -> None:
    assert sorted(path.name for path in MAN.iterdir()) == sorted(PAGES)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    installed = project["tool"]["setuptools"]["data-files"]
    assert sorted(page for pages in installed.values() for page in pages) == [
        f"man/{it}" for it in sorted(PAGES)
    ]
    assert all(page.endswith(folder[-1]) for folder, pages in installed.items() for page in pages)


def test_the_commands_without_json_are_named_in_the_readme() -> None:
    without = [name for name, it in COMMANDS.items() if all("--json" not in one.opts for one in it.params)]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (named,) = re.findall(r"`--json` on every command but (.*), and", readme)
    assert set(re.findall(r"`(.*?)`", named)) == set(without)


def test_the_codes_of_events() -> None:
    """Each is stable, and told with the fields that its words name; and so are the bounds of the history."""
    text = (MAN / "p2pfwd-rpc.7").read_text(encoding="utf-8")
    section = text.partition(".Sh HISTORY\n")[2].partition(".Sh ")[0]
    told = dict(re.findall(r"^\.It Li (\S+)\n(.*(?:\n[^.].*)*)", section, re.MULTILINE))
    assert list(told) == list(KINDS)
    for code, kind in KINDS.items():
        named = {name for _, name, _, _ in Formatter().parse(kind.words) if name}
        fields = told[code].partition("Fields: ")[2]
        assert all(name in fields for name in named - {"peer", "protocol", "count"}), code
    for most in history_file.MOST.values():
        assert f"{most:,}" in section or f"newest\n{most}" in section
    assert f"{round(sum(history_file.MOST.values())):,} events" in (MAN / "p2pfwd-daemon.8").read_text()
    assert text.partition(".It Vt Topic\n")[2].startswith(f"{', '.join(TOPICS[:-1])} or {TOPICS[-1]}\n")


def test_the_strangers_share_of_the_history() -> None:
    rates = service_bounds.STRANGERS_EVENTS
    assert rates.all is not None
    (said,) = re.findall(r"- \*\*The history\*\*.*?\n- ", SECURITY, re.DOTALL)
    said = " ".join(said.split())
    most = history_file.MOST
    assert f"fills {most['strangers']} events of their own" in said
    assert f"the owner's {most['own']:,}, or the {most['streams']:,} of streams" in said
    assert [round(1 / it.per_s) for it in (rates.peer, rates.network, rates.all)] == [600, 300, 60]
    assert f"he has {rates.peer.burst} at once and one in ten minutes" in said
    assert f"his address {rates.network.burst} and one in five" in said
    assert f"all strangers {rates.all.burst} and one a minute" in said


def test_the_codes_of_paths() -> None:
    """Each is stable, and told what it says."""
    text = (MAN / "p2pfwd-rpc.7").read_text(encoding="utf-8")
    section = text.partition(".Sh PATHS\n")[2].partition(".Sh ")[0]
    assert re.findall(r"^\.It Li (\S+)$", section, re.MULTILINE) == [code.value for code in PathCode]


@pytest.mark.parametrize(("table", "terms"), [("[[listen]]", ListenTerms), ("[[forward]]", ForwardTerms)])
def test_every_key_of_a_declared_tunnel_is_in_the_page(table: str, terms: type[Any]) -> None:
    text = (MAN / "p2pfwd-daemon.8").read_text(encoding="utf-8")
    described = text.partition(f".It Li {table}\n")[2].partition(".It Li")[0]
    assert [it.name for it in fields(terms) if f".Va {it.name}" not in described] == []


def test_every_notice_of_the_daemon_is_in_the_page() -> None:
    lines = " ".join(sections("p2pfwd-rpc.7", "Ss")["Notice"])
    codes = ["exposed", "undialable", notices.NO_PLACE, notices.ANY_ADDRESS]
    codes += [inviting.NOT_LISTENING, inviting.OPEN, inviting.NAMES_OPEN, inviting.UNREACHABLE]
    assert [code for code in codes if code not in lines] == []
