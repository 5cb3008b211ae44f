"""The lab's hosts from Python: commands in them, their Docker, their journal, and the API of each."""

import json
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from api import Api

TREE = Path(__file__).resolve().parent.parent.parent
LAB = TREE / "scripts/lab"
PORT = 9080


class CommandFailed(Exception):
    def __init__(self, command, result):
        self.result = result
        words = (result.stderr or result.stdout).strip()
        super().__init__(f"{' '.join(map(str, command))}: exit code {result.returncode}: {words}")


def run(*command, check=True, timeout=120, stdin=None, env=None):
    command = [str(word) for word in command]
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", timeout=timeout, check=False,
        env=env, **({"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}))
    if check and result.returncode != 0:
        raise CommandFailed(command, result)
    return result


def wait_for(what, limit, probe, every=0.1):
    """Asks `probe` until it gives something true and gives that; past the limit an error with the last exception, if any."""
    end = time.monotonic() + limit
    while True:
        last = None
        try:
            answer = probe()
            if answer:
                return answer
        except Exception as error:  # noqa: BLE001 (what is not there yet may fail in any way; it is told at the end)
            last = error
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {limit} s{f': {last}' if last else ''}") from last
        time.sleep(every)


def at_once(function, items, width=32):
    """`function` of all items side by side; results in order, the first failure raised when all have ended."""
    with ThreadPoolExecutor(max_workers=width) as pool:
        futures = [pool.submit(function, item) for item in items]
    return [future.result() for future in futures]


def container_name(row):
    """What Docker calls an instance's container."""
    return f"{row['name']}-{row['id']}" if row["name"] else row["id"]


class Lab:
    """One lab by its name; `lab` is the one of a bare `scripts/lab`."""

    def __init__(self, name=None):
        self.name = name or os.environ.get("STAMPEDE_LAB", "lab")
        self.environment = dict(os.environ, STAMPEDE_LAB=self.name)
        self.key = None

    def __call__(self, *words, **options):
        return run(LAB, *words, env=self.environment, **options)

    def stream(self, *words):
        """Runs a command whose words go to the screen as they come; gives its exit code."""
        return subprocess.run([LAB, *words], env=self.environment, stdin=subprocess.DEVNULL, check=False).returncode

    def rows(self):
        return json.loads(self("list", "--json").stdout)

    def hosts(self):
        return [Host(self, row["host"], row["address"]) for row in self.rows()]

    def make_key(self, name=None):
        """A key of the administrator's account, made over `h1`'s socket; all `api()` use it from then on."""
        words = ["--name", name] if name else []
        made = json.loads(self("exec", "h1", "stampede", "api-key", "create", "--json", *words).stdout)
        self.key = (made["publicValue"], made["secretValue"])
        return self.key


class Host:
    def __init__(self, lab, name, address):
        self.lab, self.name, self.address = lab, name, address

    def __repr__(self):
        return self.name

    @property
    def api_address(self):
        return f"{self.address}:{PORT}"

    def api(self, **options):
        if self.lab.key is None:
            self.lab.make_key()
        return Api(self.api_address, *self.lab.key, **options)

    def run(self, *command, **options):
        """A command in the host."""
        return self.lab("exec", self.name, *command, **options)

    def out(self, *command, **options):
        return self.run(*command, **options).stdout.strip()

    def shell(self, script, **options):
        return self.out("sh", "-c", script, **options)

    def leader(self):
        """The pid of the host's systemd on this machine."""
        return next(row["pid"] for row in self.lab.rows() if row["host"] == self.name)

    def path(self, path):
        """Where a file of the host is on this machine."""
        return Path(f"/proc/{self.leader()}/root{path}")

    # What runs there

    def containers(self, everything=False):
        """Our containers by instance id: Docker's `State`, `Id`, `Name` and labels."""
        # One command: each into the host costs a process or three.
        found = self.shell(
            f"ids=$(docker ps {'-a' if everything else ''} -q --no-trunc --filter label=io.stampede.instance)\n"
            "[ -z \"$ids\" ] || docker inspect $ids || true")
        found = json.loads(found) if found else []
        return {one["Config"]["Labels"]["io.stampede.instance"]: one for one in found}

    def unit(self, instance):
        return f"stampede-instance@{instance}.service"

    def revision(self):
        """etcd's revision now: it moves with each write and stands still otherwise."""
        return json.loads(self.out("etcdctl", "get", "nothing", "-w", "json"))["header"]["revision"]
