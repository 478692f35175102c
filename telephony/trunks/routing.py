"""Which trunk takes a call, and why: the longest matching prefix, then the configured order.

What it never does: dial, or choose in silence: every choice carries its reason.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from telephony.errors import DestinationNotAllowed
from telephony.model.number import PhoneNumber
from telephony.trunks.dialect import Trunk


@dataclass(frozen=True, slots=True)
class Route:
    """A chosen trunk with the reason that is shown on the attempt."""

    trunk: Trunk
    reason: str


class Router:
    """Chooses among the configured trunks."""

    def __init__(self, trunks: Sequence[Trunk]) -> None:
        self._trunks = tuple(trunks)

    def trunk(self, name: str) -> Trunk:
        """Return a trunk by name; raises `DestinationNotAllowed` where it is no longer configured."""
        for trunk in self._trunks:
            if trunk.name == name:
                return trunk
        raise DestinationNotAllowed(f"trunk {name} is not configured")

    def choose(self, number: PhoneNumber, *, but: Collection[str] = ()) -> Route:
        """Return the trunk for a number, none of those named in `but`.

        Raises `DestinationNotAllowed` where none serves it.
        """
        best: Route | None = None
        best_length = -1
        for trunk in self._trunks:
            if trunk.name in but:
                continue
            length = max(
                (len(prefix) for prefix in trunk.prefixes if number.e164.startswith(prefix)), default=-1
            )
            if not trunk.prefixes:
                length = 0
            if length > best_length:
                what = f"prefix {number.e164[:length]}" if length else "serves every prefix"
                best, best_length = Route(trunk, f"{trunk.name} chosen: {what}"), length
        if best is None:
            raise DestinationNotAllowed(f"no trunk serves {number.masked}")
        if but:
            return Route(best.trunk, f"{best.reason}; after {', '.join(sorted(but))}")
        return best
