"""The documents: valid, whole, and true to the routes that are served."""

from __future__ import annotations

import re
from typing import Any

from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from telephony.api.documents import openapi, page
from telephony.api.problems import KINDS
from tests.unit.api.conftest import HttpClient


def operations() -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method.upper(), path): operation
        for path, methods in openapi()["paths"].items()
        for method, operation in methods.items()
    }


def test_the_document_is_openapi() -> None:
    validate(openapi(), cls=OpenAPIV31SpecValidator)


def test_every_route_is_described_and_no_other(http: HttpClient) -> None:
    served = {
        (route.method, route.resource.canonical)
        for route in http.app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    assert served == set(operations())


def test_operations_have_names_of_their_own() -> None:
    names = [operation["operationId"] for operation in operations().values()]
    assert len(set(names)) == len(names)


def test_every_operation_tells_its_problems() -> None:
    for (method, path), operation in operations().items():
        replies = operation["responses"]
        assert all("X-Request-Id" in reply["headers"] for reply in replies.values())
        if not path.startswith("/v1/"):
            assert operation["security"] == []
            continue
        assert {"401", "500", "503"} <= set(replies)
        assert "WWW-Authenticate" in replies["401"]["headers"]
        assert "Retry-After" in replies["503"]["headers"]
        if method == "POST":
            assert {"400", "408", "413", "415", "422"} <= set(replies), path
        for status, reply in replies.items():
            if int(status) >= 400:
                assert "application/problem+json" in reply["content"]


def test_a_code_is_taken_but_never_given() -> None:
    schemas = openapi()["components"]["schemas"]
    assert "code" in schemas["VerificationRequest"]["properties"]
    assert "code" not in schemas["Verification"]["properties"]
    assert schemas["VerificationRequest"]["additionalProperties"] is False
    assert schemas["VerificationRequest"]["required"] == ["to"]


async def test_both_are_served_without_a_key(http: HttpClient) -> None:
    async with http.get("/openapi.json") as reply:
        assert reply.status == 200
        assert await reply.json() == openapi()
    async with http.get("/docs") as reply:
        assert reply.content_type == "text/html"
        assert reply.headers["Content-Security-Policy"].startswith("default-src 'none';")
        assert await reply.text() == page()


def test_the_page_stands_alone_and_has_every_anchor() -> None:
    text = page()
    assert "<script" not in text
    assert not re.search(r"(?:src|href)=['\"]?(?:https?:)?//", text)
    anchors = set(re.findall(r"id='?([\w-]+)'?", text))
    assert set(KINDS) <= anchors
    assert {link[1:] for link in re.findall(r"href='(#[\w-]+)'", text)} <= anchors
