"""Problems: every error as RFC 9457 `application/problem+json`.

What it never does: show an exception's text that was not written for a stranger.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from telephony.errors import (
    Conflict,
    DestinationNotAllowed,
    IdempotencyConflict,
    IdempotencyMismatch,
    InputError,
    InvalidNumber,
    NotFound,
    NotPermitted,
    Overloaded,
    PbxError,
    RateLimited,
    SpeechError,
    StoreError,
    TelephonyError,
    UnknownLocale,
)

MEDIA_TYPE: Final = "application/problem+json"

_KINDS: Final[tuple[tuple[type[TelephonyError], int, str, str], ...]] = (
    (NotFound, 404, "not-found", "No such resource"),
    (IdempotencyMismatch, 422, "idempotency-mismatch", "The Idempotency-Key belongs to another request"),
    (InvalidNumber, 422, "invalid-number", "Not a phone number that can be dialled"),
    (UnknownLocale, 422, "unknown-locale", "No language pack for this locale"),
    (InputError, 422, "invalid-input", "The request cannot be used as it is"),
    (IdempotencyConflict, 409, "idempotency-conflict", "The first request is still being answered"),
    (DestinationNotAllowed, 403, "destination-not-allowed", "This number may not be called"),
    (NotPermitted, 403, "not-permitted", "This key does not stretch so far"),
    (RateLimited, 429, "rate-limited", "Too many, too soon"),
    (Conflict, 409, "conflict", "Not in this state"),
    (Overloaded, 503, "overloaded", "Too much at once"),
    (StoreError, 503, "store-unavailable", "Nothing can be stored at the moment"),
    (PbxError, 503, "pbx-unavailable", "The PBX cannot be reached at the moment"),
    (SpeechError, 503, "speech-unavailable", "Nothing can be spoken at the moment"),
)
"""First match wins: from the narrow to the wide."""

_UNSAID: Final = (StoreError, PbxError, SpeechError)
"""Errors whose text names hosts and paths: it is for the log, an app is told the kind alone."""

KINDS: Final[Mapping[str, tuple[int, str]]] = {
    "invalid-body": (400, "The body cannot be read"),
    "invalid-json": (400, "The body is not JSON"),
    "unauthorized": (401, "A key is needed"),
    "method-not-allowed": (405, "This method is not served here"),
    "request-timeout": (408, "The body came too slowly"),
    "too-large": (413, "The body is too large"),
    "expectation-failed": (417, "This expectation is not met here"),
    "unsupported-media-type": (415, "The body must be JSON"),
    "internal-error": (500, "Something went wrong inside"),
    **{name: (status, title) for _, status, name, title in _KINDS},
}
"""Every kind of problem: its status and its title."""

RETRY_SECONDS: Final = 5
INTERNAL_DETAIL: Final = "The log of the controller says why, under the request id"


def problem(
    kind: str, detail: str, *, headers: Mapping[str, str] | None = None, **members: Any
) -> web.Response:
    """Make a response; `members` are extensions such as `errors`."""
    status, title = KINDS[kind]
    body = {"type": f"/docs#{kind}", "title": title, "status": status, "detail": detail, **members}
    return web.json_response(body, status=status, headers=headers, content_type=MEDIA_TYPE)


def fault(field: str, what: str, mend: str) -> dict[str, str]:
    """One entry of `errors`: which field, what is wrong, what would be accepted."""
    return {"field": field, "problem": what, "mend": mend}


def problem_of(error: TelephonyError) -> web.Response:
    """Make the response that an error of ours stands for."""
    found = next((row for row in _KINDS if isinstance(error, row[0])), None)
    if found is None:
        return problem("internal-error", INTERNAL_DETAIL)
    _, status, name, title = found
    if isinstance(error, InputError):
        return problem(name, str(error), errors=[fault(error.field, error.problem, error.mend)])
    headers = {}
    if isinstance(error, RateLimited) and error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    elif status == 503:
        headers["Retry-After"] = str(RETRY_SECONDS)
    detail = f"{title}; try again shortly" if isinstance(error, _UNSAID) else str(error)
    return problem(name, detail, headers=headers)
