"""Twenty persons and twenty answering machines at once: who is taken for whom, and what each of them hears.

How many were judged right is printed at the end of the run. What a telephone hears is judged by its own
recording.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from telephony.app import Controller, running
from telephony.lab import CarrierCall, Lab, answer_and_listen, hang_up_early, press_keys
from telephony.lab.ear import first_sound, hear
from telephony.model.prompt import Amount, Part, Phrase, Prompt
from telephony.settings import check_settings
from telephony.speech.g711 import from_ulaw
from tests.acceptance.control import Api, Json, api_of, settings_of
from tests.acceptance.greetings import MACHINES, PERSONS, Line, beep_of, sound_of, write

pytestmark = pytest.mark.lab

FLOOR = 18
"""Of twenty. Measured: 20 persons and 19 machines, all but the one that pauses long after its first words."""

PRESSES_AT = 16.0
"""Seconds after the answer: the amount has been said by then, and the last asking is not over."""

LONGEST_WAIT = 5.0 + 0.3 + 1.2
"""Seconds of quiet after the answer: AMD's limit, the silence that leads in, and what a busy machine adds."""

PARTS = 4
"""In how many parts the ear knows a sound."""

RECORDS = 15.0
"""Seconds that a machine records."""

NUMBER = "+8613800004321"


@dataclass
class Phone:
    """One telephone of the test, and what became of its call."""

    line: Line
    number: str
    wanted: str
    sound: Path
    beep: Path | None = None
    beep_ended: float = 0.0
    """Seconds after the answer."""
    attempt: Json | None = None
    heard: tuple[str, ...] = ()
    """Parts of sounds that were heard, by their labels."""
    first: float | None = None
    picked_up: float = 0.0
    """Wall-clock time, as the carrier has it."""

    @property
    def taken_for_a_machine(self) -> bool:
        assert self.attempt is not None
        return self.attempt["end_reason"] in ("machine", "message_left")

    def parts_heard(self, sound: str) -> int:
        return sum(label.startswith(sound) for label in self.heard)

    async def script(self, call: CarrierCall) -> None:
        await call.ring()
        await call.answer(after=0.3)
        await call.say(self.sound)
        if self.beep is None:
            await call.press("1", after=max(0.0, PRESSES_AT - call.seconds_since_answer()))
            await call.listen()
        else:
            await call.say(self.beep)
            self.beep_ended = call.seconds_since_answer()
            await call.listen(RECORDS)


def phones_of(lines: tuple[Line, ...], folder: Path, prefix: str) -> list[Phone]:
    phones = []
    for index, line in enumerate(lines):
        phone = Phone(
            line,
            f"+8613{8 + index % 2}{prefix}{index:04d}",
            ("hang_up", "leave_message")[index // 2 % 2],
            write(folder / f"{prefix}-{index}.wav", sound_of(line)),
        )
        if lines is MACHINES:
            phone.beep = write(folder / f"{prefix}-{index}-beep.wav", beep_of(line))
        phones.append(phone)
    return phones


@asynccontextmanager
async def controller(lab: Lab, folder: Path) -> AsyncIterator[tuple[Controller, Api]]:
    async with running(check_settings(settings_of(lab, folder))) as one, api_of(one.url) as api:
        yield one, api


async def pay(api: Api, to: str, detection: str) -> Json:
    order = {"to": to, "order_id": "A7", "amount": "128.50", "currency": "CNY", "payee": "Taxi"}
    body = {**order, "machine_detection": detection, "retry": {"attempts": 1}}
    return await api.post("/v1/payment-confirmations", body, status=201)


async def clips_of(one: Controller) -> dict[str, NDArray[np.int16]]:
    """What is listened for, as the studio says it, in parts: a busy machine leaves out some 20 ms now and
    then, and a clip that is longer than the stretches between would not be known again."""
    said: dict[str, Part] = {
        "amount": Amount(Decimal("128.50"), "CNY"),
        "voicemail": Phrase("payment.voicemail", (("brand", "Acme"),)),
    }
    clips = {}
    for label, part in said.items():
        media = await one.studio.compose(Prompt((part,)), "en")
        sound = np.array(from_ulaw(Path(f"{media.name}.ulaw").read_bytes()), dtype=np.int16)
        one.studio.discard(media)
        for index, clip in enumerate(np.array_split(sound, PARTS)):
            clips[f"{label} {index}"] = clip
    return clips


async def test_persons_are_asked_and_machines_are_not(
    lab: Lab, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    persons = phones_of(PERSONS, tmp_path, "8000")
    machines = phones_of(MACHINES, tmp_path, "8001")
    phones = [*persons, *machines]
    for phone in phones:
        lab.carrier.subscribe(phone.number, phone.script)
    async with controller(lab, tmp_path) as (one, api):
        clips = await clips_of(one)
        made = await asyncio.gather(*(pay(api, phone.number, phone.wanted) for phone in phones))
        for phone, payment in zip(phones, made, strict=True):
            (phone.attempt,) = (await api.call_ended(payment, 120))["attempts"]
    for phone in phones:
        (call,) = lab.carrier.calls_to(phone.number)
        await call.wait_ended()
        assert call.heard is not None
        phone.heard = tuple({one.label for one in await asyncio.to_thread(hear, call.heard, clips)})
        phone.first = first_sound(call.heard)
        assert call.answered_at is not None
        phone.picked_up = call.arrived_at + call.answered_at - call.arrived_mono
    tell("persons", persons, [not phone.taken_for_a_machine for phone in persons], record_property)
    tell("machines", machines, [phone.taken_for_a_machine for phone in machines], record_property)
    waits = [phone.first for phone in persons if phone.first is not None and not phone.taken_for_a_machine]
    told = f"persons heard us {min(waits):.1f} to {max(waits):.1f} s after they picked up"
    record_property("told", told)
    print(told)
    for phone in phones:
        check(phone)
    assert max(waits) < LONGEST_WAIT
    assert not persons[-1].taken_for_a_machine, "whoever says nothing is no machine"
    assert sum(not phone.taken_for_a_machine for phone in persons) >= FLOOR
    assert sum(phone.taken_for_a_machine for phone in machines) >= FLOOR


def tell(
    who: str, phones: list[Phone], right: list[bool], record_property: Callable[[str, object], None]
) -> None:
    missed = [phone.line.name for phone, was in zip(phones, right, strict=True) if not was]
    told = f"{who} judged right: {sum(right)} of {len(right)}" + (
        f", not: {', '.join(missed)}" if missed else ""
    )
    record_property("told", told)
    print(told)


def check(phone: Phone) -> None:
    """Hold what a telephone heard against what it was taken for."""
    assert phone.attempt is not None
    reason, about = phone.attempt["end_reason"], f"{phone.line.name}: {phone.attempt} {phone.heard}"
    answered = datetime.fromisoformat(phone.attempt["answered_at"]).timestamp()
    assert abs(answered - phone.picked_up) < 1.0, about
    amount, message = phone.parts_heard("amount"), phone.parts_heard("voicemail")
    if not phone.taken_for_a_machine:
        assert amount >= PARTS / 2, about
        assert message == 0, about
        assert phone.beep is not None or reason == "confirmed", about
        return
    assert amount == 0, about
    if phone.wanted == "hang_up":
        assert reason == "machine", about
        assert phone.first is None, about
        return
    assert reason == "message_left", about
    assert message >= PARTS / 2, about
    assert phone.first is not None
    assert phone.first >= phone.beep_ended, (
        f"spoke at {phone.first} into a tone till {phone.beep_ended}, {about}"
    )


async def test_whoever_leaves_while_the_pbx_listens(lab: Lab, tmp_path: Path) -> None:
    """A hang-up is a person's, a cancel is a cancel, and a machine that ends the call got no message."""
    greeting = write(tmp_path / "greeting.wav", sound_of(MACHINES[0]))

    async def full_mailbox(call: CarrierCall) -> None:
        await call.ring()
        await call.answer(after=0.1)
        await call.say(greeting)
        await call.hang_up(after=0.5)

    hasty, canceled, full = (f"+861380000432{digit}" for digit in range(3))
    lab.carrier.subscribe(hasty, hang_up_early(answer_after=0.1, hang_up_after=1.0))
    lab.carrier.subscribe(canceled, answer_and_listen(after=0.1))
    lab.carrier.subscribe(full, full_mailbox)
    async with controller(lab, tmp_path) as (_, api):
        one, two, three = [await pay(api, number, "leave_message") for number in (hasty, canceled, full)]
        rung = await lab.carrier.wait_for_call(canceled)
        await rung.wait_answered()
        await asyncio.sleep(0.5)
        await api.post(f"/v1/payment-confirmations/{two['id']}/cancel")
        calls = [await api.call_ended(payment) for payment in (one, two, three)]
        assert [(call["status"], call["attempts"][0]["end_reason"]) for call in calls] == [
            ("completed", "hung_up_early"),
            ("canceled", "canceled"),
            ("completed", "machine"),
        ]
        assert all(call["attempts"][0]["answered_at"] for call in calls)
    await rung.wait_ended()
    assert rung.answered_at is not None
    assert rung.ended_at is not None
    assert rung.ended_at - rung.answered_at < 2.5


async def test_a_pbx_that_cannot_tell_machines_asks_everybody(lab: Lab, tmp_path: Path) -> None:
    lab.carrier.subscribe(NUMBER, press_keys([(2.0, "1"), (9.0, "1")]))
    await lab.pbx.console("module unload app_amd.so")
    try:
        async with controller(lab, tmp_path) as (_, api):
            call = await api.call_ended(await pay(api, NUMBER, "hang_up"))
    finally:
        await lab.pbx.console("module load app_amd.so")
    assert call["attempts"][0]["end_reason"] == "confirmed"
    (rung,) = lab.carrier.calls_to(NUMBER)
    await rung.wait_ended()
    assert rung.heard is not None
    first = first_sound(rung.heard)
    assert first is not None
    assert first < 1.5
