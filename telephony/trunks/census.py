"""The census: the slots that are held, compared with the channels that stand.

Pure. The reconciler counts every few seconds and at each new link to the PBX: `Slots.admit` for each that
is missing, `Slots.release_all` for those that are gone, `Slots.renew` for those that stand, and
`Slots.sweep` for what nobody tends. What it never does: judge another controller's slots, which may stand
on another PBX, or an attempt's: an attempt that ends gives its slot back itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from telephony.model.trunk import SlotKind
from telephony.pbx.port import LiveChannel
from telephony.store.records import SlotRecord
from telephony.trunks.dialect import Trunk

ATTEMPT_PREFIX: Final = "att_"
"""How the ids of attempts begin, and so of the channels that we placed."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A call that stands on a trunk and holds no slot."""

    trunk: str
    holder: str
    kind: SlotKind


@dataclass(frozen=True, slots=True)
class Census:
    """What differs. `standing` are holders of ours that are no attempts, stand, and need a longer lease."""

    missing: tuple[Missing, ...]
    gone: tuple[str, ...]
    standing: tuple[str, ...]

    @property
    def mended(self) -> int:
        """How many slots are wrong."""
        return len(self.missing) + len(self.gone)


def compare(
    live: Sequence[LiveChannel],
    held: Sequence[SlotRecord],
    owner: str,
    *,
    trunks: Mapping[str, str],
    asked_at: int,
    renew_before: int,
    on_its_way: Callable[[str], bool] = lambda _: False,
) -> Census:
    """Compare the channels of one PBX with all slots that are held.

    `trunks` maps endpoints to trunks. `asked_at` is when the channels were asked for, in milliseconds by the
    clock of the slots: what was taken since may stand and not have been seen. A lease that ends by
    `renew_before` needs a longer one. A holder that is `on_its_way` is just being written: nothing is wrong.
    """
    holders = {one.holder for one in held}
    standing = {channel.id for channel in live}
    missing: list[Missing] = []
    for channel in live:
        trunk = trunks.get(endpoint_of(channel.name))
        if trunk is not None and channel.id not in holders and not on_its_way(channel.id):
            ours = channel.id.startswith(ATTEMPT_PREFIX)
            missing.append(Missing(trunk, channel.id, SlotKind.ATTEMPT if ours else SlotKind.FOREIGN))
    mine = [one for one in held if one.owner == owner and one.kind is not SlotKind.ATTEMPT and one.holder]
    return Census(
        tuple(missing),
        tuple(
            one.holder or ""
            for one in mine
            if one.holder not in standing
            and (one.acquired_at or 0) < asked_at
            and not on_its_way(one.holder or "")
        ),
        tuple(
            one.holder or ""
            for one in mine
            if one.holder in standing and (one.lease_until or 0) <= renew_before
        ),
    )


def by_endpoint(trunks: Sequence[Trunk]) -> dict[str, str]:
    """The trunk that has the calls of each endpoint: of several on one endpoint the first."""
    return {trunk.endpoint: trunk.name for trunk in reversed(trunks)}


def endpoint_of(channel_name: str) -> str:
    """The endpoint in an Asterisk channel's name (`PJSIP/carrier-00000012`); empty where there is none."""
    technology, _, rest = channel_name.partition("/")
    return rest.rpartition("-")[0] if technology == "PJSIP" else ""
