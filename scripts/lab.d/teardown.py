"""`down`: takes a lab away, whatever is left of it.

It needs no record of what was done. Everything that belongs to a lab is found by the lab's name: processes by cgroup and
network namespace, links by name, files by folder. What is not there is no error.
"""

import os
from pathlib import Path

import cgroups
import machine
import network
import rootfs
from machine import say
from settings import STATES, Failure


def down(lab, keep=False):
    lock = machine.Lock(lab.lock_file)
    if not lock.take(10):
        owner = lock.owner()
        if not _is_lab(owner) or not lock.path.exists():
            raise Failure(f"{lab.lock_file} is held, by none of ours that can be found")
        say(f"ending {lock.owner_text().removesuffix(' to end')}, which still runs")
        os.kill(owner, 9)
        if not lock.take(10):
            raise Failure(f"{lab.lock_file} is still held after its owner was killed")
    _take_away(lab, keep)
    lock.free(remove=True)


def _take_away(lab, keep):
    """Needs no record: whatever of the lab is there goes, and what is not there is no error."""
    cgroups.kill(lab.cgroup)
    cgroups.remove(lab.cgroup)
    network.down(lab)
    rootfs.remove_unfinished()
    if not keep:
        machine.remove_tree(lab.state)
    try:
        STATES.rmdir()
    except OSError:
        # Not there, or another lab is in it.
        pass


def _is_lab(pid):
    try:
        return pid != os.getpid() and "lab.d/main.py" in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False
