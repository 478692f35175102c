"""The port to a PBX: what every backend can do, in words that belong to none of them.

Each method says how Asterisk (AMI and AGI) and FreeSWITCH (event socket) do it. Nothing above this
room knows which one answers. What it never does: dial twice for one `DialOrder`, or guess.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, TypeAlias

from telephony.model.hangup import Cause, HangupCause
from telephony.model.media import Media


class IdentityForm(StrEnum):
    """Where a carrier looks for the caller's number."""

    FROM = "from"
    """In From alone; what the PBX's own configuration of the endpoint adds, it adds."""
    PAI = "pai"
    """In P-Asserted-Identity (RFC 3325)."""
    RPID = "rpid"
    """In Remote-Party-ID."""


class EarlyMedia(StrEnum):
    """What a carrier means by audio before the answer (183)."""

    RINGS = "rings"
    """The callee's phone rings."""
    ANNOUNCES = "announces"
    """Nothing yet: it may be an announcement. Only a 180 says that a phone rings."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a carrier wants a call to be told, and what it means by its answers; for one call at a time.

    `identity_number` goes where `identity` says, as a SIP address at `identity_domain` or, without one, as a
    `tel:` address (`RPID` needs a domain); From has the order's `caller_number` all the same. `dtmf_mode` is
    `rfc4733`, `info` or `inband`; empty: as the endpoint has it. An answer that the far end ends within
    `false_answer` seconds was an announcement, and nobody was reached; 0: every answer is one.
    """

    identity: IdentityForm = IdentityForm.FROM
    identity_number: str = ""
    identity_domain: str = ""
    dtmf_mode: str = ""
    early_media: EarlyMedia = EarlyMedia.RINGS
    false_answer: float = 0.0


@dataclass(frozen=True, slots=True)
class DialOrder:
    """One ring, ordered once.

    `attempt_id` becomes the channel's id; `number` is already in the trunk's dialect; times are in
    seconds. `max_duration` bounds the answered call even when the controller is frozen;
    `CallSession.extend` moves it. `dialed_at_ms` is what the attempt's row says, by which the PBX's note of
    its end is found again. `codecs` are all that is offered, in this order; none: as the endpoint has it.
    `detect_machines`: whether the PBX listens to who answers, five seconds at most, before the conversation
    begins; `CallSession.machine` tells what it heard.
    """

    attempt_id: str
    endpoint: str
    number: str
    caller_number: str
    caller_name: str = ""
    ring_timeout: float = 30.0
    max_duration: float = 120.0
    codecs: tuple[str, ...] = ()
    dialed_at_ms: int = 0
    detect_machines: bool = False
    dialect: Dialect = field(default_factory=Dialect)
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The PBX took the order; the phone has not rung yet."""


@dataclass(frozen=True, slots=True)
class Ringing:
    """An 18x came: the callee's phone rings."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The callee answered and the conversation can begin on `session`.

    `seconds_ago` is how long ago the phone was picked up: what the PBX took to tell a machine.
    """

    session: CallSession
    seconds_ago: float = 0.0


@dataclass(frozen=True, slots=True)
class Ended:
    """The leg is gone. Always the last event of a leg.

    `listened` is set where the phone was picked up, and hung up while the PBX listened for a machine: for
    how many seconds it had.
    """

    cause: HangupCause
    listened: float | None = None


@dataclass(frozen=True, slots=True)
class LinkLost:
    """The link to the PBX broke; the leg may still stand.

    Events follow again once the link is back: the backend compares the leg with the PBX's live
    channels and with what the PBX noted, and goes on with `Ringing`, or `Ended`.
    """


LegEvent: TypeAlias = Accepted | Ringing | Answered | Ended | LinkLost


class Fate(StrEnum):
    """What a PBX can tell of an attempt whose owner died."""

    LIVE = "live"
    """A channel with this id stands."""
    ANSWERED = "answered"
    """It was answered and is over."""
    NOT_ANSWERED = "not_answered"
    """It was dialled and ended without an answer."""
    NEVER_RANG = "never_rang"
    """The PBX has been up since before the dial and knows nothing of it."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Trace:
    """The fate of an attempt; `cause` is why it ended, `rang` whether the phone is known to have rung."""

    fate: Fate
    cause: HangupCause | None = None
    rang: bool = False


@dataclass(frozen=True, slots=True)
class LiveChannel:
    """A channel that stands in the PBX now. `seconds` is how long it has stood."""

    id: str
    name: str
    state: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Gathered:
    """Digits that were pressed. `ended_by` is `max_digits`, `terminator` or `timeout`.

    `heard` is how many seconds of the sound had been played when the first one came.
    """

    digits: str
    ended_by: str
    heard: float = 0.0


@dataclass(frozen=True, slots=True)
class NotBefore:
    """Keys that do not count before so many `seconds` of a sound have been played.

    One that comes earlier is let go, and the sound goes on: at `then`, where it has not come so far yet.
    """

    keys: str
    seconds: float
    then: float = 0.0


class Leg(Protocol):
    """An ordered call, from the order to its end."""

    async def next_event(self) -> LegEvent:
        """Wait for what happens next; after `Ended` it is not called again.

        Asterisk: `OriginateResponse`, `Newstate`, `DialState` and `Hangup` of the channel, and the FastAGI
        session.
        FreeSWITCH: `CHANNEL_PROGRESS`, `CHANNEL_ANSWER`, `CHANNEL_HANGUP_COMPLETE`, outbound socket.
        """
        ...

    async def hangup(self, cause: Cause = Cause.NORMAL) -> None:
        """End it, ringing or answered; a leg that is gone already is no error.

        Asterisk: AMI `Hangup` by unique id. FreeSWITCH: `uuid_kill`.
        """
        ...


class CallSession(Protocol):
    """The conversation with one answered (or inbound) channel.

    Every method raises `CallEnded` once the far end is gone, whatever it was doing.
    """

    @property
    def id(self) -> str:
        """The channel's id: the attempt's for a call that we placed."""
        ...

    @property
    def caller(self) -> str:
        """Who calls, as the PBX presents it; empty where withheld."""
        ...

    @property
    def called(self) -> str:
        """The number or extension that was dialled."""
        ...

    @property
    def arguments(self) -> Mapping[str, str]:
        """What the dialplan handed over, decoded."""
        ...

    @property
    def machine(self) -> bool:
        """Whether an answering machine was met; False where the PBX did not listen, or was not sure.

        Asterisk: `AMD`. FreeSWITCH has no such application in its open tree.
        """
        ...

    async def answer(self) -> None:
        """Answer the channel if it is not. Asterisk: AGI `ANSWER`. FreeSWITCH: `answer`."""
        ...

    async def play(self, media: Media, *, barge_in: str = "") -> str | None:
        """Play to the end, or until a key of `barge_in` is pressed; that key is returned.

        Asterisk: `STREAM FILE`. FreeSWITCH: `playback` with `playback_terminators`, the key read
        from `playback_terminator_used`.
        """
        ...

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
        """Play (barge-in by any digit) and collect digits; times in seconds.

        `not_before` names keys that count only once enough of the sound was heard. `timeout` counts from the
        end of the sound to the first digit. Keys typed ahead count. With `guarded` each step has a `guard`
        of its own.
        Asterisk: `GET OPTION` with all digits, then `WAIT FOR DIGIT` for each further one; with `not_before`
        `STREAM FILE`, from the sample on where it goes on. FreeSWITCH: `play_and_get_digits`; `playback` of
        `FILE@@SAMPLE`.
        """
        ...

    async def hold(self, silence: Media, until: asyncio.Future[Any]) -> str:
        """Stay on the line in silence until a future is done; returns the keys that were pressed meanwhile.

        Asterisk: `STREAM FILE`, which another command ends. FreeSWITCH: nothing to do, digits queue up.
        """
        ...

    async def record(
        self, name: str, *, max_seconds: float, silence_seconds: float = 3.0, terminators: str = "#"
    ) -> float:
        """Record the far end into `name` (a path as the PBX sees it, no ending); returns seconds.

        Asterisk: `RECORD FILE`. FreeSWITCH: `record`.
        """
        ...

    async def hear_out(self, timeout: float) -> bool:
        """Let a machine end its greeting and its tone, at most `timeout` seconds.

        Returns whether it fell silent for longer than a greeting pauses.
        Asterisk: `WaitForSilence`. FreeSWITCH: `wait_for_silence`.
        """
        ...

    async def transfer(self, extension: str, context: str) -> None:
        """Hand the channel back to the dialplan at `extension`; the session is over then.

        Asterisk: `SET CONTEXT`, `SET EXTENSION`, `SET PRIORITY`. FreeSWITCH: `transfer`.
        """
        ...

    async def set_variable(self, name: str, value: str) -> None:
        """Set a channel variable; every listener of the PBX can see it: never a secret.

        Asterisk: `SET VARIABLE`. FreeSWITCH: `set`.
        """
        ...

    def hand_back(self, values: Mapping[str, str]) -> None:
        """Channel variables that the dialplan finds once it has the call back; under the same warning.

        Asterisk: `MSet` at `hangup` and `transfer`. FreeSWITCH: `multiset`.
        """
        ...

    async def guard(self, seconds: float) -> None:
        """A step of so many seconds begins: the PBX keeps the call for it, and not much longer.

        Should we freeze, the PBX takes its own way within six seconds, in the middle of the step too.
        Asterisk: `TIMEOUT(absolute)`, moved on by AMI `Setvar`. FreeSWITCH: `sched_hangup`.
        """
        ...

    async def extend(self, seconds: float) -> None:
        """Let the call last so many seconds from now; the PBX ends it then, whatever became of us.

        Asterisk: `SET VARIABLE TIMEOUT(absolute)`. FreeSWITCH: `sched_hangup`.
        """
        ...

    async def hangup(self) -> None:
        """End the call in good order, so that the dialplan knows that the controller finished."""
        ...


class Callers(Protocol):
    """Who wants to know which calls come in, and when a call has gone."""

    def arrived(self, channel_id: str, channel_name: str) -> None:
        """A call has come in and speaks with us."""
        ...

    def gone(self, channel_id: str) -> None:
        """A channel has been hung up, any one; not told of what ended while the link was broken."""
        ...


class Notes(Protocol):
    """What a PBX keeps for its dialplan while we are away, and what is asked for at its console.

    Every method raises `PbxUnavailable`, `PbxTimeout` or `PbxRejected`.
    """

    async def keep(self, values: Mapping[tuple[str, str], str]) -> None:
        """Write values, each under its family and key; returns once they are there.

        Asterisk: AstDB, by a Local channel whose variables are `DB(…)`. FreeSWITCH: `db insert`.
        """
        ...

    async def kept(self, family: str) -> Mapping[str, str]:
        """Every value of a family, by its key."""
        ...

    async def forget(self, family: str, key: str) -> None:
        """Remove a value; one that is not there is no error."""
        ...

    async def variable(self, name: str) -> str:
        """A global variable; empty where there is none."""
        ...

    async def clear(self, name: str) -> None:
        """Let a global variable be empty."""
        ...


class Pbx(Protocol):
    """A PBX: orders legs, tells what stands, and what became of an attempt."""

    @property
    def ready(self) -> bool:
        """Whether an order given now would reach the PBX."""
        ...

    async def start(self) -> None:
        """Begin connecting and return at once; `wait_ready` waits. `PbxAuthError` ends the trying."""
        ...

    async def stop(self) -> None:
        """Stop taking sessions, let the running ones end within the drain time, and disconnect."""
        ...

    async def wait_ready(self, timeout: float) -> bool:
        """Wait until `ready`, at most `timeout` seconds."""
        ...

    def dial(self, order: DialOrder) -> AbstractAsyncContextManager[Leg]:
        """Order one ring. Entering raises `PbxUnavailable` (see `sent`) or `PbxRejected`.

        Leaving the block while the leg stands hangs it up, but for a `StaleFence`: then it is somebody
        else's to go on with. It is never re-sent.
        Asterisk: `Originate`, `Async: true`, `ChannelId` = attempt id, into Context/Exten.
        FreeSWITCH: `bgapi originate` with `origination_uuid`, the answer's UUID compared.
        """
        ...

    def adopt(self, order: DialOrder, *, dialed_at_ms: int) -> AbstractAsyncContextManager[Leg]:
        """Take over a leg that an earlier life of the controller ordered; nothing is sent.

        Its events go on from where it stands; the session of a leg that is answered later is ours.
        Leaving the block does not hang it up. Asterisk and FreeSWITCH: by the channel's id.
        """
        ...

    async def channels(self) -> tuple[LiveChannel, ...]:
        """Every channel that stands now. Asterisk: `CoreShowChannels`. FreeSWITCH: `show channels`."""
        ...

    async def reaches(self, endpoint: str) -> bool | None:
        """Whether the far end of an endpoint answered when the PBX asked it last; None where it never asks.

        Raises `PbxUnavailable` or `PbxTimeout` where the PBX could not be asked.
        Asterisk: the status of the endpoint's contacts, which `qualify_frequency` keeps. FreeSWITCH:
        `sofia status gateway`.
        """
        ...

    async def fate(
        self,
        attempt_id: str,
        dialed_at_ms: int,
        *,
        unseen_for: float = 0.0,
        unseen: Callable[[], Awaitable[None]] | None = None,
    ) -> Trace:
        """What became of an attempt, as the PBX knows it.

        Where it knows nothing of it, what an old link may have left unread gets some seconds to show.
        `unseen` is awaited before that wait; `unseen_for` is how many seconds ago an earlier life of the
        controller came so far, and is taken off it.

        Raises `PbxUnavailable` or `PbxTimeout` where it could not be asked.
        Asterisk: live channels, then the dialplan's note by `DBGet`, then `CoreStatus`.
        FreeSWITCH: live channels, then the note its hangup hook left in `db`.
        """
        ...

    async def hangup(self, channel_id: str, cause: Cause = Cause.NORMAL) -> None:
        """End a channel by its id; one that is gone is no error."""
        ...
