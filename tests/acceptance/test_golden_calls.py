"""Golden conversations give one transcript: in the simulator, over Asterisk with us, and compiled without us.

The callers are phones behind the carrier, which press when they have heard a question, or ahead. The rest of
the world (apps, queues, the time of day) is as each conversation says; only the PBX is real.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from telephony.ivr.book import Edition
from telephony.ivr.compile import compile_tree
from telephony.ivr.golden import Conversation, GoldenFile, difference, read_golden
from telephony.ivr.live import Finger, Stage
from telephony.ivr.saying import words_of
from telephony.ivr.scripted import World
from telephony.ivr.simulate import HUNG_UP, Caller, simulate
from telephony.ivr.sounds import Sounds, Wardrobe
from telephony.ivr.transcript import phrases_of
from telephony.ivr.tree import CallerCase, Condition, Language, Menu, Tree
from telephony.lab import Lab, Phone, own_dialplan
from telephony.net.ami import AmiConfig
from telephony.pbx.asterisk import AsteriskConfig, AsteriskPbx
from telephony.resources import data_dir
from tests.acceptance.callers import PEOPLE, Onlooker, Step, number, trees_in
from tests.acceptance.test_ivr import PACKS, compiled, edition_of, studio_in

pytestmark = pytest.mark.lab

PHRASES = phrases_of(PACKS)


def golden_files() -> list[GoldenFile]:
    found = []
    for path in sorted((data_dir("dialplans") / "ivr").glob("*.test.yaml")):
        read = read_golden(path.read_text("utf-8"), path.name)
        assert isinstance(read, GoldenFile), read
        found.append(read)
    return found


# ---- compiled

UNNAMED = "+861095550000"
CALLED = {"ride-hotline": "+861088880001", "car-rescue": "+861088880002"}
"""As the dialplan's globals name them (`callers.PEOPLE`)."""

Script = tuple[str, Sequence[str], str]
"""A tree, the keys, and the transcript that must come of it."""

PLAIN_NODES = {"lookup", "language", "menu", "condition", "say", "set", "goto", "hangup", "transfer", "queue"}
MORE: list[tuple[str, list[str]]] = [
    ("ride-hotline", ["2", "0"]),
    ("ride-hotline", ["2", "timeout", "7", "0"]),
    ("ride-hotline", ["!1", "9", "!1"]),
    ("car-rescue", ["2", "1"]),
    ("car-rescue", ["timeout", "timeout", "timeout"]),
    ("car-rescue", ["1", "8", "0"]),
]


async def scripts(trees: Mapping[str, Tree]) -> list[Script]:
    """Trees, keys and transcripts of what a compiled tree can do: nothing that needs us is asked."""
    wanted = [(file.golden.tree, one.keys) for file in golden_files() for one in file.golden.conversations]
    found: list[Script] = []
    for name, keys in [*wanted, *MORE]:
        if name == "satisfaction":
            continue  # Its first words hold a value, which a compiled tree does not say.
        played = await simulate(trees[name], Caller(keys=keys, at=datetime.now(UTC)), World(), trees=trees)
        text = played.text(PHRASES)
        if {visit.type for visit in played.visits} <= PLAIN_NODES and "[" not in text:
            found.append((name, keys, text))
    return found


def resolved(text: str) -> str:
    """A transcript that names the node to which `back` or `repeat` led: a dialplan knows no other word."""
    lines = text.splitlines()
    for at, line in enumerate(lines[:-1]):
        for word in ("back", "repeat"):
            if line.startswith(f"  -> {word} ("):
                lines[at] = line.replace(word, lines[at + 1].partition(" ")[0], 1)
    return "\n".join(lines)


OUTCOMES = {
    "say": "said",
    "set": "set",
    "goto": "gone",
    "hangup": "ended",
    "lookup": "unknown",
    "queue": "handed_over",
    "transfer": "handed_over",
}
"""How nodes end in a compiled tree that have one end there."""


@dataclass
class Reader:
    """Reads a transcript from what the PBX did with a caller, and cues the caller's finger.

    A node's first step names it, its questions and words are steps of their own, and where it leads is told
    by the `GotoIf` that held, or the next node.
    """

    phone: Phone
    finger: Finger
    tree: Tree
    words: Mapping[str, tuple[str, str, float]]
    lines: list[str] = field(default_factory=list)
    result: str = HUNG_UP
    over: bool = False
    _reading: bool = False
    _node: str = ""
    _key: str = ""
    _wrong: bool = False
    _tests: int = 0

    def take(self, step: Step) -> None:
        if step.kind == "VarSet" and step.application == "IVR__KEY" and self._reading:
            self._reading = False
            self._key, self._wrong = step.data, False
            self.finger.typed -= len(step.data)
            self.lines.append(f"  hears {step.data or 'nothing'}")
        elif step.kind == "VarSet" and step.application == "TELEPHONY_RESULT" and not self.over:
            self.result = step.data or self.result
        if self.over or step.kind != "Newexten" or not step.context.startswith("telephony-ivr-"):
            return
        if step.extension == "end" and self._node:
            self._leaves("hangup")
        if not step.extension.startswith("node_") or step.context.endswith("-hours"):
            return
        arguments = step.data.split(",")
        match step.application:
            case "NoOp":
                kind, _, node = step.data.partition(" ")
                if self._node:
                    self._leaves(node)
                self._node, self._key, self._wrong, self._tests = node, "", False, 0
                self.lines.append(f"{node} ({kind})")
            case "GotoIf":
                self._tests += 1
            case "Playback":
                self._wrong = arguments[0].endswith("invalid")
                self._says(arguments[0].split("&"))
            case "Read":
                self._reading = True
                files = arguments[1].split("&")
                if self.finger.todo and self.finger.todo[0].startswith("!"):
                    # A key in the first sound: the others are not heard.
                    files = files[:1]
                self.finger.hears(self._says(files), question=True)
            case "Queue" | "Dial":
                self._leaves("dialplan")
                self.over = True
            case "Goto" if len(arguments) == 3:
                self._leaves("dialplan")
                self.over = True
            case "Goto" if isinstance(self.tree.nodes[self._node], Condition):
                # None of its tests held.
                self._tests = 0

    def _leaves(self, target: str) -> None:
        self.lines.append(f"  -> {target} ({self._outcome()})")
        self._node = ""

    def _outcome(self) -> str:
        node = self.tree.nodes[self._node]
        if isinstance(node, Menu):
            return "wrong" if self._wrong else self._key or "silence"
        if isinstance(node, Language):
            return node.language or node.choices.get(self._key, "not chosen")
        if isinstance(node, Condition):
            tests = 0
            for index, case in enumerate(node.cases):
                tests += len(self.tree.lists[case.caller_in]) if isinstance(case, CallerCase) else 1
                if self._tests and self._tests <= tests:
                    return f"case {index + 1}"
            return "otherwise"
        return OUTCOMES[node.type]

    def _says(self, files: Sequence[str]) -> float:
        seconds = 0.0
        for file in filter(None, files):
            locale, words, length = self.words[file]
            self.lines.append(f"  says {locale}: {words}")
            seconds += length
        return seconds

    @property
    def text(self) -> str:
        return "\n".join([*self.lines, f"= {self.result}"])


async def test_one_transcript_everywhere(lab: Lab, tmp_path: Path) -> None:
    """All at once: every golden conversation with us, and those that a compiled tree can hold without us."""
    edition = edition_of(trees_in(tmp_path))
    seen = Onlooker(lab)
    async with seen.watching():
        parts: dict[str, tuple[str, Conversation]] = {}
        for file in golden_files():
            for one in file.golden.conversations:
                parts[number(len(parts))] = (file.golden.tree, one)
        phones = {who: Phone() for who in parts}
        without_us, plans = await compiled_parts(edition, tmp_path)
        seen.told = lambda who, step: without_us[who][1].take(step) if who in without_us else None
        async with (
            own_dialplan(lab, PEOPLE + plans),
            answering(lab, edition, tmp_path, parts, phones) as with_us,
        ):
            calls = []
            for who, phone in phones.items():
                calls.append(await lab.carrier.place(UNNAMED, phone, caller=who))
            for who, (part, reader) in without_us.items():
                calls.append(await lab.carrier.place(CALLED[part[0]], reader.phone, caller=who))
            await asyncio.gather(*(call.wait_ended(150) for call in calls))
    wrong = [
        f"with us, {name}: {one.name}\n{differs}"
        for who, (name, one) in parts.items()
        if (differs := difference(one.expect, with_us.texts.get(who, "")))
    ]
    wrong += [
        f"compiled, {name} {keys}\n{differs}"
        for (name, keys, text), reader in without_us.values()
        if (differs := difference(resolved(text), reader.text))
    ]
    assert not wrong, "\n".join(wrong)
    assert len(without_us) >= 6


@asynccontextmanager
async def answering(
    lab: Lab,
    edition: Edition,
    folder: Path,
    parts: Mapping[str, tuple[str, Conversation]],
    phones: Mapping[str, Phone],
) -> AsyncIterator[Stage]:
    """A stage behind the lab's PBX."""
    host, port = lab.agi
    ami = AmiConfig(
        host=lab.pbx.address,
        port=lab.pbx.ami_port,
        username=lab.state.ami_user,
        secret=lab.state.ami_secret,
    )
    config = AsteriskConfig(ami=ami, nonce_key=b"k" * 32, agi_host=host, agi_port=port)
    async with studio_in(folder) as studio:
        wardrobe = Wardrobe(studio)
        await wardrobe.make(1, edition.trees.values())
        with wardrobe.lent(1) as common:
            stage = Stage(
                edition.trees,
                parts,
                lambda who: phones[who].soon,
                lambda: Sounds(studio, common),
                PHRASES,
                ("someone", "agents"),
            )
            pbx = AsteriskPbx(config, on_inbound=stage)
            await pbx.start()
            try:
                yield stage
            finally:
                await pbx.stop()


async def compiled_parts(edition: Edition, folder: Path) -> tuple[dict[str, tuple[Script, Reader]], str]:
    """Callers of compiled trees, each with what must be read of it; and the dialplans."""
    plans, words = "", {}
    for name in CALLED:
        plans += await compiled(folder, edition, name)
        sounds = folder / "compiled" / name
        for sound in compile_tree(edition.trees[name], str(sounds)).sounds:
            path = sounds / sound.path
            length = path.with_name(f"{path.name}.ulaw").stat().st_size / 8000
            words[str(path)] = (sound.language, words_of(sound.prompt, PHRASES(sound.language)), length)
    found = enumerate(await scripts(edition.trees))
    readers = {}
    for at, one in found:
        phone, tree = Phone(), edition.trees[one[0]]
        readers[number(500 + at)] = (one, Reader(phone, Finger(phone.soon, one[1]), tree, words))
    return readers, plans
