"""Every kind of attack, by name. A kind is a coroutine that goes on until it is cancelled."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tests.hostile.disk import Disk
from tests.hostile.stage import ADDRESS, NET24, NET48, ONE, Stage

MODULES: Final = (
    "frames",
    "negotiation",
    "identify",
    "dht",
    "tunnels",
    "doors",
    "holders",
    "services",
    "access",
    "relays",
    "local",
)

Run = Callable[[Stage], Awaitable[None]]
Body = Callable[[Stage], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of attack and how it is tried."""

    name: str
    what: str
    """One line for people."""
    run: Run
    fault: str
    """Its row in the review that named it, where one did."""
    spreads: Sequence[str]
    """Those it is tried in; the first is enough for a quick run."""
    public: bool
    """The victim is in the public network."""
    segment: bool
    """It needs multicast."""
    files: int
    """The victim's limit of descriptors; 0: as it is."""
    disk: Disk
    """What becomes of the victim's disk once everything is in its place."""


KINDS: Final[dict[str, Kind]] = {}

EVERY: Final = (ONE, ADDRESS, NET24, NET48)
MANY: Final = (NET24, NET48)


def whole(
    name: str,
    what: str,
    *,
    fault: str = "",
    spreads: Sequence[str] = (ONE,),
    public: bool = False,
    segment: bool = False,
    files: int = 0,
    disk: Disk = "well",
) -> Callable[[Run], Run]:
    """A kind that arranges its connections itself."""

    def add(run: Run) -> Run:
        assert name not in KINDS
        KINDS[name] = Kind(name, what, run, fault, spreads, public, segment, files, disk)
        return run

    return add


def each(
    name: str, what: str, *, fault: str = "", spreads: Sequence[str] = (ONE,), public: bool = False
) -> Callable[[Body], Body]:
    """A kind whose body is what one line does, from its connect to its end; it is run anew then."""

    def add(body: Body) -> Body:
        async def run(stage: Stage) -> None:
            await stage.lines(lambda: body(stage))

        whole(name, what, fault=fault, spreads=spreads, public=public)(run)
        return body

    return add


for _module in MODULES:
    importlib.import_module(f"tests.hostile.kinds.{_module}")
