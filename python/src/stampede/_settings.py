"""Where the API is, who asks, and whom to trust: from arguments, else from the environment.

| argument | environment | |
|---|---|---|
| `url` | `STAMPEDE_URL` | `https://HOST:9080`; several hosts of a cluster with commas between: the next is asked where one fails |
| `access_key`, `secret_key` | `STAMPEDE_ACCESS_KEY`, `STAMPEDE_SECRET_KEY` | an API key |
| `ca` | `STAMPEDE_CA` | the cluster's authority, as `stampede ca show` prints it: the path of a file, or the text itself |
| `pin` | `STAMPEDE_PIN` | or only its SHA-256, as `stampede ca show --list` prints it |
| `socket` | `STAMPEDE_SOCKET` | root's way in on a host; no key is needed |

The original's names (`CATTLE_URL` and so on) count where ours are not set.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

from ._errors import ClientApiError

PREFIXES = ("STAMPEDE_", "CATTLE_")
NAMES = ("url", "access_key", "secret_key", "ca", "pin", "socket")


@dataclass(frozen=True)
class Settings:
    """Checked settings of a client."""

    # Addresses without a path, the one that is asked first before the others: https://h1:9080.
    hosts: tuple[str, ...]
    # The path of the API at each: /v1.
    path: str = "/v1"
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)
    ca: str | None = None
    pin: str | None = None
    socket: str | None = None

    @classmethod
    def read(cls, url: str | Iterable[str] | None, **given: str | None) -> Settings:
        """From what was given; see the module's text."""
        urls = [one.strip() for one in (url.split(",") if isinstance(url, str) else url or ()) if one.strip()]
        socket = given.get("socket")
        if not urls and socket:
            urls = ["http://localhost"]
        if not urls:
            raise ClientApiError("no address of the API; give url='https://HOST:9080', or set STAMPEDE_URL")
        if socket and len(urls) > 1:
            raise ClientApiError("a socket leads to one host; give one url with it, or none")
        if bool(given.get("access_key")) != bool(given.get("secret_key")):
            raise ClientApiError("a key has two halves; give both access_key and secret_key, or neither")
        split = [_address(one) for one in urls]
        if len({path for _, path in split}) > 1:
            raise ClientApiError("the urls have different paths; give several hosts of one cluster")
        hosts = tuple(host for host, _ in split)
        if any(host.startswith("http:") for host in hosts) and (given.get("ca") or given.get("pin")):
            raise ClientApiError("an authority is for TLS, and this url has none; give https://HOST:9080")
        if given.get("ca") and given.get("pin"):
            raise ClientApiError("give ca or pin, not both")
        return cls(hosts=hosts, path=split[0][1], **{name: value or None for name, value in given.items()})


def _address(url: str) -> tuple[str, str]:
    parts = urlsplit(url if "://" in url else f"https://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ClientApiError(f"{url!r} is no address of an API; give https://HOST:9080")
    if parts.username or parts.password:
        raise ClientApiError("a key does not belong into the url; give access_key and secret_key")
    path = parts.path.rstrip("/")
    # The address of the schemas is one that the original's clients were given, too.
    path = path[: -len("/schemas")] if path.endswith("/schemas") else path
    return urlunsplit((parts.scheme, parts.netloc, "", "", "")), path or "/v1"


def from_environment(
    given: Mapping[str, str | None], prefix: str | None, environment: Mapping[str, str] | None = None
) -> dict[str, str | None]:
    """What was given, the rest from the environment.

    All that the environment adds comes from one prefix: a key is never sent to where another's url leads.
    """
    environment = os.environ if environment is None else environment
    prefixes = PREFIXES if prefix is None else (prefix.upper().rstrip("_") + "_",)
    for one in prefixes:
        found = {name: environment.get(one + name.upper()) for name in NAMES}
        if any(found.values()):
            return _joined(given, found)
    return dict(given)


def _joined(given: Mapping[str, str | None], found: Mapping[str, str | None]) -> dict[str, str | None]:
    if given.get("url") or given.get("socket"):
        # Another way in than the environment's: its other way is not meant.
        found = {name: value for name, value in found.items() if name not in ("url", "socket")}
    elif found.get("url"):
        found = {name: value for name, value in found.items() if name != "socket"}
    if given.get("access_key") or given.get("secret_key"):
        found = {name: value for name, value in found.items() if name not in ("access_key", "secret_key")}
    if given.get("ca") or given.get("pin"):
        found = {name: value for name, value in found.items() if name not in ("ca", "pin")}
    return {name: given.get(name) or found.get(name) for name in NAMES}
