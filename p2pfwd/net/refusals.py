"""What was refused to strangers, and why: counted per cause, logged once per offender and minute.

Rules: whoever enforces a bound says so here, so that `p2pfwd status -v` can answer "who is kept out, and
why". The log cannot be filled: after one line of a cause about an offender the next minute's are counted
only, and no more than `MAX_LINES` lines a minute are written in all.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

log = logging.getLogger("p2pfwd.limits")

MINUTE_S: Final = 60.0
MAX_LINES: Final = 20
"""Lines a minute, whatever the number of offenders: a thousand identities must not fill a disk."""


class Refusals:
    """Of one node."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: Counter[str] = Counter()
        self._said: set[tuple[str, str]] = set()
        self._minute_began = clock()
        self._unsaid = 0
        self.on_noted: Callable[[str, int], None] = lambda _cause, _n: None
        """Told every cause, and how often it was met."""

    @property
    def counts(self) -> Mapping[str, int]:
        """How often each cause was met since the start."""
        return self._counts

    def note(self, cause: str, offender: object, what: str, n: int = 1) -> None:
        """`cause`: a stable kebab-case name. `offender`: a peer ID or a network. `what`: for people."""
        self._counts[cause] += n
        self.on_noted(cause, n)
        now = self._clock()
        if now - self._minute_began >= MINUTE_S:
            if self._unsaid:
                log.warning("refused %d more in the minute before, not named here", self._unsaid)
            self._minute_began, self._unsaid = now, 0
            self._said.clear()
        key = (cause, str(offender))
        if key in self._said:
            return
        if len(self._said) >= MAX_LINES:
            self._unsaid += n
            return
        self._said.add(key)
        log.warning("%s: %s", offender, what)
