"""Cgroups: the hand that holds a lab's processes.

Every process of a lab is in `stampede-lab.NAME/…` before it runs its first instruction of its own, so killing that tree
ends the lab whatever state it was in. A host is two leaves, as processes may sit only in leaves of cgroup v2:

    stampede-lab.NAME/build        the root file system's builder
    stampede-lab.NAME/hN/loop      the host's keeper (keeper.py)
    stampede-lab.NAME/hN/boot      nspawn and the host's systemd, made anew at each boot

On a machine with cgroup v1 the v2 tree has no controllers and lies in /sys/fs/cgroup/unified; nspawn then also mirrors
the host's place in the v1 tree `name=systemd`, which is why every cgroup here is made, and removed, in both.
"""

import ctypes
import os
import signal
from pathlib import Path

from machine import wait_for
from settings import Failure

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def hierarchies():
    """Mount points: cgroup v2 first, then v1's `name=systemd` where there is one."""
    unified, named = [], []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        point = Path(before.split()[4])
        if kind == "cgroup2":
            unified.append(point)
        elif kind == "cgroup" and "name=systemd" in options.split(","):
            named.append(point)
    if not unified:
        raise Failure("no cgroup2 file system is mounted: the hosts need one (mount -t cgroup2 none /sys/fs/cgroup/unified)")
    return unified[:1] + named[:1]


def _delegate(folder):
    """Hands all controllers a cgroup has to its children; there are none on a v1 machine."""
    try:
        controllers = (folder / "cgroup.controllers").read_text().split()
    except FileNotFoundError:
        return
    for controller in controllers:
        try:
            (folder / "cgroup.subtree_control").write_text(f"+{controller}")
        except OSError:
            # The hosts go without this controller.
            pass


def make(path):
    """Makes a cgroup such as `stampede-lab.lab/h1/boot` in every hierarchy.

    The root's own subtree_control is the machine's: hosts get the controllers that are enabled there.
    """
    for top in hierarchies():
        folder = top
        for part in path.split("/"):
            if folder != top:
                _delegate(folder)
            folder = folder / part
            folder.mkdir(exist_ok=True)


def enter(path, parent):
    """A preexec_fn that puts the child into the cgroup, and lets it die if `parent` dies before that is done."""
    files = [str(top / path / "cgroup.procs") for top in hierarchies()]

    def child():
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
        for name in files:
            with open(name, "w", encoding="ascii") as file:
                file.write("0")
        _libc.prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0)

    return child


def processes(path):
    """The pids in a cgroup and all below it."""
    found = []
    for folder, _, _ in os.walk(hierarchies()[0] / path):
        try:
            found += [int(pid) for pid in (Path(folder) / "cgroup.procs").read_text().split()]
        except OSError:
            pass
    return found


def kill(path, limit=30):
    """Ends every process in the tree at once, as a power cut would, and waits until none is left."""
    folder = hierarchies()[0] / path
    if not folder.exists():
        return

    def gone():
        try:
            if "populated 0" in (folder / "cgroup.events").read_text():
                return True
            (folder / "cgroup.kill").write_text("1")
        except FileNotFoundError:
            # Either the cgroup went away, or the kernel is older than cgroup.kill (5.14).
            if not folder.exists():
                return True
            for pid in processes(path):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        return False

    wait_for(f"the end of all processes in {folder}", limit, gone, every=0.02)


def remove(path, limit=10):
    """Removes an empty tree in every hierarchy, deepest first."""
    for top in hierarchies():
        folder = top / path

        def gone():
            for below, _, _ in os.walk(folder, topdown=False):
                try:
                    os.rmdir(below)
                except OSError:
                    pass
            return not folder.exists()

        wait_for(f"the removal of {folder}", limit, gone, every=0.02)
