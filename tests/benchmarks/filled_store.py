"""A SQLite store as it looks after many calls, made quickly: bulk inserts, the indexes afterwards.

Requests over twenty days to many numbers; three in ten took a second attempt. Each has its verification,
its attempts, its events and, where the code was right, a delivered webhook. One in a hundred waits for
another round, in an hour or later. What it never does: make a row that the controller could not have
written.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from telephony.calls.policy import PRIORITIES
from telephony.model.call import CallClass
from telephony.model.ids import new_id
from telephony.services.codes import CodeBox
from telephony.store import Store
from tests.benchmarks.measure import FOLDER

CACHE = FOLDER / "cache"
KEPT_FROM = 1_000_000
"""Smaller files are made anew each time: whoever uses one adds to it."""

KEPT_DAYS = 7
"""A kept file is made anew after so long: housekeeping forgets webhooks after thirty days."""

HOUR_MS = 3_600_000

_ROWS = """
CREATE TEMP TABLE r AS
WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < :rows)
SELECT n, at, printf('%010x%016x', at, n) AS ref, number, status,
  CASE WHEN n % 10 IN (6, 8, 9) THEN 2 ELSE 1 END AS attempts
FROM (
  SELECT n, :now - 60000 - 1728000000 + n * 1728000000 / :rows AS at,
    printf('+8613%09d', n * 7919 % max(100, :rows / 3)) AS number,
    CASE WHEN n % 100 = 0 THEN 'queued' WHEN n % 10 < 6 THEN 'completed' WHEN n % 10 < 8 THEN 'no_answer'
      WHEN n % 10 = 8 THEN 'busy' ELSE 'unreachable' END AS status
  FROM s)
"""

_FILLING = (
    """
INSERT INTO request (id, client, flow, flow_ref, to_number, class, priority, status, from_number, locale,
  variables, metadata, retry, result, due_at, dial_by, expires_at, attempts_made, max_attempts, owner, fence,
  created_at, updated_at, ended_at, failure_reason)
SELECT 'call_' || ref, 'shop', 'verification', 'vrf_' || ref, number, 'otp', :priority, status,
  '+861088880000', 'zh-CN', '{}', '{}', '{}',
  CASE WHEN status = 'queued' THEN '{"rounds":1,"tried":[]}' END,
  CASE WHEN status = 'queued' THEN :now + :hour + n % 80000 * 1000 END,
  CASE WHEN status = 'queued' THEN NULL ELSE at + 30000 END,
  CASE WHEN status = 'queued' THEN :now + 40 * :hour ELSE at + 600000 END, attempts, 1, 'bench', attempts, at,
  at + 16000, CASE WHEN status = 'queued' THEN NULL ELSE at + 16000 END,
  CASE WHEN status IN ('queued', 'completed') THEN NULL ELSE status END
FROM r
""",
    """
INSERT INTO attempt (id, request_id, number, to_number, trunk, trunk_reason, phase, owner, fence, created_at,
  dialed_at, ringing_at, answered_at, ended_at, sip, q850, cause, end_reason)
SELECT printf('att_%010x%015x%d', at, n, m), 'call_' || ref, m, number, 'main', 'first for +86', 'ended',
  'bench', m, at + m, at + m, at + 1000,
  CASE WHEN status = 'completed' AND m = attempts THEN at + 3000 END, at + 16000,
  CASE WHEN status = 'completed' AND m = attempts THEN 200 ELSE 486 END, 16, 'normal', status
FROM r, (SELECT 1 AS m UNION SELECT 2) WHERE m <= attempts
""",
    """
INSERT INTO verification (id, client, to_number, locale, status, code_hash, code_sealed, code_length,
  play_times, require_keypress, brand, checks_left, max_checks, sends, max_sends, expires_at, created_at,
  updated_at, ended_at, approved_at, last_request_id)
SELECT 'vrf_' || ref, 'shop', number, 'zh-CN',
  CASE status WHEN 'queued' THEN 'pending' WHEN 'completed' THEN 'approved' ELSE 'expired' END,
  printf('%064x', n), CASE WHEN status = 'queued' THEN randomblob(34) END, 6, 2, 0, 'Acme', 5, 5, 1, 5,
  CASE WHEN status = 'queued' THEN :now + 40 * :hour ELSE at + 600000 END, at, at + 16000,
  CASE WHEN status = 'queued' THEN NULL ELSE at + 30000 END,
  CASE WHEN status = 'completed' THEN at + 30000 END, 'call_' || ref
FROM r
""",
    """
INSERT INTO event (id, at, request_id, attempt_id, kind, detail)
SELECT printf('evt_%010x%015x%d', at, n, m), at + m * 8000, 'call_' || ref,
  printf('att_%010x%015x%d', at, n, m), CASE WHEN m < attempts THEN 'call.again' ELSE 'call.' || status END,
  '{"reason":"' || status || '"}'
FROM r, (SELECT 1 AS m UNION SELECT 2) WHERE m <= attempts
""",
    """
INSERT INTO outbox (id, client, resource, sequence, type, payload, created_at, due_at, tries, delivered_at,
  url, opened_at, expires_at, fence)
SELECT 'msg_' || ref, 'shop', 'vrf_' || ref, 1, 'verification.approved',
  '{"id":"vrf_' || ref || '","status":"approved","to":"' || number || '","call_id":"call_' || ref || '"}',
  at + 30000, at + 30000, 1, at + 30100, 'https://shop.example.com/hook', at + 30000, at + 600000, 1
FROM r WHERE status = 'completed'
""",
)

_WAIT_AGAIN = (
    """
UPDATE request SET due_at = :now + :hour + abs(random() % 80000) * 1000, expires_at = :now + 40 * :hour
WHERE due_at IS NOT NULL
""",
    "UPDATE verification SET expires_at = :now + 40 * :hour WHERE ended_at IS NULL",
)


def filled_store(rows: int, folder: Path = CACHE) -> Path:
    """Return a file with `rows` requests; a large one is made at the first asking.

    What waits in it is due in an hour at the earliest, counted from now.
    """
    folder.mkdir(parents=True, exist_ok=True)
    making = folder / f"{rows}.making"
    making.unlink(missing_ok=True)
    asyncio.run(new_store(making))
    with closing(sqlite3.connect(making)) as empty:
        found = empty.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
        schema = "".join(sql for (sql,) in found)
    name = hashlib.sha256((schema + _ROWS + "".join(_FILLING)).encode()).hexdigest()[:12]
    path = folder / f"{rows}-{name}.db"
    made = path.with_suffix(".made")
    if (
        rows >= KEPT_FROM
        and path.exists()
        and made.exists()
        and time.time() - made.stat().st_mtime < KEPT_DAYS * 86_400
    ):
        making.unlink()
        with closing(sqlite3.connect(path)) as connection, connection:
            for statement in _WAIT_AGAIN:
                connection.execute(statement, _values(rows))
        return path
    for old in folder.glob(f"{rows}-*"):
        old.unlink()
    fill(making, rows)
    making.rename(path)
    made.touch()
    return path


async def new_store(path: Path) -> None:
    """Make an empty store."""
    await (await Store.open(f"sqlite:///{path}", owner="bench")).close()


def fill(path: Path, rows: int) -> None:
    """Put `rows` requests and what belongs to them into an empty store."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=OFF")
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("PRAGMA temp_store=MEMORY")
        connection.execute("PRAGMA cache_size=-500000")
        indexes = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        ).fetchall()
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}")
        for statement in (_ROWS, *_FILLING):
            connection.execute(statement, _values(rows))
        for _, sql in indexes:
            connection.execute(sql)
        connection.execute("PRAGMA journal_mode=WAL")


def add_due(path: Path, codes: CodeBox, due: Mapping[str, int]) -> None:
    """Let verifications of these numbers wait until their moment (milliseconds since the epoch)."""
    now = time.time_ns() // 1_000_000
    requests, verifications = [], []
    for number, due_at in due.items():
        verification, request = new_id("vrf"), new_id("call")
        waits = {"to_number": number, "client": "shop", "locale": "en", "created_at": now, "updated_at": now}
        waits["expires_at"] = due_at + HOUR_MS
        requests.append(
            {
                **waits,
                "id": request,
                "flow": "verification",
                "flow_ref": verification,
                "class": CallClass.OTP.value,
                "priority": PRIORITIES[CallClass.OTP],
                "status": "queued",
                **dict.fromkeys(("variables", "metadata", "retry"), "{}"),
                "due_at": due_at,
                "attempts_made": 0,
                "max_attempts": 1,
                "fence": 0,
            }
        )
        verifications.append(
            {
                **waits,
                "id": verification,
                "status": "pending",
                "code_hash": codes.hash(verification, "123456"),
                "code_sealed": codes.seal(verification, "123456"),
                "code_length": 6,
                "play_times": 1,
                "require_keypress": 0,
                "brand": "Acme",
                "checks_left": 5,
                "max_checks": 5,
                "sends": 1,
                "max_sends": 5,
                "last_request_id": request,
            }
        )
    with closing(sqlite3.connect(path)) as connection, connection:
        _insert(connection, "request", requests)
        _insert(connection, "verification", verifications)


def _insert(connection: sqlite3.Connection, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        names = list(rows[0])
        values = ", ".join(f":{name}" for name in names)
        connection.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({values})", rows)


def _values(rows: int) -> dict[str, int]:
    now = time.time_ns() // 1_000_000
    return {"rows": rows, "now": now, "hour": HOUR_MS, "priority": PRIORITIES[CallClass.OTP]}
