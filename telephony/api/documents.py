"""The documents: OpenAPI 3.1 made from the models, and the same as one page for people.

The page is plain HTML and CSS: it runs no script and fetches nothing. What it never does: describe a
route that is not served; a test holds both against each other.
"""

from __future__ import annotations

import functools
import html
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from telephony import __version__
from telephony.api.problems import KINDS, MEDIA_TYPE
from telephony.api.schemas import (
    Call,
    CheckReply,
    CheckRequest,
    DryRun,
    Empty,
    ListOf,
    Problem,
    Verification,
    VerificationRequest,
)
from telephony.model.call import CallStatus, VerificationStatus

REFERENCE: Final = "#/components/schemas/{model}"


@dataclass(frozen=True, slots=True)
class Operation:
    """One route as it is described."""

    method: str
    path: str
    summary: str
    reply: type[BaseModel] | None
    status: int = 200
    body: type[BaseModel] | None = None
    query: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    idempotent: bool = False
    open: bool = False


_LIMITS: Final = ("invalid-input", "destination-not-allowed", "rate-limited")
_UNAVAILABLE: Final = ("store-unavailable",)
_ONCE: Final = ("idempotency-conflict", "idempotency-mismatch")

OPERATIONS: Final = (
    Operation(
        "post",
        "/v1/verifications",
        "Ring a number and speak a code",
        Verification,
        201,
        VerificationRequest,
        ("dry_run",),
        ("invalid-json", "invalid-number", "unknown-locale", *_LIMITS, *_ONCE, *_UNAVAILABLE),
        idempotent=True,
    ),
    Operation(
        "get",
        "/v1/verifications",
        "List verifications, newest first",
        ListOf[Verification],
        query=("status", "cursor", "limit"),
        problems=("invalid-input",),
    ),
    Operation(
        "get",
        "/v1/verifications/{id}",
        "Read a verification",
        Verification,
        query=("wait",),
        problems=("not-found",),
    ),
    Operation(
        "post",
        "/v1/verifications/{id}/resend",
        "Ring again with the same code",
        Verification,
        body=Empty,
        problems=("not-found", "conflict", "rate-limited", *_ONCE, *_UNAVAILABLE),
        idempotent=True,
    ),
    Operation(
        "post",
        "/v1/verifications/{id}/check",
        "Check a code that somebody typed",
        CheckReply,
        body=CheckRequest,
        problems=("not-found", "invalid-input", "rate-limited", *_UNAVAILABLE),
    ),
    Operation(
        "post",
        "/v1/verifications/{id}/cancel",
        "Cancel a verification and its call",
        Verification,
        body=Empty,
        problems=("not-found", "conflict"),
    ),
    Operation(
        "get",
        "/v1/calls",
        "List calls, newest first",
        ListOf[Call],
        query=("call_status", "cursor", "limit"),
        problems=("invalid-input",),
    ),
    Operation(
        "get",
        "/v1/calls/{id}",
        "Read a call with its attempts",
        Call,
        query=("wait",),
        problems=("not-found",),
    ),
    Operation(
        "post",
        "/v1/calls/{id}/cancel",
        "Cancel a call that is not over",
        Call,
        body=Empty,
        problems=("not-found", "conflict"),
    ),
    Operation("get", "/healthz", "Whether the process is alive", None, open=True),
    Operation(
        "get", "/readyz", "Whether calls can be placed; 503 says which part is not ready", None, open=True
    ),
    Operation("get", "/metrics", "Prometheus metrics", None, open=True),
    Operation("get", "/openapi.json", "This description", None, open=True),
    Operation("get", "/docs", "This description for people", None, open=True),
)

_QUERY: Final[dict[str, dict[str, Any]]] = {
    "dry_run": {
        "name": "dry_run",
        "description": "Check everything and choose the route; dial nothing, keep nothing (answers 200)",
        "schema": {"type": "boolean", "default": False},
    },
    "wait": {
        "name": "wait",
        "description": "Wait so many seconds for a change before answering",
        "schema": {"type": "number", "minimum": 0, "maximum": 60, "default": 0},
    },
    "cursor": {
        "name": "cursor",
        "description": "`next_cursor` of the page before",
        "schema": {"type": "string"},
    },
    "limit": {
        "name": "limit",
        "description": "Items a page",
        "schema": {"type": "integer", "minimum": 1, "maximum": 200, "default": 50},
    },
    "status": {
        "name": "status",
        "description": "Only those in this state",
        "schema": {"type": "string", "enum": [status.value for status in VerificationStatus]},
    },
    "call_status": {
        "name": "status",
        "description": "Only those in this state",
        "schema": {"type": "string", "enum": [status.value for status in CallStatus]},
    },
}


def _models() -> Iterable[type[BaseModel]]:
    found: dict[str, type[BaseModel]] = {"Problem": Problem, "DryRun": DryRun}
    for operation in OPERATIONS:
        for model in (operation.reply, operation.body):
            if model is not None:
                found[model.__name__] = model
    return found.values()


@functools.cache
def openapi() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document."""
    inputs: list[tuple[type[BaseModel], Literal["validation", "serialization"]]] = [
        (model, "validation" if model.__name__.endswith("Request") or model is Empty else "serialization")
        for model in _models()
    ]
    references, definitions = models_json_schema(inputs, ref_template=REFERENCE)
    by_model = {model: reference for (model, _mode), reference in references.items()}
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, by_model)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "telephony",
            "version": __version__,
            "summary": "Verification calls over Asterisk",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": definitions.get("$defs", {}),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}],
    }


def _operation(operation: Operation, by_model: dict[Any, Any]) -> dict[str, Any]:
    replies: dict[str, Any] = {str(operation.status): {"description": operation.summary}}
    if operation.reply is not None:
        replies[str(operation.status)]["content"] = _content(by_model[operation.reply])
    if "dry_run" in operation.query:
        replies["200"] = {"description": "The dry run's verdict", "content": _content(by_model[DryRun])}
    kinds = operation.problems if operation.open else (*operation.problems, "unauthorized")
    for kind in kinds:
        status, title = KINDS[kind]
        known = replies.get(str(status))
        words = f"{title} (`{kind}`)"
        replies[str(status)] = {
            "description": f"{known['description']}; {words}" if known else words,
            "content": _content(by_model[Problem], MEDIA_TYPE),
        }
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": _operation_id(operation),
        "parameters": _parameters(operation),
        "responses": replies,
    }
    if operation.open:
        described["security"] = []
    if operation.body is not None:
        described["requestBody"] = {
            "required": operation.body is not Empty,
            "content": _content(by_model[operation.body]),
        }
    return described


def _content(reference: Any, media_type: str = "application/json") -> dict[str, Any]:
    return {media_type: {"schema": reference}}


def _operation_id(operation: Operation) -> str:
    words = [
        word for word in operation.path.strip("/").replace(".", "_").split("/") if word not in ("v1", "{id}")
    ]
    suffix = "_one" if operation.path.endswith("{id}") else ""
    return f"{operation.method}_{'_'.join(words)}{suffix}"


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if "{id}" in operation.path:
        found.append({"name": "id", "in": "path", "required": True, "schema": {"type": "string"}})
    found += [{"in": "query", "required": False, **_QUERY[name]} for name in operation.query]
    if operation.idempotent:
        found.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "description": "The same key and body: carried out once, answered alike for 24 h",
                "schema": {"type": "string", "minLength": 1, "maxLength": 255},
            }
        )
    return found


_STYLE: Final = """
:root{color-scheme:light dark;--line:#8884;--soft:#8881;--accent:#0a7d55}
*{box-sizing:border-box}
body{font:16px/1.55 system-ui,sans-serif;margin:0 auto;max-width:60rem;padding:2rem 1.25rem}
h1{margin:0}h2{margin:2.5rem 0 .5rem;border-bottom:1px solid var(--line);padding-bottom:.25rem}
details{border:1px solid var(--line);border-radius:.5rem;margin:.6rem 0;padding:.6rem .9rem}
summary{cursor:pointer;display:flex;gap:.75rem;align-items:baseline;flex-wrap:wrap}
code,pre{font:13.5px/1.5 ui-monospace,monospace}
pre{background:var(--soft);padding:.75rem;border-radius:.4rem;overflow:auto}
.method{font-weight:700;text-transform:uppercase;color:var(--accent);min-width:3.2rem}.quiet{opacity:.75}
table{border-collapse:collapse;width:100%;margin:.5rem 0}td,th{text-align:left;vertical-align:top;
padding:.3rem .6rem .3rem 0;border-bottom:1px solid var(--line)}
"""


_HEAD: Final = """<!doctype html><html lang=en><meta charset=utf-8>
<meta name=viewport content="width=device-width,initial-scale=1"><title>telephony API</title>
<style>{style}</style><h1>telephony API</h1>
<p class=quiet>Version {version} · <a href=/openapi.json>openapi.json</a></p>
<p>Send <code>Authorization: Bearer KEY</code>. Bodies are JSON; a field that is not listed is refused.
Times are RFC 3339, UTC. Errors are <code>application/problem+json</code> (RFC 9457).</p>
<pre>curl -s $URL/v1/verifications -H 'Authorization: Bearer KEY' \\
  -H 'Content-Type: application/json' -d '{{"to": "+8613800000000"}}'</pre><h2>Requests</h2>
"""


@functools.cache
def page() -> str:
    """Return the page."""
    document = openapi()
    parts = [_HEAD.format(style=_STYLE, version=html.escape(__version__))]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(_described(path, method, operation))
    parts.append("<h2>Values</h2>")
    parts += [_schema(name, schema) for name, schema in document["components"]["schemas"].items()]
    parts.append("<h2>Problems</h2><table><tr><th>type<th>status<th>meaning")
    parts += [
        f"<tr id={kind}><td><code>/docs#{kind}</code><td>{status}<td>{html.escape(title)}"
        for kind, (status, title) in sorted(KINDS.items())
    ]
    parts.append("</table></html>")
    return "".join(parts)


def _described(path: str, method: str, operation: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{html.escape(one['name'])}</code><td>{one['in']}<td>"
        f"{html.escape(one.get('description', ''))}"
        for one in operation["parameters"]
    )
    replies = "".join(
        f"<tr><td>{status}<td>{html.escape(reply['description'])}{_links(reply)}"
        for status, reply in sorted(operation["responses"].items())
    )
    body = _links(operation.get("requestBody", {}))
    return (
        f"<details><summary><span class=method>{method}</span><code>{html.escape(path)}</code>"
        f"<span class=quiet>{html.escape(operation['summary'])}</span></summary>"
        + (f"<p>Body:{body}</p>" if body else "")
        + (f"<table>{rows}</table>" if rows else "")
        + f"<table>{replies}</table></details>"
    )


def _links(holder: dict[str, Any]) -> str:
    found = []
    for content in holder.get("content", {}).values():
        name = content["schema"].get("$ref", "").rsplit("/", 1)[-1]
        if name:
            found.append(f" <a href='#{html.escape(name)}'>{html.escape(name)}</a>")
    return "".join(found)


def _schema(name: str, schema: dict[str, Any]) -> str:
    shown = html.escape(json.dumps(schema, indent=2, ensure_ascii=False))
    words = html.escape(schema.get("description", ""))
    return (
        f"<details id='{html.escape(name)}'><summary><code>{html.escape(name)}</code>"
        f"<span class=quiet>{words}</span></summary><pre>{shown}</pre></details>"
    )
