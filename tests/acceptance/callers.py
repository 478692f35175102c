"""People who call a tree of the lab's PBX, and an onlooker who sees where the PBX takes each of them.

The onlooker is an AMI user with every right; a caller is known by the number that calls.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from telephony.lab import Lab
from telephony.net.ami import AmiClient, AmiConfig
from telephony.wire.ami import Message

PEOPLE = """\
[globals](+)
TELEPHONY_TREE_861088880001=ride-hotline
TELEPHONY_TREE_861088880002=car-rescue
; Whoever is handed over is with a person here: a tone says so.
[agents]
exten => _[a-z].,1,NoOp(person)
 same => n,Playtones(1004)
 same => n,Wait(2)
 same => n,Hangup()
[safety]
exten => 9110,1,NoOp(person)
 same => n,Playtones(1004)
 same => n,Wait(2)
 same => n,Hangup()
[numbers]
exten => _[+0-9]!,1,NoOp(person)
 same => n,Playtones(1004)
 same => n,Wait(2)
 same => n,Hangup()
"""


@dataclass(frozen=True)
class Step:
    """Something that the PBX did with a caller; `at` is `time.monotonic()`."""

    at: float
    kind: str
    context: str
    extension: str
    application: str
    data: str


@dataclass
class Onlooker:
    """What the PBX did with each caller, in order. `told` is called with every step."""

    lab: Lab
    steps: dict[str, list[Step]] = field(default_factory=lambda: defaultdict(list))
    told: Callable[[str, Step], None] | None = None
    _ids: dict[str, str] = field(default_factory=dict)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[Onlooker]:
        state = self.lab.state
        ami = AmiClient(
            AmiConfig(
                host=self.lab.pbx.address,
                port=self.lab.pbx.ami_port,
                username=state.test_user,
                secret=state.test_secret,
                event_names=("Newexten", "VarSet", "AGIExecStart", "AGIExecEnd", "Hangup"),
                event_queue_size=200_000,
            )
        )
        await ami.start()
        assert await ami.wait_connected(10)
        task = asyncio.create_task(self._read(ami))
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await ami.stop()

    async def _read(self, ami: AmiClient) -> None:
        while True:
            event = await ami.next_item()
            if isinstance(event, Message):
                self._take(event)

    def _take(self, event: Message) -> None:
        caller = self._ids.setdefault(event.get("Uniqueid"), event.get("CallerIDNum"))
        if event.name == "Newexten":
            application, data = event.get("Application"), event.get("AppData")
        elif event.name == "VarSet":
            application, data = event.get("Variable"), event.get("Value")
        else:
            application, data = event.get("Command"), event.get("Result")
        step = Step(time.monotonic(), event.name, event.get("Context"), event.get("Exten"), application, data)
        self.steps[caller].append(step)
        if self.told is not None:
            self.told(caller, step)

    def of(self, caller: str, kind: str, **wanted: str) -> list[Step]:
        """The steps of a kind with a caller, such as `context="agents"`."""
        return [
            step
            for step in self.steps[caller]
            if step.kind == kind and all(getattr(step, name) == value for name, value in wanted.items())
        ]

    def id_of(self, caller: str) -> str:
        """The PBX's id of the caller's channel."""
        return next(key for key, value in self._ids.items() if value == caller)

    def person(self, caller: str) -> tuple[str, str] | None:
        """Which person the caller reached: context and extension."""
        for step in self.of(caller, "Newexten", application="NoOp", data="person"):
            return step.context, step.extension
        return None

    async def until(self, wanted: Callable[[], bool], timeout: float, what: str) -> None:
        deadline = time.monotonic() + timeout
        while not wanted():
            assert time.monotonic() < deadline, what
            await asyncio.sleep(0.05)


def number(index: int) -> str:
    """A caller."""
    return f"+86139{index:08d}"


def trees_in(folder: Path) -> Path:
    """The examples, without their golden conversations, as a folder of a user's own."""
    from telephony.resources import data_dir

    target = folder / "trees"
    target.mkdir()
    for path in (data_dir("dialplans") / "ivr").glob("*.yaml"):
        if not path.name.endswith(".test.yaml"):
            (target / path.name).write_text(path.read_text("utf-8"), "utf-8")
    return target
