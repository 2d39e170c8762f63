"""UPnP-IGD by miniupnpc, in a process of its own: one request on the command line, one answer as JSON.

`upnp_child.py LOCATION map|check|unmap OWN_HOST PORT EXTERNAL_PORT LEASE_S`. Imports nothing of p2pfwd.

The library reads whatever a router sends, for as long as that goes on. So it runs where that hurts nobody:
with bounds of memory, processor time and time, after which the process is gone. It is told where the router
is, and speaks to it there alone: a control URL that leads elsewhere is not used.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from typing import Any
from urllib.parse import urlsplit

MEMORY_BYTES = 192 << 20
"""Of address space; Python and the library take 40 MiB."""

CPU_S = 2
TIME_S = 12
DESCRIPTION = "p2pfwd"
ONLY_PERMANENT = "OnlyPermanentLeasesSupported"
TAKEN = "ConflictInMappingEntry"


def bound() -> None:
    """From here on this process cannot take more."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(TIME_S)


def answer(argv: list[str]) -> dict[str, Any]:
    """What came of the request: its result, or `error`, or nothing where the router does not answer."""
    import miniupnpc

    location, task, own_host = argv[:3]
    port, external_port, lease_s = map(int, argv[3:])
    router = miniupnpc.UPnP()
    control = router.selectigd(location)
    if urlsplit(control).hostname != urlsplit(location).hostname:
        return {"error": "it leads to somebody else"}
    if task == "map":
        request = (external_port, "TCP", own_host, port, DESCRIPTION, "")
        try:
            router.addportmapping(*request, lease_s)
        except Exception as exc:  # the library raises nothing narrower
            if str(exc) != ONLY_PERMANENT:
                raise
            lease_s = 0
            router.addportmapping(*request, lease_s)
    found = router.getspecificportmapping(external_port, "TCP")
    ours = found is not None and found[0] == own_host and int(found[1]) == port
    if task == "unmap":  # it may be another machine's by now
        return {"done": ours and bool(router.deleteportmapping(external_port, "TCP"))}
    if task == "map" and ours:
        lease_s = min(lease_s, max(0, int(found[4])))
    elif task == "map" and found is not None:
        return {"error": TAKEN}
    return {"host": router.externalipaddress(), "lease_s": lease_s, "has_mapping": ours}


def main() -> None:
    """See the module."""
    bound()
    try:
        said = answer(sys.argv[1:])
    except Exception as exc:  # noqa: BLE001 - the process's root
        said = {"error": str(exc)}
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main()
