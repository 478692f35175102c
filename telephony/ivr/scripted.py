"""A caller and a world that follow a script: the `CallSession` port and the services, without a PBX.

A script is a list of what is done at each question: `1`, `4711#`, `timeout`, `hangup`. With a `!` before
it, it is done while something is said: `!2` cuts the words short, `!hangup` leaves. Where the script
is over, the caller is silent. What it never does: wait, or make a sound.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from telephony.errors import CallEnded
from telephony.ivr.ports import (
    CallbackOrder,
    CallFacts,
    Place,
    QueueEnd,
    QueueOrder,
    SurveyAnswer,
    TransferEnd,
    TransferOrder,
    WebhookOrder,
)
from telephony.ivr.saying import words_of
from telephony.ivr.standins import Services
from telephony.model.media import Media
from telephony.model.prompt import Prompt
from telephony.pbx.port import CallSession, Gathered, NotBefore

TIMEOUT: Final = "timeout"
HANG_UP: Final = "hangup"
TOKEN: Final = re.compile(r"timeout|!?hangup|!?[0-9*#]{1,64}")

_SECONDS_PER_LETTER: Final = 0.1


class ScriptedClock:
    """A clock that stands still but for what the call takes."""

    def __init__(self, at: datetime) -> None:
        self._now = at

    def now(self) -> datetime:
        """The moment that the script has come to."""
        return self._now

    def pass_by(self, seconds: float) -> None:
        """Let time pass."""
        self._now += timedelta(seconds=seconds)


class SilentVoice:
    """Makes no sound, and remembers what it would have said."""

    def __init__(self) -> None:
        self.said: dict[str, tuple[Prompt, str]] = {}

    async def compose(self, prompt: Prompt, locale: str) -> Media:
        """A sound that is none; its length is a guess."""
        name = f"/simulated/{len(self.said)}"
        self.said[name] = (prompt, locale)
        return Media(name, _SECONDS_PER_LETTER * len(words_of(prompt)))

    def discard(self, media: Media) -> None:
        """Nothing lies anywhere."""


@dataclass(slots=True)
class ScriptedSession:
    """The caller. `ask` is asked for more where the script is over (None: there is no more).

    `hear` is told of every sound as it begins.
    """

    clock: ScriptedClock
    script: Sequence[str] = ()
    id: str = "simulated"
    caller: str = ""
    called: str = ""
    arguments: Mapping[str, str] = field(default_factory=dict)
    ask: Callable[[], str | None] | None = None
    hear: Callable[[Media], None] | None = None
    variables: dict[str, str] = field(default_factory=dict)
    transferred_to: tuple[str, str] | None = None
    answered: bool = False
    gone: bool = False
    _todo: deque[str] = field(init=False)
    _typed: str = ""
    _pressing: bool = False

    def __post_init__(self) -> None:
        self._todo = deque(self.script)

    @property
    def machine(self) -> bool:
        """A person, always."""
        return False

    async def hear_out(self, timeout: float) -> bool:
        """Nobody speaks before us."""
        self._still_there()
        return True

    async def answer(self) -> None:
        """Take the call."""
        self._still_there()
        self.answered = True

    async def play(self, media: Media, *, barge_in: str = "") -> str | None:
        """Play; keys typed before, or a `!` of the script, cut it short where they may."""
        self._still_there()
        self._begin(media)
        key = self._barge_in() if barge_in else ""
        if not key:
            self._leave_if("!hangup")
            self.clock.pass_by(media.seconds)
        self._pressing = bool(key)
        return key or None

    async def gather(
        self,
        media: Media | None,
        *,
        max_digits: int,
        timeout: float,
        inter_digit_timeout: float = 2.0,
        terminator: str = "#",
        guarded: bool = False,
        not_before: NotBefore | None = None,
    ) -> Gathered:
        """Take what the script says for this question."""
        self._still_there()
        if media is not None:
            self._begin(media)
        going_on = media is None and self._pressing
        if not self._typed and not going_on and not self._barge_in_now():
            self._leave_if("!hangup")
            self.clock.pass_by(media.seconds if media else 0.0)
            self._take_next()
        digits = ""
        while self._typed and len(digits) < max_digits:
            key, self._typed = self._typed[0], self._typed[1:]
            if key in terminator:
                self._pressing = False
                return Gathered(digits, "terminator")
            digits += key
        self._pressing = bool(digits)
        if len(digits) >= max_digits:
            return Gathered(digits, "max_digits")
        self.clock.pass_by(inter_digit_timeout if digits else timeout)
        return Gathered(digits, "timeout")

    async def record(
        self, name: str, *, max_seconds: float, silence_seconds: float = 3.0, terminators: str = "#"
    ) -> float:
        """Say something for a while."""
        self._still_there()
        self._pressing = False
        self.clock.pass_by(min(max_seconds, 5.0))
        return min(max_seconds, 5.0)

    async def transfer(self, extension: str, context: str) -> None:
        """Note where to."""
        self._still_there()
        self.transferred_to = (extension, context)
        self.gone = True

    async def set_variable(self, name: str, value: str) -> None:
        """Note it."""
        self._still_there()
        self.variables[name] = value

    def hand_back(self, values: Mapping[str, str]) -> None:
        """Note them."""
        self.variables.update(values)

    async def hold(self, silence: Media, until: asyncio.Future[Any]) -> str:
        """Nobody presses anything meanwhile."""
        self._still_there()
        await asyncio.wait({until})
        return ""

    async def guard(self, seconds: float) -> None:
        """Nothing to do: nobody freezes here."""
        self._still_there()

    async def extend(self, seconds: float) -> None:
        """No PBX, no limit."""
        self._still_there()

    async def hangup(self) -> None:
        """End the call."""
        self.gone = True

    def _still_there(self) -> None:
        if self.gone:
            raise CallEnded

    def _begin(self, media: Media) -> None:
        if self.hear is not None:
            self.hear(media)

    def _leave_if(self, token: str) -> None:
        if self._todo and self._todo[0] == token:
            self.gone = True
            raise CallEnded

    def _barge_in(self) -> str:
        """The next key that is typed already, or pressed while something is said."""
        if not self._typed:
            self._barge_in_now()
        key, self._typed = self._typed[:1], self._typed[1:]
        return key

    def _barge_in_now(self) -> bool:
        if self._todo and self._todo[0].startswith("!") and self._todo[0] != "!hangup":
            self._typed = self._todo.popleft()[1:]
            return True
        return False

    def _take_next(self) -> None:
        token = self._todo.popleft() if self._todo else self.ask() if self.ask is not None else TIMEOUT
        if token in (HANG_UP, None):
            self.gone = True
            raise CallEnded
        if token != TIMEOUT:
            self._typed = token or ""


@dataclass(frozen=True, slots=True)
class World:
    """How everybody else behaves. `webhooks` and `transfers` are by node, `queues` by name.

    A webhook without an entry gets no answer; a queue or a transfer takes the call over, as a dialplan would.
    `without` names services that are not there: queue, transfer, callback, survey, record.
    """

    profile: Mapping[str, object] | None = None
    webhooks: Mapping[str, Mapping[str, object] | None] = field(default_factory=dict)
    queues: Mapping[str, QueueEnd] = field(default_factory=dict)
    transfers: Mapping[str, TransferEnd] = field(default_factory=dict)
    without: frozenset[str] = frozenset()

    def services(self, clock: ScriptedClock) -> Services:
        """The ports of this world."""
        desk = _Desk(self)
        return Services(
            clock=clock,
            webhooks=desk,
            profiles=desk,
            queues=_Queues(self),
            transfers=_Transfers(self),
            callbacks=desk,
            surveys=desk,
            recordings=desk,
        )


class _Desk:
    """Everything that can be answered at once."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._placed = 0

    @property
    def open(self) -> bool:
        return "survey" not in self._world.without

    async def ask(self, order: WebhookOrder) -> Mapping[str, object] | None:
        return self._world.webhooks.get(order.call.node)

    async def find(self, call: CallFacts, timeout: float) -> Mapping[str, object] | None:
        return self._world.profile

    async def book(self, order: CallbackOrder) -> bool:
        return "callback" not in self._world.without

    async def keep(self, answer: SurveyAnswer) -> bool:
        return self.open

    def place(self, call: CallFacts) -> Place | None:
        if "record" in self._world.without:
            return None
        self._placed += 1
        return Place(f"rec_{self._placed}", f"/simulated/rec_{self._placed}")


class _Queues:
    def __init__(self, world: World) -> None:
        self._world = world

    async def wait(self, session: CallSession, order: QueueOrder) -> QueueEnd:
        if "queue" in self._world.without:
            return QueueEnd.UNAVAILABLE
        return self._world.queues.get(order.queue, QueueEnd.HANDED_OVER)


class _Transfers:
    def __init__(self, world: World) -> None:
        self._world = world

    async def transfer(self, session: CallSession, order: TransferOrder) -> TransferEnd:
        if "transfer" in self._world.without:
            return TransferEnd.UNAVAILABLE
        end = self._world.transfers.get(order.call.node, TransferEnd.HANDED_OVER)
        if end is TransferEnd.HANDED_OVER and order.extension:
            await session.transfer(order.extension, order.context)
        return end
