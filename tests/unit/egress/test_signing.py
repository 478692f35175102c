"""Signatures: the standard's own example, an independent reckoning, and two secrets at once."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from telephony.egress.signing import decode_secret, signed_headers
from telephony.errors import InputError

OLD, NEW, OTHER = b"o" * 24, b"n" * 64, b"x" * 32


def text_of(secret: bytes) -> str:
    return "whsec_" + base64.b64encode(secret).decode()


def test_the_example_of_the_standard() -> None:
    secret = decode_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = signed_headers((secret,), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_reckoned_by_hand() -> None:
    body = '{"name":"微信"}'.encode()
    headers = signed_headers((NEW,), "msg_1", 1_700_000_000, body)
    digest = hmac.new(NEW, b"msg_1.1700000000." + body, hashlib.sha256).digest()
    assert headers == {
        "webhook-id": "msg_1",
        "webhook-timestamp": "1700000000",
        "webhook-signature": "v1," + base64.b64encode(digest).decode(),
    }


def test_while_a_secret_is_changed_either_verifies() -> None:
    headers = signed_headers((NEW, OLD), "msg_1", int(time.time()), b'{"a":1}')
    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in (OLD, NEW):
        assert Webhook(text_of(secret)).verify(b'{"a":1}', headers) == {"a": 1}
    with pytest.raises(WebhookVerificationError):
        Webhook(text_of(OTHER)).verify(b'{"a":1}', headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(text_of(NEW)).verify(b'{"a":2}', headers)


@pytest.mark.parametrize("size", [24, 64])
def test_a_secret(size: int) -> None:
    assert decode_secret(text_of(b"x" * size)) == b"x" * size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "whsec_",
        text_of(b"x" * 23),
        text_of(b"x" * 65),
        text_of(OTHER)[6:],
        text_of(OTHER) + "!",
        "whsec_ü",
    ],
)
def test_what_is_no_secret(text: str) -> None:
    with pytest.raises(InputError) as caught:
        decode_secret(text)
    assert text == "" or text not in str(caught.value).replace("whsec_ and", "")
