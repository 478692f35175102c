"""Steps of the overflow plan, and what the dialplan is given of them."""

from __future__ import annotations

import re

import pytest

from telephony.trunks.dialect import NumberFormat, Trunk
from telephony.trunks.overflow import parse_step, plan_text

TRUNKS = (Trunk("main", "carrier"), Trunk("b", "carrier-b", number_format=NumberFormat.INTERNATIONAL))


def test_the_plan_as_the_dialplan_reads_it() -> None:
    steps = [
        "extension:agents:overload",
        "number:+8613800009999:b",
        "number:110:main:5",
        "tree:call-me",
        "say",
        "say:custom/sorry",
        "busy",
        "congestion",
    ]
    assert plan_text(map(parse_step, steps), TRUNKS) == (
        "extension:agents:overload,number:008613800009999:carrier-b:25,number:110:carrier:5,tree:call-me,"
        "say,say:custom/sorry,busy,congestion"
    )
    assert plan_text((), TRUNKS) == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("queue:support", "write one of extension:CONTEXT:EXTENSION"),
        ("extension:agents", "write extension:CONTEXT:EXTENSION"),
        ("extension:agents:a,b", "write extension"),
        ("extension:${X}:a", "write extension"),
        ("number:+8613800009999", "write number:NUMBER:TRUNK"),
        ("number:+86999:b", "; "),
        ("number:110:main:0", "write number"),
        ("tree:Call", "write tree:NAME"),
        ("say:a&b", "write say"),
        ("busy:17", "write busy"),
        ("", "write one of"),
    ],
)
def test_what_is_no_step(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_step(text)
