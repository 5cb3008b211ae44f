"""What the API answers, as objects: fields are attributes, links and actions are methods.

    c.state                 a field; also c["state"], c.get("state")
    c.hosts(name="h1")      follows the link `hosts`
    c.stop(remove=True)     the action `stop`, with that in its body

Where a field, a link and an action have one name, the field has it, then the link; `c.hosts_link()` and `c.stop_action()` always
mean the one. With an `AsyncClient` these methods are awaited.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, overload


class Owner(Protocol):
    """The client that a resource came from."""

    def follow(self, link: str, **query: Any) -> Any:
        """GETs a link's address."""

    def action(self, obj: Any, name: str, *bodies: Mapping[str, Any], **fields: Any) -> Any:
        """POSTs an action."""


class Fields:
    """Fields as attributes; `vars(it)` is all of them."""

    # Apart from the fields, which are in __dict__ and may have any name.
    __slots__ = ("__dict__", "_owner")

    def __init__(self, fields: Mapping[str, Any], owner: Owner) -> None:
        object.__setattr__(self, "_owner", owner)
        vars(self).update({name: build(value, owner) for name, value in fields.items()})

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no field {name!r} here; there are {', '.join(sorted(vars(self))) or 'none'}")

    def get(self, name: str, default: Any = None) -> Any:
        """A field, or the default where there is none."""
        return vars(self).get(name, default)

    def to_dict(self) -> dict[str, Any]:
        """As the API gave it: dictionaries and lists all through."""
        return {name: _plain(value) for name, value in vars(self).items()}

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Fields):
            return vars(self) == vars(other)
        return isinstance(other, Mapping) and vars(self) == other

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr({name: value for name, value in vars(self).items() if name not in ("links", "actions")})


class Record(Fields):
    """A map of the API's: a field that has fields."""

    __slots__ = ()

    def __getitem__(self, name: str) -> Any:
        return vars(self)[name]

    def __setitem__(self, name: str, value: Any) -> None:
        vars(self)[name] = value

    def __contains__(self, name: object) -> bool:
        return name in vars(self)

    def __iter__(self) -> Iterator[str]:
        return iter(vars(self))

    def __len__(self) -> int:
        return len(vars(self))

    def keys(self) -> list[str]:
        """The fields' names."""
        return list(vars(self))

    def items(self) -> list[tuple[str, Any]]:
        """Names and values."""
        return list(vars(self).items())


class Resource(Record):
    """One resource. What is assigned to its fields is kept here until `client.update(resource, resource)`."""

    __slots__ = ()

    id: str
    type: str
    links: Record
    actions: Record

    def __setattr__(self, name: str, value: Any) -> None:
        vars(self)[name] = value

    def __getattr__(self, name: str) -> Any:
        # Only asked for what is no field.
        links, actions = vars(self).get("links"), vars(self).get("actions")
        stem, _, kind = name.rpartition("_")
        if isinstance(links, Record) and kind != "action":
            link = links.get(name) or (links.get(stem) if kind == "link" else None)
            if link is not None:
                return partial(self._owner.follow, link)
        if isinstance(actions, Record) and kind != "link":
            action = name if name in actions else stem if kind == "action" and stem in actions else None
            if action is not None:
                return partial(self._owner.action, self, action)
        possible = ", ".join(sorted(actions)) if isinstance(actions, Record) and len(actions) else "none"
        raise AttributeError(f"{self._words()} has no field, link or action {name!r} now (actions: {possible})")

    def _words(self) -> str:
        return f"{vars(self).get('type')} {vars(self).get('id')}"

    def __dir__(self) -> list[str]:
        more = [*vars(self).get("links", ()), *vars(self).get("actions", ())]
        return sorted({*super().__dir__(), *map(str, more)})

    def __repr__(self) -> str:
        words = [self._words(), *(str(self.get(name)) for name in ("name", "state") if self.get(name))]
        return f"<{' '.join(words)}>"


class Collection(Fields, Sequence[Resource]):
    """A page of a list: a sequence of its rows. `next()` is the page after it; `client.iterate` goes over all of them."""

    __slots__ = ()

    data: list[Resource]
    pagination: Record | None

    @overload
    def __getitem__(self, index: int) -> Resource: ...
    @overload
    def __getitem__(self, index: slice) -> list[Resource]: ...
    def __getitem__(self, index: int | slice) -> Resource | list[Resource]:
        return self.data[index]

    def __iter__(self) -> Iterator[Resource]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def next_link(self) -> str | None:
        """The next page's address; `None` at the last one."""
        pagination = vars(self).get("pagination")
        return pagination.get("next") if isinstance(pagination, Record) else None

    def next(self) -> Any:
        """The next page, awaited with an `AsyncClient`; an `AttributeError` at the last one, as `next_link()` tells before."""
        link = self.next_link()
        if link is None:
            raise AttributeError("this is the last page")
        return self._owner.follow(link)

    def __repr__(self) -> str:
        return f"<{len(self.data)} of {vars(self).get('resourceType')}{', and more' if self.next_link() else ''}>"


def build(value: Any, owner: Owner) -> Any:
    """An answer's JSON as objects."""
    if isinstance(value, Mapping):
        if value.get("type") == "collection" and isinstance(value.get("data"), list):
            return Collection(value, owner)
        if isinstance(value.get("type"), str) and isinstance(value.get("links"), Mapping):
            return Resource(value, owner)
        return Record(value, owner)
    if isinstance(value, list):
        return [build(one, owner) for one in value]
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Fields):
        return value.to_dict()
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value


def outgoing(value: Any) -> Any:
    """A value as it is sent: a resource is its id, a date is in UTC."""
    if isinstance(value, Resource):
        return value.id
    if isinstance(value, Fields):
        return {name: outgoing(one) for name, one in vars(value).items()}
    if isinstance(value, Mapping):
        return {str(name): outgoing(one) for name, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [outgoing(one) for one in value]
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return value


def body_of(bodies: Sequence[Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """A body from whole resources or maps, and fields by name, which go before. Links and actions are nobody's to write."""
    body: dict[str, Any] = {}
    for given in bodies:
        source = vars(given) if isinstance(given, Fields) else given
        body.update({name: outgoing(value) for name, value in source.items() if name not in ("links", "actions")})
    body.update({name: outgoing(value) for name, value in fields.items()})
    return body
