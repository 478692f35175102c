"""What the PBX can play: one ready sound file, named without its ending.

What it never does: read or write the file.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Media:
    """A sound ready to be played.

    `name` is the absolute path as the PBX sees it, without an ending; the PBX picks the encoding
    (`.ulaw`, `.alaw`) that the call needs. `seconds` is its length, `marks` are the moments of the prompt's
    marks in it, in seconds.
    """

    name: str
    seconds: float
    marks: tuple[float, ...] = ()
