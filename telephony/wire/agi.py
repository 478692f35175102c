"""AGI, the Asterisk Gateway Interface, as a pure state machine: bytes in, messages out.

Written against `res/res_agi.c` of Asterisk 20 to 22. The rules:

1. Asterisk speaks first: lines `agi_NAME: value`, then an empty line. A name that comes twice, a line
   without a colon and a line that is no `agi_` line are refused: any of them is a line break smuggled into
   a value.
2. We send one command, one line, and wait for its reply before the next. Asterisk reads commands through a
   stdio buffer while it polls the socket, so a second line that comes with the first would lie unseen. One
   that comes during a playback (`STREAM FILE`) cuts it short, and the playback is not answered then; one that
   ended just before has its reply with an `endpos`, which the `NOOP` that `interrupt` sends has not.
3. A reply is `200 result=R`, `200 result=R (value)`, `200 result=R (value) endpos=N`, a line of code 510,
   511 or 520, or the usage block from `520-…` to `520 …`. `1xx` lines come before a reply and are dropped.
   A value may hold spaces, parentheses and line breaks: a reply whose parenthesis is open goes on to the
   first line that ends in `)`, so a value with `)` before a line break cannot be told and is a breach.
4. `HANGUP` is a line of its own between replies, once or several times. A command that the hangup cut short
   is answered first (`200 result=-1 …`) and `HANGUP` follows; a command sent after the hangup finds
   `HANGUP` before its own reply. Commands are answered after it too, those that need a living channel with
   511.
5. The end of the stream is not a hangup: it is the PBX, or the way to it, that is gone.
6. A breach of these rules or of `AgiLimits` by the peer raises `RemoteProtocolError` and is final; what we
   must not send raises `LocalProtocolError` and changes nothing.

What it never does: touch a socket or a clock, or send CR, LF or NUL inside a command.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from types import MappingProxyType
from typing import Final, TypeAlias

from telephony.errors import LocalProtocolError, RemoteProtocolError
from telephony.wire.text import LineBuffer, refuse_control


@dataclass(frozen=True, slots=True)
class AgiLimits:
    """What is accepted and sent at most. Sizes are bytes; a line counts without its line feed.

    `max_command_bytes` counts the line feed: Asterisk before August 2025 reads a command into 2048 bytes, the
    last of them a NUL, and cuts what is longer in two; later ones into 8192. `max_command_words` is
    `MAX_ARGS - 1` of `res_agi.c`.
    """

    max_line_bytes: int = 65536
    max_environment_lines: int = 256
    max_environment_bytes: int = 65536
    max_reply_lines: int = 256
    max_reply_bytes: int = 131072
    max_command_bytes: int = 2047
    max_command_words: int = 127


DEFAULT_LIMITS: Final = AgiLimits()


@dataclass(frozen=True, slots=True)
class Environment:
    """What Asterisk tells at the start. `values` maps e.g. `agi_uniqueid` to its value, in the order sent."""

    values: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class AgiReply:
    """The answer to one command.

    For code 200, `result` is the text after `result=` up to the first blank (often a number, -1 for an
    error or a hangup, empty for `GET DATA` without a key), `value` the text in parentheses and `endpos` the
    position in samples where playing or recording stopped. For any other code `result` is empty and `value`
    holds the PBX's own words.
    """

    code: int
    result: str
    value: str | None = None
    endpos: int | None = None


@dataclass(frozen=True, slots=True)
class Hangup:
    """The channel was hung up; the conversation may go on with commands that need no living channel."""


AgiEvent: TypeAlias = Environment | AgiReply | Hangup

_HANGUP: Final = Hangup()
_NEEDS_QUOTES: Final = re.compile(r'[ \t"\\]')
_NOT_PLAIN: Final = re.compile(r'[\t"\\\r\n\0]')
_ESCAPED: Final = re.compile(r'["\\]')
_CODE: Final = re.compile(r"([1-9][0-9]{2})([ -])(.*)", re.DOTALL)
_RESULT: Final = re.compile(r"result=(\S*)(?: +\((.*)\))?(.*)", re.DOTALL)
_PLAIN_REPLY: Final = re.compile(
    rb"200 result=([!-'*-~]*)(?: \(([ -'*-~]*)\))?(?: endpos=(-?[0-9]{1,18}))?\n"
)
"""A whole reply of one line without a riddle in it: it reads the same by `_CODE`, `_RESULT` and `_ENDPOS`."""

_PLAIN_ENVIRONMENT: Final = re.compile(rb"^(agi_[!-9;-~]*): ([ -~]*)\n", re.MULTILINE)
"""A line of the environment in ASCII, one of many."""

_ENDPOS: Final = re.compile(r"\bendpos=(-?[0-9]{1,18})\b")


def _plain_reply(match: re.Match[bytes]) -> AgiReply:
    result, value, endpos = match.groups()
    text = None if value is None else value.decode()
    return AgiReply(200, result.decode(), text, None if endpos is None else int(endpos))


def encode_command(*words: str, limits: AgiLimits = DEFAULT_LIMITS) -> bytes:
    """Return one command line in UTF-8 with its line feed, as `parse_args` of `res_agi.c` takes it apart.

    Each word reaches Asterisk as it stands, so a command of two words is two arguments (`"STREAM", "FILE"`).
    A word is quoted where it is empty or holds a blank, a tab, `"` or a backslash; the last two are escaped.
    Raises `LocalProtocolError` for CR, LF or NUL, for no command at all, and beyond the limits; the message
    never shows an argument.
    """
    if not words or not words[0]:
        raise LocalProtocolError("an AGI command needs a name")
    if len(words) > limits.max_command_words:
        raise LocalProtocolError(f"an AGI command has at most {limits.max_command_words} words")
    line = " ".join(words)
    if "" in words or line.count(" ") >= len(words) or _NOT_PLAIN.search(line):
        line = " ".join([_quote(word) if not word or _NEEDS_QUOTES.search(word) else word for word in words])
        refuse_control(line, "an AGI command")
    try:
        data = line.encode() + b"\n"
    except UnicodeEncodeError:
        raise LocalProtocolError("an AGI command is not encodable as UTF-8") from None
    if len(data) > limits.max_command_bytes:
        raise LocalProtocolError(f"an AGI command is longer than {limits.max_command_bytes} bytes")
    return data


def _quote(word: str) -> str:
    return f'"{_ESCAPED.sub(_backslash, word)}"'


def _backslash(match: re.Match[str]) -> str:
    return f"\\{match.group()}"


class _State(Enum):
    ENVIRONMENT = auto()
    IDLE = auto()
    AWAITING = auto()
    IN_VALUE = auto()
    IN_USAGE = auto()
    ENDED = auto()
    BROKEN = auto()


class AgiProtocol:
    """One AGI conversation, seen from the controller. The rules stand at the head of this file."""

    __slots__ = (
        "_block",
        "_block_bytes",
        "_environment",
        "_hung_up",
        "_interrupts",
        "_limits",
        "_lines",
        "_state",
    )

    def __init__(self, limits: AgiLimits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._lines = LineBuffer(limits.max_line_bytes)
        self._state = _State.ENVIRONMENT
        self._environment: dict[str, str] = {}
        # The lines of a reply that runs over several, and their size.
        self._block: list[str] = []
        self._block_bytes = 0
        self._hung_up = False
        # `NOOP`s that are not answered yet.
        self._interrupts = 0

    @property
    def hung_up(self) -> bool:
        """Whether a `HANGUP` line has come."""
        return self._hung_up

    @property
    def ended(self) -> bool:
        """Whether the stream has ended, lawfully or not."""
        return self._state is _State.ENDED or self._state is _State.BROKEN

    @property
    def awaiting_reply(self) -> bool:
        """Whether a command is in flight."""
        return self._state in (_State.AWAITING, _State.IN_VALUE, _State.IN_USAGE)

    def send_command(self, *words: str) -> bytes:
        """Return the bytes of a command (see `encode_command`) and wait for its reply from now on.

        Raises `LocalProtocolError` before the environment, while a command is in flight, after the end of the
        stream, and for what `encode_command` refuses; nothing changes then.
        """
        if self._state is not _State.IDLE:
            raise LocalProtocolError(_REFUSALS.get(self._state, "an AGI command is in flight already"))
        data = encode_command(*words, limits=self._limits)
        self._state = _State.AWAITING
        return data

    def interrupt(self) -> bytes:
        """Return the bytes that end the playback in flight; its reply is that of a `NOOP`, without `endpos`.

        May be asked for again where no reply comes: the line may lie unseen behind the command. Each is
        answered; a playback that ended by itself is answered before them. Raises `LocalProtocolError` where
        no command is in flight.
        """
        if not self.awaiting_reply:
            raise LocalProtocolError("no AGI command is in flight")
        self._interrupts += 1
        return b"NOOP\n"

    def receive(self, data: bytes) -> list[AgiEvent]:
        """Take bytes in, return what they complete. Raises `RemoteProtocolError`; nothing is taken after it.

        What was complete before the breach is not returned: the conversation is void.
        """
        if self.ended:
            raise RemoteProtocolError("AGI data after the end of the conversation")
        if (
            self._state is _State.AWAITING
            and not self._interrupts
            and not self._lines
            and len(data) <= self._limits.max_line_bytes
        ):
            # Nearly every reply: it came whole, and nothing lies before it.
            plain = _PLAIN_REPLY.fullmatch(data)
            if plain is not None:
                self._state = _State.IDLE
                return [_plain_reply(plain)]
        if (
            self._state is _State.ENVIRONMENT
            and not self._lines
            and len(data) <= self._limits.max_line_bytes
            and data.endswith(b"\n\n")
        ):
            environment = self._take_rest_of_environment(data)
            if environment is not None:
                return [environment]
        events: list[AgiEvent] = []
        try:
            self._lines.feed(data)
            while (line := self._lines.next_line()) is not None:
                event = self._take(line)
                if event is not None:
                    events.append(event)
        except RemoteProtocolError:
            self._state = _State.BROKEN
            raise
        return events

    def receive_eof(self) -> None:
        """Note the end of the stream. What was left of an unfinished line or reply is dropped."""
        if self._state is not _State.BROKEN:
            self._state = _State.ENDED

    def _take(self, raw: bytes) -> AgiEvent | None:
        # Asterisk passes on what it got from the wire, which need not be UTF-8.
        line = raw.decode("utf-8", "replace")
        state = self._state
        if state is _State.ENVIRONMENT:
            return self._take_environment(line, len(raw))
        if state is _State.IN_VALUE or state is _State.IN_USAGE:
            return self._take_block(line, len(raw))
        if line == "HANGUP":
            self._hung_up = True
            return _HANGUP
        if state is not _State.AWAITING:
            raise RemoteProtocolError("an AGI line came that answers no command")
        return self._take_reply(line, len(raw))

    def _take_environment(self, line: str, size: int) -> Environment | None:
        environment = self._environment
        if not line:
            self._state = _State.IDLE
            return Environment(MappingProxyType(environment))
        self._block_bytes += size
        if (
            len(environment) >= self._limits.max_environment_lines
            or self._block_bytes > self._limits.max_environment_bytes
        ):
            raise RemoteProtocolError("the AGI environment is too large")
        name, colon, value = line.partition(":")
        if not colon or not name.startswith("agi_"):
            raise RemoteProtocolError("the AGI environment holds a line that is not `agi_NAME: value`")
        if name in environment:
            raise RemoteProtocolError("the AGI environment holds a name twice")
        environment[name] = value.removeprefix(" ")
        return None

    def _take_rest_of_environment(self, data: bytes) -> Environment | None:
        """Take the end of a plain environment at once; None, and nothing taken, where it is not that.

        What it takes reads the same line by line.
        """
        pairs = _PLAIN_ENVIRONMENT.findall(data.removesuffix(b"\n"))
        values = {name.decode(): value.decode() for name, value in pairs}
        lines, size = len(self._environment) + len(pairs), self._block_bytes + len(data)
        if (
            lines != data.count(b"\n") - 1 + len(self._environment)
            or len(self._environment.keys() | values.keys()) != lines
            or lines > self._limits.max_environment_lines
            or size > self._limits.max_environment_bytes
        ):
            return None
        self._environment |= values
        self._state = _State.IDLE
        return Environment(MappingProxyType(self._environment))

    def _take_reply(self, line: str, size: int) -> AgiReply | None:
        match = _CODE.fullmatch(line)
        if match is None:
            raise RemoteProtocolError("an AGI reply has no code")
        code, separator, text = int(match[1]), match[2], match[3]
        if code < 200:
            return None
        if separator == "-":
            self._open_block(_State.IN_USAGE, line, size)
            return None
        if code == 200:
            return self._take_result(line, text, size)
        self._answered()
        return AgiReply(code, "", text)

    def _answered(self, *, by_playback: bool = False) -> None:
        """A reply is complete; `NOOP`s that were sent to end the command are answered after it."""
        if self._interrupts and not by_playback:
            self._interrupts -= 1
        self._state = _State.AWAITING if self._interrupts else _State.IDLE

    def _take_result(self, line: str, text: str, size: int) -> AgiReply | None:
        match = _RESULT.fullmatch(text)
        if match is None:
            raise RemoteProtocolError("an AGI reply of code 200 has no result")
        result, value, rest = match.groups()
        endpos = None
        if rest:
            if value is None and rest.lstrip(" ").startswith("("):
                self._open_block(_State.IN_VALUE, line, size)
                return None
            position = _ENDPOS.search(rest)
            endpos = int(position[1]) if position else None
        self._answered(by_playback=endpos is not None)
        return AgiReply(200, result, value, endpos)

    def _open_block(self, state: _State, line: str, size: int) -> None:
        self._state = state
        self._block = [line]
        self._block_bytes = size

    def _take_block(self, line: str, size: int) -> AgiReply | None:
        self._block_bytes += size
        if (
            len(self._block) >= self._limits.max_reply_lines
            or self._block_bytes > self._limits.max_reply_bytes
        ):
            raise RemoteProtocolError("an AGI reply is too large")
        self._block.append(line)
        first = self._block[0]
        if self._state is _State.IN_VALUE:
            # The block is joined once, when its parenthesis closes at the end of a line.
            if not line.endswith(")"):
                return None
            text = "\n".join(self._block)[4:]
        elif not line.startswith(f"{first[:3]} "):
            return None
        else:
            text = "\n".join([first[4:], *self._block[1:-1], line[4:]])
        usage = self._state is _State.IN_USAGE
        self._block = []
        if usage:
            self._answered()
            return AgiReply(int(first[:3]), "", text)
        return self._take_result("", text, 0)


_REFUSALS: Final[Mapping[_State, str]] = {
    _State.ENVIRONMENT: "an AGI command came before the environment was read",
    _State.ENDED: "the AGI conversation has ended",
    _State.BROKEN: "the AGI conversation is broken",
}
