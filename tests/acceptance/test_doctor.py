"""`telephony doctor` on the live PBX: a sound configuration passes, each planted fault is named."""

from __future__ import annotations

import asyncio
import json
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from telephony.app import running
from telephony.doctor import Finding, Level, examine
from telephony.lab import Lab
from telephony.settings import check_settings
from tests.acceptance.control import Json, settings_of

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.lab


async def examined(values: Json) -> dict[str, Finding]:
    """What was found by the first word of its part; of two alike the worse."""
    found: dict[str, Finding] = {}
    async for one in examine(check_settings(values)):
        part = one.part.partition(" ")[0]
        if part not in found or one.level is not Level.OK:
            found[part] = one
    return found


async def test_a_lab_is_sound_with_and_without_a_controller(lab: Lab, tmp_path: Path) -> None:
    values = settings_of(lab, tmp_path)
    before = await examined(values)
    assert {one.part: one.found for one in before.values() if one.level is not Level.OK} == {}
    assert before["version"].found.startswith("Asterisk ")
    async with running(check_settings(values)) as controller:
        port = int(controller.url.rpartition(":")[2])
        beside = await examined(values | {"server": {**values["server"], "port": port}})
    assert {one.part: one.found for one in beside.values() if one.level is not Level.OK} == {}
    assert beside["http"].found == "a controller runs and is ready"


def another_secret(values: Json) -> None:
    values["pbx"]["ami"]["secret"] = "wrong"


def no_manager(values: Json) -> None:
    values["pbx"]["ami"]["port"] = 1


def too_mighty(values: Json, lab: Lab) -> None:
    values["pbx"]["ami"] |= {"username": lab.state.test_user, "secret": lab.state.test_secret}


def unknown_endpoint(values: Json) -> None:
    values["trunks"][0]["endpoint"] = "nobody"


def elsewhere(values: Json) -> None:
    values["fastagi"]["port"] = 4999


def not_ours(values: Json) -> None:
    values["fastagi"]["host"] = "192.0.2.1"


def no_store(values: Json) -> None:
    values["store"]["url"] = "postgresql://nobody@127.0.0.1:1/none"


@pytest.mark.parametrize(
    ("plant", "part", "level"),
    [
        (another_secret, "manager", Level.FAULT),
        (no_manager, "manager", Level.FAULT),
        (unknown_endpoint, "endpoint", Level.FAULT),
        (elsewhere, "TELEPHONY_AGI", Level.WARNING),
        (not_ours, "fastagi", Level.FAULT),
        (no_store, "store", Level.FAULT),
    ],
)
async def test_a_fault_is_named_with_its_mend(
    lab: Lab, tmp_path: Path, plant: Callable[[Json], None], part: str, level: Level
) -> None:
    values = settings_of(lab, tmp_path)
    plant(values)
    found = (await examined(values))[part]
    assert found.level is level
    assert found.mend


async def test_a_user_who_may_too_much_is_told(lab: Lab, tmp_path: Path) -> None:
    values = settings_of(lab, tmp_path)
    too_mighty(values, lab)
    found = (await examined(values))["rights"]
    assert found.level is Level.WARNING
    assert "Command" in found.found


async def test_a_dialplan_without_a_context_is_told(lab: Lab, tmp_path: Path) -> None:
    await lab.pbx.console("dialplan remove context telephony-ivr")
    try:
        found = (await examined(settings_of(lab, tmp_path)))["dialplan"]
    finally:
        await lab.pbx.console("dialplan reload")
    assert (found.level, found.found) == (Level.FAULT, "lacks telephony-ivr")


async def test_what_init_writes_is_a_configuration_the_doctor_can_read(tmp_path: Path) -> None:
    path = tmp_path / "telephony.toml"
    words = (
        "init",
        str(path),
        "--endpoint",
        "carrier",
        "--brand",
        'Acme "Rides"',
        "--region",
        "us",
        "--json",
    )
    made, _errors, code = await typed(*words)
    told = json.loads(made)
    assert code == 0
    assert path.stat().st_mode & 0o777 == 0o600
    written = tomllib.loads(path.read_text())
    assert written["numbers"]["allowed_regions"] == ["US"]
    assert written["clients"][0]["brand"] == 'Acme "Rides"'
    assert written["pbx"]["ami"]["secret"] in told["manager.conf"]
    assert told["key"] not in path.read_text()
    wanted = (ROOT / "docs" / "dialplan.md").read_text()
    rights = [line for line in told["manager.conf"].splitlines() if line[:1] not in (";", "")]
    assert [line for line in rights if line not in wanted] == [f"secret = {written['pbx']['ami']['secret']}"]
    _out, errors, code = await typed(*words)
    assert (code, "is there already" in errors) == (2, True)
    out, _errors, code = await typed("doctor", "--config", str(path), "--json")
    assert code in (0, 1)
    assert {one["part"].split(" ")[0] for one in json.loads(out)} >= {"speech", "store", "manager"}


async def typed(*words: str) -> tuple[str, str, int]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "telephony",
        *words,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
    return out.decode(), err.decode(), process.returncode or 0
