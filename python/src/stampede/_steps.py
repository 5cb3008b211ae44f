"""What a client does, apart from how: as steps that somebody else takes, waiting or not.

An operation is a generator. It yields an `Ask`, is sent the `Answer` or thrown `Unreachable`; or yields a `Pause`. What it
returns is its result. `Client` and `AsyncClient` each have one function that takes such steps.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, Union

from ._errors import ApiError, Unreachable
from ._record import Owner, Record, build
from ._retry import TEMPORARY, Retry

Result = TypeVar("Result")


@dataclass(frozen=True)
class Ask:
    """A request; `target` is path and query."""

    method: str
    target: str
    query: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    # Whether it may be asked again when it is not known whether it was done.
    safe: bool = False


@dataclass(frozen=True)
class Pause:
    """Nothing for some seconds."""

    seconds: float


@dataclass(frozen=True)
class Answer:
    """What came: header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def retry_after(self) -> float | None:
        """Seconds, where it says so as a number."""
        said = self.headers.get("retry-after", "")
        return float(said) if said.isascii() and said.isdigit() else None


Steps = Generator[Union[Ask, Pause], Any, Result]


def ask(request: Ask, retry: Retry) -> Steps[Answer]:
    """The answer to a request, asked again where that is worth it and does no harm."""
    begun = time.monotonic()
    made = 0
    while True:
        made += 1
        try:
            answer: Answer = yield request
        except Unreachable as error:
            again = request.safe or not error.sent
            pause = retry.pause(made, time.monotonic() - begun) if again else None
            if pause is None:
                raise
        else:
            # 429: it was not done, whatever it is.
            again = answer.status == 429 or (request.safe and answer.status in TEMPORARY)
            pause = retry.pause(made, time.monotonic() - begun, answer.retry_after) if again else None
            if pause is None:
                return answer
        yield Pause(pause)


def read(answer: Answer, owner: Owner) -> Any:
    """An answer's resource, collection or whatever it is; `ApiError` where it is one."""
    good = 200 <= answer.status < 300
    try:
        value = build(json.loads(answer.text), owner) if answer.text else None
    except ValueError as error:
        value = Record({"message": f"no JSON but {answer.text[:200]!r}"}, owner)
        if good:
            raise ApiError.of(value, answer.status) from error
    if good:
        return value
    raise ApiError.of(value if isinstance(value, Record) else Record({}, owner), answer.status)
