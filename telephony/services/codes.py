"""Codes: made, kept as a keyed hash and sealed, compared in constant time.

The hash (HMAC-SHA256) and the seal (AES-256-GCM) have keys of their own, derived from the master key
(HKDF, RFC 5869); both are bound to the verification's id. What it never does: log, or return a code to
anybody but the flow that speaks it.
"""

from __future__ import annotations

import hmac
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from telephony.errors import StoreError

_NONCE_BYTES = 12


def derive_key(master_key: bytes, purpose: str) -> bytes:
    """Derive 32 bytes for one purpose from the master key."""
    return HKDF(SHA256(), 32, salt=None, info=f"telephony/{purpose}".encode()).derive(master_key)


def make_code(length: int) -> str:
    """Draw a code of decimal digits from the system's random generator (NIST SP 800-63B-4)."""
    return "".join(secrets.choice("0123456789") for _ in range(length))


class CodeBox:
    """Hashes, seals and compares the codes of verifications."""

    def __init__(self, master_key: bytes) -> None:
        self._hash_key = derive_key(master_key, "code-hash")
        self._seal = AESGCM(derive_key(master_key, "code-seal"))

    def hash(self, verification_id: str, code: str) -> str:
        """Return the keyed hash of a code, as hexadecimal."""
        return hmac.digest(self._hash_key, f"{verification_id}:{code}".encode(), "sha256").hex()

    def matches(self, verification_id: str, code: str, stored: str) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(self.hash(verification_id, code), stored)

    def seal(self, verification_id: str, code: str) -> bytes:
        """Encrypt a code so that a resend can say it again."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._seal.encrypt(nonce, code.encode(), verification_id.encode())

    def unseal(self, verification_id: str, sealed: bytes) -> str:
        """Decrypt a code; raises `StoreError` when it was sealed by another key or for another id."""
        nonce, body = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return self._seal.decrypt(nonce, body, verification_id.encode()).decode()
        except InvalidTag as error:
            raise StoreError("a sealed code does not open with this master key") from error
