"""Asterisk behind the `Pbx` port: one AMI connection, one FastAGI server, one `Leg` per attempt.

How a call goes: `Originate` (Async, ChannelId = attempt id) into `telephony-session`; `Newstate` tells
the ringing (180) and `DialState` early media (183), the FastAGI connection with the leg's nonce the
answer, `Hangup` the end with its SIP and Q.850 cause. When the AMI link breaks, every leg is told; once
it is back, each leg is compared with the live channels and with the note that the dialplan left in AstDB
under the attempt's id.

What it never does: send an Originate twice, run an application by Originate, or accept a session
whose nonce is not that of a live leg.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Final

import structlog

from telephony.errors import PbxError, PbxRejected, PbxTimeout, PbxUnavailable, StaleFence, WireError
from telephony.model.hangup import Cause, HangupCause, classify
from telephony.net.ami import AmiClient, AmiConfig, Connected, Disconnected, EventsLost
from telephony.net.fastagi import AgiChannel, FastAgiServer
from telephony.pbx.asterisk.guard import MOVE_SECONDS
from telephony.pbx.asterisk.notes import AsteriskNotes
from telephony.pbx.asterisk.originate import order_headers
from telephony.pbx.asterisk.session import IVR, AgiSession
from telephony.pbx.asterisk.together import Together
from telephony.pbx.port import (
    Accepted,
    Answered,
    Callers,
    CallSession,
    DialOrder,
    EarlyMedia,
    Ended,
    Fate,
    LegEvent,
    LinkLost,
    LiveChannel,
    Ringing,
    Trace,
)
from telephony.wire.ami import Message, variable_header

log = structlog.get_logger(__name__)

CONTEXT: Final = "telephony-session"
EXTENSION: Final = "answered"
AGI_VARIABLE: Final = "TELEPHONY_AGI"
MACHINE_CONTEXT: Final = "telephony-machine"
"""Where a channel is while the PBX listens to who answered."""

HANGUP_HANDLER: Final = "telephony-ended,s,1"
"""Runs on the channel before it is gone, answered or not, and notes its end in AstDB."""

INBOUND_SCRIPTS: Final = ("inbound", IVR)
"""`agi://…/inbound` and `agi://…/ivr/NAME`: what a dialplan asks of its own accord, without a nonce."""

DAY_MS: Final = 86_400_000
SETTLE_SECONDS: Final = 2.0
"""An Originate left unread in an old AMI socket shows within this time, or never."""

BOOT_PAUSE: Final = 0.2
BOOT_ASKINGS: Final = 50
"""Seconds between looks for our dialplan, and after how many its absence is an error worth a line."""

START_ERROR_MS: Final = 1_500
"""Asterisk tells its start in whole seconds, rounded down."""

LINK_FRESH: Final = 1.0
"""A link from which something came so lately is trusted to carry a call's time limit."""

CONTACTS_SECONDS: Final = 60.0
"""How long it is remembered which contacts an endpoint has."""

CONCLUDE_SECONDS: Final = 1.0
"""How long a leg waits for the second of `Hangup` and `OriginateResponse`."""

LEG_EVENTS: Final = 32
"""Bound of a leg's queue: a leg has at most a handful of events, link losses included."""

_REASONS: Final = {
    "0": Cause.TRUNK_FAULT,
    "1": Cause.TRUNK_FAULT,
    "3": Cause.NO_ANSWER,
    "5": Cause.BUSY,
    "8": Cause.CONGESTION,
}
"""`OriginateResponse.Reason`, used only where no `Hangup` told the cause."""

RING_TIMEOUT: Final = "3"
REQUEST_TIMEOUT: Final = 408

_Q850_OF: Final = {Cause.BUSY: 17, Cause.DECLINED: 21, Cause.CONGESTION: 34}


@dataclass(frozen=True, slots=True)
class AsteriskConfig:
    """Where Asterisk is, and where its dialplan finds us.

    `agi_host` and `agi_port` are what our FastAGI server listens on (port 0 takes a free one);
    `drain_seconds` bounds how long `stop` waits for running conversations. `nonce_key` makes the
    nonces: the next life of the controller knows them again, nobody else can. `agi_address` is the
    `host:port` where the PBX reaches this controller; without it the dialplan's own `TELEPHONY_AGI` counts.
    """

    ami: AmiConfig
    nonce_key: bytes = field(repr=False)
    agi_host: str = "127.0.0.1"
    agi_port: int = 4573
    agi_address: str = ""
    allowed_peers: Collection[str] = ("127.0.0.0/8", "::1/128")
    max_sessions: int = 1000
    drain_seconds: float = 30.0
    reconcile_seconds: float = 5.0


@dataclass(slots=True)
class AsteriskLeg:
    """One ordered call. The queue's last event is `Ended`.

    `since` is when this process began to watch it, and `up_since` when it was answered, by the event
    loop's time. A `blind` leg has had a time of which we saw no events: how it ended is read from the
    dialplan's note. `early` is whether early media came, whatever it means here.
    """

    order: DialOrder
    pbx: AsteriskPbx
    nonce: str
    dialed_at_ms: int
    since: float
    events: asyncio.Queue[LegEvent] = field(default_factory=lambda: asyncio.Queue(LEG_EVENTS))
    action_id: str = ""
    rang: bool = False
    early: bool = False
    answered: bool = False
    up_since: float | None = None
    session: AgiSession | None = None
    reason: str | None = None
    gone: Message | None = None
    hanging_up: bool = False
    blind: bool = False
    ended: bool = False
    last_hope: asyncio.TimerHandle | None = None

    async def next_event(self) -> LegEvent:
        """Wait for what happens next."""
        return await self.events.get()

    async def hangup(self, cause: Cause = Cause.NORMAL) -> None:
        """AMI `Hangup` by unique id; without a link the dialplan's time limit ends the call."""
        self.hanging_up = True
        if not self.ended:
            with suppress(PbxUnavailable, PbxTimeout):
                await self.pbx.hangup(self.order.attempt_id, cause)

    def deliver(self, event: LegEvent) -> None:
        """Queue an event; nothing follows `Ended`."""
        if self.ended:
            return
        if isinstance(event, Ended):
            self.ended = True
            if self.last_hope:
                self.last_hope.cancel()
            if self.session:
                self.session.end()
            if self.events.full():
                self.events.get_nowait()
        elif self.events.qsize() >= LEG_EVENTS - 1:
            return
        self.events.put_nowait(event)


class AsteriskPbx:
    """The `Pbx` port on one Asterisk ≥ 20; `notes` is its memory.

    `on_inbound` takes FastAGI sessions that a dialplan begins of its own accord (`INBOUND_SCRIPTS`);
    `callers` hears of their channels. `on_global` is told each global variable that is set.
    """

    def __init__(
        self,
        config: AsteriskConfig,
        *,
        on_inbound: Callable[[CallSession], Awaitable[None]] | None = None,
        callers: Callers | None = None,
        on_global: Callable[[str, str], None] | None = None,
    ) -> None:
        self._config = config
        self._ami = AmiClient(config.ami)
        self.notes = AsteriskNotes(self._ami)
        self._callers = callers
        self._on_global = on_global
        self._agi = FastAgiServer(
            self._session,
            host=config.agi_host,
            port=config.agi_port,
            allowed_peers=config.allowed_peers,
            max_connections=config.max_sessions,
            drain_seconds=config.drain_seconds,
        )
        self._on_inbound = on_inbound
        self._legs: dict[str, AsteriskLeg] = {}
        self._by_action: dict[str, AsteriskLeg] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._reconcile_now = asyncio.Event()
        self._linked = asyncio.Event()
        self._booted = asyncio.Event()
        self._link_since = 0.0
        self._link_since_ms = 0
        self._standing = Together(self._list_ids)
        self._looked_for_restart = Together(self._look_for_restart)
        self._looked_link = 0.0
        self._contacts: dict[str, tuple[float, float, list[str]]] = {}
        self._boot_stamp = ""
        self._started_at_ms: int | None = None
        self._restart_seen_ms = 0
        self.stray_sessions = 0

    @property
    def ready(self) -> bool:
        """Whether an Originate would reach Asterisk's dialplan now.

        Asterisk lets us log in while it still boots: it is ready once it knows our context.
        """
        return self._ami.connected and self._booted.is_set()

    @property
    def agi_port(self) -> int:
        """The port that the FastAGI server listens on."""
        return self._agi.port

    async def start(self) -> None:
        """Listen for sessions, then begin to connect."""
        await self._agi.start()
        await self._ami.start()
        self._tasks = [
            asyncio.create_task(self._read_events(), name="ami-events"),
            asyncio.create_task(self._keep_reconciling(), name="ami-reconcile"),
            asyncio.create_task(self._watch_boot(), name="ami-boot"),
        ]

    async def stop(self) -> None:
        """Drain the sessions, then disconnect."""
        await self._agi.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._ami.stop()

    async def wait_ready(self, timeout: float) -> bool:
        """Wait for the AMI login and for the dialplan."""
        try:
            async with asyncio.timeout(timeout):
                while not self.ready:
                    if await self._ami.wait_connected(timeout):
                        await self._booted.wait()
        except TimeoutError:
            return False
        return True

    @asynccontextmanager
    async def dial(self, order: DialOrder) -> AsyncIterator[AsteriskLeg]:
        """Send one Originate; what a broken link leaves open is told by the leg's later events."""
        if order.attempt_id in self._legs:
            raise PbxRejected("an attempt is dialled once")
        if not self.ready:
            raise PbxUnavailable("not connected to Asterisk, or it still boots", sent=False)
        leg = self._new_leg(order, order.dialed_at_ms or _now_ms())
        ours = True
        try:
            await self._originate(leg)
            yield leg
        except StaleFence:
            ours = False
            raise
        finally:
            if ours and not leg.ended:
                await leg.hangup()
            self._drop_leg(leg)

    @asynccontextmanager
    async def adopt(self, order: DialOrder, *, dialed_at_ms: int) -> AsyncIterator[AsteriskLeg]:
        """Watch a channel of an earlier life, or of another controller.

        The next look at the live channels tells its state. Its dialplan is told to come to us.
        """
        if order.attempt_id in self._legs:
            raise PbxRejected("the attempt is already watched")
        leg = self._new_leg(order, dialed_at_ms)
        leg.blind = True
        self._reconcile_now.set()
        try:
            await self._call_here(leg)
            yield leg
        finally:
            self._drop_leg(leg)

    async def _call_here(self, leg: AsteriskLeg) -> None:
        """AMI `Setvar`: whoever ordered the leg wrote its own address there, and may be gone."""
        if self._config.agi_address:
            with suppress(PbxError):
                await self._ami.action(
                    "Setvar",
                    [
                        ("Channel", leg.order.attempt_id),
                        ("Variable", AGI_VARIABLE),
                        ("Value", self._config.agi_address),
                    ],
                )

    def _new_leg(self, order: DialOrder, dialed_at_ms: int) -> AsteriskLeg:
        nonce = hmac.digest(self._config.nonce_key, order.attempt_id.encode(), "sha256").hex()[:32]
        leg = AsteriskLeg(order, self, nonce, dialed_at_ms, asyncio.get_running_loop().time())
        self._legs[order.attempt_id] = leg
        return leg

    def _drop_leg(self, leg: AsteriskLeg) -> None:
        self._legs.pop(leg.order.attempt_id, None)
        self._by_action.pop(leg.action_id, None)
        if leg.session:
            leg.session.end()

    async def _originate(self, leg: AsteriskLeg) -> None:
        order = leg.order
        leg.action_id = f"dial-{order.attempt_id}"
        self._by_action[leg.action_id] = leg
        variables = {
            "TELEPHONY_ATTEMPT": order.attempt_id,
            "TELEPHONY_NONCE": leg.nonce,
            "TELEPHONY_DAY": str(leg.dialed_at_ms // DAY_MS),
            "TELEPHONY_LIMIT": str(round(order.max_duration)),
            "CHANNEL(hangup_handler_push)": HANGUP_HANDLER,
            **({"TELEPHONY_MACHINES": "1"} if order.detect_machines else {}),
            **order.variables,
        }
        if self._config.agi_address:
            variables[AGI_VARIABLE] = self._config.agi_address
        headers = [
            ("ActionID", leg.action_id),
            *order_headers(order),
            ("Context", CONTEXT),
            ("Exten", EXTENSION),
            ("Priority", "1"),
            *(variable_header(name, value) for name, value in variables.items()),
        ]
        try:
            await self._ami.action("Originate", headers)
        except PbxTimeout:
            log.warning("originate.unanswered", attempt=order.attempt_id)
            leg.deliver(LinkLost())
            self._reconcile_now.set()
        except PbxUnavailable as error:
            if not error.sent:
                raise
            leg.deliver(LinkLost())
        else:
            leg.deliver(Accepted())

    async def channels(self) -> tuple[LiveChannel, ...]:
        """AMI `CoreShowChannels`."""
        reply = await self._ami.action("CoreShowChannels")
        return tuple(
            LiveChannel(
                event.get("Uniqueid"),
                event.get("Channel"),
                event.get("ChannelStateDesc"),
                _clock_seconds(event.get("Duration")),
            )
            for event in reply.events
            if event.name == "CoreShowChannel"
        )

    async def reaches(self, endpoint: str) -> bool | None:
        """Read what Asterisk's own OPTIONS (`qualify_frequency`) found: `Getvar` of each contact's status."""
        now, link = asyncio.get_running_loop().time(), self._link_since
        known_on, until, known = self._contacts.get(endpoint, (0.0, 0.0, []))
        if known_on == link and now <= until and "Reachable" in await self._statuses(known):
            return True
        # What is known may have been replaced by now: a phone or a gateway registers from another port.
        contacts: list[str] = []
        for aor in await self._read(f"PJSIP_ENDPOINT({endpoint},aors)"):
            contacts += await self._read(f"PJSIP_AOR({aor},contact)")
        self._contacts[endpoint] = (link, now + CONTACTS_SECONDS, contacts)
        found = await self._statuses(contacts)
        if "Reachable" in found:
            return True
        return False if "Unreachable" in found else None

    async def _statuses(self, contacts: Sequence[str]) -> set[str]:
        found: set[str] = set()
        for contact in contacts:
            found.update(await self._read(f"PJSIP_CONTACT({contact},status)"))
        return found

    async def _read(self, function: str) -> list[str]:
        """The values that a function of the dialplan tells, in a list with commas; none where it refuses."""
        try:
            reply = await self._ami.action("Getvar", [("Variable", function)])
        except PbxRejected:
            return []
        return [value for value in reply.get("Value").split(",") if value]

    async def fate(
        self,
        attempt_id: str,
        dialed_at_ms: int,
        *,
        unseen_for: float = 0.0,
        unseen: Callable[[], Awaitable[None]] | None = None,
    ) -> Trace:
        """Ask the live channels, the dialplan's note, and how long Asterisk has been up.

        "Never rang" is said only after everything that an old link may have left unread has shown, and
        not of an attempt that lies in the future: a clock was set back, and no stamp can be compared.
        """
        known = await self._known_fate(attempt_id, dialed_at_ms)
        if known is None:
            if unseen is not None:
                await unseen()
            await self._settled(SETTLE_SECONDS - max(0.0, unseen_for))
            known = await self._known_fate(attempt_id, dialed_at_ms)
        if known is not None:
            return known
        comparable = dialed_at_ms <= _now_ms() + START_ERROR_MS
        if comparable and not self._restarted_since(dialed_at_ms - START_ERROR_MS):
            return Trace(Fate.NEVER_RANG)
        return Trace(Fate.UNKNOWN, HangupCause(Cause.PBX_LOST))

    async def _known_fate(self, attempt_id: str, dialed_at_ms: int) -> Trace | None:
        """What stands or is noted now; in this order, for the note is written before the channel goes."""
        if attempt_id in await self._standing():
            return Trace(Fate.LIVE)
        note = await self._note(attempt_id, dialed_at_ms)
        return None if note is None else _trace_of(note)

    async def _list_ids(self) -> frozenset[str]:
        return frozenset(channel.id for channel in await self.channels())

    async def hangup(self, channel_id: str, cause: Cause = Cause.NORMAL) -> None:
        """AMI `Hangup` by unique id; a channel that is gone is no error."""
        with suppress(PbxRejected):
            await self._ami.action(
                "Hangup", [("Channel", channel_id), ("Cause", str(_Q850_OF.get(cause, 16)))]
            )

    async def _note(self, attempt_id: str, dialed_at_ms: int) -> str | None:
        """Read what the hangup handler noted, None where nothing stands."""
        try:
            reply = await self._ami.action(
                "DBGet", [("Family", f"telephony-{dialed_at_ms // DAY_MS}"), ("Key", attempt_id)]
            )
        except PbxRejected:
            return None
        return next((event.get("Val") for event in reply.events if event.get("Val")), None)

    def _link_age(self) -> float:
        return asyncio.get_running_loop().time() - self._link_since

    async def _settled(self, seconds: float) -> None:
        """Let pass the time in which Asterisk reads what whoever ordered the attempt may have sent it.

        It counts from an answer that Asterisk gave us, on one link. The look for a restart belongs to it:
        what it finds is as fresh as the answer it allows.
        """
        link = self._link_since
        await asyncio.sleep(max(0.0, seconds))
        if self._link_since != link:
            raise PbxUnavailable("the link broke while an attempt was looked for", sent=False)
        await self._looked_for_restart()

    async def _read_events(self) -> None:
        while True:
            item = await self._ami.next_item()
            if isinstance(item, Message):
                self._on_event(item)
            elif isinstance(item, Connected):
                self._link_since = asyncio.get_running_loop().time()
                self._link_since_ms = _now_ms()
                self._linked.set()
                self._reconcile_now.set()
            elif isinstance(item, EventsLost):
                log.warning("ami.events_lost", count=item.count)
                for leg in self._legs.values():
                    leg.blind = True
                self._reconcile_now.set()
            elif isinstance(item, Disconnected):
                self._booted.clear()
                for leg in self._legs.values():
                    leg.blind = True
                    leg.deliver(LinkLost())

    def _on_event(self, event: Message) -> None:
        if event.name == "OriginateResponse":
            leg = self._by_action.get(event.get("ActionID"))
            if leg:
                self._on_originate_response(leg, event)
            else:
                self.notes.take(event)
            return
        if event.name == "VarSet":
            if self._on_global is not None and event.get("Channel") in ("", "none"):
                self._on_global(event.get("Variable"), event.get("Value"))
            return
        if event.name == "Hangup" and self._callers is not None:
            self._callers.gone(event.get("Uniqueid"))
        dial_state = event.name == "DialState"
        leg = self._legs.get(event.get("DestUniqueid" if dial_state else "Uniqueid"))
        if leg is None:
            return
        if dial_state:
            self._on_dial_state(leg, event.get("DialStatus"))
        elif event.name == "Newstate":
            self._on_state(leg, event.get("ChannelState"))
        elif event.name == "Hangup":
            self._on_hangup(leg, event)

    @staticmethod
    def _on_state(leg: AsteriskLeg, state: str) -> None:
        """5 is Ringing, 6 is Up (`enum ast_channel_state`)."""
        if state == "5" and not leg.rang:
            leg.rang = True
            leg.deliver(Ringing())
        elif state == "6":
            leg.answered = True
            leg.up_since = leg.up_since or asyncio.get_running_loop().time()

    @staticmethod
    def _on_dial_state(leg: AsteriskLeg, status: str) -> None:
        """A 183 leaves the channel's state alone, and yet the callee's network has the call.

        Of a carrier that announces in early media it tells nothing yet.
        """
        if status == "PROGRESS":
            leg.early = True
        if status == "PROGRESS" and not leg.rang and leg.order.dialect.early_media is EarlyMedia.RINGS:
            leg.rang = True
            leg.deliver(Ringing())

    def _on_originate_response(self, leg: AsteriskLeg, event: Message) -> None:
        if event.get("Response") == "Success":
            leg.answered = True
            return
        leg.reason = event.get("Reason")
        self._conclude(leg)

    def _on_hangup(self, leg: AsteriskLeg, event: Message) -> None:
        leg.gone = event
        self._conclude(leg)

    def _conclude(self, leg: AsteriskLeg) -> None:
        """End a leg once everything about its end is known.

        An unanswered one needs the `Hangup`, which has the SIP code, and the `OriginateResponse`,
        which alone tells our own ring timeout (Asterisk gives it the code 480). They come in either
        order, and where no channel was ever made there is no `Hangup`: the wait has a limit.
        """
        if leg.ended:
            return
        if leg.blind and not leg.answered:
            # What we did not see was told to nobody here: the dialplan's note knows it.
            self._reconcile_now.set()
        elif leg.gone is not None and (leg.answered or leg.reason is not None):
            leg.deliver(_end_of(leg))
        elif leg.last_hope is None:
            leg.last_hope = asyncio.get_running_loop().call_later(
                CONCLUDE_SECONDS, lambda: leg.deliver(_end_of(leg))
            )

    async def _watch_boot(self) -> None:
        """After each login, ask until the dialplan has our context; a lack of it is told with its mend."""
        while True:
            await self._linked.wait()
            self._linked.clear()
            asked = 0
            while self._ami.connected and not self._linked.is_set():
                if await self._dialplan_is_there():
                    self._booted.set()
                    break
                asked += 1
                if asked == BOOT_ASKINGS:
                    log.error("pbx.dialplan_missing", context=CONTEXT, mend="#include telephony.conf")
                await asyncio.sleep(BOOT_PAUSE)

    async def _dialplan_is_there(self) -> bool:
        """AMI `Getvar` of `DIALPLAN_EXISTS`."""
        try:
            reply = await self._ami.action(
                "Getvar", [("Variable", f"DIALPLAN_EXISTS({CONTEXT},{EXTENSION},1)")]
            )
        except (PbxError, WireError):
            return False
        return reply.get("Value") == "1"

    async def _keep_reconciling(self) -> None:
        """Compare legs with channels at each new link, after a loss of events, and now and then."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._reconcile_now.wait(), self._config.reconcile_seconds)
            self._reconcile_now.clear()
            if not self._ami.connected:
                continue
            try:
                await self._reconcile()
            except (PbxError, WireError) as error:
                log.warning("pbx.reconcile_failed", error=str(error))

    async def _reconcile(self) -> None:
        # An Asterisk that was started anew has broken the link.
        if self._legs or self._looked_link != self._link_since:
            link = self._link_since
            await self._look_for_restart()
            self._looked_link = link
        if not self._legs:
            return
        asked = asyncio.get_running_loop().time()
        live = {channel.id: channel for channel in await self.channels()}
        for leg in list(self._legs.values()):
            channel = live.get(leg.order.attempt_id)
            if channel is not None:
                self._on_live(leg, channel)
            elif not leg.ended and (leg.gone is not None or asked - leg.since > SETTLE_SECONDS):
                await self._on_gone(leg, restarted=self._restarted_since(leg.dialed_at_ms))
            elif not leg.ended:
                asyncio.get_running_loop().call_later(SETTLE_SECONDS, self._reconcile_now.set)

    @staticmethod
    def _on_live(leg: AsteriskLeg, channel: LiveChannel) -> None:
        if channel.state == "Ringing" and not leg.rang:
            leg.rang = True
            leg.deliver(Ringing())
        elif channel.state == "Up":
            leg.answered = True

    async def _on_gone(self, leg: AsteriskLeg, *, restarted: bool) -> None:
        """End a leg whose channel is gone without a `Hangup` seen."""
        note = await self._note(leg.order.attempt_id, leg.dialed_at_ms)
        if leg.ended:
            return
        if note is not None:
            trace = _trace_of(note)
            if trace.rang and not leg.rang:
                leg.rang = True
                leg.deliver(Ringing())
            cause = trace.cause or HangupCause(Cause.UNKNOWN)
            if leg.hanging_up and trace.fate is Fate.NOT_ANSWERED:
                cause = HangupCause(Cause.CANCELED, cause.sip, cause.q850)
        elif leg.gone is not None:
            cause = _cause_of(leg)
        elif restarted:
            cause = HangupCause(Cause.PBX_LOST)
        elif self._link_age() < SETTLE_SECONDS:
            asyncio.get_running_loop().call_later(SETTLE_SECONDS, self._reconcile_now.set)
            return
        else:
            cause = HangupCause(Cause.TRUNK_FAULT)
        log.info("leg.settled", attempt=leg.order.attempt_id, cause=cause.cause.value)
        leg.deliver(Ended(cause))

    async def _look_for_restart(self) -> None:
        """AMI `CoreStatus`: see when Asterisk was started, and whether anew since the last look.

        Its stamp is local time without a zone, by its own machine's clock; `Getvar` of `STRFTIME` tells
        both. (The uptime in `FullyBooted` would be plainer, but is kept for users with the `system` class.)
        """
        reply = await self._ami.action("CoreStatus")
        stamp = f"{reply.get('CoreStartupDate')} {reply.get('CoreStartupTime')}"
        clock = await self._ami.action("Getvar", [("Variable", "STRFTIME(,,%s.%3q%z)")])
        if self._boot_stamp and stamp != self._boot_stamp:
            # Whatever was dialled before this link went down with the old Asterisk; the stamp itself
            # is whole seconds, and may lie before a dial of the same second.
            self._restart_seen_ms = self._link_since_ms
        self._boot_stamp = stamp
        self._started_at_ms = started_at_ms(stamp, clock.get("Value"), _now_ms())

    def _restarted_since(self, moment_ms: int) -> bool:
        return self._started_at_ms is None or max(self._started_at_ms, self._restart_seen_ms) > moment_ms

    async def _session(self, channel: AgiChannel) -> None:
        """Match a FastAGI connection with its leg by id and nonce, then let the conversation run."""
        leg = self._legs.get(channel.unique_id)
        nonce = channel.query.get("nonce", "")
        move = partial(self._move_limit, channel.unique_id)
        session = AgiSession(channel, move, linked=self._ami.heard_within(LINK_FRESH))
        if leg is not None and leg.session is None and hmac.compare_digest(nonce, leg.nonce):
            leg.session = session
            leg.answered = True
            if leg.order.detect_machines:
                _note_judgement(leg, channel.query)
            now = asyncio.get_running_loop().time()
            leg.deliver(Answered(session, now - (leg.up_since or now)))
            await session.over()
            await session.settle()
            return
        if nonce or self._on_inbound is None or channel.script.partition("/")[0] not in INBOUND_SCRIPTS:
            self.stray_sessions += 1
            log.warning("session.refused", channel=channel.unique_id, peer=str(channel.peer))
            return
        if self._callers is not None:
            self._callers.arrived(channel.unique_id, channel.env.get("agi_channel", ""))
        try:
            await self._on_inbound(session)
        finally:
            await session.settle()

    async def _move_limit(self, channel_id: str, seconds: float) -> None:
        """AMI `Setvar`, which reaches a channel whatever it is doing."""
        headers = [
            ("Channel", channel_id),
            ("Variable", "TIMEOUT(absolute)"),
            ("Value", f"{seconds:.1f}"),
        ]
        await self._ami.action("Setvar", headers, timeout=MOVE_SECONDS)


def _note_judgement(leg: AsteriskLeg, told: Mapping[str, str]) -> None:
    """Log what the dialplan's AMD made of whoever answered; a lack of it is told with its mend."""
    attempt, status = leg.order.attempt_id, told.get("amdstatus", "")
    if status:
        log.info("leg.judged", attempt=attempt, status=status, cause=told.get("amdcause", ""))
    else:
        log.error("pbx.amd_missing", attempt=attempt, mend="load app_amd, and use this telephony.conf")


def _trace_of(note: str) -> Trace:
    """Read a note, `Q.850:SIP status line:channel state`, such as `17:SIP 486 Busy Here:Ringing`."""
    q850, _, rest = note.partition(":")
    line, _, state = rest.rpartition(":")
    sip = _sip_code(line)
    answered, rang = state == "Up", state == "Ringing"
    # 1xx is no end: we gave up ringing, and the Q.850 cause says so.
    final = sip if sip is not None and sip >= 300 else None
    cause = classify(sip=final, q850=_number(q850), rang=rang, answered=answered)
    return Trace(Fate.ANSWERED if answered else Fate.NOT_ANSWERED, cause, rang=rang or answered)


def _end_of(leg: AsteriskLeg) -> Ended:
    """Say how a leg ended; one that ended while the PBX listened is told by its context."""
    cause = _cause_of(leg)
    if leg.gone is None or leg.gone.get("Context") != MACHINE_CONTEXT:
        return Ended(cause)
    if leg.hanging_up:
        cause = HangupCause(Cause.CANCELED, cause.sip, cause.q850)
    now = asyncio.get_running_loop().time()
    return Ended(cause, now - (leg.up_since or now))


def _cause_of(leg: AsteriskLeg) -> HangupCause:
    """Name the end of a leg from its `Hangup` and its `OriginateResponse`, whichever came."""
    sip = _sip_code(leg.gone.get("TechCause")) if leg.gone else None
    q850 = _number(leg.gone.get("Cause")) if leg.gone else None
    if leg.answered:
        if _was_announcement(leg):
            return HangupCause(Cause.UNREACHABLE, sip, q850)
        return classify(sip=sip, q850=q850, rang=leg.rang, answered=True)
    if leg.hanging_up:
        return HangupCause(Cause.CANCELED, sip, q850)
    # Who let it time out with early media may have rung a phone, whatever the media said.
    if leg.reason == RING_TIMEOUT:
        # Without any 18x it is our own 408: the trunk was silent, and nobody's phone has rung.
        return HangupCause(Cause.NO_ANSWER if leg.rang or leg.early else Cause.TRUNK_FAULT, None, q850)
    rang = leg.rang or (leg.early and sip == REQUEST_TIMEOUT)
    cause = classify(sip=sip, q850=q850, rang=rang, answered=False)
    if cause.cause in (Cause.CANCELED, Cause.UNKNOWN, Cause.NORMAL):
        return HangupCause(_REASONS.get(leg.reason or "", Cause.UNKNOWN), sip, q850)
    return cause


def _was_announcement(leg: AsteriskLeg) -> bool:
    """Whether the far end hung up so soon that its carrier's dialect says that nobody was there."""
    soon = leg.order.dialect.false_answer
    if not soon or leg.session is None or leg.up_since is None or leg.hanging_up or leg.session.finished:
        return False
    return asyncio.get_running_loop().time() - leg.up_since <= soon


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def _sip_code(text: str) -> int | None:
    """`TechCause` holds the SIP code, bare or as the start of a status line."""
    word = text.removeprefix("SIP").strip().split(" ", 1)[0]
    return int(word) if word.isdigit() and 100 <= int(word) < 700 else None


def started_at_ms(stamp: str, clock: str, now_ms: int) -> int | None:
    """When the PBX started, in milliseconds by our clock; None for nonsense.

    `stamp` is its start, `YYYY-MM-DD HH:MM:SS`, and `clock` its time at our `now_ms`, seconds since the
    epoch with the zone's offset, as in `1800000000.123+0800`: its machine's clock may be off from ours.
    """
    try:
        theirs = float(clock[:-5])
        started = datetime.strptime(f"{stamp} {clock[-5:]}", "%Y-%m-%d %H:%M:%S %z").timestamp()
    except ValueError:
        return None
    return now_ms - round((theirs - started) * 1000)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _clock_seconds(text: str) -> float:
    """Turn `hh:mm:ss` into seconds."""
    parts = [int(part) for part in text.split(":") if part.isdigit()]
    return float(sum(value * 60**place for place, value in enumerate(reversed(parts))))
