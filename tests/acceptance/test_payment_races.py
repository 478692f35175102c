"""A key on a real phone, the app's cancel and the deadline at the same moment: one outcome, told once.

The key comes by DTMF over RTP, the cancel over HTTP, the deadline by the clock. What the person heard is
taken from the far end's recording, and held against the row, the webhook, and the answer to the cancel.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from telephony.lab import Lab, Subscriber
from telephony.lab.carrier import CarrierCall
from telephony.lab.ear import hear
from telephony.model.prompt import Phrase, Prompt
from telephony.pbx.asterisk.session import AgiSession
from telephony.pbx.port import Gathered
from telephony.speech.g711 import from_ulaw
from telephony.speech.studio import Studio
from tests.acceptance.control import Api, Json
from tests.acceptance.test_payments import Shop, ended, pay, shop_and_controller

pytestmark = pytest.mark.lab

SAID = {
    "confirmed": "payment.received",
    "declined": "payment.declined",
    "expired": "payment.closed",
    "canceled": "payment.canceled",
    "failed": "payment.failed",
}
HOLD = 0.12
"""Seconds from the press of a key to its release, when the PBX takes it."""

ON_ITS_WAY = 0.1
"""Seconds from there until the controller has the key, by the lab's own reckoning."""

KNOWN = 0.5
"""What makes an ending known: of a crowded machine's audio a packet may come late and shift the rest."""

AROUND = 0.15
"""How far from the others the key arrives at most, in seconds."""

LEAST_TTL = 30.0
ASKED_FOR = 17.0
"""Seconds for which the question stands when the key comes: the amount was said, the keys are being."""


async def endings(studio: Studio) -> dict[str, NDArray[np.int16]]:
    """The last words of a payment call, each as the ear wants it."""
    clips = {}
    for key in (*SAID.values(), "payment.no_input"):
        media = await studio.compose(Prompt((Phrase(key),)), "en")
        clips[key] = np.array(from_ulaw(Path(f"{media.name}.ulaw").read_bytes()), dtype=np.int16)
        studio.discard(media)
    return clips


class Arrivals:
    """When each key reached the controller, by channel: to tell how well the moments were met."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at: dict[str, float] = {}
        original, arrivals = AgiSession.gather, self.at

        async def gather(session: AgiSession, *args: Any, **more: Any) -> Gathered:
            gathered = await original(session, *args, **more)
            if gathered.digits:
                arrivals[session.id] = time.time()
            return gathered

        monkeypatch.setattr(AgiSession, "gather", gather)


@dataclass
class Race:
    """One payment call. `key`, `cancel` and `deadline` are moments by `time.time()`; None: not in it."""

    number: str
    key: float
    cancel: float | None = None
    deadline: float | None = None
    payment: Json = field(default_factory=dict)
    canceled: tuple[int, Json] | None = None

    @property
    def kind(self) -> str:
        return "key, " + " and ".join(name for name in ("cancel", "deadline") if getattr(self, name))

    def subscriber(self) -> Subscriber:
        """A person who picks up in time to be asked, and whose key is released at the moment."""

        async def script(call: CarrierCall) -> None:
            await call.ring()
            await call.answer(after=max(0.1, self.key - time.time() - ASKED_FOR))
            await call.press("1", after=self.key - ON_ITS_WAY - HOLD - time.time())
            await call.listen()

        return script

    async def run(self, api: Api) -> None:
        more: Json = {}
        if self.deadline is not None:
            more["deadline"] = datetime.fromtimestamp(self.deadline, UTC).isoformat()
        self.payment = await pay(api, to=self.number, **more)
        if self.cancel is not None:
            await asyncio.sleep(self.cancel - time.time())
            self.canceled = await api.ask(
                "POST", f"/v1/payment-confirmations/{self.payment['id']}/cancel", {}
            )


def races_at(start: float, count: int) -> list[Race]:
    """A third of each kind, their keys spread evenly around what they meet.

    A deadline is at least 30 s away, so those without one are over while the others still ring.
    """
    races = []
    each = count // 3
    for kind in range(3):
        for number in range(each):
            around = AROUND * (2 * number / max(1, each - 1) - 1)
            # Not all at once: it is each one's own moment that is to be crowded.
            moment = start + 0.15 * number + (ASKED_FOR if kind == 0 else LEAST_TTL + 1.0)
            race = Race(f"+86138000{kind}{number:04d}", key=moment + around)
            if kind != 1:
                race.cancel = moment + (0.03 * (-1) ** number if kind == 2 else 0.0)
            if kind != 0:
                race.deadline = moment
            races.append(race)
    return races


async def judge(
    lab: Lab, api: Api, race: Race, event: Json, clips: dict[str, NDArray[np.int16]], folder: Path
) -> str:
    """Hold row, webhook, the cancel's answer and the person's ear against each other."""
    view = await ended(api, race.payment)
    status: str = view["status"]
    assert event["type"] == f"payment_confirmation.{status}"
    assert (event["data"]["status"], event["data"]["decided_by"]) == (status, view["decided_by"])
    if race.canceled is not None:
        code, answer = race.canceled
        assert (code == 200) == (status == "canceled"), (code, answer, status)
        assert code in (200, 409)
        assert code == 409 or answer["status"] == "canceled"
    call = await api.call_ended(race.payment)
    assert len(call["attempts"]) == 1
    (rung,) = lab.carrier.calls_to(race.number)
    await rung.wait_ended()
    assert rung.heard is not None
    heard = await asyncio.to_thread(hear, rung.heard, clips, threshold=KNOWN)
    if [one.label for one in heard] != [SAID[status]]:
        kept = shutil.copy(rung.heard, folder / f"{race.payment['id']}.wav")
        pytest.fail(f"{race.kind}: {status}, heard {heard}, recorded in {kept}")
    return status


async def all_told(shop: Shop, races: Sequence[Race]) -> dict[str, Json]:
    """The event of each payment; fails for a second one."""
    told: dict[str, Json] = {}
    async with asyncio.timeout(40):
        while len(told) < len(races):
            event = await shop.told.get()
            assert event["data"]["id"] not in told
            told[event["data"]["id"]] = event
    return told


async def run_races(lab: Lab, folder: Path, monkeypatch: pytest.MonkeyPatch, count: int, batch: int) -> None:
    arrivals = Arrivals(monkeypatch)
    winners: Counter[tuple[str, str]] = Counter()
    near = 0
    late: list[float] = []
    async with shop_and_controller(lab, folder) as (shop, api, controller):
        clips = await endings(controller.studio)
        for _ in range(0, count, batch):
            lab.carrier.reset()
            races = races_at(time.time() + 0.5, batch)
            for race in races:
                lab.carrier.subscribe(race.number, race.subscriber())
            await asyncio.gather(*(race.run(api) for race in races))
            calls = [await api.call_ended(race.payment) for race in races]
            told = await all_told(shop, races)
            for race, call in zip(races, calls, strict=True):
                status = await judge(lab, api, race, told[race.payment["id"]], clips, folder)
                winners[race.kind, status] += 1
                arrived = arrivals.at.get(call["attempts"][0]["id"])
                others = [at for at in (race.cancel, race.deadline) if at is not None]
                if arrived is not None:
                    late.append(arrived - race.key)
                    near += min(abs(arrived - at) for at in others) < 2 * AROUND
            assert shop.told.empty()
        deliveries = await api.get("/v1/webhook-deliveries?limit=200")
        assert len(deliveries["items"]) == count
        assert {one["status"] for one in deliveries["items"]} == {"delivered"}
    for (kind, status), won in sorted(winners.items()):
        print(f"{kind}: {status} {won}")
    print(f"keys came {1000 * sum(late) / len(late):.0f} ms late on average")
    print(f"{near} of {count} keys arrived within {2 * AROUND:g} s of what they met")
    assert near > count * 0.8
    kinds = {kind for kind, _ in winners}
    assert len(kinds) == 3
    for kind in kinds:
        assert winners[kind, "confirmed"] >= 1, winners
        assert sum(won for (one, status), won in winners.items() if one == kind and status != "confirmed")


async def test_key_cancel_and_deadline_meet(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run_races(lab, tmp_path, monkeypatch, count=12, batch=12)


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_key_cancel_and_deadline_meet_fifty_times(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run_races(lab, tmp_path, monkeypatch, count=54, batch=18)


ASKABLE = 14.0
"""Seconds after the answer at which the amount was said, and the keys are being."""

HUNG_UP = ("+8613800003006", "+8613800003007")


def presses(keys: Sequence[tuple[float, str]], *, hang_up: bool = False) -> Subscriber:
    """A person who presses keys so many seconds after the answer, and may hang up right behind the last."""

    async def script(call: CarrierCall) -> None:
        await call.ring()
        await call.answer(after=0.3)
        for at, key in keys:
            await call.press(key, after=max(0.0, at - call.seconds_since_answer()))
        if hang_up:
            await call.hang_up()
        await call.listen()

    return script


async def test_keys_at_awkward_moments(lab: Lab, tmp_path: Path) -> None:
    """Whatever becomes of such a key, the person, the row and the app are told the same of it."""
    people: dict[str, tuple[Subscriber, set[str]]] = {
        # The second key falls into "we have received your answer".
        "+8613800003001": (presses([(ASKABLE, "1"), (ASKABLE + 0.9, "2")]), {"confirmed"}),
        "+8613800003002": (presses([(ASKABLE, "12")]), {"confirmed"}),
        "+8613800003003": (presses([(2.0, "2"), (2.9, "1")]), {"declined"}),
        # A yes before the amount was said is none; neither with the first word nor in the middle of it.
        "+8613800003004": (presses([(0.0, "1"), (3.0, "2")]), {"declined"}),
        "+8613800003008": (presses([(2.0, "11"), (4.0, "1"), (6.0, "2")]), {"declined"}),
        # It leads on to the amount, after which it counts.
        "+8613800003009": (presses([(2.0, "1"), (8.0, "1")]), {"confirmed"}),
        # Another key that cuts the question short does not make it heard.
        "+8613800003010": (presses([(2.0, "*"), (3.0, "1"), (4.0, "5"), (5.0, "12")]), {"declined"}),
        # Pressed ahead of the first word: lost between two commands or taken, and then the other key counts.
        "+8613800003005": (presses([(0.0, "2"), (ASKABLE, "1")]), {"confirmed", "declined"}),
        # Hung up with the key: an answer all the same, and nobody is rung again.
        "+8613800003006": (presses([(ASKABLE, "1")], hang_up=True), {"confirmed"}),
        "+8613800003007": (presses([(2.0, "2")], hang_up=True), {"declined"}),
    }
    async with shop_and_controller(lab, tmp_path) as (shop, api, controller):
        clips = await endings(controller.studio)
        for number, (subscriber, _wanted) in people.items():
            lab.carrier.subscribe(number, subscriber)
        races = [Race(number, key=0.0) for number in people]
        for race in races:
            race.payment = await pay(api, to=race.number, retry={"attempts": 3, "pause": 1})
        told = await all_told(shop, races)
        for race in races:
            call = await api.call_ended(race.payment)
            assert len(call["attempts"]) == 1, race.number
            status = (await ended(api, race.payment))["status"]
            event = told[race.payment["id"]]
            assert event["type"] == f"payment_confirmation.{status}"
            assert status in people[race.number][1], (race.number, status)
            if race.number not in HUNG_UP:
                assert await judge(lab, api, race, event, clips, tmp_path) == status
            print(f"{race.number}: {event['data']['keys']} {status}")
        await asyncio.sleep(0.3)
        assert shop.told.empty()
