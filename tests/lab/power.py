"""Hosts lose power and come back; so does what ran on them."""

import threading
import time

import case
from case import HOSTS, START, LabTest, cluster_is_whole, rounds
from hosts import at_once, wait_for


class Power(LabTest):
    def come_back(self, rows, besides=()):
        """Each runs again, on its host, with its address, made once, reached from the others."""
        at_once(lambda row: self.api.wait(row, "running", 120), rows)
        for row in rows:
            now = self.api.container(row)
            self.assertEqual((now["hostId"], now["primaryIpAddress"]), (row["hostId"], row["primaryIpAddress"]))
            # What was last heard of it was that it runs: that it does so again is seen where it is.
            wait_for(f"{row['id']} to run again", 60, lambda row=now: self.docker(row)["State"]["Running"])
        for host in HOSTS:
            there = host.containers(everything=True)
            self.assertEqual({one for one in there if one in self.made}, {row["id"] for row in [*rows, *besides] if self.host_of(row).name == host.name})

    def test_a_host_that_loses_power_brings_its_containers_back(self):
        rows = self.make_everywhere(each=3)
        stopped = self.make(requestedHostId=rows[1]["hostId"])
        self.api.act(stopped, "stop")
        self.api.wait(stopped, "stopped")
        for _ in rounds(1, 20):
            case.LAB("kill", "h2")
            wait_for("the others to see it go", 60, lambda: next(
                host for host in self.api.list("/v1/hosts") if host["name"] == "h2")["state"] != "active")
            # Life goes on without it.
            made = self.make()
            self.assertNotEqual(made["hostId"], rows[1]["hostId"])
            self.ping(rows[0], rows[2])
            self.purge(made["id"])
            case.LAB("start", "h2", timeout=180)
            cluster_is_whole(120)
            self.come_back(rows, [stopped])
            wait_for("h2's are reached again", 30, lambda: self.can_ping(rows[0], self.api.container(rows[1])))
            self.assertEqual(self.api.container(stopped)["state"], "stopped")
            self.assertFalse(self.docker(stopped)["State"]["Running"])

    def test_all_hosts_lose_power_at_once(self):
        rows = self.make_everywhere(each=2)
        case.LAB("kill", *(host.name for host in HOSTS))
        case.LAB("start", *(host.name for host in HOSTS), timeout=240)
        cluster_is_whole(180)
        self.come_back(rows)
        wait_for("all reach each other", 30, lambda: self.can_ping(rows[0], rows[1]) and self.can_ping(rows[1], rows[2]))

    def test_an_orderly_reboot(self):
        rows = self.make_everywhere()
        case.LAB("reboot", "h3", timeout=240)
        cluster_is_whole(120)
        self.come_back(rows)

    def test_booted_with_no_etcd_a_host_starts_what_its_ledger_knows(self):
        rows = self.make_everywhere()
        others = [host.name for host in HOSTS[:2]]
        case.LAB("kill", "h3")
        at_once(lambda host: host.run("systemctl", "stop", "etcd.service"), HOSTS[:2])
        try:
            # The lab would wait for etcd there, which has no majority.
            start = threading.Thread(target=lambda: case.LAB("start", "h3", check=False, timeout=240))
            begun = time.monotonic()
            start.start()
            wait_for(f"its container to run with no etcd ({' '.join(others)} stopped)", 120, lambda: (
                container := HOSTS[2].containers().get(rows[2]["id"])) and container["State"]["Running"])
            wait_for("it is reached, with no etcd", START, lambda: self.can_ping(rows[0], rows[2]))
            print(f"              booted without etcd: its container is reached after {time.monotonic() - begun:.1f} s")
        finally:
            at_once(lambda host: host.run("systemctl", "start", "etcd.service"), HOSTS[:2])
            start.join()
        cluster_is_whole(180)
        self.come_back(rows)
