"""One host: its folder, its processes, its state.

A host is a folder: `upper` and `work` (its overlay on the shared root file system), `docker` (its /var/lib/docker, which
must not lie on an overlay) and `console.log`. Whether it runs is asked of its cgroup, never remembered. The overlay is
mounted by the host's keeper in a mount namespace of the keeper's own, so no mount outlives the processes.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cgroups
import machine
import network
from settings import Failure, Lab

NSENTER = "/usr/bin/nsenter"
# What a command in a host gets: nothing of the machine's but the kind of terminal.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root", "USER": "root", "LOGNAME": "root", "SHELL": "/bin/bash", "LANG": "C.UTF-8",
    "TERM": os.environ.get("TERM", "dumb"),
}


@dataclass(frozen=True)
class Host:
    lab: Lab
    name: str

    @property
    def number(self):
        return int(self.name[1:])

    @property
    def address(self):
        return f"198.18.{self.lab.network}.{self.number}"

    @property
    def folder(self):
        return self.lab.state / self.name

    @property
    def cgroup(self):
        return f"{self.lab.cgroup}/{self.name}"

    @property
    def console(self):
        return self.folder / "console.log"

    @property
    def cut_marker(self):
        """A cut cable stays cut when the host starts again: the keeper looks at this file."""
        return self.folder / "cut"

    @property
    def read_only_marker(self):
        """Where this file is, the host's /usr cannot be written to, as on CoreOS."""
        return self.folder / "read-only"

    # Life

    def kept(self):
        """Whether anything of the host runs: its keeper, nspawn or the host itself."""
        return bool(cgroups.processes(self.cgroup))

    def leader(self):
        """The pid, on the machine, of the host's systemd; None when there is none."""
        for pid in cgroups.processes(f"{self.cgroup}/boot"):
            try:
                process = Path(f"/proc/{pid}")
                status = process.joinpath("status").read_text()
                ids = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
                # Pid 1 of a namespace right below ours: a container's first process in the host is one level deeper.
                if len(ids) == 2 and ids[1] == "1" and process.joinpath("comm").read_text() == "systemd\n":
                    return pid
            except (OSError, StopIteration):
                continue
        return None

    def power_on(self):
        """Starts the host's keeper; the host itself then comes up by itself."""
        for part in ("", "/loop"):
            cgroups.make(self.cgroup + part)
        command = [
            NSENTER, f"--net={self.lab.namespace_file}", "unshare", "--mount", "--propagation", "slave",
            sys.executable, "-B", str(Path(__file__).with_name("main.py")), "_keep", self.name]
        with self.console.open("ab") as console:
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, cwd="/", start_new_session=True,
                env=dict(os.environ, STAMPEDE_LAB=self.lab.name),
                preexec_fn=cgroups.enter(f"{self.cgroup}/loop", os.getpid()))

    def power_off(self):
        """The power goes: every process of the host ends at the same moment, nothing is told or written first.

        The cable goes before: the kernel would end the host's connections for it, and a host without power
        sends no FIN.
        """
        up = self.lab.namespace_file.exists()
        if up:
            network.cut(self.lab, self.name)
        cgroups.kill(self.cgroup)
        cgroups.remove(self.cgroup)
        if up:
            network.unplug(self.lab, self.name)

    # Inside

    def inside(self, *command, **options):
        """Runs a command in the host, with the host's environment."""
        leader = self.leader()
        if leader is None:
            raise Failure(f"{self.name} is not running")
        return machine.run(NSENTER, "-t", leader, "-a", *command, env=ENVIRONMENT, **options)

    def root(self):
        """Where the host's files are seen from the machine: through its systemd, or, when it is down, its overlay."""
        leader = self.leader()
        if leader is not None:
            return Path(f"/proc/{leader}/root")
        if self.kept():
            raise Failure(f"{self.name} is just starting or ending: its files cannot be reached")
        return self.folder / "upper"

    def system_state(self):
        """off, booting, or what systemd says of itself: starting, running, degraded, stopping."""
        if not self.kept():
            return "off"
        if self.leader() is None:
            return "booting"
        try:
            return self.inside("systemctl", "is-system-running", check=False, timeout=10).stdout.strip() or "booting"
        except Failure:
            return "booting"

    def uptime(self):
        """Seconds since the host's systemd started; None when it is off."""
        leader = self.leader()
        try:
            fields = Path(f"/proc/{leader}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")

    def last_words(self):
        """The end of the console, for messages."""
        try:
            return "\n".join(self.console.read_text(errors="replace").splitlines()[-8:])
        except FileNotFoundError:
            return "no console output"
