"""The trees of a folder, all of them good: checked before they are taken, swapped whole.

A call keeps the edition that it began with. What it never does: take half a change, or a tree with an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeAlias

import structlog

from telephony.errors import ConfigError, TelephonyError
from telephony.ivr.faults import Fault, Severity, TreeRefused
from telephony.ivr.lint import Rules, check
from telephony.ivr.reading import read_tree
from telephony.ivr.tree import Tree

TEST_SUFFIX: Final = ".test.yaml"
POLL_SECONDS: Final = 2.0
MAX_TREES: Final = 500
MAX_FILE_BYTES: Final = 2 * 1024 * 1024

Prepare: TypeAlias = Callable[["Edition"], Awaitable[None]]
"""Makes ready what an edition says, before it is taken."""

_Stamp: TypeAlias = tuple[tuple[str, int, int], ...]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Edition:
    """The trees of one moment, by name. `number` counts from 1."""

    number: int = 0
    trees: Mapping[str, Tree] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()


def files_of(folder: Path) -> tuple[Path, ...]:
    """The files of trees in a folder, without the golden conversations. Raises `ConfigError`."""
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix == ".yaml" and path.is_file())
    except OSError as error:
        raise ConfigError(
            str(folder), f"can't be read ({error.strerror})", "Name a folder of trees"
        ) from None
    trees = tuple(path for path in found if not path.name.endswith(TEST_SUFFIX))
    if len(trees) > MAX_TREES:
        raise ConfigError(str(folder), f"holds more than {MAX_TREES} trees", "Use several folders")
    return trees


def read_file(path: Path) -> str:
    """A file's text. Raises `ConfigError`."""
    try:
        with path.open("rb") as file:
            octets = file.read(MAX_FILE_BYTES + 1)
        if len(octets) > MAX_FILE_BYTES:
            raise ConfigError(str(path), "is too big", "Split it into subtrees")
        return octets.decode("utf-8")
    except OSError as error:
        raise ConfigError(str(path), f"can't be read ({error.strerror})", "Mend or remove it") from None
    except UnicodeDecodeError:
        raise ConfigError(str(path), "is not UTF-8", "Save it as UTF-8 text") from None


@dataclass(frozen=True, slots=True)
class Checked:
    """Files that were checked together: their trees, by file too, and every fault."""

    trees: Mapping[str, Tree]
    by_file: Mapping[str, Tree]
    faults: tuple[Fault, ...]


def check_files(texts: Mapping[str, str], rules: Rules) -> Checked:
    """Check several files (name → text) with regard to one another."""
    shapes = [read_tree(text, name).tree for name, text in texts.items()]
    together = replace(rules, trees={tree.name: tree for tree in shapes if tree is not None})
    reports = {name: check(text, name, together) for name, text in texts.items()}
    by_file = {name: report.tree for name, report in reports.items() if report.tree is not None}
    faults = tuple(fault for report in reports.values() for fault in report.faults)
    return Checked({tree.name: tree for tree in by_file.values()}, by_file, faults)


def read_folder(folder: Path, rules: Rules, number: int = 1) -> Edition:
    """Read and check a folder. Raises `TreeRefused` with all faults, or `ConfigError`."""
    texts = {str(path): read_file(path) for path in files_of(folder)}
    checked = check_files(texts, rules)
    if any(fault.severity is Severity.ERROR for fault in checked.faults):
        raise TreeRefused(checked.faults)
    return Edition(number, checked.trees, checked.faults)


class TreeBook:
    """Holds the newest good edition of a folder, and looks for a newer one every couple of seconds.

    `start` raises where the folder has no good edition; later faults are logged, and the old edition stays.
    """

    def __init__(
        self,
        folder: Path,
        rules: Rules | None = None,
        *,
        prepare: Prepare | None = None,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._folder = folder
        self._rules = rules or Rules()
        self._prepare = prepare
        self._poll_seconds = poll_seconds
        self._edition = Edition()
        self._stamp: _Stamp = ()
        self._watching: asyncio.Task[None] | None = None
        self.refused: tuple[Fault, ...] = ()
        """Why the newest state of the folder was not taken; empty where it was."""

    @property
    def edition(self) -> Edition:
        """The newest good edition: take it once a call, and keep it."""
        return self._edition

    async def load(self) -> Edition:
        """Read, check and prepare, then swap. Raises as `read_folder`, or as `prepare` does."""
        stamp = await asyncio.to_thread(self._look)
        self._stamp = stamp
        number = self._edition.number + 1
        edition = await asyncio.to_thread(read_folder, self._folder, self._rules, number)
        if self._prepare is not None:
            await self._prepare(edition)
        self._edition, self.refused = edition, ()
        log.info("ivr.trees_taken", edition=number, trees=sorted(edition.trees))
        return edition

    async def start(self) -> None:
        """Load, then watch."""
        await self.load()
        self._watching = asyncio.create_task(self._watch(), name="ivr-tree-book")

    async def stop(self) -> None:
        """Watch no more."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
            self._watching = None

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            try:
                if await asyncio.to_thread(self._look) == self._stamp:
                    continue
                await self.load()
            except TreeRefused as error:
                self.refused = error.faults
                log.error("ivr.trees_refused", faults=[str(fault) for fault in error.faults[:10]])
            except TelephonyError as error:
                log.error("ivr.trees_not_read", error=str(error))
            except ExceptionGroup as group:
                log.error("ivr.trees_not_prepared", error=str(group.exceptions[0]))

    def _look(self) -> _Stamp:
        """What the folder looks like; an editor that writes a file anew changes its time and its inode."""
        stamp = []
        for path in files_of(self._folder):
            try:
                facts = path.stat()
            except OSError:
                continue
            stamp.append((path.name, facts.st_mtime_ns, facts.st_ino))
        return tuple(stamp)
