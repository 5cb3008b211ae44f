"""The API of Stampede, bound from its live schemas.

    import stampede

    client = stampede.Client(url="https://h1:9080", access_key="…", secret_key="…", ca="ca.pem")     # or stampede.from_env()
    c = client.create_container(imageUuid="docker:busybox", command="httpd", commandArgs=["-f"])
    c = client.wait_success(c)
    print(c.state, c.primaryIpAddress, [host.name for host in c.hosts()])
    c = client.wait_success(c.stop())
    client.delete(c)

It is written as code for the original's library (`cattle` on `gdapi-python`) is. `AsyncClient` is the same for `asyncio`.
"""

from ._errors import (
    ApiError,
    BadRequest,
    ClientApiError,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    PreconditionFailed,
    RevisionGone,
    StampedeError,
    TooManyRequests,
    TransitionError,
    Unauthorized,
    Unavailable,
    Unreachable,
    Untrusted,
    WaitTimeout,
)
from ._record import Collection, Record, Resource
from ._retry import NEVER, Retry
from ._schemas import Schemas
from .aio import AsyncClient, AsyncSubscription
from .aio import from_env as async_from_env
from .client import Client, Subscription, from_env

__version__ = "0.1.0"

__all__ = [
    "NEVER",
    "ApiError",
    "AsyncClient",
    "AsyncSubscription",
    "BadRequest",
    "Client",
    "ClientApiError",
    "Collection",
    "Conflict",
    "Forbidden",
    "Invalid",
    "NotFound",
    "PreconditionFailed",
    "Record",
    "Resource",
    "Retry",
    "RevisionGone",
    "Schemas",
    "StampedeError",
    "Subscription",
    "TooManyRequests",
    "TransitionError",
    "Unauthorized",
    "Unavailable",
    "Unreachable",
    "Untrusted",
    "WaitTimeout",
    "async_from_env",
    "from_env",
]
