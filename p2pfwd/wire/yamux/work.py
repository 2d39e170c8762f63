"""What a peer's frames cost us, in units of about a microsecond of processor time.

Two accounts. *Work* is all of it: a session stops when a turn's work is used up and goes on in the next
turn, so that nobody's frames keep the others waiting. *Toll* is the part that moves nothing: pings, credit
in crumbs, empty frames, streams that come to nothing. Nobody needs much of it; who sends much is slowed.
A tunnel's payload costs no toll, and credit does not as long as it comes in pieces worth a frame: honest
transfers of any speed stay free. Measured with Python 3.12 on a virtual machine; only the proportions matter.
"""

from __future__ import annotations

from typing import Final

UNLIMITED: Final = 1 << 60

DATA_WORK: Final = 4
"""A data frame, or a piece of one: header, the sink's call. Its bytes are bounded by what one read brings."""

FRAME_WORK: Final = 2
"""Any other frame."""

EMPTY_WORK: Final = 4
"""A secured message with nothing in it, or a part of a header: legal, and has to be opened all the same."""

OPEN_WORK: Final = 60
"""A SYN: the stream's state, its negotiation, its handler."""

OPEN_AFTERWORK: Final = 200
"""What a SYN costs after its read: a local connection made, answered, closed; half of it is the service's."""

END_WORK: Final = 20
"""A FIN or a RST."""

FRAME_TOLL: Final = 2
"""A ping, an empty frame, one for a stream that is not there, credit in crumbs."""

BYTES_SHIFT: Final = 7
"""Payload for another stream than a tunnel: a unit for each 128 bytes. No protocol of ours needs much, and a
stranger may send 2.5 MB a second of it."""

BARREN_TOLL: Final = 80
"""A stream of the peer's that ends and never was a tunnel."""

TUNNEL_TOLL: Final = 20
"""One that was: 5,000 a second are more than a machine can serve."""

REFUSAL_WORK: Final = 1
"""A proposal of a protocol that is refused; as much toll. Up to 1,000 fit into one frame."""

SHED_TOLL: Final = 20_000
"""A stream that had to be reset because its peer made this node hold too much: who goes on is slowed."""

CRUMB_BYTES: Final = 4096
"""Credit of less is a crumb. go, rust and js grant at least half an initial window (128 KiB) at once."""

WIDE_WINDOW_BYTES: Final = 64 << 20
"""Credit beyond this is of no use: nobody's receive window is larger (ours: 32 MiB, go and js: 16 MiB)."""
