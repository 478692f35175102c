"""What is asked all day is answered from an index, with 100,000 rows stored."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from makers import START, TO, a_webhook
from sqlalchemy import event

from telephony.model.call import CallStatus
from telephony.model.delivery import DeliveryStatus
from telephony.store import Store, UnitOfWork
from telephony.store.engines import PostgresEngine, SqliteEngine
from telephony.store.tables import attempt, outbox, request

ROWS = 100_000

_BIG = ("request", "attempt", "verification", "outbox")
_PARTIAL = ("_waiting", "_due", "_lease", "_open", "_sealed", "_pending", "_dead")

# Mostly history; one in a thousand waits, one in a thousand is held.
_SERIES = {
    "sqlite": "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {rows})",
    "postgres": "WITH s(n) AS (SELECT generate_series(1, {rows}))",
}
_REQUESTS = f"""
INSERT INTO request (id, client, flow, to_number, class, priority, status, variables, metadata, retry,
  attempts_made, max_attempts, fence, created_at, updated_at, ended_at, due_at, lease_until, owner, flow_ref)
{{series}}
SELECT 'call_' || n, 'client-' || n % 7, 'verification', '+86138' || n, 'otp', n % 3,
  CASE WHEN n % 1000 < 2 THEN 'queued' ELSE 'completed' END, '{{{{}}}}', '{{{{}}}}', '{{{{}}}}', 1, 1, 0,
  {START} + n, {START}, CASE WHEN n % 1000 < 2 THEN NULL ELSE {START} END,
  CASE WHEN n % 1000 = 0 THEN {START} + n END, CASE WHEN n % 1000 = 1 THEN {START} + n END,
  CASE WHEN n % 1000 = 1 THEN 'node-b' END, 'ver_' || n
FROM s
"""
_ATTEMPTS = f"""
INSERT INTO attempt (id, request_id, number, to_number, phase, fence, created_at, dialed_at, ended_at)
SELECT 'att' || id, id, 1, to_number, CASE WHEN ended_at IS NULL THEN 'dialing' ELSE 'ended' END, 0,
  created_at, created_at, ended_at FROM request
WHERE created_at <= {START} + 20000
"""

_WEBHOOKS = f"""
INSERT INTO outbox (id, client, resource, sequence, type, payload, created_at, due_at, tries, fence, url,
  opened_at, delivered_at, dead_at)
{{series}}
SELECT 'msg_' || n, 'client-' || n % 7, 'ver_' || (n / 4), n % 4 + 1, 'a.b', '{{{{}}}}', {START} + n,
  {START} + n, 1, 1, '', {START},
  CASE WHEN n % 1000 > 1 THEN {START} END, CASE WHEN n % 1000 = 1 THEN {START} END
FROM s
"""

# What is asked, the index that SQLite must answer it from, and how it is asked.
_ASKED: dict[tuple[str, str], Callable[[UnitOfWork], Awaitable[Any]]] = {
    ("claim_due", "ix_request_waiting (priority=? AND due_at"): lambda work: work.requests.claim_due(
        "node-a", START + 1, 10, 1_000
    ),
    ("claim_due_backlog", "ix_request_waiting (priority=? AND due_at"): lambda work: work.requests.claim_due(
        "node-a", START + ROWS, 10, 1_000
    ),
    ("claim_overdue", "ix_request_due (due_at"): lambda work: work.requests.claim_overdue(
        "node-a", START + ROWS, 10, 1_000
    ),
    ("next_due_at", "ix_request_due"): lambda work: work.requests.next_due_at(),
    ("expired_leases", "ix_request_lease (lease_until"): lambda work: work.requests.expired_leases(START, 10),
    ("take_over", "ix_request_lease (lease_until"): lambda work: work.requests.take_over(
        "node-a", START + 5000, 1_000, own=False
    ),
    ("open_of_owner", "ix_request_lease"): lambda work: work.requests.open_of_owner("node-b"),
    ("of_flow", "ix_request_flow_ref (flow_ref=?)"): lambda work: work.requests.of_flow("ver_77"),
    ("active", "ix_request_number (to_number=? AND ended_at=?)"): lambda work: (
        work.requests.count_active_for_number(TO, "verification")
    ),
    ("count_number", "ix_request_number (to_number=?)"): lambda work: work.requests.count_since(
        START, to_number=TO
    ),
    ("count_client", "ix_request_client (client=? AND created_at>?)"): lambda work: work.requests.count_since(
        START + ROWS - 9, client="client-1"
    ),
    ("count_prefix", "ix_request_created (created_at>?)"): lambda work: work.requests.count_since(
        START + ROWS - 9, prefix="+8613"
    ),
    ("list", "ix_request_client (client=?)"): lambda work: work.requests.list("client-1", limit=5),
    ("list_status", "ix_request_client_status (client=? AND status=?)"): lambda work: work.requests.list(
        "client-1", status=CallStatus.QUEUED, limit=5
    ),
    ("list_flow", "ix_request_client_flow (client=? AND flow=?)"): lambda work: work.requests.list(
        "client-1", flow="survey", limit=5
    ),
    ("list_next", "ix_request_client (client=? AND (created_at,id)<(?,?))"): lambda work: work.requests.list(
        "client-1", after="MTgwMDAwMDA1MDAwMDpjYWxs", limit=5
    ),
    ("renew", "(id=?)"): lambda work: work.requests.renew_leases("node-b", ["call_1", "call_1001"], START),
    ("attempts_of", "(request_id=?)"): lambda work: work.attempts.list_for("call_5"),
    ("open_attempts", "ix_attempt_open"): lambda work: work.attempts.open_attempts(),
    ("dialed", "ix_attempt_dialed (to_number=? AND dialed_at>?)"): lambda work: (
        work.attempts.count_to_number_since(TO, START)
    ),
    ("attempt_times", "(id>? AND id<?)"): lambda work: work.attempts.times(START, START + ROWS),
    ("attempt_times_of_trunk", "(id>? AND id<?)"): lambda work: work.attempts.times(
        START, START + ROWS, trunk="main"
    ),
    ("expired_verifications", "ix_verification_open (expires_at<?)"): lambda work: (
        work.verifications.due_expired(START, 10)
    ),
    ("webhooks_next", "ix_outbox_due (client=?)"): lambda work: work.outbox.next_due("client-1"),
    ("webhooks_claim", "ix_outbox_due (client=? AND due_at<?)"): lambda work: work.outbox.claim(
        "client-1", "node-a", START + ROWS, 10, 1_000
    ),
    ("webhooks_add", "(resource=?)"): lambda work: work.outbox.add(a_webhook(resource="ver_7")),
    ("webhooks_dead", "ix_outbox_dead (client=?)"): lambda work: work.outbox.list(
        "client-1", status=DeliveryStatus.DEAD, limit=5
    ),
    ("webhooks_pending", "ix_outbox_pending (client=?)"): lambda work: work.outbox.list(
        "client-1", status=DeliveryStatus.PENDING, limit=5
    ),
    ("webhooks_purge", "ix_outbox_created (created_at<?)"): lambda work: work.outbox.purge(
        START + 9, 500, now=START + 9
    ),
    ("erase_sealed", "ix_verification_sealed"): lambda work: work.verifications.erase_sealed(START),
}


async def test_every_question_is_answered_from_an_index(store: Store) -> None:
    engine = store.engine
    name = "sqlite" if isinstance(engine, SqliteEngine) else "postgres"
    async with engine.writing() as connection:
        series = _SERIES[name].format(rows=ROWS)
        filled = [text.format(series=series).replace("{{}}", "{}") for text in (_REQUESTS, _WEBHOOKS)]
        for statement in (*filled, _ATTEMPTS):
            await connection.exec_driver_sql(statement)
    if isinstance(engine, PostgresEngine):
        async with engine.writing() as connection:
            for table in (request, attempt, outbox):
                await connection.exec_driver_sql(f"ANALYZE {table.name}")

    scans: list[str] = []
    sync_engine = engine.writer if isinstance(engine, SqliteEngine) else engine.pool.sync_engine
    caught: list[tuple[str, Any]] = []

    def catch(_c: Any, _cursor: Any, statement: str, parameters: Any, _x: Any, _many: bool) -> None:
        if statement.startswith(("SELECT", "WITH", "UPDATE", "DELETE")):
            caught.append((statement, parameters))

    for (asked, index), ask in _ASKED.items():
        caught.clear()
        event.listen(sync_engine, "before_cursor_execute", catch)
        with pytest.raises(InterruptedError):  # noqa: PT012 - rolls back, so that the next sees the same rows
            async with store.transaction() as work:
                await ask(work)
                raise InterruptedError
        event.remove(sync_engine, "before_cursor_execute", catch)
        assert caught
        plans: list[str] = []
        async with engine.writing() as connection:
            for statement, parameters in caught:
                prefix = "EXPLAIN QUERY PLAN " if name == "sqlite" else "EXPLAIN "
                rows = await connection.exec_driver_sql(prefix + statement, parameters)
                plan = [str(row[-1]) for row in rows]
                plans += plan
                scans += [f"{asked}: {line}" for line in plan if _scans(line)]
        assert name != "sqlite" or any(index in line for line in plans), f"{asked}: {plans}"
    assert scans == [], json.dumps(scans, indent=1)


def _scans(line: str) -> bool:
    """Whether this line of a plan reads a whole big table, or a whole index of one."""
    text = line.strip()
    if "ix_request_number (to_number>" in text:
        # Every number under the prefix that was ever called.
        return True
    if text.startswith("SCAN"):
        # A partial index that is read from one end holds only what waits.
        return any(f"SCAN {table}" in text for table in _BIG) and not any(name in text for name in _PARTIAL)
    return any(f"Seq Scan on {table}" in text for table in ("request", "attempt", "outbox"))
