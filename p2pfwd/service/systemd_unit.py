"""The texts of systemd's units, as systemd.unit(5), systemd.service(5) and systemd.exec(5) describe them.

The unit waits for no network: the daemon comes up without one and is told of each change. What a user's own
manager may confine without privileges is confined in both units; the rest needs the system's. Memory that is
written and run is not denied: pyOpenSSL's callbacks are made in it, and every TLS handshake needs them.
"""

from __future__ import annotations

from pathlib import Path

from p2pfwd.errors import ExitStatus
from p2pfwd.service.values import Definition, Program, mark, suffix
from p2pfwd.state.home_lock import SYSTEM_HOME

SYSTEM_UNITS = Path("/etc/systemd/system")
SYSUSERS_FILE = Path("/etc/sysusers.d/p2pfwd.conf")
SYSTEM_USER = "p2pfwd"

WATCHDOG_S = 60
"""How long the event loop may say nothing before systemd takes it for hung."""
ABORT_S = 10
"""How long a hung daemon may take to die of SIGABRT, which leaves in the journal where it hung."""
RESTART_S = 5
START_LIMIT = (10, 600)
"""Starts within so many seconds after which systemd gives up."""
DESCRIPTORS = 65536

_UNIT = """\
# {mark}
[Unit]
Description=p2pfwd daemon{what}
Documentation=man:p2pfwd-daemon(8)
StartLimitBurst={burst}
StartLimitIntervalSec={interval}

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
ExecReload=/bin/kill -HUP $MAINPID
{environment}Restart=on-failure
RestartSec={restart}
RestartPreventExitStatus={usage}
SuccessExitStatus={interrupted}
WatchdogSec={watchdog}
TimeoutAbortSec={abort}
SyslogIdentifier=p2pfwd
KillMode=mixed
LimitNOFILE={descriptors}
LimitCORE=0
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
{confinement}
[Install]
WantedBy={target}
"""

_SYSTEM = """\
User={user}
Group={user}
StateDirectory=p2pfwd
StateDirectoryMode=0700
RuntimeDirectory=p2pfwd
RuntimeDirectoryMode=0755
WorkingDirectory=/
AmbientCapabilities=
CapabilityBoundingSet=
DevicePolicy=closed
KeyringMode=private
PrivateDevices=yes
PrivateMounts=yes
PrivateTmp=yes
PrivateUsers=yes
ProcSubset=pid
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=strict
RemoveIPC=yes
SystemCallFilter=~@resources
"""

SYSUSERS = f"""\
# {mark(SYSTEM_HOME)}
u {SYSTEM_USER} - "p2pfwd daemon" {SYSTEM_HOME}
"""


def user_unit(program: Program, home: Path, directory: Path, *, is_default: bool) -> Definition:
    """A unit of a user's own manager, in `directory`, for `home`."""
    label = f"p2pfwd{suffix(home, is_default=is_default)}.service"
    what = "" if is_default else f" of {_specifier(str(home))}"
    text = _text(program, home, what, "", "default.target")
    return Definition(label, directory / label, home, False, text)


def system_unit(program: Program) -> Definition:
    """The unit of the system's manager, which runs as a user of its own."""
    text = _text(program, SYSTEM_HOME, "", _SYSTEM.format(user=SYSTEM_USER), "multi-user.target")
    return Definition("p2pfwd.service", SYSTEM_UNITS / "p2pfwd.service", SYSTEM_HOME, True, text)


def _text(program: Program, home: Path, what: str, confinement: str, target: str) -> str:
    return _UNIT.format(
        mark=mark(home),
        what=what,
        burst=START_LIMIT[0],
        interval=START_LIMIT[1],
        command=" ".join(_quoted(word.replace("$", "$$")) for word in program.arguments),
        environment="".join(
            f"Environment={_quoted(f'{name}={value}')}\n" for name, value in program.environment.items()
        ),
        restart=RESTART_S,
        usage=int(ExitStatus.USAGE),
        interrupted=int(ExitStatus.INTERRUPTED),
        watchdog=WATCHDOG_S,
        abort=ABORT_S,
        descriptors=DESCRIPTORS,
        confinement=confinement,
        target=target,
    )


def _quoted(word: str) -> str:
    escaped = _specifier(word).replace('"', '\\"')
    return f'"{escaped}"'


def _specifier(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "%%").replace("\n", "\\n")
