"""A program at the end of a stream that has bulk to send and takes what comes."""

from __future__ import annotations

import asyncio

from p2pfwd.net.link.contract import DuplexStream


class Program:
    """Has a lot to send, as a splice whose socket always has more, and takes what comes."""

    def __init__(self, stream: DuplexStream, data: bytes) -> None:
        self.stream = stream
        self.got = bytearray()
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left = memoryview(data)
        stream.set_sink(self, tunnel=True)
        stream.want_to_send()

    def resume_sending(self) -> bool:
        frame = self.stream.begin_frame()
        if frame is not None:
            n = min(len(frame), len(self._left))
            frame[:n] = self._left[:n]
            self._left = self._left[n:]
            self.stream.cork()
            self.stream.end_frame(n)
        if self._left:
            self.stream.want_to_send()
        else:
            self.stream.close_write()
        return bool(self._left)

    def data_received(self, view: memoryview) -> None:
        self.got += view
        self.stream.consumed(len(view))

    def eof_received(self) -> None:
        self.over.set_result(None)

    def stream_lost(self, exc: Exception) -> None:
        if not self.over.done():
            self.over.set_exception(exc)
