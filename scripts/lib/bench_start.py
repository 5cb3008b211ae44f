"""How long from "I want a container" to "it runs": over the agent's API, and over Docker's own.

Both are asked by this same client, over a Unix socket each, for the same image and command on the same host, in turns:
ours, Docker's, ours, … so that whatever else the machine does meets both. Docker's container is on Docker's own bridge,
ours on the managed network. Ours is asked for with `?wait=running`, which answers when it runs, as Docker's `start` does.

Docker is asked twice: on its default bridge, and on a bridge network with a name (`docker network create`). Only on the
latter does it give a container names to resolve, as on ours: a resolver and ten runs of iptables at each start.
"""

import argparse
import calendar
import json
import os
import random
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from api import Api
from hosts import Lab, wait_for

IMAGE = "busybox"
COMMAND = ["sleep", "infinity"]
NAMED = "bench"
MORE_MS, TIMES = 30, 1.1


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench start")
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--together", type=int, default=30, help="how many at once")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of that")
    parser.add_argument("--host", default="h1")
    options = parser.parse_args()
    lab = Lab(os.environ.get("STAMPEDE_LAB", "bench"))
    own = not lab.rows()
    try:
        if own and lab.stream("up", "3") != 0:
            return 1
        host = next(host for host in lab.hosts() if host.name == options.host)
        wait_for("the cluster", 60, lambda: all(row["state"] == "active" for row in lab.hosts()[0].api().list("/v1/hosts")))
        bench = Bench(host)
        print(f"{host.out('docker', 'version', '-f', 'Docker {{.Server.Version}}')}, {host.out('systemctl', '--version').splitlines()[0]}, "
              f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} before")
        bench.warm_up()
        bench.with_network(lambda: (bench.one_by_one(options.pairs), bench.at_once(options.together, options.rounds)))
    finally:
        if own:
            lab.stream("down")
    return 0


class Bench:
    def __init__(self, host):
        self.host = host
        self.agent_socket = str(host.path("/run/stampede/api.sock"))
        self.docker_socket = str(host.path("/run/docker.sock"))
        self.agent = Api(socket=self.agent_socket, keep=True)
        self.docker = Api(socket=self.docker_socket, keep=True)
        self.host_id = next(row["id"] for row in self.agent.list("/v1/hosts") if row["name"] == host.name)
        self.number = 0

    def with_network(self, work):
        """With a bridge network of Docker's own that has a name."""
        self.docker.ask("DELETE", f"/networks/{NAMED}")
        self.docker.post("/networks/create", {"Name": NAMED, "Driver": "bridge"})
        try:
            work()
        finally:
            self.docker.ask("DELETE", f"/networks/{NAMED}")

    def warm_up(self):
        for _ in range(3):
            _, made, _ = self.ours()
            self.take_away([made["id"]])
            _, raw = self.raw()
            self.docker.call("DELETE", f"/containers/{raw}?force=1")

    # One of each

    def ours(self):
        self.number += 1
        marks = {"sent": time.monotonic(), "wall": time.time()}
        row = self.agent.post("/v1/containers?wait=running", {
            "imageUuid": f"docker:{IMAGE}", "name": f"bench-{self.number}", "command": COMMAND[0], "commandArgs": COMMAND[1:],
            "requestedHostId": self.host_id})
        if row["state"] != "running":
            raise RuntimeError(f"{row['state']}: {row['transitioningMessage']}")
        marks["running"] = time.monotonic()
        # Its unit follows.
        wait_for("its unit", 10, lambda: self.host.out("systemctl", "show", "-p", "ActiveState", "--value", self.host.unit(row["id"])).strip() == "active")
        return marks["running"] - marks["sent"], row, marks

    def raw(self, docker=None, network="bridge"):
        docker = docker or self.docker
        self.number += 1
        since = time.monotonic()
        made = docker.post(f"/containers/create?name=raw-{self.number}-{random.randrange(10**9)}", {
            "Image": IMAGE, "Cmd": COMMAND, "HostConfig": {"NetworkMode": network}})
        docker.call("POST", f"/containers/{made['Id']}/start")
        return time.monotonic() - since, made["Id"]

    def one_by_one(self, pairs):
        ours, raw, named, milestones = [], [], [], []
        for _ in range(pairs):
            seconds, row, marks = self.ours()
            ours.append(seconds * 1000)
            milestones.append(self.milestones(row, marks))
            self.take_away([row["id"]])
            for network, found in (("bridge", raw), (NAMED, named)):
                seconds, identifier = self.raw(network=network)
                found.append(seconds * 1000)
                self.docker.call("DELETE", f"/containers/{identifier}?force=1")
                time.sleep(0.1)
        print(f"\none by one, {pairs} pairs")
        figures("over the API", ours, "ms")
        figures("default bridge", raw, "ms")
        figures("named bridge", named, "ms")
        for name, those in (("default", raw), ("named", named)):
            more = [a - b for a, b in zip(ours, those)]
            low, high = interval(more)
            print(f"  to the {name:8} median {statistics.median(more):+7.0f} ms, 95 % between {low:+.0f} and {high:+.0f} (limit: +{MORE_MS})")
        self.where(milestones)

    def milestones(self, row, marks):
        """When each thing had happened, in milliseconds after the request was sent."""
        sent = marks["sent"]
        at = {}
        words = self.host.out("systemctl", "show", "-p", "InactiveExitTimestampMonotonic,ActiveEnterTimestampMonotonic", self.host.unit(row["id"]))
        unit = dict(line.split("=") for line in words.splitlines())
        begun = int(unit["InactiveExitTimestampMonotonic"]) / 1e6 - sent
        at["systemd has begun the unit"] = begun
        active = int(unit["ActiveEnterTimestampMonotonic"]) / 1e6 - sent
        report = json.loads(self.host.path(f"/var/lib/stampede/report/{row['id']}.json").read_text())
        container = json.loads(self.host.out("docker", "inspect", report["externalId"]))[0]
        at["placed, claimed, and seen by its host, where Docker makes the container"] = since_epoch(container["Created"]) - marks["wall"]
        at["Docker has started its process"] = since_epoch(container["State"]["StartedAt"]) - marks["wall"]
        at["the unit is active"] = active
        at["the API shows `running`"] = marks["running"] - sent
        return {step: seconds * 1000 for step, seconds in at.items()}

    @staticmethod
    def where(milestones):
        print("  where the time goes: medians of when each was done, after the request was sent")
        medians = {step: statistics.median(one[step] for one in milestones if step in one) for one in milestones for step in one}
        before = 0.0
        for step, at in sorted(medians.items(), key=lambda item: item[1]):
            print(f"    {at:7.1f} ms  (+{at - before:5.1f})  {step}")
            before = at

    # Many

    def at_once(self, count, rounds):
        ours, raw, named = [], [], []
        for _ in range(rounds):
            ours.append(self.many_of_ours(count))
            time.sleep(1)
            raw.append(self.many_raw(count, "bridge"))
            time.sleep(1)
            named.append(self.many_raw(count, NAMED))
            time.sleep(1)
        print(f"\n{count} at once, {rounds} rounds")
        figures("over the API", ours, "s")
        figures("default bridge", raw, "s")
        figures("named bridge", named, "s")
        for name, those in (("default", raw), ("named", named)):
            ratios = [a / b for a, b in zip(ours, those)]
            print(f"  to the {name:8} median {statistics.median(ratios):7.2f}, from {min(ratios):.2f} to {max(ratios):.2f} (limit: {TIMES})")

    def many_of_ours(self, count):
        def one(_):
            # A connection each, as many clients would.
            row = Api(socket=self.agent_socket).post("/v1/containers?wait=running&timeout=50", {
                "imageUuid": f"docker:{IMAGE}", "name": "bench-many", "command": COMMAND[0], "commandArgs": COMMAND[1:],
                "requestedHostId": self.host_id})
            if row["state"] != "running":
                raise RuntimeError(f"{row['state']}: {row['transitioningMessage']}")
            return row["id"]

        since = time.monotonic()
        with ThreadPoolExecutor(count) as pool:
            made = set(pool.map(one, range(count)))
        seconds = time.monotonic() - since
        self.take_away(made)
        return seconds

    def many_raw(self, count, network):
        since = time.monotonic()
        with ThreadPoolExecutor(count) as pool:
            made = list(pool.map(lambda _: self.raw(Api(socket=self.docker_socket, keep=True), network), range(count)))
        seconds = time.monotonic() - since
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda one: Api(socket=self.docker_socket).call("DELETE", f"/containers/{one[1]}?force=1"), made))
        return seconds

    def take_away(self, identifiers):
        for identifier in identifiers:
            self.agent.act(identifier, "purge" if self.agent.container(identifier)["state"] == "removed" else "stop", {"remove": True})
        for identifier in identifiers:
            self.agent.wait(identifier, "removed")
            self.agent.act(identifier, "purge")
        for identifier in identifiers:
            self.agent.wait(identifier, "purged")


def since_epoch(stamp):
    """Docker's own times: RFC 3339 in UTC, with nanoseconds."""
    seconds, _, fraction = stamp.rstrip("Z").partition(".")
    return calendar.timegm(time.strptime(seconds, "%Y-%m-%dT%H:%M:%S")) + float(f"0.{fraction or 0}")


def figures(name, values, unit):
    digits = 0 if unit == "ms" else 2
    low, high = interval(values)
    ordered = sorted(values)
    high_one = ordered[min(len(ordered) - 1, int(len(ordered) * 0.9))]
    print(f"  {name:14}  median {statistics.median(values):7.{digits}f} {unit}, 95 % between {low:.{digits}f} and {high:.{digits}f}; "
          f"90th percentile {high_one:.{digits}f}")


def interval(values):
    """Where the median lies with 95 %, by resampling; the seed is fixed so that the same values give the same words."""
    chance = random.Random(1)
    medians = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(2000))
    return medians[50], medians[-51]


if __name__ == "__main__":
    sys.exit(main())
