"""What the tests on the lab share: the lab, its hosts, and a test that begins and ends with nothing of its own there."""

import datetime
import itertools
import json
import unittest
from collections import Counter

from api import ApiError, Unreachable
from hosts import at_once, container_name, wait_for

# Set by run.py.
LAB = None
LONG = False
RELEASE = "trixie"

HOSTS = []
_numbers = itertools.count(1)
# For what happens at once on an idle machine; these run on busy ones.
SOON = 10
START = 60
# What journald and systemd add to each line of the journal.
NOT_OURS = {
    "MESSAGE", "MESSAGE_ID", "PRIORITY", "SYSLOG_IDENTIFIER", "SYSLOG_FACILITY", "TARGET", "CODE_FILE", "CODE_LINE", "CODE_FUNC",
    "INVOCATION_ID", "JOB_ID", "JOB_TYPE", "JOB_RESULT", "UNIT", "TID"}


def prepare():
    """Once, when the lab is up: all hosts in the cluster, a key."""
    HOSTS[:] = LAB.hosts()
    wait_for("a key of the API", 60, lambda: LAB.make_key("tests"), every=1)
    cluster_is_whole()


def cluster_is_whole(limit=90):
    """Every node answers, freshly, and every node sees every host active."""
    def whole():
        for host in HOSTS:
            answer = host.api(timeout=5).ask("GET", "/v1/hosts")
            if answer.status != 200 or answer.headers.get("X-Stampede-Stale"):
                return False
            rows = [row for row in answer.body["data"] if row["state"] == "active" and "container" in row.get("capabilities", ["container"])]
            if {row["name"] for row in rows} != {host.name for host in HOSTS}:
                return False
        return True

    wait_for("all hosts active at every node", limit, whole, every=0.25)


def diagnosis():
    """After a failure: what the API, systemd and the agents say. Never fails itself."""
    lines = []
    if LAB is None:
        return lines
    hosts = HOSTS or LAB.hosts()
    for host in hosts:
        try:
            rows = host.api(timeout=5).list("/v1/containers", removed_null="") if HOSTS else []
            lines.append(f"{host}: the API shows {len(rows)} containers")
            lines += [
                f"  {row['id']} {row['name']} {row['state']} {row['transitioning']} {row['transitioningMessage'] or ''} "
                f"host {row.get('hostId')} {row.get('primaryIpAddress')}" for row in rows if row["state"] not in ("purged", "removed")]
        except Exception as error:  # noqa: BLE001
            lines.append(f"{host}: {error}")
        try:
            units = host.shell("systemctl list-units --all --no-legend --plain 'stampede*' | grep -v 'active running' | head -20", check=False)
            lines += [f"{host}: {line}" for line in units.splitlines()]
            lines += [f"{host}: {line}" for line in journal(host, 15)]
        except Exception as error:  # noqa: BLE001
            lines.append(f"{host}: {error}")
    return lines


def journal(host, lines):
    """What the agent said last, with the fields of each line, which `journalctl` shows only when asked."""
    text = host.out("journalctl", "--no-pager", "-o", "json", "-n", lines, "-u", "stampede.service", check=False, timeout=20)
    for line in text.splitlines():
        entry = json.loads(line)
        when = datetime.datetime.fromtimestamp(int(entry["__REALTIME_TIMESTAMP"]) / 1e6, datetime.timezone.utc).strftime("%H:%M:%S.%f")[:-3]
        fields = {name.lower(): value for name, value in entry.items() if name[0] != "_" and name not in NOT_OURS}
        yield f"{when} {entry['MESSAGE']} " + " ".join(f"{name}={value}" for name, value in fields.items())


def rounds(few=1, many=20):
    return range(many if LONG else few)


class LabTest(unittest.TestCase):
    """Containers made with `make` are purged at the end, and the cluster has to be whole again then."""

    maxDiff = None

    def setUp(self):
        self.made = []
        self.apis = [host.api() for host in HOSTS]
        self.api = self.apis[0]

    def tearDown(self):
        cluster_is_whole()
        at_once(self.purge, self.made, width=12)
        self.nothing_left()

    # Making and taking away

    def make(self, api=None, wait=True, keep=True, limit=START, **fields):
        """A container that sleeps, running, unless told otherwise."""
        body = {"imageUuid": "docker:busybox", "name": f"test-{next(_numbers)}"}
        if "command" not in fields:
            body |= {"command": "sleep", "commandArgs": ["infinity"]}
        made = (api or self.api).post("/v1/containers", body | fields)
        rows = made["data"] if made["type"] == "collection" else [made]
        if keep:
            self.made += [row["id"] for row in rows]
        if wait:
            rows = [self.api.wait(row, "running", limit) for row in rows]
        return rows if made["type"] == "collection" else rows[0]

    def make_everywhere(self, each=1, **fields):
        """`each` on every host, asked for at that host's own API, at once; rows in the order of the hosts."""
        wanted = [(api, self.host_id(host)) for _ in range(each) for host, api in zip(HOSTS, self.apis)]
        made = at_once(lambda one: self.make(one[0], requestedHostId=one[1], wait=False, **fields), wanted)
        return at_once(lambda one: self.api.wait(one, "running", START), made)

    def purge(self, identifier):
        """Whatever state it is in."""
        def step():
            try:
                row = self.api.container(identifier)
                if row["state"] == "purged":
                    return True
                for action in ("purge", "remove", "stop"):
                    if action in row["actions"]:
                        self.api.act(row, action)
                        break
            except ApiError as error:
                if error.status == 404:
                    return True
                if error.status not in (409, 422):
                    raise
            return False

        wait_for(f"{identifier} to be purged", START, step)

    def nothing_left(self):
        """What was purged is in no Docker, and no unit of it runs."""
        mine = set(self.made)
        if not mine:
            return
        look = (
            "docker ps -a --filter label=io.stampede.instance --format '{{.Label \"io.stampede.instance\"}} container'; "
            "systemctl list-units --no-legend --plain 'stampede-instance@*' | sed -E 's/^stampede-instance@([^.]*)[.].*/\\1 unit/'")

        def left():
            words = at_once(lambda host: [(host, *line.split()) for line in host.shell(look).splitlines()], HOSTS)
            return sorted(f"the {kind} of {instance} on {host}" for host, instance, kind in sum(words, []) if instance in mine)

        found = []

        def nothing():
            found[:] = left()
            return not found

        try:
            wait_for("nothing to be left", SOON * 2, nothing, every=0.3)
        except TimeoutError as late:
            raise AssertionError(f"left behind: {', '.join(found)}") from late

    # Looking

    def host_id(self, host):
        return next(row["id"] for row in self.api.list("/v1/hosts") if row["name"] == host.name)

    def host_of(self, row):
        """The host an instance is on."""
        names = {one["id"]: one["name"] for one in self.api.list("/v1/hosts")}
        return next(host for host in HOSTS if host.name == names[row["hostId"]])

    def others(self, host):
        return [other for other in HOSTS if other.name != host.name]

    def refused(self, status, code, function, *arguments, field=None, **options):
        """The call must end with this error."""
        with self.assertRaises(ApiError) as caught:
            function(*arguments, **options)
        self.assertEqual((caught.exception.status, caught.exception.code), (status, code), caught.exception)
        if field:
            self.assertEqual(caught.exception.field, field, caught.exception)
        return caught.exception

    def docker(self, row):
        """Docker's view of an instance's container; None where there is none."""
        return self.host_of(row).containers(everything=True).get(row["id"])

    def ping(self, source, target, count=1):
        """From a container to the address of another."""
        host = self.host_of(source)
        host.run("docker", "exec", container_name(source), "ping", "-c", count, "-W", "3", target["primaryIpAddress"])

    def can_ping(self, source, target):
        try:
            self.ping(source, target)
            return True
        except Exception:  # noqa: BLE001
            return False


class Standing:
    """What runs, to be compared with what runs later: each container by id, start and count of its restarts."""

    def __init__(self):
        self.seen = self.look()

    @staticmethod
    def look():
        # A container's own facts, and on which host; one on two hosts shows as two.
        return Counter(
            (host.name, instance, one["Id"], one["State"]["StartedAt"], one["RestartCount"], one["State"]["Status"])
            for host in HOSTS for instance, one in host.containers(everything=True).items())

    def must_be_same(self, test):
        test.assertEqual(self.look(), self.seen, "a container was restarted, lost or doubled")


def reachable(api):
    try:
        return api.ask("GET", "/v1").status == 200
    except Unreachable:
        return False
