"""Logs: one JSON line an event, the ids that are bound, and nothing that is named like a secret."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import structlog

from telephony.logs import REPLACED, SECRET_FIELDS, drop_secrets, set_up_logs


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Leave structlog as other tests expect it."""
    yield
    structlog.reset_defaults()


def test_an_event_is_one_json_line_with_what_is_bound(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs("info", "json")
    with structlog.contextvars.bound_contextvars(request_id="req_1"):
        structlog.get_logger("x").info("call.placed", call="call_1", text="two\nlines")
    line, rest = capsys.readouterr().err.split("\n", 1)
    assert rest == ""
    event = json.loads(line)
    assert (event["event"], event["level"]) == ("call.placed", "info")
    assert (event["request_id"], event["call"], event["text"]) == ("req_1", "call_1", "two\nlines")
    assert event["timestamp"].endswith("Z")


def test_less_than_the_level_is_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs("warning", "json")
    structlog.get_logger("x").info("quiet")
    structlog.get_logger("x").warning("loud")
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["loud"]


@pytest.mark.parametrize("style", ["json", "console"])
@pytest.mark.parametrize("name", sorted({*SECRET_FIELDS, "Authorization"}))
def test_what_is_named_like_a_secret_is_not_logged(
    capsys: pytest.CaptureFixture[str], style: str, name: str
) -> None:
    set_up_logs("info", style)
    structlog.get_logger("x").info("checked", **{name: "4711"}, headers={name: "4711"})
    told = capsys.readouterr().err
    assert "checked" in told
    assert "4711" not in told
    assert told.count(REPLACED) == 2


def test_the_rest_is_left_as_it_is() -> None:
    event = {"event": "x", "codec": "ulaw", "keys": 3, "inner": {"a": 1}}
    assert drop_secrets(None, "info", dict(event)) == event


def test_an_exception_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs("info", "json")
    try:
        json.loads("broken")
    except ValueError:
        structlog.get_logger("x").exception("failed")
    assert "JSONDecodeError: Expecting value" in json.loads(capsys.readouterr().err)["exception"]
