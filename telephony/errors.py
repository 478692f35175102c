"""The one error tree. Every failure this project raises on purpose is one of these.

    TelephonyError
    ├── ConfigError                 a setting is missing or wrong: names the key and the mend
    ├── InputError                  a caller of ours sent something unusable: names the field and the mend
    │   ├── InvalidNumber           not a phone number that can be dialled
    │   ├── UnknownLocale           no language pack for it
    │   ├── NotFound                no such resource (or it is another client's)
    │   └── IdempotencyMismatch     an Idempotency-Key that was used for another request
    ├── Refused                     well-formed, but not now or not here
    │   ├── DestinationNotAllowed   outside the allow-listed prefixes
    │   ├── NotPermitted            this client's key does not stretch so far
    │   ├── RateLimited             a budget is used up: says when to come back
    │   ├── Conflict                the resource is in a state that does not allow it
    │   │   └── IdempotencyConflict the first request under this Idempotency-Key is still being answered
    │   └── Overloaded              a queue of ours is full
    ├── WireError                   bytes, not meaning
    │   ├── LocalProtocolError      we were about to send something unlawful (CR, LF or NUL among it)
    │   └── RemoteProtocolError     the peer sent something unlawful, or more than the bounds allow
    ├── PbxError                    the PBX, or the way to it
    │   ├── PbxUnavailable          not connected, or the connection was lost: `sent` says how far it got
    │   ├── PbxTimeout              it did not answer within the deadline
    │   ├── PbxRejected             it answered "no", with its own words
    │   └── PbxAuthError            wrong user or password: final, not retried
    ├── CallEnded                   the far end is gone: raised by every `CallSession` method alike
    ├── SpeechError                 nothing can be said
    │   ├── MissingPrompt           a phrase, digit or recording that a language pack lacks
    │   └── EngineError             the synthesiser failed or is not installed
    ├── StoreError                  what should be on disk is not
    │   ├── StoreUnavailable        locked, full, gone: nothing was written
    │   │   └── StoreCrowded        too many transactions wait for it; it is an `Overloaded` as well
    │   └── StaleFence              somebody else owns this row by now
    ├── EgressError                 somebody else's server, or the way to it
    │   ├── AddressRefused          we don't go there: a private address, an unusable URL; nothing was sent
    │   └── NoAnswer                none within the deadline, or none at all: it may have been received
    └── LabError                    the lab can't be brought up: names what is missing

What it never does: import anything of the project.
"""

from __future__ import annotations


class TelephonyError(Exception):
    """Root of the tree. `str(error)` is fit to be shown to a person and holds no secret."""


class ConfigError(TelephonyError):
    """A setting is missing or wrong.

    `key` is the dotted name as in `telephony.toml`; `mend` says what to write instead.
    """

    def __init__(self, key: str, problem: str, mend: str) -> None:
        super().__init__(f"{key}: {problem}. {mend}")
        self.key = key
        self.problem = problem
        self.mend = mend


class InputError(TelephonyError):
    """A request holds something unusable. `field` names it, `mend` says what would be accepted."""

    def __init__(self, field: str, problem: str, mend: str) -> None:
        super().__init__(f"{field}: {problem}. {mend}")
        self.field = field
        self.problem = problem
        self.mend = mend


class InvalidNumber(InputError):
    """Not a phone number that can be dialled."""


class UnknownLocale(InputError):
    """There is no language pack for this locale."""


class NotFound(InputError):
    """No such resource, or it belongs to another client."""


class IdempotencyMismatch(InputError):
    """The Idempotency-Key was used for another request."""


class Refused(TelephonyError):
    """Well-formed, but not now or not here."""


class DestinationNotAllowed(Refused):
    """The number lies outside the allow-listed prefixes or regions."""


class NotPermitted(Refused):
    """The client's key does not stretch so far."""


class RateLimited(Refused):
    """A budget is used up. `retry_after` is in seconds, None where waiting does not help."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Conflict(Refused):
    """The resource is in a state that does not allow this."""


class IdempotencyConflict(Conflict):
    """The first request under this Idempotency-Key is still being answered."""


class Overloaded(Refused):
    """A bounded queue of ours is full; nothing was taken in."""


class WireError(TelephonyError):
    """Something is wrong with the bytes of a protocol."""


class LocalProtocolError(WireError):
    """We were about to send something unlawful; nothing was sent."""


class RemoteProtocolError(WireError):
    """The peer sent something unlawful, or more than the bounds allow."""


class PbxError(TelephonyError):
    """The PBX, or the way to it, failed."""


class PbxUnavailable(PbxError):
    """Not connected, or the connection was lost.

    `sent` is False when nothing of the request reached the socket, so nothing can have happened;
    True when it may have been carried out and must never be sent again without asking.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class PbxTimeout(PbxError):
    """The PBX did not answer within the deadline; what was asked may still happen."""


class PbxRejected(PbxError):
    """The PBX answered "no"."""


class PbxAuthError(PbxError):
    """The PBX refuses our user or password. Final: not retried until the configuration changes."""


class CallEnded(TelephonyError):
    """The far end is gone. Raised by every method of a `CallSession`, whatever the backend.

    `hung_up` is True when the PBX told us of a hangup, False when the connection to the PBX broke
    and the call itself may still stand.
    """

    def __init__(self, message: str = "the call has ended", *, hung_up: bool = True) -> None:
        super().__init__(message)
        self.hung_up = hung_up


class SpeechError(TelephonyError):
    """Nothing can be said."""


class MissingPrompt(SpeechError):
    """A phrase, digit or recording is missing from a language pack."""


class EngineError(SpeechError):
    """The synthesiser failed, or is not installed."""


class StoreError(TelephonyError):
    """What should be on disk is not."""


class StoreUnavailable(StoreError):
    """Locked, full or gone: nothing was written."""


class StoreCrowded(StoreUnavailable, Overloaded):
    """Too many transactions wait for the store already: whoever bears a failing store bears this."""


class StaleFence(StoreError):
    """Somebody else owns this row by now; the update was not made."""


class EgressError(TelephonyError):
    """Somebody else's server, or the way to it, failed."""


class AddressRefused(EgressError):
    """The URL is unusable or leads to an address that we don't send to. Nothing was sent."""


class NoAnswer(EgressError):
    """There was no answer within the deadline, or none at all; the request may have been received."""


class LabError(TelephonyError):
    """The lab can't be brought up. The message names what is missing and how to get it."""
