"""A tree as frozen values: what a file in `dialplans/ivr/` says, and nothing that runs.

The constraints (`Field`) are read at the edge alone, by `reading.py` and for the JSON Schema; the values
are plain. Times are in seconds. A tree holds no code, no path and no address of our own networks.
What it never does: check itself beyond single values; that is the lint's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias

from pydantic import ConfigDict, Discriminator, Field, Tag
from typing_extensions import TypeAliasType

NAME: Final = r"^[a-z][a-z0-9_-]{0,63}$"
VARIABLE: Final = r"^[a-z][a-z0-9_]{0,31}$"
RECORDING: Final = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"

BACK: Final = "back"
REPEAT: Final = "repeat"
RETURN: Final = "return"
HANGUP: Final = "hangup"
DIALPLAN: Final = "dialplan"
"""Where a call goes that was handed over, in journals; nothing leads there by name."""

RESERVED: Final = frozenset({BACK, REPEAT, RETURN, HANGUP})
"""Targets that are no nodes: the menu before, this node again, out of the subtree, the end of the call."""

BUILT_IN: Final = frozenset({"brand", "called", "caller", "crowded", "language", "priority"})
"""Variables that are there without being declared."""

Name = Annotated[str, Field(pattern=NAME)]
Target = Annotated[
    str, Field(pattern=NAME, description="A node, or `back`, `repeat`, `return` (of a subtree) or `hangup`.")
]
VariableName = Annotated[str, Field(pattern=VARIABLE)]
Locale = Annotated[str, Field(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$", max_length=35)]
Words = Annotated[str, Field(min_length=1, max_length=1000)]
Short = Annotated[str, Field(min_length=1, max_length=120)]
Flag = Annotated[bool, Field(strict=True)]
Reason = Annotated[str, Field(min_length=10, max_length=300)]
Keys = Annotated[str, Field(pattern=r"^[0-9*#]{1,4}$")]
PhoneText = Annotated[
    str,
    Field(
        pattern=r"^(\+?[0-9]{2,20}|\{[a-z][a-z0-9_]{0,31}\})$", description="A number, or one `{variable}`."
    ),
]
_STRICT: Final = ConfigDict(extra="forbid")


# ---- what is said


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingPiece:
    """A recording by name: `<language>/<name>.wav` in the recordings folder."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    recording: Annotated[str, Field(pattern=RECORDING)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PausePiece:
    """Silence, in seconds."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    pause: Annotated[float, Field(strict=True, gt=0, le=10)]


def _kind_of_piece(value: Any) -> str | None:
    if isinstance(value, str):
        return "text"
    keys: Any = value if isinstance(value, Mapping) else ()
    return "pause" if "pause" in keys else "recording" if "recording" in keys else None


Piece = TypeAliasType(
    "Piece",
    Annotated[
        Annotated[Words, Tag("text")]
        | Annotated[RecordingPiece, Tag("recording")]
        | Annotated[PausePiece, Tag("pause")],
        Discriminator(_kind_of_piece),
    ],
)


def _kind_of_saying(value: Any) -> str | None:
    return "text" if isinstance(value, str) else "list" if isinstance(value, list | tuple) else None


Saying = TypeAliasType(
    "Saying",
    Annotated[
        Annotated[Words, Tag("text")]
        | Annotated[tuple[Piece, ...], Tag("list"), Field(min_length=1, max_length=50)],
        Discriminator(_kind_of_saying),
    ],
)
"""One language's words: a text with `{variable}` or `{variable:kind}` in it, or a list of pieces."""


def _kind_of_prompt(value: Any) -> str | None:
    return "name" if isinstance(value, str) else "languages" if isinstance(value, Mapping) else None


Sayings: TypeAlias = Mapping[Locale, Saying]
Prompt = TypeAliasType(
    "Prompt",
    Annotated[
        Annotated[Name, Tag("name")] | Annotated[Sayings, Tag("languages")],
        Discriminator(_kind_of_prompt),
        Field(description="What is said, by language; or the name of one of `prompts`."),
    ],
)


# ---- hours, variables, results


@dataclass(frozen=True, slots=True, kw_only=True)
class Hours:
    """Opening hours on a wall clock. A span past midnight (`22:00-06:00`) belongs to the day it begins."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    zone: Annotated[str, Field(max_length=64, description="IANA time zone, such as Asia/Shanghai.")]
    open: Annotated[
        Mapping[str, tuple[str, ...]],
        Field(description="`mon`, `mon-fri`, `sat`, `daily` → list of `HH:MM-HH:MM`."),
    ]
    holidays: Annotated[
        Mapping[str, tuple[str, ...]],
        Field(description="`YYYY-MM-DD`, or `MM-DD` for every year → the hours of that day; [] is closed."),
    ] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """Something to be known of a call. `secret`: in no log, no journal, no webhook; said as digits alone."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    default: Annotated[str, Field(max_length=200)] = ""
    secret: Flag = False
    export: Annotated[
        Flag, Field(description="Handed back to the dialplan at the end, as IVR_<NAME>; never a secret.")
    ] = False
    about: Annotated[str, Field(max_length=200)] = ""


# ---- nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What every node may have."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    label: Annotated[str, Field(max_length=120, description="For people: in diagrams and reports.")] = ""
    allow: Annotated[
        Mapping[Literal["menu-too-deep", "menu-too-wide", "no-person", "prompt-too-long"], Reason],
        Field(description="Rules of the lint that this node may break, each with its reason."),
    ] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Say(Base):
    """Says something and goes on. A key pressed meanwhile ends it, and counts in the next menu."""

    type: Literal["say"]
    prompt: Prompt
    barge_in: Flag = True
    next: Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What a key of a menu stands for."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    label: Short
    to: Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking(Base):
    """What all nodes that wait for keys have in common.

    A timeout or a wrong key asks again, up to `max_timeouts` and `max_failures` in all; then it goes on at
    `on_timeout` or `on_invalid`, or at `on_fail` where they are not said.
    """

    prompt: Prompt
    short: Annotated[Prompt | None, Field(description="Said instead of `prompt` when it asks again.")] = None
    invalid: Annotated[Prompt | None, Field(description="Said after a wrong key.")] = None
    timeout: Annotated[float, Field(strict=True, ge=1, le=60)] = 5.0
    inter_digit_timeout: Annotated[float, Field(strict=True, ge=0.5, le=15)] = 2.0
    max_timeouts: Annotated[int, Field(strict=True, ge=1, le=9)] = 3
    max_failures: Annotated[int, Field(strict=True, ge=1, le=9)] = 3
    on_timeout: Target | None = None
    on_invalid: Target | None = None
    on_fail: Target = HANGUP


@dataclass(frozen=True, slots=True, kw_only=True)
class Menu(Asking):
    """Offers keys. `0` is the tree's `agent`, `*` the menu before, `9` this again, unless they are taken."""

    type: Literal["menu"]
    keys: Annotated[Mapping[Keys, Key], Field(min_length=1, max_length=40)]
    standard_keys: Annotated[Flag, Field(description="False: no 0, * and 9 but those in `keys`.")] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What the digits must be: pass Luhn's check, match a pattern as a whole."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    luhn: Flag = False
    pattern: Annotated[
        str,
        Field(max_length=100, description="Digits, \\d, [0-9], {n}, {n,m}, ?, +, *, | and groups; no code."),
    ] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collect(Asking):
    """Asks for digits into a variable. `*` clears what was typed."""

    type: Literal["collect"]
    variable: VariableName
    min_digits: Annotated[int, Field(strict=True, ge=1, le=32)] = 1
    max_digits: Annotated[int, Field(strict=True, ge=1, le=32)]
    terminator: Annotated[str, Field(pattern=r"^#?$")] = "#"
    check: Check = field(default_factory=Check)
    next: Target


@dataclass(frozen=True, slots=True, kw_only=True)
class HoursCase:
    """By opening hours."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    hours: Name
    is_open: Flag = True
    to: Target


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerCase:
    """By who calls: a list of numbers, or of beginnings that end in `*`."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    caller_in: Name
    to: Target


@dataclass(frozen=True, slots=True, kw_only=True)
class VariableCase:
    """By a variable: exactly one comparison. `less_than` and `more_than` compare numbers."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    variable: VariableName
    equals: str | None = None
    one_of: tuple[str, ...] | None = None
    less_than: Annotated[float | None, Field(strict=True)] = None
    more_than: Annotated[float | None, Field(strict=True)] = None
    is_set: Annotated[bool | None, Field(strict=True)] = None
    to: Target

    def __post_init__(self) -> None:
        said = (self.equals, self.one_of, self.less_than, self.more_than, self.is_set)
        if sum(one is not None for one in said) != 1:
            raise ValueError("needs exactly one of equals, one_of, less_than, more_than, is_set")


def _kind_of_case(value: Any) -> str | None:
    keys: Any = value if isinstance(value, Mapping) else ()
    return next((kind for kind in ("hours", "caller_in", "variable") if kind in keys), None)


Case: TypeAlias = Annotated[
    Annotated[HoursCase, Tag("hours")]
    | Annotated[CallerCase, Tag("caller_in")]
    | Annotated[VariableCase, Tag("variable")],
    Discriminator(_kind_of_case),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition(Base):
    """Goes where the first case that holds says, else to `otherwise`."""

    type: Literal["condition"]
    cases: Annotated[tuple[Case, ...], Field(min_length=1, max_length=40)]
    otherwise: Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Language(Base):
    """Changes the language: to `language`, or by `choices`, each language asking in its own words."""

    type: Literal["language"]
    language: Locale | None = None
    prompt: Prompt | None = None
    choices: Mapping[Keys, Locale] = field(default_factory=dict)
    timeout: Annotated[float, Field(strict=True, ge=1, le=60)] = 5.0
    max_timeouts: Annotated[int, Field(strict=True, ge=1, le=9)] = 1
    next: Target

    def __post_init__(self) -> None:
        if (self.language is None) == (not self.choices):
            raise ValueError("needs either language, or prompt and choices")
        if self.choices and self.prompt is None:
            raise ValueError("needs a prompt that tells the choices")


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook(Base):
    """Asks an app: `send` goes out signed, as JSON; the answer's fields come into variables by `receive`."""

    type: Literal["webhook"]
    url: Annotated[str, Field(max_length=2048)]
    prompt: Annotated[Prompt | None, Field(description="Said while the app is asked.")] = None
    send: Annotated[
        Mapping[Name, Annotated[str, Field(max_length=500)]],
        Field(description="Name → text with {variables}."),
    ] = field(default_factory=dict)
    receive: Annotated[
        Mapping[
            VariableName, Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64}){0,7}$")]
        ],
        Field(description="Variable → where it stands in the answer, such as `order.status`."),
    ] = field(default_factory=dict)
    timeout: Annotated[float, Field(strict=True, ge=0.2, le=10)] = 3.0
    next: Target
    on_error: Annotated[Target | None, Field(description="No answer, no 2xx, or no JSON object.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup(Base):
    """Asks who calls, before the call is answered where it stands first."""

    type: Literal["lookup"]
    receive: Annotated[
        Mapping[VariableName, Name], Field(description="Variable → field of the profile, such as `vip`.")
    ] = field(default_factory=dict)
    language_from: Annotated[Name | None, Field(description="The field that names the language.")] = None
    priority_from: Annotated[
        Name | None, Field(description="The field that holds 0 (last) to 9 (first).")
    ] = None
    timeout: Annotated[float, Field(strict=True, ge=0.1, le=5)] = 1.0
    next: Target
    on_unknown: Annotated[Target | None, Field(description="Nobody by that number; else `next`.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue(Base):
    """Waits for an agent."""

    type: Literal["queue"]
    queue: Name
    prompt: Prompt | None = None
    priority: Annotated[int | None, Field(strict=True, ge=0, le=9)] = None
    max_wait: Annotated[float, Field(strict=True, ge=5, le=7200)] = 600.0
    next: Annotated[Target, Field(description="After an agent has spoken.")] = HANGUP
    on_timeout: Target | None = None
    on_full: Target | None = None
    on_unavailable: Target | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer(Base):
    """Hands the caller over to an extension, or to a number by way of the trunks."""

    type: Literal["transfer"]
    extension: Annotated[str | None, Field(pattern=r"^[0-9A-Za-z*#_-]{1,32}$")] = None
    context: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "default"
    number: PhoneText | None = None
    route: Annotated[Name | None, Field(description="The trunk to go by; else routing decides.")] = None
    prompt: Prompt | None = None
    ring_timeout: Annotated[float, Field(strict=True, ge=5, le=120)] = 30.0
    next: Annotated[Target, Field(description="After the two have spoken.")] = HANGUP
    on_busy: Target | None = None
    on_no_answer: Target | None = None
    on_unavailable: Target | None = None

    def __post_init__(self) -> None:
        if (self.extension is None) == (self.number is None):
            raise ValueError("needs either extension or number")


@dataclass(frozen=True, slots=True, kw_only=True)
class Callback(Base):
    """Books a call-back to the caller, or to `number`."""

    type: Literal["callback"]
    queue: Name
    number: PhoneText = "{caller}"
    prompt: Annotated[Prompt | None, Field(description="Said once it is booked.")] = None
    next: Target
    on_unavailable: Target | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey(Asking):
    """Asks for one figure from `lowest` to `highest` and keeps it under the survey's name."""

    type: Literal["survey"]
    survey: Name
    variable: VariableName
    lowest: Annotated[int, Field(strict=True, ge=0, le=9)] = 1
    highest: Annotated[int, Field(strict=True, ge=0, le=9)] = 5
    next: Target
    on_unavailable: Target | None = None

    def __post_init__(self) -> None:
        if self.lowest >= self.highest:
            raise ValueError("needs a lowest below its highest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record(Base):
    """Records the caller. The recording's id goes into `variable`."""

    type: Literal["record"]
    prompt: Prompt
    variable: VariableName
    max_seconds: Annotated[float, Field(strict=True, ge=2, le=600)] = 60.0
    silence_seconds: Annotated[float, Field(strict=True, ge=1, le=30)] = 3.0
    next: Target
    on_unavailable: Target | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bot(Base):
    """Hands the audio to a voice bot. A placeholder: it goes to `on_unavailable`."""

    type: Literal["bot"]
    url: Annotated[str, Field(max_length=2048)]
    next: Target
    on_unavailable: Target | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Set(Base):
    """Gives variables values: texts with `{variables}` in them."""

    type: Literal["set"]
    values: Annotated[Mapping[VariableName, Annotated[str, Field(max_length=200)]], Field(max_length=40)] = (
        field(default_factory=dict)
    )
    priority: Annotated[int | None, Field(strict=True, ge=0, le=9)] = None
    next: Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Goto(Base):
    """Goes elsewhere in this tree."""

    type: Literal["goto"]
    to: Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Subtree(Base):
    """Runs another tree of the same folder; it comes back by `return`. Variables of one name are shared."""

    type: Literal["subtree"]
    tree: Name
    next: Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Hangup(Base):
    """Ends the call; `result` is what the dialplan reads in TELEPHONY_RESULT."""

    type: Literal["hangup"]
    prompt: Prompt | None = None
    result: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")] = "completed"


Node: TypeAlias = (
    Say
    | Menu
    | Collect
    | Condition
    | Language
    | Webhook
    | Lookup
    | Queue
    | Transfer
    | Callback
    | Survey
    | Record
    | Bot
    | Set
    | Goto
    | Subtree
    | Hangup
)
AnyNode: TypeAlias = Annotated[Node, Field(discriminator="type")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """Who speaks: `brand` is `{brand}` in prompts. How it sounds is the language packs' business."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    brand: Annotated[str, Field(max_length=64)] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """An IVR tree."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    version: Literal[1]
    name: Name
    about: Annotated[str, Field(max_length=500)] = ""
    languages: Annotated[
        tuple[Locale, ...], Field(min_length=1, max_length=20, description="The first one is the default.")
    ]
    voice: Voice = field(default_factory=Voice)
    start: Name
    agent: Annotated[Name | None, Field(description="Where key 0 leads: a way to a person.")] = None
    max_seconds: Annotated[
        int, Field(strict=True, ge=30, le=7200, description="The longest that a call may stay in the tree.")
    ] = 900
    variables: Annotated[Mapping[VariableName, Variable], Field(max_length=100)] = field(default_factory=dict)
    hours: Mapping[Name, Hours] = field(default_factory=dict)
    lists: Annotated[
        Mapping[Name, tuple[Annotated[str, Field(pattern=r"^\+?[0-9]{1,20}\*?$")], ...]],
        Field(description="Lists of callers: numbers, or beginnings that end in `*`."),
    ] = field(default_factory=dict)
    prompts: Annotated[Mapping[Name, Sayings], Field(description="Prompts that several nodes say.")] = field(
        default_factory=dict
    )
    nodes: Annotated[Mapping[Name, AnyNode], Field(min_length=1, max_length=5000)]
