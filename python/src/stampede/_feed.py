"""Events, apart from how they come: what to ask for, what a line says, when to ask again.

The API tells what changes as one JSON object a line, and says by a ping every five seconds that it lives and how far it is. Whoever
is cut off asks again since there, at whichever host, and misses nothing for as long as the store keeps history (an hour).
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from ._errors import ApiError, RevisionGone, Unauthorized, Unreachable, told
from ._record import Owner, Record
from ._retry import Retry
from ._steps import Ask

# A ping comes every five seconds; after three there is nobody.
SILENCE = 15.0
# The API's own words for an end after which one begins again where one was.
CUT_OFF = frozenset({"SlowReader", "Closing"})
ENDS: dict[str, tuple[type[ApiError], int]] = {"RevisionGone": (RevisionGone, 410), "Unauthorized": (Unauthorized, 401)}


class CutOff(Exception):
    """The stream ends, and goes on elsewhere."""


class Feed:
    """One subscription, over as many connections as it takes."""

    def __init__(
        self, owner: Owner, path: str, names: Iterable[str], include: Iterable[str], since: int | None, retry: Retry
    ) -> None:
        self._owner = owner
        self._path = path
        self._names = tuple(names) or ("resource.change",)
        self._include = tuple(include)
        self._retry = retry
        # The attempts since something last came.
        self._attempts = 0
        self.since = since

    def ask(self) -> Ask:
        """The request of the next connection."""
        self._attempts += 1
        query = [("eventNames", name) for name in self._names] + [("include", name) for name in self._include]
        if self.since is not None:
            query.append(("since", str(self.since)))
        return Ask("POST", f"{self._path}/subscribe", tuple(query), safe=True)

    def heard(self, line: str) -> Record | None:
        """The event that a line is; `None` for what only says that it lives.

        Raises:
            CutOff: to be gone on with by another `ask`.
            ApiError: an end for good.
        """
        if not line.strip():
            return None
        try:
            value = json.loads(line)
        except ValueError as error:
            # Cut in the middle of a line.
            raise CutOff(f"half a line: {line[:80]!r}") from error
        event = Record(value, self._owner)
        if event.get("name") == "error":
            code = str(event.get("code"))
            if code in CUT_OFF:
                raise CutOff(event.get("message") or code)
            kind, status = ENDS.get(code, (ApiError, 500))
            raise kind(event, status)
        self._attempts = 0
        if isinstance(event.get("revision"), int):
            self.since = event.revision
        return None if event.get("name") == "ping" else event

    def pause(self, why: Exception) -> float:
        """Seconds until the next `ask`; `Unreachable` where it was tried often enough without a word from anybody."""
        pause = self._retry.pause(max(self._attempts, 1), 0.0)
        if pause is None:
            raise Unreachable(f"no events any more: {told(why)}", sent=True) from why
        return pause
