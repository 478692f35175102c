"""What every request passes before anything is made of it: number, language, machines, Idempotency-Key.

What it never does: know what is asked for.
"""

from __future__ import annotations

from typing import Final, Protocol, TypeVar

from telephony.errors import DestinationNotAllowed, IdempotencyMismatch, InputError, UnknownLocale
from telephony.model.client import Client
from telephony.model.media import Media
from telephony.model.number import PhoneNumber, parse_number
from telephony.model.prompt import Prompt
from telephony.services.contract import Once, StoredReply
from telephony.store import UnitOfWork
from telephony.store.records import Mismatch, Replay

IDEMPOTENCY_MS: Final = 24 * 3600 * 1000

MACHINE_VARIABLE: Final = "machine_detection"
LEAVE_MESSAGE: Final = "leave_message"
MACHINE_CHOICES: Final = ("off", "hang_up", LEAVE_MESSAGE)
"""What an answering machine gets: the same as a person, nothing, or a message that tells no secret."""

T = TypeVar("T")


class Voice(Protocol):
    """What this room needs of `speech`: a canonical locale, and one composed file."""

    def locale(self, tag: str) -> str:
        """Return the pack's own tag; raises `UnknownLocale`."""
        ...

    async def compose(self, prompt: Prompt, locale: str) -> Media:
        """Make one file of a prompt."""
        ...


def number_for(client: Client, text: str) -> PhoneNumber:
    """Read a number that this client may call; raises `InvalidNumber`, `DestinationNotAllowed`."""
    number = parse_number(text, client.default_region)
    if number.region in client.regions or any(number.e164.startswith(one) for one in client.prefixes):
        return number
    raise DestinationNotAllowed(f"{number.masked} is outside the regions and prefixes allowed to you")


def locale_for(client: Client, voice: Voice, tag: str | None) -> str:
    """Return the language of a call: the one wanted or the client's own; raises `UnknownLocale`."""
    locale = voice.locale(tag or client.default_locale)
    if client.locales and locale not in client.locales:
        raise UnknownLocale("locale", f"{locale} is not one of yours", f"Use {', '.join(client.locales)}")
    return locale


def machine_detection_for(wanted: str) -> dict[str, str]:
    """Return what a request's `variables` hold of it: nothing where machines are not to be told.

    Raises `InputError`.
    """
    if wanted not in MACHINE_CHOICES:
        raise InputError("machine_detection", "is not known", f"Send one of {', '.join(MACHINE_CHOICES)}")
    return {} if wanted == "off" else {MACHINE_VARIABLE: wanted}


async def begin_once(work: UnitOfWork, client: Client, once: Once[T] | None, now: int) -> StoredReply | None:
    """Claim the Idempotency-Key in this transaction, or return what was answered before."""
    if once is None:
        return None
    found = await work.idempotency.begin(client.name, once.key, once.fingerprint, now, IDEMPOTENCY_MS)
    if isinstance(found, Replay):
        return StoredReply(found.status, found.body)
    if isinstance(found, Mismatch):
        raise IdempotencyMismatch(
            "Idempotency-Key", "was used for another request", "Use a new key for a new request"
        )
    return None


async def finish_once(work: UnitOfWork, client: Client, once: Once[T] | None, view: T, resource: str) -> None:
    """Keep the reply with the resource: both are there, or neither."""
    if once is not None:
        reply = once.render(view)
        await work.idempotency.finish(
            client.name, once.key, status=reply.status, body=reply.body, resource=resource
        )
