"""Delivers the outbox: at least once, in order per resource, each endpoint at its own pace.

A webhook is claimed under a lease before it is sent; who is killed meanwhile leaves it due again when the
lease ends, and it goes out again under the same `webhook-id`. The timers are the rows' `due_at`: slept
towards, and cut short by `wake`. What it never does: decide what is told, or log a body or a secret.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from telephony.egress.envelope import MAX_SKIPPED, body_of
from telephony.egress.http import Egress
from telephony.egress.rules import DeliveryRules, Endpoint
from telephony.egress.schedule import Tried, next_try, retry_after_seconds
from telephony.errors import AddressRefused, EgressError, StaleFence, StoreError
from telephony.store import DisabledEndpointRecord, OutboxRecord, Store, UnitOfWork

_log = structlog.get_logger(__name__)

LONGEST_SLEEP: Final = 30.0
"""Seconds: also how soon what another controller wrote and could not deliver is seen here."""
_CROWDED_PAUSE: Final = 0.05
_STORE_PAUSE: Final = 1.0
_PURGE_EVERY_MS: Final = 3_600_000
_PURGE_BATCH: Final = 500
_GONE: Final = 410


@dataclass(slots=True)
class DeliveryCounts:
    """What happened since the start, for the metrics."""

    delivered: int = 0
    failed: int = 0
    dead: int = 0
    disabled: int = 0
    stale: int = 0


@dataclass(frozen=True, slots=True)
class _Letter:
    """A claimed webhook and what it is sent with."""

    record: OutboxRecord
    endpoint: Endpoint
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Result:
    """What became of one try: the HTTP status (0 for none), and a problem unless it was received."""

    status: int
    problem: str | None = None
    retry_after: float | None = None


class Deliverer:
    """Owns one loop and the requests under way; `endpoints` are the clients' that have one, by name.

    Its clock is the store's. `rng` returns a float in [0, 1) and is there to be replaced in tests.
    """

    def __init__(
        self,
        store: Store,
        egress: Egress,
        endpoints: Mapping[str, Endpoint],
        rules: DeliveryRules | None = None,
        *,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._egress = egress
        self._endpoints = dict(endpoints)
        self._rules = rules or DeliveryRules()
        self._rng = rng
        self._woken = asyncio.Event()
        self._stopping = False
        self._loop: asyncio.Task[None] | None = None
        self._sending: set[asyncio.Task[None]] = set()
        self._under_way: Counter[str] = Counter()
        self._last_served = 0
        self._purge_at = 0
        self.counts = DeliveryCounts()

    @property
    def in_flight(self) -> int:
        """How many requests are under way."""
        return self._under_way.total()

    def start(self) -> None:
        """Begin to deliver what is due."""
        self._stopping = False
        self._loop = asyncio.create_task(self._run(), name="webhooks")

    async def stop(self) -> None:
        """Claim nothing more, give what is under way `stop_grace` seconds, and give the rest back."""
        if self._loop is not None:
            # Not cancelled at once: what it is just claiming would be nobody's until its lease ends.
            self._stopping = True
            self._woken.set()
            await asyncio.wait({self._loop}, timeout=self._rules.stop_grace)
            self._loop.cancel()
            await asyncio.wait({self._loop})
            self._loop = None
        if self._sending:
            _, late = await asyncio.wait(self._sending, timeout=self._rules.stop_grace)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=self._rules.stop_grace)

    def wake(self) -> None:
        """Look at the outbox now: to be called after the commit that wrote into it."""
        self._woken.set()

    async def _run(self) -> None:
        while not self._stopping:
            self._woken.clear()
            try:
                pause = await self._pass()
            except StoreError as error:
                _log.warning("webhook.store_failed", error=str(error))
                pause = _STORE_PAUSE
            except Exception:
                # A fault of ours in one webhook must not end the delivery of all.
                _log.exception("webhook.pass_failed")
                pause = LONGEST_SLEEP
            if pause > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._woken.wait()

    async def _pass(self) -> float:
        """Start what may start now; returns the seconds until there is something to do."""
        now = await self._store.now_ms()
        await self._purge(now)
        due: dict[str, int] = {}
        async with self._store.reading() as work:
            disabled = await work.disabled_endpoints.all()
            for client in self._free_clients(disabled):
                at = await work.outbox.next_due(client)
                if at is not None:
                    due[client] = at
        ready = [client for client, at in due.items() if at <= now]
        if ready:
            return 0.0 if await self._take(ready, now) else _CROWDED_PAUSE
        pause = min(due.values(), default=now + int(LONGEST_SLEEP * 1_000)) - now
        return min(LONGEST_SLEEP, pause / 1_000)

    def _free_clients(self, disabled: Mapping[str, DisabledEndpointRecord]) -> Sequence[str]:
        """Those to whom something may be sent now, beginning behind the one that was served last."""
        names = list(self._endpoints)
        turned = names[self._last_served :] + names[: self._last_served]
        return [
            name
            for name in turned
            if self._room(name) > 0
            and not (name in disabled and disabled[name].url == self._endpoints[name].url)
        ]

    def _room(self, client: str) -> int:
        own = self._under_way[client]
        beyond_first = sum(count - 1 for count in self._under_way.values() if count > 1)
        shared = max(0, self._rules.concurrency - beyond_first)
        first = 1 if own == 0 else 0
        return first + min(shared, self._rules.per_endpoint - max(own, 1))

    async def _take(self, clients: Sequence[str], now: int) -> bool:
        """Claim for each client as much as it has room for, then send; False when nothing was to be had."""
        letters: list[_Letter] = []
        try:
            async with self._store.transaction() as work:
                for client in clients:
                    room = self._room(client)
                    if room > 0:
                        claimed = await work.outbox.claim(
                            client, self._store.owner, now, room, self._rules.lease_ms
                        )
                        letters += [await self._letter(work, client, record) for record in claimed]
                        # Counted at once: the next client's room depends on it.
                        self._under_way[client] += len(claimed)
        except BaseException:
            for letter in letters:
                self._under_way[letter.record.client] -= 1
            raise
        self._last_served = (self._last_served + 1) % len(self._endpoints)
        for letter in letters:
            task = asyncio.create_task(self._deliver(letter), name=f"webhook {letter.record.id}")
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
        return bool(letters)

    async def _letter(self, work: UnitOfWork, client: str, record: OutboxRecord) -> _Letter:
        endpoint = self._endpoints[client]
        skipped = await work.outbox.skipped_before(record, MAX_SKIPPED) if record.sequence > 1 else ()
        return _Letter(replace(record, url=endpoint.url), endpoint, body_of(record, skipped))

    async def _deliver(self, letter: _Letter) -> None:
        record = letter.record
        try:
            try:
                result = await self._send(letter)
            except asyncio.CancelledError:
                await self._settle(letter, None)
                raise
            await self._settle(letter, result)
        finally:
            self._under_way[record.client] -= 1
            self._woken.set()

    async def _send(self, letter: _Letter) -> _Result | None:
        """Send it once; None when it was not sent and that is nobody's fault but ours."""
        endpoint = letter.endpoint
        now = 0
        try:
            now = await self._store.now_ms()
            answer = await self._egress.post_signed(
                endpoint.url,
                endpoint.secrets,
                letter.record.id,
                letter.body,
                self._rules.timeout,
                timestamp=now // 1_000,
                most=0,
            )
        except AddressRefused as error:
            return _Result(0, f"not sent: {error}")
        except EgressError as error:
            return _Result(0, str(error))
        except StoreError:
            return None
        if 200 <= answer.status < 300:
            return _Result(answer.status)
        after = retry_after_seconds(answer.headers.get("retry-after"), now)
        redirect = ", a redirect, which is not followed" if 300 <= answer.status < 400 else ""
        return _Result(answer.status, f"HTTP {answer.status}{redirect}", after)

    async def _settle(self, letter: _Letter, result: _Result | None) -> None:
        """Write down what became of it, for as long as the lease lasts; after that it is sent again."""
        record = letter.record
        try:
            async with asyncio.timeout(self._rules.lease_margin):
                while True:
                    try:
                        await self._write(letter, result)
                    except StaleFence:
                        self.counts.stale += 1
                        _log.warning("webhook.taken_over", webhook=record.id, resource=record.resource)
                    except StoreError as error:
                        _log.warning("webhook.store_failed", webhook=record.id, error=str(error))
                        await asyncio.sleep(_STORE_PAUSE)
                        continue
                    return
        except TimeoutError:
            _log.error("webhook.not_noted", webhook=record.id, resource=record.resource)

    async def _write(self, letter: _Letter, result: _Result | None) -> None:
        record = letter.record
        now = await self._store.now_ms()
        log = _log.bind(
            webhook=record.id,
            client=record.client,
            resource=record.resource,
            type=record.type,
            tries=record.tries,
        )
        if result is None:
            async with self._store.transaction() as work:
                await work.outbox.postpone(record, due_at=now, error=record.last_error, counted=False)
            log.info("webhook.interrupted")
        elif result.problem is None:
            async with self._store.transaction() as work:
                await work.outbox.deliver(record, now)
            self.counts.delivered += 1
            log.info("webhook.delivered", status=result.status)
        elif result.status == _GONE:
            await self._disable(record, now, result.problem)
            log.error("webhook.endpoint_disabled", status=result.status)
        else:
            await self._fail(record, now, result, log)

    async def _disable(self, record: OutboxRecord, now: int, problem: str) -> None:
        """It wants no more: what waits is kept, untried, until the URL changes or somebody enables it."""
        note = DisabledEndpointRecord(id=record.client, url=record.url, disabled_at=now, reason=problem)
        async with self._store.transaction() as work:
            await work.outbox.postpone(
                record, due_at=now, error=f"{problem}: endpoint disabled", counted=False
            )
            await work.disabled_endpoints.disable(note)
        self.counts.disabled += 1

    async def _fail(
        self, record: OutboxRecord, now: int, result: _Result, log: structlog.stdlib.BoundLogger
    ) -> None:
        problem = result.problem or ""
        opened_at = record.created_at if record.opened_at is None else record.opened_at
        tried = Tried(record.tries, opened_at, record.expires_at, now, result.retry_after)
        again = next_try(tried, self._rules.dead_after, self._rng)
        async with self._store.transaction() as work:
            if again is None:
                await work.outbox.bury(record, now, problem)
            else:
                await work.outbox.postpone(record, due_at=again, error=problem)
        self.counts.failed += 1
        if again is None:
            self.counts.dead += 1
            log.error("webhook.dead", problem=problem)
        else:
            log.warning("webhook.failed", problem=problem, again_in=(again - now) / 1_000)

    async def _purge(self, now: int) -> None:
        """Now and then, forget what is past its keep."""
        if now < self._purge_at:
            return
        self._purge_at = now + _PURGE_EVERY_MS
        forgotten = _PURGE_BATCH
        while forgotten == _PURGE_BATCH:
            async with self._store.transaction() as work:
                before = now - int(self._rules.keep * 1_000)
                forgotten = await work.outbox.purge(before, _PURGE_BATCH, now=now)
