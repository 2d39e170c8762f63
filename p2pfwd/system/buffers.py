"""Reused buffers of the data path.

Fresh buffers above 128 KiB cost an mmap and page faults each (4.4 s/GB instead of 2.0), so buffers
are reused. One frame buffer and one read buffer serve the whole loop: they are filled and emptied
within one callback, and sealed and opened in place. A conduit that could not send a whole frame,
or lets it wait for the next ones, keeps that buffer until it has, and the pool puts another in its
place. A wide message has a buffer of its own, and one that has come in part keeps the read buffer that it
lies in.
"""

from __future__ import annotations

from typing import Final

PREFIX_BYTES: Final = 2
"""In front of the plaintext: room for the length of a Noise message."""

FRAME_BYTES: Final = PREFIX_BYTES + 65535

CORKED_FRAMES: Final = 4
"""Frames that go out in one send, at most; a congested connection keeps them. Eight do not fit a processor's
cache."""

READ_BYTES: Final = CORKED_FRAMES * FRAME_BYTES
"""Read from a socket at once: as many full Noise messages as go out together, or a wide one. With four bytes
less the last of each read was copied, and again with the next."""

LARGE_BYTES: Final = READ_BYTES + FRAME_BYTES
"""A large buffer: of a read behind what was left, or of a wide message."""

WIDE_PREFIX_BYTES: Final = 4
"""`PREFIX_BYTES` of a wide message."""

KEEP_BUFFERS: Final = 32
"""Idle buffers kept: 2 MiB. More are needed only while many connections are congested. While as much is kept,
frames go out one by one: a connection that is congested then keeps one, not `CORKED_FRAMES`."""

KEEP_LARGE: Final = 4
"""Idle large buffers kept."""


class BufferPool:
    """The loop's frame and read buffers, and the spare ones."""

    def __init__(self) -> None:
        self._idle: list[bytearray] = []
        self._idle_large: list[bytearray] = []
        self.kept_bytes = 0
        """In buffers that conduits keep, and in what they have read and nobody took yet."""
        self.unsent_bytes = 0
        """Of that in buffers with what is yet to be sent."""
        self.scratch = memoryview(bytearray(LARGE_BYTES))
        """What a socket just gave, behind what its receiver left; used within one callback."""
        self._wide: memoryview | None = None
        self._put_frame(bytearray(FRAME_BYTES))

    def _put_frame(self, buffer: bytearray) -> None:
        self._buffer = buffer
        self.frame = memoryview(buffer)
        """The frame being built, with its length prefix; used within one callback."""
        self.staging = self.frame[PREFIX_BYTES:]
        """Its plaintext."""

    def keep(self, view: memoryview) -> None:
        """Take the buffer away that `view` lies in, `frame`'s or `wide`'s, to be given back by `release`."""
        if view.obj is self._buffer:
            size = FRAME_BYTES
            self._put_frame(self._idle.pop() if self._idle else bytearray(FRAME_BYTES))
        else:
            size = LARGE_BYTES
            self._wide = None
        self.kept_bytes += size
        self.unsent_bytes += size

    @property
    def wide(self) -> memoryview:
        """As `frame`, for a wide message: made for the first, which most nodes never have."""
        if self._wide is None:
            self._wide = memoryview(self._large())
        return self._wide

    def _large(self) -> bytearray:
        return self._idle_large.pop() if self._idle_large else bytearray(LARGE_BYTES)

    def keep_scratch(self) -> None:
        """As `keep`, of the read buffer, to be given back by `release_scratch`."""
        self.scratch = memoryview(self._large())
        self.kept_bytes += LARGE_BYTES

    @property
    def is_scarce(self) -> bool:
        """Whether so much waits to be sent that no frame should wait for the next one.

        What is read and not taken does not count: a hundred peers in debt have 32 KiB of it each.
        """
        return self.unsent_bytes >= KEEP_BUFFERS * FRAME_BYTES

    def release(self, buffer: bytearray) -> None:
        """Give a kept buffer back."""
        self.unsent_bytes -= len(buffer)
        self.release_scratch(buffer)

    def release_scratch(self, buffer: bytearray) -> None:
        """Give back one that was read into."""
        self.kept_bytes -= len(buffer)
        idle, most = self._idle, KEEP_BUFFERS
        if len(buffer) == LARGE_BYTES:
            idle, most = self._idle_large, KEEP_LARGE
        if len(idle) < most:
            idle.append(buffer)

    def forget_idle(self) -> None:
        """Let go of the spare ones: the busy time that needed them is over."""
        self._idle.clear()
        self._idle_large.clear()
        self._wide = None
