"""The RPC's values of how this node stands in its network: the checks of `doctor`, and the way in."""

from __future__ import annotations

from typing import Literal

from p2pfwd.rpc.values import Message, message

FindingState = Literal["good", "bad", "note", "left out"]
"""`note`: it is as it is, and no fault. `left out`: it has no meaning here."""


@message
class DoctorParams(Message):
    """Parameters of `doctor`."""

    peer: str | None = None  # also the way to this one: as PEER of other methods
    timeout_s: float = 30.0  # for what is tried with the peer


@message
class Finding(Message):
    """What one check has found."""

    check: str  # its name, one word or two
    state: FindingState
    text: str
    hint: str | None = None  # the cure


@message
class DoctorResult(Message):
    """Result of `doctor`."""

    findings: tuple[Finding, ...]
    reachable: bool  # whether a stranger could get a tunnel, or, with a peer, whether this one can be reached
    verdict: str  # the same in words


@message
class Bootstrap(Message):
    """How this node gets into its network; a name that lists many peers counts as one bootstrap peer."""

    state: Literal["joined", "searching", "alone"]  # somebody of the DHT answers; not all were tried; nobody
    message: str  # the same in words
    hint: str | None  # the cure
    servers: int  # peers in the tables of the DHTs
    peers: int  # bootstrap peers
    names: int  # of them under a name
    addresses: int  # and under addresses
    outcomes: dict[str, int]  # of the bootstrap peers: what came of them -> how many
    remembered: int  # peers of the address book that served the DHT before
    remembered_tried: int  # in vain
    near_tried: int  # peers on the local network, in vain
