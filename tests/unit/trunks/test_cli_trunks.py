"""`telephony trunks size`, as a user runs it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from telephony.cli import main
from telephony.model import ids
from telephony.model.call import AttemptPhase, CallClass, CallStatus
from telephony.store import Store
from telephony.store.records import AttemptRecord, RequestRecord
from telephony.trunks.forecast import DAYS

SHANGHAI = ZoneInfo("Asia/Shanghai")
HOUR = 3_600_000


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setattr("telephony.logs.set_up_logs", lambda *_: None)

    def go(*words: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["telephony", "trunks", "size", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        return Done(int(ended.value.code or 0), told.out, told.err)

    return go


def test_lines_for_erlangs(run: Run) -> None:
    done = run("--erlangs", "10")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "10.00 E need 18 lines: 0.714 % lost, 1 % allowed\n"
    told = run("--erlangs", "10", "--loss", "0.001", "--json").json
    assert (told["lines"], told["target_loss"], told["erlangs"]) == (21, 0.001, 10.0)
    assert 0 < told["loss"] <= 0.001


def test_lines_for_calls(run: Run) -> None:
    told = run("--calls-per-hour", "1000", "--aht", "180", "--json").json
    assert (told["erlangs"], told["lines"]) == (50.0, 64)
    assert run("--erlangs", "0", "--json").json["lines"] == 0


def test_agents_and_what_the_difference_costs(run: Run) -> None:
    words = ("--agents", "--calls-per-hour", "300", "--aht", "180", "--cost-per-agent-hour", "20.5")
    easy, hard = run(*words, "--json").json["targets"]
    assert (easy["agents"], easy["more_agents"], easy["cost_per_hour"]) == (19, 0, 389.5)
    assert (hard["agents"], hard["more_agents"], hard["more_cost_per_hour"]) == (25, 6, 123.0)
    assert easy["level"] >= 0.8
    assert hard["level"] >= 0.99
    shown = run(*words).stdout
    assert re.search(r"80 % in 15 s +19 .* 389\.50", shown)
    assert re.search(r"99 % in 15 s +25 .*\+6 +512\.50 +\+123\.00", shown)


def test_agents_for_callers_who_give_up(run: Run) -> None:
    words = ("--agents", "--erlangs", "30", "--aht", "180", "--json")
    wait = run(*words, "--target", "80/15").json["targets"][0]
    give_up = run(*words, "--target", "80/15", "--patience", "60").json["targets"][0]
    assert wait["agents"] == 35
    assert give_up["agents"] < 35
    assert give_up["abandoned"] > 0
    assert "cost_per_hour" not in give_up


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "give the load once"),
        ("--erlangs 10 --from-store", "give the load once"),
        ("--calls-per-hour 10", "--aht is missing"),
        ("--erlangs 10 --agents", "--aht is missing"),
        ("--erlangs 10 --aht 180", "--aht needs --calls-per-hour or --agents"),
        ("--erlangs 10 --patience 60", "--patience needs --agents"),
        ("--erlangs 10 --target 80/15", "--target needs --agents"),
        ("--erlangs 10 --plot x.svg", "--plot needs --from-store"),
        ("--erlangs 10 --agents --aht 180 --loss 0.01", "--loss counts lines"),
        ("--from-store --aht 180", "--aht needs --calls-per-hour or --agents"),
        ("--from-store --agents --aht 180", "--aht is measured"),
        ("--erlangs -1", "erlangs: is out of range"),
        ("--erlangs nan", "erlangs: is out of range"),
        ("--erlangs 10 --loss 1", "loss: is out of range"),
        ("--erlangs 10 --loss 0", "loss: is out of range"),
        ("--calls-per-hour 10 --aht 0", "aht: is out of range"),
        ("--erlangs 10 --agents --aht 180 --target 80", "--target: '80' is no service level"),
        ("--erlangs 10 --agents --aht 180 --target 100/15", "--target: '100/15' is no service level"),
        ("--erlangs 10 --agents --aht 180 --target 0/15", "target: is out of range"),
        ("--erlangs 10 --agents --aht 180 --target 80/99999", "target: is out of range"),
        ("--from-store --zone Mars/Olympus", "--zone: 'Mars/Olympus' is no time zone"),
        ("--from-store --zone ../etc", "--zone: '../etc' is no time zone"),
        ("--from-store --config /nowhere.toml", "/nowhere.toml"),
    ],
)
def test_wrong_usage(run: Run, words: str, told: str) -> None:
    done = run(*words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr


# ---- calls recorded


def config_for(folder: Path, url: str) -> str:
    path = folder / "telephony.toml"
    path.write_text(
        f"""
[store]
url = "{url}"
[pbx.ami]
secret = "x"
[numbers]
allowed_regions = ["CN"]
[[trunks]]
name = "main"
endpoint = "carrier"
[[clients]]
name = "shop"
brand = "Shop"
key_hash = "sha256:{hashlib.sha256(b"x").hexdigest()}"
[secrets]
master_key = "{"A" * 43}="
"""
    )
    return str(path)


async def fill(url: str, calls: list[tuple[int, int | None, int | None, str]]) -> None:
    """Attempts as (dialled, answered, ended, trunk), with the identifiers of their time."""
    store = await Store.open(url, owner="node-a")
    real = time.time_ns
    try:
        async with store.transaction() as work:
            for number, (dialed, answered, ended, trunk) in enumerate(calls):
                to = f"+86138{number:08}"
                request = RequestRecord(
                    id=ids.new_id("call"),
                    client="shop",
                    flow="verification",
                    to_number=to,
                    call_class=CallClass.OTP,
                    status=CallStatus.QUEUED,
                    created_at=dialed,
                    updated_at=dialed,
                )
                time.time_ns = lambda at=dialed: at * 1_000_000  # type: ignore[misc]
                attempt_id = ids.new_id("att")
                time.time_ns = real
                await work.requests.add(request)
                await work.attempts.add(
                    AttemptRecord(
                        id=attempt_id,
                        request_id=request.id,
                        number=1,
                        to_number=to,
                        trunk=trunk,
                        phase=AttemptPhase.DIALING if ended is None else AttemptPhase.ENDED,
                        created_at=dialed,
                        dialed_at=dialed,
                        answered_at=answered,
                        ended_at=ended,
                    )
                )
    finally:
        time.time_ns = real
        await store.close()


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
def test_from_the_calls_recorded(
    run: Run, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    """Ten calls at once on A nearly a week ago, each ringing for 20 min and talking for 40; two on B."""
    if engine == "sqlite":
        url = f"sqlite:///{tmp_path / 'telephony.db'}"
    else:
        server = request.getfixturevalue("postgres")
        url = server.new_database(template=request.getfixturevalue("migrated"))
    monkeypatch.setattr("telephony.cli.trunks.PAGE", 3)
    full_hour = time.time_ns() // 1_000_000 // HOUR * HOUR
    start = full_hour - (7 * 24 - 2) * HOUR
    ring = HOUR // 3
    calls: list[tuple[int, int | None, int | None, str]]
    calls = [(start, start + ring, start + HOUR, "A") for _ in range(10)]
    calls += [(start, None, start + HOUR, "B") for _ in range(2)]
    # Still under way since three hours before this one.
    calls += [(full_hour - 3 * HOUR, None, None, "A")]
    asyncio.run(fill(url, calls))
    picture = tmp_path / "week.svg"
    config = config_for(tmp_path, url)
    words = ("--from-store", "--config", config, "--zone", "Asia/Shanghai", "--weeks", "1")
    done = run(*words, "--trunk", "A", "--plot", str(picture), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = done.json
    local = datetime.fromtimestamp(start / 1000, SHANGHAI)
    busiest = told["busiest"]
    assert (busiest["weekday"], busiest["hour"]) == (DAYS[local.weekday()], local.hour)
    assert (busiest["high"], busiest["lines"], told["calls"]) == (10.0, 18, 11)
    assert len(told["hours"]) == 168
    # An hour may have become full meanwhile.
    assert 12.99 < sum(hour["mean"] for hour in told["hours"]) < 14.01
    assert "Trunk A" in picture.read_text()

    assert run(*words, "--json").json["busiest"]["high"] == 12.0
    counted = run(*words, "--agents", "--json").json
    assert counted["calls"] == 10
    assert counted["aht"] == pytest.approx(2_400.0)
    assert counted["agents"]["erlangs"] == pytest.approx(20 / 3)
    assert [one["share"] for one in counted["agents"]["targets"]] == [0.8, 0.99]

    shown = run(*words).stdout
    assert f"busiest: {DAYS[local.weekday()]} {local.hour:02}:00, 12.00 E" in shown
    assert re.search(rf"{local.hour:02}:00 .*20 \(12\.0 E\)", shown)
    assert run(*words, "--agents").returncode == 0

    none = run(*words, "--trunk", "C")
    assert (none.returncode, none.stdout) == (1, "")
    assert "no calls were made in 1 week on trunk C" in none.stderr
    refused = run(*words, "--plot", str(tmp_path / "nowhere" / "x.svg"))
    assert (refused.returncode, refused.stdout) == (2, "")


def test_a_store_that_is_not_there_is_not_made(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "telephony.db"
    done = run("--from-store", "--config", config_for(tmp_path, f"sqlite:///{path}"))
    assert (done.returncode, done.stdout) == (3, "")
    assert f"{path} is not there" in done.stderr
    assert not path.exists()


def test_a_store_of_something_else(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "telephony.db"
    path.write_bytes(b"")
    done = run("--from-store", "--config", config_for(tmp_path, f"sqlite:///{path}"))
    assert done.returncode == 3
    assert path.read_bytes() == b"", "it is not migrated"


def test_other_bad_numbers_for_the_store(run: Run, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'telephony.db'}"
    asyncio.run(fill(url, []))
    words = ("--from-store", "--config", config_for(tmp_path, url))
    assert "weeks: is out of range" in run(*words, "--weeks", "0").stderr
    assert "quantile: is out of range" in run(*words, "--quantile", "2").stderr
    assert "loss: is out of range" in run(*words, "--loss", "2").stderr
    assert run(*words, "--weeks", "105").returncode == 2
