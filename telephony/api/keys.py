"""Who asks: bearer keys, stored as SHA-256 hashes and compared in constant time.

A key is 256 random bits, so a plain hash is enough (nothing to guess). What it never does: keep a key.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable

from telephony.model.client import Client

PREFIX = "tk_"


def new_key() -> str:
    """Draw a key; it is shown once and never stored."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_key(key: str) -> str:
    """Return the hash that the configuration holds.

    Bytes of a header that are no UTF-8 come as lone surrogates, and are hashed as the bytes they were.
    """
    return f"sha256:{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()}"


class KeyRing:
    """The clients by their keys' hashes."""

    def __init__(self, entries: Iterable[tuple[str, Client]]) -> None:
        self._entries = tuple(entries)

    def find(self, authorization: str) -> Client | None:
        """Return the client of an `Authorization` header, None where it is not one's."""
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key:
            return None
        given = hash_key(key.strip())
        found = None
        for stored, client in self._entries:
            if hmac.compare_digest(given, stored):
                found = client
        return found
