"""Language packs: one TOML file per language, checked to be whole before anything is said.

A pack gives the language's tag and name, what each synthesiser is told (`[engines.<name>]`: `voice`,
`phrase_speed`, `digit_speeds` for zero to nine), the ten digits as words, and phrases by key with
`{placeholders}`. Adding a language is adding a file; adding a phrase is adding its key to
`REQUIRED_PHRASES` and to every file. What it never does: make sound.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from telephony.errors import ConfigError, InputError, MissingPrompt, UnknownLocale

REQUIRED_PHRASES: Final[Mapping[str, frozenset[str]]] = {
    "verification.greeting": frozenset({"brand"}),
    "verification.press_key": frozenset({"brand"}),
    "verification.again": frozenset(),
    "verification.repeat_hint": frozenset(),
    "verification.expired": frozenset(),
    "verification.goodbye": frozenset(),
    "common.apology": frozenset(),
    "common.goodbye": frozenset(),
    "payment.greeting": frozenset({"brand"}),
    "payment.payee": frozenset({"payee"}),
    "payment.keys": frozenset(),
    "payment.keys_agent": frozenset(),
    "payment.confirmed": frozenset(),
    "payment.received": frozenset(),
    "payment.declined": frozenset(),
    "payment.closed": frozenset(),
    "payment.canceled": frozenset(),
    "payment.failed": frozenset(),
    "payment.no_input": frozenset(),
    "payment.transfer": frozenset(),
    "payment.voicemail": frozenset({"brand"}),
    "announcement.acknowledge": frozenset({"key"}),
    "announcement.acknowledged": frozenset(),
    "announcement.repeat_hint": frozenset(),
    "ivr.invalid": frozenset(),
    "ivr.unavailable": frozenset(),
}
"""Every phrase that the flows say, with its placeholders."""

DIGITS: Final = "0123456789"

MAX_TEXT: Final = 1000
"""Characters of one text to be spoken, placeholders filled: about a minute of speech."""

_TAG = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")
_KEY = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")
_PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_]*)\}")
_DEFAULT_SPEED: Final = 150
_LONGEST_TAG: Final = 35


@dataclass(frozen=True, slots=True)
class Voice:
    """What a synthesiser is told: speeds are in words a minute, `digit_speeds` for zero to nine."""

    name: str
    phrase_speed: int
    digit_speeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pack:
    """One language. `source` is the file it was read from."""

    tag: str
    name: str
    digits: tuple[str, ...]
    phrases: Mapping[str, str]
    voices: Mapping[str, Voice]
    source: Path

    def voice(self, engine: str) -> Voice:
        """The voice for a synthesiser; one that the file is silent about is told the language tag."""
        unnamed = Voice(self.tag, _DEFAULT_SPEED, (_DEFAULT_SPEED,) * len(DIGITS))
        return self.voices.get(engine, unnamed)

    def placeholders(self, key: str) -> frozenset[str]:
        """The placeholders of a phrase. Raises `MissingPrompt`."""
        return frozenset(_PLACEHOLDER.findall(self._template(key)))

    def text(self, key: str, values: Iterable[tuple[str, str]] = ()) -> str:
        """A phrase with its placeholders filled, at most `MAX_TEXT` characters.

        Raises `MissingPrompt` when the pack has no such phrase or a placeholder is left without a
        value, `InputError` when a value makes it too long. Values are taken as they are: braces in
        them mean nothing.
        """
        given = dict(values)

        def fill(match: re.Match[str]) -> str:
            if match[1] not in given:
                raise MissingPrompt(f"phrase {key} ({self.source.name}) needs a value for {{{match[1]}}}")
            return given[match[1]]

        return speakable(_PLACEHOLDER.sub(fill, self._template(key)))

    def _template(self, key: str) -> str:
        if key not in self.phrases:
            raise MissingPrompt(
                f'{self.source}: phrase {key[:80]!r} is missing. Add "{key[:80]}" = "…" under [phrases]'
            )
        return self.phrases[key]


class Packs:
    """All languages that can be spoken."""

    def __init__(self, packs: Iterable[Pack]) -> None:
        self._packs = {pack.tag: pack for pack in packs}

    @classmethod
    def load(cls, *folders: Path) -> Packs:
        """Read every `*.toml` of the folders; a language of a later folder replaces an earlier one.

        Raises `ConfigError` when there is none or a file is malformed, `MissingPrompt` when one is
        incomplete; both name the file, the key and the mend.
        """
        packs = [read_pack(path) for folder in folders for path in sorted(folder.glob("*.toml"))]
        if not packs:
            where = ", ".join(map(str, folders)) or "nowhere"
            raise ConfigError("speech.packs", f"no language pack in {where}", "Put en.toml there")
        return cls(packs)

    @property
    def tags(self) -> tuple[str, ...]:
        """Tags of all languages, sorted."""
        return tuple(sorted(self._packs))

    def locale(self, tag: str) -> str:
        """The tag of the pack that speaks `tag`: that very one, else one of the same language.

        Case and `_` for `-` don't matter. Raises `UnknownLocale` naming the tags that exist.
        """
        mend = f"Use one of {', '.join(self.tags)}"
        if len(tag) > _LONGEST_TAG or not _TAG.fullmatch(wanted := tag.replace("_", "-").lower()):
            raise UnknownLocale("locale", "is not a language tag", mend)
        by_case = {known.lower(): known for known in self.tags}
        if wanted in by_case:
            return by_case[wanted]
        language = wanted.partition("-")[0]
        for known in sorted(by_case):
            if known.partition("-")[0] == language:
                return by_case[known]
        raise UnknownLocale("locale", f"there is no language pack for {tag!r}", mend)

    def pack(self, tag: str) -> Pack:
        """The pack of a tag as `locale` returned it."""
        return self._packs[tag]


def speakable(text: str) -> str:
    """One line of printable text, at most `MAX_TEXT` characters. Raises `InputError`."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    if not line:
        raise InputError("text", "holds nothing that can be said", "Send words")
    if len(line) > MAX_TEXT:
        raise InputError("text", "is too long to be said", f"Send at most {MAX_TEXT} characters")
    return line


def read_pack(path: Path) -> Pack:
    """Read and check one language pack. Raises `ConfigError` or `MissingPrompt`."""
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(str(path), f"can't be read as TOML ({error})", "Mend or remove the file") from error
    tag = _string(raw, "tag", path)
    if not _TAG.fullmatch(tag):
        raise ConfigError(
            f"{path}: tag", f"{tag!r} is not a language tag", 'Write one such as "en" or "zh-CN"'
        )
    if path.stem != tag:
        raise ConfigError(
            f"{path}: tag", f"is {tag!r} in a file of another name", f"Name the file {tag}.toml"
        )
    digits = _table(raw, "digits", path)
    for digit in DIGITS:
        if not isinstance(digits.get(digit), str) or not digits[digit].strip():
            raise MissingPrompt(f'{path}: digit {digit} is missing. Add {digit} = "…" under [digits]')
    engines = _table(raw, "engines", path)
    return Pack(
        tag=tag,
        name=_string(raw, "name", path),
        digits=tuple(digits[digit].strip() for digit in DIGITS),
        phrases=_phrases(_table(raw, "phrases", path), path),
        voices={name: _voice(name, value, path) for name, value in engines.items()},
        source=path,
    )


def _phrases(table: Mapping[str, Any], path: Path) -> dict[str, str]:
    phrases: dict[str, str] = {}
    for key, value in table.items():
        where = f"{path}: phrases.{key}"
        if not _KEY.fullmatch(key):
            raise ConfigError(
                where, "is not a phrase key", "Write words in lower case, joined by dots, in quotes"
            )
        if not isinstance(value, str) or not value.strip():
            raise ConfigError(where, "is not a text", "Write a text in quotes")
        if re.search(r"[{}]", _PLACEHOLDER.sub("", value)):
            raise ConfigError(where, "has a brace that is no {placeholder}", "Write {name} or no braces")
        phrases[key] = value
    for key, needed in REQUIRED_PHRASES.items():
        if key not in phrases:
            example = " ".join(f"{{{name}}}" for name in sorted(needed))
            raise MissingPrompt(
                f'{path}: phrase {key} is missing. Add "{key}" = "…{example}" under [phrases]'
            )
        found = frozenset(_PLACEHOLDER.findall(phrases[key]))
        if found != needed:
            wanted = ", ".join(f"{{{name}}}" for name in sorted(needed)) or "none"
            raise ConfigError(
                f"{path}: phrases.{key}", "has other placeholders than it must", f"Use {wanted}"
            )
    return phrases


def _voice(engine: str, value: object, path: Path) -> Voice:
    where = f"{path}: engines.{engine}"
    if not isinstance(value, dict):
        raise ConfigError(where, "is not a table", f"Write [engines.{engine}]")
    name = _string(value, "voice", path, where)
    phrase_speed = value.get("phrase_speed", _DEFAULT_SPEED)
    speeds = value.get("digit_speeds", [phrase_speed] * len(DIGITS))
    if not isinstance(speeds, list) or len(speeds) != len(DIGITS):
        raise ConfigError(
            f"{where}.digit_speeds", "is not a list of ten", "Write ten speeds, for zero to nine"
        )
    for speed in [phrase_speed, *speeds]:
        if not isinstance(speed, int) or isinstance(speed, bool) or not 80 <= speed <= 450:
            raise ConfigError(
                where, f"speed {speed!r} is not a speed", "Write words a minute, from 80 to 450"
            )
    return Voice(name, phrase_speed, tuple(speeds))


def _string(table: Mapping[str, Any], key: str, path: Path, where: str | None = None) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{where or path}: {key}", "is missing", f'Add {key} = "…"')
    return value.strip()


def _table(raw: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    value = raw.get(key, {})
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: {key}", "is not a table", f"Write it under [{key}]")
    return value
