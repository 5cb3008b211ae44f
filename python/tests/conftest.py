"""A real agent with a real etcd, in a network of its own, with a simulated host that runs nothing.

`scripts/python --check` starts these tests in a network namespace; elsewhere they refuse: an agent changes the machine's network.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

import pytest

import stampede

TREE = Path(__file__).resolve().parents[2]
API = "127.0.0.1:9080"
SIMULATED = "s1"


@dataclass
class Cluster:
    """One agent and its etcd."""

    binary: Path
    directory: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    access: str = ""
    secret: str = ""
    ca: str = ""
    pin: str = ""

    def spawn(self, name: str, *command: str) -> None:
        log = (self.directory / f"{name}.log").open("ab")
        with log:
            self.running[name] = subprocess.Popen(command, stdout=log, stderr=log)

    def start_etcd(self) -> None:
        client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
        words = ["--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer]
        self.spawn("etcd", "etcd", "--data-dir", str(self.directory / "etcd"), *words)

    def start_agent(self) -> None:
        self.spawn("agent", str(self.binary), "agent", "--config", str(self.directory / "config.toml"), "--allow-simulated")

    def stop(self, name: str) -> None:
        process = self.running.pop(name)
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)

    def command(self, *words: str) -> str:
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "STAMPEDE_SOCKET": str(self.socket), "STAMPEDE_CONFIG": str(self.directory / "config.toml")}
        return subprocess.run([self.binary, *words], env=environment, capture_output=True, text=True, timeout=30, check=False)

    @property
    def socket(self) -> Path:
        return self.directory / "run/api.sock"

    def client(self, **options: object) -> stampede.Client:
        """An administrator's, over TLS."""
        given: dict[str, object] = {
            "url": f"https://{API}",
            "access_key": self.access,
            "secret_key": self.secret,
            "ca": self.ca,
            "retry": stampede.Retry(attempts=8),
        }
        return stampede.Client(**(given | options))  # type: ignore[arg-type]

    def environment(self) -> dict[str, str]:
        names = {"URL": f"https://{API}", "ACCESS_KEY": self.access, "SECRET_KEY": self.secret, "CA": self.ca}
        return {f"STAMPEDE_{name}": value for name, value in names.items()}

    def log(self, name: str) -> str:
        return "\n".join((self.directory / f"{name}.log").read_text(errors="replace").splitlines()[-30:])


def until(what: str, condition: Callable[[], object], limit: float = 30.0) -> None:
    """Waits for a condition, and fails where it does not come true."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"{what} did not come true within {limit} s"
        time.sleep(0.05)


def listens(address: str) -> bool:
    host, port = address.split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def binary() -> Path:
    told = os.environ.get("STAMPEDE_BINARY")
    if told:
        return Path(told)
    built = [path for path in (TREE / "target/release/stampede", TREE / "target/debug/stampede") if path.is_file()]
    assert built, "no agent to try; build one, or say where it is in STAMPEDE_BINARY"
    return max(built, key=lambda path: path.stat().st_mtime)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    links = {name for _, name in socket.if_nameindex()}
    assert links <= {"lo", "stampede0", "stampede-vx"}, (
        "these tests want a network of their own: start them by scripts/python --check"
    )
    directory = Path(tempfile.mkdtemp(prefix="stampede-python-"))
    made = Cluster(binary(), directory)
    (directory / "config.toml").write_text(
        f"""name = "h1"
state_directory = "{directory}/state"
run_directory = "{directory}/run"
[store]
endpoints = ["http://127.0.0.1:2379"]
[api]
address = "0.0.0.0:9080"
advertise = "{API}"
[docker]
socket = "{directory}/no-docker.sock"
[network]
encryption = "none"
underlay = "127.0.0.1"
driver_socket = "{directory}/driver.sock"
"""
    )
    try:
        made.start_etcd()
        until("etcd's port", lambda: listens("127.0.0.1:2379"))
        made.start_agent()
        try:
            prepare(made)
        except BaseException:
            print(made.log("agent"))
            raise
        yield made
    finally:
        for name in list(made.running)[::-1]:
            made.stop(name)
        shutil.rmtree(directory, ignore_errors=True)


def prepare(made: Cluster) -> None:
    """A key, the authority, a host that runs what is asked for."""
    until("the agent's socket", made.socket.exists)
    until("the agent's port", lambda: listens(API))
    # It listens a moment before a new cluster has its first account.
    until("the administrator's account", lambda: made.run("api-key", "create").returncode == 0)
    key = json.loads(made.command("api-key", "create", "--name", "tests", "--json"))
    made.access, made.secret = key["publicValue"], key["secretValue"]
    made.ca = made.command("ca", "show")
    made.pin = made.command("ca", "show", "--list").splitlines()[1].split()[0]
    with made.client() as client:
        client.create_agent(uri=f"sim://{SIMULATED}")
        until("the simulated host", lambda: [host.state for host in client.list_host(name=SIMULATED)] == ["active"])


@pytest.fixture(scope="session")
def shared(cluster: Cluster) -> Iterator[stampede.Client]:
    with cluster.client() as made:
        yield made


class Maker:
    """Makes containers that are purged at the end."""

    def __init__(self, client: stampede.Client) -> None:
        self.client = client
        network = client.list_network(uuid="unmanaged")[0]
        self.fields = {"imageUuid": "sim:anything", "networkIds": [network]}
        self.made: list[stampede.Resource] = []

    def __call__(self, client: stampede.Client | None = None, wait: bool = True, **fields: object) -> stampede.Resource:
        made: stampede.Resource = (client or self.client).create_container(**(self.fields | fields))
        self.made.append(made)
        return self.client.wait_success(made) if wait else made

    def purge(self) -> None:
        for one in self.made:
            now = self.client.wait_transitioning(one)
            if now.state not in ("removed", "purged"):
                now = self.client.wait_transitioning(self.client.delete(now))
            if now.state != "purged":
                now = self.client.wait_success(now.purge())
            assert now.state == "purged", now


@pytest.fixture
def make(shared: stampede.Client) -> Iterator[Maker]:
    maker = Maker(shared)
    yield maker
    maker.purge()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The line that scripts/test counts; what was skipped was not tried, and is not good."""
    stats = terminalreporter.stats
    good = len(stats.get("passed", []))
    bad = sum(len(stats.get(kind, [])) for kind in ("failed", "error", "skipped", "xfailed", "xpassed"))
    terminalreporter.write_line(f"{good} passed, {bad} failed")
