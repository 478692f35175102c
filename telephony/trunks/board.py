"""The board: what a PBX keeps of our trunks for the time when we are away, and orders from its console.

The PBX's dialplan guards what comes in by limits, drained trunks and the overflow plan that stand on the
board; `telephony trunks` at its console shows the rest. Orders come as global variables: heard at once
where the PBX tells of them, and found by a look every few seconds and at each new link. What the dialplan
took meanwhile by itself is noted by it (`telephony-asked-…`) and carried out then, before the board is
written anew. What it never does: dial, or decide about a call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

import structlog

from telephony.errors import Overloaded, PbxError, StoreError, WireError
from telephony.pbx.port import Notes, Pbx
from telephony.store import Store
from telephony.trunks.dialect import Trunk
from telephony.trunks.operate import carry_out
from telephony.trunks.orders import TRUNK_NAME, Ask, Order, read_orders
from telephony.trunks.status import TrunkStatus, line_of, statuses

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 5.0
"""How often the board is written where something changed, and orders are looked for."""

STALE_MS: Final = 60_000
"""The board is written at least so often: its moments tell whether we are there."""

MOST_ORDERS: Final = 1_000
CONSOLE: Final = "the PBX's console"

SHOWN: Final = "telephony-trunks"
TRUNKS_OF: Final = "telephony-trunk"
LIMIT: Final = "telephony-limit"
DRAINED: Final = "telephony-drained"
OVERFLOW: Final = "telephony-overflow"
ASKED: Final[Mapping[str, Ask]] = {
    "telephony-asked-drain": Ask.DRAIN,
    "telephony-asked-limit": Ask.LIMIT,
}
_ASKS: Final = {ask.value: ask for ask in Ask}
LAST_ORDER: Final = "~order"
"""Where the console's last order is answered, among the trunks: no trunk is called so."""


class TrunkBoard:
    """One controller's board on its PBX. `plan` and `crowded_at` (a part of 1) are of the overflow."""

    def __init__(
        self, store: Store, trunks: Sequence[Trunk], *, plan: str = "", crowded_at: float = 1.0
    ) -> None:
        self._store = store
        self._trunks = tuple(trunk for trunk in trunks if TRUNK_NAME.fullmatch(trunk.name))
        self._fixed = _fixed(self._trunks, plan, crowded_at)
        self._written: dict[tuple[str, str], str] = {}
        self._shown: dict[str, str] = {}
        self._shown_at = 0
        self._orders: asyncio.Queue[tuple[Ask, str]] = asyncio.Queue(MOST_ORDERS)
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        for trunk in trunks:
            if trunk not in self._trunks:
                log.warning("trunks.not_on_board", trunk=trunk.name, mend="Name it by A-Z a-z 0-9 . _ -")

    async def start(self, pbx: Pbx, notes: Notes) -> None:
        """Let the store know the trunks, and begin."""
        async with self._store.transaction() as work:
            for trunk in self._trunks:
                await work.slots.ensure(trunk.name, trunk.channels)
        self._task = asyncio.create_task(self._run(pbx, notes), name="trunk-board")

    async def stop(self) -> None:
        """End; what stands on the board stays."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def heard(self, variable: str, value: str) -> None:
        """For the PBX: a global variable was set."""
        ask = _ASKS.get(variable)
        if ask is None or not value:
            return
        try:
            self._orders.put_nowait((ask, value))
        except asyncio.QueueFull:
            log.warning("trunks.order_missed", order=variable)
        self._wake.set()

    def changed(self) -> None:
        """A trunk was changed: write the board now."""
        self._wake.set()

    async def _run(self, pbx: Pbx, notes: Notes) -> None:
        linked = False
        while True:
            self._wake.clear()
            if not pbx.ready:
                linked = False
                with suppress(PbxError):
                    await pbx.wait_ready(LOOK_SECONDS)
                continue
            try:
                if not linked:
                    await self._begin(notes)
                    linked = True
                await self._turn(notes)
            except (StoreError, Overloaded, PbxError, WireError) as error:
                log.warning("trunks.board_not_written", error=str(error))
            except Exception:
                # A fault of ours in one round must not end the board.
                log.exception("trunks.board_failed")
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._wake.wait()

    async def _begin(self, notes: Notes) -> None:
        """At a new link nothing is known of the board; trunks that are no more are wiped off."""
        self._written = {}
        self._shown = {}
        names = {trunk.name for trunk in self._trunks}
        endpoints = {trunk.endpoint for trunk in self._trunks}
        for family, known in ((LIMIT, names), (DRAINED, names), (TRUNKS_OF, endpoints), (SHOWN, names)):
            for key in await notes.kept(family):
                if key not in known and key != LAST_ORDER:
                    await notes.forget(family, key)

    async def _turn(self, notes: Notes) -> None:
        """Carry out what was asked, then write what differs."""
        told, obeyed = await self._obey_heard(notes)
        told = await self._obey_asked(notes) or told
        await self._write(notes, told)
        for ask, text in obeyed.items():
            # Only now: the dialplan must find an order there until it stands on the board.
            if await notes.variable(ask.value) == text:
                await notes.clear(ask.value)

    async def _write(self, notes: Notes, told: str) -> None:
        """Write what differs, and what came of the last order."""
        async with self._store.reading() as work:
            records, use = await work.trunks.all(), await work.slots.in_use()
        now = await self._store.now_ms()
        seen = statuses(self._trunks, records, use, now)
        values = {**self._fixed, **_guard(seen)}
        changes = {key: value for key, value in values.items() if self._written.get(key) != value}
        shown = {one.trunk.name: line_of(one, now) for one in seen}
        stale = now - self._shown_at >= STALE_MS
        for name, line in shown.items():
            if stale or _lasting(line) != _lasting(self._shown.get(name, "")):
                changes[(SHOWN, name)] = line
        if told:
            changes[(SHOWN, LAST_ORDER)] = told
        if not changes:
            return
        await notes.keep(changes)
        self._written.update(values)
        self._shown = shown
        self._shown_at = now if stale else self._shown_at

    async def _obey_heard(self, notes: Notes) -> tuple[str, dict[Ask, str]]:
        """Orders that were told, and those that stand in the globals.

        Returns what came of the last, and what the globals hold that is done.
        """
        told = ""
        done: dict[Ask, str] = {}
        while not self._orders.empty():
            ask, text = self._orders.get_nowait()
            told = await self._obey(ask, text)
            done[ask] = text
        texts = await asyncio.gather(*(notes.variable(ask.value) for ask in Ask))
        for ask, text in zip(Ask, texts, strict=True):
            if text and text != done.get(ask):
                told = await self._obey(ask, text)
                done[ask] = text
        return told, done

    async def _obey_asked(self, notes: Notes) -> str:
        """Orders that the dialplan took in our place."""
        told = ""
        found = await asyncio.gather(*(notes.kept(family) for family in ASKED))
        for (family, ask), entries in zip(ASKED.items(), found, strict=True):
            for name, value in entries.items():
                if ask is Ask.LIMIT:
                    told = await self._obey(ask, f"{name}={value}")
                else:
                    told = await self._obey(Ask.DRAIN if value == "1" else Ask.RESUME, name)
                await notes.forget(family, name)
        return told

    async def _obey(self, ask: Ask, text: str) -> str:
        """Carry out one line of orders; returns what to answer at the console."""
        orders, refused = self._read(ask, text)
        told: list[str] = []
        now = await self._store.now_ms()
        # All of them at once: the next call finds every one in force.
        async with self._store.transaction() as work:
            # In one order of trunks: two controllers that lock them otherwise could wait for each other.
            for order in sorted(orders, key=lambda one: one.trunk):
                changed = await carry_out(work, order, now, CONSOLE)
                told.append(str(order) if changed else f"{order} (as before)")
        if refused:
            log.warning("trunks.order_refused", order=text[:80], error=refused)
            told.append(f"refused: {refused}")
        return "; ".join(told)

    def _read(self, ask: Ask, text: str) -> tuple[list[Order], str]:
        """The orders up to the first that is none, and what is wrong with that."""
        orders: list[Order] = []
        known = {trunk.name for trunk in self._trunks}
        try:
            for order in read_orders(ask, text):
                if order.trunk not in known:
                    return orders, f"{order}: there is no trunk {order.trunk}"
                orders += [order]
        except ValueError as error:
            return orders, str(error)
        return orders, ""


def _fixed(trunks: Sequence[Trunk], plan: str, crowded_at: float) -> dict[tuple[str, str], str]:
    """What stands on the board whatever happens."""
    named: dict[str, list[str]] = {}
    for trunk in trunks:
        named.setdefault(trunk.endpoint, []).append(trunk.name)
    return {
        (OVERFLOW, "plan"): plan,
        (OVERFLOW, "crowded"): str(round(crowded_at * 100)),
        **{(TRUNKS_OF, endpoint): ",".join(names) for endpoint, names in named.items()},
    }


def _guard(seen: Sequence[TrunkStatus]) -> dict[tuple[str, str], str]:
    """What the dialplan guards by."""
    found = {}
    for one in seen:
        limit = one.record.limit
        found[(LIMIT, one.trunk.name)] = "" if limit is None else str(limit)
        found[(DRAINED, one.trunk.name)] = "0" if one.record.drained_at is None else "1"
    return found


def _lasting(line: str) -> str:
    """A line without its moment."""
    return line.rpartition(" [")[0]
