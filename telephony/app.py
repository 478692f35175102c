"""Where everything is put together: from settings to a running controller, and down again in order.

What it never does: decide anything about a call.
"""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge

from telephony.api import create_app
from telephony.api.keys import KeyRing
from telephony.calls.engine import CallEngine, EngineConfig
from telephony.egress.deliverer import Deliverer
from telephony.egress.guard import Guard
from telephony.egress.http import Egress, HttpCaller
from telephony.errors import ConfigError, StoreError
from telephony.ivr.book import Edition, TreeBook
from telephony.ivr.flow import InboundIvr, TreeFlows
from telephony.ivr.handover import DialplanQueues, DialplanTransfers
from telephony.ivr.inbound_log import InboundCall, InboundLog
from telephony.ivr.known import rules_here
from telephony.ivr.recordings import PbxRecordings
from telephony.ivr.sounds import Wardrobe
from telephony.ivr.standins import NoProfiles, NoRecordings, NoWebhooks, Services
from telephony.ivr.tree import Webhook
from telephony.ivr.webhooks import SignedProfiles, SignedQuestions, SignedWebhooks
from telephony.model.prompt import Phrase
from telephony.net.ami import AmiConfig
from telephony.pbx.asterisk import AsteriskConfig, AsteriskPbx
from telephony.resources import data_dir
from telephony.services.announcement import AnnouncementFlow
from telephony.services.calls import CallRules, Calls
from telephony.services.codes import CodeBox, derive_key
from telephony.services.flows import FlowRegistry
from telephony.services.housekeeping import Housekeeper
from telephony.services.notices import Notices
from telephony.services.payment import PaymentRules, Payments
from telephony.services.payment_book import AppQuestion, PaymentBook, PaymentExpiry
from telephony.services.payment_flow import Agent, PaymentFlow
from telephony.services.trunk_notices import TrunkNotices
from telephony.services.trunks import TrunkDesk
from telephony.services.verification import CallBudget, VerificationFlow, VerificationRules, Verifications
from telephony.services.webhooks import WebhookDeliveries
from telephony.settings import Settings
from telephony.speech.engine import EspeakNg
from telephony.speech.packs import Packs
from telephony.speech.studio import Studio
from telephony.store import Store
from telephony.trunks.board import TrunkBoard
from telephony.trunks.inbound import InboundLines
from telephony.trunks.routing import Router
from telephony.trunks.watch import TrunkWatch

GARBAGE_AFTER: Final = 10_000
"""Objects that are made, more than are freed, before the newest are searched for cycles."""

log = structlog.get_logger(__name__)

AMI_EVENTS: Final = ("DialState", "Hangup", "Newstate", "OriginateResponse", "VarSet")
BRANDED: Final = (
    "verification.greeting",
    "verification.press_key",
    "payment.greeting",
    "payment.voicemail",
)


@dataclass(frozen=True, slots=True)
class Controller:
    """A running controller and its parts."""

    settings: Settings
    store: Store
    pbx: AsteriskPbx
    studio: Studio
    engine: CallEngine
    verifications: Verifications
    payments: Payments
    calls: Calls
    deliveries: WebhookDeliveries
    http_port: int

    @property
    def url(self) -> str:
        """Where the HTTP API listens."""
        return f"http://{self.settings.server.host}:{self.http_port}"


class Readiness:
    """What `/readyz` tells of each part."""

    def __init__(self, store: Store, pbx: AsteriskPbx) -> None:
        self._store = store
        self._pbx = pbx

    async def ready(self) -> tuple[bool, Mapping[str, str]]:
        """Whether a call asked for now would be dialled, and what is wrong where not."""
        parts = {
            "speech": "ok",
            "store": "ok",
            "pbx": "ok" if self._pbx.ready else "not connected, or its dialplan lacks ours",
        }
        try:
            await self._store.ping()
        except StoreError as error:
            parts["store"] = str(error)
        return all(state == "ok" for state in parts.values()), parts


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Controller]:
    """Start a controller, and stop it when the block ends: no new calls, then drain, then close.

    Raises `ConfigError`, `SpeechError` or `StoreError` when it cannot start.
    """
    async with AsyncExitStack() as stack:
        master_key = settings.master_key()
        studio = _studio(settings)
        stack.push_async_callback(studio.close)
        studio.claim()
        clients = settings.client_list()
        branded = [Phrase(key, (("brand", client.brand),)) for client in clients for key in BRANDED]
        await studio.prepare(settings.speech.locales, branded)
        store = await Store.open(settings.store.url, owner=settings.server.node)
        stack.push_async_callback(store.close)
        ivr = await _ivr(stack, settings, studio, store)
        router = Router(settings.trunk_list(), settings.route_rules(), settings.overflow.trunks)
        board = TrunkBoard(
            store,
            router.trunks,
            plan=settings.overflow_plan(),
            crowded_at=settings.overflow.crowded_at,
        )
        inbound = InboundLines(
            store, router.trunks, owner=settings.server.node, lease=settings.store.lease_seconds
        )
        pbx = AsteriskPbx(
            _asterisk(settings, derive_key(master_key, "session-nonce")),
            on_inbound=ivr.inbound if ivr else None,
            callers=inbound,
            on_global=board.heard,
        )
        codes = CodeBox(master_key)
        endpoints = settings.webhook_endpoints()
        guard = Guard(settings.webhooks.allow_private)
        caller = HttpCaller(guard)
        stack.push_async_callback(caller.close)
        # Apart: names in one payment's `decide_url` that no name server answers hold no webhook up.
        asker = HttpCaller(guard)
        stack.push_async_callback(asker.close)
        deliverer = Deliverer(store, Egress(caller), endpoints, settings.delivery_rules())
        notices = Notices(endpoints, deliverer.wake)
        book = PaymentBook(store, notices)
        app = AppQuestion(Egress(asker), guard, endpoints)
        flows = FlowRegistry([AnnouncementFlow(store, studio)], notices, ivr.flows if ivr else None)
        watch = TrunkWatch(
            store,
            pbx,
            router,
            TrunkNotices(notices),
            owner=settings.server.node,
            lease=settings.store.lease_seconds,
            rules=settings.breaker_rules(),
            saturation_rules=settings.saturation_rules(),
            on_its_way=inbound.writes,
            limited=inbound.limited,
        )
        engine = CallEngine(
            store,
            pbx,
            router,
            flows.for_engine(
                VerificationFlow(store, studio, codes, notices=notices),
                PaymentFlow(book, studio, app=app, agent=_agent(settings)),
            ),
            owner=settings.server.node,
            discard=studio.discard,
            config=_engine(settings),
            full=watch.found_full,
        )
        verifications = Verifications(store, engine, router, studio, codes, _rules(settings), notices=notices)
        housekeeper = Housekeeper(store, studio, PaymentExpiry(book, engine), notices=notices)
        payments = Payments(
            store,
            engine,
            router,
            studio,
            book,
            PaymentRules(ttl=settings.payments.ttl),
            app=app,
            deadline_set=housekeeper.look_by,
        )
        calls = Calls(
            store,
            engine,
            router,
            studio,
            flows,
            CallRules(ttl=settings.calls.ttl),
            withdraw={PaymentFlow.name: book.cancel},
        )
        urls = {name: endpoint.url for name, endpoint in endpoints.items()}
        deliveries = WebhookDeliveries(store, urls, deliverer.wake)
        trunks = TrunkDesk(store, router.trunks, board.changed)
        deliverer.start()
        stack.push_async_callback(deliverer.stop)
        stack.push_async_callback(inbound.stop)
        await pbx.start()
        stack.push_async_callback(pbx.stop)
        await engine.start()
        stack.push_async_callback(engine.stop)
        watch.start(engine.look_for_lines)
        stack.push_async_callback(watch.stop)
        inbound.start(engine.look_for_lines)
        await board.start(pbx, pbx.notes)
        stack.push_async_callback(board.stop)
        housekeeper.start()
        stack.push_async_callback(housekeeper.stop)
        registry = CollectorRegistry()
        _watch(registry, pbx, engine, watch)
        http = create_app(
            verifications=verifications,
            payments=payments,
            calls=calls,
            deliveries=deliveries,
            trunks=trunks,
            health=Readiness(store, pbx),
            keys=KeyRing(
                (section.key_hash, client) for section, client in zip(settings.clients, clients, strict=True)
            ),
            registry=registry,
        )
        port = await _serve_http(stack, http, settings)
        yield Controller(
            settings, store, pbx, studio, engine, verifications, payments, calls, deliveries, port
        )


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(settings) as controller:
        log.info("controller.ready", url=controller.url, agi_port=controller.pbx.agi_port)
        await stop.wait()
        log.info("controller.stopping", calls=controller.engine.live_calls)


def run(settings: Settings) -> None:
    """`serve` in a loop of its own: uvloop's where it is installed, else asyncio's."""
    # What was imported stays: the garbage collector need not look through it again and again, nor look
    # for cycles after every few hundred objects: a call makes that many, and hardly a cycle.
    gc.freeze()
    gc.set_threshold(GARBAGE_AFTER, *gc.get_threshold()[1:])
    gc.enable()
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve(settings))
    else:
        uvloop.run(serve(settings))


@dataclass(frozen=True, slots=True)
class _Ivr:
    """Trees, called in and out."""

    inbound: InboundIvr
    flows: TreeFlows


async def _ivr(stack: AsyncExitStack, settings: Settings, studio: Studio, store: Store) -> _Ivr | None:
    """Load the trees, render what they say, and watch their folder. Raises `ConfigError` for a faulty one."""
    ivr = settings.ivr
    if ivr.folder is None:
        return None
    guard = Guard(ivr.allow_private)
    caller = HttpCaller(guard)
    stack.push_async_callback(caller.close)
    secrets = settings.ivr_webhook_secrets()
    questions = SignedQuestions(Egress(caller), secrets)
    services = Services(
        webhooks=SignedWebhooks(questions) if secrets else NoWebhooks(),
        profiles=SignedProfiles(questions, ivr.lookup_url) if ivr.lookup_url else NoProfiles(),
        recordings=PbxRecordings(ivr.recordings_dir) if ivr.recordings_dir else NoRecordings(),
        queues=DialplanQueues(ivr.queue_context),
        transfers=DialplanTransfers(ivr.number_context),
    )
    wardrobe = Wardrobe(studio)

    async def make_ready(edition: Edition) -> None:
        _check_edition(settings, edition, asks=bool(secrets))
        await wardrobe.make(edition.number, edition.trees.values())

    served = ("transfer", "queue") if ivr.queue_context else ("transfer",)
    rules = rules_here(_packs(), settings.speech.recordings_dir, guard, served)
    book = TreeBook(ivr.folder, rules, prepare=make_ready)
    await book.start()
    stack.push_async_callback(book.stop)
    inbound = InboundIvr(
        book,
        studio,
        services,
        default_tree=ivr.inbound,
        numbers=ivr.numbers,
        wardrobe=wardrobe,
        keep=_inbound_log(stack, settings, store),
    )
    return _Ivr(inbound, TreeFlows(book, studio, services, wardrobe))


def _inbound_log(
    stack: AsyncExitStack, settings: Settings, store: Store
) -> Callable[[InboundCall], None] | None:
    """Who keeps the calls that came in; nobody where it is not clear whose they are."""
    names = [client.name for client in settings.clients]
    client = settings.ivr.client or (names[0] if len(names) == 1 else "")
    if not client:
        log.warning("ivr.calls_not_kept", mend="say in ivr.client which client sees the calls that come in")
        return None
    kept = InboundLog(store, client)
    kept.start()
    stack.push_async_callback(kept.stop)
    return kept.keep


def _check_edition(settings: Settings, edition: Edition, *, asks: bool) -> None:
    """Refuse trees that the settings don't fit; raises `ConfigError`."""
    ivr = settings.ivr
    named = {"ivr.inbound": ivr.inbound} if ivr.inbound else {}
    named |= {f"ivr.numbers.{number}": tree for number, tree in ivr.numbers.items()}
    for key, tree in named.items():
        if tree not in edition.trees:
            known = ", ".join(sorted(edition.trees)) or "none: the folder is empty"
            raise ConfigError(key, f"there is no tree {tree}", f"Write one of {known}")
    for name, one in edition.trees.items():
        if not asks and any(isinstance(node, Webhook) for node in one.nodes.values()):
            raise ConfigError(
                "ivr.webhook_secret",
                f"is missing, and the tree {name} asks an app",
                'Make one with: echo "whsec_$(openssl rand -base64 32)"',
            )


def _packs() -> Packs:
    return Packs.load(data_dir("audio"))


def _studio(settings: Settings) -> Studio:
    speech = settings.speech
    return Studio(
        _packs(),
        EspeakNg(),
        cache_dir=speech.cache_dir,
        media_dir=speech.media_dir,
        pbx_media_dir=speech.pbx_media_dir,
        recordings_dir=speech.recordings_dir,
        cache_limit_bytes=speech.cache_limit_mb * 1024 * 1024,
    )


def ami_config(settings: Settings) -> AmiConfig:
    """Asterisk's manager, as `[pbx.ami]` has it."""
    ami = settings.pbx.ami
    return AmiConfig(
        host=ami.host,
        port=ami.port,
        username=ami.username,
        secret=settings.ami_secret(),
        tls=ami.tls,
        ca_file=ami.tls_ca_file,
        connect_timeout=ami.connect_timeout,
        action_timeout=ami.action_timeout,
        event_names=AMI_EVENTS,
    )


def _asterisk(settings: Settings, nonce_key: bytes) -> AsteriskConfig:
    agi = settings.fastagi
    return AsteriskConfig(
        ami=ami_config(settings),
        nonce_key=nonce_key,
        agi_host=agi.host,
        agi_port=agi.port,
        agi_address=agi.advertise,
        allowed_peers=agi.allowed_peers,
        max_sessions=agi.max_connections,
        drain_seconds=settings.server.drain_seconds,
    )


def _engine(settings: Settings) -> EngineConfig:
    return EngineConfig(
        lease=settings.store.lease_seconds,
        drain=settings.server.drain_seconds,
        max_calls=settings.calls.max_calls,
        otp_share=settings.calls.otp_share,
        windows=settings.windows(),
        retry=settings.retry_rules(),
        breaker=settings.breaker_rules(),
    )


def _rules(settings: Settings) -> VerificationRules:
    rules = settings.verification
    return VerificationRules(
        code_length=rules.code_length,
        ttl=rules.ttl,
        max_checks=rules.max_checks,
        max_sends=rules.max_sends,
        play_times=rules.play_times,
        require_keypress=rules.require_keypress,
        dial_within=rules.dial_within,
        failures_per_number=rules.failures_per_number,
        failures_window=rules.failures_window,
        calls_per_number=tuple(CallBudget(one.count, one.seconds) for one in rules.calls_per_number),
    )


def _agent(settings: Settings) -> Agent | None:
    payments = settings.payments
    if not payments.transfer_extension:
        return None
    return Agent(payments.transfer_extension, payments.transfer_context)


def _watch(registry: CollectorRegistry, pbx: AsteriskPbx, engine: CallEngine, watch: TrunkWatch) -> None:
    """Let the metrics read what the rooms know of themselves."""
    linked = Gauge("telephony_pbx_connected", "1 while linked to the PBX", registry=registry)
    linked.set_function(lambda: float(pbx.ready))
    live = Gauge("telephony_calls_live", "Calls this controller works on", registry=registry)
    live.set_function(lambda: float(engine.live_calls))
    strays = Gauge("telephony_sessions_refused", "FastAGI sessions that fitted no call", registry=registry)
    strays.set_function(lambda: float(pbx.stray_sessions))
    mended = Gauge("telephony_slots_mended", "Slots that the census found wrong", registry=registry)
    mended.set_function(lambda: float(watch.mended))


async def _serve_http(stack: AsyncExitStack, http: web.Application, settings: Settings) -> int:
    """Listen; raises `ConfigError` where the address is taken. Returns the port."""
    runner = web.AppRunner(http, access_log=None, keepalive_timeout=75.0, shutdown_timeout=5.0)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    server = settings.server
    try:
        await web.TCPSite(runner, server.host, server.port).start()
    except OSError as error:
        raise ConfigError(
            "server.port",
            f"{server.host}:{server.port} cannot be listened on ({error.strerror})",
            "Use another",
        ) from None
    port: int = runner.addresses[0][1]
    return port
