#!/usr/bin/env python3
"""The supervisor on a real host: systemd, Docker, and everything that can happen to the two.

    tests/lab/supervisor.py [--release trixie|bookworm] [--keep] [CASE…]

Brings up one test host without an agent (a lab of its own), puts the binary and its units there, writes assignments
into the ledger as the agent would, and looks at what becomes of them. Ends with 1 when a case fails.
"""

import argparse
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
import traceback
import uuid
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent.parent
LAB = TREE / "scripts/lab"
os.environ.setdefault("STAMPEDE_LAB", "superv")
CASES = []


def case(function):
    CASES.append(function)
    return function


def wait_for(what, limit, probe):
    """Waits until the probe says something true, and gives that back."""
    end = time.monotonic() + limit
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"no {what} within {limit} s")
        time.sleep(0.02)


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("docker", timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Host:
    def __init__(self, name="h1"):
        self.name = name
        self.number = 0
        self.find()

    def find(self):
        rows = json.loads(subprocess.run([LAB, "list", "--json"], check=True, capture_output=True, text=True).stdout)
        self.pid = next(row["pid"] for row in rows if row["host"] == self.name)

    def run(self, *words, check=True):
        command = ["nsenter", "-t", str(self.pid), "-a", "env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(words)}: {done.returncode} {done.stdout}{done.stderr}")
        return done.stdout.strip()

    @property
    def root(self):
        return Path(f"/proc/{self.pid}/root")

    def docker(self, method, path, body=None):
        connection = Connection(f"{self.root}/run/docker.sock")
        connection.request(method, path, json.dumps(body) if body is not None else None, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, json.loads(data) if data[:1] in (b"{", b"[") else data

    def install(self, binary):
        for source, target in [(binary, "usr/bin/stampede")] + [
            (unit, f"usr/lib/systemd/system/{unit.name}") for unit in sorted((TREE / "systemd").glob("stampede*"))
        ]:
            place = self.root / target
            beside = place.with_name(place.name + ".new")
            beside.write_bytes(source.read_bytes())
            beside.chmod(0o755 if target == "usr/bin/stampede" else 0o644)
            beside.rename(place)
        (self.root / "var/lib/stampede/instance").mkdir(parents=True, exist_ok=True)
        self.run("systemctl", "daemon-reload")

    def instance(self, command, on_end="stop", image="busybox", **workload):
        """Writes an assignment, as the agent would."""
        self.number += 1
        one = Instance(self, f"1i{self.number}", uuid.uuid4().hex)
        one.assignment = {
            "id": one.id, "uuid": one.uuid, "token": {"generation": 1, "revision": self.number}, "generation": 1,
            "desired": "running", "onEnd": on_end,
            "workload": {"kind": "container", "image": image, "command": command, **workload},
        }
        one.write()
        return one

    def docker_is_up(self, limit=60):
        def answers():
            try:
                return self.docker("GET", "/_ping")[0] == 200
            except OSError:
                return False
        wait_for("Docker", limit, answers)


class Instance:
    def __init__(self, host, id, uuid):
        self.host, self.id, self.uuid = host, id, uuid
        self.unit = f"stampede-instance@{id}.service"

    def write(self):
        path = self.host.root / f"var/lib/stampede/instance/{self.id}.json"
        path.write_text(json.dumps(self.assignment))

    def start(self, *more):
        self.host.run("systemctl", "start", *more, self.unit)
        return self

    def show(self, name):
        return self.host.run("systemctl", "show", "--value", "-p", name, self.unit)

    def report(self):
        try:
            return json.loads((self.host.root / f"var/lib/stampede/report/{self.id}.json").read_text())
        except (FileNotFoundError, ValueError):
            return {}

    def phase(self, phase, reason=None, limit=10):
        """Waits for a report, and gives it back."""
        def look():
            report = self.report()
            return report if report.get("phase") == phase and (reason is None or report.get("reason") == reason) else None
        try:
            return wait_for(f"{phase} {reason or ''} of {self.id}", limit, look)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.report()}\n{self.journal()}") from None

    def containers(self):
        filters = json.dumps({"label": [f"io.stampede.instance={self.id}"]}).replace('"', "%22").replace(" ", "")
        return self.host.docker("GET", f"/containers/json?all=1&filters={filters}")[1]

    def container(self):
        found = self.containers()
        assert len(found) == 1, f"{self.id} has {len(found)} containers"
        return self.host.docker("GET", f"/containers/{found[0]['Id']}/json")[1]

    def journal(self):
        return self.host.run("journalctl", "--no-pager", "-o", "cat", "-u", self.unit)

    def ended(self, limit=10):
        wait_for(f"the end of {self.unit}", limit, lambda: self.show("ActiveState") in ("inactive", "failed"))
        return self.show("ActiveState")


SLEEP = ["sh", "-c", "echo begun; exec sleep 100000"]
# Ends at once and with 0 when it is asked to, like any good service.
POLITE = ["sh", "-c", "trap 'exit 0' TERM; echo begun; while :; do sleep 1 & wait $!; done"]


@case
def runs_in_its_slice_with_its_output_in_the_journal(host):
    one = host.instance(["sh", "-c", "echo hello; echo more >&2; exec sleep 100000"], name="web one").start()
    report = one.report()
    assert report["phase"] == "running", report
    container = one.container()
    assert container["Name"] == f"/web-one-{one.id}", container["Name"]
    assert container["HostConfig"]["RestartPolicy"]["Name"] in ("no", ""), container["HostConfig"]["RestartPolicy"]
    slice = f"stampede-{one.id}.slice"
    assert one.show("Slice") == slice and container["HostConfig"]["CgroupParent"] == slice
    tree = host.run("systemctl", "status", "--no-pager", "stampede.slice")
    assert container["Id"] in tree and "supervise" in tree, tree
    wait_for("output", 5, lambda: {"hello", "more"} <= set(one.journal().splitlines()))
    assert one.show("StatusText").startswith("container "), one.show("StatusText")


@case
def ends_by_itself(host):
    for code in (0, 3, 137, 143):
        one = host.instance(["sh", "-c", f"sleep 0.3; echo last words; exit {code}"]).start()
        report = one.phase("ended", "own", 5)
        assert report["exitCode"] == code, report
        assert one.ended() == "inactive"
        assert "last words" in one.journal()


@case
def starts_again_with_growing_waits(host):
    one = host.instance(["sh", "-c", "echo run; exit 5"], on_end="restart").start("--no-block")
    wait_for("four runs", 30, lambda: one.journal().splitlines().count("run") >= 4)
    report = one.phase("ended", "own")
    assert report["shortRuns"] >= 3 and report["exitCode"] == 5, report
    assert len(one.containers()) == 1
    begun = time.monotonic()
    host.run("systemctl", "stop", one.unit)
    assert time.monotonic() - begun < 3
    one.phase("ended", "asked")
    assert one.ended() == "inactive"


@case
def cannot_start(host):
    one = host.instance(["/no/such/program"])
    host.run("systemctl", "start", one.unit, check=False)
    report = one.phase("failed")
    assert "/no/such/program" in report["message"], report
    one.ended()


@case
def image_is_nowhere(host):
    one = host.instance(["true"], image="no.such.registry.invalid/nothing:1")
    host.run("systemctl", "start", one.unit, check=False)
    report = one.phase("failed", limit=60)
    assert "no.such.registry.invalid" in report["message"], report
    assert one.containers() == []


@case
def not_wanted(host):
    one = host.instance(SLEEP)
    one.assignment["desired"] = "stopped"
    one.write()
    host.run("systemctl", "start", one.unit, check=False)
    one.ended()
    assert one.containers() == [] and one.report() == {}


@case
def supervisor_killed(host):
    one = host.instance(["sh", "-c", "n=0; while :; do n=$((n+1)); echo line $n; sleep 0.05; done"]).start()
    before = one.container()
    for _ in range(3):
        time.sleep(0.5)
        pid = one.show("MainPID")
        host.run("kill", "-9", pid)
        wait_for("another supervisor", 5, lambda: one.show("MainPID") not in ("0", pid) and one.show("ActiveState") == "active")
    time.sleep(1)
    after = one.container()
    assert (before["Id"], before["State"]["StartedAt"], before["State"]["Pid"]) == (
        after["Id"], after["State"]["StartedAt"], after["State"]["Pid"])
    numbers = [int(line.split()[1]) for line in one.journal().splitlines() if line.startswith("line ")]
    assert numbers == list(range(1, len(numbers) + 1)), f"output lost or doubled: {numbers}"


@case
def ended_while_the_supervisor_was_dead(host):
    one = host.instance(SLEEP, on_end="stop").start()
    pid = one.show("MainPID")
    # Stopped first, so that it sees nothing; both are gone before systemd starts the next.
    host.run("kill", "-STOP", pid)
    host.docker("POST", f"/containers/{one.container()['Id']}/kill")
    wait_for("the end", 5, lambda: not one.container()["State"]["Running"])
    host.run("kill", "-9", pid)
    assert one.phase("ended", "own")["exitCode"] == 137
    assert one.ended() == "inactive"


@case
def killed_behind_our_back(host):
    one = host.instance(SLEEP).start()
    host.run("docker", "kill", one.container()["Id"])
    begun = time.monotonic()
    report = one.phase("ended", "own", 3)
    print(f"      docker kill seen after {1000 * (time.monotonic() - begun):.0f} ms")
    assert report["exitCode"] == 137, report
    one.ended()


@case
def removed_behind_our_back(host):
    one = host.instance(SLEEP).start()
    host.run("docker", "rm", "-f", one.container()["Id"])
    begun = time.monotonic()
    one.phase("ended", "own", 3)
    print(f"      docker rm -f seen after {1000 * (time.monotonic() - begun):.0f} ms")
    one.ended()
    again = host.instance(SLEEP, on_end="restart").start()
    old = again.container()["Id"]
    host.run("docker", "rm", "-f", old)
    again.phase("ended", "own", 3)
    again.phase("running", limit=10)
    assert again.container()["Id"] != old


@case
def stopped_by_an_administrator(host):
    for command in (POLITE, SLEEP):
        one = host.instance(command).start()
        host.run("systemctl", "stop", one.unit)
        assert one.phase("ended", "asked")["exitCode"] in (0, 137)
        assert one.ended() == "inactive"
        assert not one.container()["State"]["Running"]
        # And again: the same container.
        id = one.container()["Id"]
        one.start()
        assert one.container()["Id"] == id and one.container()["State"]["Running"]


@case
def docker_restarts(host):
    polite, sleep = host.instance(POLITE, on_end="stop").start(), host.instance(SLEEP, on_end="restart").start()
    quick = host.instance(["sh", "-c", "trap 'exit 143' TERM; while :; do sleep 1 & wait $!; done"], on_end="remove").start()
    ones = (polite, sleep, quick)
    before = {one.id: (one.show("MainPID"), one.container()["Id"], one.container()["State"]["StartedAt"]) for one in ones}
    seen = {one.id: set() for one in ones}
    stop = threading.Event()

    def watch():
        while not stop.is_set():
            for one in ones:
                report = one.report()
                seen[one.id].add((report.get("phase"), report.get("reason")))
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    host.run("systemctl", "restart", "docker")
    begun = time.monotonic()
    host.docker_is_up()
    for one in ones:
        wait_for(f"{one.id} after the restart", 20, lambda: one.report().get("phase") == "running"
                 and one.container()["State"]["Running"])
    print(f"      all run {time.monotonic() - begun:.1f} s after Docker was back")
    stop.set()
    watcher.join()
    for one in ones:
        pid, id, started = before[one.id]
        assert one.show("MainPID") == pid, "another supervisor"
        assert one.container()["Id"] == id and one.container()["State"]["StartedAt"] != started
        assert ("ended", "own") not in seen[one.id] and ("ended", "driver-gone") in seen[one.id], seen[one.id]


@case
def docker_killed(host):
    ones = [host.instance(POLITE).start(), host.instance(SLEEP).start()]
    for signal in ("KILL", "TERM"):
        seen = set()
        host.run("systemctl", "kill", "--signal", signal, "--kill-whom=main", "docker")
        end = time.monotonic() + 1
        while time.monotonic() < end:
            seen |= {(one.id, one.report().get("reason")) for one in ones}
        host.docker_is_up()
        for one in ones:
            wait_for(f"{one.id} after SIG{signal}", 30, lambda: one.report().get("phase") == "running"
                     and one.container()["State"]["Running"])
            assert (one.id, "own") not in seen, (signal, seen)


@case
def docker_stopped_stays_stopped(host):
    one = host.instance(SLEEP).start()
    host.run("systemctl", "stop", "docker")
    one.phase("ended", "driver-gone", 20)
    time.sleep(6)
    assert host.run("systemctl", "is-active", "docker", check=False) == "inactive", "somebody knocked and started Docker"
    assert one.show("ActiveState") == "active"
    # Told to stop meanwhile: it says so soon, and does not wait for Docker.
    other = host.instance(SLEEP)
    host.run("systemctl", "start", "docker")
    host.docker_is_up()
    wait_for("it to run again", 20, lambda: one.report().get("phase") == "running")
    other.start()
    host.run("systemctl", "stop", "docker")
    other.phase("ended", "driver-gone", 20)
    begun = time.monotonic()
    host.run("systemctl", "stop", other.unit)
    assert time.monotonic() - begun < 10
    other.phase("ended", "asked")
    host.run("systemctl", "start", "docker")
    host.docker_is_up()
    wait_for("it to run again", 20, lambda: one.report().get("phase") == "running")


@case
def docker_restarts_and_containers_live_on(host):
    config = host.root / "etc/docker/daemon.json"
    config.parent.mkdir(exist_ok=True)
    config.write_text('{"live-restore": true}')
    try:
        host.run("systemctl", "restart", "docker")
        host.docker_is_up()
        one = host.instance(["sh", "-c", "n=0; while :; do n=$((n+1)); echo line $n; sleep 0.1; done"]).start()
        ends = host.instance(["sh", "-c", "sleep 4; exit 7"], on_end="stop").start()
        before = one.container()
        host.run("systemctl", "stop", "docker")
        one.phase("ended", "driver-gone", 20)
        time.sleep(5)
        host.run("systemctl", "start", "docker")
        host.docker_is_up()
        wait_for("it to be taken over", 20, lambda: one.report().get("phase") == "running")
        after = one.container()
        assert (before["State"]["StartedAt"], before["State"]["Pid"]) == (after["State"]["StartedAt"], after["State"]["Pid"])
        assert ends.phase("ended", "own", 20)["exitCode"] == 7, "its own end, while Docker was away"
        time.sleep(2)
        numbers = [int(line.split()[1]) for line in one.journal().splitlines() if line.startswith("line ")]
        assert numbers == list(range(1, len(numbers) + 1)), f"output lost or doubled: {numbers}"
        host.run("systemctl", "stop", one.unit)
    finally:
        config.unlink()
        host.run("systemctl", "restart", "docker")
        host.docker_is_up()


@case
def the_machine_reboots(host):
    ones = [host.instance(POLITE, on_end="stop").start(), host.instance(SLEEP, on_end="restart").start()]
    ids = [one.container()["Id"] for one in ones]
    subprocess.run([LAB, "reboot", host.name], check=True, capture_output=True)
    host.find()
    host.docker_is_up()
    for one, id in zip(ones, ids):
        report = one.report()
        assert (report["phase"], report.get("reason")) == ("ended", "shutdown"), f"{report}\n{one.journal()}"
        one.start()
        assert one.container()["Id"] == id and one.report()["phase"] == "running"


@case
def the_power_goes(host):
    one = host.instance(POLITE, on_end="stop").start()
    id = one.container()["Id"]
    subprocess.run([LAB, "kill", host.name], check=True, capture_output=True)
    subprocess.run([LAB, "start", host.name], check=True, capture_output=True)
    host.find()
    host.docker_is_up()
    one.start()
    assert one.report()["phase"] == "running" and one.container()["Id"] == id


@case
def thirty_at_once(host):
    ones = [host.instance(SLEEP) for _ in range(30)]
    begun = time.monotonic()
    host.run("systemctl", "start", *[one.unit for one in ones])
    print(f"      30 at once: {time.monotonic() - begun:.1f} s")
    for one in ones:
        assert one.report()["phase"] == "running" and len(one.containers()) == 1
    memory = []
    for one in ones:
        text = (host.root / f"proc/{one.show('MainPID')}/smaps_rollup").read_text()
        sizes = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines()[1:]}
        memory.append((sizes["Private_Dirty"] + sizes["Private_Clean"], sizes["Pss"], sizes["Rss"]))
    private, pss, rss = (statistics.median(column) for column in zip(*memory))
    print(f"      one of 30 supervisors: private {private:.0f} kB, PSS {pss:.0f} kB, RSS {rss:.0f} kB")
    assert private <= 3072, "more than 3 MB of its own"
    host.run("systemctl", "stop", *[one.unit for one in ones[:5]])


@case
def how_long_it_takes(host):
    def raw():
        begun = time.monotonic()
        status, made = host.docker("POST", "/containers/create", {"Image": "busybox", "Cmd": SLEEP})
        assert status == 201, made
        host.docker("POST", f"/containers/{made['Id']}/start")
        taken = time.monotonic() - begun
        host.docker("DELETE", f"/containers/{made['Id']}?force=1")
        return taken

    def ours():
        one = host.instance(SLEEP)
        begun = time.monotonic()
        one.start()
        taken = time.monotonic() - begun
        report = dict(one.report()["timings"])
        host.run("docker", "rm", "-f", one.container()["Id"])
        one.phase("ended", "own")
        return taken, report["create"], report["start"]

    def empty():
        begun = time.monotonic()
        host.run("systemctl", "--version")
        return time.monotonic() - begun

    rows = [(raw(), *ours(), empty()) for _ in range(10)]
    names = ("docker create + start", "unit start, systemctl included", "  supervisor: until created", "  supervisor: until started",
             "  systemctl through nsenter alone")
    for at, name in enumerate(names):
        scale = 1 if at in (2, 3) else 1000
        print(f"      {name}: median {scale * statistics.median(row[at] for row in rows):.0f} ms")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--release", default="trixie")
    parser.add_argument("--keep", action="store_true", help="leave the host running")
    parser.add_argument("--binary", type=Path)
    parser.add_argument("cases", nargs="*")
    options = parser.parse_args()
    binary = options.binary or max((file for file in (TREE / "target/release/stampede", TREE / "target/debug/stampede")
                                    if file.exists()), key=lambda file: file.stat().st_mtime)
    subprocess.run([LAB, "up", "1", "--no-agent", "--release", options.release], check=True)
    failed = []
    try:
        host = Host()
        host.install(binary)
        for function in CASES:
            if options.cases and function.__name__ not in options.cases:
                continue
            # Numbers of their own, also where an earlier run left its instances.
            host.number = max([0] + [int(file.stem[2:]) for file in (host.root / "var/lib/stampede/instance").glob("1i*.json")])
            begun = time.monotonic()
            try:
                function(host)
                print(f"ok    {function.__name__} ({time.monotonic() - begun:.1f} s)", flush=True)
            except Exception:
                failed.append(function.__name__)
                print(f"FAILED {function.__name__}\n{traceback.format_exc()}", flush=True)
                host.find()
            finally:
                units = host.run("systemctl", "list-units", "--plain", "--no-legend", "--all", "stampede-instance@*")
                names = [line.split()[0] for line in units.splitlines()]
                containers = host.run("docker", "ps", "-aq").split()
                if containers:
                    host.run("docker", "rm", "-f", *containers, check=False)
                if names:
                    host.run("systemctl", "stop", *names, check=False)
    finally:
        if not options.keep:
            subprocess.run([LAB, "down"], check=True)
    if failed:
        sys.exit(f"{len(failed)} failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
