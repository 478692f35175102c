"""A tree as a plain Asterisk dialplan, for the day on which nothing of ours answers.

Menus, words, hours, lists of callers, languages, queues, transfers and hangups work there as they do here
(`*` leads to the menu above by the shortest way). What needs us takes its fallback: webhooks, lookups, bots,
surveys, recordings, call-backs, digits to be collected. `notes` say where.

Every text that reaches the dialplan is a name, a number or a key that the format has checked; the words of
prompts are in sound files beside it. The tree's variables are IVR_<NAME>, our own IVR__<NAME>, which no
variable can be called; TELEPHONY_TRUNK is the endpoint for numbers without a route. What it never does:
write a file, or put a value of a call into an expression unfiltered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from telephony.ivr.compiled_hours import hours_lines
from telephony.ivr.edges import edges_of, standard_keys
from telephony.ivr.interpreter import WITH_A_PERSON
from telephony.ivr.saying import holes_of, render, sayings_of
from telephony.ivr.tree import (
    BACK,
    HANGUP,
    REPEAT,
    RETURN,
    Callback,
    CallerCase,
    Case,
    Condition,
    Goto,
    Hangup,
    HoursCase,
    Language,
    Menu,
    Node,
    Prompt,
    Queue,
    Say,
    Set,
    Transfer,
    Tree,
    VariableCase,
)
from telephony.model import prompt as said

_BUILT_IN_SOUNDS: Final = ("ivr.invalid", "ivr.unavailable", "common.goodbye")
_TERMINATOR: Final = "A"
"""A key that no telephone has: all others are read as they are."""

_READABLE: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .:+@/-_")


@dataclass(frozen=True, slots=True)
class Sound:
    """A sound file that the dialplan plays: `<language>/<name>`, without an ending."""

    language: str
    name: str
    prompt: said.Prompt

    @property
    def path(self) -> str:
        """Where it goes, below the folder of the tree's sounds."""
        return f"{self.language}/{self.name}"


@dataclass(frozen=True, slots=True)
class Compiled:
    """A dialplan, the sounds that it plays, and what it does otherwise than the tree."""

    context: str
    text: str
    sounds: tuple[Sound, ...]
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Writer:
    """Extensions as they are written, and what was noticed on the way."""

    tree: Tree
    parents: Mapping[str, str]
    lines: list[str] = field(default_factory=list)
    sounds: dict[str, Sound] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def begin(self, extension: str, first: str) -> None:
        """A new extension with its first step."""
        self.lines += ["", f"exten => {extension},1,{first}"]

    def step(self, application: str, label: str = "") -> None:
        """One more step."""
        self.lines.append(f" same => n{f'({label})' if label else ''},{application}")

    def note(self, node: str, words: str) -> None:
        """Something that the dialplan does otherwise."""
        self.notes.append(f"{node}: {words}")

    def play(self, node: str, name: str, prompt: Prompt | None) -> bool:
        """Say a prompt; False where it holds values, which a sound file can't."""
        sound = self.sound(node, name, prompt)
        if sound:
            self.step(f"Playback({_path(sound)})")
        return bool(sound)

    def sound(self, node: str, name: str, prompt: Prompt | None, language: str = "") -> str:
        """The name of a prompt's sound; empty where there is none."""
        sayings = sayings_of(prompt, self.tree) if prompt is not None else {}
        if any(hole.name != "brand" for saying in sayings.values() for hole in holes_of(saying)):
            self.note(node, f"{name} holds values, and is not said")
            return ""
        wanted = (language,) if language else self.tree.languages
        key = f"{node}.{name}"
        made = [
            Sound(tag, key, words)
            for tag in wanted
            if tag in sayings and (words := render(sayings[tag], {"brand": self.tree.voice.brand}, tag)).parts
        ]
        if len(made) < len(wanted):
            return ""
        self.sounds |= {sound.path: sound for sound in made}
        return key

    def go(self, node: str, target: str) -> str:
        """The arguments of a `Goto` that leads to a target."""
        if target == REPEAT:
            target = node
        elif target == BACK:
            target = self.parents.get(node, node if isinstance(self.tree.nodes[node], Menu) else HANGUP)
        return "end,1" if target in (HANGUP, RETURN) else f"{extension_of(target)},1"


def context_of(tree: str) -> str:
    """A tree's context: where telephony.conf looks for it when the controller is away."""
    return f"telephony-ivr-{tree}"


def extension_of(node: str) -> str:
    """A node's extension: Asterisk takes dashes in extensions for nothing, and some names for its own."""
    return f"node_{node.replace('-', '.')}"


def _path(sound: str) -> str:
    return f"${{IVR__SOUNDS}}/${{IVR__LANG}}/{sound}"


def compile_tree(tree: Tree, sounds_folder: str) -> Compiled:
    """Write a dialplan. `sounds_folder` is where the PBX will find the sounds, as an absolute path."""
    writer = _Writer(tree, _parents(tree))
    context = context_of(tree.name)
    for phrase in _BUILT_IN_SOUNDS:
        for tag in tree.languages:
            sound = Sound(tag, phrase, said.Prompt((said.Phrase(phrase),)))
            writer.sounds[sound.path] = sound
    writer.begin("s", "Answer()")
    writer.step(f"Set(TIMEOUT(absolute)={tree.max_seconds})")
    writer.step(f"Set(IVR__SOUNDS={sounds_folder.rstrip('/')})")
    writer.step(f"Set(IVR__LANG={tree.languages[0]})")
    writer.step("Set(IVR__CALLER=${FILTER(0-9,${CALLERID(num)})})")
    writer.step("Set(IVR__CALLED=${FILTER(0-9,${CALLERID(dnid)})})")
    for name, variable in tree.variables.items():
        if not variable.secret and variable.default and _plain(variable.default):
            writer.step(f"Set(IVR_{name.upper()}={variable.default})")
    writer.step(f"Goto({extension_of(tree.start)},1)")
    for name, node in tree.nodes.items():
        _node(name, node, writer)
    writer.begin("end", 'ExecIf($["${TELEPHONY_RESULT}" = ""]?Set(TELEPHONY_RESULT=completed))')
    # Who came here by a Gosub of telephony-ivr goes on behind it.
    writer.step('ExecIf($["${TELEPHONY_RETURN}" = "1"]?Return())')
    writer.step("Hangup()")
    writer.begin("unavailable", f"Playback({_path('ivr.unavailable')})")
    writer.step(f"Playback({_path('common.goodbye')})")
    writer.step("Set(TELEPHONY_RESULT=unavailable)")
    writer.step("Goto(end,1)")
    writer.begin("T", "Hangup()")
    head = [
        f"; {tree.name}: made by `telephony ivr compile`; changes belong into its tree.",
        f"; Enter at {context},s,1. Sounds are looked for in {sounds_folder}.",
        f"[{context}]",
    ]
    hours = ["", f"[{context}-hours]"] if tree.hours else []
    for name, opening in tree.hours.items():
        hours += ["", *hours_lines(extension_of(name), opening)]
    text = "\n".join([*head, *writer.lines[1:], *hours]) + "\n"
    return Compiled(context, text, tuple(writer.sounds.values()), tuple(dict.fromkeys(writer.notes)))


def _parents(tree: Tree) -> dict[str, str]:
    """The menu above each node, by the shortest way from the start."""
    parents: dict[str, str] = {}
    seen = {tree.start}
    waiting = deque([(tree.start, "")])
    while waiting:
        name, menu = waiting.popleft()
        node = tree.nodes[name]
        if menu:
            parents[name] = menu
        below = name if isinstance(node, Menu) else menu
        for edge in edges_of(node, tree):
            if edge.target in tree.nodes and edge.target not in seen:
                seen.add(edge.target)
                waiting.append((edge.target, below))
    return parents


def _node(name: str, node: Node, writer: _Writer) -> None:
    writer.begin(extension_of(name), f"NoOp({node.type} {name})")
    match node:
        case Say():
            writer.play(name, "prompt", node.prompt)
            writer.step(f"Goto({writer.go(name, node.next)})")
        case Menu():
            _menu(name, node, writer)
        case Condition():
            for case in node.cases:
                _case(name, case, writer)
            writer.step(f"Goto({writer.go(name, node.otherwise)})")
        case Language():
            _language(name, node, writer)
        case Queue():
            _queue(name, node, writer)
        case Transfer():
            _transfer(name, node, writer)
        case Set():
            for variable, text in node.values.items():
                if writer.tree.variables[variable].secret or not _plain(text):
                    writer.note(name, f"{variable} is not set")
                else:
                    writer.step(f"Set(IVR_{variable.upper()}={text})")
            if node.priority is not None:
                writer.step(f"Set(QUEUE_PRIO={node.priority})")
            writer.step(f"Goto({writer.go(name, node.next)})")
        case Goto():
            writer.step(f"Goto({writer.go(name, node.to)})")
        case Hangup():
            if not writer.play(name, "prompt", node.prompt) and node.prompt is not None:
                writer.step(f"Playback({_path('common.goodbye')})")
            writer.step(f"Set(TELEPHONY_RESULT={node.result})")
            writer.step("Goto(end,1)")
        case _:
            target = _fallback(node, writer.tree)
            writer.note(name, f"{node.type} needs the controller; it goes on at {target}")
            writer.step(f"Goto({'unavailable,1' if target == 'unavailable' else writer.go(name, target)})")


def _fallback(node: Node, tree: Tree) -> str:
    """Where a node leads whose service is away; `unavailable` where the tree does not say."""
    for attribute in ("on_error", "on_unknown", "on_unavailable", "on_fail"):
        target = getattr(node, attribute, None)
        if isinstance(target, str) and target != HANGUP:
            return target
    if node.type == "lookup":
        return str(getattr(node, "next", HANGUP))
    # A call-back that can't be booked is not promised; digits that nobody asks for lead to a person.
    if tree.agent is not None and not isinstance(node, Callback):
        return tree.agent
    return "unavailable"


def _menu(name: str, node: Menu, writer: _Writer) -> None:
    ways = standard_keys(node, writer.tree) | {key: entry.to for key, entry in node.keys.items()}
    prompt = writer.sound(name, "prompt", node.prompt)
    short = writer.sound(name, "short", node.short) if node.short is not None else prompt
    longest = max(map(len, ways))
    writer.step("Set(IVR__SILENT=0)")
    writer.step("Set(IVR__WRONG=0)")
    writer.step(f"Set(IVR__SAY={prompt or short})")
    if short and short != prompt:
        writer.step(f'ExecIf($["${{TELEPHONY_CROWDED}}" = "1"]?Set(IVR__SAY={short}))')
    said_first = _path("${IVR__SAY}") if prompt or short else ""
    seconds = f"{node.timeout:g}"
    writer.step(f"Read(IVR__KEY,{said_first},{longest},t({_TERMINATOR}),1,{seconds})", "ask")
    writer.step(f"Set(IVR__SAY={short or prompt})")
    for key, target in ways.items():
        writer.step(f'GotoIf($["${{IVR__KEY}}" = "{key}"]?{writer.go(name, target)})')
    writer.step('GotoIf($["${IVR__KEY}" = ""]?silent)')
    writer.step("Set(IVR__WRONG=$[${IVR__WRONG} + 1])")
    if node.invalid is None or not writer.play(name, "invalid", node.invalid):
        writer.step(f"Playback({_path('ivr.invalid')})")
    _out(name, node.on_invalid or node.on_fail, f"${{IVR__WRONG}} < {node.max_failures}", writer)
    writer.step("Set(IVR__SILENT=$[${IVR__SILENT} + 1])", "silent")
    _out(name, node.on_timeout or node.on_fail, f"${{IVR__SILENT}} < {node.max_timeouts}", writer)


def _out(name: str, target: str, again: str, writer: _Writer) -> None:
    """Ask again while the condition holds, else go on."""
    writer.step(f"GotoIf($[{again}]?ask)")
    if target == HANGUP:
        writer.step(f"Playback({_path('common.goodbye')})")
    writer.step(f"Goto({writer.go(name, target)})")


def _case(name: str, case: Case, writer: _Writer) -> None:
    target = writer.go(name, case.to)
    if isinstance(case, HoursCase):
        writer.step(f"Gosub({context_of(writer.tree.name)}-hours,{extension_of(case.hours)},1)")
        writer.step(f'GotoIf($["${{IVR__OPEN}}" = "{int(case.is_open)}"]?{target})')
    elif isinstance(case, CallerCase):
        for entry in writer.tree.lists[case.caller_in]:
            digits = entry.removeprefix("+")
            start = digits.removesuffix("*")
            caller = f"${{IVR__CALLER:0:{len(start)}}}" if digits.endswith("*") else "${IVR__CALLER}"
            writer.step(f'GotoIf($["{caller}" = "{start}"]?{target})')
    else:
        for test in _comparisons(name, case, writer):
            writer.step(f"GotoIf($[{test}]?{target})")


def _comparisons(name: str, case: VariableCase, writer: _Writer) -> Iterator[str]:
    """Expressions of Asterisk, any of which may hold."""
    built_in = {
        "language": "${IVR__LANG}",
        "caller": "${IVR__CALLER}",
        "called": "${IVR__CALLED}",
        "priority": "${QUEUE_PRIO}",
        "crowded": "${TELEPHONY_CROWDED}",
    }
    value = built_in.get(case.variable, f"${{IVR_{case.variable.upper()}}}")
    declared = writer.tree.variables.get(case.variable)
    if declared is not None and declared.secret:
        writer.note(name, f"{case.variable} is a secret, and is not looked at")
        return
    if case.is_set is not None:
        yield f'"{value}" {"!=" if case.is_set else "="} ""'
        return
    wanted = case.one_of if case.one_of is not None else (case.equals,) if case.equals is not None else ()
    if not wanted:
        writer.note(name, f"{case.variable} is not compared as a number")
    for text in wanted:
        if _plain(text):
            yield f'"{value}" = "{text}"'
        else:
            writer.note(name, f"{case.variable} is not compared with {text!r}")


def _language(name: str, node: Language, writer: _Writer) -> None:
    if node.language is not None:
        writer.step(f"Set(IVR__LANG={node.language})")
        writer.step(f"Goto({writer.go(name, node.next)})")
        return
    tags = tuple(dict.fromkeys(node.choices.values()))
    named = [(tag, writer.sound(name, "prompt", node.prompt, tag)) for tag in tags]
    files = [f"${{IVR__SOUNDS}}/{tag}/{sound}" for tag, sound in named if sound]
    longest = max(map(len, node.choices))
    writer.step("Set(IVR__SILENT=0)")
    writer.step(f"Read(IVR__KEY,{'&'.join(files)},{longest},t({_TERMINATOR}),1,{node.timeout:g})", "ask")
    for key, tag in node.choices.items():
        writer.step(f'ExecIf($["${{IVR__KEY}}" = "{key}"]?Set(IVR__LANG={tag}))')
        writer.step(f'GotoIf($["${{IVR__KEY}}" = "{key}"]?{writer.go(name, node.next)})')
    writer.step("Set(IVR__SILENT=$[${IVR__SILENT} + 1])")
    writer.step(f"GotoIf($[${{IVR__SILENT}} < {node.max_timeouts}]?ask)")
    writer.step(f"Goto({writer.go(name, node.next)})")


def _queue(name: str, node: Queue, writer: _Writer) -> None:
    writer.play(name, "prompt", node.prompt)
    if node.priority is not None:
        writer.step(f"Set(QUEUE_PRIO={node.priority})")
    writer.step("Set(TELEPHONY_RESULT=queued)")
    writer.step("Set(QUEUESTATUS=)")
    writer.step(f"Set(TIMEOUT(absolute)={node.max_wait + WITH_A_PERSON:.0f})")
    writer.step(f"Queue({node.queue},c,,,{node.max_wait:.0f})")
    # After an agent it goes on here (option c); only then has it been served.
    writer.step(f'GotoIf($["${{QUEUESTATUS}}" = "CONTINUE"]?{writer.go(name, node.next)})')
    writer.step("Set(TELEPHONY_RESULT=)")
    away = node.on_unavailable
    for status, target in (("TIMEOUT", node.on_timeout), ("FULL", node.on_full)):
        if target is not None:
            writer.step(f'GotoIf($["${{QUEUESTATUS}}" = "{status}"]?{writer.go(name, target)})')
    writer.step(f"Goto({_away(name, away, writer)})")


def _away(name: str, target: str | None, writer: _Writer) -> str:
    return "unavailable,1" if target is None else writer.go(name, target)


def _transfer(name: str, node: Transfer, writer: _Writer) -> None:
    writer.play(name, "prompt", node.prompt)
    writer.step("Set(TELEPHONY_RESULT=transferred)")
    writer.step(f"Set(TIMEOUT(absolute)={node.ring_timeout + WITH_A_PERSON:.0f})")
    if node.extension is not None:
        writer.step(f"Goto({node.context},{node.extension},1)")
        return
    number = node.number or ""
    if number.startswith("{"):
        if number != "{caller}":
            writer.note(name, f"{number} is not known there")
            writer.step(f"Goto({_away(name, node.on_unavailable, writer)})")
            return
        number = "${IVR__CALLER}"
    trunk = node.route or "${TELEPHONY_TRUNK}"
    writer.step(f"Dial(PJSIP/{number}@{trunk},{node.ring_timeout:.0f},g)")
    # After the two have spoken it goes on here (option g).
    writer.step(f'GotoIf($["${{DIALSTATUS}}" = "ANSWER"]?{writer.go(name, node.next)})')
    writer.step("Set(TELEPHONY_RESULT=)")
    for status, target in (("BUSY", node.on_busy), ("NOANSWER", node.on_no_answer)):
        if target is not None:
            writer.step(f'GotoIf($["${{DIALSTATUS}}" = "{status}"]?{writer.go(name, target)})')
    writer.step(f"Goto({_away(name, node.on_unavailable, writer)})")


def _plain(text: str) -> bool:
    """Whether a text means nothing to Asterisk's parsers."""
    return set(text) <= _READABLE
