"""The RPC's values of named peers: what `peer.add`, `peer.rm` and `peer.ls` take and give."""

from __future__ import annotations

from dataclasses import dataclass

from p2pfwd.rpc.values import Message, NamedPeer, Notice


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PeerAddParams(Message):
    """Parameters of `peer.add`."""

    name: str
    peers: tuple[str, ...]  # as ForwardParams.peers
    keep: bool = False


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PeerAddResult(Message):
    """Result of `peer.add`."""

    peer: NamedPeer
    replaced: bool
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PeerRmParams(Message):
    """Parameters of `peer.rm`."""

    name: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PeerRmResult(Message):
    """Result of `peer.rm`."""

    peer: NamedPeer


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PeerLsParams(Message):
    """Parameters of `peer.ls`."""

    all: bool = False  # kept peers without a name, too


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PeerLsResult(Message):
    """Result of `peer.ls`."""

    peers: tuple[NamedPeer, ...]
