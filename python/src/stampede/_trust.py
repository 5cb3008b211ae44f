"""Whom to trust: an authority's certificate, or its fingerprint alone.

An agent shows its authority's certificate behind its own. With a pin the chain is looked at on a connection over which nothing is
sent; the certificate with that SHA-256 is then the only authority for all that follows, which checks names and times as usual.
"""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ._errors import ClientApiError, Unreachable, told
from ._settings import Settings


def context(settings: Settings, limit: float = 10.0) -> ssl.SSLContext | None:
    """For TLS to these hosts; `None` where there is none.

    Raises:
        ClientApiError: an authority that is none, or none that the pin is of.
        Unreachable: no host could be asked for the pin's certificate.
    """
    if not any(host.startswith("https:") for host in settings.hosts):
        return None
    try:
        if settings.ca is None and settings.pin is None:
            return ssl.create_default_context()
        return ssl.create_default_context(cadata=_pinned(settings, limit) if settings.pin else _authority(settings.ca or ""))
    except ssl.SSLError as error:
        raise ClientApiError(f"ca has no certificate that can be read ({error}); give what `stampede ca show` prints") from error


def _authority(ca: str) -> str:
    if "-----BEGIN" in ca:
        return ca
    try:
        return Path(ca).expanduser().read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise ClientApiError(f"ca: {ca} cannot be read: {error}") from error


def _pinned(settings: Settings, limit: float) -> str:
    wanted = re.sub(r"^sha-?256[:=]|[:\s]", "", (settings.pin or "").strip().lower())
    if not re.fullmatch(r"[0-9a-f]{64}", wanted):
        raise ClientApiError("pin is no SHA-256; give the 64 digits that `stampede ca show --list` prints")
    failed: list[str] = []
    for host in settings.hosts:
        try:
            shown = _chain(host, limit)
        except OSError as error:
            failed.append(f"{host}: {told(error)}")
            continue
        for certificate in shown:
            if hashlib.sha256(certificate).hexdigest() == wanted:
                return ssl.DER_cert_to_PEM_cert(certificate)
        raise ClientApiError(f"{host} is not of the cluster with the authority {wanted[:16]}…: check pin, and the url")
    raise Unreachable(f"no host could be asked for its certificates: {'; '.join(failed)}", sent=False)


def _chain(host: str, limit: float) -> list[bytes]:
    parts = urlsplit(host)
    looking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Only to look at what is shown: nothing is sent, and nothing is believed but the pin's certificate.
    looking.check_hostname = False
    looking.verify_mode = ssl.CERT_NONE
    address = (parts.hostname or "", parts.port or 443)
    with socket.create_connection(address, limit) as plain, looking.wrap_socket(plain, server_hostname=parts.hostname) as secured:
        return [_der(one) for one in _shown(secured)]


def _shown(secured: ssl.SSLSocket) -> list[Any]:
    """The certificates that the other side showed: Python's own since 3.13, inside it since 3.10."""
    ask: Any = getattr(secured, "get_unverified_chain", None) or getattr(
        getattr(secured, "_sslobj", None), "get_unverified_chain", None
    )
    if ask is None:
        raise ClientApiError("pin needs Python 3.10 or later; give ca")
    return list(ask() or ())


def _der(certificate: Any) -> bytes:
    if isinstance(certificate, bytes):
        return certificate
    return ssl.PEM_cert_to_DER_cert(certificate.public_bytes())
