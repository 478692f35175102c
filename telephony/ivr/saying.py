"""From what a tree says to what a call says: templates, their values, how long they last, how they read.

    {name}                text          {name:digits}    one at a time      {name:number}    a cardinal
    {name:amount CNY}     money         {name:date}      a day              {name:datetime}  a day and a time

A value that does not fit its kind (a number that is none) is said as a text; one that is empty is left out:
a call does not end because an app sent something odd. What it never does: make sound.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from itertools import groupby
from typing import Final, TypeAlias

from telephony.errors import InputError
from telephony.ivr.tree import PausePiece, Piece, Prompt, RecordingPiece, Saying, Sayings, Tree
from telephony.model import prompt as said
from telephony.speech.wording import amount_words, date_words, number_words

_HOLE: Final = re.compile(r"\{([^{}]*)\}")
_INSIDE: Final = re.compile(
    r"([a-z][a-z0-9_]{0,31})(?::(digits|number|amount|date|datetime)(?: ([A-Z]{3}))?)?"
)
_MAX_VALUE: Final = 200

SECONDS_PER_LETTER: Final[Mapping[str, float]] = {"zh": 0.33, "ja": 0.2, "ko": 0.2, "th": 0.1}
"""By language: how long the default voice takes for one letter or character (espeak-ng 1.51, timed)."""

_LETTER: Final = 0.085
_BREATH: Final = 0.3
_KIND_SECONDS: Final[Mapping[str, float]] = {
    "text": 1.5,
    "digits": 5.0,
    "number": 1.5,
    "amount": 3.0,
    "date": 3.0,
    "datetime": 4.0,
}
_RECORDING_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Hole:
    """A place for a value: `kind` is text, digits, number, amount, date or datetime."""

    name: str
    kind: str = "text"
    currency: str = ""


Segment: TypeAlias = str | Hole


class BadTemplate(ValueError):
    """A text with a brace that is no placeholder; the message says which."""


@lru_cache(maxsize=16_384)
def parse_template(text: str) -> tuple[Segment, ...]:
    """Split a text at its placeholders. Raises `BadTemplate`."""
    segments: list[Segment] = []
    done = 0
    for match in _HOLE.finditer(text):
        if match.start() > done:
            segments.append(text[done : match.start()])
        inside = _INSIDE.fullmatch(match[1])
        if inside is None or (inside[2] == "amount") != bool(inside[3]):
            raise BadTemplate(f"{match[0][:40]} is no placeholder")
        segments.append(Hole(inside[1], inside[2] or "text", inside[3] or ""))
        done = match.end()
    if done < len(text):
        segments.append(text[done:])
    for segment in segments:
        if isinstance(segment, str) and ("{" in segment or "}" in segment):
            raise BadTemplate("there is a brace that is no placeholder")
    return tuple(segments)


def pieces_of(saying: Saying) -> tuple[Piece, ...]:
    """The pieces of one language's words."""
    return (saying,) if isinstance(saying, str) else saying


def holes_of(saying: Saying) -> Iterator[Hole]:
    """The placeholders of one language's words. Raises `BadTemplate`."""
    for piece in pieces_of(saying):
        if isinstance(piece, str):
            yield from (segment for segment in parse_template(piece) if isinstance(segment, Hole))


def sayings_of(prompt: Prompt, tree: Tree) -> Sayings:
    """A prompt by language, looked up by its name where it has one; empty where there is none."""
    return tree.prompts.get(prompt, {}) if isinstance(prompt, str) else prompt


def fill(text: str, values: Mapping[str, str]) -> str:
    """A text with its values, as `set` and `webhook` make one; what is unknown is empty."""
    return "".join(
        segment if isinstance(segment, str) else values.get(segment.name, "")
        for segment in parse_template(text)
    )


def render(
    saying: Saying, values: Mapping[str, str], locale: str, secrets: Collection[str] = ()
) -> said.Prompt:
    """One language's words with their values; a prompt without parts where nothing is left to say."""
    parts: list[said.Part] = []
    pieces = pieces_of(saying)
    for piece in pieces:
        match piece:
            case RecordingPiece():
                parts.append(said.Recording(piece.recording))
            case PausePiece():
                parts.append(said.Silence(piece.pause))
            case _:
                for segment in parse_template(piece):
                    if isinstance(segment, Hole):
                        value = values.get(segment.name, "")[:_MAX_VALUE]
                        parts += _parts(segment, value, locale, secret=segment.name in secrets)
                    elif _has_words(segment):
                        parts.append(said.Text(segment))
    return said.Prompt(tuple(parts))


def _has_words(text: str) -> bool:
    """A synthesiser says nothing of punctuation alone, and calls that an error."""
    return any(letter.isalnum() for letter in text)


def _parts(hole: Hole, value: str, locale: str, *, secret: bool) -> list[said.Part]:
    value = " ".join(value.split())
    if not _has_words(value):
        return []
    if secret:
        digits = "".join(letter for letter in value if letter in "0123456789")
        return [said.Digits(digits, secret=True)] if digits else []
    try:
        return _typed(hole, value, locale)
    except (InputError, ValueError, InvalidOperation, OverflowError):
        return [said.Text(value)]


def _typed(hole: Hole, value: str, locale: str) -> list[said.Part]:
    match hole.kind:
        case "digits":
            return _spelled(value)
        case "number":
            number_words(int(value), locale)
            return [said.Number(int(value))]
        case "amount":
            amount = Decimal(value)
            amount_words(amount, hole.currency, locale)
            return [said.Amount(amount, hole.currency)]
        case "date" | "datetime":
            when = datetime.fromisoformat(value)
            date_words(when, locale, with_time=hole.kind == "datetime")
            return [said.Date(when, with_time=hole.kind == "datetime")]
        case _:
            return [said.Text(value)]


def _spelled(value: str) -> list[said.Part]:
    """Figures one by one in their slots, letters by their names."""
    parts: list[said.Part] = []
    plain = (letter for letter in value if letter.isalnum())
    for figures, run in groupby(plain, lambda letter: letter in "0123456789"):
        letters = tuple(run)
        parts.append(said.Digits("".join(letters)) if figures else said.Text(", ".join(letters)))
    return parts


def seconds_of(saying: Saying, locale: str) -> float:
    """About how long it takes to say, in seconds: letters, breaths, and a guess for each value."""
    letter = SECONDS_PER_LETTER.get(locale.partition("-")[0].lower(), _LETTER)
    total = 0.0
    for piece in pieces_of(saying):
        if isinstance(piece, RecordingPiece):
            total += _RECORDING_SECONDS
        elif isinstance(piece, PausePiece):
            total += piece.pause
        else:
            for segment in parse_template(piece):
                if isinstance(segment, Hole):
                    total += _KIND_SECONDS[segment.kind]
                else:
                    total += letter * sum(one.isalnum() for one in segment)
                    total += _BREATH * sum(one in ".,:;?!。，、：；？！" for one in segment)
    return total


def words_of(prompt: said.Prompt, phrases: Mapping[str, str] | None = None) -> str:
    """A prompt as a transcript shows it: texts as they are, values in brackets, secrets not at all.

    `phrases` are those of the language pack, by key.
    """
    words: list[str] = []
    for part in prompt.parts:
        match part:
            case said.Text():
                words.append(part.text)
            case said.Phrase():
                words.append((phrases or {}).get(part.key, f"({part.key})"))
            case said.Digits():
                words.append(" [secret] " if part.secret else f" [{part.digits}] ")
            case said.Number():
                words.append(f" [{part.value}] ")
            case said.Amount():
                words.append(f" [{part.value} {part.currency}] ")
            case said.Date():
                when = part.when.isoformat(timespec="minutes") if part.with_time else part.when.date()
                words.append(f" [{when}] ")
            case said.Recording():
                words.append(f" (recording {part.name}) ")
            case said.Silence():
                words.append(" ")
    return " ".join("".join(words).split())
