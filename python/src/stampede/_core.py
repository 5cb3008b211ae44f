"""All operations of a client, as steps (see `_steps`)."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from ._errors import ClientApiError, NotFound, TransitionError, WaitTimeout
from ._record import Collection, Owner, Resource, body_of, outgoing
from ._retry import Retry
from ._schemas import Schemas, nearest
from ._steps import Answer, Ask, Pause, Steps, ask, read

DEFAULT_TIMEOUT = 45.0


class Core:
    """What `Client` and `AsyncClient` share: requests made from words, and answers read."""

    def __init__(self, owner: Owner, path: str, retry: Retry, strict: bool) -> None:
        self._owner = owner
        self.path = path
        self.retry = retry
        self.strict = strict
        self.schemas: Schemas | None = None

    # Schemas

    def load(self) -> Steps[None]:
        """Reads the schemas, wherever the API says that they are."""
        first: Answer = yield from ask(Ask("GET", self.path, safe=True), self.retry)
        read(first, self._owner)
        where = first.headers.get("x-api-schemas")
        self.schemas = Schemas.of((yield from self._get(where or f"{self.path}/schemas")))

    def loaded(self) -> Schemas:
        """The schemas, which have to be there."""
        if self.schemas is None:
            raise ClientApiError("the schemas are not read yet; use `async with AsyncClient(…) as client`, or await client.load()")
        return self.schemas

    def method(self, name: str) -> tuple[str, str]:
        """What a client's method by that name is: one of its own, and the type that it is for."""
        if name.startswith("_"):
            raise AttributeError(name)
        if self.schemas is None:
            raise AttributeError(f"{name}: the schemas are not read yet; use `async with`, or await client.load()")
        found = self.schemas.methods.get(name)
        if found is None:
            raise AttributeError(f"no method {name!r} by this account's schemas{nearest(name, self.schemas.methods)}")
        return found

    # Requests

    def _get(self, link: str, query: Mapping[str, Any] | None = None) -> Steps[Any]:
        request = Ask("GET", target(link), parameters(query or {}), safe=True)
        return read((yield from ask(request, self.retry)), self._owner)

    def _send(
        self, method: str, link: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None, safe: bool = False
    ) -> Steps[Any]:
        headers = {"content-type": "application/json", **(headers or {})}
        request = Ask(method, target(link), body=json.dumps(body).encode(), headers=headers, safe=safe)
        return read((yield from ask(request, self.retry)), self._owner)

    def follow(self, link: str, query: Mapping[str, Any]) -> Steps[Any]:
        """GETs a link."""
        return self._get(link, query)

    def list(self, type: str, query: Mapping[str, Any]) -> Steps[Collection]:
        """A type's rows, the first page."""
        schemas = self.loaded()
        if self.strict:
            schemas.check_filters(type, dict(query))
        found = yield from self._get(schemas.collection(type), query)
        if not isinstance(found, Collection):
            raise ClientApiError(f"the list of {type} is no collection")
        return found

    def by_id(self, type: str, id: str, query: Mapping[str, Any]) -> Steps[Resource | None]:
        """One by its id; `None` where there is none."""
        try:
            return resource((yield from self._get(self._one(type, id), query)))
        except NotFound:
            return None

    def _one(self, type: str, id: object) -> str:
        return f"{self.loaded().collection(type).rstrip('/')}/{quote(str(id), safe='')}"

    def create(self, type: str, bodies: Iterable[Any], fields: Mapping[str, Any]) -> Steps[Any]:
        """A new one. Where nothing stands against it, it has a key, by which it can be asked for again without making two."""
        body = body_of(list(bodies), fields)
        keyed = body.get("uuid") is None and body.get("count") is None
        headers = {"idempotency-key": str(uuid.uuid4())} if keyed else {}
        return self._send("POST", self.loaded().collection(type), body, headers, safe=keyed)

    def update_by_id(self, type: str, id: str, bodies: Iterable[Any], fields: Mapping[str, Any]) -> Steps[Resource]:
        """Some fields of the one with that id."""
        return self._put(self._one(type, id), body_of(list(bodies), fields), None)

    def update(self, obj: Resource, bodies: Iterable[Any], fields: Mapping[str, Any], if_match: str | None) -> Steps[Resource]:
        """Some fields of a resource."""
        return self._put(obj.links.self, body_of(list(bodies), fields), if_match)

    def _put(self, link: str, body: Mapping[str, Any], if_match: str | None) -> Steps[Resource]:
        # Done twice it is the same as done once; but of one version it is done once.
        headers = {"if-match": if_match} if if_match else {}
        return resource((yield from self._send("PUT", link, body, headers, safe=not if_match)))

    def delete(self, obj: Resource) -> Steps[Any]:
        """Removes one."""
        request = Ask("DELETE", target(obj.links.self))
        return read((yield from ask(request, self.retry)), self._owner)

    def action(self, obj: Resource, name: str, bodies: Iterable[Any], fields: Mapping[str, Any]) -> Steps[Any]:
        """What can be done with it now."""
        link = obj.actions.get(name)
        if link is None:
            possible = ", ".join(sorted(obj.actions)) or "none"
            raise ClientApiError(f"{name!r} cannot be done with {obj.type} {obj.id} as it was read; what can: {possible}")
        return self._send("POST", link, body_of(list(bodies), fields))

    def reload(self, obj: Resource) -> Steps[Resource | None]:
        """As it is now; `None` where it is gone."""
        try:
            return resource((yield from self._get(obj.links.self)))
        except NotFound:
            return None

    def wait_transitioning(self, obj: Resource, timeout: float, sleep: float) -> Steps[Resource]:
        """Until it is at rest, however its last step ended."""
        limit = DEFAULT_TIMEOUT if timeout < 0 else timeout
        begun = time.monotonic()
        last = obj
        while True:
            now = yield from self.reload(last)
            if now is None:
                raise ClientApiError(f"{obj.type} {obj.id} is gone")
            if now.get("transitioning") != "yes":
                return now
            last = now
            elapsed = time.monotonic() - begun
            if elapsed >= limit:
                raise WaitTimeout(now, elapsed)
            yield Pause(min(sleep, max(limit - elapsed, 0.0)))
            sleep = min(sleep * 2, 1.0)

    def wait_success(self, obj: Resource, timeout: float, sleep: float) -> Steps[Resource]:
        """Until it is at rest, and its last step was a success."""
        now = yield from self.wait_transitioning(obj, timeout, sleep)
        if now.get("transitioning") != "no":
            raise TransitionError(now)
        return now


def resource(answer: Any) -> Resource:
    """What has to be a resource."""
    if isinstance(answer, Resource):
        return answer
    raise ClientApiError(f"the API answered with no resource but {answer!r:.200}")


def target(link: str) -> str:
    """A link's path and query: it is always asked of the hosts that the client was given, and its key is sent to no others."""
    parts = urlsplit(link)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def parameters(query: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """As they stand in an address; what is `None` is left out, and a list is several."""
    pairs: list[tuple[str, str]] = []
    for name, given in query.items():
        value = outgoing(given)
        several = value if isinstance(value, list) else [value]
        pairs += [(name, str(one).lower() if isinstance(one, bool) else str(one)) for one in several if one is not None]
    return tuple(pairs)
