"""What is asked again, and what is not."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from conftest import API, Cluster, Maker, listens, until

import stampede


class Thief:
    """Stands before the API, and lets the answers to some requests get lost on the way."""

    def __init__(self, method: bytes, times: int) -> None:
        self.method = method
        self.left = times
        self.seen = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                self.carry(connection)

    def carry(self, connection: socket.socket) -> None:
        """One request a connection: whatever of it comes within a moment."""
        connection.settimeout(0.2)
        request = b""
        try:
            while piece := connection.recv(65536):
                request += piece
        except OSError:
            pass
        if not request:
            return
        request = request.replace(b"Connection: keep-alive", b"Connection: close", 1)
        with socket.create_connection(tuple(API.rsplit(":", 1))) as to:  # type: ignore[arg-type]
            to.sendall(request)
            to.settimeout(10)
            answer = b""
            while piece := to.recv(65536):
                answer += piece
        if request.startswith(self.method):
            self.seen += 1
            if self.left:
                self.left -= 1
                return
        connection.sendall(answer)


@pytest.fixture
def thieves() -> Iterator[list[Thief]]:
    made: list[Thief] = []
    yield made
    for one in made:
        # Wakes accept(), which a mere close() does not.
        one.listener.shutdown(socket.SHUT_RDWR)
        one.listener.close()
        one.thread.join(5)


def behind(cluster: Cluster, thief: Thief, attempts: int = 5) -> stampede.Client:
    return cluster.client(url=f"http://{thief.address}", ca=None, retry=stampede.Retry(attempts=attempts), timeout=15)


def test_a_creation_whose_answer_is_lost_makes_one(cluster: Cluster, make: Maker, thieves: list[Thief]) -> None:
    thief = Thief(b"POST", times=2)
    thieves.append(thief)
    with behind(cluster, thief) as client:
        made = make(client, startOnCreate=False, name="once")
    assert thief.seen == 3
    assert [c.id for c in make.client.list_container(name="once")] == [made.id]


def test_an_action_whose_answer_is_lost_is_not_done_again(cluster: Cluster, make: Maker, thieves: list[Thief]) -> None:
    c = make(name="acts")
    thief = Thief(b"POST", times=1)
    thieves.append(thief)
    with behind(cluster, thief) as client:
        mine = client.by_id_container(c.id)
        assert mine is not None
        with pytest.raises(stampede.Unreachable) as lost:
            mine.restart()
    assert lost.value.sent
    assert thief.seen == 1


def test_several_that_may_have_been_made_are_not_asked_for_again(cluster: Cluster, make: Maker, thieves: list[Thief]) -> None:
    thief = Thief(b"POST", times=1)
    thieves.append(thief)
    with behind(cluster, thief) as client, pytest.raises(stampede.Unreachable):
        client.create_container(make.fields, count=2, startOnCreate=False, name="twins")
    assert thief.seen == 1
    make.made += make.client.list_container(name="twins")
    assert len(make.made) == 2


def test_reads_are_asked_again_up_to_a_limit(cluster: Cluster, thieves: list[Thief]) -> None:
    thief = Thief(b"GET", times=0)
    thieves.append(thief)
    with behind(cluster, thief, attempts=3) as client:
        thief.left, thief.seen = 2, 0
        assert client.list_host()
        assert thief.seen == 3
        thief.left, thief.seen = 9, 0
        with pytest.raises(stampede.Unreachable):
            client.list_host()
        assert thief.seen == 3


def test_a_host_that_is_not_there_is_gone_round(cluster: Cluster, make: Maker) -> None:
    with cluster.client(url=["https://127.0.0.1:1", f"https://{API}"], retry=stampede.Retry(attempts=2)) as client:
        c = make(client, startOnCreate=False)
        assert client.by_id_container(c.id)
        # And its links lead to where the client was told, whoever made them.
        assert client.follow(c.links.self.replace(API, "elsewhere.invalid:9080")).id == c.id
    with pytest.raises(stampede.Unreachable, match="does not answer") as gone:
        cluster.client(url="https://127.0.0.1:1", retry=stampede.NEVER)
    assert not gone.value.sent


def test_an_agent_that_is_started_anew_is_waited_for(cluster: Cluster, shared: stampede.Client, make: Maker) -> None:
    c = make(startOnCreate=False, name="stays")
    cluster.stop("agent")
    starting = threading.Timer(1.0, cluster.start_agent)
    starting.start()
    with pytest.raises(stampede.Unreachable):
        cluster.client(retry=stampede.NEVER)
    patient = stampede.Retry(attempts=30, first=0.2, longest=0.5)
    with cluster.client(retry=patient) as client:
        assert client.reload(c).name == "stays"
    starting.join()
    until("the simulated host", lambda: listens(API) and all(host.state == "active" for host in shared.list_host()))


def test_pauses_grow_differ_and_end() -> None:
    retry = stampede.Retry(attempts=6, first=0.1, longest=1.0, within=30, random=random.Random(1))
    pauses = [retry.pause(made, 0) for made in range(1, 6)]
    assert all(pause is not None and 0 <= pause <= min(1.0, 0.1 * 2**number) for number, pause in enumerate(pauses))
    assert len(set(pauses)) == 5
    assert retry.pause(6, 0) is None
    assert retry.pause(1, 29.95, asked=1) is None
    asked = retry.pause(1, 0, asked=3)
    assert asked is not None
    assert 3 <= asked <= 3.1


def test_a_silent_host_is_not_waited_for(cluster: Cluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        begun = time.monotonic()
        with pytest.raises(stampede.Unreachable) as silent:
            cluster.client(url=url, ca=None, timeout=0.5, retry=stampede.Retry(attempts=2))
        assert 0.9 < time.monotonic() - begun < 5
        assert silent.value.sent
