"""A little of Asterisk's dialplan, enough to walk what `compile` writes: for tests alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

_LINE = re.compile(r"(?:exten => ([^,]+),1| same => n(?:\(([a-z0-9]+)\))?),(\w+)\((.*)\)$")
_CALL = re.compile(r"\$\{[^${}]*\}")
_EXPRESSION = re.compile(r"\$\[[^\[\]$]*\]")
_MAX_STEPS = 5_000


@dataclass
class PlainAsterisk:
    """Walks a dialplan. `keys` are what is pressed at each `Read`, empty for silence."""

    text: str
    keys: list[str] = field(default_factory=list)
    at: datetime = datetime(2026, 1, 5, 10, 0, tzinfo=UTC)
    caller: str = ""
    queue_status: str = ""
    dial_status: str = ""
    variables: dict[str, str] = field(default_factory=dict)
    played: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    walked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.plan: dict[tuple[str, str], list[tuple[str, str, str]]] = {}
        context = extension = ""
        for line in self.text.splitlines():
            if line.startswith("["):
                context = line.strip("[]")
            elif line and not line.startswith(";"):
                found = _LINE.match(line)
                assert found, line
                if found[1]:
                    extension = found[1]
                    assert (context, extension) not in self.plan, extension
                    self.plan[context, extension] = []
                self.plan[context, extension].append((found[2] or "", found[3], found[4]))

    def targets_exist(self) -> bool:
        """Whether every `Goto`, `GotoIf` and `Gosub` leads somewhere."""
        for (context, extension), steps in self.plan.items():
            labels = {label for label, _, _ in steps}
            for _, application, arguments in steps:
                if application not in ("Goto", "GotoIf", "Gosub"):
                    continue
                target = arguments.rpartition("?")[2] if application == "GotoIf" else arguments
                parts = target.split(",")
                if len(parts) == 1:
                    assert target in labels, (extension, target)
                elif len(parts) == 2:
                    assert (context, parts[0]) in self.plan, (extension, target)
                elif parts[0].startswith("telephony-ivr-"):
                    assert (parts[0], parts[1]) in self.plan, (extension, target)
        return True

    def run(self) -> PlainAsterisk:
        """Walk from `s` to the end."""
        context = next(iter(self.plan))[0]
        at, index = (context, "s"), 0
        stack: list[tuple[tuple[str, str], int]] = []
        for _ in range(_MAX_STEPS):
            if index == 0:
                self.walked.append(at[1])
            _, application, raw = self.plan[at][index]
            index += 1
            arguments = self.expand(raw)
            go = ""
            if application in ("ExecIf", "GotoIf"):
                test, _, then = arguments.partition("?")
                if test in ("", "0"):
                    continue
                if application == "GotoIf":
                    go = then
                else:
                    application, arguments = then.split("(", 1)[0], then.split("(", 1)[1][:-1]
            if application == "Set":
                name, _, value = arguments.partition("=")
                self.variables[name] = value
            elif application == "Playback":
                self.played += arguments.split("&")
            elif application == "Read":
                name, files, *_ = arguments.split(",")
                self.played += files.split("&") if files else []
                self.variables[name] = self.keys.pop(0) if self.keys else ""
            elif application == "Goto":
                go = arguments
            elif application == "Gosub":
                stack.append((at, index))
                where = arguments.split(",")
                at, index = (where[0], where[1]), 0
            elif application == "Return":
                at, index = stack.pop()
            elif application == "Queue":
                self.done.append(f"Queue({arguments})")
                self.variables["QUEUESTATUS"] = self.queue_status
            elif application == "Dial":
                self.done.append(f"Dial({arguments})")
                self.variables["DIALSTATUS"] = self.dial_status
            elif application == "Hangup":
                self.done.append("Hangup")
                return self
            if go:
                parts = go.split(",")
                if len(parts) == 1:
                    index = [one for one, _, _ in self.plan[at]].index(go)
                elif len(parts) == 2:
                    at, index = (at[0], parts[0]), 0
                else:
                    self.done.append(f"Goto({go})")
                    return self
        raise AssertionError("it goes on for ever")

    def expand(self, text: str) -> str:
        """Values of `${…}` and `$[…]`, from the inside out."""
        while True:
            if found := _CALL.search(text):
                value = self._value(found[0][2:-1])
            elif found := _EXPRESSION.search(text):
                value = _evaluate(found[0][2:-1])
            else:
                return text
            text = text[: found.start()] + value + text[found.end() :]

    def _value(self, inside: str) -> str:
        functions: dict[str, Callable[[str], str]] = {
            "CALLERID(num)": lambda _: self.caller,
            "CALLERID(dnid)": lambda _: "4008",
            "EPOCH": lambda _: str(int(self.at.timestamp())),
        }
        if inside in functions:
            return functions[inside](inside)
        if inside.startswith("FILTER(0-9,"):
            return "".join(letter for letter in inside[11:-1] if letter.isdecimal())
        if inside.startswith("STRFTIME("):
            stamp, zone, form = inside[9:-1].split(",")
            return datetime.fromtimestamp(int(stamp), ZoneInfo(zone)).strftime(form)
        name, *cut = inside.split(":")
        value = self.variables.get(name, "")
        numbers = [int(one) for one in cut]
        if len(numbers) == 2:
            return value[numbers[0] : numbers[0] + numbers[1]]
        return value[numbers[0] :] if numbers else value


def _evaluate(text: str) -> str:
    assert text.count('"') % 2 == 0, text
    python = re.sub(r"(?<![!<>])=", "==", text).replace("&", " and ")
    python = re.sub(r'("[^"]*")|\b0+(?=\d)', lambda found: found[1] or "", python)
    return str(int(eval(python, {"__builtins__": {}})))  # our own text, in a test
