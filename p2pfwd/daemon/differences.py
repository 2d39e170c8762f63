"""A listen or forward is asked for where one stands: in what they differ, in words, and what changes it.

Rule: what is not said of limits is no difference, so that the command that made a listen finds it as it is.
"""

from __future__ import annotations

import shlex
import time

from p2pfwd.core.byte_rates import rate_text
from p2pfwd.core.durations import exact_duration_text, time_left_text
from p2pfwd.core.terms import LIMITS, ForwardTerms, Lifetime, ListenTerms
from p2pfwd.forwarding.forward import LocalListener
from p2pfwd.forwarding.listen import RemoteListener
from p2pfwd.forwarding.registry import Listener
from p2pfwd.state.tunnel_file import SavedTunnel


def differences(listener: Listener, wanted: SavedTunnel, lifetime: Lifetime) -> list[str]:
    """In what the listener that stands is not the one that is wanted, in words."""
    found = []
    if isinstance(listener, RemoteListener) and isinstance(wanted.terms, ListenTerms):
        if listener.target_address != wanted.address:
            found.append(f"its target is {listener.target_address}, not {wanted.address}")
        if listener.terms.report_peer_id != wanted.terms.report_peer_id:
            found.append(f"its target {_tells(listener.terms.report_peer_id)} (-r)")
        if listener.terms.proxy_protocol != wanted.terms.proxy_protocol:
            found.append(f"its --proxy-protocol is {listener.terms.proxy_protocol}")
        if listener.terms.wait_target_s != wanted.terms.wait_target_s:
            times = f"{listener.terms.wait_target_s:g} s, not {wanted.terms.wait_target_s:g} s"
            found.append(f"its target is waited for {times}")
        if listener.terms.check != wanted.terms.check:
            found.append(f"its check is {listener.terms.check or 'none'}, not {wanted.terms.check or 'none'}")
        found += [
            f"its {option(name)} is {limit_text(name, getattr(listener.terms, name))}, "
            f"not {limit_text(name, limit)}"
            for name, limit in _other_limits(listener.terms, wanted.terms).items()
        ]
    elif isinstance(listener, LocalListener) and isinstance(wanted.terms, ForwardTerms):
        if listener.protocol != wanted.protocol:
            found.append(f"its protocol is {listener.protocol}, not {wanted.protocol}")
        if listener.peer_id != wanted.peer:
            found.append(f"its peer is {listener.peer_id}, not {wanted.peer}")
        if listener.terms.path != wanted.terms.path:
            found.append(f"its path is {listener.terms.path}, not {wanted.terms.path}")
        if listener.terms.limited_relay != wanted.terms.limited_relay:
            may = "may" if listener.terms.limited_relay else "may not"
            found.append(f"it {may} go over limited relays")
    if listener.ends_at and not wanted.terms.ends_at:
        found.append(f"it ends in {time_left_text(listener.ends_at - time.time())}")
    return found + _difference_of_life(listener, lifetime)


def _other_limits(terms: ListenTerms, wanted: ListenTerms) -> dict[str, int]:
    """The limits that are wanted and do not hold; one that is not wanted may be whatever it is."""
    asked = {name: getattr(wanted, name) for name in LIMITS}
    return {name: limit for name, limit in asked.items() if limit and limit != getattr(terms, name)}


def option(name: str) -> str:
    """What the command line calls one of `terms.LIMITS`."""
    return name.removesuffix("_s").replace("_", "-")


def limit_text(name: str, limit: int) -> str:
    """One of `terms.LIMITS` as people read it: `1.5MB/s`, `14 d`, 8, none."""
    if not limit:
        return "none"
    if name.startswith("rate"):
        return rate_text(limit)
    return exact_duration_text(limit) if name.endswith("_s") else str(limit)


def can_become(listener: Listener, wanted: SavedTunnel) -> bool:
    """Whether terms alone differ, so that the tunnel can be changed where it stands."""
    if isinstance(listener, LocalListener):
        return listener.protocol == wanted.protocol and listener.peer_id == wanted.peer
    if listener.target_address != wanted.address or not isinstance(wanted.terms, ListenTerms):
        return False
    has, wants = listener.terms, wanted.terms
    return isinstance(has, ListenTerms) and (has.any_loopback, has.check) == (wants.any_loopback, wants.check)


def how_to_change(listener: Listener, wanted: SavedTunnel, lifetime: Lifetime) -> str:
    """The command that makes the one that stands the one that is wanted."""
    if isinstance(listener, RemoteListener) and isinstance(wanted.terms, ListenTerms):
        limits = _other_limits(listener.terms, wanted.terms)
        if len(differences(listener, wanted, lifetime)) == len(limits):
            options = [word for name, limit in limits.items() for word in (f"--{option(name)}", str(limit))]
            return shlex.join(["p2pfwd", "limit", listener.protocol, *options])
    return f"{_close_command(listener)}, then the same command again"


def _tells(report: bool) -> str:
    return "is told the peer ID" if report else "is not told the peer ID"


def _difference_of_life(listener: Listener, lifetime: Lifetime) -> list[str]:
    if listener.lifetime == "foreground":
        return ["it ends with the command that made it"]
    if (listener.lifetime, lifetime) == ("declared", "saved"):
        return []  # it is there tomorrow, which is what was wanted
    return [] if listener.lifetime == lifetime else [f"it is {listener.lifetime}, not {lifetime}"]


def _close_command(listener: Listener) -> str:
    if listener.direction == "listen":
        return shlex.join(["p2pfwd", "close", "-p", listener.protocol])
    return shlex.join(["p2pfwd", "close", "-l", str(listener.listen_address)])
