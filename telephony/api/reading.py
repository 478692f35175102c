"""From a request's bytes to a checked model: JSON, strict, every fault with its field and mend.

What it never does: accept a key twice, a number that is none, or something it does not know.
"""

from __future__ import annotations

import difflib
import json
from typing import Any, Final, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from telephony.api.problems import fault, problem

MAX_BODY: Final = 64 * 1024
MAX_DEPTH: Final = 32

Model = TypeVar("Model", bound=BaseModel)


class Refusal(Exception):
    """A request that gets this response instead of being carried out."""

    def __init__(self, response: web.Response) -> None:
        super().__init__(response.status)
        self.response = response


async def read_model(
    request: web.Request, model: type[Model], *, optional: bool = False
) -> tuple[Model, bytes]:
    """Return the body as `model`, and its bytes. `optional`: no body at all is `{}`."""
    raw = await request.read()
    if not raw and optional:
        return _validated(model, {}), raw
    if request.content_type != "application/json":
        raise Refusal(
            problem("unsupported-media-type", "Send the body as JSON with Content-Type: application/json")
        )
    return _validated(model, _parse(raw)), raw


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        text = raw.decode()
        if _depth(text) > MAX_DEPTH:
            raise Refusal(problem("invalid-json", f"The body is nested deeper than {MAX_DEPTH} levels"))
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise Refusal(problem("invalid-json", f"The body is not JSON: {error.msg} at {where}")) from None
    except UnicodeDecodeError:
        raise Refusal(problem("invalid-json", "The body is not UTF-8")) from None
    except ValueError as error:
        raise Refusal(problem("invalid-json", str(error))) from None
    if not isinstance(value, dict):
        raise Refusal(problem("invalid-json", "The body must be a JSON object"))
    return value


def _depth(text: str) -> int:
    """Count how deep brackets may nest at most; brackets inside strings only make it stricter."""
    deepest = level = 0
    for letter in text:
        if letter in "[{":
            level += 1
            deepest = max(deepest, level)
        elif letter in "]}":
            level -= 1
    return deepest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("The body names a key twice")
    return values


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _validated(model: type[Model], values: dict[str, Any]) -> Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = [_fault(model, detail) for detail in error.errors()]
        detail = "; ".join(f"{one['field']} {one['problem']}" for one in faults)
        raise Refusal(problem("invalid-input", detail, errors=faults)) from None


def _fault(model: type[BaseModel], detail: ErrorDetails) -> dict[str, str]:
    field = ".".join(str(part) for part in detail["loc"])[:128] or "body"
    kind = detail["type"]
    known = list(model.model_fields)
    if kind == "extra_forbidden":
        close = difflib.get_close_matches(field, known, n=1)
        mend = f"Did you mean {close[0]}?" if close else f"Known: {', '.join(known) or 'none'}"
        return fault(field, "is not a field of this request", mend)
    if kind == "missing":
        return fault(field, "is missing", f"Send {field}")
    message = str(detail["msg"])
    return fault(field, "is not usable", message[:1].upper() + message[1:])
