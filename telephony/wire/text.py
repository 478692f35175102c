"""What every line-based protocol here needs: refusing control characters, and splitting bytes into lines.

What it never does: know a protocol, decode text, or scan a byte twice.
"""

from __future__ import annotations

import re
from typing import Final

from telephony.errors import LocalProtocolError, RemoteProtocolError

_CONTROL: Final = re.compile(r"[\r\n\0]")


def refuse_control(value: str, what: str) -> str:
    """Return `value`; raises `LocalProtocolError` naming `what` (never the value) for CR, LF or NUL in it."""
    if _CONTROL.search(value):
        raise LocalProtocolError(f"{what} must not hold CR, LF or NUL")
    return value


class LineBuffer:
    """Splits a stream into lines that end in LF, in time linear in the bytes fed.

    A line longer than `max_line` bytes (its LF not counted) raises `RemoteProtocolError`.
    """

    __slots__ = ("_buffer", "_max_line", "_searched", "_start")

    def __init__(self, max_line: int) -> None:
        self._max_line = max_line
        self._buffer = bytearray()
        self._start = 0
        # Bytes before this offset are known to hold no LF.
        self._searched = 0

    def __len__(self) -> int:
        return len(self._buffer) - self._start

    def feed(self, data: bytes) -> None:
        """Append bytes as they came from the peer."""
        if self._start:
            del self._buffer[: self._start]
            self._searched -= self._start
            self._start = 0
        self._buffer += data

    def next_line(self) -> bytes | None:
        """Return the next complete line without its LF, or None. Raises `RemoteProtocolError`."""
        end = self._buffer.find(b"\n", self._searched)
        if end < 0:
            self._searched = len(self._buffer)
            if len(self) > self._max_line:
                raise RemoteProtocolError(f"a line is longer than {self._max_line} bytes")
            return None
        if end - self._start > self._max_line:
            raise RemoteProtocolError(f"a line is longer than {self._max_line} bytes")
        line = bytes(self._buffer[self._start : end])
        self._start = self._searched = end + 1
        return line
