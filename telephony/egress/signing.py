"""Standard Webhooks 1.0: secrets and signatures (https://www.standardwebhooks.com, "Webhook Signatures").

A signature is `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`; while a secret is being changed
each request carries one per secret, so that a receiver with either accepts it.
What it never does: show a secret.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from standardwebhooks import Webhook

from telephony.errors import InputError

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what every secret begins with
_MEND: Final = "Write whsec_ and the base64 of 24 to 64 random bytes"


def decode_secret(text: str) -> bytes:
    """Return the 24 to 64 bytes of `whsec_` + base64; raises `InputError`, which does not show it."""
    try:
        secret = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if not text.startswith(SECRET_PREFIX) or not 24 <= len(secret) <= 64:
        raise InputError("secret", "is not a webhook secret", _MEND)
    return secret


def signed_headers(
    secrets: Sequence[bytes], message_id: str, timestamp: int, payload: bytes
) -> dict[str, str]:
    """Return the three headers; `timestamp` in seconds since the epoch, newest secret first."""
    moment = datetime.fromtimestamp(timestamp, UTC)
    text = payload.decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(Webhook(secret).sign(message_id, moment, text) for secret in secrets),
    }
