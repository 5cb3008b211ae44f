"""What changes, as it happens."""

from __future__ import annotations

import pytest
from conftest import API, Cluster, Maker, listens, until

import stampede


def states(events: stampede.Subscription, id: str, last: str) -> list[str]:
    seen = []
    for event in events:
        if event.resourceId == id:
            seen.append(event.data.resource.state)
            if seen[-1] == last:
                break
    return seen


def test_a_container_s_states_are_told(shared: stampede.Client, make: Maker) -> None:
    with shared.subscribe(include=["hosts"]) as events:
        c = make(name="told", wait=False)
        seen = states(events, c.id, "running")
        assert "starting" in seen
        shared.reload(c).stop()
        assert states(events, c.id, "stopped")[-1] == "stopped"
        assert events.since is not None
    # From before on, for one that was away.
    with shared.subscribe("resource.change;type=container", since=events.since - 1) as again:
        event = next(again)
        assert (event.resourceId, event.data.resource.state) == (c.id, "stopped")
        # What is told is a resource as any.
        assert shared.wait_success(event.data.resource.start()).state == "running"


def test_nothing_is_missed_while_the_agent_is_away(cluster: Cluster, shared: stampede.Client, make: Maker) -> None:
    patient = stampede.Retry(attempts=40, first=0.1, longest=0.5)
    with cluster.client(retry=patient) as client, client.subscribe() as events:
        c = make(name="before")
        states(events, c.id, "running")
        cluster.stop("agent")
        cluster.start_agent()
        until("the agent", lambda: listens(API))
        client.reload(c).stop()
        assert states(events, c.id, "stopped")[-1] == "stopped"
    until("the simulated host", lambda: all(host.state == "active" for host in shared.list_host()))


def test_who_may_not_is_told_so(cluster: Cluster, shared: stampede.Client) -> None:
    with cluster.client() as client:
        client._http.auth = ("wrong", "wrong")
        with pytest.raises(stampede.Unauthorized):
            client.subscribe()
    with pytest.raises(stampede.ApiError) as refused:
        shared.subscribe(since=-1)
    assert refused.value.status in (400, 410, 422)


def test_a_host_that_does_not_come_back_ends_it(cluster: Cluster) -> None:
    with cluster.client() as client:
        client._hosts._hosts = ("https://127.0.0.1:1",)
        with pytest.raises(stampede.Unreachable, match="no events any more"):
            client.subscribe(retry=stampede.Retry(attempts=2))
