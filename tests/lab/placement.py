"""Which host runs what: labels, rules between instances, full hosts; hosts that are emptied, and reboots that do it first."""

import case
from case import HOSTS, SOON, START, LabTest
from hosts import at_once, wait_for


class Placement(LabTest):
    def setUp(self):
        super().setUp()
        self.ids = [self.host_id(host) for host in HOSTS]

    def tearDown(self):
        for api, identifier in zip(self.apis, self.ids):
            row = api.get(f"/v1/hosts/{identifier}")
            if row["labels"]:
                api.put(f"/v1/hosts/{identifier}", {"labels": None})
            if "activate" in row["actions"]:
                self.act_on(api, row, "activate")
        super().tearDown()

    @staticmethod
    def act_on(api, row, action, **said):
        return api.post(f"/v1/hosts/{row['id']}/?action={action}", said)

    def host(self, number):
        return self.api.get(f"/v1/hosts/{self.ids[number]}")

    def label(self, number, **labels):
        # At another node than the ones that place.
        return self.apis[2].put(f"/v1/hosts/{self.ids[number]}", {"labels": labels})

    def message_of(self, row):
        return self.api.container(row)["transitioningMessage"] or ""


class Rules(Placement):
    def test_labels_and_neighbours_decide(self):
        for number, zone in enumerate("aab"):
            self.assertEqual(self.label(number, zone=zone)["labels"], {"zone": zone})
        in_b = self.make(constraints=["zone=b"], labels={"app": "db"}, name="db")
        self.assertEqual(in_b["hostId"], self.ids[2])
        self.assertNotEqual(self.make(constraints=["zone!=b"])["hostId"], self.ids[2])
        self.assertEqual(self.make(constraints=["zone~=b", "disk~=ssd"])["hostId"], self.ids[2])
        self.assertEqual(self.make(affinity=["name=db"])["hostId"], self.ids[2])
        # One on each host, however many are asked for at the same moment.
        alone = {"labels": {"app": "alone"}, "antiAffinity": ["app=alone"]}
        made = at_once(lambda api: self.make(api, wait=False, **alone), self.apis)
        rows = at_once(lambda row: self.api.wait(row, "running", START), made)
        self.assertEqual({row["hostId"] for row in rows}, set(self.ids))
        fourth = self.make(wait=False, **alone)
        wait_for("the reason of each host", SOON, lambda: self.message_of(fourth).count("(app=alone)") == 3)
        self.purge(rows[0]["id"])
        self.assertEqual(self.api.wait(fourth, "running", START)["hostId"], rows[0]["hostId"])

    def test_spread_over_zones(self):
        for number, zone in enumerate("aab"):
            self.label(number, zone=zone)
        rows = self.make(count=8, labels={"app": "web"}, spreadBy=["zone"])
        in_b = [row for row in rows if row["hostId"] == self.ids[2]]
        self.assertEqual(len(in_b), 4, [row["hostId"] for row in rows])

    def test_rubbish_is_refused(self):
        for field, value in (("constraints", ["zone"]), ("affinity", ["app!=web"]), ("labels", {"name": "x"}), ("spreadBy", ["a b"])):
            error = self.refused(422, "InvalidFormat", self.make, keep=False, field=field, **{field: value})
            self.assertTrue(str(error), error)


class Full(Placement):
    def test_what_finds_no_room_says_why_and_is_placed_when_there_is_some(self):
        free = min(self.host(number)["memoryMb"] for number in range(3)) * 6 // 10
        big = self.make_everywhere(memoryReservationMb=free)
        waits = self.make(wait=False, memoryReservationMb=free)
        wait_for("a reason from each host", SOON, lambda: self.message_of(waits).count(f"asked for {free} MB") == 3)
        self.assertIn("Failed to find a placement", self.message_of(waits))
        self.purge(big[1]["id"])
        self.assertEqual(self.api.wait(waits, "running", START)["hostId"], big[1]["hostId"])

    def test_a_label_is_room_too(self):
        waits = self.make(wait=False, constraints=["disk=ssd"])
        wait_for("the reason", SOON, lambda: self.message_of(waits).count("disk=ssd does not hold there") == 3)
        self.label(1, disk="ssd")
        self.assertEqual(self.api.wait(waits, "running", START)["hostId"], self.ids[1])


class Draining(Placement):
    def drain(self, number, **said):
        return self.act_on(self.apis[(number + 1) % 3], self.host(number), "drain", **said)

    def test_what_may_move_leaves_and_what_stays_runs_on(self):
        movable = at_once(lambda _: self.make(requestedHostId=self.ids[0], onHostLoss="move"), range(5))
        staying = self.make(requestedHostId=self.ids[0])
        for row in movable:
            self.api.put(f"/v1/containers/{row['id']}", {"requestedHostId": None})
        begun = self.docker(staying)["State"]["StartedAt"]
        asked = self.drain(0, atOnce=2)
        self.assertEqual((asked["state"], asked["transitioning"]), ("draining", "yes"))
        shown, down = set(), 0

        def done():
            nonlocal down
            row = self.host(0)
            shown.add((row["transitioningProgress"], row["transitioningMessage"]))
            now = [self.api.container(one) for one in movable]
            down = max(down, sum(one["state"] != "running" for one in now))
            return row["state"] == "inactive"

        wait_for("the host to be drained", START, done, every=0.2)
        self.assertIn("5 moved, 1 stay", self.host(0)["transitioningMessage"])
        self.assertGreater(len(shown), 2, "progress was to be seen")
        self.assertLessEqual(down, 2)
        for row in movable:
            now = self.api.wait(row, "running", START)
            self.assertNotEqual(now["hostId"], self.ids[0])
        self.assertEqual(self.docker(staying)["State"]["StartedAt"], begun)
        back = self.act_on(self.api, self.host(0), "activate")
        self.assertEqual((back["state"], back["transitioningMessage"]), ("active", None))

    def test_it_goes_on_without_the_agent_that_was_asked_and_can_be_undone(self):
        # Nowhere to go to: it stays up, the host says why, and the drain waits.
        row = self.make(constraints=[f"name={HOSTS[0].name}"], onHostLoss="move")
        asked_at = HOSTS[1]
        self.drain(0)
        asked_at.run("systemctl", "kill", "--kill-whom=main", "-s", "KILL", "stampede.service")
        wait_for("the reason", START, lambda: "has no place to go to" in (self.host(0)["transitioningMessage"] or ""))
        self.assertEqual(self.api.container(row)["state"], "running")
        wait_for("the agent to be back", START, lambda: case.reachable(asked_at.api(timeout=5)))
        self.act_on(self.api, self.host(0), "activate")
        self.assertEqual(self.host(0)["state"], "active")

    def test_stopped_for_the_drain_it_is_started_after(self):
        row = self.make(requestedHostId=self.ids[1])
        out = HOSTS[2].run("stampede", "drain", HOSTS[1].name, "--stop-staying", timeout=START)
        self.assertEqual(self.api.wait(row, "stopped")["hostId"], self.ids[1], out)
        HOSTS[2].run("stampede", "uncordon", HOSTS[1].name)
        self.api.wait(row, "running", START)


class Reboot(Placement):
    def test_a_reboot_drains_first_and_the_host_is_back_by_itself(self):
        number = 2
        host = HOSTS[number]
        movable = at_once(lambda _: self.make(requestedHostId=self.ids[number], onHostLoss="move"), range(2))
        staying = self.make(requestedHostId=self.ids[number])
        for row in movable:
            self.api.put(f"/v1/containers/{row['id']}", {"requestedHostId": None})
        wait_for("the agent to hold up shutdowns", SOON, lambda: "stampede" in host.out("systemd-inhibit", "--list", "--no-legend", check=False))
        host.run("systemctl", "reboot", check=False)
        for row in movable:
            wait_for("it to run elsewhere", START, lambda row=row: (
                (now := self.api.container(row))["state"] == "running" and now["hostId"] != self.ids[number]))
        case.cluster_is_whole(120)
        self.api.wait(staying, "running", START)
        self.assertEqual(self.host(number)["transitioningMessage"], None)
