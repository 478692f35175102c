"""Announcement calls over a real Asterisk, many at once: heard, acknowledged or not, cancelled, told of."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from numpy.typing import NDArray

from telephony.app import Controller, running
from telephony.lab import Lab, answer_and_listen, busy, hang_up_early, no_answer, press_keys
from telephony.lab.carrier import CarrierCall
from telephony.lab.ear import hear
from telephony.model.prompt import Part, Phrase, Prompt, Text
from telephony.settings import check_settings
from telephony.speech.g711 import from_ulaw
from tests.acceptance.control import FINAL, KEY, Api, api_of, settings_of
from tests.acceptance.test_payments import SECRET, Shop

pytestmark = pytest.mark.lab

Json = dict[str, Any]
TEXTS = {
    "en": "Acme. Your parcel is waiting at the front desk.",
    "zh-CN": "您的包裹已经送到前台。",
    "es": "Su paquete le espera en la recepción.",
}
ACK = (Phrase("announcement.acknowledge", (("key", "1"),)),)
OTHER_CALLER = "+861088880001"
(
    LISTENS,
    CHINESE,
    SPANISH,
    PRESSES,
    REPEATS,
    LATE,
    EARLY,
    BUSY,
    CANCELED,
    STOPPED,
    WAITS,
    TYPED,
) = (f"+86138000030{index:02d}" for index in range(12))


def opens_in_two_hours() -> list[str]:
    """An hour of the survey class, by the clock in China, that has not begun."""
    opens = (datetime.now(UTC) + timedelta(hours=10)).replace(minute=0)
    closes = opens + timedelta(hours=1)
    return [f"{opens:%H:%M}-{'24:00' if closes.hour == 0 else f'{closes:%H:%M}'}"]


@asynccontextmanager
async def house(lab: Lab, folder: Path) -> AsyncIterator[tuple[Shop, Controller, Api]]:
    """The app's own server, a controller, and the app's view of it."""
    shop = Shop()
    server = web.Application()
    server.router.add_post("/hook", shop.hook)
    async with TestServer(server) as listening:
        values = settings_of(
            lab,
            folder,
            webhooks={"allow_private": ["127.0.0.1"]},
            calling_hours={"survey": opens_in_two_hours()},
            retry={"transaction": {"attempts": 1}},
        )
        values["clients"][0] |= {
            "webhook_url": str(listening.make_url("/hook")),
            "webhook_secret": SECRET,
            "caller_numbers": [OTHER_CALLER],
        }
        async with running(check_settings(values)) as controller, api_of(controller.url) as api:
            yield shop, controller, api


async def clip(controller: Controller, parts: Iterable[Part], locale: str) -> NDArray[np.int16]:
    """What these words sound like, made as the calls' own sound is."""
    media = await controller.studio.compose(Prompt(tuple(parts)), locale)
    try:
        return np.array(from_ulaw(Path(f"{media.name}.ulaw").read_bytes()), dtype=np.int16)
    finally:
        controller.studio.discard(media)


async def announce(api: Api, to: str, *, locale: str = "en", **more: Any) -> Json:
    variables = {"text": TEXTS[locale], "play_times": 1, **more.pop("variables", {})}
    body = {"to": to, "flow": "announcement", "variables": variables, "locale": locale, **more}
    return await api.post("/v1/calls", body, status=201)


async def ended(api: Api, call: Json) -> Json:
    return await api.until(f"/v1/calls/{call['id']}", lambda seen: seen["status"] in FINAL, 90)


async def canceled_when(api: Api, call: Json, status: str) -> Json:
    """Cancel a call as soon as it has come so far, and return it at its end."""
    await api.until(f"/v1/calls/{call['id']}", lambda seen: seen["status"] == status)
    await api.post(f"/v1/calls/{call['id']}/cancel")
    return await ended(api, call)


async def command(url: str, *words: str) -> tuple[int, str, str]:
    """The command line, as a program of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "telephony",
        *words,
        env={**os.environ, "TELEPHONY_URL": url, "TELEPHONY_KEY": KEY},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(90):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode or 0, out.decode(), err.decode()


async def silent_at_first(call: CarrierCall) -> None:
    """Listens to the first call, and acknowledges the second one in the middle of a word."""
    calls.append(call)
    await call.ring()
    await call.answer(after=0.2)
    if len(calls) > 1:
        await call.press("1", after=1.5)
    await call.listen()


calls: list[CarrierCall] = []


async def test_announcements_are_heard_acknowledged_canceled_and_told(lab: Lab, tmp_path: Path) -> None:
    calls.clear()
    subscribe = lab.carrier.subscribe
    for number in (LISTENS, CHINESE, SPANISH, STOPPED, WAITS, TYPED):
        subscribe(number, answer_and_listen(after=0.2))
    subscribe(LATE, silent_at_first)
    subscribe(EARLY, hang_up_early(hang_up_after=1.5))
    subscribe(BUSY, busy())
    subscribe(CANCELED, no_answer())
    asks = {"variables": {"ack_key": "1"}}
    async with house(lab, tmp_path) as (shop, controller, api):
        texts = {locale: await clip(controller, (Text(text),), locale) for locale, text in TEXTS.items()}
        hint = await clip(controller, (Phrase("announcement.repeat_hint"),), "en")
        ask = await clip(controller, ACK, "en")
        thanks = await clip(controller, (Phrase("announcement.acknowledged"),), "en")
        whole = (len(texts["en"]) + len(ask) + len(hint)) / 8000 + 2.0
        subscribe(PRESSES, press_keys([(whole + 1.5, "1")]))
        subscribe(REPEATS, press_keys([(2.0, "*")]))

        made = {
            LISTENS: await announce(api, LISTENS, **{"from": OTHER_CALLER}),
            CHINESE: await announce(api, CHINESE, locale="zh-CN"),
            SPANISH: await announce(api, SPANISH, locale="es"),
            PRESSES: await announce(api, PRESSES, **asks, metadata={"parcel": 7}, out_id="p-7"),
            REPEATS: await announce(api, REPEATS),
            LATE: await announce(api, LATE, **asks, retry={"attempts": 2, "pause": 1}),
            EARLY: await announce(api, EARLY, **asks),
            BUSY: await announce(api, BUSY),
            CANCELED: await announce(api, CANCELED),
            STOPPED: await announce(api, STOPPED, variables={"play_times": 3}),
            WAITS: await announce(api, WAITS, **{"class": "survey"}),
        }
        words = ("call", TYPED, "--flow", "announcement", "--var", f"text={TEXTS['en']}", "--json")
        typed = asyncio.create_task(command(controller.url, *words, "--var", "play_times:=1"))
        stopped = asyncio.create_task(canceled_when(api, made[STOPPED], "answered"))
        seen = {CANCELED: await canceled_when(api, made[CANCELED], "ringing")}
        at_once = [number for number in made if number not in (CANCELED, STOPPED, WAITS)]
        over = await asyncio.gather(*(ended(api, made[number]) for number in at_once))
        seen |= dict(zip(at_once, over, strict=True))
        seen[STOPPED] = await stopped

        # Quiet hours: the survey has waited all the while, and was rung by nobody.
        waiting = await api.get(f"/v1/calls/{made[WAITS]['id']}")
        assert (waiting["status"], waiting["attempts"]) == ("queued", [])
        assert datetime.fromisoformat(waiting["due_at"]).minute == 0
        assert lab.carrier.calls_to(WAITS) == []
        refused, problem = await api.ask(
            "POST",
            "/v1/calls",
            {"to": WAITS, "flow": "announcement", "variables": {"text": "a"}, "ttl": 60}
            | {"class": "survey"},
        )
        assert (refused, problem["errors"][0]["field"]) == (422, "ttl")
        seen[WAITS] = await canceled_when(api, made[WAITS], "queued")

        ends = {number: [one["end_reason"] for one in call["attempts"]] for number, call in seen.items()}
        assert ends == {
            LISTENS: ["heard"],
            CHINESE: ["heard"],
            SPANISH: ["heard"],
            PRESSES: ["acknowledged"],
            REPEATS: ["heard"],
            LATE: ["no_input", "acknowledged"],
            EARLY: ["hung_up_early"],
            BUSY: ["busy"],
            CANCELED: ["canceled"],
            STOPPED: ["canceled"],
            WAITS: [],
        }
        statuses = {number: call["status"] for number, call in seen.items()}
        assert statuses == dict.fromkeys(statuses, "completed") | {
            BUSY: "busy",
            CANCELED: "canceled",
            WAITS: "canceled",
        }
        pressed = {number: [one["keys"] for one in call["attempts"]] for number, call in seen.items()}
        assert (pressed[PRESSES], pressed[REPEATS], pressed[LATE]) == (["1"], ["*"], [None, "1"])

        # The command line told each step, and its JSON is the call.
        code, out, err = await typed
        assert code == 0, err
        assert "answered" in err
        assert json.loads(out)["attempts"][0]["end_reason"] == "heard"
        seen[TYPED] = await api.get(f"/v1/calls/{json.loads(out)['id']}")

        # One webhook for each call, verified, and the same as the call is read.
        events = [await asyncio.wait_for(shop.told.get(), 10) for _ in seen]
        told = {event["data"]["id"]: event for event in events}
        for number, call in seen.items():
            assert told[call["id"]]["type"] == f"call.{call['status']}", number
            assert told[call["id"]]["data"] == call, number
        await asyncio.sleep(0.3)
        assert shop.told.empty()
        code, out, err = await command(controller.url, "webhooks", "--json")
        assert code == 0, err
        assert {one["status"] for one in json.loads(out)["items"]} == {"delivered"}

    heard = {}
    english = {"text": texts["en"], "hint": hint, "ask": ask, "thanks": thanks}
    clips = {CHINESE: {"text": texts["zh-CN"]}, SPANISH: {"text": texts["es"]}}
    for number in seen:
        for place, one in enumerate(lab.carrier.calls_to(number)):
            await one.wait_ended()
            if one.heard is not None:
                found = await asyncio.to_thread(hear, one.heard, clips.get(number, english))
                heard[number, place] = [label.label for label in found]
    assert heard == {
        (LISTENS, 0): ["text", "hint"],
        (CHINESE, 0): ["text"],
        (SPANISH, 0): ["text"],
        (PRESSES, 0): ["text", "ask", "hint", "thanks"],
        (REPEATS, 0): ["text", "hint"],
        (LATE, 0): ["text", "ask", "hint"],
        (LATE, 1): ["thanks"],
        (EARLY, 0): [],
        (STOPPED, 0): ["text", "hint"],
        (TYPED, 0): ["text", "hint"],
    }
    assert [one.caller for one in lab.carrier.calls_to(LISTENS)] == [OTHER_CALLER]
    assert all(len(lab.carrier.calls_to(number)) == 1 for number in seen if number not in (LATE, WAITS))
