"""The command line, run as a program against an HTTP server that plays the controller."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import resource
import signal
import sys
import tomllib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from telephony.api.keys import hash_key

SECONDS = 30.0
KEY = "tk_a-key-of-the-tests"
VERIFICATION, CALL = "vrf_01", "call_01"
WEBHOOK = {
    "id": "msg_01",
    "resource": CALL,
    "sequence": 1,
    "type": "call.completed",
    "status": "dead",
    "created_at": "2026-01-05T10:00:00.000Z",
    "due_at": None,
    "tries": 10,
    "delivered_at": None,
    "dead_at": "2026-01-08T10:00:00.000Z",
    "last_error": "answered 500",
}


TRUNK = {
    "name": "main",
    "endpoint": "carrier",
    "state": "full",
    "why": "30 of 30 lines in use",
    "limit": 30,
    "configured": 30,
    "in_use": 30,
    "outbound": 20,
    "inbound": 8,
    "foreign": 2,
    "above": 0,
    "calls_per_second": 2.5,
    "burst": 5,
    "draining": False,
    "drained_at": None,
    "saturated": True,
    "saturated_at": "2026-01-05T10:00:00.000Z",
    "breaker": {"state": "closed", "failures": 0, "until": None, "reason": None},
}


def moment(seconds: float = 0.0) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


@dataclass
class Ended:
    code: int
    out: str
    err: str


@dataclass
class Controller:
    """A controller's HTTP API, as far as the command line asks it; `refusal` answers everything."""

    url: str = ""
    status: str = "completed"
    refusal: tuple[int, dict[str, Any], dict[str, str]] | None = None
    text: str | None = None
    asked: list[tuple[str, str, Any, str]] = field(default_factory=list)
    checks_left: int = 3
    looks: list[dict[str, Any]] = field(default_factory=list)
    status_after_cancel: str = "canceled"

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.json() if request.can_read_body else None
        self.asked.append((request.method, request.path_qs, body, request.headers.get("Authorization", "")))
        if self.text is not None:
            return web.Response(text=self.text)
        if self.refusal is not None:
            status, problem, headers = self.refusal
            return web.json_response(problem, status=status, headers=headers)
        if request.path.startswith("/v1/trunks"):
            return web.json_response({"items": [TRUNK]} if request.path == "/v1/trunks" else TRUNK)
        if request.path.endswith("/check"):
            valid = body["code"] == "123456"
            self.checks_left -= not valid
            state = "approved" if valid else "pending" if self.checks_left else "max_attempts_reached"
            return web.json_response(
                {"id": VERIFICATION, "status": state, "valid": valid, "checks_left": self.checks_left}
            )
        if request.path == "/v1/webhook-deliveries":
            return web.json_response({"items": [WEBHOOK], "next_cursor": "older_1"})
        if request.path.startswith("/v1/webhook-deliveries/"):
            return web.json_response({**WEBHOOK, "status": "pending"})
        if request.path_qs == "/v1/calls?dry_run=true":
            verdict = {"to": "+8613800000001", "locale": "zh-CN", "trunk": "carrier"}
            verdict |= {"trunk_reason": "carrier serves every prefix", "due_at": moment(3600)}
            return web.json_response(verdict)
        if request.method == "POST" and request.path == "/v1/calls":
            return web.json_response(self.call() | {"expires_at": moment(600)}, status=201)
        if request.path == "/v1/calls":
            return web.json_response({"items": [self.call()], "next_cursor": "older_1"})
        if request.path.endswith("/cancel"):
            return web.json_response(self.call() | {"status": self.status_after_cancel})
        if request.path.startswith("/v1/calls/"):
            return web.json_response(self.call())
        made = {"id": VERIFICATION, "to": "+8613800000001", "locale": "zh-CN", "call_id": CALL}
        made |= {"status": "pending", "created_at": moment(), "expires_at": moment(600)}
        return web.json_response(made, status=201)

    def call(self) -> dict[str, Any]:
        """The newest call; `looks` are its earlier states, told first."""
        if self.looks:
            return self.looks.pop(0)
        answered = self.status == "completed"
        ended_at = moment(9)
        attempt = {
            "number": 1,
            "trunk": "carrier",
            "trunk_reason": "carrier serves every prefix",
            "dialed_at": moment(0.1),
            "ringing_at": moment(0.2),
            "answered_at": moment(0.9) if answered else None,
            "ended_at": ended_at,
            "sip": 200 if answered else 486,
            "q850": 16 if answered else 17,
            "cause": "normal" if answered else "busy",
            "end_reason": "heard" if answered else None,
            "keys": "1" if answered else None,
        }
        return {
            "id": CALL,
            "to": "+8613800000001",
            "from": None,
            "flow": "announcement",
            "class": "transaction",
            "locale": "zh-CN",
            "variables": {"text": "Hello"},
            "status": self.status,
            "created_at": moment(),
            "updated_at": moment(9),
            "due_at": None,
            "ended_at": ended_at,
            "failure_reason": None if answered else "busy",
            "out_id": None,
            "attempts": [attempt],
        }


@pytest.fixture
async def controller() -> AsyncIterator[Controller]:
    played = Controller()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", played.answer)
    async with TestServer(app) as server:
        played.url = str(server.make_url("")).rstrip("/")
        yield played


async def start(
    *words: str, url: str = "", key: str | None = KEY, **streams: Any
) -> asyncio.subprocess.Process:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TELEPHONY_")}
    environment |= {"TELEPHONY_URL": url, "COLUMNS": "200"} if url else {"COLUMNS": "200"}
    environment |= {"TELEPHONY_KEY": key} if key else {}
    pipes = {
        "stdin": asyncio.subprocess.PIPE,
        "stdout": asyncio.subprocess.PIPE,
        "stderr": asyncio.subprocess.PIPE,
    }
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "telephony", *words, env=environment, **{**pipes, **streams}
    )


async def run(*words: str, typed: str = "", **more: Any) -> Ended:
    process = await start(*words, **more)
    out, err = await asyncio.wait_for(process.communicate(typed.encode()), SECONDS)
    return Ended(process.returncode or 0, out.decode(), err.decode())


# ---- verify


async def test_a_code_is_checked(controller: Controller) -> None:
    ended = await run("verify", "+8613800000001", "--locale", "zh-CN", typed="123 456\n", url=controller.url)
    assert ended.code == 0, ended.err
    for word in (
        "queued",
        "dialing",
        "carrier serves every prefix",
        "ringing",
        "answered",
        "completed",
        "Approved",
    ):
        assert word in ended.err
    assert controller.asked[0][:3] == (
        "POST",
        "/v1/verifications",
        {"to": "+8613800000001", "locale": "zh-CN"},
    )
    assert controller.asked[-1][2] == {"code": "123456"}
    assert {one[3] for one in controller.asked} == {f"Bearer {KEY}"}


async def test_a_wrong_code_may_be_mended(controller: Controller) -> None:
    ended = await run("verify", "+8613800000001", typed="000000\n\n123456\n", url=controller.url)
    assert ended.code == 0
    assert "Wrong; 2 checks left." in ended.err


async def test_no_more_checks(controller: Controller) -> None:
    ended = await run("verify", "+8613800000001", typed="1\n2\n3\n123456\n", url=controller.url)
    assert ended.code == 1
    assert "max_attempts_reached" in ended.err


async def test_the_input_ends_before_a_code(controller: Controller) -> None:
    ended = await run("verify", "+8613800000001", url=controller.url)
    assert (ended.code, "not checked" in ended.err) == (1, True)


async def test_the_last_line_needs_no_end(controller: Controller) -> None:
    assert (await run("verify", "+8613800000001", typed="123456", url=controller.url)).code == 0


async def test_a_file_can_be_the_input(controller: Controller, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.write_text("123456\n")
    with code.open() as file:
        process = await start("verify", "+8613800000001", url=controller.url, stdin=file)
        await asyncio.wait_for(process.communicate(), SECONDS)
    assert process.returncode == 0


@pytest.mark.parametrize("words", [["--no-check"], []], ids=["told", "no-input"])
async def test_nobody_is_asked(controller: Controller, words: list[str]) -> None:
    stdin = asyncio.subprocess.DEVNULL
    process = await start("verify", "+8613800000001", *words, "--json", url=controller.url, stdin=stdin)
    out, _ = await asyncio.wait_for(process.communicate(), SECONDS)
    shown = json.loads(out)
    assert process.returncode == 0
    assert (shown["id"], shown["valid"], shown["call"]["id"]) == (VERIFICATION, None, CALL)
    assert not [one for one in controller.asked if one[1].endswith("/check")]


async def test_a_busy_phone_is_a_failure_and_nobody_is_asked(controller: Controller) -> None:
    controller.status = "busy"
    ended = await run("verify", "+8613800000001", typed="123456\n", url=controller.url)
    assert ended.code == 1
    assert "busy (SIP 486, Q.850 17)" in ended.err
    assert not [one for one in controller.asked if one[1].endswith("/check")]


async def test_ctrl_c_at_the_prompt_ends_it_at_once(controller: Controller) -> None:
    ours, theirs = pty.openpty()
    try:
        process = await start("verify", "+8613800000001", url=controller.url, stdin=theirs)
        assert process.stderr is not None
        await asyncio.wait_for(process.stderr.readuntil(b"Code: "), SECONDS)
        process.send_signal(signal.SIGINT)
        _, err = await asyncio.wait_for(process.communicate(), SECONDS)
    finally:
        for descriptor in (ours, theirs):
            os.close(descriptor)
    assert process.returncode == 130
    assert b"Interrupted" in err
    assert b"Traceback" not in err


# ---- what a controller refuses


def refusal(status: int, kind: str, **more: Any) -> tuple[int, dict[str, Any], dict[str, str]]:
    return status, {"type": f"/docs#{kind}", "title": "No", "status": status, "detail": "words", **more}, {}


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (refusal(401, "unauthorized"), 2),
        (refusal(404, "not-found"), 2),
        (refusal(422, "invalid-number"), 2),
        (refusal(403, "destination-not-allowed"), 4),
        (refusal(409, "conflict"), 4),
        (refusal(429, "rate-limited"), 4),
        (refusal(503, "overloaded"), 4),
        (refusal(503, "store-unavailable"), 3),
        (refusal(500, "internal-error"), 3),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, tuple) else "",
)
async def test_a_refusal_has_its_exit_code(controller: Controller, answer: Any, code: int) -> None:
    controller.refusal = answer
    ended = await run("verify", "+8613800000001", url=controller.url)
    assert (ended.code, ended.out) == (code, "")
    assert "words" in ended.err


async def test_a_refusal_tells_the_mend_and_when_to_come_back(controller: Controller) -> None:
    status, body, _ = refusal(429, "rate-limited", errors=[{"field": "to", "problem": "is", "mend": "Wait"}])
    controller.refusal = (status, body, {"Retry-After": "30"})
    ended = await run("calls", url=controller.url)
    assert "try again in 30 s" in ended.err
    assert "to: Wait" in ended.err


async def test_nothing_listens(unused_tcp_port: int) -> None:
    ended = await run("calls", url=f"http://127.0.0.1:{unused_tcp_port}")
    assert ended.code == 3
    assert "no controller answers at" in ended.err


@pytest.mark.parametrize("text", ["<html>", "[]", '"x"', ""])
async def test_something_else_listens(controller: Controller, text: str) -> None:
    controller.text = text
    ended = await run("calls", url=controller.url)
    assert (ended.code, "is no controller" in ended.err) == (3, True)


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["calls"], None),
        (["calls", "--key", "sch\u00fcssel"], None),
        (["calls", "--url", "ftp://x"], KEY),
        (["calls", "--status", "gone"], KEY),
        (["calls", CALL, "--status", "busy"], KEY),
        (["calls", CALL, CALL], KEY),
        (["calls", "cancel"], KEY),
        (["calls", "cancel", CALL, CALL], KEY),
        (["call", "+861"], KEY),
        (["call", "+861", "--flow", "announcement", "--var", "text"], KEY),
        (["call", "+861", "--flow", "announcement", "--var", "=text"], KEY),
        (["call", "+861", "--flow", "announcement", "--var", "play_times:=two"], KEY),
        (["call", "+861", "--flow", "announcement", "--var", "a=1", "--var", "a=2"], KEY),
        (["call", "+861", "--flow", "announcement", "--class", "fax"], KEY),
        (["webhooks", "--status", "lost"], KEY),
        (["webhooks", "--json", "resend", "msg_01"], KEY),
        (["webhooks", "resend"], KEY),
        (["calls", "--limit", "0"], KEY),
        (["verify"], KEY),
        (["verify", "+861", "--code-length", "3"], KEY),
        (["lab", "up", "--busy", "--decline"], None),
        (["lab", "up", "--press", "x"], None),
        (["lab", "call", "a;b"], None),
        (["key", "new", "a\nb"], None),
        (["nothing"], None),
    ],
)
async def test_wrong_usage(words: list[str], key: str | None) -> None:
    ended = await run(*words, key=key)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err
    assert "Traceback" not in ended.err


# ---- calls, key, serve


async def test_calls_are_listed(controller: Controller) -> None:
    ended = await run("calls", "--status", "completed", "--cursor", "older_0", url=controller.url)
    assert ended.code == 0
    assert CALL in ended.out
    assert "--cursor older_1" in ended.err
    assert controller.asked[0][1] == "/v1/calls?limit=20&status=completed&cursor=older_0"
    page = json.loads((await run("calls", "--json", url=controller.url)).out)
    assert page["items"][0]["id"] == CALL


async def test_a_call_is_shown_with_its_attempts(controller: Controller) -> None:
    ended = await run("calls", CALL, url=controller.url)
    for word in (CALL, "completed", "carrier", "heard", "200", '{"text": "Hello"}', "transaction"):
        assert word in ended.out
    assert json.loads((await run("calls", CALL, "--json", url=controller.url)).out)["id"] == CALL


async def test_an_id_cannot_lead_elsewhere(controller: Controller) -> None:
    await run("calls", "../../metrics?x", url=controller.url)
    await run("calls", "cancel", "../x", url=controller.url)
    await run("webhooks", "resend", "../x", url=controller.url)
    assert [one[1] for one in controller.asked] == [
        "/v1/calls/..%2F..%2Fmetrics%3Fx",
        "/v1/calls/..%2Fx/cancel",
        "/v1/webhook-deliveries/..%2Fx/resend",
    ]


async def test_a_call_is_canceled(controller: Controller) -> None:
    ended = await run("calls", "cancel", CALL, url=controller.url)
    assert (ended.code, ended.out) == (0, f"{CALL} is canceled\n")
    assert controller.asked[0][:2] == ("POST", f"/v1/calls/{CALL}/cancel")
    controller.status_after_cancel = "answered"
    ended = await run("calls", "cancel", CALL, url=controller.url)
    assert "ends at its next step" in ended.out
    shown = json.loads((await run("calls", "cancel", CALL, "--json", url=controller.url)).out)
    assert shown["status"] == "answered"


# ---- call


async def test_a_flow_is_called_and_each_step_told(controller: Controller) -> None:
    words = ["--var", "text=Hello = you", "--var", "play_times:=1", "--class", "survey", "--ttl", "60"]
    words += ["--locale", "zh-CN", "--from", "+861088880000", "--attempts", "2"]
    ended = await run("call", "+8613800000001", "--flow", "announcement", *words, url=controller.url)
    assert ended.code == 0, ended.err
    assert ended.out == ""
    assert f"{CALL} to +8613800000001: announcement in zh-CN" in ended.err
    for word in ("queued", "dialing", "carrier serves every prefix", "ringing", "answered", "completed"):
        assert word in ended.err
    assert controller.asked[0][:3] == (
        "POST",
        "/v1/calls",
        {
            "to": "+8613800000001",
            "flow": "announcement",
            "variables": {"text": "Hello = you", "play_times": 1},
            "class": "survey",
            "ttl": 60,
            "locale": "zh-CN",
            "from": "+861088880000",
            "retry": {"attempts": 2},
        },
    )


async def test_a_call_that_fails_has_its_exit_code_and_json(controller: Controller) -> None:
    controller.status = "busy"
    ended = await run("call", "+8613800000001", "--flow", "announcement", "--json", url=controller.url)
    assert ended.code == 1
    assert (json.loads(ended.out)["id"], json.loads(ended.out)["status"]) == (CALL, "busy")
    assert "busy (SIP 486, Q.850 17)" in ended.err
    assert controller.asked[0][2] == {"to": "+8613800000001", "flow": "announcement", "variables": {}}


async def test_what_a_call_waits_for_is_told_once(controller: Controller) -> None:
    controller.status = "busy"
    over = controller.call()
    first = {**over["attempts"][0], "ended_at": moment(3)}
    queued = {**over, "status": "queued", "ended_at": None, "due_at": moment(3600), "attempts": []}
    again = {**queued, "due_at": moment(7200), "attempts": [first]}
    canceled = {**over, "status": "canceled", "ended_at": moment(8), "attempts": [first]}
    controller.looks = [queued | {"expires_at": moment(600)}, queued, again, again, canceled]
    ended = await run("call", "+8613800000001", "--flow", "announcement", url=controller.url)
    assert ended.code == 1
    steps = [line.split()[2:] for line in ended.err.splitlines()[1:]]
    assert [words[0] for words in steps] == ["queued", "dialing", "ringing", "again", "canceled"]
    assert steps[0][1:3] == ["waits", "until"]
    assert steps[3][1:4] == ["busy", "waits", "until"]


async def test_a_dry_run_rings_nobody(controller: Controller) -> None:
    words = ["call", "+8613800000001", "--flow", "announcement", "--dry-run"]
    ended = await run(*words, url=controller.url)
    assert (ended.code, ended.err) == (0, "")
    assert "+8613800000001 in zh-CN: carrier serves every prefix waits until" in ended.out
    assert [one[:2] for one in controller.asked] == [("POST", "/v1/calls?dry_run=true")]
    assert json.loads((await run(*words, "--json", url=controller.url)).out)["trunk"] == "carrier"


# ---- webhooks


async def test_webhooks_are_listed_and_sent_again(controller: Controller) -> None:
    ended = await run("webhooks", "--status", "dead", url=controller.url)
    assert ended.code == 0
    for word in ("msg_01", "call.completed", CALL, "dead", "answered 500"):
        assert word in ended.out
    assert "--cursor older_1" in ended.err
    assert controller.asked[0][1] == "/v1/webhook-deliveries?limit=20&status=dead"
    page = json.loads((await run("webhooks", "--json", url=controller.url)).out)
    assert page["items"] == [WEBHOOK]
    ended = await run("webhooks", "resend", "msg_01", url=controller.url)
    assert (ended.code, ended.out) == (0, "msg_01 (call.completed) is sent again\n")
    assert controller.asked[-1][:2] == ("POST", "/v1/webhook-deliveries/msg_01/resend")
    shown = json.loads((await run("webhooks", "resend", "msg_01", "--json", url=controller.url)).out)
    assert shown["status"] == "pending"


# ---- trunks


async def test_trunks_are_listed(controller: Controller) -> None:
    ended = await run("trunks", url=controller.url)
    assert (ended.code, ended.err) == (0, "")
    row = next(line for line in ended.out.splitlines() if "main" in line)
    assert row.split()[:10] == [
        "main",
        "carrier",
        "full",
        "30/30",
        "20",
        "8",
        "2",
        "2.5",
        "closed",
        "2026-01-05",
    ]
    assert row.rstrip().endswith("30 of 30 lines in use")
    assert json.loads((await run("trunks", "--json", url=controller.url)).out) == {"items": [TRUNK]}
    assert [one[:2] for one in controller.asked] == [("GET", "/v1/trunks")] * 2


async def test_trunks_are_drained_resumed_and_limited(controller: Controller) -> None:
    for words, path, body in (
        (("drain", "main"), "main/drain", {}),
        (("resume", "a b"), "a%20b/resume", {}),
        (("limit", "main=30"), "main/limit", {"channels": 30}),
        (("limit", "main=configured"), "main/limit", {"channels": None}),
    ):
        ended = await run("trunks", *words, url=controller.url)
        assert (ended.code, ended.out) == (0, "main is full, 30/30 in use: 30 of 30 lines in use\n")
        assert controller.asked[-1][:3] == ("POST", f"/v1/trunks/{path}", body)
    assert json.loads((await run("trunks", "drain", "main", "--json", url=controller.url)).out) == TRUNK
    ended = await run("trunks", "drain", "main", "--wait", "0.2", url=controller.url)
    assert (ended.code, ended.err) == (1, "telephony: main has 30 in use after 0.2 s\n")
    assert controller.asked[-1][:2] == ("GET", "/v1/trunks/main")


@pytest.mark.parametrize(
    ("words", "answer", "code"),
    [
        (["drain", "mian"], (404, "not-found"), 2),
        (["drain", "main"], (403, "not-permitted"), 4),
        (["limit", "main"], None, 2),
        (["limit", "main=x"], None, 2),
        (["--json", "drain", "main"], None, 2),
    ],
)
async def test_an_order_that_comes_to_nothing(
    controller: Controller, words: list[str], answer: tuple[int, str] | None, code: int
) -> None:
    if answer is not None:
        controller.refusal = refusal(*answer)
    ended = await run("trunks", *words, url=controller.url)
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.startswith("telephony: ")


async def test_a_key_fits_its_hash() -> None:
    ended = await run("key", "new", 'My "shop"', key=None)
    key, _, snippet = ended.out.partition("\n")
    client = tomllib.loads(snippet)["clients"][0]
    assert client == {"name": 'My "shop"', "key_hash": hash_key(key), "brand": 'My "shop"'}
    assert key not in ended.err
    shown = json.loads((await run("key", "new", "a", "--brand", "Shop", "--json", key=None)).out)
    assert (shown["brand"], shown["key_hash"]) == ("Shop", hash_key(shown["key"]))


async def test_serve_tells_every_fault_of_its_configuration(tmp_path: Path) -> None:
    config = tmp_path / "telephony.toml"
    config.write_text('[server]\nprot = 1\n[log]\nlevel = "loud"\n')
    ended = await run("serve", "--config", str(config))
    assert (ended.code, ended.out) == (2, "")
    assert str(config) in ended.err
    for words in ("server.prot", "Did you mean port?", "log.level", "trunks", "clients", "numbers"):
        assert words in ended.err
    assert "Traceback" not in ended.err


async def test_serve_without_its_configuration(tmp_path: Path) -> None:
    ended = await run("serve", "--config", str(tmp_path / "none.toml"))
    assert (ended.code, "cannot be read" in ended.err) == (2, True)


def processor_seconds() -> float:
    """What ended children used: unlike time on the wall it does not depend on a busy machine."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


async def test_help_comes_at_once() -> None:
    took = []
    for _ in range(3):
        began = processor_seconds()
        ended = await run("--help")
        took.append(processor_seconds() - began)
        assert ended.code == 0
    assert min(took) < 0.5
    assert "verify" in ended.out
