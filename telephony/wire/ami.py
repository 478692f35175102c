"""AMI, the Asterisk Manager Interface, as a pure state machine: bytes in, messages out.

Written against `main/manager.c` of Asterisk 22, with the old form of command output (before Asterisk 14).
The rules:

1. Asterisk speaks first: one line `Asterisk Call Manager/VERSION`. We send nothing before it.
2. Everything after it is messages: lines `Name: value` that end in CR LF, then an empty line. A lone LF
   belongs to the value it stands in. The first line says what a message is: `Event` or `Response`. Anything
   else is the rest of a value that held an empty line; it is dropped, and so is a line without a colon.
3. An action carries an ActionID that no other unanswered action has. The `Response` with that ActionID is its
   reply; order plays no part. A response that nobody waits for is dropped.
4. A reply with `EventList: start` is held back until an event with its ActionID says `EventList: Complete`
   (or any other `EventList`). Events with its ActionID before that are members: they are handed over with the
   reply and not as events. Members beyond the bounds are dropped and the reply is marked `truncated`.
5. An event with the ActionID of a reply that opened no list is an event like any other: `OriginateResponse`
   comes that way, after the plain reply to its `Originate`.
6. `Response: Follows` is the old form of command output: raw lines after its headers, up to
   `--END COMMAND--`; empty lines may be among them.
7. An abandoned action still takes up its place until its reply and list have come, which are then dropped,
   or until the place is needed.
8. A breach of these rules or of `AmiLimits` by the peer raises `RemoteProtocolError` and is final; messages
   of the same `receive` are lost with it. What we must not send raises `LocalProtocolError`, what is too
   much at once `Overloaded`, and both change nothing.

What it never does: touch a socket or a clock, send CR, LF or NUL inside a header, or send anything twice.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, TypeAlias

from telephony.errors import LocalProtocolError, Overloaded, RemoteProtocolError
from telephony.wire.text import refuse_control

Header: TypeAlias = tuple[str, str]

_END: Final = b"\r\n\r\n"
_END_OF_COMMAND: Final = b"--END COMMAND--"
_FOLLOWS_HEADERS: Final = frozenset({"response", "privilege", "actionid", "message"})
_BANNER: Final = re.compile(rb"Asterisk Call Manager/([0-9]+(?:\.[0-9]+)*)[ \r]*")
# A variable, or a dialplan function that is set like one, such as PJSIP_HEADER(add,X-Name): Asterisk does
# not split the header at a comma inside of brackets.
_VARIABLE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\([A-Za-z0-9_,./~-]*\))?")
_VARIABLE_SPECIAL: Final = re.compile(r'[\\",()\[\]]')
_HEADER_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class AmiLimits:
    """What is accepted and sent at most. Sizes are bytes.

    `max_action_line` counts without CR LF and comes from the 1024 bytes of Asterisk's input buffer,
    `max_action_headers` from `AST_MAX_MANHEADERS`: beyond them Asterisk drops the whole action.
    """

    max_banner: int = 256
    max_message: int = 1 << 20
    max_message_lines: int = 32768
    max_pending: int = 1024
    max_list_events: int = 20000
    max_list_bytes: int = 16 << 20
    max_action_line: int = 1022
    max_action_headers: int = 127


DEFAULT_LIMITS: Final = AmiLimits()


@dataclass(frozen=True, slots=True)
class Banner:
    """The greeting; `version` is that of the protocol, such as `11.0.0`, not that of Asterisk."""

    version: str


class Message:
    """One message of the PBX; it can't be changed. Taken apart when first looked into.

    Names are looked up without regard to case. Text is UTF-8; what is not valid is replaced.
    """

    __slots__ = ("_headers", "_index", "_output", "_raw")

    _raw: bytes
    _headers: tuple[Header, ...] | None
    _index: dict[str, str] | None
    _output: tuple[str, ...]

    def __init__(self, headers: Iterable[Header], output: Iterable[str] = ()) -> None:
        self._raw = b""
        self._headers = tuple(headers)
        self._index = None
        self._output = tuple(output)

    @classmethod
    def parse(cls, block: bytes) -> Message:
        """Make a message of the bytes between two empty lines. Never fails."""
        message = cls.__new__(cls)
        message._raw = block
        message._headers = None
        message._index = None
        return message

    @property
    def headers(self) -> tuple[Header, ...]:
        """Every header in the order sent, repeated ones included, command output not."""
        headers = self._headers
        return self._take_apart() if headers is None else headers

    @property
    def output(self) -> tuple[str, ...]:
        """The lines of a command's output, as they were printed."""
        if self._headers is None:
            self._take_apart()
        return self._output

    @property
    def is_event(self) -> bool:
        """Whether this is an event, not a response."""
        return bool(self.name)

    @property
    def name(self) -> str:
        """The event's name, empty for a response. `OriginateResponse` has a `Response` header too."""
        if self._headers is None:
            if self._raw[:6].lower() != b"event:":
                return ""
            return self._raw[6:].split(b"\r\n", 1)[0].removeprefix(b" ").decode("utf-8", "replace")
        if not self._headers or self._headers[0][0].lower() != "event":
            return ""
        return self._headers[0][1]

    def get(self, name: str, default: str = "") -> str:
        """Return the first header of that name."""
        if self._headers is None and name.isascii() and self._raw[:6].lower() == b"event:":
            return self._find(name.lower().encode(), default)
        index = self._index
        if index is None:
            index = self._index = {key.lower(): value for key, value in reversed(self.headers)}
        return index.get(name.lower(), default)

    def all(self, name: str) -> tuple[str, ...]:
        """Return every header of that name in the order sent, such as `ChanVariable`."""
        wanted = name.lower()
        return tuple(value for key, value in self.headers if key.lower() == wanted)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        return self.headers == other.headers and self.output == other.output

    def __hash__(self) -> int:
        return hash((self.headers, self.output))

    def __repr__(self) -> str:
        kind = f"event {self.name}" if self.is_event else f"response {self.get('Response')}"
        return f"<Message: {kind}, {len(self.headers)} headers>"

    def _find(self, name: bytes, default: str) -> str:
        """Look a header up in the bytes of an event: a few look-ups are cheaper than taking it apart."""
        raw = self._raw
        if name == b"event":
            return self.name
        start = raw.lower().find(b"\r\n" + name + b":")
        if start < 0 or b":" in name:
            return default
        start += len(name) + 3
        end = raw.find(b"\r\n", start)
        value = raw[start:] if end < 0 else raw[start:end]
        return value.removeprefix(b" ").decode("utf-8", "replace")

    def _take_apart(self) -> tuple[Header, ...]:
        lines = self._raw.decode("utf-8", "replace").split("\r\n")
        if _is_follows(self._raw):
            headers, output = _split_follows(lines)
        else:
            headers = [
                (name, value[1:] if value[:1] == " " else value)
                for name, colon, value in [line.partition(":") for line in lines]
                if colon
            ]
            output = []
            if b"\r\nOutput:" in self._raw and not self.is_event:
                output = [value for name, value in headers if name == "Output"]
                headers = [header for header in headers if header[0] != "Output"]
        self._output = tuple(output)
        self._headers = tuple(headers)
        self._raw = b""
        return self._headers


def _is_follows(block: bytes) -> bool:
    return block[:17].lower() == b"response: follows"


def _split_follows(lines: list[str]) -> tuple[list[Header], list[str]]:
    """Take apart the old form: headers end in CR LF, what the command printed in LF."""
    headers: list[Header] = []
    for count, line in enumerate(lines):
        name, colon, value = line.partition(":")
        if not colon or name.lower() not in _FOLLOWS_HEADERS:
            return headers, "\n".join(lines[count:]).split("\n")[:-1]
        headers.append((name, value.removeprefix(" ")))
    return headers, []


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one action, with the members of its event list where it has one.

    `truncated` says that the list had more than `AmiLimits` allow; the rest was dropped.
    """

    action_id: str
    message: Message
    events: tuple[Message, ...] = ()
    truncated: bool = False

    @property
    def ok(self) -> bool:
        """Whether the PBX did not answer "Error"."""
        return self.message.get("Response").lower() != "error"

    @property
    def text(self) -> str:
        """The PBX's own words: its `Message` header."""
        return self.message.get("Message")

    @property
    def output(self) -> tuple[str, ...]:
        """The lines of a command's output."""
        return self.message.output

    def get(self, name: str, default: str = "") -> str:
        """Return the first header of that name of the response itself."""
        return self.message.get(name, default)


AmiItem: TypeAlias = Banner | Message | Reply


def variable_header(name: str, value: str) -> Header:
    """Return the header that gives a channel variable to an `Originate`.

    Asterisk splits the header at commas and takes quotes and backslashes away (`AST_STANDARD_APP_ARGS`), so
    what it would read as punctuation is escaped. Raises `LocalProtocolError` for a name that is none.
    """
    if not _VARIABLE_NAME.fullmatch(name):
        raise LocalProtocolError("a channel variable has a name that is none")
    return "Variable", f"{name}={_VARIABLE_SPECIAL.sub(_backslash, value)}"


def _backslash(match: re.Match[str]) -> str:
    return f"\\{match.group()}"


def challenge_headers() -> tuple[Header, ...]:
    """Headers of the action `Challenge`, whose reply has the header `Challenge`."""
    return (("AuthType", "MD5"),)


def login_headers(
    username: str, secret: str, *, challenge: str | None = None, events: str = "on"
) -> tuple[Header, ...]:
    """Headers of the action `Login`: by MD5 of the challenge, or by the secret itself without one.

    `events` is the event mask: `on`, `off`, or classes as in `manager.conf` (`call,reporting`).
    """
    if challenge is None:
        proof: tuple[Header, ...] = (("Secret", secret),)
    else:
        key = hashlib.md5((challenge + secret).encode(), usedforsecurity=False).hexdigest()
        proof = (("AuthType", "MD5"), ("Key", key))
    return (("Username", username), *proof, ("Events", events))


@dataclass(slots=True)
class _Pending:
    """An action without its full answer yet. `reply` is set while its event list is collected."""

    abandoned: bool = False
    reply: Message | None = None
    events: list[Message] = field(default_factory=list)
    size: int = 0
    truncated: bool = False


class _State(Enum):
    BANNER = auto()
    MESSAGES = auto()
    BROKEN = auto()


class AmiProtocol:
    """One AMI connection, seen from the controller. The rules stand at the head of this file."""

    __slots__ = (
        "_buffer",
        "_collecting",
        "_follows",
        "_follows_size",
        "_id_prefix",
        "_last_id",
        "_limits",
        "_pending",
        "_searched",
        "_state",
    )

    def __init__(self, id_prefix: str = "", limits: AmiLimits = DEFAULT_LIMITS) -> None:
        """`id_prefix` begins every ActionID made here; an unguessable one keeps replies from being forged."""
        self._id_prefix = id_prefix
        self._limits = limits
        self._state = _State.BANNER
        self._buffer = bytearray()
        # Bytes before this offset are known to hold no end of a message.
        self._searched = 0
        self._last_id = 0
        self._pending: dict[str, _Pending] = {}
        self._collecting = 0
        # The blocks so far of command output in the old form, and their size.
        self._follows: list[bytes] = []
        self._follows_size = 0

    @property
    def pending(self) -> int:
        """How many actions take up a place: unanswered ones, and abandoned ones of rule 7."""
        return len(self._pending)

    def send(self, action: str, headers: Iterable[Header] = ()) -> tuple[str, bytes]:
        """Return the ActionID and the bytes of an action; a header may repeat (`Variable`).

        An `ActionID` among `headers` is used, otherwise one is made. Raises `LocalProtocolError` (before the
        banner, for CR, LF, NUL, a bad header name, an ActionID in use, beyond the limits; no message shows a
        value) and `Overloaded` when `max_pending` actions are unanswered.
        """
        if self._state is not _State.MESSAGES:
            raise LocalProtocolError(
                "no AMI action can be sent now: no banner came, or the connection is broken"
            )
        headers = list(headers)
        action_id = next((value for name, value in headers if name.lower() == "actionid"), "")
        if action_id in self._pending:
            raise LocalProtocolError("an AMI action with this ActionID is unanswered already")
        if not action_id:
            self._last_id += 1
            action_id = f"{self._id_prefix}{self._last_id}"
        others = [header for header in headers if header[0].lower() != "actionid"]
        data = self._encode([("Action", action), ("ActionID", action_id), *others])
        self._make_room()
        self._pending[action_id] = _Pending()
        return action_id, data

    def abandon(self, action_id: str) -> None:
        """Nobody waits for this action any more; its reply, if it comes, is dropped."""
        pending = self._pending.get(action_id)
        if pending is not None:
            pending.abandoned = True
            pending.events.clear()

    def receive(self, data: bytes) -> list[AmiItem]:
        """Take bytes as they came and return what they completed. Raises `RemoteProtocolError`."""
        if self._state is _State.BROKEN:
            raise RemoteProtocolError("the AMI connection is broken already")
        try:
            return self._receive(data)
        except RemoteProtocolError:
            self._state = _State.BROKEN
            self._buffer.clear()
            raise

    def _encode(self, headers: list[Header]) -> bytes:
        if len(headers) > self._limits.max_action_headers:
            raise LocalProtocolError(f"an AMI action has at most {self._limits.max_action_headers} headers")
        lines = []
        for name, value in headers:
            if not _HEADER_NAME.fullmatch(name):
                raise LocalProtocolError("an AMI header has a name that is none")
            try:
                line = f"{name}: {refuse_control(value, f'the AMI header {name}')}".encode()
            except UnicodeEncodeError:
                raise LocalProtocolError(f"the AMI header {name} is not encodable as UTF-8") from None
            if len(line) > self._limits.max_action_line:
                raise LocalProtocolError(
                    f"the AMI header {name} is longer than {self._limits.max_action_line} bytes"
                )
            lines.append(line)
        return b"\r\n".join(lines) + _END

    def _make_room(self) -> None:
        if len(self._pending) < self._limits.max_pending:
            return
        oldest = next((key for key, pending in self._pending.items() if pending.abandoned), None)
        if oldest is None:
            raise Overloaded(f"{self._limits.max_pending} AMI actions are unanswered already")
        self._forget(oldest)

    def _forget(self, action_id: str) -> _Pending:
        pending = self._pending.pop(action_id)
        self._collecting -= pending.reply is not None
        return pending

    def _receive(self, data: bytes) -> list[AmiItem]:
        self._buffer += data
        items: list[AmiItem] = []
        if self._state is _State.BANNER:
            banner = self._take_banner()
            if banner is None:
                return items
            items.append(banner)
        limits = self._limits
        for block in self._take_blocks():
            if len(block) > limits.max_message:
                raise RemoteProtocolError(f"an AMI message is longer than {limits.max_message} bytes")
            if self._follows or _is_follows(block):
                self._on_follows(block, items)
                continue
            if block.count(b"\n") >= limits.max_message_lines:
                raise RemoteProtocolError(f"an AMI message has more than {limits.max_message_lines} lines")
            if block[:6].lower() == b"event:":
                message = Message.parse(block)
                if not self._collecting or not self._is_member(message, block, items):
                    items.append(message)
            elif block[:9].lower() == b"response:":
                self._on_response(Message.parse(block), items)
        return items

    def _take_banner(self) -> Banner | None:
        end = self._buffer.find(b"\n", self._searched)
        if end > self._limits.max_banner or (end < 0 and len(self._buffer) > self._limits.max_banner):
            raise RemoteProtocolError("no AMI banner came, but something longer")
        if end < 0:
            self._searched = len(self._buffer)
            return None
        match = _BANNER.fullmatch(bytes(self._buffer[:end]))
        if match is None:
            raise RemoteProtocolError("the peer is no Asterisk manager: its banner is another")
        del self._buffer[: end + 1]
        self._searched = 0
        self._state = _State.MESSAGES
        return Banner(match[1].decode("ascii"))

    def _take_blocks(self) -> list[bytes]:
        """Cut off all complete messages.

        Where CR LF stands three times or five, one is left at an edge of a block, and which edge depends on
        how the bytes came; so one is taken off both edges.
        """
        buffer = self._buffer
        end = buffer.rfind(_END, max(self._searched - 3, 0))
        if end < 0:
            self._searched = len(buffer)
            self._check_rest()
            return []
        complete = bytes(buffer[:end])
        del buffer[: end + len(_END)]
        self._searched = 0
        self._check_rest()
        return [
            block
            for part in complete.split(_END)
            if (block := part.removeprefix(b"\r\n").removesuffix(b"\r\n"))
        ]

    def _check_rest(self) -> None:
        """What is not complete is bounded too, without the CR LF that may have been left at its edge."""
        edge = 2 if self._buffer.startswith(b"\r\n") else 0
        if len(self._buffer) - edge > self._limits.max_message + 2 * len(_END):
            raise RemoteProtocolError(f"an AMI message is longer than {self._limits.max_message} bytes")

    def _on_follows(self, block: bytes, items: list[AmiItem]) -> None:
        self._follows.append(block)
        self._follows_size += len(block) + len(_END)
        if self._follows_size > self._limits.max_message + len(_END):
            raise RemoteProtocolError(f"an AMI message is longer than {self._limits.max_message} bytes")
        if not block.endswith(_END_OF_COMMAND):
            return
        whole = _END.join(self._follows)
        self._follows = []
        self._follows_size = 0
        self._on_response(Message.parse(whole), items)

    def _on_response(self, message: Message, items: list[AmiItem]) -> None:
        action_id = message.get("ActionID")
        pending = self._pending.get(action_id)
        if pending is None or pending.reply is not None:
            return
        if message.get("EventList").lower() == "start":
            pending.reply = message
            self._collecting += 1
            return
        self._forget(action_id)
        if not pending.abandoned:
            items.append(Reply(action_id, message))

    def _is_member(self, message: Message, block: bytes, items: list[AmiItem]) -> bool:
        """Add the event to the list it belongs to, and hand the list over when it ends it."""
        if b"actionid:" not in block.lower():
            return False
        action_id = message.get("ActionID")
        pending = self._pending.get(action_id)
        if pending is None or pending.reply is None:
            return False
        if message.get("EventList"):
            self._forget(action_id)
            if not pending.abandoned:
                events = tuple(pending.events)
                items.append(Reply(action_id, pending.reply, events, pending.truncated))
            return True
        pending.size += len(block)
        if pending.size > self._limits.max_list_bytes or len(pending.events) >= self._limits.max_list_events:
            pending.truncated = True
        elif not pending.abandoned:
            pending.events.append(message)
        return True
