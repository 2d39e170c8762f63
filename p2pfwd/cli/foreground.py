"""`--foreground`: the listener lives as long as the command.

Kubo's words: `…, waiting for interrupt...` when it stands, `Received interrupt, removing listener for
<proto>` when it goes, whether by Ctrl-C, SIGTERM or a `close` from elsewhere; ours when its time is over
(`--expires`). The daemon holds the listener under a lease of this connection, so that it goes even when this
process is killed outright.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from p2pfwd.cli.render import talk, write, write_json
from p2pfwd.cli.text import printable
from p2pfwd.errors import ConnectionLost, DaemonNotRunning, P2PForwardError, ShuttingDown
from p2pfwd.rpc.schema import CloseParams, Listener

if TYPE_CHECKING:
    from p2pfwd.cli.env import Env
    from p2pfwd.rpc.client import Client, Subscription

_REMOVE_TIMEOUT_S = 3.0

_NOUNS = {"listen": "listener", "forward": "forwarder"}


@contextmanager
def terminable() -> Iterator[int]:
    """SIGTERM ends the body as Ctrl-C does, by KeyboardInterrupt; yields what is readable from then on.

    The exception alone can get lost: a signal that comes just before a system call does not end that call,
    and what a handler raises inside a destructor is dropped. Whoever waits therefore watches this
    descriptor too (`watch`).
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    watched = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield reader
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.set_wakeup_fd(watched)
        os.close(reader)
        os.close(writer)


@contextmanager
def undone_if_interrupted(env: Env, listeners: Sequence[Listener]) -> Iterator[None]:
    """Ctrl-C in the body takes the listeners back: a command that was interrupted has changed nothing."""
    try:
        yield
    except KeyboardInterrupt:
        for listener in listeners:
            if remove(env, listener):
                talk(f"Interrupted: the {listener.direction} of {printable(listener.protocol)} was removed.")
        raise


def hold(
    env: Env,
    client: Client,
    subscription: Subscription,
    listeners: Sequence[Listener],
    active: Sequence[Mapping[str, Any]] | None,
) -> None:
    """Wait until all are closed from elsewhere, or this command is interrupted; then they are gone.

    Says so in Kubo's words, or, given `active`, in Kubo's JSON with that added to the first line of each.
    Raises DaemonNotRunning when the daemon stops first.
    """
    standing = list(listeners)
    try:
        # Inside the try: who reads this may interrupt at once.
        for index, listener in enumerate(listeners):
            if active is None:
                write(f"{_opening(listener)}, waiting for interrupt...")
            else:
                write_json({**_status("active", listener), **active[index]}, line=True)
        while _some_stand(client, standing, as_json=active is not None):
            subscription.next()
    except KeyboardInterrupt:
        for listener in standing:
            remove(env, listener)
            _say_closing(listener, "interrupt", as_json=active is not None)
    except (ConnectionLost, ShuttingDown):
        raise DaemonNotRunning("the daemon stopped, and the listener with it") from None


def _some_stand(client: Client, standing: list[Listener], *, as_json: bool) -> bool:
    """Whether any is left; those that were closed from elsewhere are taken out, and it is said.

    Raises ShuttingDown.
    """
    # The events only say when to look: they may be dropped, the list of listeners is always true.
    there = {listener.id for listener in client.call("p2p.ls").listeners}
    gone = [listener for listener in standing if listener.id not in there]
    if gone and client.call("daemon.status").draining:
        raise ShuttingDown("the daemon is stopping")
    for listener in gone:
        standing.remove(listener)  # before it is said: who reads it may interrupt at once
        has_ended = 0 < (listener.ends_at or 0) <= time.time()
        _say_closing(listener, "ended" if has_ended else "closed", as_json=as_json)
    return bool(standing)


def _say_closing(listener: Listener, reason: str, *, as_json: bool) -> None:
    if as_json:
        write_json({**_status("closing", listener), "Reason": reason}, line=True)
    elif reason == "ended":
        write(f"The time of the {listener.direction} {printable(listener.protocol)} is over: it has ended")
    else:
        write(f"Received interrupt, removing {_NOUNS[listener.direction]} for {printable(listener.protocol)}")


def remove(env: Env, listener: Listener) -> bool:
    """Close exactly this listener, over a connection of its own; whether the daemon confirmed it.

    The lease would do it too, after this process has ended; whoever waits for the command may count on it
    having happened. When the daemon cannot be asked any more the lease is all there is.
    """
    params = CloseParams(
        protocol=listener.protocol,
        listen_address=listener.listen_address,
        target_address=listener.target_address,
    )
    try:
        with env.connect(timeout_s=_REMOVE_TIMEOUT_S) as client:
            client.call("p2p.close", params, timeout_s=_REMOVE_TIMEOUT_S)
    except P2PForwardError:
        return False
    return True


def watch(client: Client, interrupted: int) -> Subscription:
    """The listener events of a connection; none is missed if this comes before the listener is made.

    Whatever waits on this connection then raises KeyboardInterrupt once `interrupted` is readable.
    """
    client.interrupt_on(interrupted)
    return client.subscribe(("listeners",))


def _opening(listener: Listener) -> str:
    if listener.direction == "listen":
        return f"Listening on {printable(listener.protocol)}, forwarding to {listener.target_address}"
    return f"Forwarding {printable(listener.protocol)} to {listener.listen_address}"


def _status(word: str, listener: Listener) -> dict[str, Any]:
    address = listener.target_address if listener.direction == "listen" else listener.listen_address
    return {"Status": word, "Protocol": listener.protocol, "Address": address}
