"""Refusing control characters, and splitting bytes into lines."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telephony.errors import LocalProtocolError, RemoteProtocolError
from telephony.wire.text import LineBuffer, refuse_control


@pytest.mark.parametrize("bad", ["a\rb", "a\nb", "a\0b", "\r\n", "tail\n"])
def test_control_characters_are_refused_without_being_shown(bad: str) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        refuse_control(bad, "the number")
    assert str(caught.value) == "the number must not hold CR, LF or NUL"


@pytest.mark.parametrize("good", ["", "a b\tc", "José ☎", "\x85\u2028"])
def test_everything_else_is_returned_as_it_is(good: str) -> None:
    assert refuse_control(good, "x") == good


def lines_of(chunks: list[bytes], max_line: int = 1000) -> list[bytes]:
    buffer = LineBuffer(max_line)
    lines = []
    for chunk in chunks:
        buffer.feed(chunk)
        while (line := buffer.next_line()) is not None:
            lines.append(line)
    return lines


@given(st.lists(st.sampled_from([b"a", b"\n", b"\r\n", b"\xc3", b"\xa9"])), st.integers(1, 7))
def test_chunks_change_nothing(pieces: list[bytes], size: int) -> None:
    data = b"".join(pieces)
    cut = [data[start : start + size] for start in range(0, len(data), size)]
    assert lines_of(cut) == data.split(b"\n")[:-1]


def test_a_line_may_be_as_long_as_the_bound_and_no_longer() -> None:
    assert lines_of([b"x" * 10 + b"\n"], max_line=10) == [b"x" * 10]
    with pytest.raises(RemoteProtocolError):
        lines_of([b"x" * 11 + b"\n"], max_line=10)
    with pytest.raises(RemoteProtocolError):
        lines_of([b"x" * 11], max_line=10)


def test_what_lies_in_the_buffer_is_counted() -> None:
    buffer = LineBuffer(100)
    buffer.feed(b"one\ntwo")
    assert len(buffer) == 7
    buffer.next_line()
    assert len(buffer) == 3


def seconds_for(size: int) -> float:
    buffer = LineBuffer(size)
    started = time.process_time()
    for _ in range(size // 64):
        buffer.feed(b"x" * 64)
        buffer.next_line()
    return time.process_time() - started


def test_time_is_linear_in_the_bytes() -> None:
    small = min(seconds_for(1 << 20) for _ in range(3))
    assert seconds_for(4 << 20) < 4 * small * 2.5
