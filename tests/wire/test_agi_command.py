"""AGI commands: what is quoted is what Asterisk reads, and what must not be sent is refused.

What it never does: ask Asterisk. `parse_args` here follows the function of that name in `res_agi.c`.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telephony.errors import LocalProtocolError
from telephony.wire.agi import AgiLimits, encode_command


def parse_args(line: bytes) -> list[bytes]:
    """Split a command line as Asterisk does: quotes group, a backslash takes the next character as it is."""
    words: list[bytearray] = []
    quoted = escaped = False
    whitespace = True
    for byte in line.removesuffix(b"\n"):
        character = bytes([byte])
        if character == b'"' and not escaped:
            quoted = not quoted
            if quoted and whitespace:
                words.append(bytearray())
                whitespace = False
        elif character in b" \t" and not quoted and not escaped:
            whitespace = True
        elif character == b"\\" and not escaped:
            escaped = True
        else:
            if whitespace:
                words.append(bytearray())
                whitespace = False
            words[-1] += character
            escaped = False
    return [bytes(word) for word in words]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("NOOP",), b"NOOP\n"),
        (("STREAM", "FILE", "beep", ""), b'STREAM FILE beep ""\n'),
        (("STREAM", "FILE", "a b", "#*"), b'STREAM FILE "a b" #*\n'),
        (("VERBOSE", 'a "b" c', "1"), b'VERBOSE "a \\"b\\" c" 1\n'),
        (("SET", "VARIABLE", "X", "C:\\x"), b'SET VARIABLE X "C:\\\\x"\n'),
        (("SET", "VARIABLE", "X", "a\tb"), b'SET VARIABLE X "a\tb"\n'),
        (("SET", "VARIABLE", "X", "码"), "SET VARIABLE X 码\n".encode()),
    ],
)
def test_encoding(words: tuple[str, ...], line: bytes) -> None:
    assert encode_command(*words) == line


_WORDS = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=30)
_AWKWARD = st.text(st.sampled_from(' "\\\ta'), max_size=12)


@given(st.lists(st.one_of(_WORDS, _AWKWARD), max_size=12))
def test_asterisk_reads_the_same_words(words: list[str]) -> None:
    line = encode_command("VERBOSE", *words)
    assert line.count(b"\n") == 1
    assert parse_args(line) == [b"VERBOSE", *(word.encode() for word in words)]


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "a\0b", "\n", "HANGUP\r\n"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_control_characters_are_refused_and_not_shown(bad: str, place: int) -> None:
    words = ["SET", "4711", "4711"]
    words[place] += bad
    with pytest.raises(LocalProtocolError) as caught:
        encode_command(*words)
    assert "4711" not in str(caught.value)


def test_surrogates_are_refused_and_not_shown() -> None:
    with pytest.raises(LocalProtocolError) as caught:
        encode_command("NOOP", "4711\udc80")
    assert "4711" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("words", [(), ("",), ("", "x")])
def test_a_command_needs_a_name(words: tuple[str, ...]) -> None:
    with pytest.raises(LocalProtocolError):
        encode_command(*words)


def test_length_fits_the_buffer_of_asterisk() -> None:
    assert len(encode_command("NOOP", "x" * 2041)) == 2047
    with pytest.raises(LocalProtocolError, match="2047 bytes"):
        encode_command("NOOP", "x" * 2042)
    with pytest.raises(LocalProtocolError, match="2047 bytes"):
        encode_command("NOOP", "码" * 681)
    assert len(encode_command("NOOP", "x" * 8000, limits=AgiLimits(max_command_bytes=8191))) == 8006


def test_number_of_words_fits_the_array_of_asterisk() -> None:
    assert encode_command(*["x"] * 127)
    with pytest.raises(LocalProtocolError, match="127 words"):
        encode_command(*["x"] * 128)
