"""How a router is asked, whatever the protocol: what can be asked, and what may come of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from p2pfwd.policy.port_mapping import Grant
from p2pfwd.system.gateway import Gateway


@dataclass(frozen=True, slots=True)
class No:
    """The router answers, and does not do it."""

    words: str
    taken: bool = False
    """Only that port is not to be had."""


@dataclass(frozen=True, slots=True)
class Sign:
    """The router is there; what it says of itself."""

    epoch_s: int | None = None
    host: str | None = None
    has_mapping: bool = True


class Way(Protocol):
    """One protocol. None stands for silence, or for a router that does not speak it. Nothing is raised.

    Each call ends within seconds, whatever the router does.
    """

    async def map(
        self, gateway: Gateway, port: int, external_port: int, lease_s: int
    ) -> Grant | No | None:
        """Ask that the router's TCP port `external_port` lead to our `port`."""

    async def check(self, gateway: Gateway, port: int, grant: Grant) -> Sign | None:
        """Ask whether all is as it was."""

    async def unmap(self, gateway: Gateway, port: int, grant: Grant) -> None:
        """Ask that it be undone."""
