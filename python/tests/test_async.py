"""The same for asyncio."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from typing import Callable

import pytest
from conftest import API, SIMULATED, Cluster, Maker

import stampede


def asynchronously(cluster: Cluster, work: Callable[[stampede.AsyncClient], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with stampede.AsyncClient(cluster.access, cluster.secret, f"https://{API}", ca=cluster.ca) as client:
            await work(client)

    asyncio.run(asyncio.wait_for(whole(), 60))


def test_one_container_s_life(cluster: Cluster, make: Maker) -> None:
    async def work(client: stampede.AsyncClient) -> None:
        made = await client.create_container(make.fields, name="async")
        make.made.append(made)
        c = await client.wait_success(made)
        assert c.state == "running"
        assert [host.name for host in await c.hosts()] == [SIMULATED]
        assert (await client.update(c, description="d")).description == "d"
        assert (await client.update_by_id_container(c.id, description="e")).description == "e"
        assert [one.id for one in await client.list_container(name="async")] == [c.id]
        found = await client.by_id_container(c.id)
        assert found is not None
        assert await client.by_id_container("1i999999") is None
        c = await client.wait_success(await c.stop())
        assert (await client.reload(c)).state == "stopped"
        c = await client.wait_success(await client.delete(c))
        assert c.state == "removed"
        with pytest.raises(stampede.Invalid):
            await client.create_container(name="x")

    asynchronously(cluster, work)


def test_many_at_once_and_page_after_page(cluster: Cluster, make: Maker) -> None:
    async def work(client: stampede.AsyncClient) -> None:
        each = [client.create_container(make.fields, name=f"many-{number}") for number in range(10)]
        made = await asyncio.gather(*each)
        make.made += made
        done = await asyncio.gather(*(client.wait_success(one) for one in made))
        assert [one.state for one in done] == ["running"] * 10
        names = [one.name async for one in client.iterate_container(name_like="many-%", limit=3, sort="name")]
        assert names == [f"many-{number}" for number in range(10)]

    asynchronously(cluster, work)


def test_events(cluster: Cluster, make: Maker) -> None:
    async def work(client: stampede.AsyncClient) -> None:
        async with client.subscribe() as events:
            made = await client.create_container(make.fields, name="told")
            make.made.append(made)
            async for event in events:
                if event.resourceId == made.id and event.data.resource.state == "running":
                    break
            assert events.since is not None

    asynchronously(cluster, work)


def test_whom_to_trust_and_where_it_is(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        if sys.version_info >= (3, 10):
            async with stampede.AsyncClient(cluster.access, cluster.secret, f"https://{API}", pin=cluster.pin) as client:
                assert client.valid()
        async with stampede.AsyncClient(socket=str(cluster.socket)) as client:
            assert client.valid()
        for name, value in cluster.environment().items():
            monkeypatch.setenv(name, value)
        async with stampede.async_from_env() as client:
            assert await client.list_host()
        with pytest.raises(stampede.Untrusted):
            await stampede.AsyncClient(cluster.access, cluster.secret, f"https://{API}").load()

    asyncio.run(work())


def test_before_it_is_opened_it_says_what_to_do() -> None:
    client = stampede.AsyncClient(url="https://h")
    with pytest.raises(AttributeError, match="async with"):
        client.list_container()
    with pytest.raises(stampede.ClientApiError, match="async with"):
        asyncio.run(client.list("container"))
