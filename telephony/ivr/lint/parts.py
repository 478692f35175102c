"""Single nodes and what they use: webhooks, hours, lists, patterns, variables, secrets, what serves them.

What it never does: resolve a name or send anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from telephony.egress.guard import url_problem
from telephony.errors import AddressRefused
from telephony.ivr.digits import BadPattern, compile_pattern
from telephony.ivr.hours import BadHours, timetable
from telephony.ivr.lint.rules import SILENT_SECONDS, Findings, Rules, prompts_of
from telephony.ivr.saying import BadTemplate, Hole, holes_of, parse_template, sayings_of
from telephony.ivr.source import Path
from telephony.ivr.tree import (
    BUILT_IN,
    Bot,
    Callback,
    CallerCase,
    Collect,
    Condition,
    HoursCase,
    Lookup,
    Node,
    Queue,
    Record,
    Set,
    Survey,
    Transfer,
    Tree,
    VariableCase,
    Webhook,
)

_OUR_OWN: Final = re.compile(
    r"(^|\.)(localhost|local|localdomain|internal|intranet|lan|home|corp)\.?$|^[^.]+$"
)
_SECRET_NAME: Final = re.compile(r"(^|_)(pin|passw\w*|cvv|cvc|card\w*|otp|secret|code|ssn|id_?number)(_|$)")
_HOST: Final = re.compile(r"^[a-z]+://(\[[^\]]*\]|[^/?#:]*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Use:
    """A variable that is read or written. `logged` says where its value would end up, for people."""

    name: str
    path: Path
    written: bool = False
    logged: str = ""


def check_parts(tree: Tree, rules: Rules, found: Findings) -> None:
    """Look at every node by itself."""
    for name, hours in tree.hours.items():
        try:
            timetable(hours)
        except BadHours as error:
            found.error("bad-hours", ("hours", name, *error.where), error.problem, error.mend)
    hours_used: set[str] = set()
    lists_used: set[str] = set()
    for name, node in tree.nodes.items():
        path: Path = ("nodes", name)
        match node:
            case Webhook():
                _webhook(node, path, rules, found)
            case Bot():
                _bot(node, path, found)
            case Collect():
                _collect(node, path, tree, found)
            case Queue() | Callback() | Survey():
                if node.type not in rules.served:
                    problem = f"{name} is served by a stand-in: callers hear that it is not available"
                    mend = "Nothing to mend here" if node.on_unavailable else "Say on_unavailable meanwhile"
                    found.note("stand-in", path, problem, mend)
            case Condition():
                for index, case in enumerate(node.cases):
                    where = (*path, "cases", index)
                    if isinstance(case, HoursCase):
                        hours_used.add(case.hours)
                        if case.hours not in tree.hours:
                            found.unknown("hours", (*where, "hours"), case.hours, tree.hours)
                    elif isinstance(case, CallerCase):
                        lists_used.add(case.caller_in)
                        if case.caller_in not in tree.lists:
                            found.unknown("list", (*where, "caller_in"), case.caller_in, tree.lists)
            case _:
                pass
    for kind, known, used in (("hours", tree.hours, hours_used), ("lists", tree.lists, lists_used)):
        for name in known:
            if name not in used:
                found.warn("unused", (kind, name), f"no condition asks for {name}", "Remove it")
    _variables(tree, found)


# ---- the network


def _webhook(node: Webhook, path: Path, rules: Rules, found: Findings) -> None:
    where = (*path, "url")
    if node.on_error is None:
        mend = "Write on_error: NODE; apps do fail, and a person waits on the line"
        found.error(
            "webhook-no-fallback", path, f"{path[-1]} does not say what comes when the app fails", mend
        )
    if node.timeout > SILENT_SECONDS and node.prompt is None:
        problem = f"up to {node.timeout:g} s of silence"
        mend = f"Say something meanwhile (prompt), or wait {SILENT_SECONDS:g} s at most"
        found.warn("silent-wait", path, problem, mend)
    _address(node.url, "https", "webhook", where, rules, found)


def _bot(node: Bot, path: Path, found: Findings) -> None:
    problem = f"{path[-1]} is not available yet: callers go to on_unavailable at once"
    found.warn("bot-unavailable", path, problem, "Lead callers elsewhere for now")
    if node.on_unavailable is None:
        problem = f"{path[-1]} does not say what comes when the bot is away"
        found.error("bot-no-fallback", path, problem, "Write on_unavailable: NODE")
    if not node.url.lower().startswith("wss://"):
        problem = f"the URL of {path[-1]} is not wss"
        found.error("bot-url", (*path, "url"), problem, "Write it like wss://bot.example.com/call")


def _address(url: str, scheme: str, what: str, path: Path, rules: Rules, found: Findings) -> None:
    problem = url_problem(url)
    if problem is not None:
        words, _, mend = problem.partition("; ")
        found.error(f"{what}-url", path, f"the URL {words}", mend[:1].upper() + mend[1:])
        return
    host_match = _HOST.match(url)
    host = (host_match[1] if host_match else "").lower()
    meant = rules.guard.allows(host)
    if not url.lower().startswith(f"{scheme}://") and not meant:
        mend = f"Write {scheme}://…"
        found.error(f"{what}-not-{scheme}", path, f"the URL is not {scheme}", mend)
    if meant:
        return
    mend = "Use an address of the Internet, or allow it in webhooks.allow_private"
    try:
        rules.guard.admit(url)
    except AddressRefused as error:
        found.error(f"{what}-private", path, str(error).partition(";")[0], mend)
        return
    if _OUR_OWN.search(host):
        found.error(f"{what}-private", path, f"{host} is a name of our own networks", mend)


# ---- digits


def _collect(node: Collect, path: Path, tree: Tree, found: Findings) -> None:
    if node.min_digits > node.max_digits:
        problem = f"min_digits is {node.min_digits}, max_digits {node.max_digits}"
        found.error("bad-length", (*path, "min_digits"), problem, "Make max_digits the greater one")
    try:
        compile_pattern(node.check.pattern)
    except BadPattern as error:
        mend = "Use digits, \\d, [0-9], counts on those, |, and groups that are not repeated"
        found.error("bad-pattern", (*path, "check", "pattern"), str(error), mend)
    variable = tree.variables.get(node.variable)
    if variable is not None and not variable.secret:
        if node.check.luhn:
            problem = f"{node.variable} passes Luhn's check, so it is a card's number, and would be logged"
        elif _SECRET_NAME.search(node.variable):
            problem = f"{node.variable} is called like a secret, and would be logged"
        else:
            return
        mend = f"Write variables: {node.variable}: {{secret: true}}, or call it otherwise"
        found.warn("secret-unmasked", (*path, "variable"), problem, mend)


# ---- variables and secrets


def _variables(tree: Tree, found: Findings) -> None:
    for name, variable in tree.variables.items():
        path: Path = ("variables", name)
        if name in BUILT_IN:
            problem = f"{name} is there by itself"
            found.error("built-in-variable", path, problem, "Call yours otherwise")
        if variable.secret and variable.export:
            problem = f"{name} is a secret, and every listener of the PBX sees what is handed back"
            found.error("secret-exported", (*path, "export"), problem, "Leave out export")
        if variable.secret and variable.default:
            problem = f"{name} is a secret, and stands in this file"
            found.error("secret-in-file", (*path, "default"), problem, "Leave out default")
    used: set[str] = set()
    for name, node in tree.nodes.items():
        for use in _uses(node, ("nodes", name), tree, found):
            used.add(use.name)
            if use.name in BUILT_IN and use.written:
                problem = f"{use.name} can't be written"
                found.error("built-in-variable", use.path, problem, "Use a variable of your own")
            elif use.name not in tree.variables and use.name not in BUILT_IN:
                found.unknown("variable", use.path, use.name, tree.variables)
            elif use.logged and use.name in tree.variables and tree.variables[use.name].secret:
                problem = f"{use.name} is a secret, and would {use.logged}"
                found.error("secret-logged", use.path, problem, "Use it for nothing but a webhook over https")
        used |= _said(node, tree)
    for name, variable in tree.variables.items():
        if name not in used and not variable.export:
            found.warn("unused", ("variables", name), f"nothing uses {name}", "Remove it")


def _said(node: Node, tree: Tree) -> set[str]:
    names: set[str] = set()
    for _, prompt in prompts_of(node):
        for saying in sayings_of(prompt, tree).values():
            try:
                names |= {hole.name for hole in holes_of(saying)}
            except BadTemplate:
                continue
    return names


def _uses(node: Node, path: Path, tree: Tree, found: Findings) -> Iterator[Use]:
    match node:
        case Collect():
            yield Use(node.variable, (*path, "variable"), written=True)
        case Record():
            yield Use(node.variable, (*path, "variable"), written=True)
        case Survey():
            yield Use(node.variable, (*path, "variable"), written=True, logged="be kept in the survey")
        case Lookup():
            for name in node.receive:
                yield Use(name, (*path, "receive", name), written=True)
        case Webhook():
            for name in node.receive:
                yield Use(name, (*path, "receive", name), written=True)
            open_wire = "" if node.url.lower().startswith("https://") else "cross the network unencrypted"
            for name, text in node.send.items():
                yield from _in_text(text, (*path, "send", name), open_wire, found)
        case Set():
            for name, text in node.values.items():
                yield Use(name, (*path, "values", name), written=True)
                target = tree.variables.get(name)
                copied = (
                    "" if target is not None and target.secret else f"be copied into {name}, which is none"
                )
                yield from _in_text(text, (*path, "values", name), copied, found)
        case Transfer() | Callback():
            if node.number is not None:
                yield from _in_text(node.number, (*path, "number"), "stand in call records", found)
        case Condition():
            for index, case in enumerate(node.cases):
                if isinstance(case, VariableCase):
                    fixed = "" if case.is_set is not None else "stand in this file"
                    yield Use(case.variable, (*path, "cases", index, "variable"), logged=fixed)
        case _:
            return


def _in_text(text: str, path: Path, logged: str, found: Findings) -> Iterator[Use]:
    try:
        segments = parse_template(text)
    except BadTemplate as error:
        found.error("bad-placeholder", path, str(error), "Write {name}")
        return
    for segment in segments:
        if isinstance(segment, Hole):
            yield Use(segment.name, path, logged=logged)
            if segment.kind != "text":
                problem = f"{segment.kind} is a way of saying, and this is not said"
                found.error("bad-placeholder", path, problem, f"Write {{{segment.name}}}")
