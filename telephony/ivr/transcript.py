"""A call as text: what was said, what was pressed, where it went. Made from the journal alone.

So the same conversation gives the same text whoever played the PBX:

    main (menu)
      says en: Welcome. For orders, press 1.
      hears 1
      -> orders (1)
    = queued

Values stand in brackets, secrets as [secret]. What it never does: tell a time or an id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from telephony.ivr.journal import Said, Visit
from telephony.ivr.saying import words_of
from telephony.speech.packs import Packs

PhrasesOf: TypeAlias = Callable[[str], Mapping[str, str]]
"""The phrases of a language pack by locale."""


def phrases_of(packs: Packs) -> PhrasesOf:
    """The phrases that calls say in each language."""
    return lambda locale: packs.pack(packs.locale(locale)).phrases


def visit_lines(visit: Visit, phrases: PhrasesOf, *, top: str) -> Iterable[str]:
    """One node's lines; the tree is named where it is not `top`."""
    node = visit.node if visit.tree == top else f"{visit.tree}/{visit.node}"
    yield f"{node} ({visit.type})"
    for event in visit.events:
        if isinstance(event, Said):
            yield f"  says {event.locale}: {words_of(event.prompt, phrases(event.locale))}"
        else:
            yield f"  hears {event.keys or 'nothing'}"
    if visit.target:
        yield f"  -> {visit.target} ({visit.outcome})"


def transcript(visits: Iterable[Visit], result: str, phrases: PhrasesOf) -> str:
    """A whole call, and how it ended."""
    lines: list[str] = []
    top = ""
    for visit in visits:
        top = top or visit.tree
        lines += visit_lines(visit, phrases, top=top)
    return "\n".join([*lines, f"= {result}"]) + "\n"
