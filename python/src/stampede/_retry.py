"""When a request is asked again, and after how long."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

# What a proxy or an agent says that could not do it just now.
TEMPORARY = frozenset({502, 503, 504})


@dataclass(frozen=True)
class Retry:
    """How often and how long a request is asked again.

    `attempts` in all; before each further one a random time up to `first` seconds, twice that each time, at most `longest`; none
    begins `within` seconds after the first. A request that may have been done is asked again only where that does no harm.
    """

    attempts: int = 5
    first: float = 0.1
    longest: float = 5.0
    within: float = 60.0
    random: random.Random = field(default_factory=random.Random, repr=False, compare=False)

    def pause(self, made: int, elapsed: float, asked: float | None = None) -> float | None:
        """Seconds until the next attempt after `made` of them; `None` where there is to be none.

        `asked` is what the answer says in `Retry-After`.
        """
        if made >= self.attempts:
            return None
        pause = self.random.uniform(0, min(self.longest, self.first * 2.0 ** (made - 1)))
        if asked is not None:
            pause += asked
        return pause if elapsed + pause <= self.within else None


NEVER = Retry(attempts=1)
