"""The AGI machine: environment, replies, hangups and bounds, whatever way the bytes are cut.

What it never does: open a socket. The lines are those that Asterisk 22 sends.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telephony.errors import LocalProtocolError, RemoteProtocolError
from telephony.wire.agi import (
    AgiEvent,
    AgiLimits,
    AgiProtocol,
    AgiReply,
    Environment,
    Hangup,
)

ENVIRONMENT = (
    "agi_network: yes\n"
    "agi_network_script: x/y?a=b\n"
    "agi_request: agi://127.0.0.1:4573/x/y?a=b\n"
    "agi_channel: Local/agi@t-00000000;2\n"
    "agi_uniqueid: 1795516255.1\n"
    "agi_calleridname:  王: Zoë\n"
    "agi_accountcode: \n"
    "agi_arg_1: first arg\n"
    "\n"
).encode()

USAGE = (
    "520-Invalid command syntax.  Proper usage follows:\n"
    "Send the given file.\n"
    "\n"
    "HANGUP\n"
    "520 End of proper usage.\n"
)


def conversing(limits: AgiLimits | None = None) -> AgiProtocol:
    protocol = AgiProtocol(limits) if limits else AgiProtocol()
    protocol.receive(ENVIRONMENT)
    return protocol


def replies_to(text: str, limits: AgiLimits | None = None) -> list[AgiEvent]:
    protocol = conversing(limits)
    protocol.send_command("NOOP")
    return protocol.receive(text.encode())


def fed(protocol: AgiProtocol, pieces: Iterable[bytes]) -> list[AgiEvent]:
    return [event for piece in pieces for event in protocol.receive(piece)]


def test_environment_keeps_order_blanks_and_colons() -> None:
    (event,) = AgiProtocol().receive(ENVIRONMENT)
    assert isinstance(event, Environment)
    assert list(event.values)[:2] == ["agi_network", "agi_network_script"]
    assert event.values["agi_calleridname"] == " 王: Zoë"
    assert event.values["agi_accountcode"] == ""
    assert event.values["agi_request"] == "agi://127.0.0.1:4573/x/y?a=b"


def test_environment_survives_bytes_that_are_no_utf8() -> None:
    (event,) = AgiProtocol().receive(b"agi_calleridname: Zo\xeb\n\n")
    assert isinstance(event, Environment)
    assert event.values["agi_calleridname"] == "Zo�"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"agi_uniqueid: 2\n", "twice"),
        (b"no colon\n", "not `agi_NAME: value`"),
        (b"agi_no colon\n", "not `agi_NAME: value`"),
        (b"nonce: 1\n", "not `agi_NAME: value`"),
        (b"HANGUP\n", "not `agi_NAME: value`"),
    ],
)
def test_environment_refuses_smuggled_lines(line: bytes, words: str) -> None:
    protocol = AgiProtocol()
    protocol.receive(b"agi_uniqueid: 1\n")
    with pytest.raises(RemoteProtocolError, match=words):
        protocol.receive(line)


@pytest.mark.parametrize(
    ("limits", "data"),
    [
        (AgiLimits(max_environment_lines=3), b"agi_a: 1\nagi_b: 1\nagi_c: 1\nagi_d: 1\n"),
        (AgiLimits(max_environment_bytes=20), b"agi_a: 1234\nagi_b: 12345\n"),
        (AgiLimits(max_line_bytes=10), b"agi_a: 1234\n"),
        (AgiLimits(max_line_bytes=10), b"agi_a: 1234"),
    ],
)
def test_environment_is_bounded(limits: AgiLimits, data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        AgiProtocol(limits).receive(data)


def test_environment_is_taken_up_to_its_bounds() -> None:
    limits = AgiLimits(max_environment_lines=2, max_environment_bytes=22, max_line_bytes=11)
    (event,) = AgiProtocol(limits).receive(b"agi_a: 1234\nagi_b: 1234\n\n")
    assert isinstance(event, Environment)
    assert dict(event.values) == {"agi_a": "1234", "agi_b": "1234"}


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("200 result=0", AgiReply(200, "0")),
        ("200 result=-1 endpos=5760", AgiReply(200, "-1", None, 5760)),
        ('200 result=1 (say "hi" (x) \\ end)', AgiReply(200, "1", 'say "hi" (x) \\ end')),
        ("200 result=1 ()", AgiReply(200, "1", "")),
        ("200 result=1 (a) endpos=9)", AgiReply(200, "1", "a) endpos=9")),
        ("200 result=1 (  two  )", AgiReply(200, "1", "  two  ")),
        ("200 result= (timeout)", AgiReply(200, "", "timeout")),
        ("200 result=12*#", AgiReply(200, "12*#")),
        ("200 result=-1 (hangup) endpos=160", AgiReply(200, "-1", "hangup", 160)),
        ("200 result=1 (digit) digit=5 endpos=80", AgiReply(200, "1", "digit", 80)),
        ("200 result=1 (验证码)", AgiReply(200, "1", "验证码")),
        ("510 Invalid or unknown command", AgiReply(510, "", "Invalid or unknown command")),
        (
            "511 Command Not Permitted on a dead channel or intercept routine",
            AgiReply(511, "", "Command Not Permitted on a dead channel or intercept routine"),
        ),
        (
            "520 Invalid command syntax.  Proper usage not available.",
            AgiReply(520, "", "Invalid command syntax.  Proper usage not available."),
        ),
        ("200 result=1 (one\ntwo (2).\nthree)", AgiReply(200, "1", "one\ntwo (2).\nthree")),
        ("200 result=1 (one\nHANGUP\nx)", AgiReply(200, "1", "one\nHANGUP\nx")),
        ("100 Trying...\n100 result=0 Trying\n200 result=0", AgiReply(200, "0")),
    ],
)
def test_reply(line: str, reply: AgiReply) -> None:
    assert replies_to(f"{line}\n") == [reply]


def test_usage_block_is_read_to_its_end() -> None:
    protocol = conversing()
    protocol.send_command("STREAM", "FILE")
    assert fed(protocol, [USAGE.encode() + b"HANGUP\n"]) == [
        AgiReply(
            520,
            "",
            "Invalid command syntax.  Proper usage follows:\nSend the given file.\n\nHANGUP\n"
            "End of proper usage.",
        ),
        Hangup(),
    ]
    assert not protocol.awaiting_reply


@pytest.mark.parametrize("line", ["200", "200 ok", "20 result=0", "result=0", "abc", "", "2000 result=1"])
def test_a_line_that_is_no_reply_is_refused_for_good(line: str) -> None:
    protocol = conversing()
    protocol.send_command("NOOP")
    with pytest.raises(RemoteProtocolError):
        protocol.receive(f"{line}\n".encode())
    assert protocol.ended
    with pytest.raises(RemoteProtocolError):
        protocol.receive(b"200 result=0\n")
    with pytest.raises(LocalProtocolError):
        protocol.send_command("NOOP")


def test_a_reply_that_nobody_asked_for_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="answers no command"):
        conversing().receive(b"200 result=0\n")
    with pytest.raises(RemoteProtocolError, match="answers no command"):
        replies_to("200 result=0\n200 result=0\n")


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        (AgiLimits(max_reply_lines=4), USAGE),
        (AgiLimits(max_reply_bytes=60), USAGE),
        (AgiLimits(max_reply_lines=3), "200 result=1 (a\nb\nc\nd)\n"),
        (AgiLimits(max_reply_bytes=19), "200 result=1 (abc\nabc)\n"),
    ],
)
def test_long_replies_are_bounded(limits: AgiLimits, text: str) -> None:
    with pytest.raises(RemoteProtocolError, match="too large"):
        replies_to(text, limits)


def test_hangup_between_before_and_after_a_reply() -> None:
    protocol = conversing()
    assert protocol.receive(b"HANGUP\n") == [Hangup()]
    assert protocol.hung_up
    protocol.send_command("NOOP")
    assert protocol.receive(b"HANGUP\nHANGUP\n200 result=0\nHANGUP\n") == [
        Hangup(),
        Hangup(),
        AgiReply(200, "0"),
        Hangup(),
    ]
    assert not protocol.ended


def test_one_command_is_in_flight() -> None:
    protocol = AgiProtocol()
    with pytest.raises(LocalProtocolError, match="before the environment"):
        protocol.send_command("NOOP")
    protocol.receive(ENVIRONMENT)
    assert protocol.send_command("NOOP") == b"NOOP\n"
    with pytest.raises(LocalProtocolError, match="in flight"):
        protocol.send_command("NOOP")
    protocol.receive(b"200 result=1 (a\n")
    with pytest.raises(LocalProtocolError, match="in flight"):
        protocol.send_command("NOOP")
    assert protocol.receive(b"b)\n") == [AgiReply(200, "1", "a\nb")]
    assert protocol.send_command("NOOP") == b"NOOP\n"


def test_a_refused_command_leaves_the_machine_as_it_was() -> None:
    protocol = conversing()
    with pytest.raises(LocalProtocolError):
        protocol.send_command("NOOP", "a\nb")
    assert not protocol.awaiting_reply
    assert protocol.send_command("NOOP") == b"NOOP\n"


def test_end_of_stream_is_no_hangup() -> None:
    protocol = conversing()
    protocol.receive_eof()
    assert protocol.ended
    assert not protocol.hung_up
    with pytest.raises(LocalProtocolError, match="ended"):
        protocol.send_command("NOOP")


SCRIPT = (
    ENVIRONMENT,
    b"200 result=1 (a (b) c)\n",
    USAGE.encode(),
    "200 result=1 (验\n证)\nHANGUP\n".encode(),
    b"HANGUP\n511 Command Not Permitted on a dead channel or intercept routine\n",
)


def play(cuts: list[int]) -> list[AgiEvent]:
    """Feed the whole script, each part cut at the offsets that fall into it; a command before each reply."""
    protocol = AgiProtocol()
    events: list[AgiEvent] = []
    offset = 0
    for part in SCRIPT:
        if offset:
            protocol.send_command("NOOP")
        edges = [0, *sorted({cut - offset for cut in cuts if 0 < cut - offset < len(part)}), len(part)]
        events += fed(protocol, [part[start:end] for start, end in pairwise(edges)])
        offset += len(part)
    return events


def test_split_at_every_byte() -> None:
    whole = play([])
    assert len(whole) == 7
    size = sum(map(len, SCRIPT))
    for offset in range(1, size):
        assert play([offset]) == whole
    assert play(list(range(size))) == whole


@given(st.lists(st.integers(1, sum(map(len, SCRIPT)) - 1), max_size=30))
def test_split_anywhere(cuts: list[int]) -> None:
    assert play(cuts) == play([])


_RESULTS = st.sampled_from(["0", "-1", "", "1(2)", "(timeout)", "(a", "é"])
_VALUES = st.sampled_from(["", " (42)", " ()", "  (a b)", " (a (b) c)", " (码)", " (timeout)", " (a"])
_POSITIONS = st.sampled_from(
    ["", " endpos=160", " endpos=-1", " endpos=x", "  endpos=1", " endpos=9" + "9" * 18]
)


@given(_RESULTS, _VALUES, _POSITIONS)
def test_a_reply_that_came_whole_reads_as_one_that_came_in_crumbs(
    result: str, value: str, position: str
) -> None:
    data = f"200 result={result}{value}{position}\n".encode()
    seen = []
    for parts in ([data], [data[:1], data[1:]]):
        protocol = conversing()
        protocol.send_command("NOOP")
        seen.append((fed(protocol, parts), protocol.awaiting_reply))
    assert seen[0] == seen[1]


_ODD_LINES = st.sampled_from(
    [
        b"agi_a: b",
        b"agi_a: c",
        b"agi_b:  agi_c: d",
        b"agi_c:",
        b"agi_d:e",
        b"x agi_e: f",
        b"agi_f: \xc3\xa9",
        b"agi_g: h\r",
        b"agi_: i",
        b" agi_j: k",
        b"",
        b"HANGUP",
        b"agi_l\xff: m",
        b"agi_n: " + b"o" * 40,
    ]
)


@given(st.lists(_ODD_LINES, max_size=6), st.integers(0, 2))
def test_an_environment_that_came_whole_reads_as_one_that_came_in_crumbs(
    lines: list[bytes], before: int
) -> None:
    """Also where some lines came before the rest, and beyond the bounds."""
    limits = AgiLimits(max_environment_lines=4, max_environment_bytes=60, max_line_bytes=45)
    head = b"".join(line + b"\n" for line in lines[:before])
    rest = b"".join(line + b"\n" for line in lines[before:]) + b"\n"
    seen = []
    for parts in ([head, rest], [bytes([byte]) for byte in head + rest]):
        protocol = AgiProtocol(limits)
        events: list[AgiEvent] = []
        try:
            for part in parts:
                events += protocol.receive(part)
        except RemoteProtocolError as error:
            seen.append((str(error), protocol.ended))
        else:
            read = [dict(event.values) if isinstance(event, Environment) else event for event in events]
            seen.append((str(read), protocol.ended))
    assert seen[0] == seen[1]


_LINES = st.one_of(
    st.sampled_from(
        [
            b"200 result=0",
            b"HANGUP",
            b"520-x",
            b"520 x",
            b"agi_a: b",
            b"",
            b"100 Trying",
            b"200 result=1 (a",
            b"b)",
        ]
    ),
    st.binary(max_size=40),
)


@given(st.lists(_LINES, max_size=40))
def test_no_bytes_break_the_parser(lines: list[bytes]) -> None:
    """Whatever comes while a command is in flight, it is events or one `RemoteProtocolError`."""
    protocol = AgiProtocol(AgiLimits(max_line_bytes=64, max_reply_lines=8))
    events = protocol.receive(b"agi_uniqueid: 1\n\n")
    for line in lines:
        if not protocol.awaiting_reply:
            protocol.send_command("NOOP")
        try:
            events += protocol.receive(line + b"\n")
        except RemoteProtocolError:
            assert protocol.ended
            break
    assert all(isinstance(event, Environment | AgiReply | Hangup) for event in events)


@given(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=60))
def test_any_value_on_one_line_comes_back(value: str) -> None:
    assert replies_to(f"200 result=1 ({value})\n") == [AgiReply(200, "1", value)]


def test_a_long_line_costs_linear_work() -> None:
    """A line that comes in crumbs is not searched anew: ten times the bytes, about ten times the work."""

    def cost(size: int) -> float:
        protocol = conversing(AgiLimits(max_line_bytes=10_000_000))
        protocol.send_command("NOOP")
        chunk = b"x" * 64
        started = time.process_time()
        for _ in range(size // 64):
            protocol.receive(chunk)
        return time.process_time() - started

    cost(64_000)
    assert cost(3_200_000) < 40 * max(cost(320_000), 0.005)
