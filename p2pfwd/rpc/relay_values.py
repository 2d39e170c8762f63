"""The RPC's values of relays: this node as one (places, circuits, tokens), and others that it uses."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from p2pfwd.rpc.values import Message, message, named


@message
class RelayPlace(Message):
    """One peer that has a place at this relay."""

    peer: str
    name: str | None  # as `peer add` gave it, or the token's
    own: bool  # one of the owner's: without limits
    remote_address: str  # of the connection that holds the place
    age_s: float = named("AgeSeconds")
    left_s: float = named("LeftSeconds")  # until it ends, if it is not renewed


@message
class RelayPeer(Message):
    """One peer that is connected, and has no place at this relay, as one that others can dial, or in vain."""

    peer: str
    name: str | None  # as `peer add` gave it, or the token's
    remote_address: str  # of its oldest connection
    age_s: float = named("AgeSeconds")
    refused: bool = False  # it asked for a place, and got none


@message
class RelayCircuit(Message):
    """One circuit through this relay."""

    dialer: str
    target: str
    bytes_in: int  # from the target to the dialer
    bytes_out: int  # from the dialer to the target
    age_s: float = named("AgeSeconds")
    limited: bool = False  # by bytes and time: a stranger is at one end
    legs: bool = False  # whether it has connections of its own, as it carried bulk


@message
class RelayToken(Message):
    """One token of this relay."""

    name: str
    many: bool  # an invitation: for whoever shows it
    made: float  # unix seconds
    peers: tuple[str, ...]  # those who have shown it


@message
class RelayLsResult(Message):
    """Result of `relay.ls`."""

    serves: Literal["off", "peers", "anyone"]
    reason: str | None  # why nobody, where it is off
    places: tuple[RelayPlace, ...]
    circuits: tuple[RelayCircuit, ...]
    circuits_ever: int  # since the start, as the next
    bytes: int  # that circuits carried, both ways
    refused: dict[str, int] = field(default_factory=dict)  # the relay's answers: status -> how often
    others: tuple[RelayPeer, ...] = ()  # connected, without a place


@message
class RelayTokenNewParams(Message):
    """Parameters of `relay.token.new`."""

    name: str | None = None
    many: bool = False


@message
class RelayTokenNewResult(Message):
    """Result of `relay.token.new`."""

    name: str
    token: str  # shown this once: the relay keeps a digest only


@message
class RelayTokenLsResult(Message):
    """Result of `relay.token.ls`."""

    tokens: tuple[RelayToken, ...]


@message
class RelayTokenRevokeParams(Message):
    """Parameters of `relay.token.revoke`."""

    name: str


@message
class RelayTokenRevokeResult(Message):
    """Result of `relay.token.revoke`."""

    token: RelayToken
    circuits: int  # that were reset
    still: tuple[str, ...] = ()  # of its peers: those who may use the relay all the same


@message
class Relay(Message):
    """A relay that has a place for this node, refuses one, or is named in the settings and does neither."""

    relay: str  # its peer ID; of a missing one what the settings say, where nobody is known to have that
    state: Literal["held", "refused", "missing"]
    reason: str | None = None  # why there is no place, in words, with the cure
    addresses: tuple[str, ...] = ()  # by which others reach this node over it
    age_s: float | None = named("AgeSeconds", default=None)
    left_s: float | None = named("LeftSeconds", default=None)  # it is renewed before
    limit_bytes: int = 0  # of a circuit each way, before the relay ends it; 0: no limit
    limit_s: int = named("LimitSeconds", default=0)
