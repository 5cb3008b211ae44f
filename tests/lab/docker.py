"""Docker itself is restarted or dies under its containers; none is taken for stopped by itself."""

import json
import time

from case import HOSTS, START, LabTest, rounds
from hosts import wait_for


class Restart(LabTest):
    POLICIES = ("stop", "restart", "remove")

    def check(self, break_docker, survives):
        host = HOSTS[1]
        identifier = self.host_id(host)
        rows = [self.make(requestedHostId=identifier, instanceTriggeredStop=policy) for policy in self.POLICIES]
        elsewhere = self.make(requestedHostId=self.host_id(HOSTS[0]))
        before = host.containers()
        for _ in rounds(1, 20):
            break_docker(host)
            wait_for("Docker", START, lambda: host.run("docker", "version", check=False).returncode == 0)
            for row in rows:
                def back(row=row):
                    container = host.containers().get(row["id"])
                    return container and container["State"]["Running"] and self.api.container(row)["state"] == "running"

                wait_for(f"{row['id']} ({row['instanceTriggeredStop']}) to be back", 90, back)
                now = self.api.container(row)
                self.assertEqual((now["primaryIpAddress"], now["hostId"]), (row["primaryIpAddress"], row["hostId"]))
                wait_for("it is reached from another host", 20, lambda now=now: self.can_ping(elsewhere, now))
        after = host.containers()
        self.assertEqual({one: after[one]["Id"] for one in before}, {one: before[one]["Id"] for one in before}, "the same containers")
        if survives:
            self.assertEqual(
                {one: after[one]["State"]["StartedAt"] for one in before},
                {one: before[one]["State"]["StartedAt"] for one in before}, "with live-restore nothing stops")

    def live_restore(self, on):
        for host in HOSTS[1:2]:
            try:
                settings = json.loads(host.out("cat", "/etc/docker/daemon.json"))
            except Exception:  # noqa: BLE001 (there is none)
                settings = {}
            settings["live-restore"] = on
            host.run("sh", "-c", "mkdir -p /etc/docker && cat > /etc/docker/daemon.json", stdin=json.dumps(settings))
            host.run("systemctl", "reload-or-restart", "docker.service")
            wait_for("Docker", START, lambda host=host: host.out("docker", "info", "-f", "{{.LiveRestoreEnabled}}") == str(on).lower())

    def tearDown(self):
        self.live_restore(False)
        super().tearDown()

    def test_restart_without_live_restore(self):
        self.live_restore(False)
        self.check(lambda host: host.run("systemctl", "restart", "docker.service"), survives=False)

    def test_restart_with_live_restore(self):
        self.live_restore(True)
        self.check(lambda host: host.run("systemctl", "restart", "docker.service"), survives=True)

    def test_killed_with_live_restore(self):
        self.live_restore(True)
        self.check(lambda host: host.run("systemctl", "kill", "-s", "KILL", "docker.service"), survives=True)

    def test_killed_without_live_restore(self):
        self.live_restore(False)
        self.check(lambda host: host.run("systemctl", "kill", "-s", "KILL", "docker.service"), survives=False)

    def test_docker_away_for_a_while_is_waited_for(self):
        self.live_restore(False)
        host = HOSTS[1]
        row = self.make(requestedHostId=self.host_id(host), instanceTriggeredStop="stop")
        host.run("systemctl", "stop", "docker.socket", "docker.service")
        try:
            end = time.monotonic() + 15
            while time.monotonic() < end:
                self.assertNotEqual(self.api.container(row)["state"], "stopped", "it did not stop by itself")
                time.sleep(0.5)
        finally:
            host.run("systemctl", "start", "docker.socket", "docker.service")
        self.api.wait(row, "running", 90)
