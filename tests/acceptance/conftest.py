"""The lab for acceptance tests: one for the whole run, swept between tests.

Its PBX logs everything at debug level, and a listener with every right writes down all AMI events: what
they hold is searched for codes by `test_secrecy.py`, which therefore runs last.

Tests here share one event loop, because the lab lives in it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from telephony.lab import Lab
from tests.acceptance import databases, evidence
from tests.store_engines import PostgresServer

KEPT = ("trunks", "trunk", "limit", "drained", "overflow", "asked-limit", "asked-drain")
"""Families of AstDB in which a controller keeps its trunks for the dialplan."""

_HERE = Path(__file__).parent
_GROUPS = {
    "test_outcomes.py": "lab-1",
    "test_secrecy.py": "lab-1",
    "test_two_controllers.py": "lab-1",
    "test_trunk_console.py": "lab-1",
    "test_kill.py": "lab-2",
    "test_ivr.py": "lab-2",
    "test_faults.py": "lab-2",
    "test_retries.py": "lab-2",
    "test_payments.py": "lab-3",
    "test_spoken_codes.py": "lab-3",
    "test_payment_races.py": "lab-3",
    "test_machines.py": "lab-3",
}
"""By what each takes, so that the four end together; what is not named is of lab-4."""


class OneLabEach(LoadScopeScheduling):
    """Gives a worker whole groups: a lab of its own, and the search for secrets behind the calls it searches.

    (`--dist loadgroup` would do, but xdist 3.8 forgets its groups under pytest 9.2.)
    """

    def _split_scope(self, nodeid: str) -> str:
        return _GROUPS.get(Path(nodeid.partition("::")[0]).name, "lab-4")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> OneLabEach:
    return OneLabEach(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name == "test_secrecy.py")
    for item in items:
        if _HERE in item.path.parents and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the figures that tests have recorded as `told`, whichever worker ran them."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") != "call":
                continue
            for name, value in report.user_properties:
                if name == "told":
                    terminalreporter.write_line(f"{report.nodeid.partition('::')[2]}: {value}")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def session_lab() -> AsyncIterator[Lab]:
    """A running lab; use `lab`, which is the same one made clean."""
    async with Lab(debug=True, progress=lambda line: print(line, file=sys.stderr)) as lab:
        evidence.FILES.append(lab.pbx.log_file)
        evidence.FILES.append(lab.pbx.cdr_file)
        async with evidence.Listener(lab):
            yield lab


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL of the tests' own."""
    yield from databases.postgres_server()


@pytest_asyncio.fixture(loop_scope="session")
async def lab(session_lab: Lab) -> AsyncIterator[Lab]:
    """The lab, with nobody subscribed, no call standing and no limit of a trunk kept; a subscriber's mistake
    fails the test.
    """
    carrier = session_lab.carrier
    carrier.reset()
    # They hold without a controller too, and a call may come before this test's has written its own.
    await asyncio.gather(*(session_lab.pbx.console(f"database deltree telephony-{one}") for one in KEPT))
    yield session_lab
    failed = [call for call in carrier.calls if call.error is not None]
    if session_lab.pbx.running:
        await session_lab.pbx.console("channel request hangup all")
    # The carrier's side of a call may stand on, where a test ended the PBX's without a word.
    await carrier.asterisk.console("channel request hangup all")
    for call in list(carrier.calls):
        await call.wait_ended()
    carrier.reset()
    assert not failed, [(call.number, str(call.error)) for call in failed]
