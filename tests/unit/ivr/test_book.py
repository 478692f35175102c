"""Trees of a folder: checked first, swapped whole, never a bad one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from telephony.errors import ConfigError, MissingPrompt
from telephony.ivr.book import MAX_FILE_BYTES, Edition, TreeBook, files_of, read_file, read_folder
from telephony.ivr.faults import TreeRefused
from telephony.ivr.lint import Rules

GOOD = "version: 1\nname: {0}\nlanguages: [en]\nstart: main\nnodes:\n  main: {{type: {1}}}\n"


def write(folder: Path, name: str, kind: str = "hangup") -> None:
    (folder / f"{name}.yaml").write_text(GOOD.format(name, kind), "utf-8")


async def until(condition: object, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.01)


async def test_a_change_is_taken_whole_or_not_at_all(tmp_path: Path) -> None:
    write(tmp_path, "one")
    book = TreeBook(tmp_path, poll_seconds=0.02)
    await book.start()
    try:
        first = book.edition
        assert (first.number, sorted(first.trees)) == (1, ["one"])
        write(tmp_path, "two")
        await until(lambda: book.edition.number == 2)
        assert sorted(book.edition.trees) == ["one", "two"]
        assert sorted(first.trees) == ["one"], "a running call keeps its own"
        second = book.edition
        write(tmp_path, "one", "hangupp")
        write(tmp_path, "three")
        await until(lambda: book.refused)
        assert book.edition is second
        assert [fault.code for fault in book.refused] == ["unknown-type"]
        write(tmp_path, "one")
        await until(lambda: book.edition.number == 3)
        assert sorted(book.edition.trees) == ["one", "three", "two"]
        assert book.refused == ()
    finally:
        await book.stop()


async def test_what_can_not_be_said_is_not_taken(tmp_path: Path) -> None:
    write(tmp_path, "one")
    broken = False

    async def prepare(edition: Edition) -> None:
        if broken:
            raise ExceptionGroup("speech", [MissingPrompt("a recording is missing")])

    book = TreeBook(tmp_path, prepare=prepare, poll_seconds=0.02)
    await book.start()
    try:
        broken = True
        write(tmp_path, "two")
        await asyncio.sleep(0.2)
        assert sorted(book.edition.trees) == ["one"]
    finally:
        await book.stop()


async def test_a_start_without_a_good_edition_fails(tmp_path: Path) -> None:
    write(tmp_path, "one", "nothing")
    with pytest.raises(TreeRefused) as refused:
        await TreeBook(tmp_path).start()
    assert "one.yaml:6" in str(refused.value)
    with pytest.raises(ConfigError, match="can't be read"):
        await TreeBook(tmp_path / "none").start()


async def test_a_folder_that_goes_away_leaves_the_trees(tmp_path: Path) -> None:
    folder = tmp_path / "trees"
    folder.mkdir()
    write(folder, "one")
    book = TreeBook(folder, poll_seconds=0.02)
    await book.start()
    try:
        folder.rename(tmp_path / "elsewhere")
        await asyncio.sleep(0.1)
        assert sorted(book.edition.trees) == ["one"]
        (tmp_path / "elsewhere").rename(folder)
        write(folder, "two")
        await until(lambda: "two" in book.edition.trees)
    finally:
        await book.stop()


def test_golden_conversations_are_no_trees(tmp_path: Path) -> None:
    write(tmp_path, "one")
    (tmp_path / "one.test.yaml").write_text("tree: one\n")
    (tmp_path / "notes.txt").write_text("hello")
    assert [path.name for path in files_of(tmp_path)] == ["one.yaml"]
    assert sorted(read_folder(tmp_path, Rules()).trees) == ["one"]


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    big = tmp_path / "big.yaml"
    big.write_bytes(b" " * (MAX_FILE_BYTES + 1))
    with pytest.raises(ConfigError, match="too big"):
        read_file(big)
    (tmp_path / "odd.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_file(tmp_path / "odd.yaml")
