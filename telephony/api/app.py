"""The HTTP application: routes, and what surrounds each of them.

Around every request: an id, a key, a deadline for the body, a log line, a metric, and problems for
whatever goes wrong. What it never does: decide anything about a call, or log a body.
"""

from __future__ import annotations

import asyncio
import difflib
import hashlib
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import structlog
from aiohttp import HttpVersion11, web
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from telephony.api import documents
from telephony.api.keys import KeyRing
from telephony.api.ports import (
    CallService,
    DeliveryService,
    Health,
    PaymentService,
    TrunkService,
    VerificationService,
)
from telephony.api.problems import INTERNAL_DETAIL, problem, problem_of
from telephony.api.reading import MAX_BODY, Refusal, read_model
from telephony.api.schemas import (
    Alive,
    Call,
    CallRequest,
    CheckReply,
    CheckRequest,
    Delivery,
    DryRun,
    Empty,
    LimitRequest,
    ListOf,
    Payment,
    PaymentRequest,
    Readiness,
    Trunk,
    TrunkList,
    Verification,
    VerificationRequest,
)
from telephony.errors import (
    IdempotencyConflict,
    InputError,
    Overloaded,
    PbxError,
    SpeechError,
    StoreError,
    TelephonyError,
)
from telephony.model.call import CallStatus, PaymentStatus, VerificationStatus
from telephony.model.client import Client
from telephony.model.delivery import DeliveryStatus
from telephony.model.ids import new_id
from telephony.services.contract import Once, StoredReply

log = structlog.get_logger(__name__)

READ_SECONDS: Final = 10.0
MAX_WAIT: Final = 60.0
MAX_LIMIT: Final = 200
MAX_IN_FLIGHT: Final = 10_000
MAX_WAITING: Final = 1_000
"""How many requests may wait for a change at once (`?wait=`)."""

MAX_CURSOR: Final = 512
REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
OPEN_PATHS: Final = frozenset({"/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"})
LOCAL_KINDS: Final = {404: "not-found", 405: "method-not-allowed", 413: "too-large"}
EVERY_REPLY: Final = {
    "Cache-Control": "no-store",
    "Server": "telephony",
    "X-Content-Type-Options": "nosniff",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Status = TypeVar("Status", CallStatus, DeliveryStatus, PaymentStatus, VerificationStatus)

CLIENT: Final = web.RequestKey("client", Client)
REQUEST_NAME: Final = web.RequestKey("request_id", str)


class Metrics:
    """What the HTTP face counts; routes are labelled by their template, never by a path."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        labels = ("method", "route", "status")
        self.requests = Counter("telephony_http_requests", "HTTP requests", labels, registry=registry)
        self.seconds = Histogram(
            "telephony_http_request_seconds",
            "Time to answer",
            ("method", "route"),
            registry=registry,
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60),
        )


class HttpFace:
    """The handlers."""

    def __init__(
        self,
        verifications: VerificationService,
        payments: PaymentService,
        calls: CallService,
        deliveries: DeliveryService,
        trunks: TrunkService,
        health: Health,
        keys: KeyRing,
        registry: CollectorRegistry,
    ) -> None:
        self._verifications = verifications
        self._payments = payments
        self._deliveries = deliveries
        self._trunks = trunks
        self._calls = calls
        self._health = health
        self._keys = keys
        self._metrics = Metrics(registry)
        self._in_flight: set[tuple[str, str]] = set()
        self._waiting = 0
        self._queries = documents.query_names()

    def routes(self) -> list[web.RouteDef]:
        """Every route. An id holds nothing that a store or a log could stumble over."""
        verification = "/v1/verifications/{id:[A-Za-z0-9_-]{1,64}}"
        payment = "/v1/payment-confirmations/{id:[A-Za-z0-9_-]{1,64}}"
        call = "/v1/calls/{id:[A-Za-z0-9_-]{1,64}}"
        delivery = "/v1/webhook-deliveries/{id:[A-Za-z0-9_-]{1,64}}"
        trunk = "/v1/trunks/{name:[^/]{1,64}}"

        def post(path: str, handler: Handler) -> web.RouteDef:
            return web.post(path, handler, expect_handler=self._expected)

        return [
            post("/v1/verifications", self.create_verification),
            web.get("/v1/verifications", self.list_verifications),
            web.get(verification, self.get_verification),
            post(f"{verification}/resend", self.resend_verification),
            post(f"{verification}/check", self.check_verification),
            post(f"{verification}/cancel", self.cancel_verification),
            post("/v1/payment-confirmations", self.create_payment),
            web.get("/v1/payment-confirmations", self.list_payments),
            web.get(payment, self.get_payment),
            post(f"{payment}/cancel", self.cancel_payment),
            post("/v1/calls", self.create_call),
            web.get("/v1/calls", self.list_calls),
            web.get(call, self.get_call),
            post(f"{call}/cancel", self.cancel_call),
            web.get("/v1/webhook-deliveries", self.list_deliveries),
            post(f"{delivery}/resend", self.resend_delivery),
            web.get("/v1/trunks", self.list_trunks),
            web.get(trunk, self.get_trunk),
            post(f"{trunk}/drain", self.drain_trunk),
            post(f"{trunk}/resume", self.resume_trunk),
            post(f"{trunk}/limit", self.limit_trunk),
            web.get("/healthz", self.healthz),
            web.get("/readyz", self.readyz),
            web.get("/metrics", self.metrics),
            web.get("/openapi.json", self.openapi),
            web.get("/docs", self.docs),
        ]

    # ---- verifications

    async def create_verification(self, request: web.Request) -> web.Response:
        """`POST /v1/verifications`."""
        body, raw = await read_model(request, VerificationRequest)
        client = request[CLIENT]
        if _flag(request, "dry_run"):
            return _json(DryRun.of(await self._verifications.dry_run(client, body.as_new())))
        with self._once(request, raw, 201, Verification.of) as once:
            made = await self._verifications.create(client, body.as_new(), once)
        return _made(made, 201, Verification.of)

    async def resend_verification(self, request: web.Request) -> web.Response:
        """`POST /v1/verifications/{id}/resend`."""
        _body, raw = await read_model(request, Empty, optional=True)
        with self._once(request, raw, 200, Verification.of) as once:
            made = await self._verifications.resend(request[CLIENT], request.match_info["id"], once)
        return _made(made, 200, Verification.of)

    async def check_verification(self, request: web.Request) -> web.Response:
        """`POST /v1/verifications/{id}/check`."""
        body, _raw = await read_model(request, CheckRequest)
        outcome = await self._verifications.check(request[CLIENT], request.match_info["id"], body.code)
        return _json(CheckReply.of(outcome))

    async def cancel_verification(self, request: web.Request) -> web.Response:
        """`POST /v1/verifications/{id}/cancel`."""
        await read_model(request, Empty, optional=True)
        return _json(
            Verification.of(await self._verifications.cancel(request[CLIENT], request.match_info["id"]))
        )

    async def get_verification(self, request: web.Request) -> web.Response:
        """`GET /v1/verifications/{id}`; `?wait=` seconds waits for a change, `?while=` says of what."""
        client, wanted = request[CLIENT], request.match_info["id"]
        wait, seen = _wait(request), _status(request, CallStatus, "while")
        if wait:
            with self._waiter():
                await self._verifications.wait_changed(client, wanted, wait, seen)
        return _json(Verification.of(await self._verifications.get(client, wanted)))

    async def list_verifications(self, request: web.Request) -> web.Response:
        """`GET /v1/verifications`."""
        page = await self._verifications.list(
            request[CLIENT],
            status=_status(request, VerificationStatus),
            cursor=_cursor(request),
            limit=_limit(request),
        )
        items = [Verification.of(view) for view in page.items]
        return _json(ListOf[Verification](items=items, next_cursor=page.next_cursor))

    # ---- payment confirmations

    async def create_payment(self, request: web.Request) -> web.Response:
        """`POST /v1/payment-confirmations`."""
        body, raw = await read_model(request, PaymentRequest)
        client = request[CLIENT]
        if _flag(request, "dry_run"):
            return _json(DryRun.of(await self._payments.dry_run(client, body.as_new())))
        with self._once(request, raw, 201, Payment.of) as once:
            made = await self._payments.create(client, body.as_new(), once)
        return _made(made, 201, Payment.of)

    async def get_payment(self, request: web.Request) -> web.Response:
        """`GET /v1/payment-confirmations/{id}`; `?wait=` waits for a change, `?while=` says of what."""
        client, wanted = request[CLIENT], request.match_info["id"]
        wait, seen = _wait(request), _status(request, PaymentStatus, "while")
        if wait:
            with self._waiter():
                await self._payments.wait_changed(client, wanted, wait, seen)
        return _json(Payment.of(await self._payments.get(client, wanted)))

    async def list_payments(self, request: web.Request) -> web.Response:
        """`GET /v1/payment-confirmations`."""
        page = await self._payments.list(
            request[CLIENT],
            status=_status(request, PaymentStatus),
            cursor=_cursor(request),
            limit=_limit(request),
        )
        items = [Payment.of(view) for view in page.items]
        return _json(ListOf[Payment](items=items, next_cursor=page.next_cursor))

    async def cancel_payment(self, request: web.Request) -> web.Response:
        """`POST /v1/payment-confirmations/{id}/cancel`."""
        await read_model(request, Empty, optional=True)
        return _json(Payment.of(await self._payments.cancel(request[CLIENT], request.match_info["id"])))

    # ---- calls

    async def create_call(self, request: web.Request) -> web.Response:
        """`POST /v1/calls`."""
        body, raw = await read_model(request, CallRequest)
        client = request[CLIENT]
        if _flag(request, "dry_run"):
            return _json(DryRun.of(await self._calls.dry_run(client, body.as_new())))
        with self._once(request, raw, 201, Call.of) as once:
            made = await self._calls.create(client, body.as_new(), once)
        return _made(made, 201, Call.of)

    async def get_call(self, request: web.Request) -> web.Response:
        """`GET /v1/calls/{id}`; `?wait=` seconds waits for a change, `?while=` says of what."""
        client, wanted = request[CLIENT], request.match_info["id"]
        wait, seen = _wait(request), _status(request, CallStatus, "while")
        if wait:
            with self._waiter():
                await self._calls.wait_changed(client, wanted, wait, seen)
        return _json(Call.of(await self._calls.get(client, wanted)))

    async def list_calls(self, request: web.Request) -> web.Response:
        """`GET /v1/calls`."""
        page = await self._calls.list(
            request[CLIENT],
            status=_status(request, CallStatus),
            cursor=_cursor(request),
            limit=_limit(request),
        )
        items = [Call.of(view) for view in page.items]
        return _json(ListOf[Call](items=items, next_cursor=page.next_cursor))

    async def cancel_call(self, request: web.Request) -> web.Response:
        """`POST /v1/calls/{id}/cancel`."""
        await read_model(request, Empty, optional=True)
        return _json(Call.of(await self._calls.cancel(request[CLIENT], request.match_info["id"])))

    # ---- webhooks on their way

    async def list_deliveries(self, request: web.Request) -> web.Response:
        """`GET /v1/webhook-deliveries`."""
        page = await self._deliveries.list(
            request[CLIENT],
            status=_status(request, DeliveryStatus),
            cursor=_cursor(request),
            limit=_limit(request),
        )
        items = [Delivery.of(view) for view in page.items]
        return _json(ListOf[Delivery](items=items, next_cursor=page.next_cursor))

    async def resend_delivery(self, request: web.Request) -> web.Response:
        """`POST /v1/webhook-deliveries/{id}/resend`."""
        await read_model(request, Empty, optional=True)
        return _json(Delivery.of(await self._deliveries.resend(request[CLIENT], request.match_info["id"])))

    # ---- trunks

    async def list_trunks(self, _request: web.Request) -> web.Response:
        """`GET /v1/trunks`."""
        return _json(TrunkList(items=[Trunk.of(view) for view in await self._trunks.list()]))

    async def get_trunk(self, request: web.Request) -> web.Response:
        """`GET /v1/trunks/{name}`."""
        return _json(Trunk.of(await self._trunks.get(request.match_info["name"])))

    async def drain_trunk(self, request: web.Request) -> web.Response:
        """`POST /v1/trunks/{name}/drain`."""
        await read_model(request, Empty, optional=True)
        return _json(Trunk.of(await self._trunks.drain(request[CLIENT], request.match_info["name"])))

    async def resume_trunk(self, request: web.Request) -> web.Response:
        """`POST /v1/trunks/{name}/resume`."""
        await read_model(request, Empty, optional=True)
        return _json(Trunk.of(await self._trunks.resume(request[CLIENT], request.match_info["name"])))

    async def limit_trunk(self, request: web.Request) -> web.Response:
        """`POST /v1/trunks/{name}/limit`."""
        body, _raw = await read_model(request, LimitRequest)
        name = request.match_info["name"]
        return _json(Trunk.of(await self._trunks.limit(request[CLIENT], name, body.channels)))

    # ---- the house itself

    async def healthz(self, _request: web.Request) -> web.Response:
        """`GET /healthz`: the process is alive."""
        return _json(Alive())

    async def readyz(self, _request: web.Request) -> web.Response:
        """`GET /readyz`: calls can be placed, or which part is not ready (503)."""
        ready, parts = await self._health.ready()
        found = Readiness(status="ok" if ready else "not ready", parts=parts)
        return _json(found, 200 if ready else 503)

    async def metrics(self, _request: web.Request) -> web.Response:
        """`GET /metrics`: Prometheus text."""
        return web.Response(
            body=generate_latest(self._metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def openapi(self, _request: web.Request) -> web.Response:
        """`GET /openapi.json`."""
        return web.json_response(documents.openapi())

    async def docs(self, _request: web.Request) -> web.Response:
        """`GET /docs`: the same for people, in one page without anything from outside."""
        return web.Response(
            text=documents.page(),
            content_type="text/html",
            headers={
                "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
                "form-action 'none'; frame-ancestors 'none'",
                "Referrer-Policy": "no-referrer",
            },
        )

    # ---- around every request

    @contextmanager
    def _once(
        self, request: web.Request, raw: bytes, status: int, show: Callable[[Any], BaseModel]
    ) -> Iterator[Once[Any] | None]:
        """Hold the request's Idempotency-Key while it is carried out; a second holder is refused."""
        key = _idempotency_key(request)
        if key is None:
            yield None
            return
        held = (request[CLIENT].name, key)
        if held in self._in_flight:
            raise IdempotencyConflict("a request with this Idempotency-Key is being answered")
        if len(self._in_flight) >= MAX_IN_FLIGHT:
            raise Overloaded("too many requests at once")
        self._in_flight.add(held)
        fingerprint = hashlib.sha256(f"{request.method} {request.path}\n".encode() + raw).hexdigest()
        try:
            yield Once(key, fingerprint, lambda view: StoredReply(status, _text(show(view))))
        finally:
            self._in_flight.discard(held)

    @contextmanager
    def _waiter(self) -> Iterator[None]:
        """Count a request that waits for a change, or refuse one too many."""
        if self._waiting >= MAX_WAITING:
            raise Overloaded("too many requests wait for a change; ask without `wait`")
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    @staticmethod
    async def _expected(request: web.Request) -> web.StreamResponse | None:
        """Answer `Expect: 100-continue`; any other expectation is a problem (RFC 9110, 10.1.1)."""
        if request.headers.get("Expect", "").lower() != "100-continue":
            return problem("expectation-failed", "Only 100-continue can be expected here")
        if request.version == HttpVersion11:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return None

    @web.middleware
    async def around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Give it an id, answer whatever happens, log and count it."""
        given = request.headers.get("X-Request-Id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else new_id("req")
        request[REQUEST_NAME] = request_id
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            started = time.monotonic()
            response = await self._answer(request, handler)
            self._note(request, response, time.monotonic() - started)
        response.headers["X-Request-Id"] = request_id
        response.headers.update(EVERY_REPLY)
        return response

    def _note(self, request: web.Request, response: web.StreamResponse, seconds: float) -> None:
        """One log line and one count a request: the route's template, never its path."""
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "none"
        method = request.method if request.method in ("GET", "POST", "HEAD") else "other"
        self._metrics.requests.labels(method, route, str(response.status)).inc()
        self._metrics.seconds.labels(method, route).observe(seconds)
        client = request.get(CLIENT)
        log.info(
            "http.request",
            method=method,
            route=route,
            status=response.status,
            ms=round(seconds * 1000, 1),
            client=client.name if client else None,
        )

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if _needs_key(request):
                client = self._keys.find(request.headers.get("Authorization", ""))
                if client is None:
                    return problem(
                        "unauthorized",
                        "Send Authorization: Bearer KEY with a key of this controller",
                        headers={"WWW-Authenticate": 'Bearer realm="telephony"'},
                    )
                request[CLIENT] = client
                self._check_query(request)
            if not await _read_in_time(request):
                late = problem("request-timeout", f"The body did not come within {READ_SECONDS:g} s")
                late.force_close()
                return late
            return await handler(request)
        except Refusal as refusal:
            return refusal.response
        except web.RequestPayloadError:
            return problem("invalid-body", "The body broke off, or is not encoded as its headers say")
        except (StoreError, PbxError, SpeechError) as error:
            log.warning("http.unavailable", error=str(error))
            return problem_of(error)
        except TelephonyError as error:
            response = problem_of(error)
            return self._broken(request) if response.status == 500 else response
        except web.HTTPException as error:
            kind = LOCAL_KINDS.get(error.status)
            if kind is None:
                return self._broken(request)
            kept = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
            return problem(kind, _local_detail(kind, request), headers=kept)
        except Exception:
            return self._broken(request)

    @staticmethod
    def _broken(request: web.Request) -> web.Response:
        """Log the exception at hand, and tell nothing of it but where to look."""
        log.exception("http.failed")
        return problem("internal-error", INTERNAL_DETAIL, instance=request[REQUEST_NAME])

    def _check_query(self, request: web.Request) -> None:
        """Refuse a query parameter that is not known here: a misspelt filter would show everything."""
        resource = request.match_info.route.resource
        if resource is None:
            return
        method = "GET" if request.method == "HEAD" else request.method
        known = self._queries.get((method, resource.canonical), ())
        for name in request.query:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"Did you mean {close[0]}? " if close else ""
                raise InputError(
                    name[:64],
                    "is not a parameter of this request",
                    f"{hint}Known: {', '.join(known) or 'none'}",
                )
            if len(request.query.getall(name)) > 1:
                raise InputError(name, "stands in the query twice", "Send it once")


def create_app(
    *,
    verifications: VerificationService,
    payments: PaymentService,
    calls: CallService,
    deliveries: DeliveryService,
    trunks: TrunkService,
    health: Health,
    keys: KeyRing,
    registry: CollectorRegistry | None = None,
) -> web.Application:
    """Put the HTTP face together."""
    face = HttpFace(
        verifications, payments, calls, deliveries, trunks, health, keys, registry or CollectorRegistry()
    )
    app = web.Application(middlewares=[face.around], client_max_size=MAX_BODY)
    app.add_routes(face.routes())
    return app


def _needs_key(request: web.Request) -> bool:
    """Whether a key is asked for: everywhere but on the open pages, and where nothing is."""
    if request.path in OPEN_PATHS:
        return False
    found = request.match_info.http_exception is None
    return found or request.path.startswith("/v1/")


async def _read_in_time(request: web.Request) -> bool:
    """Read the whole body before anything is decided, so that a slow sender holds nothing."""
    try:
        async with asyncio.timeout(READ_SECONDS):
            await request.read()
    except TimeoutError:
        return False
    return True


def _text(model: BaseModel) -> str:
    """Write a reply; a field whose name Python keeps for itself goes by its alias."""
    return model.model_dump_json(by_alias=True)


def _json(model: BaseModel, status: int = 200) -> web.Response:
    return web.Response(text=_text(model), status=status, content_type="application/json")


def _made(made: Any, status: int, show: Callable[[Any], BaseModel]) -> web.Response:
    """Answer a POST that makes something, or give the stored reply again."""
    if isinstance(made, StoredReply):
        return web.Response(
            text=made.body,
            status=made.status,
            content_type="application/json",
            headers={"Idempotency-Replayed": "true"},
        )
    return _json(show(made), status)


def _idempotency_key(request: web.Request) -> str | None:
    """Read the key, quoted as the IETF draft has it or bare."""
    text = request.headers.get("Idempotency-Key")
    if text is None:
        return None
    key = text[1:-1] if len(text) >= 2 and text[0] == text[-1] == '"' else text
    if not 1 <= len(key) <= 255 or not key.isascii() or not key.isprintable():
        raise InputError("Idempotency-Key", "is not usable", "Send 1 to 255 printable ASCII characters")
    return key


def _flag(request: web.Request, name: str) -> bool:
    text = request.query.get(name, "false")
    if text not in ("true", "false"):
        raise InputError(name, "is not a switch", "Send true or false")
    return text == "true"


def _wait(request: web.Request) -> float:
    text = request.query.get("wait", "0")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_WAIT:
        raise InputError("wait", "is out of range", f"Send seconds from 0 to {MAX_WAIT:g}")
    return seconds


def _limit(request: web.Request) -> int:
    text = request.query.get("limit", "50")
    if not (re.fullmatch(r"[0-9]{1,4}", text) and 1 <= int(text) <= MAX_LIMIT):
        raise InputError("limit", "is out of range", f"Send a number from 1 to {MAX_LIMIT}")
    return int(text)


def _cursor(request: web.Request) -> str | None:
    text = request.query.get("cursor")
    if text is None or (1 <= len(text) <= MAX_CURSOR and text.isascii() and text.isprintable()):
        return text
    raise InputError("cursor", "is not a cursor", "Send `next_cursor` of the page before, or leave it out")


def _status(request: web.Request, kind: type[Status], name: str = "status") -> Status | None:
    text = request.query.get(name)
    if text is None:
        return None
    try:
        return kind(text)
    except ValueError:
        known = ", ".join(status.value for status in kind)
        raise InputError(name, "is not a status", f"Send one of {known}") from None


def _local_detail(kind: str, request: web.Request) -> str:
    if kind == "too-large":
        return f"A body has at most {MAX_BODY} bytes"
    if kind == "method-not-allowed":
        return f"{request.method} is not served here"
    return "There is nothing here; /docs lists what there is"
