"""Where the PBX keeps what callers say: one folder, each recording under a name that tells nothing.

What it never does: read, move or erase a recording; how long they are kept is for whoever owns the folder.
"""

from __future__ import annotations

from telephony.ivr.ports import CallFacts, Place
from telephony.model.ids import new_id


class PbxRecordings:
    """The `Recordings` port. `folder` is a path as the PBX sees it."""

    def __init__(self, folder: str) -> None:
        self._folder = folder.rstrip("/")

    def place(self, call: CallFacts) -> Place | None:
        """A new place: `<folder>/<id>`, to which Asterisk adds `.wav`."""
        name = new_id("rec")
        return Place(name, f"{self._folder}/{name}")
