"""The live schemas: which types there are, and which methods follow from them.

`create_container` is there where the schema of `container` takes POST on its collection; `create_ipAddress` is `create_ip_address`
too. What an account may not see has no schema, and so no method.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ._errors import ClientApiError
from ._record import Collection, Resource

# Prefix of the method, the schema's list of methods, the one that has to be in it.
BINDINGS = (
    ("list", "collectionMethods", "GET"),
    ("iterate", "collectionMethods", "GET"),
    ("by_id", "collectionMethods", "GET"),
    ("create", "collectionMethods", "POST"),
    ("update_by_id", "resourceMethods", "PUT"),
)


def snake_case(name: str) -> str:
    """`ipAddress` as `ip_address`."""
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


@dataclass(frozen=True)
class Schemas:
    """All schemas that the account sees, by type."""

    types: dict[str, Resource]
    # What a client's method is: which of its own methods, and for which type.
    methods: dict[str, tuple[str, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, answer: object) -> Schemas:
        """From the answer of `/v1/schemas`."""
        if not isinstance(answer, Collection):
            raise ClientApiError("the address does not answer with schemas; give the API's own, https://HOST:9080")
        types = {schema.id: schema for schema in answer if schema.type == "schema"}
        return cls(types, dict(_methods(types)))

    def collection(self, type: str) -> str:
        """Where a type's collection is."""
        schema = self.types.get(type)
        link = schema.links.get("collection") if schema is not None else None
        if link is None:
            raise ClientApiError(f"{type!r} is no type that can be listed here{nearest(type, self.types)}")
        return str(link)

    def check_filters(self, type: str, filters: dict[str, object]) -> None:
        """For strict clients: the API itself ignores a filter that it does not know, and answers with everything."""
        schema = self.types.get(type)
        known = {"limit", "marker", "sort", "order", "include"}
        for name, one in (schema.get("collectionFilters") or {}).items() if schema is not None else ():
            known |= {name, *(f"{name}_{modifier}" for modifier in one.get("modifiers") or ())}
        for name in filters:
            if name not in known:
                raise ClientApiError(f"{type} cannot be searched by {name!r}{nearest(name, known)}")


def _methods(types: dict[str, Resource]) -> Iterator[tuple[str, tuple[str, str]]]:
    for name, schema in types.items():
        if schema.links.get("collection") is None:
            continue
        for prefix, where, needed in BINDINGS:
            if needed in (schema.get(where) or ()):
                for variant in {name, snake_case(name)}:
                    yield f"{prefix}_{variant}", (prefix, name)


def nearest(word: str, known: object) -> str:
    """`; did you mean …?` where something is near."""
    found = difflib.get_close_matches(word, list(known), n=1)  # type: ignore[call-overload]
    return f"; did you mean {found[0]!r}?" if found else ""
