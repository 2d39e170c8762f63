"""Shell completion: `completion SHELL` prints a script that asks `p2pfwd __complete WORDS…` for candidates.

Commands and options come from the command tree, values from the running daemon: protocols, addresses, stream
IDs, known peers. Completion is silent: no daemon, no candidates. Candidates are one per line,
`value<TAB>description`; nothing a peer chose is put in a description, and no shell evaluates a candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2pfwd.cli.options import leads_on
from p2pfwd.cli.render import write
from p2pfwd.errors import MethodNotFound, P2PForwardError
from p2pfwd.history.kinds import KINDS, TOPICS

if TYPE_CHECKING:
    from p2pfwd.cli.env import Env
    from p2pfwd.rpc.client import Client

TIMEOUT_S = 1.0
"""For the daemon to answer while a person holds Tab."""

LEVELS = ("debug", "info", "warning", "error")
NETWORKS = ("public", "lan", "private")

_LISTS = {"allow", "tell_denied"}
"""Options that take several values, with commas between them."""

Candidate = tuple[str, str]


class Shell(StrEnum):
    """Shells there is a script for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


_BASH = r"""
_p2pfwd() {
    local IFS=$'\n' head= cur before i words=()
    local line=${COMP_LINE:0:COMP_POINT} breaks=${COMP_WORDBREAKS//[^=:]/}
    # bash breaks words at = and : as well: what no blank divides is one word here.
    for ((i = 0; i < COMP_CWORD; i++)); do
        before=${line%%"${COMP_WORDS[i]}"*}
        if [[ $i -eq 0 || -n $before ]]; then
            words+=("${COMP_WORDS[i]}")
        else
            words[${#words[@]} - 1]+=${COMP_WORDS[i]}
        fi
        line=${line#"$before${COMP_WORDS[i]}"}
    done
    cur=${line#"${line%%[![:blank:]]*}"}
    if [[ $cur == "$line" && ${#words[@]} -gt 1 ]]; then
        cur=${words[${#words[@]} - 1]}$cur
        unset "words[${#words[@]} - 1]"
    fi
    # What is before the last break stays where it is.
    [[ -n $breaks ]] && head=${cur%"${cur##*[$breaks]}"}
    COMPREPLY=()
    while IFS= read -r line; do
        line=${line%%$'\t'*}
        COMPREPLY+=("$(printf '%q' "${line#"$head"}")")
    done < <("${words[0]}" __complete "${words[@]:1}" "$cur" 2>/dev/null)
}
complete -o default -F _p2pfwd p2pfwd
"""

_ZSH = r"""
#compdef p2pfwd
_p2pfwd() {
    local -a lines values
    local line
    lines=("${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    for line in "${lines[@]}"; do
        [[ -n $line ]] && values+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
    done
    (( ${#values} )) && _describe -V 'p2pfwd' values || _files
}
if [ "$funcstack[1]" = "_p2pfwd" ]; then
    _p2pfwd "$@"
else
    compdef _p2pfwd p2pfwd
fi
"""

_FISH = r"""
function __p2pfwd_complete
    set -l words (commandline -opc) (commandline -ct)
    $words[1] __complete $words[2..-1] 2>/dev/null
end
complete -c p2pfwd -f -a '(__p2pfwd_complete)'
complete -c p2pfwd -n '__fish_seen_subcommand_from key apply' -F
"""

SCRIPTS = {Shell.BASH: _BASH, Shell.ZSH: _ZSH, Shell.FISH: _FISH}


def completion(
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
) -> None:
    """Print a completion script for a shell.

    bash: eval "$(p2pfwd completion bash)" in ~/.bashrc. zsh: the same in ~/.zshrc, after compinit.
    fish: p2pfwd completion fish > ~/.config/fish/completions/p2pfwd.fish
    """
    write(SCRIPTS[shell].strip())


def complete(root: Any, env: Env, words: Sequence[str]) -> list[Candidate]:
    """Candidates for the last of `words` (the arguments typed so far), in the command tree `root`."""
    *typed, incomplete = words or [""]
    command, context, rest = _descend(root, typed)
    if command is None:
        return []
    option, position = _scan(command, rest)
    if option is None and incomplete.startswith("-"):
        name, equals, value = incomplete.partition("=")
        if not equals:
            return [found for found in _options(command) if found[0].startswith(incomplete)]
        option = _option(command, name)
        prefix, incomplete = f"{name}=", value
    else:
        prefix = ""
    if option is None and hasattr(command, "commands") and leads_on(command, rest):
        found = [*_subcommands(command, context), *_values(env, _argument(command, position))]
    else:
        found = _values(env, option or _argument(command, position))
    if option is not None and option.name in _LISTS:
        done, comma, incomplete = incomplete.rpartition(",")
        prefix += done + comma
    return [(prefix + value, text) for value, text in found if value.startswith(incomplete)]


def home_option(words: Sequence[str]) -> str | None:
    """The value of --home among the words typed so far."""
    for word, following in pairwise(words):
        if word == "--home":
            return following
    return next((word.removeprefix("--home=") for word in words if word.startswith("--home=")), None)


def print_candidates(root: Any, env: Env, words: Sequence[str]) -> None:
    """Candidates on stdout, one per line."""
    for value, text in complete(root, env, words):
        if value.isprintable():
            write(f"{value}\t{text}")


def command_path(root: Any, words: Sequence[str]) -> str:
    """The command that `words` are for, without the program's name: `invite revoke`."""
    _, context, _ = _descend(root, words)
    return str(context.command_path).strip()


def _descend(root: Any, typed: Sequence[str]) -> tuple[Any, Any, list[str]]:
    """The command that `typed` leads to (None: there is no such), its context, and the words after it."""
    command, context, rest = root, _context(root, None), list(typed)
    while hasattr(command, "commands") and leads_on(command, rest):
        index = _first_positional(command, rest)
        if index is None:
            break
        found = command.get_command(context, rest[index])
        if found is None:
            return None, context, []
        command, context, rest = found, _context(found, context), rest[index + 1 :]
    return command, context, rest


def _context(command: Any, parent: Any) -> Any:
    return command.context_class(command, info_name=command.name, parent=parent)


def _first_positional(command: Any, words: Sequence[str]) -> int | None:
    skip = False
    for index, word in enumerate(words):
        if skip:
            skip = False
        elif word.startswith("-"):
            option = _option(command, word)
            skip = option is not None and not option.is_flag
        else:
            return index
    return None


def _scan(command: Any, words: Sequence[str]) -> tuple[Any, int]:
    """The option whose value comes next, or None; and how many arguments there are already."""
    pending, position, only_arguments = None, 0, False
    for word in words:
        if pending is not None:
            pending = None
        elif only_arguments or not word.startswith("-") or word == "-":
            position += 1
        elif word == "--":
            only_arguments = True
        else:
            option = _option(command, word)
            pending = option if option is not None and not option.is_flag else None
    return pending, position


def _option(command: Any, name: str) -> Any:
    for parameter in command.params:
        if name in parameter.opts and parameter.param_type_name == "option":
            return parameter
    return None


def _argument(command: Any, position: int) -> Any:
    arguments = [it for it in command.params if it.param_type_name == "argument"]
    if position < len(arguments):
        return arguments[position]
    return arguments[-1] if arguments and arguments[-1].nargs == -1 else None


def _options(command: Any) -> Iterator[Candidate]:
    for parameter in command.params:
        if parameter.param_type_name == "option" and not getattr(parameter, "hidden", False):
            name = max(parameter.opts, key=len)
            yield name, _first_line(parameter.help)
    yield "--help", "Show this message and exit."


def _subcommands(command: Any, context: Any) -> Iterator[Candidate]:
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        if not found.hidden:
            yield name, _first_line(found.help)


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n")[0]


# --- values from the daemon -----------------------------------------------------------------------


def _values(env: Env, parameter: Any) -> list[Candidate]:
    source = _SOURCES.get(parameter.name) if parameter is not None else None
    if source is None:
        return []
    if isinstance(source, tuple):
        return [(value, "") for value in source]
    try:
        with env.connect(timeout_s=TIMEOUT_S) as client:
            return sorted(dict(source(client)).items())
    except P2PForwardError:
        return []  # completion never speaks: no daemon, nothing to offer


def _protocols(client: Client) -> Iterator[Candidate]:
    for listener in _listeners(client):
        yield listener.protocol, ""


def _listen_addresses(client: Client) -> Iterator[Candidate]:
    for listener in _listeners(client):
        yield listener.listen_address, listener.direction


def _target_addresses(client: Client) -> Iterator[Candidate]:
    for listener in _listeners(client):
        yield listener.target_address, listener.direction


def _stream_ids(client: Client) -> Iterator[Candidate]:
    for stream in client.call("p2p.stream.ls", timeout_s=TIMEOUT_S).streams:
        yield stream.handler_id, stream.direction


def _peer_names(client: Client) -> Iterator[Candidate]:
    try:
        peers = client.call("peer.ls", timeout_s=TIMEOUT_S).peers
    except MethodNotFound:
        return  # a daemon older than this command line
    for peer in peers:
        yield peer.name, "kept connected" if peer.kept else "named peer"


def _token_names(client: Client) -> Iterator[Candidate]:
    try:
        tokens = client.call("relay.token.ls", timeout_s=TIMEOUT_S).tokens
    except MethodNotFound:
        return
    for token in tokens:
        yield token.name, "invitation" if token.many else "token"


def _open_invites(client: Client) -> Iterator[Candidate]:
    for invite in client.call("invite.ls", timeout_s=TIMEOUT_S).invites:
        if invite.state in ("open", "used-up"):
            yield invite.id, invite.state.replace("-", " ")


def _peers(client: Client) -> Iterator[Candidate]:
    yield from _peer_names(client)
    for peer in client.call("swarm.peers", timeout_s=TIMEOUT_S).peers:
        yield peer.peer, "connected"
    for listener in _listeners(client):
        if listener.direction == "forward":
            yield listener.target_address.removeprefix("/p2p/"), "forward"


def _peers_and_protocols(client: Client) -> Iterator[Candidate]:
    yield from _peers(client)
    yield from _protocols(client)  # of one more pair


def _peers_or_any(client: Client) -> Iterator[Candidate]:
    yield "any", "every peer"
    yield from _peers(client)


def _askers(client: Client) -> Iterator[Candidate]:
    yield from _peers_or_any(client)
    for request in client.call("access.requests", timeout_s=TIMEOUT_S).requests:
        yield request.peer, "asked"


def _ruled(client: Client) -> Iterator[Candidate]:
    for rule in client.call("access.ls", timeout_s=TIMEOUT_S).rules:
        if rule.saved:
            yield rule.protocol, ""


def _blocked(client: Client) -> Iterator[Candidate]:
    for block in client.call("block.ls", timeout_s=TIMEOUT_S).blocked:
        yield block.name or block.what, block.kind


def _listeners(client: Client) -> Any:
    return client.call("p2p.ls", timeout_s=TIMEOUT_S).listeners


_SOURCES: dict[str, Callable[[Client], Iterator[Candidate]] | tuple[str, ...]] = {
    "protocol": _protocols,
    "more": _protocols,
    "listen_address": _listen_addresses,
    "target_address": _target_addresses,
    "stream_id": _stream_ids,
    "peer": _peers,
    "peers": _peers_and_protocols,
    "address": _peer_names,
    "allow": _peers_or_any,
    "tell_denied": _peers_or_any,
    "asker": _askers,
    "ruled": _ruled,
    "whom": _peers,
    "blocked": _blocked,
    "name": _peer_names,
    "of_peer": _peers,
    "of_protocol": _protocols,
    "kind": (*TOPICS, *KINDS),
    "since": ("1h", "24h", "today", "yesterday"),
    "journal_since": ("-1h", "-24h", "today", "yesterday"),
    "token_name": _token_names,
    "invite_id": _open_invites,
    "new_level": LEVELS,
    "subsystem": ("all",),
    "network": NETWORKS,
    "path": ("any", "direct", "relay"),
    "proxy_protocol": ("v2", "none"),
    "check": ("tcp", "http:/"),
    "shell": tuple(Shell),
}
