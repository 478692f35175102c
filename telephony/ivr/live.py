"""Golden conversations on real calls: callers who press when they have heard a question, or ahead of it.

The rest of the world (apps, queues, the time of day) is as each conversation says; only the PBX is real.
Callers are known by the number that calls. What it never does: know where the calls come from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from telephony.errors import CallEnded, TelephonyError
from telephony.ivr.golden import Conversation, world_of
from telephony.ivr.interpreter import Interpreter
from telephony.ivr.scripted import HANG_UP, TIMEOUT, ScriptedClock
from telephony.ivr.simulate import HUNG_UP, moment
from telephony.ivr.sounds import Sounds
from telephony.ivr.transcript import PhrasesOf, transcript
from telephony.ivr.tree import Tree
from telephony.model.media import Media
from telephony.pbx.port import CallSession, Gathered

HEARD_OUT: Final = 0.4
"""Seconds after the end of a prompt until somebody presses a key."""

IN_BETWEEN: Final = 0.4
"""Seconds after its beginning until somebody interrupts it."""

Press: TypeAlias = Callable[[str, float], None]
"""Makes a caller press keys, or `hangup`, in so many seconds."""


@dataclass(slots=True)
class Finger:
    """Does at each question what a script says; as `ivr.scripted` does in the simulator."""

    press: Press
    script: Sequence[str]
    todo: deque[str] = field(init=False)
    typed: int = 0
    pressing: bool = False

    def __post_init__(self) -> None:
        self.todo = deque(self.script)

    def hears(self, seconds: float, *, question: bool, going_on: bool = False) -> None:
        """A sound of this length begins; a question follows it or not."""
        if self.typed > 0 or going_on:
            return
        token = self.todo[0] if self.todo else TIMEOUT
        if token.startswith("!"):
            self._do(token[1:], IN_BETWEEN)
        elif question:
            self._do(token, seconds + HEARD_OUT)
        else:
            return
        if self.todo:
            self.todo.popleft()

    def _do(self, token: str, after: float) -> None:
        if token == HANG_UP:
            self.press(HANG_UP, after)
        elif token != TIMEOUT:
            self.typed += len(token)
            self.press(token, after)


class Cued:
    """A real session whose caller is told when to press. Everything else is the session's own."""

    def __init__(
        self, session: CallSession, finger: Finger, caller: str, called: str, away: tuple[str, str]
    ) -> None:
        """`away` is an extension and its context, where callers who are handed over go."""
        self._session = session
        self._finger = finger
        self._away = away
        self.caller = caller
        self.called = called

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    async def play(self, media: Media, *, barge_in: str = "") -> str | None:
        """Play, and let the caller interrupt."""
        finger = self._finger
        if barge_in or (finger.todo and finger.todo[0] == f"!{HANG_UP}"):
            finger.hears(media.seconds, question=False)
        key = await self._session.play(media, barge_in=barge_in)
        finger.typed -= bool(key)
        finger.pressing = bool(key)
        return key

    async def gather(self, media: Media | None, **how: Any) -> Gathered:
        """Ask, and let the caller answer."""
        finger = self._finger
        going_on = media is None and finger.pressing
        finger.hears(media.seconds if media else 0.0, question=True, going_on=going_on)
        gathered = await self._session.gather(media, **how)
        finger.typed -= len(gathered.digits) + (gathered.ended_by == "terminator")
        finger.pressing = bool(gathered.digits) and gathered.ended_by != "terminator"
        return gathered

    async def record(self, name: str, **how: Any) -> float:
        """Nothing is recorded: the place is a simulated one."""
        return 0.0

    async def transfer(self, extension: str, context: str) -> None:
        """Wherever it is to, there is nobody but a stand-in."""
        await self._session.transfer(*self._away)


@dataclass(slots=True)
class Stage:
    """Takes sessions that come in, and plays on each the conversation of its caller.

    `parts` are a tree's name and a conversation by the caller's number, `press` makes a caller press. What
    came of each is in `texts`.
    """

    trees: Mapping[str, Tree]
    parts: Mapping[str, tuple[str, Conversation]]
    press: Callable[[str], Press]
    sounds: Callable[[], Sounds]
    phrases: PhrasesOf
    away: tuple[str, str]
    texts: dict[str, str] = field(default_factory=dict)

    async def __call__(self, session: CallSession) -> None:
        """Play; a caller without a conversation is left to the dialplan."""
        who = session.caller
        if who not in self.parts:
            return
        name, part = self.parts[who]
        tree = self.trees[name]
        finger = Finger(self.press(who), part.keys)
        cued = Cued(session, finger, part.caller, part.called, self.away)
        sounds = self.sounds()
        walk = Interpreter(
            tree,
            cued,
            sounds,
            world_of(part).services(ScriptedClock(moment(part.at, tree))),
            trees=self.trees,
            variables=part.variables,
            language=part.language,
        )
        result = HUNG_UP
        try:
            ending = await walk.run()
            result = ending.result
            if ending.with_dialplan:
                with suppress(TelephonyError):
                    await session.transfer(*self.away)
            else:
                await session.hangup()
        except CallEnded:
            pass
        finally:
            self.texts[who] = transcript(walk.visits, result, self.phrases)
            await sounds.close()
