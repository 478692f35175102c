"""The documents: OpenAPI 3.1 made from the models, and the same as one page for people.

The page is plain HTML and CSS: it runs no script and fetches nothing. What it never does: describe a
route that is not served; a test holds both against each other.
"""

from __future__ import annotations

import functools
import html
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from telephony import __version__
from telephony.api.problems import KINDS, MEDIA_TYPE
from telephony.api.schemas import (
    Alive,
    Call,
    CallRequest,
    CheckReply,
    CheckRequest,
    Delivery,
    DryRun,
    Empty,
    LimitRequest,
    ListOf,
    Payment,
    PaymentRequest,
    Problem,
    Readiness,
    Trunk,
    TrunkList,
    Verification,
    VerificationRequest,
)
from telephony.model.call import CallStatus, PaymentStatus, VerificationStatus
from telephony.model.delivery import DeliveryStatus

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
        ("invalid-number", "unknown-locale", *_LIMITS, *_ONCE),
        idempotent=True,
    ),
    Operation(
        "get",
        "/v1/verifications",
        "List verifications, newest first",
        ListOf[Verification],
        query=("status", "cursor", "limit"),
    ),
    Operation(
        "get",
        "/v1/verifications/{id}",
        "Read a verification",
        Verification,
        query=("wait", "while"),
        problems=("not-found",),
    ),
    Operation(
        "post",
        "/v1/verifications/{id}/resend",
        "Ring again with the same code",
        Verification,
        body=Empty,
        problems=("not-found", "conflict", "destination-not-allowed", "rate-limited", *_ONCE),
        idempotent=True,
    ),
    Operation(
        "post",
        "/v1/verifications/{id}/check",
        "Check a code that somebody typed",
        CheckReply,
        body=CheckRequest,
        problems=("not-found", "rate-limited"),
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
        "post",
        "/v1/payment-confirmations",
        "Ring a number and have a payment confirmed",
        Payment,
        201,
        PaymentRequest,
        ("dry_run",),
        ("invalid-number", "unknown-locale", "invalid-input", "destination-not-allowed", *_ONCE),
        idempotent=True,
    ),
    Operation(
        "get",
        "/v1/payment-confirmations",
        "List payment confirmations, newest first",
        ListOf[Payment],
        query=("payment_status", "cursor", "limit"),
    ),
    Operation(
        "get",
        "/v1/payment-confirmations/{id}",
        "Read a payment confirmation",
        Payment,
        query=("wait", "payment_while"),
        problems=("not-found",),
    ),
    Operation(
        "post",
        "/v1/payment-confirmations/{id}/cancel",
        "Cancel a payment confirmation and its call",
        Payment,
        body=Empty,
        problems=("not-found", "conflict"),
    ),
    Operation(
        "post",
        "/v1/calls",
        "Ring a number and hold a conversation of your choice",
        Call,
        201,
        CallRequest,
        ("dry_run",),
        ("invalid-number", "unknown-locale", "invalid-input", "destination-not-allowed", *_ONCE),
        idempotent=True,
    ),
    Operation(
        "get",
        "/v1/calls",
        "List calls, newest first",
        ListOf[Call],
        query=("call_status", "cursor", "limit"),
    ),
    Operation(
        "get",
        "/v1/calls/{id}",
        "Read a call with its attempts",
        Call,
        query=("wait", "while"),
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
    Operation(
        "get",
        "/v1/webhook-deliveries",
        "List webhooks, newest first",
        ListOf[Delivery],
        query=("delivery_status", "cursor", "limit"),
    ),
    Operation(
        "post",
        "/v1/webhook-deliveries/{id}/resend",
        "Send a dead webhook again",
        Delivery,
        body=Empty,
        problems=("not-found", "conflict"),
    ),
    Operation("get", "/v1/trunks", "List trunks as they are now, in the configured order", TrunkList),
    Operation("get", "/v1/trunks/{name}", "Read a trunk as it is now", Trunk, problems=("not-found",)),
    Operation(
        "post",
        "/v1/trunks/{name}/drain",
        "Let a trunk take no new call; those that stand go on",
        Trunk,
        body=Empty,
        problems=("not-found", "not-permitted"),
    ),
    Operation(
        "post",
        "/v1/trunks/{name}/resume",
        "Let a trunk take calls again",
        Trunk,
        body=Empty,
        problems=("not-found", "not-permitted"),
    ),
    Operation(
        "post",
        "/v1/trunks/{name}/limit",
        "Let so many calls stand on a trunk, from the next call on",
        Trunk,
        body=LimitRequest,
        problems=("not-found", "not-permitted"),
    ),
    Operation("get", "/healthz", "Whether the process is alive", Alive, open=True),
    Operation(
        "get",
        "/readyz",
        "Whether calls can be placed; 503 says which part is not ready",
        Readiness,
        open=True,
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
    "while": {
        "name": "while",
        "description": "The call's status as last seen: with it no change is missed, without it only one "
        "that comes while waiting is told",
        "schema": {"type": "string", "enum": [status.value for status in CallStatus]},
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
    "payment_while": {
        "name": "while",
        "description": "The payment's status as last seen: waits until it is another; without it a change of "
        "the payment or of its call, while waiting, is told",
        "schema": {"type": "string", "enum": [status.value for status in PaymentStatus]},
    },
    "payment_status": {
        "name": "status",
        "description": "Only those in this state",
        "schema": {"type": "string", "enum": [status.value for status in PaymentStatus]},
    },
    "delivery_status": {
        "name": "status",
        "description": "Only those in this state",
        "schema": {"type": "string", "enum": [status.value for status in DeliveryStatus]},
    },
    "call_status": {
        "name": "status",
        "description": "Only those in this state",
        "schema": {"type": "string", "enum": [status.value for status in CallStatus]},
    },
}


def query_names() -> Mapping[tuple[str, str], tuple[str, ...]]:
    """Which query parameters a route knows, by method and path template."""
    return {
        (operation.method.upper(), operation.path): tuple(
            str(_QUERY[name]["name"]) for name in operation.query
        )
        for operation in OPERATIONS
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
            "summary": "Verification calls, payment confirmations and other outbound calls over Asterisk",
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
    if operation.idempotent:
        replies[str(operation.status)]["headers"] = {"Idempotency-Replayed": _HEADERS["Idempotency-Replayed"]}
    if operation.reply is Readiness:
        replies["503"] = {"description": "Not ready", "content": _content(by_model[Readiness])}
    for kind in _kinds(operation):
        status, title = KINDS[kind]
        known = replies.get(str(status))
        words = f"{title} (`{kind}`)"
        replies[str(status)] = {
            "description": f"{known['description']}; {words}" if known else words,
            "content": _content(by_model[Problem], MEDIA_TYPE),
            **_problem_headers(status),
        }
    for reply in replies.values():
        reply.setdefault("headers", {})["X-Request-Id"] = _HEADERS["X-Request-Id"]
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


_HEADERS: Final[dict[str, dict[str, Any]]] = {
    "X-Request-Id": {
        "description": "The request's id: the one sent, or one made here; the log has it too",
        "schema": {"type": "string"},
    },
    "Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer", "minimum": 1}},
    "WWW-Authenticate": {"description": "`Bearer`", "schema": {"type": "string"}},
    "Idempotency-Replayed": {
        "description": "`true` where this is the stored reply to an earlier request with the same key",
        "schema": {"type": "string", "const": "true"},
    },
}
_HEADERS_OF_STATUS: Final = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}


def _problem_headers(status: int) -> dict[str, Any]:
    name = _HEADERS_OF_STATUS.get(status)
    return {"headers": {name: _HEADERS[name]}} if name else {}


def _kinds(operation: Operation) -> tuple[str, ...]:
    """Every kind of problem an operation can end in: its own, and those of its form."""
    if operation.open:
        return operation.problems
    of_body = (
        "invalid-body",
        "invalid-json",
        "request-timeout",
        "too-large",
        "unsupported-media-type",
        "invalid-input",
    )
    of_query = ("invalid-input",) if operation.query else ()
    kinds = (
        *operation.problems,
        *(of_body if operation.body else ()),
        *of_query,
        "overloaded",
        "store-unavailable",
        "unauthorized",
        "internal-error",
    )
    return tuple(dict.fromkeys(kinds))


def _content(reference: Any, media_type: str = "application/json") -> dict[str, Any]:
    return {media_type: {"schema": reference}}


def _operation_id(operation: Operation) -> str:
    words = [
        word
        for word in operation.path.strip("/").replace(".", "_").split("/")
        if word not in ("v1", "{id}", "{name}")
    ]
    suffix = "_one" if operation.path.endswith("}") else ""
    return f"{operation.method}_{'_'.join(words)}{suffix}"


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    found += [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in ("id", "name")
        if f"{{{name}}}" in operation.path
    ]
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
:root{color-scheme:light dark;--line:#8884;--soft:#8881;--get:light-dark(#0b6bcb,#6cb6ff);
--post:light-dark(#0a7d55,#4fd1a0)}
*{box-sizing:border-box}
body{font:16px/1.55 system-ui,sans-serif;margin:0 auto;max-width:60rem;padding:2rem 1.25rem}
h1{margin:0}h2{margin:2.5rem 0 .5rem;border-bottom:1px solid var(--line);padding-bottom:.25rem}
h3{margin:2rem 0 0;font:600 15px ui-monospace,monospace}h4{margin:1rem 0 0;font-size:.9rem}
details{border:1px solid var(--line);border-radius:.5rem;margin:.6rem 0;padding:.6rem .9rem}
summary{cursor:pointer;display:flex;gap:.75rem;align-items:baseline;flex-wrap:wrap}
summary::after{content:"+";margin-left:auto;opacity:.6}details[open]>summary::after{content:"–"}
code,pre{font:13.5px/1.5 ui-monospace,monospace}
pre{background:var(--soft);padding:.75rem;border-radius:.4rem;overflow:auto}
.method{font-weight:700;text-transform:uppercase;min-width:3.2rem}
.get{color:var(--get)}.post{color:var(--post)}.quiet{opacity:.75}p{margin:.4rem 0}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;margin:.5rem 0}
td,th{text-align:left;vertical-align:top;padding:.35rem .8rem .35rem 0;border-bottom:1px solid var(--line)}
td:first-child{white-space:nowrap}:target{background:#fc03}
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
    parts.append(
        "<h2>Problems</h2><p class=quiet>A problem's <code>type</code> is the address of its row here.</p>"
        "<div class=wide><table><tr><th>type<th>status<th>meaning"
    )
    parts += [
        f"<tr id={kind}><td><code>/docs#{kind}</code><td>{status}<td>{html.escape(title)}"
        for kind, (status, title) in sorted(KINDS.items())
    ]
    parts.append("</table></div></html>")
    return "".join(parts)


def _described(path: str, method: str, operation: dict[str, Any]) -> str:
    rows = [
        (f"<code>{html.escape(one['name'])}</code>", one["in"], _words(one.get("description", "")))
        for one in operation["parameters"]
    ]
    replies = [
        (status, f"{_words(reply['description'])}{_links(reply)}", "")
        for status, reply in sorted(operation["responses"].items())
    ]
    body = _links(operation.get("requestBody", {}))
    return (
        f"<details><summary><span class='method {method}'>{method}</span><code>{html.escape(path)}</code>"
        f"<span class=quiet>{_words(operation['summary'])}</span></summary>"
        + (f"<p>Body:{body}</p>" if body else "")
        + (f"<h4>Parameters</h4>{_table(rows)}" if rows else "")
        + f"<h4>Replies</h4>{_table(replies)}</details>"
    )


def _table(rows: Iterable[tuple[str, str, str]]) -> str:
    """Make a table of cells that are HTML already."""
    lines = "".join(f"<tr>{''.join(f'<td>{cell}' for cell in row)}" for row in rows)
    return f"<div class=wide><table>{lines}</table></div>"


def _words(text: str) -> str:
    """Escape a description; what stands between backticks is code."""
    parts = html.escape(text).split("`")
    return "".join(f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts))


def _links(holder: dict[str, Any]) -> str:
    names = [content["schema"].get("$ref", "") for content in holder.get("content", {}).values()]
    return "".join(f" {_link(name)}" for name in names if name)


def _link(reference: str) -> str:
    name = html.escape(reference.rsplit("/", 1)[-1])
    return f"<a href='#{name}'>{name}</a>"


def _schema(name: str, schema: dict[str, Any]) -> str:
    needed = schema.get("required", ())
    rows = [
        (
            f"<code>{html.escape(field)}</code>",
            _kind(kind) + (", required" if field in needed and "additionalProperties" in schema else ""),
            _words(kind.get("description", "")),
        )
        for field, kind in schema.get("properties", {}).items()
    ]
    values = ", ".join(f"<code>{html.escape(str(one))}</code>" for one in schema.get("enum", ()))
    return (
        f"<h3 id='{html.escape(name)}'>{html.escape(name)}</h3><p class=quiet>"
        f"{_words(schema.get('description', ''))}</p>{_table(rows) if rows else ''}"
        + (f"<p>{values}</p>" if values else "")
    )


def _kind(schema: dict[str, Any]) -> str:
    """Say a JSON schema's type in a few words."""
    if "$ref" in schema:
        return _link(schema["$ref"])
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"])
    if "const" in schema:
        return f"<code>{html.escape(json.dumps(schema['const']))}</code>"
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'])}"
    kind = html.escape(str(schema.get("format") or schema.get("type", "any")))
    if "minimum" in schema:
        kind += f" {schema['minimum']:g}–{schema['maximum']:g}"
    return kind
