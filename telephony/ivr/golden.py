"""Golden conversations: a file beside a tree that says who calls, what is pressed, and what must come of it.

    tree: ride-hotline
    conversations:
      - name: a lost bag
        at: "2026-12-24 19:30"
        keys: [3]
        expect: |
          …the transcript…

What it never does: reach a PBX or the network, or write a file.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from telephony.errors import InputError
from telephony.ivr.faults import Fault, Severity
from telephony.ivr.ports import QueueEnd, TransferEnd
from telephony.ivr.scripted import World
from telephony.ivr.simulate import Caller, moment, simulate
from telephony.ivr.source import Source, read_source
from telephony.ivr.transcript import PhrasesOf
from telephony.ivr.tree import Name, Tree

_STRICT: Final = ConfigDict(extra="forbid")
_MEND: Final = "See docs/ivr.md for what a conversation may say"


def _as_text(value: Any) -> Any:
    """Keys may be written as figures."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Token = Annotated[str, BeforeValidator(_as_text), Field(max_length=64)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """One call, and the transcript that it must give."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    name: Annotated[str, Field(min_length=1, max_length=120)]
    at: str = "2026-01-05 10:00"
    caller: str = "+8613800000000"
    called: str = ""
    language: str = ""
    variables: Mapping[str, Token] = field(default_factory=dict)
    keys: tuple[Token, ...] = ()
    profile: Mapping[str, Any] | None = None
    webhooks: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    queues: Mapping[str, QueueEnd] = field(default_factory=dict)
    transfers: Mapping[str, TransferEnd] = field(default_factory=dict)
    without: tuple[Literal["queue", "transfer", "callback", "survey", "record"], ...] = ()
    expect: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """The conversations of one tree."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    tree: Name
    conversations: Annotated[tuple[Conversation, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class GoldenFile:
    """A file of conversations that was read."""

    source: Source
    text: str
    golden: Golden


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a conversation went; `difference` is empty where it went as it must."""

    name: str
    transcript: str
    difference: str


_ADAPTER: Final[TypeAdapter[Golden]] = TypeAdapter(Golden)


def read_golden(text: str, file: str) -> GoldenFile | tuple[Fault, ...]:
    """Read a file of conversations, or tell what is wrong with it."""
    source = read_source(text, file)
    if source.faults:
        return source.faults
    try:
        return GoldenFile(source, text, _ADAPTER.validate_python(source.data))
    except ValidationError as error:
        return tuple(
            source.fault(
                "bad-conversation",
                one["loc"],
                f"{'.'.join(map(str, one['loc']))}: {one['msg']}",
                _MEND,
                Severity.ERROR,
            )
            for one in error.errors(include_url=False)
        )


async def play(one: Conversation, tree: Tree, trees: Mapping[str, Tree], phrases: PhrasesOf) -> Verdict:
    """Play a conversation and compare. A conversation that can't be played differs by that."""
    try:
        caller = Caller(
            keys=one.keys,
            at=moment(one.at, tree),
            number=one.caller,
            called=one.called,
            language=one.language,
            variables=one.variables,
        )
        text = (await simulate(tree, caller, world_of(one), trees=trees)).text(phrases)
    except InputError as error:
        return Verdict(one.name, "", f"{error}\n")
    return Verdict(one.name, text, difference(one.expect, text))


def world_of(one: Conversation) -> World:
    """How everybody else behaves in a conversation."""
    return World(
        profile=one.profile,
        webhooks=one.webhooks,
        queues=one.queues,
        transfers=one.transfers,
        without=frozenset(one.without),
    )


def difference(expected: str, got: str) -> str:
    """What differs, line by line; empty where nothing does. Spaces at the ends of lines don't count."""
    wanted, found = ([line.rstrip() for line in text.strip().splitlines()] for text in (expected, got))
    if wanted == found:
        return ""
    return "\n".join(difflib.unified_diff(wanted, found, "expected", "got", lineterm="")) + "\n"


def updated(file: GoldenFile, transcripts: Sequence[str]) -> str:
    """The file's text with these transcripts in the place of what was expected; all else stays as it is."""
    lines = file.text.splitlines()
    for index in reversed(range(len(file.golden.conversations))):
        path = ("conversations", index)
        here = (*path, "expect")
        column = file.source.keys[(*path, "name")].column - 1
        lead = " " * column
        if here in file.source.values:
            start = file.source.keys[here].line - 1
            end = max(file.source.values[here].end, start + 1)
            # The dash of the list may stand before it.
            lead = lines[start][:column]
        else:
            start = end = file.source.values[path].end
        body = (f"{' ' * column}  {line}" for line in transcripts[index].splitlines())
        block = [f"{lead}expect: |", *body]
        while end > start and end <= len(lines) and not lines[end - 1].strip():
            end -= 1
        lines[start:end] = block
    return "\n".join(lines) + "\n"
