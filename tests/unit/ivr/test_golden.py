"""Golden conversations: what they may say, how they differ, how they are written anew; and the script."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from telephony.errors import CallEnded, InputError
from telephony.ivr.golden import GoldenFile, difference, play, read_golden, updated
from telephony.ivr.scripted import ScriptedClock, ScriptedSession
from telephony.ivr.simulate import Caller, moment, simulate
from telephony.ivr.transcript import phrases_of
from telephony.model.media import Media
from telephony.pbx.port import Gathered
from telephony.resources import data_dir
from telephony.speech.packs import Packs
from tests.unit.ivr.trees import HEAD, MENU, tree_of

PHRASES = phrases_of(Packs.load(data_dir("audio")))
FILE = """\
# A comment stays.
tree: sample
conversations:
  - name: one   # and this
    keys: [1, 2]

  - name: two
    variables:
      order: 1
    expect: |
      something old

      = old
  # between
  - expect: ""
    name: three
    keys: [12]
"""


def read(text: str) -> GoldenFile:
    found = read_golden(text, "sample.test.yaml")
    assert isinstance(found, GoldenFile), found
    return found


async def test_they_are_compared_and_written_anew() -> None:
    tree = tree_of(MENU)
    file = read(FILE)
    verdicts = [await play(one, tree, {}, PHRASES) for one in file.golden.conversations]
    assert all(verdict.difference for verdict in verdicts)
    assert "+= completed" in verdicts[0].difference
    text = updated(file, [verdict.transcript for verdict in verdicts])
    again = read(text)
    for one in again.golden.conversations:
        assert not (await play(one, tree, {}, PHRASES)).difference
    assert updated(again, [one.expect for one in again.golden.conversations]) == text
    for kept in ("# A comment stays.", "name: one   # and this", "  # between", "      order: 1"):
        assert kept in text
    assert [one.name for one in again.golden.conversations] == ["one", "two", "three"]
    assert "something old" not in text


async def test_a_transcript_is_the_same_whoever_asks() -> None:
    call = await simulate(tree_of(MENU), Caller(keys=["1", "7", "2"]))
    assert call.text(PHRASES) == (
        "main (menu)\n"
        "  says en: For orders, press 1.\n"
        "  hears 1\n"
        "  -> orders (1)\n"
        "orders (say)\n"
        "  says en: Orders.\n"
        "  -> second (said)\n"
        "second (menu)\n"
        "  says en: For more, press 2.\n"
        "  hears 7\n"
        "  says en: That is not one of the choices.\n"
        "  says en: For more, press 2.\n"
        "  hears 2\n"
        "  -> bye (2)\n"
        "bye (hangup)\n"
        "  says en: Bye.\n"
        "  -> hangup (ended)\n"
        "= completed\n"
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("tree: a\n", 1),
        ("tree: a\nconversations:\n  - nam: x\n", 3),
        ("tree: a\nconversations:\n  - name: x\n    queues: {a: gone}\n", 4),
        ("tree: a\nconversations:\n  - name: x\n    without: [phone]\n", 4),
        ("tree: a\nconversations: &x [*x]\n", 2),
    ],
)
def test_a_wrong_file_is_told_with_its_line(text: str, line: int) -> None:
    found = read_golden(text, "a.test.yaml")
    assert not isinstance(found, GoldenFile)
    assert found[0].mark.line == line


async def test_what_can_not_be_played_differs() -> None:
    tree = tree_of(MENU)
    for broken in ("keys: [one]", "at: tomorrow"):
        file = read(f"tree: sample\nconversations:\n  - name: x\n    {broken}\n")
        verdict = await play(file.golden.conversations[0], tree, {}, PHRASES)
        assert verdict.transcript == ""
        assert "can't be done" in verdict.difference or "no moment" in verdict.difference


def test_differences_ignore_the_ends_of_lines() -> None:
    assert difference("a  \nb\n\n", "a\nb\n") == ""
    assert "-a" in difference("a", "b")


async def test_keys_that_no_telephone_has() -> None:
    with pytest.raises(InputError, match="can't be done"):
        await simulate(tree_of(MENU), Caller(keys=["A"]))


def test_a_moment_is_on_the_trees_own_wall() -> None:
    head = HEAD + "hours: {day: {zone: Asia/Shanghai, open: {daily: ['09:00-18:00']}}}\n"
    tree = tree_of(MENU, head)
    assert moment("2026-12-24 19:30", tree) == datetime(2026, 12, 24, 11, 30, tzinfo=UTC)
    assert moment("2026-12-24T19:30+00:00", tree) == datetime(2026, 12, 24, 19, 30, tzinfo=UTC)
    assert moment("2026-12-24 19:30", tree_of(MENU)).utcoffset() is not None


async def test_the_scripted_caller_keeps_to_the_port() -> None:
    clock = ScriptedClock(datetime(2026, 1, 1, tzinfo=UTC))
    session = ScriptedSession(clock, ["12#3", "!4", "timeout", "55", "hangup"])
    sound = Media("x", 2.0)
    assert await session.gather(sound, max_digits=4, timeout=5) == Gathered("12", "terminator")
    assert await session.play(sound, barge_in="0123456789*#") == "3"
    assert await session.gather(None, max_digits=1, timeout=5, terminator="") == Gathered("", "timeout")
    assert await session.play(sound) is None
    assert await session.play(sound, barge_in="0123456789*#") == "4"
    assert await session.gather(sound, max_digits=2, timeout=5) == Gathered("", "timeout")
    assert await session.gather(sound, max_digits=2, timeout=5) == Gathered("55", "max_digits")
    with pytest.raises(CallEnded):
        await session.gather(sound, max_digits=2, timeout=5)
    with pytest.raises(CallEnded):
        await session.set_variable("A", "b")
    assert clock.now() > datetime(2026, 1, 1, tzinfo=UTC)
