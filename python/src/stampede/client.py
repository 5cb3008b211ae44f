"""The client that waits for its answers."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
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
from ._settings import Settings, from_environment
from ._steps import Answer, Ask, Pause, Steps, read
from ._trust import context

Result = TypeVar("Result")


class Client:
    """The API, bound from its live schemas.

    For each type that the schemas have, in both spellings (`ipAddress`, `ip_address`) and where it can be done:

        client.list_container(name="web")               a page of a list, filtered
        client.iterate_container(state="running")       all rows, page after page
        client.by_id_container("1i54")                  one, or None
        client.create_container(imageUuid="docker:busybox", command="httpd")
        client.update_by_id_container("1i54", name="shop")

    Where an argument is a resource, its id is sent. Threads may share a client.

    Args:
        access_key: an API key's public value
        secret_key: and its secret one
        url: `https://HOST:9080`; several hosts of one cluster as a list, or with commas between
        ca: the cluster's authority: a file, or the text that `stampede ca show` prints
        pin: or its SHA-256 (Python 3.10 and later)
        socket: an agent's Unix socket, for root on its host
        strict: whether a filter that the schemas do not have is an error (the API ignores it)
        headers: further headers
        timeout: seconds until an answer has to begin
        retry: when a request is asked again

    Raises:
        ClientApiError: settings that do not go together
        Unreachable, ApiError: no schemas were to be had
    """

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
        settings = Settings.read(url, access_key=access_key, secret_key=secret_key, ca=ca, pin=pin, socket=socket)
        self._core = Core(self, settings.path, retry or Retry(), strict)
        self._hosts = _http.Hosts(settings)
        transport = httpx.HTTPTransport(uds=settings.socket) if settings.socket else None
        self._http = httpx.Client(**_http.options(settings, context(settings), headers, timeout), transport=transport)
        try:
            self.reload_schema()
        except BaseException:
            self._http.close()
            raise

    # The original's words

    @property
    def schema(self) -> Schemas:
        """The schemas as they were read; `client.schema.types["container"]`."""
        return self._core.loaded()

    def reload_schema(self) -> None:
        """Reads the schemas anew, as after a change of the account's rights."""
        self._run(self._core.load())

    def valid(self) -> bool:
        """Whether there are schemas."""
        return self._core.schemas is not None

    def list(self, type: str, **filters: Any) -> Collection:
        """A type's rows, the first page: `limit` (100, at most 1000), `sort`, `order`, `include`, and filters of its fields."""
        return self._run(self._core.list(type, filters))

    def iterate(self, type: str, **filters: Any) -> Iterator[Resource]:
        """All of a type's rows, page after page."""
        page = self.list(type, **filters)
        while True:
            yield from page.data
            link = page.next_link()
            if link is None:
                return
            page = self.follow(link)

    def by_id(self, type: str, id: str, **query: Any) -> Resource | None:
        """One by its id; `None` where there is none."""
        return self._run(self._core.by_id(type, id, query))

    def create(self, type: str, *bodies: Mapping[str, Any], **fields: Any) -> Any:
        """A new one; with `count` a collection of new ones."""
        return self._run(self._core.create(type, bodies, fields))

    def update(self, obj: Resource, *bodies: Any, if_match: str | None = None, **fields: Any) -> Resource:
        """Changes fields; with `if_match` only of that version (an ETag), else `PreconditionFailed`."""
        return self._run(self._core.update(obj, bodies, fields, if_match))

    def update_by_id(self, type: str, id: str, *bodies: Any, **fields: Any) -> Resource:
        """Changes fields of the one with that id."""
        return self._run(self._core.update_by_id(type, id, bodies, fields))

    def delete(self, *objs: Resource) -> Any:
        """Removes; what the last answer was."""
        answers = [self._run(self._core.delete(resource(obj))) for obj in objs]
        return answers[-1] if answers else None

    def reload(self, obj: Resource) -> Resource:
        """As it is now; `ClientApiError` where it is gone."""
        now = self._run(self._core.reload(obj))
        if now is None:
            raise ClientApiError(f"{obj.type} {obj.id} is gone")
        return now

    def action(self, obj: Resource, name: str, *bodies: Mapping[str, Any], **fields: Any) -> Any:
        """Does an action; `c.stop(remove=True)` is `client.action(c, "stop", remove=True)`."""
        return self._run(self._core.action(obj, name, bodies, fields))

    def follow(self, link: str, **query: Any) -> Any:
        """GETs a link's address; `c.hosts()` is `client.follow(c.links.hosts)`."""
        return self._run(self._core.follow(link, query))

    def wait_success(self, obj: Resource, timeout: float = -1, sleep: float = 0.01) -> Resource:
        """Waits until it is at rest after a success, 45 s unless told; `TransitionError` says why it failed."""
        return self._run(self._core.wait_success(obj, timeout, sleep))

    def wait_transitioning(self, obj: Resource, timeout: float = -1, sleep: float = 0.01) -> Resource:
        """Waits until it is at rest, however its last step ended; `WaitTimeout` where it does not come to rest."""
        return self._run(self._core.wait_transitioning(obj, timeout, sleep))

    def subscribe(
        self, *names: str, include: Iterable[str] = (), since: int | None = None, retry: Retry | None = None
    ) -> Subscription:
        """What changes in the cluster, from now on (`resource.change` unless told), or since a revision."""
        return Subscription(self, Feed(self, self._core.path, names, include, since, retry or self._core.retry))

    # And what carries them

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name == "_core":
            # Not made yet.
            raise AttributeError(name)
        method, type = self._core.method(name)
        return partial(getattr(self, method), type)

    def __dir__(self) -> Iterable[str]:
        return sorted({*super().__dir__(), *(self._core.schemas.methods if self._core.schemas else ())})

    def _run(self, steps: Steps[Result]) -> Result:
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                    step = steps.send(None)
                    continue
                try:
                    answer = self._ask(step)
                except Unreachable as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            result: Result = end.value
            return result

    def _ask(self, ask: Ask) -> Answer:
        host, url = self._hosts.url(ask)
        try:
            return self._hosts.answered(host, self._http.request(ask.method, url, content=ask.body, headers=ask.headers))
        except httpx.RequestError as error:
            raise self._hosts.failed(host, error) from error

    def _lines(self, ask: Ask) -> Iterator[str]:
        host, url = self._hosts.url(ask)
        try:
            with self._http.stream(**_http.streaming(ask, url)) as response:
                if not response.is_success:
                    response.read()
                    read(self._hosts.answered(host, response), self)
                yield from response.iter_lines()
        except httpx.RequestError as error:
            raise self._hosts.failed(host, error) from error

    def close(self) -> None:
        """Closes its connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Subscription:
    """Events as they come: an iterator, which has begun once it is made. `with` closes it.

    It goes on by itself where it was cut off, since the last that it heard; `since` is that revision, for the next time.
    """

    def __init__(self, client: Client, feed: Feed) -> None:
        self._client = client
        self._feed = feed
        self._heard = self._events()
        # The first word: an event, or that there is none yet.
        self._first = next(self._heard)

    @property
    def since(self) -> int | None:
        """The last revision that was heard of."""
        return self._feed.since

    def _events(self) -> Iterator[Record | None]:
        while True:
            why: Exception = CutOff("the stream ended")
            try:
                for line in self._client._lines(self._feed.ask()):  # noqa: SLF001
                    yield self._feed.heard(line)
            except (CutOff, Unreachable) as error:
                why = error
            except ApiError as error:
                if error.status not in TEMPORARY:
                    raise
                why = error
            time.sleep(self._feed.pause(why))

    def __iter__(self) -> Iterator[Record]:
        return self

    def __next__(self) -> Record:
        first, self._first = self._first, None
        while first is None:
            first = next(self._heard)
        return first

    def close(self) -> None:
        """Ends it."""
        self._heard.close()  # type: ignore[attr-defined]

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def from_env(prefix: str | None = None, **given: Any) -> Client:
    """A client with what is not given from the environment: `STAMPEDE_URL`, `STAMPEDE_ACCESS_KEY`, `STAMPEDE_SECRET_KEY`,
    `STAMPEDE_CA`, `STAMPEDE_PIN`, `STAMPEDE_SOCKET`, else the same with `CATTLE_`, or with `prefix`.
    """
    return Client(**environment_of(given, prefix))


def environment_of(given: Mapping[str, Any], prefix: str | None) -> dict[str, Any]:
    """A client's arguments, with what the environment adds."""
    urls = given.get("url")
    told = {**given, "url": urls if urls is None or isinstance(urls, str) else ",".join(urls)}
    return {**given, **from_environment(told, prefix)}
