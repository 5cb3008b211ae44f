"""What both clients have to do with `httpx`: addresses, errors, and which host is asked."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import httpx

from ._errors import StampedeError, Unreachable, Untrusted, told
from ._feed import SILENCE
from ._retry import TEMPORARY
from ._settings import Settings
from ._steps import Answer, Ask

# To make a connection. A host that is gone takes no longer.
CONNECT = 5.0
NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)


class Hosts:
    """The hosts of the cluster, one of which is asked until it does not answer."""

    def __init__(self, settings: Settings) -> None:
        self._hosts = settings.hosts
        self._at = 0

    def url(self, ask: Ask) -> tuple[str, str]:
        """The host that is to be asked, and the whole address."""
        host = self._hosts[self._at]
        separator = "&" if "?" in ask.target else "?"
        return host, host + ask.target + (separator + urlencode(ask.query) if ask.query else "")

    def failed(self, host: str, error: httpx.RequestError) -> StampedeError:
        """What its silence is; the next one is asked then."""
        self._next(host)
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return Untrusted(
                f"{host}: {error}; give the cluster's authority as ca= (`stampede ca show`) or pin= (`stampede ca show --list`), "
                "and the host by a name that its certificate has"
            )
        return Unreachable(f"{host} does not answer: {told(error)}", sent=not isinstance(error, NOT_SENT))

    def answered(self, host: str, response: httpx.Response) -> Answer:
        """What it said."""
        if response.status_code in TEMPORARY:
            self._next(host)
        return Answer(response.status_code, {name.lower(): value for name, value in response.headers.items()}, response.text)

    def _next(self, host: str) -> None:
        # Only by the first of several threads that see the same host fail.
        if self._hosts[self._at] == host:
            self._at = (self._at + 1) % len(self._hosts)


def options(
    settings: Settings, context: ssl.SSLContext | None, headers: Mapping[str, str] | None, timeout: float
) -> dict[str, Any]:
    """For `httpx.Client` and `httpx.AsyncClient`."""
    auth = None
    if settings.access_key is not None and settings.secret_key is not None:
        auth = httpx.BasicAuth(settings.access_key, settings.secret_key)
    return {
        "auth": auth,
        "headers": {"accept": "application/json", **(headers or {})},
        "timeout": httpx.Timeout(timeout, connect=CONNECT),
        "verify": context or ssl.create_default_context(),
    }


def streaming(ask: Ask, url: str) -> dict[str, Any]:
    """For a stream that says something at least every `SILENCE` seconds."""
    timeout = httpx.Timeout(SILENCE, connect=CONNECT)
    return {"method": ask.method, "url": url, "headers": dict(ask.headers), "timeout": timeout}
