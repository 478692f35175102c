"""What the PBX noted of a call's end, and the words of its clock, read back."""

from __future__ import annotations

import pytest

from telephony.model.hangup import Cause, HangupCause
from telephony.pbx.asterisk.backend import _sip_code, _trace_of, started_at_ms
from telephony.pbx.port import Fate, Trace


@pytest.mark.parametrize(
    ("note", "fate", "cause", "rang"),
    [
        ("16:SIP 200 OK:Up", Fate.ANSWERED, HangupCause(Cause.NORMAL, None, 16), True),
        ("17:SIP 486 Busy Here:Down", Fate.NOT_ANSWERED, HangupCause(Cause.BUSY, 486, 17), False),
        ("21:SIP 603 Decline:Ringing", Fate.NOT_ANSWERED, HangupCause(Cause.DECLINED, 603, 21), True),
        ("21:SIP 403 Forbidden:Ringing", Fate.NOT_ANSWERED, HangupCause(Cause.DECLINED, 403, 21), True),
        ("21:SIP 403 Forbidden:Down", Fate.NOT_ANSWERED, HangupCause(Cause.TRUNK_REFUSED, 403, 21), False),
        (
            "34:SIP 503 Service Unavailable:Down",
            Fate.NOT_ANSWERED,
            HangupCause(Cause.CONGESTION, 503, 34),
            False,
        ),
        ("19:SIP 180 Ringing:Ringing", Fate.NOT_ANSWERED, HangupCause(Cause.NO_ANSWER, None, 19), True),
        ("20::Down", Fate.NOT_ANSWERED, HangupCause(Cause.UNREACHABLE, None, 20), False),
    ],
)
def test_a_note_tells_how_a_call_ended(note: str, fate: Fate, cause: HangupCause, rang: bool) -> None:
    assert _trace_of(note) == Trace(fate, cause, rang)


@pytest.mark.parametrize("note", ["", ":", "::", "x:y:z", "failed:0", "answered"])
def test_a_note_of_no_use_is_no_answer_and_no_known_cause(note: str) -> None:
    trace = _trace_of(note)
    assert trace.fate is Fate.NOT_ANSWERED
    assert trace.cause is not None
    assert trace.cause.cause is Cause.UNKNOWN


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("SIP 486 Busy Here", 486),
        ("486", 486),
        ("", None),
        ("SIP", None),
        ("SIP 99 x", None),
        ("SIP 700", None),
    ],
)
def test_a_sip_code_is_found_bare_or_in_its_line(text: str, code: int | None) -> None:
    assert _sip_code(text) == code


NOW = 1_795_521_610_500
"""2026-11-24 12:00:10.5 UTC by our clock."""


@pytest.mark.parametrize(
    ("stamp", "clock"),
    [
        ("2026-11-24 12:00:00", "1795521610.500+0000"),
        ("2026-11-24 20:00:00", "1795521610.500+0800"),
        ("2026-11-24 13:00:00", "1795525210.500+0000"),
        ("2026-11-24 06:00:00", "1795518010.500-0500"),
    ],
    ids=["as ours", "another zone", "an hour ahead", "an hour behind, and another zone"],
)
def test_the_start_of_a_pbx_is_told_by_our_clock_whatever_its_own_says(stamp: str, clock: str) -> None:
    assert started_at_ms(stamp, clock, NOW) == NOW - 10_500


def test_a_start_that_is_no_time_is_not_known() -> None:
    assert started_at_ms("", "", NOW) is None
    assert started_at_ms("2026-11-24 12:00:00", "", NOW) is None
