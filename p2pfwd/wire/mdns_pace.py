"""When to ask and when to answer: the policy of mDNS, without a clock or a socket.

Rules, all against storms (RFC 6762, sections 5.2 and 6):
- A node asks at once, after 1, 3, 10 and 30 s, then every minute, and less often the more peers there are.
- What a neighbour has just asked need not be asked again: the answers go to everybody.
- A question is answered 20 to 120 ms later, so that not all answer at once, and never twice within a second
  on one interface; who asks meanwhile hears the same answer.
- An asker has a budget: beyond it its questions are neither answered nor spare our own.
- What was heard holds for 6 minutes, whatever the answer says: nobody is asked that often, and js-libp2p's
  2 minutes would make peers come and go where there are many. It is a hint, not a cache of the DNS.
Times are seconds of any one clock; `spread` is a random number from 0 to 1.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from p2pfwd.wire.mdns import TTL_S

BACK_OFF_S: Final = (1.0, 3.0, 10.0, 30.0, 60.0)
"""Between a question and the next; the last one stays."""

ASK_REST_S: Final = 1.0
"""Between two questions, whoever wants to know."""

SPREAD: Final = 0.25
"""Questions come up to this share earlier or later, so that nodes started together drift apart."""

PEERS_PER_MINUTE: Final = 12
"""With more peers than this the minute grows in proportion ..."""

MAX_INTERVAL_S: Final = TTL_S / 2
"""... up to here: what is known must be heard again before it is forgotten."""

MAX_SKIPPED: Final = 3
"""Turns to ask that may be left out in a row with few peers, a minute each: less than TTL_S in all. Among
many peers it is not always the same one who asks."""

ANSWER_DELAY_S: Final = (0.02, 0.12)
ANSWER_INTERVAL_S: Final = 1.0

ASKER_BURST: Final = 10.0
"""Questions one asker may put in a row; a starting node puts five ..."""

ASKER_REFILL_PER_S: Final = 0.2
"""... and a js-libp2p one every 10 s."""

MAX_ASKERS: Final = 256
"""Budgets kept; the asker heard least recently loses its own, and begins with a full one."""


class AskPace:
    """When a node asks; the first time at once."""

    def __init__(self, now: float) -> None:
        self.next_at = now
        self.interval_s = 0.0
        """What lies between the last question and the next, before it is spread."""
        self._step = 0
        self._asked_at = float("-inf")

    def restart(self, now: float) -> None:
        """Begin anew, at once or a second after the last time: somebody asks, or the network changed."""
        self.next_at = max(now, self._asked_at + ASK_REST_S)
        self._step, self.interval_s = 0, 0.0

    def asked(self, now: float, peers: int, spread: float) -> None:
        """The turn has come; `peers` are known by now."""
        interval_s = BACK_OFF_S[min(self._step, len(BACK_OFF_S) - 1)]
        if self._step >= len(BACK_OFF_S) - 1:
            interval_s = min(interval_s * max(1.0, peers / PEERS_PER_MINUTE), MAX_INTERVAL_S)
        self._step += 1
        self._asked_at, self.interval_s = now, interval_s
        self.next_at = now + interval_s * (1 + SPREAD * (2 * spread - 1))


class LinkPace:
    """Questions and answers on one interface."""

    def __init__(self) -> None:
        self._answered_at = float("-inf")
        self._answer_at: float | None = None
        self._other_asked_at = float("-inf")
        self._skipped = 0
        self._budgets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def need_ask(self, now: float, interval_s: float, peers: int, spread: float) -> bool:
        """Whether our turn to ask is to be used.

        Not just after a neighbour asked for us all; one in as many turns as there are nodes is used even
        then, or one who asks all the time could keep everybody from asking. Never more than MAX_SKIPPED in
        a row are left out: no node answers its own question, so we would not hear of the one who asks.
        """
        heard_lately = now - self._other_asked_at < interval_s / 2
        if heard_lately and spread * (peers + 1) >= 1 and self._skipped < max(MAX_SKIPPED, peers):
            self._skipped += 1
            return False
        self._skipped = 0
        return True

    def heard_question(self, now: float, asker: str, spread: float) -> float | None:
        """Somebody asked: when to answer, or None if an answer is under way or it has asked too much."""
        if not self._within_budget(now, asker):
            return None
        self._other_asked_at = now
        return self.want_answer(now, spread)

    def want_answer(self, now: float, spread: float) -> float | None:
        """When to send our answer, asked or not; None if it is under way."""
        if self._answer_at is not None:
            return None
        low, high = ANSWER_DELAY_S
        delayed = now + low + (high - low) * spread
        self._answer_at = max(delayed, self._answered_at + ANSWER_INTERVAL_S)
        return self._answer_at

    def answered(self, now: float) -> None:
        """It is sent."""
        self._answered_at, self._answer_at = now, None

    def _within_budget(self, now: float, asker: str) -> bool:
        left, since = self._budgets.pop(asker, (ASKER_BURST, now))
        left = min(ASKER_BURST, left + (now - since) * ASKER_REFILL_PER_S)
        good = left >= 1
        self._budgets[asker] = (left - 1 if good else left, now)
        if len(self._budgets) > MAX_ASKERS:
            self._budgets.popitem(last=False)
        return good
