"""What can go wrong, as exceptions.

```text
StampedeError
├── ClientApiError          the client's own: asked for what is not there, settings that do not go together
│   ├── Untrusted           the host's certificate is of no authority that this client trusts
│   ├── TransitionError     the resource's last step failed; `.resource`
│   └── WaitTimeout         it did not come to rest in time; `.resource` (a TimeoutError too)
├── Unreachable             no answer, from any host that was tried (a ConnectionError too)
└── ApiError                the API's answer is an error: `.status`, `.code`, `.message`, `.detail`, `.field`
    └── by status: BadRequest 400 … Unavailable 503; RevisionGone for events that are no more
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._record import Record, Resource


class StampedeError(Exception):
    """Whatever this library raises."""


class ClientApiError(StampedeError):
    """What the client itself refuses or could not wait for; nothing is wrong with the API's answer."""


class Untrusted(ClientApiError):
    """TLS with a host whose certificate is not of the authority that is trusted, or not of that host, or whose time is over."""


class TransitionError(ClientApiError):
    """A resource's last step failed; `resource` is how it is now, its `transitioningMessage` says why."""

    def __init__(self, resource: Resource) -> None:
        self.resource = resource
        why = resource.get("transitioningMessage") or f"transitioning is {resource.get('transitioning')}"
        super().__init__(f"{resource.type} {resource.id} is {resource.get('state')}: {why}")


class WaitTimeout(ClientApiError, TimeoutError):
    """A resource did not come to rest in time; `resource` is how it was last."""

    def __init__(self, resource: Resource, seconds: float) -> None:
        self.resource = resource
        message = resource.get("transitioningMessage") or "no word why"
        super().__init__(f"{resource.type} {resource.id} is still {resource.get('state')} after {seconds:.0f} s: {message}")


class Unreachable(StampedeError, ConnectionError):
    """No answer. `sent` tells whether the request may have been done all the same."""

    def __init__(self, message: str, *, sent: bool) -> None:
        self.sent = sent
        super().__init__(message)


class ApiError(StampedeError):
    """An answer that is no success.

    `error` is the whole answer as the API gave it; `field` is the one that is wrong, where one is.
    """

    def __init__(self, error: Record, status: int) -> None:
        self.error = error
        self.status = status
        self.code: str = str(error.get("code") or "")
        self.message: str | None = error.get("message")
        self.detail: str | None = error.get("detail")
        self.field: str | None = error.get("fieldName")
        words = [str(status), self.code]
        if self.field:
            words.append(f"({self.field})")
        told = [text for text in (self.message, self.detail) if text]
        super().__init__(" ".join(filter(None, words)) + (": " + "; ".join(told) if told else ""))

    @staticmethod
    def of(error: Record, status: int) -> ApiError:
        """The error of the class that its status has."""
        return BY_STATUS.get(status, ApiError)(error, status)


class BadRequest(ApiError):
    """400."""


class Unauthorized(ApiError):
    """401: no key, or one that does not open."""


class Forbidden(ApiError):
    """403: the account may not do that."""


class NotFound(ApiError):
    """404."""


class Conflict(ApiError):
    """409: busy, or a uuid that is taken."""


class RevisionGone(ApiError):
    """410: history does not go back that far; list again, and subscribe without `since`."""


class PreconditionFailed(ApiError):
    """412: it is another version than `if_match` says."""


class Invalid(ApiError):
    """422: `code` says what is wrong, `field` with which field."""


class TooManyRequests(ApiError):
    """429."""


class Unavailable(ApiError):
    """503: the cluster's store cannot be reached."""


BY_STATUS: dict[int, type[ApiError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: RevisionGone,
    412: PreconditionFailed,
    422: Invalid,
    429: TooManyRequests,
    503: Unavailable,
}


def told(error: Any) -> str:
    """An exception in words, also where it has none of its own."""
    return str(error) or type(error).__name__
