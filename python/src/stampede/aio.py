"""The client for `asyncio`: as `Client`, with `await` before each call, also of a resource's links and actions.

async with AsyncClient(url="https://h1:9080", access_key=…, secret_key=…, ca="ca.pem") as client:
    web = await client.create_container(imageUuid="docker:busybox")
    web = await client.wait_success(web)
    async for container in client.iterate_container(state="running"):
        print(container.name)
    await web.stop()
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Callable, TypeVar

import httpx

from . import _http
from ._core import Core, resource
from ._errors import ApiError, ClientApiError, Unreachable
from ._feed import CutOff, Feed
from ._record import Collection, Record, Resource
from ._retry import TEMPORARY, Retry
from ._schemas import Schemas
from ._settings import Settings
from ._steps import Answer, Ask, Pause, Steps, read
from ._trust import context
from .client import environment_of

Result = TypeVar("Result")


class AsyncClient:
    """See the module's text; its arguments are those of `Client`."""

    def __init__(
        self,
        access_key: str | None = None,
        secret_key: str | None = None,
        url: str | Iterable[str] | None = None,
        *,
        ca: str | None = None,
        pin: str | None = None,
        socket: str | None = None,
        strict: bool = False,
        headers: Mapping[str, str] | None = None,
        timeout: float = 60.0,
        retry: Retry | None = None,
    ) -> None:
        self._settings = Settings.read(url, access_key=access_key, secret_key=secret_key, ca=ca, pin=pin, socket=socket)
        self._core = Core(self, self._settings.path, retry or Retry(), strict)
        self._hosts = _http.Hosts(self._settings)
        self._headers = headers
        self._timeout = timeout
        self._client: httpx.AsyncClient | None = None

    async def load(self) -> AsyncClient:
        """Reads the schemas; `async with` does so by itself."""
        if self._client is None:
            trust = await asyncio.to_thread(context, self._settings)
            transport = httpx.AsyncHTTPTransport(uds=self._settings.socket) if self._settings.socket else None
            options = _http.options(self._settings, trust, self._headers, self._timeout)
            self._client = httpx.AsyncClient(**options, transport=transport)
        try:
            await self.reload_schema()
        except BaseException:
            await self.close()
            raise
        return self

    @property
    def schema(self) -> Schemas:
        """The schemas as they were read."""
        return self._core.loaded()

    async def reload_schema(self) -> None:
        """Reads the schemas anew."""
        await self._run(self._core.load())

    def valid(self) -> bool:
        """Whether there are schemas."""
        return self._core.schemas is not None

    async def list(self, type: str, **filters: Any) -> Collection:
        """A type's rows, the first page."""
        return await self._run(self._core.list(type, filters))

    async def iterate(self, type: str, **filters: Any) -> AsyncIterator[Resource]:
        """All of a type's rows, page after page."""
        page = await self.list(type, **filters)
        while True:
            for row in page.data:
                yield row
            link = page.next_link()
            if link is None:
                return
            page = await self.follow(link)

    async def by_id(self, type: str, id: str, **query: Any) -> Resource | None:
        """One by its id; `None` where there is none."""
        return await self._run(self._core.by_id(type, id, query))

    async def create(self, type: str, *bodies: Mapping[str, Any], **fields: Any) -> Any:
        """A new one; with `count` a collection of new ones."""
        return await self._run(self._core.create(type, bodies, fields))

    async def update(self, obj: Resource, *bodies: Any, if_match: str | None = None, **fields: Any) -> Resource:
        """Changes fields; with `if_match` only of that version (an ETag), else `PreconditionFailed`."""
        return await self._run(self._core.update(obj, bodies, fields, if_match))

    async def update_by_id(self, type: str, id: str, *bodies: Any, **fields: Any) -> Resource:
        """Changes fields of the one with that id."""
        return await self._run(self._core.update_by_id(type, id, bodies, fields))

    async def delete(self, *objs: Resource) -> Any:
        """Removes; what the last answer was."""
        answers = [await self._run(self._core.delete(resource(obj))) for obj in objs]
        return answers[-1] if answers else None

    async def reload(self, obj: Resource) -> Resource:
        """As it is now; `ClientApiError` where it is gone."""
        now = await self._run(self._core.reload(obj))
        if now is None:
            raise ClientApiError(f"{obj.type} {obj.id} is gone")
        return now

    async def action(self, obj: Resource, name: str, *bodies: Mapping[str, Any], **fields: Any) -> Any:
        """Does an action."""
        return await self._run(self._core.action(obj, name, bodies, fields))

    async def follow(self, link: str, **query: Any) -> Any:
        """GETs a link's address."""
        return await self._run(self._core.follow(link, query))

    async def wait_success(self, obj: Resource, timeout: float = -1, sleep: float = 0.01) -> Resource:
        """Waits until it is at rest after a success, 45 s unless told; `TransitionError` says why it failed."""
        return await self._run(self._core.wait_success(obj, timeout, sleep))

    async def wait_transitioning(self, obj: Resource, timeout: float = -1, sleep: float = 0.01) -> Resource:
        """Waits until it is at rest, however its last step ended."""
        return await self._run(self._core.wait_transitioning(obj, timeout, sleep))

    def subscribe(
        self, *names: str, include: Iterable[str] = (), since: int | None = None, retry: Retry | None = None
    ) -> AsyncSubscription:
        """What changes in the cluster: `async with client.subscribe() as events`, then `async for event in events`."""
        return AsyncSubscription(self, Feed(self, self._core.path, names, include, since, retry or self._core.retry))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name == "_core":
            raise AttributeError(name)
        method, type = self._core.method(name)
        return partial(getattr(self, method), type)

    def __dir__(self) -> Iterable[str]:
        return sorted({*super().__dir__(), *(self._core.schemas.methods if self._core.schemas else ())})

    async def _run(self, steps: Steps[Result]) -> Result:
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    step = steps.send(None)
                    continue
                try:
                    answer = await self._ask(step)
                except Unreachable as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            result: Result = end.value
            return result

    @property
    def _http(self) -> httpx.AsyncClient:
        if self._client is None:
            raise ClientApiError("this client is not open; use `async with AsyncClient(…) as client`, or await client.load()")
        return self._client

    async def _ask(self, ask: Ask) -> Answer:
        host, url = self._hosts.url(ask)
        try:
            response = await self._http.request(ask.method, url, content=ask.body, headers=ask.headers)
        except httpx.RequestError as error:
            raise self._hosts.failed(host, error) from error
        return self._hosts.answered(host, response)

    async def _lines(self, ask: Ask) -> AsyncIterator[str]:
        host, url = self._hosts.url(ask)
        try:
            async with self._http.stream(**_http.streaming(ask, url)) as response:
                if not response.is_success:
                    await response.aread()
                    read(self._hosts.answered(host, response), self)
                async for line in response.aiter_lines():
                    yield line
        except httpx.RequestError as error:
            raise self._hosts.failed(host, error) from error

    async def close(self) -> None:
        """Closes its connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def __aenter__(self) -> AsyncClient:
        return await self.load()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()


class AsyncSubscription:
    """Events as they come; it has begun once it is entered."""

    def __init__(self, client: AsyncClient, feed: Feed) -> None:
        self._client = client
        self._feed = feed
        self._heard = self._events()
        self._first: Record | None = None

    @property
    def since(self) -> int | None:
        """The last revision that was heard of."""
        return self._feed.since

    async def _events(self) -> AsyncIterator[Record | None]:
        while True:
            why: Exception = CutOff("the stream ended")
            lines = self._client._lines(self._feed.ask())  # noqa: SLF001
            try:
                async for line in lines:
                    yield self._feed.heard(line)
            except (CutOff, Unreachable) as error:
                why = error
            except ApiError as error:
                if error.status not in TEMPORARY:
                    raise
                why = error
            finally:
                # A generator that was left in the middle still holds its connection.
                await lines.aclose()  # type: ignore[attr-defined]
            await asyncio.sleep(self._feed.pause(why))

    def __aiter__(self) -> AsyncIterator[Record]:
        return self

    async def __anext__(self) -> Record:
        first, self._first = self._first, None
        while first is None:
            first = await self._heard.__anext__()
        return first

    async def __aenter__(self) -> AsyncSubscription:
        self._first = await self._heard.__anext__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._heard.aclose()  # type: ignore[attr-defined]


def from_env(prefix: str | None = None, **given: Any) -> AsyncClient:
    """As `stampede.from_env`."""
    return AsyncClient(**environment_of(given, prefix))
