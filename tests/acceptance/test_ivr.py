"""Trees on a real Asterisk: with the controller, compiled without it, and where it dies or freezes between.

The people who call press their keys as RFC 4733 events or by SIP INFO. Where each of them came is read from
the PBX by an onlooker, what they heard from the carrier's recordings.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from standardwebhooks import Webhook

from telephony.egress.guard import Guard
from telephony.ivr.book import Edition, read_folder
from telephony.ivr.compile import compile_tree
from telephony.ivr.known import rules_here
from telephony.ivr.saying import render, sayings_of
from telephony.ivr.sounds import Wardrobe
from telephony.lab import Lab, Phone, own_dialplan, press_keys
from telephony.lab.carrier import CarrierCall
from telephony.lab.ear import hear
from telephony.pbx.asterisk.guard import HOLD
from telephony.resources import data_dir
from telephony.speech.engine import EspeakNg
from telephony.speech.g711 import from_ulaw
from telephony.speech.packs import Packs
from telephony.speech.studio import Studio
from tests.acceptance.callers import PEOPLE, Onlooker, Step, number, trees_in
from tests.acceptance.control import SPEECH_CACHE, ControllerProcess, Json, api_of, settings_of

pytestmark = pytest.mark.lab

HOTLINE, RESCUE = "+861088880001", "+861088880002"
"""What the dialplan's globals name (`callers.PEOPLE`)."""

OTHER_RESCUE, ANY = "+861088880003", "+861088880004"
"""What only the controller's settings know."""

SECRET = "whsec_" + "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="
PACKS = Packs.load(data_dir("audio"))


def ivr_settings(lab: Lab, folder: Path, trees: Path, **more: object) -> Json:
    ivr = {
        "folder": str(trees),
        "inbound": "ride-hotline",
        "numbers": {OTHER_RESCUE: "car-rescue"},
        "queue_context": "agents",
        "number_context": "numbers",
        "webhook_secret": SECRET,
        **more,
    }
    return settings_of(lab, folder, ivr=ivr)


def edition_of(trees: Path) -> Edition:
    return read_folder(trees, rules_here(PACKS, None, Guard(["127.0.0.0/8"])))


@asynccontextmanager
async def studio_in(folder: Path) -> AsyncIterator[Studio]:
    studio = Studio(
        PACKS,
        EspeakNg(),
        cache_dir=SPEECH_CACHE,
        media_dir=folder / "said",
        pbx_media_dir=None,
        recordings_dir=None,
        cache_limit_bytes=256 * 1024 * 1024,
    )
    try:
        yield studio
    finally:
        await studio.close()


async def compiled(folder: Path, edition: Edition, name: str) -> str:
    """A tree's dialplan, its sounds rendered into the folder."""
    sounds = folder / "compiled" / name
    plan = compile_tree(edition.trees[name], str(sounds))
    async with studio_in(folder) as studio:
        for sound in plan.sounds:
            media = await studio.compose(sound.prompt, sound.language)
            for ending in (".ulaw", ".alaw"):
                target = sounds / f"{sound.path}{ending}"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(Path(f"{media.name}{ending}").read_bytes())
            studio.discard(media)
    return plan.text


@asynccontextmanager
async def controller(lab: Lab, folder: Path, trees: Path, **more: object) -> AsyncIterator[ControllerProcess]:
    # A cold cache is filled here, at leisure: the controller is waited for half a minute.
    async with studio_in(folder) as studio:
        await studio.prepare(["en", "zh-CN", "es"])
        await Wardrobe(studio).make(1, edition_of(trees).trees.values())
    process = ControllerProcess(folder, ivr_settings(lab, folder, trees, **more))
    try:
        await process.start()
        yield process
    finally:
        await process.stop()


Plan = tuple[str, str, tuple[str, str], list[str], str]
PLANS: list[Plan] = [
    # called, keys, the person reached, the nodes, the language of what the last one says
    (HOTLINE, "11", ("safety", "9110"), ["who", "speak", "main", "emergency"], "zh-CN"),
    (HOTLINE, "21", ("safety", "9110"), ["who", "speak", "main", "emergency"], "en"),
    (HOTLINE, "10", ("agents", "support"), ["who", "speak", "main", "support"], "zh-CN"),
    (ANY, "20", ("agents", "support"), ["who", "speak", "main", "support"], "en"),
    (HOTLINE, "14", ("agents", "support"), ["who", "speak", "main", "lost", "support"], "zh-CN"),
    (HOTLINE, "270", ("agents", "support"), ["who", "speak", "main", "support"], "en"),
    (RESCUE, "11", ("numbers", "120"), ["speak", "main", "hurt"], "zh-CN"),
    (OTHER_RESCUE, "21", ("numbers", "120"), ["speak", "main", "hurt"], "en"),
]


async def last_words(folder: Path, edition: Edition) -> dict[str, bytes]:
    """What the last nodes of the plans say, as sound: `node language`."""
    clips = {}
    async with studio_in(folder) as studio:
        for tree in edition.trees.values():
            for node in ("emergency", "support", "hurt"):
                prompt = getattr(tree.nodes.get(node), "prompt", None)
                for tag, saying in sayings_of(prompt, tree).items() if prompt is not None else ():
                    media = await studio.compose(render(saying, {"brand": "Acme"}, tag), tag)
                    clips[f"{node} {tag}"] = from_ulaw(Path(f"{media.name}.ulaw").read_bytes()).tobytes()
    return clips


PIECE = 8000
"""Bytes of half a second: a busy machine loses a frame now and then, and what follows it is late."""


def heard_most(recording: Path, clips: dict[str, bytes]) -> list[str]:
    """The clips that a recording holds; of those that came in pieces, the one most of which is there."""
    whole = [one.label for one in hear(recording, clips)]
    if whole:
        return whole
    pieces = {
        f"{label}/{at}": clip[at : at + PIECE]
        for label, clip in clips.items()
        for at in range(0, len(clip) - PIECE + 1, PIECE)
    }
    heard = Counter(one.label.partition("/")[0] for one in hear(recording, pieces))
    there = {
        label: heard[label] / (len(clip) // PIECE) for label, clip in clips.items() if len(clip) >= PIECE
    }
    return [label for label, share in there.items() if share >= 0.5]


async def crowd(lab: Lab, folder: Path, people: int) -> str:
    """Everybody at once, each with keys of their own: every one reaches the node, and hears its words."""
    trees = trees_in(folder)
    plans = [PLANS[index % len(PLANS)] for index in range(people)]
    async with (
        own_dialplan(lab, PEOPLE),
        controller(lab, folder, trees) as process,
        Onlooker(lab).watching() as seen,
    ):
        calls = []
        for index, (called, keys, *_) in enumerate(plans):
            phone = Phone()
            if index % 3 == 2 or "7" in keys:
                # One after the other: the language, then the menu.
                for at, key in enumerate(keys):
                    phone.soon(key, 2.0 if at else 1.0)
            else:
                # All of them ahead.
                phone.soon(keys, 0.5)
            calls.append(
                await lab.carrier.place(called, phone, caller=number(index), keys_by_info=index % 4 == 3)
            )
        await asyncio.gather(*(call.wait_ended(60) for call in calls))
        ended = {line["call"]: line for line in process.log_lines("ivr.ended")}
        clips = await last_words(folder, edition_of(trees))
        wrong = []
        for index, (_, keys, person, path, tag) in enumerate(plans):
            line = ended.get(seen.id_of(number(index)), {})
            recording = calls[index].heard
            assert recording is not None
            heard = await asyncio.to_thread(heard_most, recording, clips)
            got = seen.person(number(index)), line.get("path"), heard
            if got != (person, path, [f"{path[-1]} {tag}"]):
                wrong.append((index, keys, got))
        assert not wrong, wrong
        assert len(ended) == people
        await kept_by_us(process, plans, seen)
    lasted = max(call.ended_at - call.arrived_mono for call in calls if call.ended_at)
    return f"{people} callers, none dropped, the longest call {lasted:.1f} s"


async def kept_by_us(process: ControllerProcess, plans: list[Plan], seen: Onlooker) -> None:
    """Each of them is a call that an app can look at, with its path."""
    async with api_of(process.url) as api:
        calls: list[Json] = []

        async def listed() -> bool:
            calls.clear()
            cursor = ""
            while True:
                page = await api.get(f"/v1/calls?limit=100{cursor}")
                calls.extend(page["items"])
                if page["next_cursor"] is None:
                    return len(calls) == len(plans)
                cursor = f"&cursor={page['next_cursor']}"

        async with asyncio.timeout(10):
            while not await listed():
                await asyncio.sleep(0.2)
        by_channel = {call["metadata"]["channel"]: call for call in calls}
        for index, (_, keys, _, path, tag) in enumerate(plans):
            call = by_channel[seen.id_of(number(index))]
            assert (call["direction"], call["from"], call["locale"]) == ("inbound", number(index), tag)
            assert [step["node"] for step in call["path"]] == path
            assert "".join(step["keys"] for step in call["path"]) == keys
        assert await api.get(f"/v1/calls/{calls[0]['id']}") == calls[0]


async def test_thirty_callers_at_once(
    lab: Lab, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("told", await crowd(lab, tmp_path, 30))


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_a_hundred_callers_at_once(
    lab: Lab, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("told", await crowd(lab, tmp_path, 100))


# ---- the controller is gone, or frozen, while people stand in a menu

COMPILED = "telephony-ivr-ride-hotline"
MOST_WAIT = {signal.SIGKILL: 1.5, signal.SIGSTOP: HOLD + 0.5}
"""Seconds until the PBX goes its own way, whatever it was doing for a caller, with a key pressed or not."""

NEW_WAIT = {signal.SIGKILL: 1.5, signal.SIGSTOP: 3.5}
"""Seconds from a new call to its compiled tree; a frozen controller is waited for (TELEPHONY_PATIENCE)."""

STANDING, PRESSING, NEW, NO_TREE = 20, 5, 3, 3


async def left_alone(lab: Lab, folder: Path, how: signal.Signals) -> str:
    """Twenty people stand in a menu when the controller is killed or stopped; returns the figures."""
    trees = trees_in(folder)
    plan = await compiled(folder, edition_of(trees), "ride-hotline")
    phones: dict[str, Phone] = {}
    seen = Onlooker(lab)

    def press(caller: str, step: Step) -> None:
        # Whoever hears a question of the compiled tree presses 1: Chinese, then the emergency.
        if step.context == COMPILED and step.kind == "Newexten" and step.application == "Read":
            phones[caller].soon("1", 0.5)

    async def dial(called: str, index: int) -> CarrierCall:
        phones[number(index)] = Phone()
        return await lab.carrier.place(called, phones[number(index)], caller=number(index))

    seen.told = press
    async with (
        own_dialplan(lab, PEOPLE + plan),
        controller(lab, folder, trees) as process,
        seen.watching(),
    ):
        calls = []
        for index in range(STANDING + NO_TREE):
            calls.append(await dial(HOTLINE if index < STANDING else RESCUE, index))
            phones[number(index)].soon("1", 0.5)
            await asyncio.sleep(0.2)

        def chosen() -> int:
            return sum(line["node"] == "speak" for line in process.log_lines("ivr.node"))

        await seen.until(lambda: chosen() == STANDING + NO_TREE, 20, "not all stand in the menu")
        await asyncio.sleep(1.0)
        process.signal(how)
        gone = time.monotonic()
        everybody = [number(index) for index in range(STANDING + NO_TREE + NEW)]
        if how is signal.SIGSTOP:
            for caller in everybody[:PRESSING]:
                phones[caller].soon("2", 0.5)
        placed = time.monotonic()
        calls += [await dial(HOTLINE, index) for index in range(STANDING + NO_TREE, len(everybody))]
        waits: dict[str, float] = {}
        for index, caller in enumerate(everybody):
            fallen = "telephony-lost" if STANDING <= index < STANDING + NO_TREE else COMPILED
            await seen.until(
                lambda caller=caller, fallen=fallen: bool(seen.of(caller, "Newexten", context=fallen)),
                30,
                f"{caller} met no {fallen}",
            )
            at = seen.of(caller, "Newexten", context=fallen)[0].at
            waits[caller] = at - (placed if index >= STANDING + NO_TREE else gone)
        if how is signal.SIGSTOP:
            process.signal(signal.SIGCONT)
        await asyncio.gather(*(call.wait_ended(60) for call in calls))
        standing, new = everybody[:STANDING], everybody[STANDING + NO_TREE :]
        assert max(waits[caller] for caller in everybody[: STANDING + NO_TREE]) <= MOST_WAIT[how], waits
        assert max(waits[caller] for caller in new) <= NEW_WAIT[how], waits
        reached = {caller: seen.person(caller) for caller in standing + new}
        assert set(reached.values()) == {("safety", "9110")}, reached
        return (
            f"{how.name}: silent {max(waits[c] for c in standing[PRESSING:]):.2f} s, "
            f"pressing {max(waits[c] for c in standing[:PRESSING]):.2f} s, "
            f"new {max(waits[c] for c in new):.2f} s"
        )


async def test_killed_while_twenty_stand_in_a_menu(
    lab: Lab, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("told", await left_alone(lab, tmp_path, signal.SIGKILL))


async def test_frozen_while_twenty_stand_in_a_menu(
    lab: Lab, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("told", await left_alone(lab, tmp_path, signal.SIGSTOP))


# ---- called out, and from a user's own dialplan

OWN = (
    PEOPLE
    + """\
[lab-own]
exten => s,1,Answer()
 same => n,Gosub(telephony-ivr,satisfaction,1(order=4711&language=en))
 same => n,NoOp(went on: ${TELEPHONY_RESULT} ${IVR_SOLVED} ${TELEPHONY_LANGUAGE})
 same => n,Hangup()
; The same by a script, whose process carries the call to the controller; no context of ours is needed.
[lab-script]
exten => s,1,Answer()
 same => n,AGI(SCRIPT,ivr/satisfaction?order=4711&language=en,${TELEPHONY_AGI})
 same => n,NoOp(went on: ${TELEPHONY_RESULT} ${IVR_SOLVED} ${TELEPHONY_LANGUAGE})
 same => n,Wait(6)
 same => n,NoOp(no limit is left)
 same => n,Hangup()
[telephony-inbound]
exten => +861088880009,1,Goto(lab-own,s,1)
exten => +861088880010,1,Goto(lab-script,s,1)
"""
)


async def test_a_tree_is_called_out_by_its_name(lab: Lab, tmp_path: Path) -> None:
    trees = trees_in(tmp_path)
    paths = {"1": ["solved", "is_solved", "stars", "bye"], "21": ["solved", "not_solved", "help", "person"]}
    people = {f"+8613800001{index:03d}": keys for index, keys in enumerate(paths)}
    for to, keys in people.items():
        presses = [(1.0 + 1.5 * at, key) for at, key in enumerate(keys)]
        lab.carrier.subscribe(to, press_keys(presses))
    async with (
        own_dialplan(lab, PEOPLE),
        controller(lab, tmp_path, trees) as process,
        api_of(process.url) as api,
    ):
        asked = [
            await api.post(
                "/v1/calls",
                {"to": to, "flow": "satisfaction", "class": "survey", "variables": {"order": "4711"}},
                status=201,
            )
            for to in people
        ]
        for call, keys in zip(asked, people.values(), strict=True):
            ended = await api.until(f"/v1/calls/{call['id']}", lambda view: view["ended_at"], 40)
            assert ended["status"] == "completed", ended
            assert [step["node"] for step in ended["path"]] == paths[keys]
            assert "".join(step["keys"] for step in ended["path"]) == keys
        refused, problem = await api.ask("POST", "/v1/calls", {"to": "+8613800001000", "flow": "satisfact"})
        assert refused == 422
        assert "satisfaction" in str(problem)


async def test_a_dialplan_runs_a_tree_and_goes_on(lab: Lab, tmp_path: Path) -> None:
    """Behind the Gosub, or the script, with the results: with the controller, and with it away."""
    trees = trees_in(tmp_path)
    seen = Onlooker(lab)
    script = tmp_path / "telephony-agi"
    script.write_text(
        f'#!/bin/sh\nPYTHONPATH={Path.cwd()} exec {sys.executable} -m telephony.net.stdio "$@"\n'
    )
    script.chmod(0o755)

    async def went_on(called: str, index: int, keys: str) -> list[str]:
        phone = Phone()
        if keys in ("1", "2"):
            phone.soon(keys, 1.5)
        elif keys:
            phone.soon(keys, 2.5)
        call = await lab.carrier.place(called, phone, caller=number(index))
        await call.wait_ended(30)
        return [step.data.strip() for step in seen.of(number(index), "Newexten", application="NoOp")]

    limit = "no limit is left"
    async with own_dialplan(lab, OWN.replace("SCRIPT", str(script))), seen.watching():
        async with controller(lab, tmp_path, trees) as process:
            assert await asyncio.gather(
                went_on("+861088880009", 1, "1"),
                went_on("+861088880010", 2, "1"),
                went_on("+861088880010", 3, "hangup"),
            ) == [["went on: answered yes en"], ["went on: answered yes en", limit], []]
            left = seen.id_of(number(3))
            ended = {line["call"]: line["result"] for line in process.log_lines("ivr.ended")}
            assert ended[left] == "hung_up"
        assert await asyncio.gather(went_on("+861088880009", 4, ""), went_on("+861088880010", 5, "")) == [
            ["went on: away"],
            ["went on: away", limit],
        ]


# ---- apps that are asked while somebody waits

ASKED = """\
version: 1
name: asked
languages: [zh-CN, en]
start: who
agent: person
variables:
  vip: {about: whether it is somebody who comes first, export: true}
  note: {about: the recording's id, export: true}
nodes:
  who:
    type: lookup
    receive: {vip: vip}
    language_from: language
    priority_from: first
    next: ask
  ask:
    type: webhook
    url: URL
    prompt: {zh-CN: 请稍候。, en: One moment.}
    timeout: 4.0
    next: main
    on_error: person
  main:
    type: menu
    prompt: {zh-CN: 留言请按2，人工请按0。, en: "To leave a message, press 2. For a person, press 0."}
    keys: {"2": {label: Message, to: talk}}
    on_fail: person
  talk:
    type: record
    prompt: {zh-CN: 请讲。, en: Please speak.}
    variable: note
    max_seconds: 2.0
    next: bye
  bye: {type: hangup, result: noted}
  person: {type: transfer, extension: "9110", context: safety}
"""

ASKING = (
    PEOPLE
    + """\
[lab-asked]
exten => s,1,Gosub(telephony-ivr,asked,1())
 same => n,Set(HOW=${TELEPHONY_RESULT} ${TELEPHONY_LANGUAGE} ${TELEPHONY_PRIORITY})
 same => n,NoOp(went on: ${HOW} ${IVR_VIP} ${IVR_NOTE})
 same => n,Hangup()
[telephony-inbound]
exten => +861088880008,1,Goto(lab-asked,s,1)
"""
)
ASKED_SECONDS = 3.0


async def test_keys_count_while_an_app_is_asked(lab: Lab, tmp_path: Path) -> None:
    """By events and by INFO, in the words that cover the wait and in the silence behind them."""
    received: list[Json] = []

    async def app(request: web.Request) -> web.Response:
        body = Webhook(SECRET).verify(await request.text(), dict(request.headers))
        received.append(body)
        if body["type"] == "ivr.lookup":
            known = body["data"]["caller"] != number(3)
            profile = {"vip": "yes", "language": "en", "first": 7}
            return web.json_response(profile) if known else web.Response(status=404)
        await asyncio.sleep(ASKED_SECONDS)
        return web.json_response({})

    server = TestServer(web.Application())
    server.app.router.add_post("/", app)
    kept = tmp_path / "kept"
    kept.mkdir()
    presses = [("2", 0.7, False), ("2", 2.3, False), ("2", 2.3, True), ("2", 2.5, False)]
    async with server:
        url = str(server.make_url("/"))
        trees = tmp_path / "trees"
        trees.mkdir()
        (trees / "asked.yaml").write_text(ASKED.replace("URL", url), "utf-8")
        asked = {"lookup_url": url, "recordings_dir": str(kept), "allow_private": ["127.0.0.0/8"]}
        only = {"inbound": "asked", "numbers": {}}
        seen = Onlooker(lab)
        async with (
            own_dialplan(lab, ASKING),
            controller(lab, tmp_path, trees, **asked, **only),
            seen.watching(),
        ):
            calls = []
            for index, (keys, after, by_info) in enumerate(presses):
                phone = Phone()
                phone.soon(keys, after)
                calls.append(
                    await lab.carrier.place(
                        "+861088880008", phone, caller=number(index), keys_by_info=by_info
                    )
                )
            await asyncio.gather(*(call.wait_ended(40) for call in calls))
    notes = set()
    for index in range(len(presses)):
        (end,) = seen.of(number(index), "Newexten", context="lab-asked", application="NoOp")
        *told, note = end.data.removeprefix("went on: ").split()
        assert told == (["noted", "zh-CN", "0"] if index == 3 else ["noted", "en", "7", "yes"]), end.data
        assert (kept / f"{note}.wav").stat().st_size > 8000
        notes.add(note)
        options = [
            step
            for step in seen.of(number(index), "AGIExecStart")
            if step.application.startswith("GET OPTION")
        ]
        assert not options, "the key was there before the menu was said"
    assert len(notes) == len(presses)
    assert sorted(one["type"] for one in received) == ["ivr.lookup"] * 4 + ["ivr.webhook"] * 4
