"""What becomes of the ports that the router leads here, as events: got, moved, of no use, lost.

Rules: of a port this keeps what was told last. A search is no news, only what comes of it: a router that
restarts, or another one, is told where the address outside is another one, or none.

    NONE ──mapped──▶ MAPPED ◀──peers get in──── USELESS
                     MAPPED ──nobody gets in──▶ USELESS      both ──the router leads it here no more──▶ NONE
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from p2pfwd.host.port_mapping import MappedPort

GONE: Final = "this node does not listen there any more"


class _Told(NamedTuple):
    state: str
    address: str


class MappingNews:
    """Of one daemon; `record` is `History.record`."""

    def __init__(self, record: Callable[..., None]) -> None:
        self._record = record
        self._told: dict[int, _Told] = {}

    def look(self, statuses: Sequence[MappedPort]) -> None:
        """How it stands now, as `PortMapping.statuses`."""
        ports = {it.port: it for it in statuses if it.port is not None}
        for port in [port for port in self._told if port not in ports]:
            self._lost(port, next((it.reason for it in statuses if it.reason), GONE))
        for port, it in ports.items():
            if it.addr is not None:
                self._mapped(port, it)
            elif port in self._told and it.state != "searching":
                self._lost(port, it.reason or "")

    def _mapped(self, port: int, it: MappedPort) -> None:
        before, now = self._told.get(port), _Told(it.state, str(it.addr))
        if now == before:
            return
        self._told[port] = now
        way = "" if it.protocol is None else it.protocol.value
        if it.state == "useless":
            self._record("mapping-useless", port=port, address=now.address, reason=it.reason or "")
        elif before is None or before.state == "useless":
            self._record("mapping-got", port=port, address=now.address, way=way)
        else:
            self._record("mapping-moved", port=port, address=now.address, before=before.address)

    def _lost(self, port: int, reason: str) -> None:
        address = self._told.pop(port).address
        self._record("mapping-lost", port=port, address=address, reason=reason)
