"""Empty hosts become a cluster by the three files of cloud-config/, filled in by scripts/cloud-config: one host by each.

`h1` is given coreos.yaml and `h2` butane.yaml, both with a read-only /usr and etcd from an image; `h3` is a Debian with cloud-init.

What is real: cloud-init and its schema check, and Ignition with its validator, all Debian's. coreos-cloudinit and Butane are in no
registry of packages: here stands in for them what their documentation says of the few keys that are used. Where there is a
real one, STAMPEDE_COREOS_CLOUDINIT or STAMPEDE_BUTANE names it, and it is used.
"""

import functools
import http.server
import json
import os
import shutil
import subprocess
import tempfile
import textwrap
import threading
import unittest
from pathlib import Path

import case
from api import Api
from hosts import TREE, Lab, at_once, wait_for
from packages import build

NAME = "e2ecloud"
IGNITION = "/usr/lib/dracut/modules.d/30ignition/ignition"
# An empty host: no etcd of the lab's, which has masked it where it wants none. This machine's kernel need not have ESP.
BARE = """
systemctl --quiet disable --now etcd.service
rm -rf /var/lib/etcd/* /etc/default/etcd /etc/systemd/system/etcd.service /etc/systemd/system/etcd.service.d
mkdir -p /etc/systemd/system/stampede.service.d
printf '[Service]\\nEnvironment=STAMPEDE_ENCRYPTION=none\\n' > /etc/systemd/system/stampede.service.d/lab.conf
systemctl daemon-reload
"""
# As a registry would have it.
IMAGE = """
d=$(mktemp -d) && for f in /usr/bin/etcd $(ldd /usr/bin/etcd | grep -o '/[^ ]*'); do cp -L --parents "$f" "$d"; done
tar -C "$d" -c . | docker import - etcd:lab >/dev/null && rm -r "$d"
"""
COREOS = """
import os, subprocess, sys, yaml
config = yaml.safe_load(sys.stdin)
assert set(config) == {"write_files", "coreos"} and set(config["coreos"]) == {"units"}, config
def write(path, text, mode):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, mode)
for file in config["write_files"]:
    write(file["path"], file["content"], int(file["permissions"], 8))
units = config["coreos"]["units"]
for unit in units:
    if "content" in unit:
        write("/etc/systemd/system/" + unit["name"], unit["content"], 0o644)
run = lambda *words: subprocess.run(["systemctl", *words], check=True)
run("daemon-reload")
for unit in units:
    if unit.get("enable"):
        run("enable", unit["name"])
for unit in units:
    if "command" in unit:
        run(unit["command"], unit["name"])
"""
BUTANE = """
import base64, json, sys, yaml
config = yaml.safe_load(sys.stdin)
assert set(config) == {"variant", "version", "storage", "systemd"}, config
for file in config["storage"]["files"]:
    text = file["contents"].pop("inline", None)
    if text is not None:
        file["contents"]["source"] = "data:;base64," + base64.b64encode(text.encode()).decode()
print(json.dumps({"ignition": {"version": "3.3.0"}, "storage": config["storage"], "systemd": config["systemd"]}))
"""


class CloudConfig(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp(prefix="stampede-cloud-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.lab = Lab(NAME)
        cls.addClassCleanup(cls.lab.stream, "down")
        if cls.lab.stream("up", "2", "--no-agent", "--read-only", "--release", case.RELEASE) != 0 or cls.lab.stream("up", "3", "--no-agent") != 0:
            raise AssertionError("the other lab does not come up")
        cls.hosts = cls.lab.hosts()
        at_once(lambda host: host.shell(BARE), cls.hosts)
        at_once(lambda host: host.shell(IMAGE), cls.hosts[:2])
        for kind in ("sysext", "deb"):
            build(kind, "0.1.0", cls.folder)
        machine = cls.hosts[0].address.rsplit(".", 1)[0] + ".254"
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(cls.folder))
        handler.func.log_message = lambda *_: None
        cls.server = http.server.ThreadingHTTPServer((machine, 0), handler)
        threading.Thread(target=cls.server.serve_forever, daemon=True).start()
        cls.addClassCleanup(cls.server.server_close)
        cls.addClassCleanup(cls.server.shutdown)
        cls.packages = f"http://{machine}:{cls.server.server_port}"

    def tearDown(self):
        if not self._outcome.success:
            for host in self.hosts:
                print(host.shell("systemctl --no-pager --failed; journalctl --no-pager -n 25 -u 'stampede*' -u etcd -u systemd-sysext", check=False))

    def filled(self, form, host, *words, good=True):
        command = [
            TREE / "scripts/cloud-config", form, "--address", host.address, "--members", ",".join(one.address for one in self.hosts),
            "--packages", self.packages, "--from", self.folder, "--secret", self.folder / "secret", "--etcd-image", "etcd:lab", *words]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=30, check=False)
        self.assertEqual(done.returncode == 0, good, done.stderr)
        return done.stdout if good else done.stderr

    def active(self, host):
        rows = Api(socket=str(host.path("/run/stampede/api.sock"))).list("/v1/hosts")
        return {row["name"] for row in rows if row["state"] == "active" and "container" in row["capabilities"]}

    def ignition(self, butane):
        """What Butane makes of its file."""
        real = os.environ.get("STAMPEDE_BUTANE")
        if not real:
            return self.hosts[1].out("python3", "-c", BUTANE, stdin=butane)
        return subprocess.run([real, "--strict"], input=butane, stdout=subprocess.PIPE, text=True, timeout=30, check=True).stdout

    def test_1_the_units_are_the_same_everywhere(self):
        for name in ("etcd.service", "stampede-start.service"):
            unit = textwrap.indent((TREE / "cloud-config" / name).read_text(), " " * 8)
            for form in ("coreos.yaml", "butane.yaml"):
                self.assertIn(unit, (TREE / "cloud-config" / form).read_text(), f"{name} in {form}")

    def test_2_what_is_wrong_is_said(self):
        host = self.hosts[0]
        self.assertIn("three addresses", self.filled("coreos", host, "--members", "1.2.3.4", good=False))
        self.assertIn("letters, digits", self.filled("coreos", host, "--address", "$(reboot)", good=False))
        self.assertIn("no package in", self.filled("coreos", host, "--from", "/nowhere", good=False))
        (self.folder / "no-secret").write_text("hello\n")
        self.assertIn("64 hexadecimal", self.filled("coreos", host, "--secret", self.folder / "no-secret", good=False))

    def test_3_each_is_valid_for_who_reads_it(self):
        self.hosts[2].shell("cat > /root/user-data", stdin=self.filled("cloud-init", self.hosts[2]))
        self.assertIn("Valid", self.hosts[2].out("cloud-init", "schema", "--config-file", "/root/user-data"))
        self.hosts[2].shell("sed 's/^runcmd:/runcmds:/' /root/user-data > /root/wrong")
        self.assertNotEqual(self.hosts[2].run("cloud-init", "schema", "--config-file", "/root/wrong", check=False).returncode, 0)
        for variant in ([], ["--fcos"]):
            text = self.ignition(self.filled("butane", self.hosts[1], *variant))
            done = subprocess.run(["ignition-validate", "-"], input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30, check=False)
            self.assertEqual(done.returncode, 0, done.stdout)

    def test_4_one_host_by_each(self):
        one, two, three = self.hosts
        user_data = self.filled("coreos", one)
        real = os.environ.get("STAMPEDE_COREOS_CLOUDINIT")
        if real:
            shutil.copy(real, one.path("/root/coreos-cloudinit"))
            one.shell("cat > /root/user-data", stdin=user_data)
            one.run("/root/coreos-cloudinit", "-from-file", "/root/user-data", timeout=300)
        else:
            one.run("python3", "-c", COREOS, stdin=user_data, timeout=300)

        # No package lists to fetch here: all that it names is installed.
        three.shell("""rm -rf /etc/apt/sources.list* /etc/cloud/cloud-init.disabled && mkdir -p /var/lib/cloud/seed/nocloud
            printf 'datasource_list: [NoCloud]\\nnetwork: {config: disabled}\\n' > /etc/cloud/cloud.cfg.d/99-lab.cfg
            printf 'instance-id: one\\nlocal-hostname: h3\\n' > /var/lib/cloud/seed/nocloud/meta-data
            cat > /var/lib/cloud/seed/nocloud/user-data""", stdin=self.filled("cloud-init", three))
        for stage in ("init --local", "init", "modules --mode config", "modules --mode final"):
            three.shell(f"cloud-init {stage}", check=False, timeout=300)
        wait_for("the first and the third host", 120, lambda: self.active(one) >= {"h1", "h3"})

        # As it does in an initramfs before the boot, but for SELinux, which is not here: Ignition by the name that it has where
        # it writes into a system's own root. Then the presets, which systemd applies on a first boot.
        text = self.ignition(self.filled("butane", two))
        shutil.copy(IGNITION, two.path("/root/ignition-apply"))
        two.shell("cat > /root/host.ign && touch /run/.containerenv", stdin=text)
        two.run("/root/ignition-apply", "/root/host.ign")
        units = [unit["name"] for unit in json.loads(text)["systemd"]["units"]]
        two.run("systemctl", "preset", *units)
        self.lab("reboot", "h2", timeout=300)
        for host in self.hosts:
            wait_for(f"all three at {host}", 120, lambda: self.active(host) == {"h1", "h2", "h3"})

    def test_5_they_are_one_cluster_and_come_back(self):
        one, two, three = self.hosts
        self.lab("reboot", "h1", timeout=300)
        for host in self.hosts:
            wait_for(f"all three at {host}", 120, lambda: self.active(host) == {"h1", "h2", "h3"})
        api = Api(socket=str(three.path("/run/stampede/api.sock")))
        names = {row["id"]: row["name"] for row in api.list("/v1/hosts")}
        made = [api.post("/v1/containers", {"imageUuid": "docker:busybox", "command": "sleep", "commandArgs": ["infinity"], "requestedHostId": identifier})
                for identifier in names]
        rows = [api.wait(row, "running") for row in made]
        self.assertEqual({names[row["hostId"]] for row in rows}, {"h1", "h2", "h3"})
        self.assertEqual(len(three.out("etcdctl", "--endpoints", f"http://{one.address}:2379", "member", "list").splitlines()), 3)
        for host in (one, two):
            self.assertEqual(host.out("cat", "/proc/sys/net/ipv4/ip_forward"), "1")
            self.assertNotEqual(host.run("touch", "/usr/x", check=False).returncode, 0)
        secrets = {host.out("cat", "/var/lib/stampede/secret") for host in self.hosts}
        self.assertEqual(secrets, {(self.folder / "secret").read_text().strip()})
        modes = {host.out("stat", "-c", "%a", "/var/lib/stampede/secret") for host in self.hosts}
        self.assertEqual(modes, {"600"})
