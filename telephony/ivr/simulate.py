"""A call without a PBX: the interpreter itself, on a scripted session, in a scripted world.

What it never does: wait, or reach the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

from telephony.errors import CallEnded, InputError
from telephony.ivr.hours import timetable
from telephony.ivr.interpreter import Interpreter
from telephony.ivr.journal import Visit
from telephony.ivr.scripted import TOKEN, ScriptedClock, ScriptedSession, SilentVoice, World
from telephony.ivr.sounds import Sounds
from telephony.ivr.transcript import PhrasesOf, transcript
from telephony.ivr.tree import Tree
from telephony.model.media import Media

HUNG_UP: Final = "hung_up"


@dataclass(frozen=True, slots=True)
class Simulated:
    """A call that was played. `result` is TELEPHONY_RESULT, or `hung_up` where the caller left.

    `handed_back` are the channel variables that the dialplan would see.
    """

    result: str
    visits: tuple[Visit, ...]
    handed_back: Mapping[str, str]
    transferred_to: tuple[str, str] | None

    def text(self, phrases: PhrasesOf) -> str:
        """The transcript."""
        return transcript(self.visits, self.result, phrases)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, when, and what is done at each question (see `scripted`)."""

    keys: Sequence[str] = ()
    at: datetime = datetime(2026, 1, 5, 10, 0, tzinfo=UTC)
    number: str = ""
    called: str = ""
    language: str = ""
    variables: Mapping[str, object] = field(default_factory=dict)


async def simulate(
    tree: Tree,
    caller: Caller,
    world: World | None = None,
    *,
    trees: Mapping[str, Tree] | None = None,
    ask: Callable[[], str | None] | None = None,
    hear: Callable[[SilentVoice, Media], None] | None = None,
    watch: Callable[[Visit], None] | None = None,
) -> Simulated:
    """Play a call. Raises `InputError` for a key that no telephone has."""
    for token in caller.keys:
        if not TOKEN.fullmatch(token):
            mend = "Write keys (1, 4711#, *), timeout, hangup, or ! before what is done while it speaks"
            raise InputError("keys", f"{token[:64]!r} can't be done", mend)
    clock = ScriptedClock(caller.at)
    voice = SilentVoice()
    session = ScriptedSession(
        clock,
        caller.keys,
        caller=caller.number,
        called=caller.called,
        ask=ask,
        hear=None if hear is None else lambda media: hear(voice, media),
    )
    sounds = Sounds(voice)
    walk = Interpreter(
        tree,
        session,
        sounds,
        (world or World()).services(clock),
        trees=trees,
        variables=caller.variables,
        language=caller.language,
        watch=watch,
    )
    try:
        result = (await walk.run()).result
    except CallEnded:
        result = HUNG_UP
    finally:
        await sounds.close()
    return Simulated(result, walk.visits, session.variables, session.transferred_to)


def moment(text: str, tree: Tree) -> datetime:
    """Read `2026-12-24 19:30`, on the wall clock of the tree's first hours where it names no zone."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise InputError("at", f"{text[:40]!r} is no moment", 'Write "2026-12-24 19:30"') from None
    if when.tzinfo is not None:
        return when
    zones = [timetable(hours).zone for hours in tree.hours.values()]
    return when.replace(tzinfo=zones[0] if zones else ZoneInfo("UTC"))
