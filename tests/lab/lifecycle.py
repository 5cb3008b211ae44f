"""An instance's life, each step asked for at another node than the one before."""

import itertools

from api import ApiError
from case import HOSTS, SOON, START, LabTest
from hosts import at_once, wait_for


class Life(LabTest):
    def test_stop_start_restart_remove_restore_purge_at_any_node(self):
        nodes = itertools.cycle(self.apis)
        row = self.make(next(nodes))
        first = self.docker(row)

        asked = next(nodes).act(row, "stop")
        self.assertEqual((asked["state"], asked["transitioning"]), ("stopping", "yes"))
        stopped = self.api.wait(row, "stopped")
        self.assertEqual(self.docker(row)["State"]["Status"], "exited")
        self.assertEqual(set(stopped["actions"]) >= {"start", "remove"}, True, stopped["actions"])

        next(nodes).act(row, "start")
        again = self.api.wait(row, "running")
        self.assertEqual((again["hostId"], again["primaryIpAddress"]), (row["hostId"], row["primaryIpAddress"]), "host and address are kept")
        self.assertEqual(self.docker(row)["Id"], first["Id"], "started again, not made anew")

        before = self.docker(row)["State"]["StartedAt"]
        asked = next(nodes).act(row, "restart")
        self.assertEqual(asked["state"], "restarting")
        wait_for("another start", START, lambda: self.docker(row)["State"]["StartedAt"] != before)
        self.api.wait(row, "running")

        next(nodes).delete(f"/v1/containers/{row['id']}")
        removed = self.api.wait(row, "removed")
        self.assertIsNotNone(removed["removed"])
        self.assertIsNotNone(removed["removeTime"])
        self.assertEqual(set(removed["actions"]), {"restore", "purge"})

        next(nodes).act(row, "restore")
        restored = self.api.wait(row, "stopped")
        self.assertIsNone(restored["removed"])
        next(nodes).act(row, "start")
        self.api.wait(row, "running")

        next(nodes).act(row, "stop", {"remove": True})
        self.api.wait(row, "removed")
        next(nodes).act(row, "purge")
        self.api.wait(row, "purged")
        wait_for("its container to be gone", SOON, lambda: self.docker_anywhere(row) == [])

    def docker_anywhere(self, row):
        return [host.name for host in HOSTS if row["id"] in host.containers(everything=True)]

    def test_delete_of_a_running_one_stops_it_first(self):
        row = self.make()
        self.assertEqual(self.api.delete(f"/v1/containers/{row['id']}")["state"], "stopping")
        self.api.wait(row, "removed")

    def test_every_state_on_the_way_is_one_that_the_contract_has(self):
        known = set("creating migrating purged purging removed removing requested restarting restoring running starting "
                    "stopped stopping updating-running updating-stopped".split())
        row = self.make(wait=False)
        seen = [row["state"]]

        def watch(end):
            now = self.api.container(row)
            if now["state"] != seen[-1]:
                seen.append(now["state"])
            return now["state"] == end

        wait_for("running", START, lambda: watch("running"), every=0.005)
        self.api.act(row, "stop")
        wait_for("stopped", START, lambda: watch("stopped"), every=0.005)
        self.assertLessEqual(set(seen), known, seen)
        self.assertIn(seen[0], ("requested", "creating", "starting"), seen)
        self.assertIn("stopping", seen)

    def test_without_start_on_create_it_waits_to_be_started(self):
        row = self.make(startOnCreate=False, wait=False)
        self.assertEqual(self.api.wait(row, "stopped")["hostId"], None)
        self.apis[1].act(row, "start")
        self.api.wait(row, "running")

    def test_deallocated_it_gives_up_host_and_container(self):
        row = self.make()
        host = self.host_of(row)
        self.api.act(row, "stop", {"deallocateFromHost": True})
        wait_for("its host to be given up", START, lambda: self.api.container(row)["hostId"] is None)
        self.assertNotIn(row["id"], host.containers(everything=True))
        self.api.act(row, "start")
        self.assertIsNotNone(self.api.wait(row, "running")["hostId"])

    def test_an_address_that_was_given_back_can_be_had_again(self):
        """Many more than a block holds, one after the other on one host: purged addresses return."""
        host = self.host_id(HOSTS[0])
        for _ in range(2):
            rows = self.make(count=35, requestedHostId=host, limit=120)
            self.assertEqual(len({row["primaryIpAddress"] for row in rows}), 35)
            for row in rows:
                self.api.act(row, "stop", {"remove": True})
            for row in rows:
                self.api.wait(row, "removed")
                self.purge(row["id"])


class Ends(LabTest):
    """Instances that end by themselves, and what `instanceTriggeredStop` makes of it."""

    def ending(self, policy, code=3, after=1):
        return self.make(wait=False, instanceTriggeredStop=policy, command="sh", commandArgs=["-c", f"sleep {after}; exit {code}"])

    def test_stop(self):
        row = self.ending("stop")
        stopped = wait_for("stopped", START, lambda: (now := self.api.container(row))["state"] == "stopped" and now)
        self.assertEqual(stopped["transitioning"], "no", stopped)
        self.assertEqual(self.docker(row)["State"]["ExitCode"], 3)

    def test_what_ends_at_once_has_run_once(self):
        made = [self.make(wait=False, command="sh", commandArgs=["-c", "cat /proc/uptime"]) for _ in range(12)]
        for row in made:
            wait_for(f"{row['id']} to be stopped", START, lambda row=row: self.api.container(row)["state"] == "stopped")
        for row in made:
            lines = self.host_of(row).out("docker", "logs", self.docker(row)["Id"]).splitlines()
            self.assertEqual(len(lines), 1, lines)

    def test_remove(self):
        row = self.ending("remove")
        wait_for("removed", START, lambda: self.api.container(row)["state"] == "removed")

    def test_restart(self):
        row = self.ending("restart")
        wait_for("a first run", START, lambda: self.docker(row))
        starts = set()

        def started():
            container = self.docker(row)
            if container and container["State"]["Status"] == "running":
                starts.add(container["State"]["StartedAt"])
            return len(starts) >= 3

        wait_for("three starts", START, started)

    def test_one_that_keeps_ending_can_be_stopped_at_any_moment(self):
        for after in (0, 1):
            row = self.ending("restart", after=after)
            wait_for("it to end for the first time", START, lambda row=row: self.api.container(row)["state"] == "restarting")
            self.api.act(row, "stop")
            self.api.wait(row, "stopped")

    def test_stopped_stays_stopped_whatever_the_policy(self):
        row = self.make(instanceTriggeredStop="restart")
        self.api.act(row, "stop")
        self.api.wait(row, "stopped")
        before = self.docker(row)["State"]["StartedAt"]
        for host in HOSTS:
            host.run("systemctl", "restart", "stampede.service")
        wait_for("the API", START, lambda: self.api.container(row)["state"] == "stopped")
        self.assertEqual(self.docker(row)["State"]["StartedAt"], before)


class ManyAtOnce(LabTest):
    def test_start_and_stop_asked_for_at_three_nodes_at_once_end_in_one_of_both(self):
        row = self.make()
        def ask(number):
            try:
                self.apis[number % 3].act(row, ("stop", "start", "restart")[number % 3])
            except ApiError as error:
                # Not possible in that state, or somebody else was first: both are answers.
                if error.status not in (409, 422):
                    raise

        at_once(ask, range(24), width=12)
        final = wait_for("rest", START, lambda: (now := self.api.container(row))["transitioning"] == "no" and now)
        self.assertIn(final["state"], ("running", "stopped"))
        wait_for("Docker agrees", SOON, lambda: (self.docker(row)["State"]["Status"] == "running") == (self.api.container(row)["state"] == "running"))
