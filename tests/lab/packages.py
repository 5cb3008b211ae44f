"""What scripts/build-sysext makes: a system extension on a host whose /usr cannot be written to, and a .deb on a plain Debian.

The hosts are of another lab: `h1` has a read-only /usr, `h2` has not, and neither has anything of ours before.
"""

import json
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

import case
from api import Api
from hosts import TREE, Lab, container_name, wait_for
from single import binary

NAME = "e2epack"
CONFIG = '[store]\nendpoints = ["http://{}:2379"]\n\n[network]\nencryption = "none"\n'
UNITS = ("stampede-network.socket", "stampede-libvirt.socket", "stampede.service")


def build(kind, version, out):
    """A package of the agent that the other tests are about."""
    command = [TREE / "scripts/build-sysext", "--only", kind, "--version", version, "--out", out]
    done = subprocess.run(
        command, env={**case.LAB.environment, "STAMPEDE_BINARY": str(binary())}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        timeout=600, check=False)
    if done.returncode != 0:
        raise AssertionError(f"scripts/build-sysext: {done.stderr}")
    return Path(done.stdout.splitlines()[-1])


class Packages(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp(prefix="stampede-packages-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.lab = Lab(NAME)
        cls.addClassCleanup(cls.lab.stream, "down")
        release = ["--release", case.RELEASE]
        if cls.lab.stream("up", "1", "--no-agent", "--read-only", *release) != 0 or cls.lab.stream("up", "2", "--no-agent") != 0:
            raise AssertionError("the other lab does not come up")
        cls.one, cls.two = cls.lab.hosts()

    def tearDown(self):
        if not self._outcome.success:
            for host in (self.one, self.two):
                print(host.shell("journalctl --no-pager -n 20 -u 'stampede*' -u systemd-sysext", check=False))

    def configure(self, host):
        host.shell("mkdir -p /etc/stampede && cat > /etc/stampede/config.toml", stdin=CONFIG.format(self.one.address))

    def api(self, host):
        return Api(socket=str(host.path("/run/stampede/api.sock")))

    def active(self, host, name):
        """Whether the agent of a host says that the host of that name is in use and runs containers."""
        rows = self.api(host).list("/v1/hosts", name=name)
        return [row["state"] for row in rows] == ["active"] and "container" in rows[0]["capabilities"] and rows[0]

    def sleeping(self, host, name):
        api = self.api(host)
        identifier = api.list("/v1/hosts", name=name)[0]["id"]
        body = {"imageUuid": "docker:busybox", "name": f"on-{name}", "command": "sleep", "commandArgs": ["infinity"], "requestedHostId": identifier}
        return api.wait(api.post("/v1/containers", body), "running")

    def standing(self, host, row):
        """What runs of an instance: the container's process and start, and its supervisor's."""
        container = host.out("docker", "inspect", "-f", "{{.State.Pid}} {{.State.StartedAt}}", container_name(row))
        return container, self.pid(host, f"stampede-instance@{row['id']}.service")

    def pid(self, host, unit):
        return host.out("systemctl", "show", "--value", "-p", "MainPID", unit)

    # The system extension

    def merge(self, image, verb):
        host = self.one
        shutil.copy(image, host.path("/var/lib/extensions") / ".new")
        host.run("mv", "/var/lib/extensions/.new", "/var/lib/extensions/stampede.raw")
        host.run("systemd-sysext", verb)
        host.run("systemctl", "daemon-reload")

    def test_1_a_system_extension_on_a_read_only_usr(self):
        host = self.one
        self.assertNotEqual(host.run("touch", "/usr/bin/x", check=False).returncode, 0, "/usr can be written to")
        host.run("mkdir", "-p", "/var/lib/extensions")
        # A libvirt, which the product's own library has to speak to.
        self.lab("libvirt", "h1")
        self.merge(build("sysext", "0.1.0", self.folder), "merge")
        self.assertNotEqual(host.run("touch", "/usr/bin/x", check=False).returncode, 0, "/usr can be written to")
        self.assertEqual(host.out("cat", "/usr/share/doc/stampede/version"), "0.1.0")
        host.run("systemd-tmpfiles", "--create", "stampede.conf")
        host.shell("sysctl -qw net.ipv4.ip_forward=0; systemctl restart systemd-sysctl.service")
        self.assertEqual(host.out("cat", "/proc/sys/net/ipv4/ip_forward"), "1")
        loaded = host.out("ldd", "/usr/bin/stampede-libvirt")
        elsewhere = [line for line in loaded.splitlines() if "=> /" in line and "/usr/bin/../lib/stampede/" not in line]
        self.assertEqual([line for line in elsewhere if not re.match(r"\s*lib(c|m|resolv|pthread|dl|rt)\.so", line)], [], loaded)
        self.assertNotIn("not found", loaded)
        self.configure(host)
        host.run("systemctl", "start", *UNITS)
        found = wait_for("the host", 60, lambda: self.active(host, "h1"))
        self.assertEqual(found["versions"].get("stampede") is not None, True, found)
        wait_for("virtual machines", 120, lambda: "virtualMachine" in self.active(host, "h1")["capabilities"])
        failed = host.out("systemctl", "list-units", "--no-legend", "--plain", "--failed", "stampede*")
        self.assertEqual(failed, "")

    def test_2_a_newer_one_restarts_nothing_that_runs(self):
        host = self.one
        row = self.sleeping(host, "h1")
        before = self.standing(host, row)
        units = {unit: self.pid(host, unit) for unit in ("stampede.service", "stampede-network.service", "docker.service")}
        self.merge(build("sysext", "0.2.0", self.folder), "refresh")
        self.assertEqual(host.out("cat", "/usr/share/doc/stampede/version"), "0.2.0")
        self.assertEqual(self.standing(host, row), before)
        self.assertEqual({unit: self.pid(host, unit) for unit in units}, units)
        # The agent changes over when it is told to, and finds what runs.
        host.run("systemctl", "restart", "stampede.service")
        wait_for("the host", 60, lambda: self.active(host, "h1"))
        self.assertEqual(self.standing(host, row), before)
        self.assertNotEqual(self.pid(host, "stampede.service"), units["stampede.service"])
        self.assertEqual(self.api(host).act(row, "stop")["state"], "stopping")
        self.api(host).wait(row, "stopped")
        # And what is started by then is of the new one.
        self.api(host).act(row, "start")
        self.api(host).wait(row, "running")

    def test_3_it_is_there_after_a_boot(self):
        host = self.one
        host.run("systemctl", "enable", "systemd-sysext.service")
        shutil.copy(TREE / "cloud-config/stampede-start.service", host.path("/etc/systemd/system"))
        host.run("systemctl", "enable", "stampede-start.service")
        self.lab("reboot", "h1", timeout=300)
        wait_for("the host", 90, lambda: self.active(host, "h1"))
        wait_for("the container", 60, lambda: [row["state"] for row in self.api(host).list("/v1/containers", name="on-h1")] == ["running"])

    # The .deb

    def test_4_a_deb_comes_and_goes(self):
        host = self.two
        host.shell("mkdir -p /var/lib/stampede && cat > /var/lib/stampede/secret && chmod 600 /var/lib/stampede/secret",
                   stdin=self.one.out("cat", "/var/lib/stampede/secret") + "\n")
        shutil.copy(build("deb", "0.1.0", self.folder), host.path("/root/stampede.deb"))
        host.run("dpkg", "-i", "/root/stampede.deb", timeout=300)
        self.assertEqual(host.out("systemctl", "is-active", "stampede.service", check=False), "inactive")
        self.assertEqual(host.out("stat", "-c", "%a", "/var/lib/stampede"), "700")
        self.configure(host)
        host.run("systemctl", "enable", "--now", *UNITS)
        wait_for("the host", 60, lambda: self.active(host, "h2"))
        row = self.sleeping(host, "h2")
        before = self.standing(host, row)

        # A newer one: agent and drivers change over, what runs does not notice.
        agent = self.pid(host, "stampede.service")
        shutil.copy(build("deb", "0.2.0", self.folder), host.path("/root/stampede.deb"))
        host.run("dpkg", "-i", "/root/stampede.deb", timeout=300)
        self.assertEqual(host.out("dpkg-query", "-W", "-f", "${Version}", "stampede"), "0.2.0")
        wait_for("the host", 60, lambda: self.active(host, "h2"))
        self.assertNotEqual(self.pid(host, "stampede.service"), agent)
        self.assertEqual(self.standing(host, row), before)

        # Removed, what runs goes on, and so it does after a purge, which leaves what it needs to be found again.
        host.run("dpkg", "-r", "stampede", timeout=300)
        self.assertEqual(host.shell("ls /usr/bin/stampede* /usr/lib/systemd/system/stampede* 2>/dev/null", check=False), "")
        self.assertEqual(host.out("systemctl", "is-active", *UNITS, check=False).split(), ["inactive"] * 3)
        self.assertEqual(self.standing(host, row)[0], before[0])
        host.run("dpkg", "-P", "stampede", timeout=300)
        self.assertEqual(host.run("test", "-e", "/var/lib/stampede/secret", check=False).returncode, 0)

        # And it is found again.
        host.run("dpkg", "-i", "/root/stampede.deb", timeout=300)
        host.run("systemctl", "enable", "--now", *UNITS)
        wait_for("the host", 60, lambda: self.active(host, "h2"))
        self.assertEqual(self.standing(host, row)[0], before[0])
        self.api(host).act(row, "stop", {"remove": True})
        wait_for("it to be removed", 60, lambda: self.api(host).container(row)["state"] in ("removed", "purged"))
        wait_for("its unit to end", 60, lambda: not host.out("systemctl", "list-units", "--no-legend", "--plain", "stampede-instance@*"))
        host.run("dpkg", "-P", "stampede", timeout=300)
        self.assertEqual(host.shell("ls -d /etc/stampede /var/lib/stampede 2>/dev/null", check=False), "")
        self.assertEqual(json.loads(self.one.out("stampede", "hosts", "--json"))[0]["name"], "h1")
