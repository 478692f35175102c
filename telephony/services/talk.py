"""How every conversation of ours is paced: silences around what is said, and what a frozen controller costs.

Numbers are seconds, but for `MAX_REPEATS`. What it never does: say anything.
"""

from __future__ import annotations

from typing import Final

LEAD_IN: Final = 0.3
"""Silence before the first word: the first packets of a fresh RTP stream are often lost."""

TAIL: Final = 0.1
"""Silence after the last word: a PBX may drop the last 20 ms of a file."""

FROZEN_MARGIN: Final = 10.0
"""Silence at most that a controller which froze in mid-call leaves somebody in."""

MAX_REPEATS: Final = 3
"""How often `*` says everything again."""

GREETING_LIMIT: Final = 40.0
"""What a machine's greeting and tone may last before no message is left on it."""

MET_MACHINE: Final = "machine"
MESSAGE_LEFT: Final = "message_left"
"""How an attempt ends that met an answering machine."""
