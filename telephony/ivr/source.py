"""YAML, read as data and nothing else: plain values, and the line and column of each of them.

A subset on purpose: one document, no anchors, aliases or merge keys (so nothing can be blown up), no tags
(so nothing can be made but text, numbers, lists and mappings), bounded in size and depth. Plain scalars
are read as YAML 1.2 reads them (`no`, `on` and `09:00` are texts), but a number with a leading zero or a
plus is a text too: it is a telephone number. Keys are always texts. What it never does: open a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import yaml

from telephony.ivr.faults import Fault, Mark, Severity

Path: TypeAlias = tuple[str | int, ...]
"""Where a value stands: keys and indexes from the top."""

MAX_BYTES: Final = 1024 * 1024
MAX_DEPTH: Final = 24
MAX_VALUES: Final = 50_000

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INTEGER: Final = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_FLOAT: Final = re.compile(r"-?(0|[1-9][0-9]{0,17})\.[0-9]{1,18}")
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE: Final = frozenset({"true", "True", "TRUE"})
_FALSE: Final = frozenset({"false", "False", "FALSE"})


@dataclass(frozen=True, slots=True)
class Span:
    """Where a value begins and ends, as offsets into the lines: `end` is the first line after it."""

    mark: Mark
    end: int


@dataclass(frozen=True, slots=True)
class Source:
    """A file that was read: `data` is plain; `faults` are those of the YAML itself."""

    file: str
    data: Any
    values: Mapping[Path, Span]
    keys: Mapping[Path, Mark]
    faults: tuple[Fault, ...]

    def mark(self, path: Path) -> Mark:
        """Where a value stands, by its key where it has one; what is missing stands where its parent does."""
        while path:
            if (at := self.keys.get(path)) is not None:
                return at
            if (span := self.values.get(path)) is not None:
                return span.mark
            path = path[:-1]
        return Mark(1, 1)

    def fault(self, code: str, path: Path, problem: str, mend: str, severity: Severity) -> Fault:
        """A fault at a value."""
        return Fault(code, severity, self.file, self.mark(path), problem, mend)


class _Unreadable(Exception):
    """Never leaves this module."""

    def __init__(self, code: str, mark: Mark, problem: str, mend: str) -> None:
        super().__init__(problem)
        self.code, self.mark, self.problem, self.mend = code, mark, problem, mend


def read_source(text: str, file: str) -> Source:
    """Read YAML; a text that can't be read has `data` None and a fault that says why. Raises nothing."""
    reader = _Reader(file)
    data = None
    try:
        reader.admit_size(text)
        data = reader.document(yaml.parse(text, Loader=_LOADER))
    except _Unreadable as error:
        reader.faults.append(_fault(file, error.code, error.mark, error.problem, error.mend))
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        mark = Mark(1, 1) if at is None else Mark(at.line + 1, at.column + 1)
        words = " ".join(part for part in (error.context, error.problem) if part)
        reader.faults.append(_fault(file, "yaml-invalid", mark, words, _MEND_YAML))
    except yaml.YAMLError as error:
        words = str(error).splitlines()[0]
        reader.faults.append(_fault(file, "yaml-invalid", Mark(1, 1), words, "Save it as UTF-8 text"))
    except UnicodeError:
        reader.faults.append(
            _fault(file, "yaml-invalid", Mark(1, 1), "is not a text", "Save it as UTF-8 text")
        )
    if data is None and not reader.faults:
        reader.faults.append(
            _fault(file, "yaml-invalid", Mark(1, 1), "the file is empty", "Begin with version: 1")
        )
    return Source(file, data, reader.values, reader.keys, tuple(reader.faults))


_MEND_YAML: Final = (
    "Look at indentation, colons and quotes of this line and the one before; the keys '*' and '#' need quotes"
)


def _fault(file: str, code: str, mark: Mark, problem: str, mend: str) -> Fault:
    return Fault(code, Severity.ERROR, file, mark, problem, mend)


class _Reader:
    """Builds values from the events of the YAML parser."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.values: dict[Path, Span] = {}
        self.keys: dict[Path, Mark] = {}
        self.faults: list[Fault] = []
        self._count = 0
        self._last_end = 0

    @staticmethod
    def admit_size(text: str) -> None:
        """Refuse what is too big to be looked at."""
        if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
            mend = f"Keep a file under {MAX_BYTES // 1024} kB; subtrees go into files of their own"
            raise _Unreadable("yaml-too-big", Mark(1, 1), "the file is too big", mend)

    def document(self, events: Iterator[yaml.Event]) -> Any:
        """The one document there is."""
        data: Any = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    mend = "Remove the line ---, or make two files"
                    raise _Unreadable("yaml-invalid", _mark(event), "there is a second document", mend)
            elif isinstance(event, yaml.NodeEvent):
                data = self._value(event, events, ())
        return data

    def _value(self, event: yaml.Event, events: Iterator[yaml.Event], path: Path) -> Any:
        self._admit(event, path)
        if isinstance(event, yaml.ScalarEvent):
            self._last_end = _end(event)
            self.values[path] = Span(_mark(event), self._last_end)
            return _scalar(event)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(event, events, path)
        return self._mapping(event, events, path)

    def _sequence(self, start: yaml.Event, events: Iterator[yaml.Event], path: Path) -> list[Any]:
        self.values[path] = Span(_mark(start), 0)
        items: list[Any] = []
        for event in events:
            if isinstance(event, yaml.SequenceEndEvent):
                self.values[path] = Span(_mark(start), self._end_of(start, event))
                break
            items.append(self._value(event, events, (*path, len(items))))
        return items

    def _mapping(self, start: yaml.Event, events: Iterator[yaml.Event], path: Path) -> dict[str, Any]:
        self.values[path] = Span(_mark(start), 0)
        entries: dict[str, Any] = {}
        for event in events:
            if isinstance(event, yaml.MappingEndEvent):
                self.values[path] = Span(_mark(start), self._end_of(start, event))
                break
            self._admit(event, path)
            if not isinstance(event, yaml.ScalarEvent):
                raise _Unreadable("yaml-invalid", _mark(event), "a key is not a text", "Write key: value")
            key, at = str(event.value), _mark(event)
            place = (*path, key)
            if key in entries:
                # The second one is read, at a place that no schema looks at, and thrown away.
                first = self.keys[place].line
                self.faults.append(
                    _fault(
                        self.file,
                        "duplicate-key",
                        at,
                        f"{key!r} stands here a second time; the first is in line {first}",
                        "Keep one of them",
                    )
                )
                self._value(next(events), events, (*path, f"{key}\0{at.line}"))
                continue
            self.keys[place] = at
            entries[key] = self._value(next(events), events, place)
        return entries

    def _end_of(self, start: yaml.Event, end: yaml.Event) -> int:
        """Where a list or mapping ends: with its bracket, or with the last value in it.

        Without brackets the parser says it ends where the next thing begins, comments and all.
        """
        if getattr(start, "flow_style", False):
            self._last_end = _end(end)
        return self._last_end

    def _admit(self, event: yaml.Event, path: Path) -> None:
        """Refuse what is not data, or too much of it."""
        self._count += 1
        mark = _mark(event)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            mend = "Write it out, or make a named prompt or a subtree of it (a key * needs quotes)"
            raise _Unreadable("yaml-alias", mark, "anchors (&) and aliases (*) are not taken", mend)
        if getattr(event, "tag", None) is not None:
            raise _Unreadable("yaml-tag", mark, "tags (!) are not taken", "Write a plain value")
        if len(path) > MAX_DEPTH:
            raise _Unreadable("yaml-too-deep", mark, "is nested too deep", f"{MAX_DEPTH} levels are plenty")
        if self._count > MAX_VALUES:
            raise _Unreadable("yaml-too-big", mark, "holds too many values", "Split it into subtrees")


def _mark(event: yaml.Event) -> Mark:
    mark = event.start_mark
    return Mark(1, 1) if mark is None else Mark(mark.line + 1, mark.column + 1)


def _end(event: yaml.Event) -> int:
    """The first line (from 0) that no longer belongs to a value."""
    mark = event.end_mark
    if mark is None:
        return 0
    return mark.line if mark.column == 0 else mark.line + 1


def _scalar(event: yaml.ScalarEvent) -> str | int | float | bool | None:
    text = str(event.value)
    if not event.implicit[0]:
        return text
    if text in _NULLS:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
