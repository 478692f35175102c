"""The body of a webhook: `{type, timestamp, data}`, below 20 kB whatever is in it.

What it never does: fail for what somebody else put into `data`; an outcome is told even if cut short.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from telephony.store.records import OutboxRecord

MAX_BODY: Final = 20_000
MAX_SKIPPED: Final = 50
_SHORT: Final = 256
_MAX_SHORT_FIELDS: Final = 32


def body_of(record: OutboxRecord, skipped: Sequence[OutboxRecord] = ()) -> bytes:
    """Return the JSON, in ASCII.

    `timestamp` is when it happened. `skipped` names the resource's earlier webhooks that were given up since
    the last one that was delivered. Where the whole is over `MAX_BODY` bytes, `data` keeps only its
    short plain fields and says `truncated: true`.
    """
    body: dict[str, Any] = {"type": record.type, "timestamp": iso(record.created_at), "data": record.payload}
    if skipped:
        body["skipped"] = [{"id": one.id, "type": one.type} for one in skipped[-MAX_SKIPPED:]]
    encoded = _json(body)
    if len(encoded) > MAX_BODY:
        encoded = _json({**body, "data": _cut_short(record.payload)})
    return encoded


def iso(moment: int) -> str:
    """Milliseconds since the epoch as ISO 8601 in UTC: `2026-01-31T12:00:00.000Z`."""
    return datetime.fromtimestamp(moment / 1_000, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _cut_short(data: Mapping[str, Any]) -> dict[str, Any]:
    plain = {
        name: value
        for name, value in data.items()
        if (value is None or isinstance(value, bool | int | float | str))
        and len(_json({name: value})) <= _SHORT
    }
    return {**dict(list(plain.items())[:_MAX_SHORT_FIELDS]), "truncated": True}
