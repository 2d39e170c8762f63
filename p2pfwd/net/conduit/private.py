"""A conduit inside a private network: every byte XORed before multistream sees it (libp2p spec: pnet).

Rules: our nonce goes out in front of the first bytes we send, as go does; what comes is decrypted in
place, and what the receiver leaves is remembered as plain, for it comes again. A frame of the pool is
encrypted where it lies. Somebody who speaks multistream in the clear, where a nonce is due, is told apart
at once; all other strangers look like noise to the negotiation above.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.errors import NegotiationFailed
from p2pfwd.net.conduit.contract import Conduit, Receiver
from p2pfwd.wire.circuit import Limit
from p2pfwd.wire.multistream import HEADER
from p2pfwd.wire.pnet import NONCE_BYTES, KeyStream


class PnetConduit:
    """`below`, for those who have the key; a Conduit, and the Receiver of `below`."""

    missing = 0

    def __init__(self, below: Conduit, psk: bytes) -> None:
        """psk: 32 bytes."""
        self.local_addr: Multiaddr = below.local_addr
        self.remote_addr: Multiaddr = below.remote_addr
        self.limit = below.limit
        self.segment_bytes = below.segment_bytes
        self.wide_bytes = 0
        self._below = below
        self._psk = psk
        self._receiver: Receiver | None = None
        self._outbound: KeyStream | None = None
        self._inbound: KeyStream | None = None
        self._plain_bytes = 0
        """How many bytes that `below` will give next are decrypted already."""

    @property
    def limit_left(self) -> Limit | None:
        """As below."""
        return self._below.limit_left

    @property
    def heard(self) -> bool:
        """As below."""
        return self._below.heard

    @property
    def progressed_at(self) -> float:
        """As below."""
        return self._below.progressed_at

    @property
    def congested(self) -> bool:
        """As below."""
        return self._below.congested

    def acknowledged_s(self) -> float | None:
        """As below."""
        return self._below.acknowledged_s()

    def retry_within(self, seconds: float | None) -> None:
        """As below."""
        self._below.retry_within(seconds)

    def start(self, receiver: Receiver, leftover: bytes = b"") -> None:
        """Begin, or go on, with this receiver; it is given `leftover` first."""
        self._receiver = receiver
        if leftover:  # from a receiver that had taken all there was
            self._plain_bytes = len(leftover)
        self._below.start(self, leftover)

    def pause(self) -> None:
        """As below."""
        self._below.pause()

    def resume(self) -> None:
        """As below."""
        self._below.resume()

    def spare(self, spare: bool) -> None:
        """As below."""
        self._below.spare(spare)

    def tell(self, moved: Callable[[], None] | None) -> None:
        """As below."""
        self._below.tell(moved)

    @property
    def is_near(self) -> bool:
        """As below."""
        return self._below.is_near

    def squeeze(self, room: int | None) -> None:
        """As below."""
        self._below.squeeze(room)

    @property
    def kept_bytes(self) -> int:
        """As below."""
        return self._below.kept_bytes

    def send(self, view: memoryview, *, framed: bool = False, more: bool = False) -> None:
        """Send a view; see Conduit.send. A framed one is ciphertext afterwards."""
        if not view:
            return
        if self._outbound is None:
            nonce = os.urandom(NONCE_BYTES)
            self._outbound = KeyStream(self._psk, nonce)
            self._below.send(memoryview(nonce + self._outbound.xor(view)))
        elif framed:
            self._outbound.xor_in_place(view)
            self._below.send(view, framed=True, more=more)
        else:
            self._below.send(memoryview(self._outbound.xor(view)))

    def uncork(self) -> None:
        """As below."""
        self._below.uncork()

    def finish(self) -> None:
        """EOF after what waits."""
        self._below.finish()

    def abort(self) -> None:
        """End at once."""
        self._below.abort()

    # --- as the receiver of what is below ---------------------------------------------------------

    def data_received(self, view: memoryview) -> int:
        """Nonce, then ciphertext behind what was left as plain; how much was taken."""
        receiver, begin = self._receiver, 0
        assert receiver is not None
        if self._inbound is None and not self._plain_bytes:
            if view[: len(HEADER)] == HEADER:
                self._refuse()
                return len(view)
            if len(view) < NONCE_BYTES:
                return 0
            begin = NONCE_BYTES
            self._inbound = KeyStream(self._psk, bytes(view[:begin]))
        coded = view[begin + self._plain_bytes :]
        if coded:
            assert self._inbound is not None
            self._inbound.xor_in_place(coded)
        if begin == len(view):
            return begin
        used = begin + receiver.data_received(view[begin:])
        self._plain_bytes = len(view) - used
        return used

    def _refuse(self) -> None:
        receiver, self._receiver = self._receiver, None
        assert receiver is not None
        receiver.conduit_lost(NegotiationFailed("the peer has no swarm.key, and this network is private"))
        self._below.abort()

    def eof_received(self) -> None:
        """From below."""
        if self._receiver is not None:
            self._receiver.eof_received()

    def drained(self) -> None:
        """From below."""
        if self._receiver is not None:
            self._receiver.drained()

    def conduit_lost(self, exc: Exception | None) -> None:
        """From below."""
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.conduit_lost(exc)
