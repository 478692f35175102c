"""What is said: every language there, every placeholder known, nothing secret aloud, nothing too long.

What it never does: judge the wording.
"""

from __future__ import annotations

from collections.abc import Collection

from telephony.ivr.lint.rules import SECONDS_WARNED, Findings, Rules, prompts_of
from telephony.ivr.reading import did_you_mean
from telephony.ivr.saying import BadTemplate, holes_of, pieces_of, seconds_of
from telephony.ivr.source import Path
from telephony.ivr.tree import BUILT_IN, Language, Node, RecordingPiece, Saying, Sayings, Tree


def check_words(tree: Tree, rules: Rules, found: Findings) -> None:
    """Look at every prompt."""
    _languages(tree, rules, found)
    for name, sayings in tree.prompts.items():
        _sayings(sayings, ("prompts", name), tree.languages, tree, rules, found)
    used: set[str] = set()
    for name, node in tree.nodes.items():
        if isinstance(node, Language):
            _language(name, node, tree, found)
        for field, prompt in prompts_of(node):
            path: Path = ("nodes", name, field)
            if isinstance(prompt, str):
                used.add(prompt)
                if prompt not in tree.prompts:
                    found.unknown("prompt", path, prompt, tree.prompts)
                else:
                    _length(tree.prompts[prompt], path, node, found)
                continue
            _sayings(prompt, path, _needed(node, tree), tree, rules, found)
            _length(prompt, path, node, found)
    for name in tree.prompts:
        if name not in used:
            found.warn("unused", ("prompts", name), f"no node says {name}", "Remove it")


def _needed(node: Node, tree: Tree) -> tuple[str, ...]:
    """The languages a node must speak: a choice of languages is told in those that can be chosen."""
    if isinstance(node, Language):
        return tuple(dict.fromkeys(node.choices.values())) or tree.languages
    return tree.languages


def _languages(tree: Tree, rules: Rules, found: Findings) -> None:
    for index, tag in enumerate(tree.languages):
        if tag in tree.languages[:index]:
            found.error("duplicate-key", ("languages", index), f"{tag} stands here twice", "Keep one")
        elif rules.speaks is not None and not rules.speaks(tag):
            mend = "Add a language pack for it, or take another"
            found.error("unknown-language", ("languages", index), f"nothing speaks {tag}", mend)


def _language(name: str, node: Language, tree: Tree, found: Findings) -> None:
    tags = [(("language",), node.language)] if node.language is not None else []
    places: list[tuple[Path, str]] = [*tags, *((("choices", key), tag) for key, tag in node.choices.items())]
    seen: dict[str, Path] = {}
    for inside, tag in places:
        path = ("nodes", name, *inside)
        if tag not in tree.languages:
            mend = did_you_mean(tag, tree.languages, "Add it to languages")
            found.error("unknown-language", path, f"{tag} is none of the tree's languages", mend)
        elif seen.setdefault(tag, path) != path:
            found.warn("duplicate-label", path, f"two keys choose {tag}", "Keep one of them")


def _sayings(
    sayings: Sayings, path: Path, needed: Collection[str], tree: Tree, rules: Rules, found: Findings
) -> None:
    missing = [tag for tag in needed if tag not in sayings]
    if missing:
        problem = (
            f"{path[-1]} of {path[-2] if len(path) > 2 else path[0]} is not said in {', '.join(missing)}"
        )
        found.error("missing-language", path, problem, f"Add {missing[0]}: …")
    for tag, saying in sayings.items():
        if tag not in needed:
            mend = did_you_mean(tag, needed, "Remove it, or add the language to the tree")
            found.warn("extra-language", (*path, tag), f"{tag} is not spoken here", mend)
        _saying(saying, tag, (*path, tag), tree, rules, found)


def _saying(saying: Saying, tag: str, path: Path, tree: Tree, rules: Rules, found: Findings) -> None:
    try:
        holes = tuple(holes_of(saying))
    except BadTemplate as error:
        mend = "Write {name}, {name:digits}, {name:number}, {name:amount CNY}, {name:date} or {name:datetime}"
        found.error("bad-placeholder", path, str(error), mend)
        return
    for hole in holes:
        variable = tree.variables.get(hole.name)
        if variable is None and hole.name not in BUILT_IN:
            found.unknown("variable", path, hole.name, tree.variables)
        elif variable is not None and variable.secret and hole.kind != "digits":
            problem = f"{hole.name} is a secret, and would lie in the cache of sounds"
            found.error("secret-spoken", path, problem, f"Write {{{hole.name}:digits}}, or leave it out")
    texts = [piece for piece in pieces_of(saying) if isinstance(piece, str)]
    sounds = [piece.recording for piece in pieces_of(saying) if isinstance(piece, RecordingPiece)]
    if not sounds and not any(letter.isalnum() for text in texts for letter in text):
        found.error("empty-prompt", path, "there are no words", "Write what is to be said")
    if rules.recordings is not None:
        for name in sounds:
            if name not in rules.recordings.get(tag, ()):
                problem = f"there is no recording {name!r} in {tag}"
                mend = did_you_mean(
                    name, rules.recordings.get(tag, ()), f"Put {tag}/{name}.wav into the folder"
                )
                found.error("missing-recording", path, problem, mend)


def _length(sayings: Sayings, path: Path, node: Node, found: Findings) -> None:
    if "prompt-too-long" in node.allow:
        return
    for tag, saying in sayings.items():
        try:
            seconds = seconds_of(saying, tag)
        except BadTemplate:
            return
        if seconds > SECONDS_WARNED:
            problem = f"takes about {seconds:.0f} s in {tag}"
            mend = f"Say it in {SECONDS_WARNED:.0f} s, or say why not under allow: {{prompt-too-long: …}}"
            found.warn("prompt-too-long", path, problem, mend)
            return
