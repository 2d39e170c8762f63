"""Buffers of the loop's pool, for tests."""

from __future__ import annotations

from p2pfwd.system.buffers import BufferPool


def keep_frame(pool: BufferPool) -> bytearray:
    """Take the frame buffer away, as a conduit does that could not send it."""
    buffer = pool.frame.obj
    assert isinstance(buffer, bytearray)
    pool.keep(pool.frame)
    return buffer
