"""Structured logs: one line per event, with the ids of the call and the request, never a secret.

What it never does: decide what is logged.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import structlog

SECRET_FIELDS: Final = frozenset(
    {"code", "secret", "password", "key", "authorization", "nonce", "master_key", "body", "digits"}
)
REPLACED: Final = "[not logged]"

_PLAIN: Final = frozenset({str, int, float, bool, type(None)})
"""What nothing can lie inside; asked for first, for it is nearly everything."""


def drop_secrets(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace the value of every field that is named like a secret: the last line of defence."""
    return _without_secrets(event)


def _without_secrets(values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace secrets here and in whatever lies inside; names count in any case."""
    kept: dict[str, Any] = {}
    for name, value in values.items():
        if _is_secret(name):
            kept[name] = REPLACED
        elif type(value) in _PLAIN or not isinstance(value, Mapping):
            kept[name] = value
        else:
            kept[name] = _without_secrets(value)
    return kept


@lru_cache(maxsize=1024)
def _is_secret(name: object) -> bool:
    return str(name).lower() in SECRET_FIELDS


class _Stamp:
    """The moment in UTC (ISO 8601, microseconds); the text of a second is made once."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def __call__(
        self, _logger: object, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        second, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            self._second = second
        event["timestamp"] = f"{self._text}.{nanoseconds // 1000:06d}Z"
        return event


def _json(event: Mapping[str, Any], **options: Any) -> str:
    """A line of JSON. The encoder is made once: structlog's own serializer makes one for each line."""
    return _encoder(options["default"]).encode(event)


@lru_cache(maxsize=1)
def _encoder(default: Callable[[Any], Any]) -> json.JSONEncoder:
    return json.JSONEncoder(default=default)


def set_up_logs(level: str = "info", style: str = "json") -> None:
    """Log to standard error, as JSON lines or for people's eyes (`style="console"`).

    `level` is one of debug, info, warning, error.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(_json)
        if style == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _Stamp(),
            structlog.processors.format_exc_info,
            drop_secrets,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(stream=sys.stderr, level=max(number, logging.WARNING), format="%(message)s")
