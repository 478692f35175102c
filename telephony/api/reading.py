"""From a request's bytes to a checked model: JSON, strict, every fault with its field and mend.

What it never does: accept a key twice, a number that is none, or something it does not know.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from telephony.api.problems import fault, problem

MAX_BODY: Final = 64 * 1024
MAX_DEPTH: Final = 32
MAX_DIGITS: Final = 64
MAX_FAULTS: Final = 50
"""How many faults are told at once: a body has room for thousands of fields that nobody knows."""

_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
"""A string, or one that is never closed: looked for from each of its quotes, that would cost seconds."""

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
        value = json.loads(text, object_pairs_hook=_unique, parse_int=_number, parse_constant=_no_constant)
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
    """Count how deep brackets nest outside strings: the parser calls itself once a level."""
    deepest = level = 0
    for letter in _STRING.sub("", text):
        if letter in "[{":
            level += 1
            deepest = max(deepest, level)
        elif letter in "]}":
            level -= 1
    return deepest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"The body names the key {name[:64]!r} twice")
        values[name] = value
    return values


def _number(text: str) -> int:
    """Read a whole number of a length that a number can have."""
    if len(text) > MAX_DIGITS:
        raise ValueError(f"A number has more than {MAX_DIGITS} digits")
    return int(text)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _validated(model: type[Model], values: dict[str, Any]) -> Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        found = error.errors()
        faults = [_fault(model, detail) for detail in found[:MAX_FAULTS]]
        detail = "; ".join(f"{one['field']} {one['problem']}" for one in faults)
        if len(found) > MAX_FAULTS:
            detail += f"; and {len(found) - MAX_FAULTS} more"
        raise Refusal(problem("invalid-input", detail, errors=faults)) from None


def _fault(model: type[BaseModel], detail: ErrorDetails) -> dict[str, str]:
    """Say a pydantic fault in the words of somebody who writes an app."""
    field = ".".join(str(part) for part in detail["loc"])[:128] or "body"
    context = detail.get("ctx", {})
    known = [info.alias or name for name, info in model.model_fields.items()]
    match detail["type"]:
        case "extra_forbidden":
            close = difflib.get_close_matches(field, known, n=1)
            hint = f"Did you mean {close[0]}? " if close else ""
            return fault(
                field, "is not a field of this request", f"{hint}Known: {', '.join(known) or 'none'}"
            )
        case "missing":
            return fault(field, "is missing", f"Send {field}")
        case "greater_than_equal" | "less_than_equal" | "greater_than" | "less_than":
            return fault(field, "is out of range", _range(model, field))
        case "string_too_short":
            return fault(field, "is empty", f"Send at least {context['min_length']} character")
        case "string_too_long":
            return fault(field, "is too long", f"Send at most {context['max_length']} characters")
        case "string_pattern_mismatch":
            return fault(field, "holds characters that are not taken", "Send printable ASCII characters")
        case kind if kind in _MENDS:
            return fault(field, "is of another type", _MENDS[kind])
        case _:
            message = str(detail["msg"])
            return fault(field, "is not usable", message[:1].upper() + message[1:])


_MENDS: Final[Mapping[str, str]] = {
    "string_type": "Send a string, in quotes",
    "string_unicode": "Send a string of whole Unicode characters",
    "int_type": "Send a whole number, without quotes",
    "float_type": "Send a number, without quotes",
    "finite_number": "Send a number that is finite",
    "bool_type": "Send true or false, without quotes",
}


def _range(model: type[BaseModel], field: str) -> str:
    """Tell both ends of what a number may be, from the model itself."""
    limits = model.model_json_schema()["properties"][field]
    limits = next((one for one in limits.get("anyOf", ()) if "minimum" in one), limits)
    return f"Send a number from {limits['minimum']} to {limits['maximum']}"
