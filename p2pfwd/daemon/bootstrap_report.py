"""What came of the ways into the network, in words and in numbers: one for errors, status and log. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from p2pfwd.policy.bootstrap import Outcome

_FAILED: Final = {
    Outcome.NO_NAME: ("name cannot be looked up", "names cannot be looked up"),
    Outcome.SILENT: ("does not answer", "do not answer"),
    Outcome.UNDIALABLE: ("cannot be dialed over TCP", "cannot be dialed over TCP"),
    Outcome.REFUSES: ("answers and cannot be spoken to", "answer and cannot be spoken to"),
}

_CURES: Final = {
    Outcome.NO_NAME: "check the name, and the name servers of this machine",
    Outcome.SILENT: "is this machine's network up, and does a firewall let TCP out? any node of the network "
    "lets this one in: `p2pfwd swarm connect ADDRESS`, or `bootstrap.peers`",
    Outcome.UNDIALABLE: "name addresses for TCP in `bootstrap.peers`: /ip4/<address>/tcp/<port>/p2p/<ID>",
    Outcome.REFUSES: "are they in this network, with the same swarm key, and still under the same peer IDs?",
}

FOR_A_HUB: Final = "on each other machine run the `p2pfwd network join` that `p2pfwd hub` prints"

NONE_CONFIGURED: Final = "connect to a node of it (`p2pfwd swarm connect`), or set `bootstrap.peers`"


@dataclass(frozen=True, slots=True)
class BootstrapReport:
    """Counts of peers; a name that lists many counts as one."""

    state: Literal["joined", "searching", "alone"]
    """Somebody of the DHT answers · not all ways were tried yet · nobody answers."""
    servers: int
    """In the tables."""
    names: tuple[Outcome, ...]
    """Of the bootstrap peers, those under a name."""
    addresses: tuple[Outcome, ...]
    remembered: int
    """Peers of the address book that served the DHT before."""
    remembered_tried: int
    near_tried: int
    """Peers on the local network that were tried."""
    is_hub: bool = False
    """Others are let in by this node, on its owner's word."""

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """Of all bootstrap peers."""
        return (*self.names, *self.addresses)

    def count(self, outcome: Outcome) -> int:
        """Bootstrap peers with this outcome."""
        return self.outcomes.count(outcome)

    @property
    def message(self) -> str:
        """How it stands, in one clause."""
        if self.state == "joined":
            known = _counted(self.servers, "node")
            return f"in the network, with {known} of the DHT known"
        return "; ".join([self._of_the_configured(), *self._of_the_others()])

    def _of_the_configured(self) -> str:
        count, answering = len(self.outcomes), self.count(Outcome.ANSWERS)
        if not count and self.is_hub:
            return "this node is a bootstrap peer itself, and nobody else of the network is here"
        if not count:
            return "there are no bootstrap peers"
        if answering:
            who = _counted(answering, "bootstrap peer")
            return f"{who} of {count} {_verb(answering)}, and none serves this network's DHT"
        kinds = [
            _counted(len(kind), word) for kind, word in ((self.names, "name"), (self.addresses, "address"))
        ]
        listed = ", ".join(text for text in kinds if not text.startswith("0 "))
        if self.state == "searching" and self.count(Outcome.PENDING):
            verb = "has answered yet" if count > 1 else "has not answered yet"
        else:
            verb = "answers" if count > 1 else "does not answer"
        who = f"none of the {count} bootstrap peers" if count > 1 else "the bootstrap peer"
        causes = _causes(self.outcomes)
        return f"{who} {verb} ({listed})" + (f": {causes}" if causes else "")

    def _of_the_others(self) -> Iterable[str]:
        before, tried = "that served the DHT before", self.remembered_tried
        if self.remembered == 1 and tried:
            yield f"the one peer {before} does not answer"
        elif self.remembered and tried >= self.remembered:
            yield f"none of {self.remembered} peers {before} answers"
        elif self.remembered:
            yield f"{tried} of {_counted(self.remembered, 'peer')} {before} tried so far, in vain"
        if self.near_tried:
            yield f"{_counted(self.near_tried, 'peer')} on the local network cannot help"

    @property
    def hint(self) -> str | None:
        """The cure; None where there is nothing to be cured."""
        if self.state == "joined":
            return None
        cures = [cure for outcome, cure in _CURES.items() if self.count(outcome)]
        if not cures and self.is_hub and not self.outcomes:
            return FOR_A_HUB
        return "; ".join(cures) if cures else NONE_CONFIGURED


def _causes(outcomes: Iterable[Outcome]) -> str:
    counts = Counter(outcomes)
    return ", ".join(
        f"{counts[outcome]} {one if counts[outcome] == 1 else many}"
        for outcome, (one, many) in _FAILED.items()
        if counts[outcome]
    )


def _verb(count: int) -> str:
    return "answers" if count == 1 else "answer"


def _counted(count: int, word: str) -> str:
    if count == 1:
        return f"1 {word}"
    return f"{count} {word}es" if word.endswith("ss") else f"{count} {word}s"
