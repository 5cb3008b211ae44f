"""What is done to an instance behind our back shows in the API, and is followed by what its policy says."""

import time

from case import SOON, START, LabTest, rounds
from hosts import container_name, wait_for


class BehindOurBack(LabTest):
    def seen(self, row, state, limit=SOON):
        """Waits for the state and tells how long that took; the aim is a second, the limit is for busy machines."""
        since = time.monotonic()
        now = wait_for(f"{row['id']} to be {state}", limit, lambda: (now := self.api.container(row))["state"] == state and now, every=0.02)
        print(f"              {state} seen after {time.monotonic() - since:.2f} s")
        return now

    def test_systemctl_stop_is_a_stop_that_was_asked_for(self):
        for policy in ("stop", "restart", "remove"):
            with self.subTest(policy):
                row = self.make(instanceTriggeredStop=policy)
                host = self.host_of(row)
                host.run("systemctl", "stop", host.unit(row["id"]))
                self.seen(row, "stopped")
                # And it stays so: nobody starts what an administrator stopped.
                self.assertFalse(self.docker(row)["State"]["Running"])
                host.run("systemctl", "restart", "stampede.service")
                wait_for("the agent", START, lambda: self.apis[0].ask("GET", "/v1").status == 200)
                self.assertEqual(self.api.container(row)["state"], "stopped")
                self.api.act(row, "start")
                self.api.wait(row, "running")

    def test_docker_kill_and_rm_with_policy_stop(self):
        for command in (["kill"], ["rm", "-f"], ["stop", "-t", "1"]):
            for _ in rounds(1, 20):
                with self.subTest(" ".join(command)):
                    row = self.make(instanceTriggeredStop="stop")
                    self.host_of(row).run("docker", *command, container_name(row))
                    self.seen(row, "stopped")
                    # What Docker lost is made anew; the address is the instance's.
                    self.api.act(row, "start")
                    again = self.api.wait(row, "running")
                    self.assertEqual(again["primaryIpAddress"], row["primaryIpAddress"])

    def test_docker_kill_and_rm_with_policy_restart(self):
        for command in (["kill"], ["rm", "-f"]):
            with self.subTest(" ".join(command)):
                row = self.make(instanceTriggeredStop="restart")
                before = self.docker(row)["State"]["StartedAt"]
                self.host_of(row).run("docker", *command, container_name(row))

                def runs_again():
                    container = self.docker(row)
                    return container and container["State"]["Running"] and container["State"]["StartedAt"] != before

                wait_for("it runs again", START, runs_again)
                self.api.wait(row, "running")

    def test_docker_kill_and_rm_with_policy_remove(self):
        for command in (["kill"], ["rm", "-f"]):
            with self.subTest(" ".join(command)):
                row = self.make(instanceTriggeredStop="remove")
                self.host_of(row).run("docker", *command, container_name(row))
                self.seen(row, "removed")

    def test_a_killed_supervisor_takes_nothing_down(self):
        row = self.make()
        host, before = self.host_of(row), self.docker(row)
        for _ in rounds(2, 20):
            host.run("systemctl", "kill", "-s", "KILL", host.unit(row["id"]))
            wait_for("its unit to be active again", START, lambda: host.run(
                "systemctl", "is-active", host.unit(row["id"]), check=False).stdout.strip() == "active")
        after = self.docker(row)
        self.assertEqual((after["Id"], after["State"]["StartedAt"], after["State"]["Status"]), (before["Id"], before["State"]["StartedAt"], "running"))
        self.assertEqual(self.api.wait(row, "running")["state"], "running")

    def test_docker_start_and_stop_of_a_stopped_one_changes_nothing_for_good(self):
        row = self.make()
        self.api.act(row, "stop")
        self.api.wait(row, "stopped")
        host = self.host_of(row)
        host.run("docker", "start", container_name(row))
        # It is not to run; whether it is taken down again or left is its driver's business, the API stays true to the wish.
        self.assertEqual(self.api.container(row)["state"], "stopped")
        host.run("docker", "kill", container_name(row), check=False)
