"""The trees that are shipped: without a fault, in two languages, and every node walked by a golden call."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from telephony.ivr.book import TEST_SUFFIX, read_file, read_folder
from telephony.ivr.faults import Severity
from telephony.ivr.golden import GoldenFile, play, read_golden
from telephony.ivr.lint import Rules
from telephony.ivr.simulate import Caller, simulate
from telephony.ivr.sounds import Wardrobe
from telephony.ivr.transcript import phrases_of
from telephony.resources import data_dir
from telephony.speech.engine import EspeakNg
from telephony.speech.packs import Packs
from telephony.speech.studio import Studio

FOLDER = data_dir("dialplans") / "ivr"
PACKS = Packs.load(data_dir("audio"))
EDITION = read_folder(FOLDER, Rules(speaks=lambda tag: bool(PACKS.locale(tag))))
NAMES = ["car-rescue", "ride-hotline", "satisfaction"]


def golden(name: str) -> GoldenFile:
    path = FOLDER / f"{name}{TEST_SUFFIX}"
    found = read_golden(read_file(path), str(path))
    assert isinstance(found, GoldenFile), found
    return found


def test_they_are_all_there() -> None:
    assert sorted(EDITION.trees) == NAMES


def test_the_lint_has_nothing_but_notes() -> None:
    assert {fault.severity for fault in EDITION.faults} == {Severity.NOTE}, "\n".join(
        map(str, EDITION.faults)
    )


@pytest.mark.parametrize("name", NAMES)
async def test_golden_conversations_go_as_expected_in_milliseconds(name: str) -> None:
    file = golden(name)
    started = time.perf_counter()
    for one in file.golden.conversations:
        verdict = await play(one, EDITION.trees[name], EDITION.trees, phrases_of(PACKS))
        assert not verdict.difference, f"{verdict.name}\n{verdict.difference}"
    assert (time.perf_counter() - started) / len(file.golden.conversations) < 0.1


@pytest.mark.parametrize("name", NAMES)
def test_golden_conversations_walk_every_node(name: str) -> None:
    walked = {
        line.split(" (")[0]
        for one in golden(name).golden.conversations
        for line in one.expect.splitlines()
        if line[:1] not in (" ", "=")
    }
    assert set(EDITION.trees[name].nodes) - walked == set()


@pytest.mark.parametrize("name", NAMES)
async def test_everything_is_reached_by_three_keys_at_most(name: str) -> None:
    """Whatever three keys are pressed, no call fails or goes on for ever."""
    tree = EDITION.trees[name]
    for first in "0123*":
        for second in "0123*":
            call = await simulate(tree, Caller(keys=[first, second, "1"]), trees=EDITION.trees)
            assert call.result not in ("failed", "too_many_nodes", "too_long")


async def test_they_can_be_said(tmp_path: Path) -> None:
    """By the synthesiser that is the default: every fixed text of the shortest one is rendered."""
    studio = Studio(
        PACKS,
        EspeakNg(),
        cache_dir=tmp_path / "cache",
        media_dir=tmp_path / "media",
        pbx_media_dir=None,
        recordings_dir=None,
        cache_limit_bytes=100_000_000,
    )
    try:
        await Wardrobe(studio).make(1, [EDITION.trees["satisfaction"]])
    finally:
        await studio.close()
    assert not list((tmp_path / "media").iterdir())
