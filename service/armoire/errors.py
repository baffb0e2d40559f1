"""Every error that a caller of Armoire can meet. The gRPC status code is an attribute of the class.

ArmoireError
├── InvalidArgument        INVALID_ARGUMENT     a field is not what it should be
│   └── LimitExceeded      INVALID_ARGUMENT     more rows than a published limit
├── NotFound               NOT_FOUND            no such model, version, attribute, prior
├── Overloaded             RESOURCE_EXHAUSTED   the queue is full, or too long for the deadline
│   └── RateLimited        RESOURCE_EXHAUSTED   more rows in a second than the token may ask for
├── DeadlineExceeded       DEADLINE_EXCEEDED    even an idle server could not make it
├── Unavailable            UNAVAILABLE          warming up, draining, or not reachable
├── Unauthenticated        UNAUTHENTICATED      no token, or one that nobody knows
├── PermissionDenied       PERMISSION_DENIED    a known token without the right
├── Internal               INTERNAL             a bug; the traceback is in the server's log
├── DeviceLost             (never on the wire)  the GPU is gone; the server exits with status 1
└── StartError             (never on the wire)  one line on stderr, exit status 2
    ├── BadSettings        a setting that cannot be
    └── BadBundle          a model bundle that cannot be served
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import grpc

__all__ = [
    "ArmoireError",
    "BadBundle",
    "BadSettings",
    "DeadlineExceeded",
    "DeviceLost",
    "Internal",
    "InvalidArgument",
    "LimitExceeded",
    "NotFound",
    "Overloaded",
    "PermissionDenied",
    "RateLimited",
    "StartError",
    "Unauthenticated",
    "Unavailable",
]


def quoted(name: str) -> str:
    """Show a name that a caller sent, on one line; a long one is cut, since gRPC drops answers over 8 KB."""
    return ascii(name if len(name) <= 100 else f"{name[:100]}...")


class ArmoireError(Exception):
    """The root. ``str(error)`` is one line: what came, what was wanted, what to do next."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN
    #: The label of armoire_rejected_total; empty for an error that is not a refusal of good work.
    reason: str = ""
    #: google.rpc.ErrorInfo.reason, by which a client tells a class from its parent of the same code.
    info: ClassVar[str] = ""


class InvalidArgument(ArmoireError):
    """A field of the request is not what it should be."""

    code = grpc.StatusCode.INVALID_ARGUMENT

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field


class LimitExceeded(InvalidArgument):
    """More rows than a published limit allows."""

    reason = "limit"
    info = "LIMIT_EXCEEDED"


class NotFound(ArmoireError):
    """A name that the server does not know; the message lists those it does."""

    code = grpc.StatusCode.NOT_FOUND

    def __init__(self, message: str, names: Iterable[str] | None = None) -> None:
        if names is not None:
            message = f"{message}; there is {', '.join(names) or 'none'}"
        super().__init__(message)


class Overloaded(ArmoireError):
    """The server has more work than it can answer in time; ask again after ``retry_after`` seconds.

    None says that it was no queue but gRPC's own refusal of a message that is too large. ``reason`` is what is full:
    queue (in front of a graph), bytes (in flight) or files (images that wait to be read or written).
    """

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "queue"

    def __init__(self, message: str, retry_after: float | None = None, reason: str = "") -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.reason = reason or type(self).reason


class RateLimited(Overloaded):
    """More rows in a second than the token may ask for; the server may well be idle."""

    reason = "rate"
    info = "RATE_LIMITED"


class DeadlineExceeded(ArmoireError):
    """The call's deadline is over, or shorter than the measured cost of its work on an idle server."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "deadline"


class Unavailable(ArmoireError):
    """The server is not ready yet, is draining, or cannot be reached; another replica may answer."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "unavailable"


class Unauthenticated(ArmoireError):
    """The call brought no token, or one that the server does not know."""

    code = grpc.StatusCode.UNAUTHENTICATED
    reason = "unauthenticated"


class PermissionDenied(ArmoireError):
    """The token is known but has no right to this operation."""

    code = grpc.StatusCode.PERMISSION_DENIED
    reason = "permission"


class Internal(ArmoireError):
    """A bug in the server; its log has the traceback under the request's id."""

    code = grpc.StatusCode.INTERNAL


class DeviceLost(ArmoireError):
    """The device does not run anything any more: only another process can do better."""


class StartError(ArmoireError):
    """The server cannot start: one line on stderr, exit status 2."""

    def __init__(self, message: str) -> None:
        # What a manifest, a setting or a library says may hold anything.
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message))


class BadSettings(StartError):
    """A setting is unknown or cannot be."""


class BadBundle(StartError):
    """A model bundle is incomplete, damaged, or not what its manifest says."""
