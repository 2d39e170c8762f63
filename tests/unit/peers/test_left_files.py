"""What a daemon that was killed while it wrote has left is gone with the next start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from p2pfwd.peers.access_rules import AccessRules
from p2pfwd.peers.invites import Invites
from p2pfwd.peers.named import NamedPeers
from p2pfwd.peers.relay_tokens import RelayTokens


class Table(Protocol):
    def load(self) -> None: ...


@pytest.mark.parametrize("table", [AccessRules, Invites, NamedPeers, RelayTokens])
def test_what_was_written_half_is_swept_away(tmp_path: Path, table: Callable[[Path], Table]) -> None:
    (tmp_path / ".it.json.0123456789abcdef.tmp").write_text("{")
    (tmp_path / ".other.json.0123456789abcdef.tmp").write_text("{")
    table(tmp_path / "it.json").load()
    assert [it.name for it in tmp_path.iterdir()] == [".other.json.0123456789abcdef.tmp"]
