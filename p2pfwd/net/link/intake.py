"""How much of what a peer sends is taken when: the budgets of work and toll of one connection.

    READING ──work of the turn used up──▶ QUEUED (fair lane) ──its slice──▶ READING
    READING ──bulk, or beyond a crowd's share, and its crowd is many──▶ QUEUED (the crowd's lane) ──▶ READING
    READING ──in debt or opens too fast, alone or with its crowd──▶ QUEUED (slow lane) ──its slice──▶ READING
    READING ──deep in debt──▶ UNREAD, until the debt is paid ──▶ QUEUED; for too long: the connection ends
    READING ──it makes us answer and reads nothing──▶ UNREAD, until it does, or `CHOKED_S` have passed

While it is not READING nothing more is taken from the channel, the conduit or the kernel: the peer's own
window fills, which slows it. What was read already is kept, and counted.
"""

from __future__ import annotations

import asyncio
from enum import Enum, auto
from math import inf
from typing import Final, Protocol

from p2pfwd.core.multiaddrs import is_relayed
from p2pfwd.net.channel import Channel
from p2pfwd.net.lanes import BULK_BYTES, FEW, LEAST_ROOM, MODEST_TOLL, UP_S, Lane, Lanes, Purse
from p2pfwd.policy.networks import crowd
from p2pfwd.policy.pace import Pace, Rate
from p2pfwd.wire.yamux.session import Session
from p2pfwd.wire.yamux.work import OPEN_AFTERWORK

TURN_WORK: Final = 1000
"""Work (`wire.yamux.work`, about 1 us each) of one read: 250 small data frames or 12 opens. A read of 256 KiB
in frames of a kilobyte or more fits in."""

SLICE_WORK: Final = 150
"""Work of one slice, for who has just used up a turn."""

HARD_TOLL: Final = Rate(per_s=100_000.0, burst=300_000.0)
"""Before its socket is left unread: 5,000 tunnels a second, a tenth of a processor."""

DROP_AFTER_S: Final = 15.0
"""So long at the hard limit without a break means no honest peer."""

BREAK_S: Final = 5.0
"""So long below it is a break."""

OFFENCE_TOLL: Final = 2000
"""Of each stream or question that is refused as it comes too fast, where the peer does not stop: fifty a
second are the hard limit. They make little work, but who goes on like that needs no answer."""

READ_TOLL: Final = 20
"""Of every read in which toll was due: a frame a segment costs more than frames in bulk."""

CHOKED_BYTES: Final = 32 * 1024
"""Answers that wait for a peer which reads nothing: 2,700 frames. It is not read from either."""

CHOKED_S: Final = 5.0
"""... but for so long: two nodes must not wait for each other. What it then makes us answer ends it."""


class Taking(Enum):
    """See the picture above."""

    READING = auto()
    QUEUED = auto()
    UNREAD = auto()
    ENDED = auto()


class Reader(Protocol):
    """The connection: what its intake asks of it. A function for each would be half a kilobyte a peer."""

    @property
    def is_own(self) -> bool:
        """Whether the peer is one of the owner's."""

    def plaintext_received(self, view: memoryview) -> None:
        """Take bytes that were kept."""

    def turn_ended(self) -> None:
        """A turn is over that no read began."""

    def flooded(self, must_go: bool) -> None:
        """The peer is left unread, or must go."""


class Intake:
    """Of one connection."""

    __slots__ = (
        "_channel",
        "_choked",
        "_crowd_room",
        "_hard",
        "_held",
        "_lanes",
        "_loop",
        "_modest",
        "_purse",
        "_reader",
        "_room",
        "_session",
        "_slow",
        "_small_waits",
        "_takes_held",
        "_timer",
        "_turn_work",
        "_unread_at",
        "_unread_since",
        "_waits_choked",
        "crowd",
        "state",
        "turn_bytes",
    )

    def __init__(
        self,
        session: Session,
        channel: Channel,
        lanes: Lanes,
        loop: asyncio.AbstractEventLoop,
        reader: Reader,
    ) -> None:
        self.crowd = crowd(channel.conduit.remote_addr)
        self.state = Taking.READING
        self.turn_bytes = 0
        """What this turn has brought; counted by the owner."""
        self._session = session
        self._channel = channel
        self._lanes = lanes
        self._loop = loop
        self._reader = reader
        self._turn_work = TURN_WORK
        self._held: memoryview | None = None
        self._takes_held = False
        self._slow = False
        self._small_waits = not is_relayed(channel.conduit.remote_addr)
        """Whether its crowd's small reads may have to wait: not over a circuit. The relay's connection reads
        there, and what that moves would be somebody else's."""
        self._crowd_room: int | None = None
        self._room: int | None = None  # what the conduit was told
        self._choked = False
        self._waits_choked = False  # and not for a debt
        self._timer: asyncio.TimerHandle | None = None
        now = lanes.clock()
        self._purse = Purse(now)
        self._modest = Pace(MODEST_TOLL, now)
        self._hard = Pace(HARD_TOLL, now)
        self._unread_since = self._unread_at = float("-inf")
        session.work_left = TURN_WORK

    @property
    def held_bytes(self) -> int:
        """Bytes opened and not taken yet."""
        return len(self._held) if self._held is not None else 0

    def start(self) -> None:
        """The connection begins. What the system has promised to hold of a flood it does not take back."""
        if self._crowd_lane() is not None:
            self._lanes.slow.charge(UP_S)

    def hold(self, rest: memoryview) -> None:
        """The turn's work is used up: keep `rest`, take no more.

        It is copied each time: a view of it would hold all that it is a part of, and count for less.
        """
        if self.state is Taking.ENDED:
            return
        self._held = memoryview(bytes(rest))
        self._session.ledger.used += len(rest)
        self._turn_work = SLICE_WORK
        self._channel.pause()
        self._spare(True)

    def settle(self, now: float) -> None:
        """At the end of each turn: what was spent is paid, and when the next one comes is decided."""
        session = self._session
        session.work_left = self._turn_work
        came = self.turn_bytes or session.toll or session.opens
        bulk, self.turn_bytes = self.turn_bytes > BULK_BYTES, 0
        read_at = self._read_at()
        wait_s, spent_s = 0.0, 0.0 if read_at == inf else max(0.0, self._lanes.clock() - read_at)
        if session.toll or session.opens or self._slow:
            wait_s = self._pay(now, spent_s)
        if (crowd_lane := self._crowd_lane()) is not None:
            # In whichever lane it waits: a crowd has no second share by its debts. Without what has been sent
            # since `now`: it may be bulk, which is somebody's and no flood.
            crowd_lane.charge(max(0.0, now - read_at))
        if self.state is not Taking.READING:
            return
        if self._lanes.in_slice and not came:
            return  # what was left before is no whole message: in this slice the rest of it is to be read
        if wait_s > 0:
            self._leave_unread(wait_s)
        elif self._slow:
            self._queue(self._lanes.slow)
        elif self._held is not None:
            self._lanes.fair.charge(spent_s)
            self._queue(self._lanes.fair)
        elif len(session.control) > CHOKED_BYTES and self._channel.congested and not self._choked:
            self._choked = self._waits_choked = True
            self._leave_unread(CHOKED_S)
        else:
            if self._turn_work != TURN_WORK and not self._takes_held:  # a whole read was taken within a slice
                self._turn_work = session.work_left = TURN_WORK
                self._spare(False)
            if crowd_lane is not None and (bulk or (self._small_waits and crowd_lane.is_short)):
                self._queue(crowd_lane)

    def _crowd_lane(self) -> Lane | None:
        """Where its crowd's reads have turns, and how much of its bulk may wait; None where it need not."""
        lanes = self._lanes
        if self._crowd_room is None and lanes.crowds[self.crowd] <= FEW:
            return None  # at once: it is asked in every turn
        lane = lanes.crowd(self.crowd)
        if lane is not None and self._reader.is_own:  # asked last, for it costs more
            lane = None
        if (lane is None) is not (self._crowd_room is None):
            self._channel.conduit.tell(None if lane is None else lane.moved)
        self._crowd_room = None if lane is None else lanes.room(self.crowd)
        self._time(lane is not None or self._turn_work != TURN_WORK)
        if not self._slow:
            self._squeeze(self._crowd_room)
        return lane

    def _read_at(self) -> float:
        """When its read began, where it has turns in a lane: what came may cost more than its frames say.

        Else infinity, and in a slice, whose time the lane takes.
        """
        return inf if self._lanes.in_slice or not self._channel.timed else self._channel.read_at

    def _spare(self, spare: bool) -> None:
        self._channel.conduit.spare(spare)
        self._time(spare or self._crowd_room is not None)

    def _time(self, timed: bool) -> None:
        if timed and not self._channel.timed:
            self._channel.read_at = inf  # when the read began that goes on now nobody knows
        self._channel.timed = timed

    def _squeeze(self, room: int | None) -> None:
        if room != self._room:
            self._room = room
            self._channel.conduit.squeeze(room)

    def _pay(self, now: float, spent_s: float) -> float:
        """Take the toll; how long to leave the peer unread, seconds."""
        session = self._session
        toll, session.toll = session.toll, 0
        opens, session.opens = session.opens, 0
        if toll:
            toll += READ_TOLL
        if self._slow:
            # The toll in its own slice as well, whose time the lane takes: ended streams make work after it.
            toll_s = toll * 1e-6 if self._takes_held or not self._lanes.in_slice else 0.0
            self._lanes.slow.charge(max(spent_s, toll_s) + opens * OPEN_AFTERWORK * 1e-6)
        in_debt = self._purse.pay(now, toll, opens)
        node_in_debt = self._lanes.toll.owe(now, toll) < 0
        is_modest = self._modest.owe(now, toll) >= 0
        slow = in_debt or (node_in_debt and not is_modest) or self._crowd_in_debt(now, toll, opens)
        if slow != self._slow:
            self._slow = slow
            self._spare(slow)
            self._turn_work = self._session.work_left = SLICE_WORK if slow else TURN_WORK
        self._squeeze(LEAST_ROOM if in_debt or (slow and not is_modest) else self._crowd_room)
        if self._hard.owe(now, toll) >= 0:
            return 0.0
        if now - self._unread_at > BREAK_S:
            self._unread_since = now
            self._reader.flooded(False)
        elif now - self._unread_since > DROP_AFTER_S:
            self._reader.flooded(True)
            return 0.0
        self._unread_at = now
        return self._hard.wait_s(now, 0.0)

    def offended(self) -> None:
        """The peer was refused for its haste again, and goes on: it pays, its crowd and the node do not."""
        now = self._lanes.clock()
        if self._hard.has(now):  # a burst must not be left unread for minutes
            self._hard.owe(now, OFFENCE_TOLL)

    def _crowd_in_debt(self, now: float, toll: int, opens: int) -> bool:
        """Pay for the crowd; whether it is in debt, and this turn has added to it.

        Who only moves bytes is not slowed for its neighbours.
        """
        purse = self._lanes.purse(self.crowd, now)
        if purse is None or self._reader.is_own:
            return False
        return purse.pay(now, toll, opens) and bool(toll or opens)

    def _queue(self, lane: Lane) -> None:
        self.state = Taking.QUEUED
        self._channel.pause()
        lane.wait(self._slice)

    def _leave_unread(self, seconds: float) -> None:
        self.state = Taking.UNREAD
        self._channel.pause()
        self._timer = self._loop.call_later(seconds, self._read_again)

    def _read_again(self) -> None:
        self._timer = None
        self._waits_choked = False
        if self.state is Taking.UNREAD:
            self._queue(self._lanes.slow if self._slow else self._lanes.fair)

    def drained(self) -> None:
        """The channel took what waited: a peer that was choked reads again."""
        self._choked = False
        if self._waits_choked and self._timer is not None:
            self._timer.cancel()
            self._read_again()

    def _slice(self) -> None:
        if self.state is not Taking.QUEUED:
            return
        self.state = Taking.READING
        self._lanes.in_slice = True
        try:
            self._go_on()
        finally:
            self._lanes.in_slice = False

    def _go_on(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            self._session.ledger.used -= len(held)
            try:
                self._take(held)
            except Exception as exc:
                self._channel.fail(exc)  # a defect, as in the middle of a read
                raise
        if self.state is Taking.READING:
            self._channel.resume()

    def _take(self, held: memoryview) -> None:
        self._takes_held = True
        if held:  # the turn may have ended with the read: an empty message of the peer's costs toll
            self._reader.plaintext_received(held)
        if self.state is Taking.READING:
            self._reader.turn_ended()
        self._takes_held = False

    def end(self) -> None:
        """The connection is over."""
        self.state = Taking.ENDED
        self._session.ledger.used -= self.held_bytes
        self._held = None
        if self._timer is not None:
            self._timer.cancel()
