"""Bearer keys: drawn long, kept as hashes, found by nothing but themselves."""

from __future__ import annotations

import asyncio
import hmac

import pytest

from telephony.api import keys
from telephony.api.keys import KeyRing, hash_key, new_key
from telephony.settings import KEY_HASH
from tests.unit.api.conftest import BANK, SHOP, HttpClient


def test_a_key_has_256_bits_and_a_hash_that_settings_take() -> None:
    drawn = {new_key() for _ in range(50)}
    assert len(drawn) == 50
    assert all(key.startswith("tk_") and len(key) == 46 for key in drawn)
    assert all(KEY_HASH.fullmatch(hash_key(key)) for key in drawn)


def test_each_client_is_found_by_its_own_key() -> None:
    ring = KeyRing(((hash_key("tk_a"), SHOP), (hash_key("tk_b"), BANK)))
    assert ring.find("Bearer tk_a") is SHOP
    assert ring.find("Bearer tk_b") is BANK
    assert ring.find("Bearer tk_c") is None
    assert ring.find(f"Bearer {hash_key('tk_a')}") is None


async def test_a_key_that_is_no_text_is_nobodys(http: HttpClient) -> None:
    reader, writer = await asyncio.open_connection(http.host, http.port)
    writer.write(b"GET /v1/calls HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n\r\n")
    assert await reader.readline() == b"HTTP/1.1 401 Unauthorized\r\n"
    writer.close()


def test_every_entry_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []

    class Spy:
        @staticmethod
        def compare_digest(given: str, stored: str) -> bool:
            compared.append(stored)
            return hmac.compare_digest(given, stored)

    monkeypatch.setattr(keys, "hmac", Spy)
    ring = KeyRing(((hash_key("tk_a"), SHOP), (hash_key("tk_b"), BANK)))
    assert ring.find("Bearer tk_a") is SHOP
    assert compared == [hash_key("tk_a"), hash_key("tk_b")]
