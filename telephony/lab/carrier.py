"""The carrier's mind: who answers which number and how, and its own account of every call it got.

The carrier's Asterisk hands each INVITE to this process over FastAGI before anything was answered; the
script of the dialled number then says what the network and the phone do. The list of calls is the
carrier's own count: it does not depend on what the PBX or a controller believes.

What it never does: answer a number nobody subscribed to (404), or forget a call.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import structlog

from telephony.errors import CallEnded, LabError, PbxError, WireError
from telephony.lab.instance import AsteriskInstance
from telephony.net.ami import AmiClient, AmiConfig
from telephony.net.fastagi import AgiChannel, FastAgiServer
from telephony.wire.ami import Message

_log = structlog.get_logger(__name__)

QUIET_CLASS = "quiet"
_COMMAND_SECONDS = 10.0
_LONGEST_CALL = 3600.0
_FINISH_SECONDS = 3.0
_MOST_CALLS = 1000
_FACTS = "${CHANNEL(pjsip,local_addr)}|${PJSIP_HEADER(read,P-Asserted-Identity)}"


class CarrierCall:
    """One call that the carrier got (or placed): what is known of it, and what its subscriber can do.

    `trunk` is `a` or `b`. `arrived_at` is wall-clock time (`time.time()`); every other `…_at` is
    `time.monotonic()`, as is `arrived_mono`, and None while it has not happened. `caller` is the From
    number, `asserted` the P-Asserted-Identity header as sent. `codec` is `ulaw` or `alaw`, once
    answered. `heard` is the recording of what the far end sent: WAV, 8 kHz, 16 bit, mono; its second 0
    is the answer; it is complete when `wait_ended` returns. `final_code` is the SIP answer: 200 or the
    refusal, 487 where the caller gave up.
    """

    def __init__(self, *, call_id: str, number: str, caller: str, heard: Path, beep: Path) -> None:
        self.id = call_id
        self.number = number
        self.caller = caller
        self.asserted = ""
        self.trunk = "a"
        self.placed = False
        self.arrived_at = time.time()
        self.arrived_mono = time.monotonic()
        self.rang_at: float | None = None
        self.answered_at: float | None = None
        self.ended_at: float | None = None
        self.codec = ""
        self.heard: Path | None = None
        self.digits_sent = ""
        self.final_code: int | None = None
        self.refused_full = False
        self.error: Exception | None = None
        self._recording = heard
        self._beep = beep
        self._script: Subscriber | None = None
        self._channel: AgiChannel | None = None
        self._answered = asyncio.Event()
        self._ended = asyncio.Event()

    def __repr__(self) -> str:
        return f"<CarrierCall {self.number} trunk={self.trunk} code={self.final_code}>"

    # --- what a test or an onlooker awaits --------------------------------------------------------

    async def wait_answered(self, timeout: float = 10.0) -> None:
        """Return once it is answered; `LabError` after `timeout` seconds or where it ended before."""
        waits = {asyncio.ensure_future(e.wait()) for e in (self._answered, self._ended)}
        try:
            await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if not self._answered.is_set():
            raise LabError(f"the call to {self.number} was not answered within {timeout} s")

    async def wait_ended(self, timeout: float = 10.0) -> None:
        """Return once it is over and its recording complete; `LabError` after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._ended.wait()
        except TimeoutError:
            raise LabError(f"the call to {self.number} did not end within {timeout} s") from None

    # --- what a subscriber can do -----------------------------------------------------------------

    def seconds_since_answer(self) -> float:
        """How long the call has been answered, 0 before."""
        return 0.0 if self.answered_at is None else time.monotonic() - self.answered_at

    async def wait(self, seconds: float) -> None:
        """Let time pass; raises `CallEnded` when the caller hangs up or gives up meanwhile."""
        if seconds > 0:
            await self._execute("Wait", f"{seconds:.3f}", seconds=seconds)

    async def header(self, name: str) -> str:
        """Return a header of the INVITE as it was sent, empty where there is none."""
        return await self._variable(f"${{PJSIP_HEADER(read,{name})}}")

    async def ring(self, *, after: float = 0.0) -> None:
        """Say that the phone rings (180), `after` seconds from now."""
        await self.wait(after)
        await self._execute("Ringing")
        self.rang_at = time.monotonic()

    async def early_media(self, sound: str | Path, *, after: float = 0.0) -> None:
        """Send audio before the answer (183): an announcement, or the network's own ringing tone."""
        await self.wait(after)
        await self._execute("Progress")
        self.rang_at = self.rang_at or time.monotonic()
        await self._execute("Playback", f"{_sound(sound)},noanswer", seconds=_LONGEST_CALL)

    async def answer(self, *, after: float = 0.0) -> None:
        """Pick up, `after` seconds from now; from here on everything heard is recorded."""
        await self.wait(after)
        if self.placed:
            return
        await self._record()

    async def reject(self, code: int, *, after: float = 0.0) -> None:
        """Refuse with any final SIP code from 400 to 699, `after` seconds from now. Ends the call."""
        if not 400 <= code <= 699:
            raise LabError(f"{code} is no final SIP code of refusal (400 to 699)")
        await self.wait(after)
        if self.answered_at is not None:
            raise LabError("an answered call can't be refused any more")
        self.final_code = code
        await self._end_by("EXEC", "PJSIPHangup", str(code))

    async def busy(self, *, after: float = 0.0) -> None:
        """486 Busy Here."""
        await self.reject(486, after=after)

    async def decline(self, *, after: float = 0.0) -> None:
        """603 Decline: the person pressed the red key."""
        await self.reject(603, after=after)

    async def no_answer(self, *, ring_for: float | None = None) -> None:
        """Ring for `ring_for` seconds, then 480; without it, until the caller gives up."""
        await self.ring()
        await self.wait(_LONGEST_CALL if ring_for is None else ring_for)
        await self.reject(480)

    async def press(self, keys: str, *, after: float = 0.0, gap: float = 0.15, hold: float = 0.12) -> None:
        """Press keys (0-9 * # A-D) as RFC 4733 events; `gap` between and `hold` of each in seconds."""
        if not keys or set(keys) - set("0123456789*#ABCD"):
            raise LabError(f"{keys!r} is not what a phone's keys can send")
        await self.wait(after)
        await self._execute(
            "SendDTMF", f"{keys},{gap * 1000:.0f},{hold * 1000:.0f}", seconds=len(keys) * (gap + hold)
        )
        self.digits_sent += keys

    async def say(self, sound: str | Path, *, after: float = 0.0) -> None:
        """Play a sound to the caller: a name of Asterisk's own sounds, or the path of a WAV (8 kHz)."""
        await self.wait(after)
        await self._execute("Playback", _sound(sound), seconds=_LONGEST_CALL)
        if await self._variable("${PLAYBACKSTATUS}") != "SUCCESS":
            raise LabError(f"the carrier can't play {sound}")
        # The playback took the place of the quiet audio that a phone sends all the time.
        await self._execute("StartMusicOnHold", QUIET_CLASS)

    async def beep(self, *, after: float = 0.0) -> None:
        """The tone of an answering machine."""
        await self.say(self._beep, after=after)

    async def listen(self, seconds: float | None = None) -> None:
        """Stay on the line for `seconds`; without them until the caller hangs up."""
        await self.wait(_LONGEST_CALL if seconds is None else seconds)

    async def hang_up(self, *, after: float = 0.0) -> None:
        """Hang up, `after` seconds from now."""
        await self.wait(after)
        # A phone's BYE is normal clearing; without a cause the far end would be told 0.
        await self._end_by("EXEC", "Hangup", "16")

    # --- for the carrier --------------------------------------------------------------------------

    def as_dict(self) -> dict[str, object]:
        """What is known, in JSON's types, for the carrier's log."""
        names = "id number caller asserted trunk placed arrived_at arrived_mono rang_at answered_at ended_at"
        values: dict[str, object] = {name: getattr(self, name) for name in names.split()}
        values |= {"codec": self.codec, "digits_sent": self.digits_sent, "final_code": self.final_code}
        return values | {"heard": str(self.heard) if self.heard else None}

    async def _record(self) -> None:
        await self._command("GOSUB", "carrier-answer", "s", "1", str(self._recording))
        # The reply to GOSUB comes some 40 ms late (Nagle against delayed acknowledgement), so the
        # dialplan looks at the clock itself.
        told = await self._variable("${LAB_ANSWERED}|${CHANNEL(audionativeformat)}")
        answered, _, formats = told.partition("|")
        self.answered_at = time.monotonic() - (time.time() - float(answered))
        self.final_code = 200
        self.heard = self._recording
        self.codec = formats.strip("()").partition("|")[0]
        self._answered.set()

    async def _execute(self, application: str, *arguments: str, seconds: float = 0.0) -> None:
        await self._command("EXEC", application, *arguments, seconds=seconds)

    async def _command(self, *words: str, seconds: float = 0.0) -> str:
        if self._channel is None:
            raise CallEnded
        reply = await self._channel.command(*words, timeout=seconds + _COMMAND_SECONDS)
        if reply.result == "-1":
            # A hangup and a failure look alike here; the next command tells them apart.
            await self._channel.command("NOOP", timeout=_COMMAND_SECONDS)
        return reply.value or ""

    async def _variable(self, expression: str) -> str:
        return await self._command("GET", "FULL", "VARIABLE", expression)

    async def _end_by(self, *words: str) -> None:
        with contextlib.suppress(CallEnded):
            await self._command(*words)
        raise CallEnded


Subscriber: TypeAlias = Callable[[CarrierCall], Awaitable[None]]
"""How a number behaves: an async function that is given the call. When it returns, the carrier
hangs up, or answers 480 where nobody picked up."""


class Carrier:
    """The carrier: its Asterisk, its subscribers, and its account of every call."""

    def __init__(self, instance: AsteriskInstance, *, recordings: Path, log_file: Path) -> None:
        self.asterisk = instance
        self.calls: list[CarrierCall] = []
        """Every call it got, in the order of arrival."""
        self.default: Subscriber | None = None
        """Answers every number nobody subscribed to; without it they get 404."""
        self._subscribers: dict[str, Subscriber] = {}
        self._capacity: dict[str, int] = {}
        self._standing: dict[str, CarrierCall] = {}
        self._unfinished: dict[str, CarrierCall] = {}
        self._arrived = asyncio.Condition()
        self._recordings = recordings
        self._log_file = log_file
        self.beep = instance.run_dir / "beep.wav"
        """The answering machine's tone."""
        self._count = 0
        # Its address is its own, so only its own Asterisk is let in.
        self._agi = FastAgiServer(
            self._serve,
            host=instance.address,
            port=0,
            allowed_peers=("127.0.0.0/8",),
            max_connections=_MOST_CALLS,
            drain_seconds=0.5,
        )

        self._ami = AmiClient(
            AmiConfig(
                host=instance.address,
                port=instance.ami_port,
                username=instance.ami_user,
                secret=instance.ami_secret,
                events="call",
                event_names=("Hangup",),
            )
        )
        self._watch: asyncio.Task[None] | None = None

    @property
    def agi(self) -> str:
        """`host:port` of the FastAGI server that the carrier's dialplan asks."""
        return f"{self.asterisk.address}:{self._agi.port}"

    async def listen(self) -> None:
        """Begin to serve the carrier's Asterisk, before that starts."""
        self._recordings.mkdir(parents=True, exist_ok=True)
        await self._agi.start()

    async def connect(self) -> None:
        """Log in to the carrier's Asterisk, once that is up: calls are placed this way."""
        await self._ami.start()
        if not await self._ami.wait_connected(_COMMAND_SECONDS):
            raise LabError("the carrier's manager interface does not answer")
        self._watch = asyncio.create_task(self._watch_hangups(), name="lab carrier")

    async def close(self) -> None:
        """End what runs for standing calls."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait({self._watch})
            self._watch = None
        await self._ami.stop()
        await self._agi.stop()
        for call in tuple(self._unfinished.values()):
            self._finish(call)

    def subscribe(self, number: str, subscriber: Subscriber) -> None:
        """Let `number` (exactly as dialled) behave as `subscriber` from the next call on."""
        self._subscribers[number] = subscriber

    def unsubscribe(self, number: str) -> None:
        """Forget `number`: 404 from now on."""
        self._subscribers.pop(number, None)

    def capacity(self, calls: int | None, *, trunk: str | None = None) -> None:
        """Refuse with 503 what is above `calls` standing calls; None lifts it.

        `trunk` is `a` or `b`; without it the limit holds for each of them.
        """
        for name in ("a", "b") if trunk is None else (trunk,):
            if calls is None:
                self._capacity.pop(name, None)
            else:
                self._capacity[name] = calls

    def standing(self, trunk: str | None = None) -> int:
        """How many calls stand now, refused ones not counted."""
        return sum(trunk in {None, call.trunk} for call in self._standing.values())

    def reset(self) -> None:
        """Forget subscribers, limits and the account of calls that are over, as between two tests."""
        self._subscribers.clear()
        self._capacity.clear()
        self.default = None
        self.calls[:] = [call for call in self.calls if call.ended_at is None]

    def calls_to(self, number: str) -> list[CarrierCall]:
        """Every call to `number`, in the order of arrival."""
        return [call for call in self.calls if call.number == number]

    async def wait_for_call(self, number: str, timeout: float = 10.0, *, nth: int = 1) -> CarrierCall:
        """Return the `nth` call to `number`, waiting for it; `LabError` after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout), self._arrived:
                await self._arrived.wait_for(lambda: len(self.calls_to(number)) >= nth)
        except TimeoutError:
            raise LabError(f"call {nth} to {number} did not reach the carrier within {timeout} s") from None
        return self.calls_to(number)[nth - 1]

    async def place(
        self,
        number: str,
        subscriber: Subscriber,
        *,
        caller: str = "+8613900000000",
        trunk: str = "a",
        keys_by_info: bool = False,
    ) -> CarrierCall:
        """Call `number` at the PBX as `caller`, over `trunk`; `subscriber` has the phone once it is answered.

        With `keys_by_info` its keys go as SIP INFO, over trunk `a`, else as RFC 4733 events.

        Returns at once; `CarrierCall.wait_answered` waits, and where the PBX refuses, `final_code` says
        how. Raises `LabError` for what can't stand in a number, `PbxError` where the carrier is away.
        """
        for value in (number, caller):
            if not value or not set(value) <= set("+0123456789*#abcdefghijklmnopqrstuvwxyz"):
                raise LabError(f"{value!r} can't be dialled from the lab")
        call = self._new_call(None, number, caller)
        call.placed = True
        call.trunk = trunk
        call._script = subscriber
        self._standing[call.id] = call
        self.calls.append(call)
        order = (
            ("Channel", f"PJSIP/{number}@pbx-{'info' if keys_by_info else trunk}"),
            ("ChannelId", call.id),
            ("CallerID", f"<{caller}>"),
            ("Timeout", "60000"),
            ("Context", "carrier-out"),
            ("Exten", "answered"),
            ("Priority", "1"),
            ("Variable", f"LAB_ID={call.id}"),
            ("Async", "true"),
        )
        try:
            await self._ami.action("Originate", order)
        except PbxError:
            self._finish(call)
            raise
        return call

    # --- the carrier's dialplan asks --------------------------------------------------------------

    async def _serve(self, channel: AgiChannel) -> None:
        call = self._unfinished.get(channel.query.get("id", ""))
        if channel.script == "end":
            if call is not None:
                self._finish(call)
        elif call is None:
            await self._perform(self._new_call(channel), channel)
        else:
            await self._perform(call, channel)

    def _new_call(self, channel: AgiChannel | None, number: str = "", caller: str = "") -> CarrierCall:
        self._count += 1
        # Of equal length: Asterisk refuses an id that a live channel's id begins with.
        if channel is not None:
            number = channel.env.get("agi_extension", "")
            caller = channel.env.get("agi_callerid", "")
        call = CarrierCall(
            call_id=channel.query["id"] if channel is not None else f"placed-{self._count:06d}",
            number=number,
            caller=caller,
            heard=self._recordings / f"{self._count:05d}-{''.join(c for c in number if c.isalnum())}.wav",
            beep=self.beep,
        )
        self._unfinished[call.id] = call
        return call

    async def _perform(self, call: CarrierCall, channel: AgiChannel) -> None:
        call._channel = channel
        try:
            if call._script is not None:
                await call._record()
                await call._script(call)
            else:
                await (await self._enter(call))(call)
            await (call.reject(480) if call.answered_at is None else call.hang_up())
        except CallEnded:
            pass
        except (LabError, PbxError, WireError, ValueError) as error:
            # A script that fails is a mistake in the test, and has to be seen there.
            call.error = error
            _log.error("lab subscriber failed", number=call.number, error=str(error))
        finally:
            self._over(call)

    async def _enter(self, call: CarrierCall) -> Subscriber:
        """Write the call down, count it in, and say who answers it."""
        try:
            address, call.asserted = (await call._variable(_FACTS)).split("|", 1)
            call.trunk = "a" if address.startswith(f"{self.asterisk.address}:") else "b"
        finally:
            # A caller who gives up at once has called all the same.
            self.calls.append(call)
            self._note("arrived", call)
            async with self._arrived:
                self._arrived.notify_all()
        limit = self._capacity.get(call.trunk)
        if limit is not None and self.standing(call.trunk) >= limit:
            call.refused_full = True
            return lambda c: c.reject(503)
        self._standing[call.id] = call
        return self._subscribers.get(call.number) or self.default or (lambda c: c.reject(404))

    async def _watch_hangups(self) -> None:
        """A placed call that is refused meets no dialplan; its hangup tells the SIP code."""
        while True:
            event = await self._ami.next_item()
            if not isinstance(event, Message):
                continue
            call = self._unfinished.get(event.get("Uniqueid"))
            if call is not None and call.placed and call.answered_at is None:
                code = event.get("TechCause")
                call.final_code = int(code) if code.isdecimal() else None
                self._finish(call)

    def _over(self, call: CarrierCall) -> None:
        """The call's channel is gone or going; its recording may still be closing."""
        self._standing.pop(call.id, None)
        call._channel = None
        call.ended_at = time.monotonic()
        if call.final_code is None and not call.placed:
            call.final_code = 487
        # The dialplan tells when all is on disk; a carrier that was killed never does.
        asyncio.get_running_loop().call_later(_FINISH_SECONDS, self._finish, call)

    def _finish(self, call: CarrierCall) -> None:
        if self._unfinished.pop(call.id, None) is None:
            return
        call.ended_at = call.ended_at or time.monotonic()
        call._ended.set()
        self._standing.pop(call.id, None)
        self._note("ended", call)

    def _note(self, event: str, call: CarrierCall) -> None:
        with self._log_file.open("a") as log:
            log.write(json.dumps({"event": event, **call.as_dict()}) + "\n")


def _sound(sound: str | Path) -> str:
    """Asterisk takes names without their ending, and picks the format itself."""
    path = Path(sound)
    return str(path.with_suffix("")) if path.suffix else str(path)
