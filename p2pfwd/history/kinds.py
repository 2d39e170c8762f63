"""What can happen to a node that its owner may ask about later: the one table of kinds of event. Pure.

A new kind is a line here and a call of `History.record` with its code, where it happens. The code is stable:
`--json` and the RPC have it. The words are what `p2pfwd events` prints: `{name}` stands for a field of the
event, `{name:size}`, `{name:age}` and `{name:clock}` for bytes, seconds and a unix time as people read them.
`peer`, `protocol` and `count` are fields of every event, the others those that `record` was given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Topic = Literal["daemon", "peer", "stream", "access", "tunnel", "relay", "network", "config"]
"""What `--kind` takes, beside a code."""

Fold = Literal["never", "often", "always"]
"""never: each is an event. often: those that come too often are one. always: all of ten minutes are one."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of event."""

    code: str
    topic: Topic
    words: str
    fold: Fold = "often"
    share: Literal["own", "streams"] = "own"
    """Which part of the history it may fill. What strangers cause has a part of its own."""
    sums: tuple[str, ...] = ()
    """Fields that are added up where several are one; of all others the last one's value is kept."""


_STREAM: Final = "{protocol}: a stream with {peer}"
_AFTER: Final = "after {duration_s:age}, {bytes_in:size} in, {bytes_out:size} out"
_SUMMED: Final = (
    "{protocol}: {count} more streams with {peer}, {failed} of them broken off, "
    "{bytes_in:size} in, {bytes_out:size} out"
)

_TABLE: Final = (
    # --- the daemon. Fields: version, pid, tunnels (made again); last (unix time of the last sign of life);
    # what (in words), file (its path now)
    Kind("daemon-started", "daemon", "the daemon started: p2pfwd {version}, process {pid}", fold="never"),
    Kind("daemon-stopped", "daemon", "the daemon stopped", fold="never"),
    Kind("daemon-lost", "daemon", "the daemon was killed, or crashed; it was last heard at {last:clock}"),
    Kind("file-damaged", "daemon", "{what} are lost: what is left of them is in {file}", fold="never"),
    Kind("events-lost", "daemon", "{events} events were not written: {reason}"),
    # --- peers of one's own. Fields: path (in words), path_code, address, reason
    Kind("peer-up", "peer", "{peer} is connected: {path}, {address}"),
    Kind("peer-down", "peer", "the connection to {peer} was closed {reason}"),
    Kind("peer-lost", "peer", "the connection to {peer} was lost: {reason}"),
    Kind("peer-silent", "peer", "{peer} does not answer: {reason}"),
    Kind("peer-answers", "peer", "{peer} answers again"),
    Kind("peer-path", "peer", "{peer} is reached another way: {path}"),
    Kind("strangers-up", "peer", "unknown peers connected", fold="always"),
    # --- streams. Fields: direction, path, duration_s, bytes_in, bytes_out, reason, failed
    Kind("stream-opened", "stream", "{protocol}: a stream with {peer} opened, {path}", "never", "streams"),
    Kind("stream-ended", "stream", f"{_STREAM} ended {_AFTER}", "never", "streams"),
    Kind("stream-broken", "stream", f"{_STREAM} broke off {_AFTER}: {{reason}}", "never", "streams"),
    Kind("streams-summed", "stream", _SUMMED, "always", "streams", ("failed", "bytes_in", "bytes_out")),
    # --- who may use a listen. Fields: change (in words); invite (its ID), uses (in words), cause
    Kind("access-denied", "access", "{peer} was denied {protocol}", fold="always"),
    Kind("access-requested", "access", "{peer} asks for {protocol}, and is not let in", fold="always"),
    Kind("access-changed", "access", "who may use {protocol} was changed, it lets in {change}"),
    Kind("blocks-changed", "access", "the block list was changed: {change}"),
    Kind("invite-made", "access", "{protocol}: invite {invite} was made, for {uses}"),
    Kind("invite-taken", "access", "{protocol}: {peer} took invite {invite}, and may use it"),
    Kind("invite-revoked", "access", "{protocol}: invite {invite} was revoked"),
    Kind("invite-refused", "access", "{peer} tried an invite, and was refused: {cause}", fold="always"),
    Kind("refused", "access", "strangers were refused something: {cause}", fold="always"),
    # --- tunnels. Fields: direction, address (of a forward: the local one), reason, change (in words)
    Kind("tunnel-made", "tunnel", "{protocol}: the {direction} was made, {address}"),
    Kind("tunnel-closed", "tunnel", "{protocol}: the {direction} was closed"),
    Kind("tunnel-ended", "tunnel", "{protocol}: the {direction} ended by itself: its time was over"),
    Kind("tunnel-limits", "tunnel", "{protocol}: the limits were changed: {change}"),
    Kind("tunnel-port-taken", "tunnel", "{protocol}: {reason}"),
    Kind("tunnel-port-bound", "tunnel", "{protocol}: listening on {address} again"),
    Kind("tunnel-peer-away", "tunnel", "{protocol}: {peer} cannot be reached: {reason}"),
    Kind("tunnel-peer-back", "tunnel", "{protocol}: {peer} is there again"),
    Kind("tunnel-target-down", "tunnel", "{protocol}: the service is down: {reason}"),
    Kind("tunnel-target-up", "tunnel", "{protocol}: the service is up again"),
    Kind("tunnel-not-allowed", "tunnel", "{protocol}: {peer} does not let this node use it: {reason}"),
    Kind("tunnel-allowed", "tunnel", "{protocol}: {peer} lets this node use it now"),
    Kind("tunnel-failing", "tunnel", "{protocol}: {reason}"),
    Kind("tunnel-works", "tunnel", "{protocol}: it works again"),
    # --- relays that give this node a place; peer is the relay. Fields: reason
    Kind("relay-got", "relay", "{peer} relays for this node"),
    Kind("relay-lost", "relay", "{peer} relays for this node no longer"),
    Kind("relay-refused", "relay", "no place at a relay: {reason}"),
    # --- how others get here. Fields: standing, before; addresses; of a mapped port: port (of this node),
    # address (outside), way, before, reason
    Kind("reachability", "network", "how others reach this node: {standing}, before: {before}"),
    Kind("network-changed", "network", "the network changed; this node is at {addresses}"),
    Kind("mapping-got", "network", "the router leads {address} to port {port} of this node, by {way}"),
    Kind("mapping-moved", "network", "the router leads {address} to port {port} now, before: {before}"),
    Kind("mapping-useless", "network", "nobody gets in at {address}, which the router leads here: {reason}"),
    Kind("mapping-lost", "network", "the router leads {address} here no more: {reason}"),
    # --- the configuration. Fields: what (was read), change (in words), reason, name
    Kind("config-changed", "config", "{what}: {change}"),
    Kind("config-refused", "config", "config.toml was not read again, nothing was changed: {reason}"),
    Kind("peer-named", "config", "{peer} was named {name}"),
    Kind("peer-unnamed", "config", "{peer} is named {name} no longer"),
)

KINDS: Final = {kind.code: kind for kind in _TABLE}

TOPICS: Final = tuple(dict.fromkeys(kind.topic for kind in _TABLE))

PROBLEMS: Final = frozenset(
    ("tunnel-port-taken", "tunnel-peer-away", "tunnel-target-down", "tunnel-not-allowed", "tunnel-failing")
)
"""Of a tunnel: what `ls` tells of it for a while, even after it is over."""

DROPS: Final = frozenset(("peer-lost",))
"""What `status` counts as the drop of a peer."""
