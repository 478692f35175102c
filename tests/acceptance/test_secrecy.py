"""Codes stay secret: searched for in all that a nosy person could read, after everything else has run.

The second half is an attack: an AMI listener with every right and a look at the media folder tries to
work codes out of names, sizes and durations.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from telephony.lab import Lab, answer_and_listen, busy, hang_up_early, press_keys
from tests.acceptance import evidence
from tests.acceptance.control import Api, ControllerProcess, Json, api_of, settings_of

pytestmark = pytest.mark.lab


@pytest_asyncio.fixture(loop_scope="session")
async def process(lab: Lab, tmp_path: Path) -> AsyncIterator[ControllerProcess]:
    controller = ControllerProcess(tmp_path, settings_of(lab, tmp_path))
    await controller.start()
    yield controller
    await controller.stop()


def spellings(code: str) -> list[bytes]:
    """How a code could stand in the open."""
    digits = list(code)
    return [
        code.encode(),
        " ".join(digits).encode(),
        ",".join(digits).encode(),
        "&".join(f"digits/{digit}" for digit in digits).encode(),
        base64.b64encode(code.encode()).rstrip(b"="),
        code.encode().hex().encode(),
        code[::-1].encode(),
        hashlib.sha256(code.encode()).hexdigest().encode(),
        hashlib.md5(code.encode()).hexdigest().encode(),
    ]


def everything() -> Iterator[tuple[str, bytes]]:
    for path in evidence.FILES:
        if path.exists():
            yield str(path), path.read_bytes()
    for database in evidence.DATABASES:
        if database.exists():
            yield str(database), dump(database)
    yield "HTTP replies", "\n".join(evidence.REPLIES).encode()
    yield "AMI events", bytes(evidence.EVENTS)


def dump(database: Path) -> bytes:
    """Every column of every table but the sealed one, as text."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        return "\n".join(connection.iterdump()).encode()


async def run_calls(lab: Lab, process: ControllerProcess) -> None:
    """Calls of every kind, in which the code is heard, repeated, cut off, killed, checked."""
    plans = {
        "+8613800000001": answer_and_listen(after=0.1),
        "+8613800000002": busy(),
        "+8613800000003": hang_up_early(hang_up_after=3.0),
        "+8613800000004": press_keys([(3.0, "*")]),
        "+8613800000005": press_keys([(1.0, "1")]),
    }
    for number, plan in plans.items():
        lab.carrier.subscribe(number, plan)
    async with api_of(process.url) as api:
        views = await asyncio.gather(
            *(
                api.verify(number, require_keypress=number.endswith("5"), locale=locale)
                for number, locale in zip(plans, ("en", "es", "zh-CN", "en", "es"), strict=True)
            )
        )
        await asyncio.gather(*(api.call_ended(view, 90) for view in views))
        codes = evidence.CODES[-len(views) :]
        await api.ask("POST", f"/v1/verifications/{views[0]['id']}/check", {"code": codes[0][::-1]})
        await api.ask("POST", f"/v1/verifications/{views[0]['id']}/check", {"code": codes[0]})
        await api.post(f"/v1/verifications/{views[1]['id']}/resend")
        await api.ask("POST", "/v1/verifications", {"to": "+8613800000001", "code": f"{codes[0]}x"})
        await api.ask("GET", "/v1/verifications")
        await api.ask("GET", "/v1/calls")
        lab.carrier.subscribe("+8613800000006", answer_and_listen(after=0.1))
        killed = await api.verify("+8613800000006")
        await api.until(f"/v1/calls/{killed['call_id']}", lambda call: call["status"] == "answered")
    process.signal(signal.SIGKILL)
    await process.kill()
    await process.start()


async def test_no_code_is_found_anywhere(lab: Lab, process: ControllerProcess) -> None:
    await run_calls(lab, process)
    await process.stop()
    searched = dict(everything())
    assert b"AGIExecStart" in searched["AMI events"], "the listener hears the AGI commands"
    assert any(b"STREAM FILE" in text for name, text in searched.items() if name.endswith("full"))
    assert any(b"verification" in text for name, text in searched.items() if name.endswith(".db"))
    assert any(b"call.ended" in text for name, text in searched.items() if name.endswith(".log"))
    for name, text in searched.items():
        for code in evidence.CODES:
            for spelling in spellings(code):
                # The request itself carries a code that the app chose, and nothing else does.
                assert spelling not in text, f"{name} holds a code as {spelling.decode()[:3]}…"


def test_the_search_finds_a_code_that_is_there(tmp_path: Path) -> None:
    leak = tmp_path / "leak.log"
    leak.write_text('{"event": "spoken", "files": "digits/4&digits/7&digits/1"}')
    found = [spelling for spelling in spellings("471") if spelling in leak.read_bytes()]
    assert found == [b"digits/4&digits/7&digits/1"]


@dataclass(frozen=True)
class Observed:
    """What the attacker has of one call."""

    names: tuple[str, ...]
    commands: tuple[str, ...]
    results: tuple[str, ...]
    sizes: tuple[int, ...]


async def test_names_sizes_and_durations_tell_nothing(lab: Lab, process: ControllerProcess) -> None:
    codes = [f"{d}{(d * 7 + 3) % 10}{(d * 3 + 1) % 10}{d}" for d in range(10)] + [
        "1111",
        "8888",
        "7170",
        "0000",
    ]
    media_dir = Path(f"/dev/shm/telephony-test-{lab.state.number}")
    mark = len(evidence.EVENTS)
    seen_sizes: dict[str, int] = {}
    async with api_of(process.url) as api:
        numbers = [f"+861380001{index:04d}" for index in range(len(codes))]
        for number in numbers:
            lab.carrier.subscribe(number, answer_and_listen(after=0.1))
        views = await asyncio.gather(
            *(api.verify(number, code=code) for number, code in zip(numbers, codes, strict=True))
        )
        calls = await watch(api, views, media_dir, seen_sizes)
        await asyncio.sleep(0.3)
        assert not list(media_dir.iterdir()), "the files go with the calls"
        wrong_again = await asyncio.gather(
            *(
                api.post(f"/v1/verifications/{view['id']}/check", {"code": code[::-1] + "9"})
                for view, code in zip(views, codes, strict=True)
            )
        )
        assert not any(check["valid"] for check in wrong_again)
    observed = [observe(call, bytes(evidence.EVENTS[mark:]).decode(), seen_sizes) for call in calls]
    assert all(one.names for one in observed)

    names = [name for one in observed for name in one.names]
    assert len(set(names)) == len(names), "a name that comes twice would tell that a code came twice"
    assert all(re.fullmatch(r"[0-9a-f]{32}", name) for name in names)
    guesses = {
        digest(text.encode()).hexdigest()[:32]
        for code in codes
        for text in (code, f"en{code}", f"en:{code}", f"Acme{code}")
        for digest in (hashlib.md5, hashlib.sha1, hashlib.sha256, hashlib.blake2b)
    }
    assert not guesses & set(names), "a name made from the code could be looked up"
    # All that is left to the attacker is alike for every code, so it tells nothing about any.
    assert len({one.sizes for one in observed}) == 1, {one.sizes for one in observed}
    assert len({one.commands for one in observed}) == 1, {one.commands for one in observed}
    assert len({one.results for one in observed}) == 1, {one.results for one in observed}


async def watch(api: Api, views: list[Json], media_dir: Path, sizes: dict[str, int]) -> list[Json]:
    """Wait for the calls' ends, noting the size of every file that comes by."""
    ends = asyncio.gather(*(api.call_ended(view) for view in views))
    while not ends.done():
        for path in media_dir.iterdir():
            try:
                sizes[path.name] = path.stat().st_size
            except FileNotFoundError:
                continue
        await asyncio.sleep(0.05)
    return await ends


def observe(call: Json, events: str, sizes: dict[str, int]) -> Observed:
    """Gather what the events of one call's channel tell."""
    channel = call["attempts"][0]["id"]
    blocks = [block for block in events.split("\r\n\r\n") if channel in block]
    commands, results, names = [], [], []
    for block in blocks:
        fields = dict(line.partition(": ")[::2] for line in block.split("\r\n"))
        if fields.get("Event") == "AGIExecStart":
            found = re.findall(r"[0-9a-f]{32}", fields["Command"])
            names += found
            command = fields["Command"]
            for name in found:
                command = command.replace(name, "NAME")
            commands.append(command)
        elif fields.get("Event") == "AGIExecEnd":
            results.append(f"{fields['ResultCode']} {fields['Result']}")
    one = tuple(sizes[f"{name}{ending}"] for name in names for ending in (".ulaw", ".alaw"))
    return Observed(tuple(names), tuple(commands), tuple(results), one)
