"""Names asked for by a container: of the agent, and of dnsmasq on the same host and the same link, in turns.

dnsmasq has the same names as records of its own, at the host's other address on the private network, so that a question's way
is the same. How many a second: dnsperf, four sockets with 50 questions on their way. How long one takes: one after the other.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

from hosts import Lab, container_name, wait_for

NAMES = 20
GATEWAY = "10.42.0.1"
LATENCY = r'''
import socket, struct, sys, time
labels = lambda name: b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
way = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
way.connect((sys.argv[1], 53))
way.settimeout(5)
times = []
for number in range(int(sys.argv[2])):
    packet = struct.pack(">HHHHHH", number & 0xffff, 0x100, 1, 0, 0, 0) + labels(f"bench-{number % int(sys.argv[3])}.stampede.internal") + b"\0\1\0\1"
    began = time.perf_counter()
    way.send(packet)
    assert way.recv(512)[6:8] == b"\0\1"
    times.append(time.perf_counter() - began)
times.sort()
print(times[len(times) // 2] * 1e6, times[len(times) * 99 // 100] * 1e6)
'''


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench names")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--seconds", type=int, default=3, help="how long each is asked")
    options = parser.parse_args()
    lab = Lab(os.environ.get("STAMPEDE_LAB", "bench"))
    own = not lab.rows()
    try:
        if own and lab.stream("up", "3") != 0:
            return 1
        with tempfile.TemporaryDirectory() as directory:
            bench = Bench(lab, directory)
            try:
                bench.run(options.pairs, options.seconds)
            finally:
                bench.end()
    finally:
        if own:
            lab.stream("down")
    return 0


class Bench:
    def __init__(self, lab, directory):
        self.host = lab.hosts()[0]
        self.api = self.host.api()
        active = lambda: all(row["state"] == "active" for row in self.api.list("/v1/hosts"))  # noqa: E731
        wait_for("the cluster", 60, active)
        self.made, self.dnsmasq = [], None
        ids = {row["name"]: row["id"] for row in self.api.list("/v1/hosts")}
        self.client = self.make("client", ids[self.host.name])
        rows = [self.make(f"bench-{number}", ids[lab.hosts()[1].name]) for number in range(NAMES)]
        self.pid = self.inside(container_name(self.client))
        self.other = next(one for one in re.findall(r"(10\.42\.\S+)/32", self.host.shell("ip -br -4 address show stampede0")) if one != GATEWAY)
        self.questions = f"{directory}/questions"
        with open(self.questions, "w", encoding="ascii") as file:
            file.writelines(f"{row['name']}.stampede.internal A\n" for row in rows)
        records = [f"--host-record={row['name']}.stampede.internal,{row['primaryIpAddress']}" for row in rows]
        self.dnsmasq = subprocess.Popen(
            ["nsenter", "-t", str(self.host.leader()), "-n", "dnsmasq", "-k", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces",
             f"--listen-address={self.other}", "--user=root", f"--pid-file={directory}/pid", "--local-ttl=2", *records])
        wait_for("dnsmasq", 10, lambda: self.latency(self.other, 10))

    def make(self, name, host):
        row = self.api.post("/v1/containers", {"imageUuid": "docker:busybox", "name": name, "command": "sleep", "commandArgs": ["infinity"], "requestedHostId": host})
        self.made.append(row)
        return self.api.wait(row, "running", 60)

    def inside(self, container):
        """The pid on this machine of what runs in a container of the host."""
        there = self.host.out("docker", "inspect", "-f", "{{.State.Pid}}", container)
        # The host's own /proc has its pids; the link names the network on every side of it.
        network = os.readlink(self.host.path(f"/proc/{there}/ns/net"))
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{name}/ns/net") == network:
                    return name
            except OSError:
                continue
        raise LookupError(f"{container} is not seen from here")

    def run(self, pairs, seconds):
        print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} before; {subprocess.run(['dnsmasq', '--version'], capture_output=True, text=True, check=True).stdout.splitlines()[0]}")
        ratios, rates, times = [], {GATEWAY: [], self.other: []}, {GATEWAY: [], self.other: []}
        for _ in range(pairs):
            for server in (GATEWAY, self.other):
                rates[server].append(self.rate(server, seconds))
                times[server].append(self.latency(server, 3000))
            ratios.append(rates[GATEWAY][-1] / rates[self.other][-1])
        for server, name in ((GATEWAY, "the agent"), (self.other, "dnsmasq")):
            half, late = (statistics.median(column) for column in zip(*times[server]))
            print(f"{name}: {statistics.median(rates[server]):.0f} a second ({min(rates[server]):.0f} to {max(rates[server]):.0f}); one takes {half:.0f} us, p99 {late:.0f} us")
        print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); goal: at least 1")

    def in_container(self, *command):
        return subprocess.run(["nsenter", "-t", self.pid, "-n", *command], capture_output=True, text=True, check=True, timeout=120).stdout

    def rate(self, server, seconds):
        said = self.in_container("dnsperf", "-s", server, "-d", self.questions, "-l", str(seconds), "-c", "4", "-q", "50")
        if not re.search(r"NOERROR \d+ \(100\.00%\)", said):
            raise ValueError(f"not all were answered:\n{said}")
        return float(re.search(r"Queries per second:\s+([\d.]+)", said).group(1))

    def latency(self, server, count):
        return [float(one) for one in self.in_container("python3", "-c", LATENCY, server, str(count), str(NAMES)).split()]

    def end(self):
        if self.dnsmasq:
            self.dnsmasq.terminate()
            self.dnsmasq.wait(10)
        for row in self.made:
            self.api.delete(f"/v1/containers/{row['id']}")
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main())
