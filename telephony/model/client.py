"""Who asks: one client of ours, as its key says. What it never does: hold the key itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Client:
    """A client: its brand is spoken, its caller number shown, its limits checked before dialling.

    `caller_numbers` are further ones that it may ask to be shown.
    `regions` are ISO 3166-1 alpha-2 codes that may be called, `prefixes` E.164 prefixes (`+86138`);
    a number is allowed when it matches either. `default_region` reads national numbers.
    An `operator` may change what all clients share, such as trunks.
    """

    name: str
    brand: str
    caller_number: str = ""
    default_locale: str = "en"
    locales: tuple[str, ...] = ()
    default_region: str | None = None
    regions: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    caller_numbers: tuple[str, ...] = ()
    operator: bool = False
