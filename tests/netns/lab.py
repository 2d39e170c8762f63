"""A flat segment: any number of machines, each a network namespace, on one switch. No way out of it.

Needs what `two_machines` needs. The switch is a bridge in a namespace of its own. Each machine has `eth0`
with an IPv4 and an IPv6 address; the IPv6 ones are private too.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.netns.two_machines import Machine, Unavailable, check_tools, new_machine


class Segment:
    """`machines` 10.78.0.1 and on, fd78::1 and on; a context manager. Raises Unavailable.

    `network`: the first half of their addresses; "11.78" makes them public, as libp2p sees it.
    """

    def __init__(self, count: int, network: str = "10.78") -> None:
        check_tools()
        self._network = network
        self.machines: list[Machine] = []
        self.routers: list[object] = []
        self.stack = ExitStack()
        try:
            self._switch = new_machine(self.stack, "")
            bridge = "ip link add switch type bridge forward_delay 0 mcast_snooping 0"
            self._switch.run(*bridge.split())
            self._switch.run("ip", "link", "set", "switch", "up")
            for _ in range(count):
                self.add()
        except subprocess.CalledProcessError as exc:
            self.stack.close()
            raise Unavailable(f"network namespaces: {exc.stderr.decode().strip()}") from exc
        except BaseException:
            self.stack.close()
            raise

    def add(self) -> Machine:
        """One more machine, plugged in."""
        number = len(self.machines) + 1
        machine = new_machine(self.stack, f"{self._network}.{number // 250}.{number % 250}")
        port = f"port{number}"
        pair = f"ip link add eth0 type veth peer name {port} netns {self._switch.pid}"
        machine.run(*pair.split())
        self._switch.run("ip", "link", "set", port, "master", "switch", "up")
        machine.run("ip", "link", "set", "lo", "up")
        machine.run("ip", "link", "set", "eth0", "up")
        machine.run("ip", "address", "add", f"{machine.address}/16", "dev", "eth0")
        machine.run("ip", "address", "add", f"fd78::{number:x}/64", "dev", "eth0", "nodad")
        # Programs that name no interface need a route for their multicast, as a default route would be.
        machine.run("ip", "route", "add", "224.0.0.0/4", "dev", "eth0")
        self.machines.append(machine)
        return machine

    def port_state(self, machine: Machine, *, forwarding: bool) -> None:
        """Whether the switch passes anything to and from a machine; its carrier stays."""
        port = f"port{self.machines.index(machine) + 1}"
        self._switch.run("bridge", "link", "set", "dev", port, "state", "3" if forwarding else "0")

    def delay(self, stack: ExitStack, machine: Machine, delay_s: float, loss: float) -> None:
        """Put a delay line between a machine and the switch, until `stack` is closed."""
        port = f"port{self.machines.index(machine) + 1}"
        script = Path(__file__).with_name("delay_line.py")
        words = [sys.executable, "-S", str(script), f"{port}a", f"{port}b", str(delay_s), str(loss)]
        line = stack.enter_context(
            subprocess.Popen([*self._switch.within, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        )
        assert line.stdin is not None and line.stdout is not None
        stack.callback(line.stdin.close)
        if line.stdout.readline() != b"ready\n":
            raise Unavailable("network namespaces: a delay line needs /dev/net/tun")
        for command in (
            f"link add {port}m type bridge forward_delay 0 mcast_snooping 0",
            f"link set {port}m up",
            f"link set {port}a master {port}m up",
            f"link set {port}b master switch up",
            f"link set {port} master {port}m",
        ):
            self._switch.run("ip", *command.split())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.close()
