"""Agents are killed and started again; what runs does not notice."""

import random
import threading
import time

from api import ApiError, Unreachable
from case import HOSTS, START, LabTest, Standing, cluster_is_whole, reachable, rounds
from hosts import at_once, wait_for


def kill_agent(host):
    host.run("systemctl", "kill", "-s", "KILL", "--kill-whom=main", "stampede.service", check=False)


class Killed(LabTest):
    def test_every_agent_killed_at_a_random_moment_nothing_restarted_lost_or_doubled(self):
        self.make_everywhere(each=3)
        standing = Standing()
        for _ in rounds(3, 20):
            time.sleep(random.random() * 2)
            at_once(kill_agent, HOSTS)
            # Started again by systemd; by us too where it has not done so yet.
            at_once(lambda host: host.run("systemctl", "start", "stampede.service"), HOSTS)
            cluster_is_whole()
            standing.must_be_same(self)
        rows = {row["id"]: row for row in self.api.list("/v1/containers")}
        self.assertEqual({rows[one]["state"] for one in self.made}, {"running"})

    def test_killed_while_containers_are_made_each_is_there_once(self):
        """Cut at any moment, a create that was answered is done, one that was not is done or not, and never twice."""
        for _ in rounds(2, 20):
            answered, stop = [], threading.Event()

            def create(number, answered=answered, stop=stop):
                api = HOSTS[number % 3].api(timeout=20)
                for _ in range(10):
                    if stop.wait(0.1):
                        return
                    try:
                        answered.append(self.make(api, wait=False)["id"])
                    except (Unreachable, ApiError):
                        # Its agent is being killed.
                        pass

            workers = [threading.Thread(target=create, args=(number,)) for number in range(3)]
            for worker in workers:
                worker.start()
            try:
                wait_for("a few to be made", START, lambda: len(answered) >= 3)
                for host in random.sample(HOSTS, 3):
                    time.sleep(random.random() / 2)
                    kill_agent(host)
                    time.sleep(random.random() / 2)
            finally:
                stop.set()
                for worker in workers:
                    worker.join()
            cluster_is_whole()
            # Those that nobody got an answer for are to be found, run and taken away too.
            every = {row["id"]: row for row in self.api.list("/v1/containers") if row["state"] not in ("removed", "purging", "purged")}
            self.assertLessEqual(set(answered), set(every), "answered with 201, and not there")
            self.made = list(set(self.made) | {one for one, row in every.items() if (row["name"] or "").startswith("test-")})
            rows = [self.api.wait(one, "running", 90) for one in self.made]
            addresses = [row["primaryIpAddress"] for row in rows]
            self.assertEqual(len(addresses), len(set(addresses)), "an address was given twice")
            there = [(instance, host.name) for host in HOSTS for instance in host.containers(everything=True) if instance in self.made]
            self.assertEqual(sorted(there), sorted((row["id"], self.host_of(row).name) for row in rows))

    def test_killed_while_containers_stop_they_are_stopped_in_the_end(self):
        for _ in rounds(1, 20):
            rows = self.make_everywhere(each=2)
            at_once(lambda row: self.api.act(row, "stop"), rows)
            time.sleep(random.random() / 2)
            at_once(kill_agent, HOSTS)
            cluster_is_whole()
            at_once(lambda row: self.api.wait(row, "stopped"), rows)
            self.assertEqual([self.docker(row)["State"]["Running"] for row in rows], [False] * len(rows))


class Restarted(LabTest):
    def test_an_orderly_restart_keeps_the_lease_and_everything_that_runs(self):
        self.make_everywhere()
        standing = Standing()
        alive = HOSTS[0].out("etcdctl", "get", "--prefix", "/stampede/v1/alive/", "--keys-only")
        for host in HOSTS:
            host.run("systemctl", "restart", "stampede.service")
            self.assertEqual(HOSTS[0].out("etcdctl", "get", "--prefix", "/stampede/v1/alive/", "--keys-only"), alive, "the lease is not given up")
        cluster_is_whole()
        standing.must_be_same(self)

    def test_with_one_agent_down_the_others_go_on(self):
        row = self.make(requestedHostId=self.host_id(HOSTS[2]))
        HOSTS[2].run("systemctl", "stop", "stampede.service")
        try:
            self.assertTrue(self.docker(row)["State"]["Running"])
            wait_for("the host to be shown as gone", 40, lambda: next(
                host for host in self.api.list("/v1/hosts") if host["name"] == HOSTS[2].name)["state"] != "active")
            for _ in range(4):
                made = self.make()
                self.assertNotEqual(self.host_of(made).name, HOSTS[2].name)
            self.ping(made, row)
            self.assertFalse(reachable(self.apis[2]))
        finally:
            HOSTS[2].run("systemctl", "start", "stampede.service")
        cluster_is_whole()

    def test_a_stop_asked_for_while_its_host_is_away_is_done_when_it_is_back(self):
        row = self.make(requestedHostId=self.host_id(HOSTS[1]))
        HOSTS[1].run("systemctl", "stop", "stampede.service")
        try:
            self.assertEqual(self.api.act(row, "stop")["state"], "stopping")
        finally:
            HOSTS[1].run("systemctl", "start", "stampede.service")
        self.api.wait(row, "stopped")
