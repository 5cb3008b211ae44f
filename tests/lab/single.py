"""`stampede up`: one machine, no etcd, no systemd as PID 1, only Docker.

The machine is a host of another lab without an agent; its systemd is hidden from what is tried here, as is its etcd.
"""

import json
import os
import shutil
import time
import unittest

import case
from api import Api
from hosts import TREE, Lab, container_name, wait_for

NAME = "e2esolo"
# /run/systemd is what sd_booted(3) looks at; the socket to systemd's own bus goes with it.
START = """
mount -t tmpfs none /run/systemd && mount -t tmpfs none /run/dbus
exec stampede up --state-directory /var/lib/alone >>/var/log/up 2>&1
"""


class Alone(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.lab = Lab(NAME)
        cls.addClassCleanup(cls.lab.stream, "down")
        if cls.lab.stream("up", "1", "--no-agent", "--release", case.RELEASE) != 0:
            raise AssertionError("the other lab does not come up")
        cls.host = cls.lab.hosts()[0]
        cls.host.run("systemctl", "stop", "etcd.service")
        shutil.copy(binary(), cls.host.path("/usr/bin/stampede"))

    def setUp(self):
        self.start()

    def tearDown(self):
        if self._outcome_failed():
            print(self.host.shell("tail -n 30 /var/log/up", check=False))
        self.kill("TERM")

    def _outcome_failed(self):
        return any(error for _, error in getattr(self._outcome, "errors", []))

    def start(self):
        self.host.run("setsid", "--fork", "unshare", "-m", "sh", "-c", START, timeout=30)
        wait_for("`stampede up` to answer", 60, lambda: self.pid() and self.api().get("/v1"))

    def pid(self):
        return self.host.shell("pgrep -o -x -f '.*stampede up .*'", check=False)

    def kill(self, signal):
        pid = self.pid()
        if pid:
            self.host.run("kill", f"-{signal}", pid)
            wait_for("it to be gone", 60, lambda: self.pid() != pid)

    def api(self):
        """Over the socket, as root; the API on 127.0.0.1:9080 is the same one."""
        socket = self.host.shell("find /run /var/lib/alone -name api.sock | head -1")
        return Api(socket=str(self.host.path(socket)))

    def make(self, **fields):
        made = self.api().post("/v1/containers", {"imageUuid": "docker:busybox", "command": "sleep", "commandArgs": ["infinity"]} | fields)
        return self.api().wait(made, "running")

    def test_containers_run_and_survive_its_kill_9(self):
        one, two = self.make(name="one"), self.make(name="two")
        self.assertNotEqual(one["primaryIpAddress"], two["primaryIpAddress"])
        self.host.run("docker", "exec", container_name(one), "ping", "-c", "1", "-W", "3", two["primaryIpAddress"])
        before = self.started()
        for moment in (0.0, 0.3, 0.9) * (7 if case.LONG else 1):
            self.kill("KILL")
            self.start()
            time.sleep(moment)
            self.assertEqual(self.started(), before, "restarted, lost or doubled")
            self.assertEqual({row["state"] for row in self.api().list("/v1/containers") if row["id"] in (one["id"], two["id"])}, {"running"})
        # And it is still in charge of them.
        self.host.run("docker", "kill", container_name(one))
        wait_for("the end to be seen", 20, lambda: self.api().container(one)["state"] == "stopped")
        self.api().act(two, "stop")
        self.api().wait(two, "stopped")

    def test_the_api_is_on_the_loopback_with_a_key(self):
        made = json.loads(self.host.out("stampede", "api-key", "create", "--json"))
        pair = f"{made['publicValue']}:{made['secretValue']}"
        answer = json.loads(self.host.out("curl", "-sSu", pair, "http://127.0.0.1:9080/v1/hosts"))
        self.assertEqual([row["state"] for row in answer["data"]], ["active"])
        self.assertIn("401", self.host.out("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:9080/v1/hosts"))
        outside = self.host.run("curl", "-sS", "-m", "3", f"http://{self.host.address}:9080/v1", check=False)
        self.assertNotEqual(outside.returncode, 0, "nobody else is to reach it")

    def test_a_second_one_on_the_same_file_refuses(self):
        result = self.host.run("unshare", "-m", "sh", "-c", "mount -t tmpfs none /run/systemd; exec timeout 30 stampede up --state-directory /var/lib/alone", check=False)
        self.assertNotIn(result.returncode, (0, 124), result.stdout + result.stderr)

    def test_kill_9_while_containers_are_made(self):
        for round in range(20 if case.LONG else 3):
            made = []
            try:
                for number in range(4):
                    made.append(self.api().post("/v1/containers", {
                        "imageUuid": "docker:busybox", "name": f"round-{round}-{number}", "command": "sleep", "commandArgs": ["infinity"]})["id"])
            finally:
                self.kill("KILL")
                self.start()
            for one in made:
                self.api().wait(one, "running", 60)
            self.assertEqual(len(made), 4)

    def started(self):
        return {one["Id"]: (one["State"]["StartedAt"], one["State"]["Status"]) for one in self.host.containers(everything=True).values()}


def binary():
    told = os.environ.get("STAMPEDE_BINARY")
    if told:
        return told
    built = [file for file in (TREE / "target/release/stampede", TREE / "target/debug/stampede") if file.is_file()]
    return max(built, key=lambda file: file.stat().st_mtime)
