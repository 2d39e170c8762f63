"""Real libp2p nodes for the interop tier: one per kind and key type, shared by a process's tests.

A peer that is not installed, or a place without a loopback-only network namespace, skips its tests with
the reason. Peers ask for no state: each test brings its own p2pfwd identity and its own protocol names.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from p2pfwd.core.keys import KeyType
from tests.interop.peers.fetch import PeerMissing
from tests.interop.peers.process import START, Peer
from tests.support import leaks


class Start(Protocol):
    """`start(kind, key_type, *options)`; `options` are more words for the peer's runner."""

    def __call__(self, kind: str, key_type: KeyType, /, *options: str) -> Peer: ...



@pytest.fixture(scope="session")
def peer() -> Iterator[Start]:
    """`peer("kubo", KeyType.RSA)`: that node, started on first use."""
    running: dict[tuple[str, KeyType, tuple[str, ...]], Peer] = {}
    with ExitStack() as stack:

        def start(kind: str, key_type: KeyType, *options: str) -> Peer:
            if (kind, key_type, options) not in running:
                directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"p2pf-{kind}-")))
                try:
                    node = stack.enter_context(START[kind](directory, key_type, options=options))
                except PeerMissing as exc:
                    pytest.skip(str(exc))
                leaks.outlive(*node.descriptors)
                running[kind, key_type, options] = node
            return running[kind, key_type, options]

        yield start
