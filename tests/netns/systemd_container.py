"""A machine with a real systemd as its first process: namespaces over this machine's own files, read-only.

What it writes is in memory and outlives its reboots; its network is loopback alone. This machine's units,
users and journal are neither seen by it nor touched. p2pfwd is in /opt there, as for everybody. Needs root, a
kernel with overlayfs and cgroup2, util-linux and systemd; `Unavailable` says what is missing.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.netns.two_machines import Unavailable
from tests.support import lifeline

ROOT = Path(__file__).resolve().parents[2]
INIT = Path("/lib/systemd/systemd")
TOOLS = ("unshare", "nsenter", "setpriv", "useradd", "systemctl", "journalctl", "systemd-sysusers")
BOOT_S = 60.0
STOP_S = 60.0
SITE = f"python{sysconfig.get_python_version()}"
PYTHON = "/opt/p2pfwd/bin/python"

# What is made once: the files, the control group, the network. Ends, and takes it all along, with its stdin.
_HOLD = """\
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$DIR"
mkdir "$DIR/upper" "$DIR/work" "$DIR/root" "$DIR/groups"
mount -t overlay overlay -o "lowerdir=/,upperdir=$DIR/upper,workdir=$DIR/work" "$DIR/root"
mount -t cgroup2 none "$DIR/groups"
mkdir "$DIR/groups/$GROUP"
cd "$DIR/root"
rm -rf etc/systemd/system etc/systemd/user var/log/journal var/lib/systemd/linger opt
mkdir -p etc/systemd/system var/log/journal opt/python opt/src opt/p2pfwd/bin
mkdir -p "opt/p2pfwd/lib/$SITE/site-packages"
for unit in systemd-udevd systemd-udev-trigger systemd-remount-fs systemd-sysctl systemd-modules-load \\
    systemd-timesyncd systemd-update-utmp systemd-random-seed kmod-static-nodes; do
    ln -s /dev/null "etc/systemd/system/$unit.service"
done
for unit in getty.target systemd-udevd-control.socket systemd-udevd-kernel.socket; do
    ln -s /dev/null "etc/systemd/system/$unit"
done
for manager in system user; do  # a Python that knows its library by a path which units may not read
    mkdir -p "etc/systemd/$manager.conf.d"
    printf '[Manager]\nDefaultEnvironment=LD_LIBRARY_PATH=/opt/python/lib\n' \\
        >"etc/systemd/$manager.conf.d/lab.conf"
done
: >etc/fstab
tr -d - </proc/sys/kernel/random/uuid >etc/machine-id
mount --bind "$PREFIX" opt/python
mount --bind "$SOURCE" opt/src
mount --bind "$PACKAGES" "opt/p2pfwd/lib/$SITE/site-packages"
ln -s /opt/python/bin/python3 opt/p2pfwd/bin/python
echo "home = /opt/python/bin" >opt/p2pfwd/pyvenv.cfg
echo ready
cat >/dev/null
tries=0
while test -d "$DIR/groups/$GROUP" && test $((tries += 1)) -le 100; do  # its processes are just going
    find "$DIR/groups/$GROUP" -depth -type d -exec rmdir {} \\; 2>/dev/null || true
    sleep 0.1
done
"""

# What each boot makes anew, in its own processes, mounts and control groups; then systemd takes over.
_BOOT = """\
set -e
echo $$ >"$DIR/groups/$GROUP/cgroup.procs"
exec unshare -C -p -f -m --kill-child sh -c '
set -e
cd "$DIR/root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 none sys/fs/cgroup
for place in run tmp dev; do mount -t tmpfs -o mode=755 tmpfs "$place"; done
chmod 1777 tmp
for device in null zero full random urandom tty; do
    : >"dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mkdir -p mnt
pivot_root . mnt
umount -l /mnt
exec env -i container=p2pfwd PATH=/usr/sbin:/usr/bin:/sbin:/bin "$INIT" --unit=multi-user.target \\
    --show-status=no --log-target=journal
'
"""


class SystemdContainer:
    """A context manager; booted. Raises Unavailable."""

    def __init__(self, directory: Path) -> None:
        missing = [tool for tool in TOOLS if shutil.which(tool) is None] + [
            str(path) for path in (INIT,) if not path.exists()
        ]
        if os.geteuid() != 0 or missing:
            raise Unavailable(f"a systemd of its own needs root and {', '.join(missing) or 'namespaces'}")
        self._env = {
            **lifeline.mark(),
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "DIR": str(directory),
            "GROUP": f"p2pfwd-lab-{os.getpid()}",
            "SITE": SITE,
            "PREFIX": sys.base_prefix,
            "SOURCE": str(ROOT),
            "PACKAGES": sysconfig.get_path("purelib"),
            "INIT": str(INIT),
        }
        self._stack = ExitStack()
        self._boot: subprocess.Popen[bytes] | None = None
        try:
            self._holder = self._hold()
            self.boot()
        except BaseException:
            self.close()
            raise

    def _hold(self) -> subprocess.Popen[bytes]:
        words = ["unshare", "-m", "-n", "-i", "-u", "sh", "-c", _HOLD]
        holder = subprocess.Popen(
            words, env=self._env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._stack.callback(self._end, holder)
        assert holder.stdout is not None and holder.stderr is not None
        if holder.stdout.readline() != b"ready\n":
            raise Unavailable(f"a systemd of its own: {holder.stderr.read().decode().strip()}")
        return holder

    def _end(self, holder: subprocess.Popen[bytes]) -> None:
        for stream in (holder.stdin, holder.stdout, holder.stderr):
            if stream is not None:
                stream.close()
        holder.wait(STOP_S)

    # --- power

    def boot(self) -> None:
        """Start its systemd, and wait until it is up."""
        within = ["nsenter", "-t", str(self._holder.pid), "-m", "-n", "-i", "-u", "--"]
        self._boot = subprocess.Popen(
            [*within, "sh", "-c", _BOOT], env=self._env, stdin=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + BOOT_S
        while time.monotonic() < deadline and self._boot.poll() is None:
            up = ("systemctl", "is-active", "multi-user.target")
            if self._init() and self.finished(*up).returncode == 0:
                return
            time.sleep(0.1)
        raise Unavailable(f"a systemd of its own did not come up (exit status {self._boot.poll()})")

    def shut_down(self, *, clean: bool = True) -> None:
        """Stop it, as by its power button, or as by pulling its plug."""
        init, boot, self._boot = self._init(), self._boot, None
        if boot is None:
            return
        if init and clean:
            os.kill(init, signal.SIGRTMIN + 4)
        else:
            boot.kill()
        try:
            boot.wait(STOP_S)
        except subprocess.TimeoutExpired:
            boot.kill()
            boot.wait(STOP_S)

    def _init(self) -> int:
        """Its first process, as this machine counts; 0 while there is none."""
        if self._boot is None:
            return 0
        pid = self._boot.pid
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            name = Path(f"/proc/{children[0]}/comm").read_text().strip() if children else ""
        except OSError:
            return 0
        return int(children[0]) if name == "systemd" else 0

    # --- use

    def run(self, *words: str, user: str | None = None, text: str | None = None) -> str:
        """Run a command in it, as `user`, with `text` to read; what it prints. It must succeed."""
        done = self.finished(*words, user=user, text=text)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def finished(
        self, *words: str, user: str | None = None, text: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """The same, with its exit status and what it complains of."""
        init = str(self._init())
        env = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "PYTHONPATH=/opt/src"]
        change = []
        if user is not None:
            change = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
            env.append(f"HOME=/home/{user}")
        else:
            env.append("HOME=/root")
        enter = ["nsenter", "-t", init, "-m", "-p", "-n", "-u", "-i", "-C", "-r", "-w", "--"]
        return subprocess.run(
            [*enter, *env, *change, *words],
            input=text or "",
            capture_output=True,
            text=True,
            timeout=STOP_S,
            check=False,
        )

    def p2pfwd(self, *words: str, user: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run the command line in it."""
        return self.finished(PYTHON, "-P", "-m", "p2pfwd", *words, user=user)

    def close(self) -> None:
        """Pull its plug, and forget what it wrote."""
        self.shut_down(clean=False)
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
