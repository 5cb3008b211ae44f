"""How long from the loss of a host until what it ran runs on another: `scripts/bench failover --losses N --ttl SECONDS`.

Five hosts, etcd on the first three, with the lease that is asked for. What must run once (`onHostLoss: move`) is spread over
them; host after host is lost, by its power or by its cable, and the kernel's own list of processes tells when each of its
instances runs elsewhere, and that none ever runs twice. etcd's leader is spared unless `--leader` is given: a change of leader
gives all leases their whole time anew. Losses with such a change are told apart, whatever it came from (a member that was
cut off for a while has one when it is back).

Counted from the moment when nothing of the host runs any more (power), or from the one when its cable was pulled.
"""

import argparse
import itertools
import json
import os
import random
import statistics
import sys
import time

from eyes import Eyes
from hosts import Lab, at_once, wait_for

MARKS = itertools.count(6_000_000)
# Host loss to running elsewhere; docs/reliability.md says what it is made of.
GOALS = {10: 15, 3: 6}
ELSEWHERE = 120
WHOLE = 180


class Losses:
    def __init__(self, lab, options):
        self.lab, self.options = lab, options
        self.hosts = lab.hosts()
        self.chance = random.Random(options.seed)
        self.rows = {}
        # By way, and by whether etcd had another leader in the end.
        self.times = {(way, changed): [] for way in ("power", "cut") for changed in (False, True)}
        self.late = []

    def lease(self):
        """All hosts with the lease that is asked for. An agent that starts again goes on with the lease it has: so that ends first."""
        at_once(lambda host: host.run("systemctl", "stop", "stampede.service"), self.hosts)
        for host in self.hosts:
            file = host.path("/etc/stampede/config.toml")
            file.write_text(f"{file.read_text()}\n[lease]\nttl_seconds = {self.options.ttl}\n")
        wait_for("all leases to end", WHOLE, lambda: not self.etcdctl(self.hosts[0], "get", "--prefix", "--keys-only", "/stampede/v1/alive/").strip())
        at_once(lambda host: host.run("systemctl", "start", "stampede.service"), self.hosts)
        wait_for("the cluster", WHOLE, self.whole)

    def whole(self):
        for host in self.hosts:
            rows = host.api(timeout=5).list("/v1/hosts")
            if {row["name"] for row in rows if row["state"] == "active" and "container" in row["capabilities"]} != {host.name for host in self.hosts}:
                return False
        return True

    def make(self, eyes):
        api = self.hosts[0].api()
        for _ in range(self.options.instances):
            mark = str(next(MARKS))
            eyes.marks.add(mark)
            self.rows[mark] = api.post("/v1/containers?wait=running", {
                "imageUuid": "docker:busybox", "name": f"loss-{mark}", "command": "sleep", "commandArgs": [mark],
                "onHostLoss": "move"})["id"]
        wait_for("all to be seen", 30, lambda: all(eyes.at(mark) for mark in self.rows))

    def leader(self):
        """The host of etcd's leader, and the term of its leadership."""
        for host in self.hosts[:3]:
            words = self.etcdctl(host, "endpoint", "status", "-w", "json")
            status = json.loads(words)[0]["Status"] if words.startswith("[{") else {}
            # One without a leader tells of none, and of no term.
            if status.get("leader") and status["leader"] == status["header"]["member_id"]:
                return host.name, status.get("raftTerm")
        return None

    @staticmethod
    def etcdctl(host, *words):
        return host.run("etcdctl", "--endpoints", f"http://{host.address}:2379", *words, check=False, timeout=10).stdout

    def victim(self, eyes, leader):
        """A host that runs some of it; etcd's leader only where that is asked for."""
        holding = {name for mark in self.rows for name in eyes.at(mark)}
        if self.options.leader:
            return next((host for host in self.hosts if host.name == leader and leader in holding), None) or self.any(holding, None)
        return self.any(holding, leader)

    def any(self, holding, spared):
        return self.chance.choice([host for host in self.hosts if host.name in holding and host.name != spared])

    def lose(self, number, eyes):
        leader, term = wait_for("a leader of etcd", 30, self.leader)
        victim = self.victim(eyes, leader)
        way = self.chance.choice(("power", "cut"))
        there = [mark for mark in self.rows if eyes.at(mark) == {victim.name}]
        self.lab("kill" if way == "power" else "cut", victim.name)
        since = time.monotonic()
        if way == "power":
            # The command takes a while itself.
            since = max(wait_for("its end to be seen", 10, lambda mark=mark: eyes.ended.get(mark)) for mark in there)
        took = {}

        def elsewhere():
            for mark in there:
                if mark not in took and eyes.at(mark) - {victim.name}:
                    took[mark] = time.monotonic() - since
            return len(took) == len(there)

        try:
            wait_for("all of it to run elsewhere", ELSEWHERE, elsewhere, every=0.01)
        except TimeoutError:
            self.late.append(f"loss {number}, {victim} by {way}: {sorted(set(there) - set(took))} ran nowhere after {ELSEWHERE} s")
        changed = wait_for("a leader of etcd", 30, self.leader)[1] != term
        self.times[way, changed] += took.values()
        print(f"  {number:4}  {victim}  {way:5}  {', '.join(f'{seconds:.1f}' for seconds in sorted(took.values()))} s  {'another leader, ' if changed else ''}load {os.getloadavg()[0]:.0f}", flush=True)
        if way == "power":
            self.lab("start", victim.name, timeout=240)
        else:
            self.lab("heal", victim.name)
        wait_for("the host to be back", WHOLE, self.whole, every=0.5)

    def run(self):
        with Eyes(self.lab.name, self.hosts) as eyes:
            self.make(eyes)
            for number in range(1, self.options.losses + 1):
                self.lose(number, eyes)
            self.tell(eyes)
        return not eyes.doubled and not self.late

    def tell(self, eyes):
        print(f"\na lease of {self.options.ttl} s, {self.options.losses} losses")
        goal = GOALS.get(self.options.ttl)
        for changed, words, limit in ((False, "etcd keeps its leader", goal), (True, "another leader", goal and goal + self.options.ttl + 2.5)):
            for name, ways in (("power", ("power",)), ("cut", ("cut",)), ("both", ("power", "cut"))):
                times = sorted(itertools.chain(*(self.times[way, changed] for way in ways)))
                if times:
                    print(f"  {words:21}  {name:5}  {len(times):4} instances  median {statistics.median(times):5.1f} s  p90 {rank(times, 0.9):5.1f} s  "
                          f"p99 {rank(times, 0.99):5.1f} s  longest {times[-1]:5.1f} s" + (f"  (goal: p99 of {limit} s)" if limit else ""))
        print(f"  {eyes.looks} looks at all processes, in two places at once: {len(eyes.doubled)}")
        for words in self.late + [f"TWICE: sleep {mark}: {pids}" for mark, pids in eyes.doubled]:
            print(f"  {words}")


def rank(ordered, share):
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench failover", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", type=int, default=30)
    parser.add_argument("--ttl", type=int, default=10, help="the lease, in seconds")
    parser.add_argument("--instances", type=int, default=15)
    parser.add_argument("--leader", action="store_true", help="lose etcd's leader wherever it can be")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    lab = Lab(os.environ.get("STAMPEDE_LAB", "failover"))
    if lab.rows():
        parser.error(f"the lab {lab.name} is up; this needs hosts of its own, with their own lease")
    try:
        if lab.stream("up", "5") != 0:
            return 1
        losses = Losses(lab, options)
        losses.lease()
        return 0 if losses.run() else 1
    finally:
        lab.stream("down")


if __name__ == "__main__":
    sys.exit(main())
