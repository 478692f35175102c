"""Verification: make a code, ring, speak it, check what comes back.

Failing checks count against the number, not only against the verification (NIST SP 800-63B-4: a new
code must not reset the count). The code is spoken from one file that was composed before the dial.
What it never does: return, log or store a code in the clear, or speak one that has expired.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog

from telephony.calls.engine import CallEngine, Placed, wait_for_change
from telephony.calls.flow import Outcome, Prepared
from telephony.calls.policy import PRIORITIES
from telephony.errors import (
    Conflict,
    InputError,
    NotFound,
    RateLimited,
    StoreError,
)
from telephony.model.call import FINAL_CALL_STATUSES, CallClass, CallStatus, VerificationStatus
from telephony.model.client import Client
from telephony.model.ids import new_id
from telephony.model.media import Media
from telephony.model.number import PhoneNumber, parse_number
from telephony.model.prompt import Digits, Part, Phrase, Prompt, Silence
from telephony.pbx.port import CallSession
from telephony.services.admission import (
    Voice,
    admit_once,
    begin_once,
    check_in_time,
    finish_once,
    locale_for,
    number_for,
)
from telephony.services.codes import CodeBox, make_code
from telephony.services.contract import (
    CheckOutcome,
    NewVerification,
    Once,
    Page,
    StoredReply,
    Verdict,
    VerificationView,
)
from telephony.services.notices import Notices
from telephony.services.talk import FROZEN_MARGIN, LEAD_IN, MAX_REPEATS, TAIL
from telephony.store import Store, UnitOfWork
from telephony.store.records import (
    CheckFailureRecord,
    RequestRecord,
    VerificationRecord,
)
from telephony.trunks.routing import Router

log = structlog.get_logger(__name__)

FLOW_NAME: Final = "verification"
PAUSE_BEFORE_REPEAT: Final = 2.0
STAR_WAIT: Final = 4.0
"""Seconds that the end of the prompt waits for a `*`."""

KEYPRESS_ASKINGS: Final = 3
KEYPRESS_WAIT: Final = 5.0
CODE_LENGTHS: Final = range(4, 11)


@dataclass(frozen=True, slots=True)
class CallBudget:
    """At most `count` dialled attempts to one number within `seconds`."""

    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class VerificationRules:
    """Defaults and limits; times in seconds."""

    code_length: int = 6
    ttl: int = 600
    max_ttl: int = 3600
    max_checks: int = 5
    max_sends: int = 5
    play_times: int = 2
    require_keypress: bool = False
    dial_within: float = 30.0
    failures_per_number: int = 10
    failures_window: float = 3600.0
    calls_per_number: Sequence[CallBudget] = ()


class VerificationFlow:
    """The conversation of a verification call."""

    name = FLOW_NAME

    def __init__(
        self,
        store: Store,
        voice: Voice,
        codes: CodeBox,
        *,
        notices: Notices | None = None,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self._notices = notices
        self._store = store
        self._voice = voice
        self._codes = codes
        self._clock = clock or _now_ms

    async def prepare(self, request: RequestRecord) -> Prepared | Outcome:
        """Unseal the code and compose everything that will be said."""
        record = await self._record(request)
        ending = self._not_to_be_spoken(record)
        if ending is not None or record is None or record.code_sealed is None:
            return ending or Outcome(CallStatus.EXPIRED, "expired")
        code = self._codes.unseal(record.id, record.code_sealed)
        spoken = await self._voice.compose(_spoken(record, code), record.locale)
        media = [spoken]
        first_limit = _time_to_say(spoken)
        longest = (MAX_REPEATS + 1) * _time_to_say(spoken)
        if record.require_keypress:
            asking = Prompt(
                (Silence(LEAD_IN), Phrase("verification.press_key", _brand(record)), Silence(TAIL))
            )
            media.append(await self._voice.compose(asking, record.locale))
            first_limit = _time_to_ask(media[1])
            longest += KEYPRESS_ASKINGS * first_limit
        return Prepared(tuple(media), longest, first_limit)

    async def converse(self, session: CallSession, request: RequestRecord, prepared: Prepared) -> Outcome:
        """Ask for a key where wanted, then say the code; `*` says it again."""
        code = prepared.media[0]
        keys = ""
        if len(prepared.media) > 1:
            pressed = await self._ask_for_key(session, prepared.media[1])
            if not pressed:
                return Outcome(CallStatus.COMPLETED, "no_keypress")
            keys += pressed
        for turn in range(MAX_REPEATS + 1):
            ending = await self._look_again(request)
            if ending is not None:
                return Outcome(CallStatus.COMPLETED, ending.reason, keys)
            if turn or keys:
                await session.extend(_time_to_say(code))
            key = await session.play(code, barge_in="*")
            if key is None:
                key = (await session.gather(None, max_digits=1, timeout=STAR_WAIT, terminator="")).digits
            if key != "*":
                break
            keys += key
        return Outcome(CallStatus.COMPLETED, "heard", keys)

    @staticmethod
    async def _ask_for_key(session: CallSession, asking: Media) -> str:
        """Return the pressed key, empty after three askings: a voicemail box presses none."""
        for turn in range(KEYPRESS_ASKINGS):
            if turn:
                await session.extend(_time_to_ask(asking))
            gathered = await session.gather(asking, max_digits=1, timeout=KEYPRESS_WAIT, terminator="")
            if gathered.digits:
                return gathered.digits
        return ""

    def cut_short(self, request: RequestRecord) -> Outcome:
        """A hang-up in mid-code: the call was answered and is over."""
        return Outcome(CallStatus.COMPLETED, "hung_up_early")

    async def settle(self, work: UnitOfWork, request: RequestRecord, outcome: Outcome) -> None:
        """A number that cannot ring, or a call that was not dialled in time, fails the verification."""
        if request.flow_ref is None:
            return
        record = await work.verifications.lock(request.flow_ref)
        if record is None or record.status is not VerificationStatus.PENDING:
            return
        if record.last_request_id != request.id:
            return
        if outcome.status is CallStatus.INVALID_NUMBER or outcome.reason in _HOPELESS:
            await _end(work, record, VerificationStatus.FAILED, self._clock(), self._notices, outcome.reason)

    async def _record(self, request: RequestRecord) -> VerificationRecord | None:
        if request.flow_ref is None:
            return None
        async with self._store.reading() as work:
            return await work.verifications.get_for_client(request.client, request.flow_ref)

    async def _look_again(self, request: RequestRecord) -> Outcome | None:
        """Look at the rows before the next word; where they can't be read, the deadline we know decides."""
        try:
            async with self._store.reading() as work:
                held = await work.requests.get(request.id)
                record = await work.verifications.get_for_client(request.client, request.flow_ref or "")
            if held is not None and held.cancel_requested_at is not None:
                return Outcome(CallStatus.CANCELED, "canceled")
            return self._not_to_be_spoken(record)
        except StoreError as error:
            log.warning("verification.unread", call=request.id, error=str(error))
        if request.expires_at is not None and self._clock() >= request.expires_at:
            return Outcome(CallStatus.EXPIRED, "expired")
        return None

    def _not_to_be_spoken(self, record: VerificationRecord | None) -> Outcome | None:
        """An expired code is never spoken, nor one that was approved or cancelled meanwhile."""
        if record is None:
            return Outcome(CallStatus.CANCELED, "verification_gone")
        if record.status is VerificationStatus.EXPIRED or self._clock() >= record.expires_at:
            return Outcome(CallStatus.EXPIRED, "expired")
        if record.status is not VerificationStatus.PENDING:
            return Outcome(CallStatus.CANCELED, f"verification_{record.status.value}")
        return None


_HOPELESS: Final = frozenset({"not_dialed_in_time", "blocked", "prompt_failed", "pbx_refused"})


def _time_to_say(code: Media) -> float:
    """How long the PBX lets one saying stand, with the wait for a `*`, in seconds."""
    return code.seconds + STAR_WAIT + FROZEN_MARGIN


def _time_to_ask(asking: Media) -> float:
    return asking.seconds + KEYPRESS_WAIT + FROZEN_MARGIN


def _brand(record: VerificationRecord) -> tuple[tuple[str, str], ...]:
    return (("brand", record.brand or ""),)


def _spoken(record: VerificationRecord, code: str) -> Prompt:
    """The brand first, the code `play_times` times with two seconds before each repeat, the hint."""
    parts: list[Part] = [Silence(LEAD_IN), Phrase("verification.greeting", _brand(record)), Silence(0.4)]
    for time_number in range(record.play_times):
        if time_number:
            parts += [Silence(PAUSE_BEFORE_REPEAT), Phrase("verification.again"), Silence(0.4)]
        parts.append(Digits(code, secret=True))
    parts += [Silence(0.8), Phrase("verification.repeat_hint"), Silence(TAIL)]
    return Prompt(tuple(parts))


class Verifications:
    """The verification service: what the HTTP API and the command line ask for."""

    def __init__(
        self,
        store: Store,
        engine: CallEngine,
        router: Router,
        voice: Voice,
        codes: CodeBox,
        rules: VerificationRules,
        *,
        notices: Notices | None = None,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self._store = store
        self._engine = engine
        self._router = router
        self._voice = voice
        self._codes = codes
        self._rules = rules
        self._notices = notices
        self._clock = clock or _now_ms

    async def create(
        self, client: Client, new: NewVerification, once: Once[VerificationView] | None
    ) -> VerificationView | StoredReply:
        """Make a code, write verification and call in one transaction, and begin to dial."""
        now = self._clock()
        admitted = await admit_once(self._store, client, once, now, lambda: self._admit(client, new, now))
        if isinstance(admitted, StoredReply):
            return admitted
        number, locale = admitted
        code = new.code if new.code is not None else make_code(new.code_length or self._rules.code_length)
        ttl = new.ttl if new.ttl is not None else self._rules.ttl
        verification_id, request_id = new_id("vrf"), new_id("call")
        record = VerificationRecord(
            id=verification_id,
            client=client.name,
            to_number=number.e164,
            locale=locale,
            code_hash=self._codes.hash(verification_id, code),
            code_sealed=self._codes.seal(verification_id, code),
            code_length=len(code),
            play_times=self._rules.play_times if new.play_times is None else new.play_times,
            require_keypress=(
                self._rules.require_keypress if new.require_keypress is None else new.require_keypress
            ),
            brand=client.brand,
            checks_left=self._rules.max_checks,
            max_checks=self._rules.max_checks,
            sends=1,
            max_sends=self._rules.max_sends,
            expires_at=now + ttl * 1000,
            created_at=now,
            updated_at=now,
            out_id=new.out_id,
            last_request_id=request_id,
        )
        request = self._request(client, record, request_id, new.dial_within, now)
        async with self._store.transaction() as work:
            stored = await begin_once(work, client, once, now)
            if stored is not None:
                return stored
            await work.attempts.alone_with(number.e164)
            await self._check_budgets(work, number.e164, now)
            await work.verifications.add(record)
            placed = await self._engine.place(work, request)
            view = _view(record, placed.request.status)
            await finish_once(work, client, once, view, view.id)
        self._engine.go(placed)
        return view

    async def resend(
        self, client: Client, verification_id: str, once: Once[VerificationView] | None
    ) -> VerificationView | StoredReply:
        """Ring again with the same code, inside the TTL and within the same limits."""
        now = self._clock()
        async with self._store.transaction() as work:
            stored = await begin_once(work, client, once, now)
            if stored is not None:
                return stored
            record = await self._locked(work, client, verification_id)
            if record.status is not VerificationStatus.PENDING or now >= record.expires_at:
                raise Conflict(f"this verification is {_shown_status(record, now).value}; make a new one")
            if record.sends >= record.max_sends:
                raise RateLimited(f"this code was sent {record.max_sends} times; make a new verification")
            last = await work.requests.get(record.last_request_id or "")
            if last is not None and last.status not in FINAL_CALL_STATUSES:
                raise Conflict("a call for this verification is under way")
            number = parse_number(record.to_number)
            await work.attempts.alone_with(number.e164)
            await self._check_budgets(work, number.e164, now)
            self._router.choose(number, CallClass.OTP)
            self._check_hours(number, None, record.expires_at, now)
            request = self._request(client, record, new_id("call"), None, now)
            record = replace(record, sends=record.sends + 1, last_request_id=request.id, updated_at=now)
            await work.verifications.update(
                record.id, sends=record.sends, last_request_id=request.id, updated_at=now
            )
            placed: Placed = await self._engine.place(work, request)
            view = _view(record, placed.request.status)
            await finish_once(work, client, once, view, view.id)
        self._engine.go(placed)
        return view

    async def check(self, client: Client, verification_id: str, code: str) -> CheckOutcome:
        """Compare a code. A wrong one costs a check here, and one for the number."""
        now = self._clock()
        async with self._store.transaction() as work:
            record = await self._locked(work, client, verification_id)
            if record.status is not VerificationStatus.PENDING:
                return CheckOutcome(await self._seen(work, record), valid=False)
            if now >= record.expires_at:
                record = await _end(work, record, VerificationStatus.EXPIRED, now, self._notices)
                return CheckOutcome(await self._seen(work, record), valid=False)
            await work.attempts.alone_with(record.to_number)
            since = now - round(self._rules.failures_window * 1000)
            if await work.check_failures.count(record.to_number, since) >= self._rules.failures_per_number:
                raise RateLimited(
                    "too many wrong codes for this number", retry_after=self._rules.failures_window
                )
            if self._codes.matches(record.id, code, record.code_hash):
                record = await _end(work, record, VerificationStatus.APPROVED, now, self._notices)
                await work.check_failures.clear(record.to_number)
                return CheckOutcome(await self._seen(work, record), valid=True)
            await work.check_failures.add(
                CheckFailureRecord(
                    id=new_id("chk"), to_number=record.to_number, at=now, verification_id=record.id
                )
            )
            left = record.checks_left - 1
            record = replace(record, checks_left=left, updated_at=now)
            await work.verifications.update(record.id, checks_left=left, updated_at=now)
            if left <= 0:
                record = await _end(work, record, VerificationStatus.MAX_ATTEMPTS_REACHED, now, self._notices)
            return CheckOutcome(await self._seen(work, record), valid=False)

    async def cancel(self, client: Client, verification_id: str) -> VerificationView:
        """Cancel a pending verification and its call; a final one stays as it is (`Conflict`)."""
        now = self._clock()
        async with self._store.transaction() as work:
            record = await self._locked(work, client, verification_id)
            if record.status is VerificationStatus.CANCELED:
                return await self._seen(work, record)
            if record.status is not VerificationStatus.PENDING or now >= record.expires_at:
                raise Conflict(f"this verification is {_shown_status(record, now).value}")
            record = await _end(work, record, VerificationStatus.CANCELED, now, self._notices)
        if record.last_request_id:
            await self._engine.cancel(record.last_request_id)
        return await self.get(client, verification_id)

    async def get(self, client: Client, verification_id: str) -> VerificationView:
        """Return one verification of this client; raises `NotFound`."""
        async with self._store.reading() as work:
            record = await work.verifications.get_for_client(client.name, verification_id)
            if record is None:
                raise _not_found(verification_id)
            return await self._seen(work, record)

    async def list(
        self, client: Client, *, status: VerificationStatus | None, cursor: str | None, limit: int
    ) -> Page[VerificationView]:
        """Return this client's verifications, newest first."""
        async with self._store.reading() as work:
            page = await work.verifications.list(client.name, status=status, after=cursor, limit=limit)
            return Page(tuple([await self._seen(work, record) for record in page.items]), page.cursor)

    async def dry_run(self, client: Client, new: NewVerification) -> Verdict:
        """Make every check and choose the route; dial nothing and keep nothing."""
        now = self._clock()
        number, locale = self._admit(client, new, now)
        async with self._store.reading() as work:
            await self._check_budgets(work, number.e164, now)
        route = await self._engine.foresee(number, CallClass.OTP)
        waits_until = self._engine.waits_until(CallClass.OTP, number, now)
        return Verdict(number.e164, locale, route.trunk.name, route.reason, waits_until)

    async def wait_changed(
        self, client: Client, verification_id: str, timeout: float, seen: CallStatus | None = None
    ) -> None:
        """Wait until the newest call changes, at most `timeout` seconds; at once where not as `seen`."""
        call_id = (await self.get(client, verification_id)).call_id
        if call_id is None:
            return
        change = self._engine.change(call_id)
        view = await self.get(client, verification_id)
        if view.call_status in FINAL_CALL_STATUSES or (seen is not None and view.call_status is not seen):
            return
        await wait_for_change(change, timeout)

    def _admit(self, client: Client, new: NewVerification, now: int) -> tuple[PhoneNumber, str]:
        """Check everything that needs no store: number, region, locale, code, limits, route, hours."""
        number = number_for(client, new.to)
        locale = locale_for(client, self._voice, new.locale)
        _check_new(new, self._rules)
        self._router.choose(number, CallClass.OTP)
        ttl = self._rules.ttl if new.ttl is None else new.ttl
        self._check_hours(number, new.dial_within, now + ttl * 1000, now)
        return number, locale

    def _check_hours(self, number: PhoneNumber, dial_within: float | None, expires_at: int, now: int) -> None:
        """Refuse a call that would be given up before it may ring; raises `InputError`."""
        last = min(self._dial_by(dial_within, now), expires_at)
        check_in_time(self._engine.waits_until(CallClass.OTP, number, now), last, field="dial_within")

    def _dial_by(self, dial_within: float | None, now: int) -> int:
        within = self._rules.dial_within if dial_within is None else dial_within
        return now + round(within * 1000)

    async def _check_budgets(self, work: UnitOfWork, number: str, now: int) -> None:
        for budget in self._rules.calls_per_number:
            since = now - round(budget.seconds * 1000)
            if await work.attempts.count_to_number_since(number, since) >= budget.count:
                raise RateLimited(
                    f"this number was called {budget.count} times within {budget.seconds:g} s",
                    retry_after=budget.seconds,
                )
        since = now - round(self._rules.failures_window * 1000)
        if await work.check_failures.count(number, since) >= self._rules.failures_per_number:
            raise RateLimited("too many wrong codes for this number", retry_after=self._rules.failures_window)
        # Any other call that waits for this number, perhaps for days, keeps no code from it.
        if await work.requests.count_active_for_number(number, FLOW_NAME):
            raise RateLimited("a call with a code to this number is under way", retry_after=30)

    def _request(
        self,
        client: Client,
        record: VerificationRecord,
        request_id: str,
        dial_within: float | None,
        now: int,
    ) -> RequestRecord:
        return RequestRecord(
            id=request_id,
            client=client.name,
            flow=FLOW_NAME,
            flow_ref=record.id,
            to_number=record.to_number,
            call_class=CallClass.OTP,
            priority=PRIORITIES[CallClass.OTP],
            from_number=client.caller_number or None,
            locale=record.locale,
            out_id=record.out_id,
            dial_by=self._dial_by(dial_within, now),
            expires_at=record.expires_at,
            created_at=now,
            updated_at=now,
        )

    async def _locked(self, work: UnitOfWork, client: Client, verification_id: str) -> VerificationRecord:
        record = await work.verifications.lock(verification_id)
        if record is None or record.client != client.name:
            raise _not_found(verification_id)
        return record

    async def _seen(self, work: UnitOfWork, record: VerificationRecord) -> VerificationView:
        """Show a record as it is now: one past its TTL is expired, whether or not a sweep has come by."""
        request = await work.requests.get(record.last_request_id) if record.last_request_id else None
        shown = replace(record, status=_shown_status(record, self._clock()))
        return _view(shown, request.status if request else None)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _shown_status(record: VerificationRecord, now: int) -> VerificationStatus:
    if record.status is VerificationStatus.PENDING and now >= record.expires_at:
        return VerificationStatus.EXPIRED
    return record.status


def _check_new(new: NewVerification, rules: VerificationRules) -> None:
    """Refuse what would make a code nobody should use."""
    if new.code is not None and not (
        new.code.isascii() and new.code.isdigit() and len(new.code) in CODE_LENGTHS
    ):
        raise InputError("code", "is not a code that can be spoken", "Send 4 to 10 decimal digits")
    if new.code is not None and new.code_length not in (None, len(new.code)):
        raise InputError("code_length", "does not fit the code", "Leave it out when you send a code")
    if new.code_length is not None and new.code_length not in CODE_LENGTHS:
        raise InputError("code_length", "is out of range", "Send a number from 4 to 10")
    if new.play_times is not None and new.play_times not in range(1, 4):
        raise InputError("play_times", "is out of range", "Send 1, 2 or 3")
    if new.ttl is not None and not 30 <= new.ttl <= rules.max_ttl:
        raise InputError("ttl", "is out of range", f"Send seconds from 30 to {rules.max_ttl}")
    if new.dial_within is not None and not 1 <= new.dial_within <= rules.max_ttl:
        raise InputError("dial_within", "is out of range", f"Send seconds from 1 to {rules.max_ttl}")


def _not_found(verification_id: str) -> NotFound:
    return NotFound("id", "names no verification of yours", f"Check {verification_id[:64]!r}")


async def _end(
    work: UnitOfWork,
    record: VerificationRecord,
    status: VerificationStatus,
    now: int,
    notices: Notices | None,
    reason: str | None = None,
) -> VerificationRecord:
    """Make a locked verification final, erase its sealed code, and write the event of it."""
    approved_at = now if status is VerificationStatus.APPROVED else None
    ended = replace(
        record,
        status=status,
        code_sealed=None,
        ended_at=now,
        updated_at=now,
        approved_at=approved_at,
        failure_reason=reason,
    )
    await work.verifications.update(
        record.id,
        status=status,
        code_sealed=None,
        ended_at=now,
        updated_at=now,
        approved_at=approved_at,
        failure_reason=reason,
    )
    if notices is not None:
        await notices.add(
            work,
            client=record.client,
            resource=record.id,
            kind=f"verification.{status.value}",
            payload=_payload(ended),
            now=now,
            expires_at=record.expires_at,
        )
    return ended


def _payload(record: VerificationRecord) -> dict[str, Any]:
    """What is told of a verification: never its code."""
    return {
        "id": record.id,
        "status": record.status.value,
        "to": record.to_number,
        "failure_reason": record.failure_reason,
        "out_id": record.out_id,
        "call_id": record.last_request_id,
    }


async def expire(work: UnitOfWork, record: VerificationRecord, now: int, notices: Notices | None) -> None:
    """End a locked verification whose time is up."""
    await _end(work, record, VerificationStatus.EXPIRED, now, notices)


def _view(record: VerificationRecord, call_status: CallStatus | None) -> VerificationView:
    return VerificationView(
        id=record.id,
        to=record.to_number,
        locale=record.locale,
        status=record.status,
        call_id=record.last_request_id,
        call_status=call_status,
        code_length=record.code_length,
        play_times=record.play_times,
        require_keypress=record.require_keypress,
        checks_left=max(0, record.checks_left),
        sends_left=max(0, record.max_sends - record.sends),
        expires_at=record.expires_at,
        created_at=record.created_at,
        updated_at=record.updated_at,
        failure_reason=record.failure_reason,
        out_id=record.out_id,
    )
