"""Two network namespaces joined by one wire: two machines on a LAN, with faults on the wire.

Needs root, `unshare` and `nsenter` (util-linux) and `ip` (iproute2). A namespace lives as long as the
process that holds it, which ends when its stdin closes: nothing is left however the tests end.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Self, TypeVar

CLONE_NEWNET = 0x40000000
TOOLS = ("ip", "unshare", "nsenter")

T = TypeVar("T")


class Unavailable(Exception):
    """Namespaces cannot be made here; the message is one sentence with the reason."""


class Machine:
    """A namespace with an address of its own on the wire."""

    def __init__(self, holder: subprocess.Popen[bytes], address: str) -> None:
        self.address = address
        self.pid = holder.pid

    @property
    def within(self) -> list[str]:
        """Words in front of a command that make it run on this machine."""
        return ["nsenter", "-t", str(self.pid), "-n"]

    def run(self, *command: str) -> None:
        """Run a command on this machine; it must succeed."""
        subprocess.run([*self.within, *command], check=True, capture_output=True)

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in a thread that is on this machine: sockets it makes stay there."""
        outcome: list[T] = []
        failure: list[BaseException] = []

        def enter_and_call() -> None:
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                with open(f"/proc/{self.pid}/ns/net", "rb") as namespace:
                    if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
                        raise OSError(ctypes.get_errno(), "setns")
                outcome.append(function())
            except BaseException as exc:
                failure.append(exc)

        thread = threading.Thread(target=enter_and_call)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return outcome[0]

    def connect(self, port: int, timeout_s: float = 20.0) -> socket.socket:
        """A connection to a port of this machine's loopback."""
        return self.call(lambda: socket.create_connection(("127.0.0.1", port), timeout_s))


def check_tools() -> None:
    """Raise Unavailable where no namespaces can be made."""
    if os.geteuid() != 0:
        raise Unavailable("network namespaces need root")
    for tool in TOOLS:
        if shutil.which(tool) is None:
            raise Unavailable(f"network namespaces need the tool {tool}")


def new_machine(stack: ExitStack, address: str) -> Machine:
    """A machine with nothing plugged in yet, until `stack` is closed. Raises Unavailable."""
    holder = stack.enter_context(
        subprocess.Popen(
            ["unshare", "-n", "sh", "-c", "echo ready; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    )
    assert holder.stdout is not None and holder.stdin is not None and holder.stderr is not None
    stack.callback(holder.stdin.close)
    if not holder.stdout.readline():
        raise Unavailable(f"network namespaces: {holder.stderr.read().decode().strip()}")
    return Machine(holder, address)


class TwoMachines:
    """`left` and `right`, 10.77.0.1 and 10.77.0.2; a context manager. Raises Unavailable."""

    def __init__(self) -> None:
        check_tools()
        self._stack = ExitStack()
        try:
            self.left = new_machine(self._stack, "10.77.0.1")
            self.right = new_machine(self._stack, "10.77.0.2")
            # Made inside a namespace, so no device of the real machine is touched.
            other = str(self.right.pid)
            self.left.run("ip", "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", other)
            for machine in (self.left, self.right):
                machine.run("ip", "address", "add", f"{machine.address}/24", "dev", "wire")
                machine.run("ip", "link", "set", "lo", "up")
                machine.run("ip", "link", "set", "wire", "up")
        except subprocess.CalledProcessError as exc:
            self._stack.close()
            raise Unavailable(f"network namespaces: {exc.stderr.decode().strip()}") from exc
        except BaseException:
            self._stack.close()
            raise

    def cut(self) -> None:
        """Nothing passes any more, and nobody is told: each end's own link stays up."""
        for machine in (self.left, self.right):
            machine.run("ip", "link", "set", "wire", "arp", "off")
            machine.run("ip", "neighbour", "replace", self._other(machine), "lladdr", "02:00:00:00:00:99",
                        "dev", "wire", "nud", "permanent")  # fmt: skip

    def heal(self) -> None:
        """The wire is whole again."""
        for machine in (self.left, self.right):
            machine.run("ip", "neighbour", "del", self._other(machine), "dev", "wire")
            machine.run("ip", "link", "set", "wire", "arp", "on")

    def _other(self, machine: Machine) -> str:
        return (self.right if machine is self.left else self.left).address

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
