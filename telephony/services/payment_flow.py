"""The conversation of a payment call: who calls, what for, how much, and one key.

    1 confirm   2 decline   * again   0 an agent, where one can be had

Nobody agrees to what they have not heard: a 1 before the amount was said only leads on to it. Silence is
not consent: three askings without an answer, and the retry policy decides. What is said after a key is
what the row says then, never what was asked of it. What this never does: decide by itself, or say an
amount of an order that is no longer open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby
from typing import Final, TypeVar

import structlog

from telephony.calls.flow import Outcome, Prepared
from telephony.calls.policy import NO_INPUT
from telephony.errors import CallEnded, StoreError
from telephony.model.call import CallStatus, PaymentStatus
from telephony.model.media import Media
from telephony.model.prompt import Amount, Digits, Mark, Part, Phrase, Prompt, Silence, Text
from telephony.pbx.port import CallSession, NotBefore
from telephony.services.admission import LEAVE_MESSAGE, MACHINE_VARIABLE, Voice
from telephony.services.payment_book import (
    ASK_SECONDS,
    EXPIRED,
    AppAnswer,
    AppQuestion,
    DecidedBy,
    Decision,
    PaymentBook,
)
from telephony.services.talk import (
    FROZEN_MARGIN,
    GREETING_LIMIT,
    LEAD_IN,
    MAX_REPEATS,
    MESSAGE_LEFT,
    MET_MACHINE,
    TAIL,
)
from telephony.store import RequestRecord, UnitOfWork
from telephony.store.records import PaymentRecord

T = TypeVar("T")

log = structlog.get_logger(__name__)

FLOW_NAME: Final = "payment_confirmation"
ASKINGS: Final = 3
KEY_WAIT: Final = 5.0
STORE_PATIENCE: Final = 4.0
"""Seconds in which a store that cannot be written is asked again while somebody waits on the line.

One asking takes 5 s at most, so that with it the wait stays within `FROZEN_MARGIN`.
"""

STORE_PAUSE: Final = 0.25
TRANSFER_LIMIT: Final = 3600.0
"""Seconds that the call may last once it is an agent's."""

REFERENCE_LENGTH: Final = 8

_ENDINGS: Final = {
    PaymentStatus.CONFIRMED: "payment.confirmed",
    PaymentStatus.DECLINED: "payment.declined",
    PaymentStatus.EXPIRED: "payment.closed",
    PaymentStatus.CANCELED: "payment.canceled",
    PaymentStatus.FAILED: "payment.failed",
}
_RECEIVED: Final = "payment.received"
_NO_INPUT: Final = "payment.no_input"
_TRANSFER: Final = "payment.transfer"
_VOICEMAIL: Final = "payment.voicemail"


@dataclass(frozen=True, slots=True)
class Agent:
    """Where the dialplan goes on when somebody wants an agent."""

    extension: str
    context: str


@dataclass(slots=True)
class _Talk:
    """One conversation: the sounds by what they say, the keys so far, whether the amount was said."""

    session: CallSession
    question: Media
    sayings: dict[str, Media]
    keys: str = ""
    informed: bool = False


class PaymentFlow:
    """The flow. `agent` is None where nobody can be transferred to; `app` asks at a `decide_url`."""

    name = FLOW_NAME

    def __init__(
        self, book: PaymentBook, voice: Voice, *, app: AppQuestion | None = None, agent: Agent | None = None
    ) -> None:
        self._book = book
        self._voice = voice
        self._app = app
        self._agent = agent

    async def prepare(self, request: RequestRecord) -> Prepared | Outcome:
        """Compose the question and every answer to it, or tell why nobody is to be rung."""
        record = await self._record(request)
        if record is None:
            return Outcome(CallStatus.CANCELED, "payment_gone")
        if not self._book.is_open(record):
            expired = record.status in (PaymentStatus.PENDING, PaymentStatus.EXPIRED)
            status = CallStatus.EXPIRED if expired else CallStatus.CANCELED
            return Outcome(status, "expired" if expired else f"payment_{record.status.value}")
        question = await self._voice.compose(_question(record, agent=self._agent is not None), record.locale)
        sayings = [
            await self._voice.compose(_saying(key, record), record.locale)
            for key in self._sayings(request, record)
        ]
        first_limit = _time_to_ask(question)
        longest = (ASKINGS + MAX_REPEATS) * first_limit + ASK_SECONDS + STORE_PATIENCE
        longest += max(_time_to_say(one) for one in sayings)
        if _VOICEMAIL in self._sayings(request, record):
            longest += GREETING_LIMIT
        if self._agent is not None:
            longest += TRANSFER_LIMIT
        listen = MACHINE_VARIABLE in request.variables
        return Prepared((question, *sayings), longest, first_limit, detect_machines=listen)

    async def converse(self, session: CallSession, request: RequestRecord, prepared: Prepared) -> Outcome:
        """Ask until there is an answer, the order is closed, or nobody answers."""
        try:
            record = await _patiently(lambda: self._record(request))
        except StoreError as error:
            log.error("payment.unread", payment=request.flow_ref, error=str(error))
            return Outcome(CallStatus.FAILED, "store_failed", retry_as=NO_INPUT)
        if record is None:
            return Outcome(CallStatus.CANCELED, "payment_gone")
        sayings = dict(zip(self._sayings(request, record), prepared.media[1:], strict=True))
        talk = _Talk(session, prepared.media[0], sayings)
        if session.machine:
            reason = MET_MACHINE
            if _VOICEMAIL in sayings and await self._leave_message(talk, request, record):
                reason = MESSAGE_LEFT
            return Outcome(CallStatus.COMPLETED, reason, retry_as=NO_INPUT)
        return await self._ask(talk, record)

    async def _leave_message(self, talk: _Talk, request: RequestRecord, record: PaymentRecord) -> bool:
        """Leave the message, which names no amount, after the tone, and once for all attempts of a call.

        The wait is here, not in the dialplan, so that what has been closed meanwhile is not said.
        """
        try:
            if await self._book.message_left(request.id):
                return False
        except StoreError as error:
            log.warning("payment.unread", payment=record.id, error=str(error))
            return False
        message = talk.sayings[_VOICEMAIL]
        with suppress(CallEnded):
            await talk.session.extend(GREETING_LIMIT + FROZEN_MARGIN)
            if await talk.session.hear_out(GREETING_LIMIT) and await self._still_open(record):
                await talk.session.extend(_time_to_say(message))
                await talk.session.play(message)
                return True
        return False

    async def _ask(self, talk: _Talk, record: PaymentRecord) -> Outcome:
        unanswered = repeats = 0
        while unanswered < ASKINGS:
            asked = bool(talk.keys or unanswered)
            # Before the first asking the row has just been read.
            if not (await self._still_open(record) if asked else self._book.is_open(record)):
                return await self._end(talk, record, EXPIRED)
            if asked:
                await talk.session.extend(_time_to_ask(talk.question))
            gathered = await talk.session.gather(
                talk.question,
                max_digits=1,
                timeout=KEY_WAIT,
                terminator="",
                not_before=None if talk.informed else _amount_first(talk.question),
            )
            talk.informed |= gathered.heard >= talk.question.marks[-1]
            talk.keys += gathered.digits
            match gathered.digits:
                case "1":
                    return await self._confirm(talk, record)
                case "2":
                    return await self._end(talk, record, _answer(PaymentStatus.DECLINED, talk))
                case "0" if self._agent is not None:
                    return await self._hand_over(talk, record, self._agent)
                case "*" if repeats < MAX_REPEATS:
                    repeats += 1
                case _:
                    unanswered += 1
        # Whoever has just cancelled it is told, not asked to wait for another call.
        if not await self._still_open(record):
            return await self._end(talk, record, EXPIRED)
        await self._say(talk, _NO_INPUT)
        return Outcome(CallStatus.COMPLETED, "no_input", talk.keys, retry_as=NO_INPUT)

    async def _confirm(self, talk: _Talk, record: PaymentRecord) -> Outcome:
        """Take a yes: the app's word first where it wants to be asked, then the one transaction."""
        if record.decide_url is None:
            return await self._end(talk, record, _answer(PaymentStatus.CONFIRMED, talk))
        answer = AppAnswer.SILENT
        if self._app is not None and await self._still_open(record):
            with suppress(CallEnded):
                # Somebody who hangs up now has pressed 1 all the same.
                await talk.session.extend(ASK_SECONDS + STORE_PATIENCE + FROZEN_MARGIN)
            answer = await self._app.ask(record, talk.keys)
        match answer:
            case AppAnswer.CONFIRM:
                decision = Decision(PaymentStatus.CONFIRMED, DecidedBy.APP, keys=talk.keys)
            case AppAnswer.REFUSE:
                decision = _failed(DecidedBy.APP_REFUSED, talk)
            case AppAnswer.SILENT:
                decision = _failed(DecidedBy.APP_SILENT, talk)
        return await self._end(talk, record, decision)

    async def _end(self, talk: _Talk, record: PaymentRecord, decision: Decision) -> Outcome:
        """Put a decision to the row, and say what the row says."""
        ended = await self._decide(record, decision)
        if ended is None:
            await self._say(talk, "payment.failed")
            return Outcome(CallStatus.FAILED, "store_failed", talk.keys)
        return await self._tell(talk, ended)

    async def _tell(self, talk: _Talk, ended: PaymentRecord) -> Outcome:
        saying = _ENDINGS[ended.status]
        if ended.status is PaymentStatus.CONFIRMED and ended.decide_url is None:
            saying = _RECEIVED
        await self._say(talk, saying)
        return Outcome(CallStatus.COMPLETED, ended.status.value, talk.keys)

    async def _hand_over(self, talk: _Talk, record: PaymentRecord, agent: Agent) -> Outcome:
        """End it as the agent's, and let the dialplan go on there."""
        ended = await self._decide(
            record, Decision(PaymentStatus.FAILED, DecidedBy.AGENT, "transferred", talk.keys)
        )
        if ended is not None and ended.decided_by != DecidedBy.AGENT:
            return await self._tell(talk, ended)
        with suppress(CallEnded):
            await talk.session.extend(TRANSFER_LIMIT)
            await talk.session.play(talk.sayings[_TRANSFER])
            await talk.session.transfer(agent.extension, agent.context)
        return Outcome(CallStatus.COMPLETED, "transferred", talk.keys)

    @staticmethod
    async def _say(talk: _Talk, saying: str) -> None:
        """Say the last words; whoever does not wait for them has answered all the same."""
        media = talk.sayings[saying]
        with suppress(CallEnded):
            await talk.session.extend(_time_to_say(media))
            await talk.session.play(media)

    async def _decide(self, record: PaymentRecord, decision: Decision) -> PaymentRecord | None:
        """Decide, with some patience for the store; None where it cannot be written in time."""
        try:
            return await _patiently(lambda: self._book.decide(record.id, decision))
        except StoreError as error:
            log.error("payment.not_decided", payment=record.id, error=str(error))
            return None

    async def _still_open(self, record: PaymentRecord) -> bool:
        """Look at the row before the next word; a store that can't be read is asked at the key press."""
        try:
            found = await self._book.read(record.client, record.id)
        except StoreError as error:
            log.warning("payment.unread", payment=record.id, error=str(error))
            found = record
        return found is not None and self._book.is_open(found)

    def cut_short(self, request: RequestRecord) -> Outcome:
        """A hang-up before any answer is no answer."""
        return Outcome(CallStatus.COMPLETED, "hung_up_early", retry_as=NO_INPUT)

    async def settle(self, work: UnitOfWork, request: RequestRecord, outcome: Outcome) -> None:
        """A call that is over for good ends what is still pending, and says why."""
        if request.flow_ref is None:
            return
        match outcome.status:
            case CallStatus.EXPIRED:
                decision = EXPIRED
            case _:
                decision = Decision(PaymentStatus.FAILED, DecidedBy.CALL, outcome.reason, outcome.keys)
        await self._book.decide_within(work, request.flow_ref, decision)

    async def _record(self, request: RequestRecord) -> PaymentRecord | None:
        if request.flow_ref is None:
            return None
        return await self._book.read(request.client, request.flow_ref)

    def _sayings(self, request: RequestRecord, record: PaymentRecord) -> tuple[str, ...]:
        """What may be said beside the question, in the order in which it is composed."""
        endings = {**_ENDINGS}
        if record.decide_url is None:
            endings[PaymentStatus.CONFIRMED] = _RECEIVED
        sayings = (*endings.values(), _NO_INPUT)
        if self._agent is not None:
            sayings += (_TRANSFER,)
        if request.variables.get(MACHINE_VARIABLE) == LEAVE_MESSAGE:
            sayings += (_VOICEMAIL,)
        return sayings


async def _patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask the store, for `STORE_PATIENCE` where it fails; raises what it failed with in the end."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + STORE_PATIENCE
    while True:
        try:
            return await ask()
        except StoreError:
            if loop.time() + STORE_PAUSE > deadline:
                raise
        await asyncio.sleep(STORE_PAUSE)


def reference_of(order_id: str) -> str:
    """Return what is spelled of an order's id: its last letters and figures, eight at most."""
    return "".join(letter for letter in order_id if letter.isalnum())[-REFERENCE_LENGTH:].upper()


def _answer(status: PaymentStatus, talk: _Talk) -> Decision:
    return Decision(status, DecidedBy.PERSON, keys=talk.keys)


def _failed(by: DecidedBy, talk: _Talk) -> Decision:
    return Decision(PaymentStatus.FAILED, by, by.value, talk.keys)


def _amount_first(question: Media) -> NotBefore:
    """Let 1 count once the payee and the amount were said."""
    payee, said = question.marks
    return NotBefore("1", said, then=payee)


def _time_to_ask(question: Media) -> float:
    """How long the PBX lets one asking stand, in seconds."""
    return question.seconds + KEY_WAIT + FROZEN_MARGIN


def _time_to_say(media: Media) -> float:
    return media.seconds + FROZEN_MARGIN


def _brand(record: PaymentRecord) -> tuple[tuple[str, str], ...]:
    return (("brand", record.brand or ""),)


def _question(record: PaymentRecord, *, agent: bool) -> Prompt:
    """Who calls, the order's reference spelled, the payee and the amount, then the keys."""
    return Prompt(
        (
            Silence(LEAD_IN),
            Phrase("payment.greeting", _brand(record)),
            Silence(0.3),
            *_spelled(reference_of(record.order_id)),
            Silence(0.5),
            Mark(),
            Phrase("payment.payee", (("payee", record.payee),)),
            Silence(0.2),
            Amount(Decimal(record.amount), record.currency),
            Mark(),
            Silence(0.6),
            Phrase("payment.keys_agent" if agent else "payment.keys"),
            Silence(TAIL),
        )
    )


def _spelled(reference: str) -> list[Part]:
    """Figures one by one in their slots, letters by their names."""
    parts: list[Part] = []
    for figures, run in groupby(reference, str.isdigit):
        letters = tuple(run)
        parts.append(Digits("".join(letters)) if figures else Text(", ".join(letters)))
    return parts


def _saying(key: str, record: PaymentRecord) -> Prompt:
    if key in (_NO_INPUT, _TRANSFER):
        return Prompt((Silence(LEAD_IN), Phrase(key), Silence(TAIL)))
    values = _brand(record) if key == _VOICEMAIL else ()
    return Prompt(
        (Silence(LEAD_IN), Phrase(key, values), Silence(0.4), Phrase("common.goodbye"), Silence(TAIL))
    )
