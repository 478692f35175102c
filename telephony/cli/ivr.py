"""The command line of IVR trees: `telephony ivr check|simulate|graph|test|compile|schema`.

Files only: no controller, no network, and no PBX but the lab's for `test --pbx`. What it never does: decide
what is right.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from telephony.cli.exits import Exit, fail, run, say
from telephony.cli.options import Config, Json
from telephony.cli.output import count, print_json, quiet_logs
from telephony.cli.scratch import scratch_studio
from telephony.cli.serve import settings_or_exit
from telephony.cli.stored import open_stored

if TYPE_CHECKING:
    from collections.abc import Mapping

    from telephony.ivr.compile import Sound
    from telephony.ivr.faults import Fault
    from telephony.ivr.golden import Conversation
    from telephony.ivr.graph import Counts
    from telephony.ivr.lint import Rules
    from telephony.ivr.ports import QueueEnd, TransferEnd
    from telephony.ivr.scripted import SilentVoice, World
    from telephony.ivr.simulate import Caller, Simulated
    from telephony.ivr.transcript import PhrasesOf
    from telephony.ivr.tree import Tree
    from telephony.model.media import Media
    from telephony.settings import Settings
    from telephony.speech.packs import Packs

E = TypeVar("E", "QueueEnd", "TransferEnd")

PAGE: Final = 1_000
SAFE_PATH: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-")

app = typer.Typer(help="IVR trees: check, try, draw and test them; no PBX is needed.", no_args_is_help=True)

Files = Annotated[list[Path], typer.Argument(metavar="FILE…", help="Trees, or folders of them.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="A tree.")]
Recordings = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Where recordings are: their names are checked too.")
]
Private = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-private", metavar="HOST", help="A host or network of your own that webhooks may use."
    ),
]


@dataclass(frozen=True)
class Loaded:
    """Trees that were read, with all faults of the files that were named."""

    named: dict[str, Tree]
    trees: dict[str, Tree]
    faults: tuple[Fault, ...]


# ---- check


@app.command()
def check(
    files: Files,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too.")] = False,
    recordings: Recordings = None,
    allow_private: Private = None,
    as_json: Json = False,
) -> None:
    """Tell everything that is wrong, with file, line and mend."""
    from telephony.ivr.faults import Severity

    loaded = _load(files, _rules(recordings, allow_private))
    counts = {severity: sum(fault.severity is severity for fault in loaded.faults) for severity in Severity}
    if as_json:
        print_json({"files": sorted(loaded.named), "faults": [_fault_json(one) for one in loaded.faults]})
    else:
        for fault in loaded.faults:
            print(fault)
        words = ", ".join(count(number, severity.value) for severity, number in counts.items() if number)
        say(f"{count(len(_expand(files)), 'tree')}: {words or 'nothing to mend'}")
    failing = counts[Severity.ERROR] or (strict and counts[Severity.WARNING])
    raise typer.Exit(Exit.FAILED if failing else Exit.OK)


def _fault_json(fault: Fault) -> dict[str, Any]:
    return {**asdict(fault), "severity": fault.severity.value}


@app.command()
def schema() -> None:
    """Print the JSON Schema of a tree, for editors."""
    from telephony.ivr.reading import tree_schema

    print(tree_schema(), end="")


# ---- simulate


@app.command()
def simulate(
    file: File,
    keys: Annotated[
        str, typer.Option(metavar="1,timeout,2", help="What is done at each question; !1 while it speaks.")
    ] = "",
    at: Annotated[str, typer.Option(metavar="TIME", help='Such as "2026-12-24 19:30".')] = "",
    lang: Annotated[str, typer.Option(metavar="TAG", help="The language; else the tree's first.")] = "",
    caller: Annotated[str, typer.Option(metavar="NUMBER", help="Who calls.")] = "",
    called: Annotated[str, typer.Option(metavar="NUMBER", help="Which number was called.")] = "",
    variable: Annotated[
        list[str] | None, typer.Option("--var", metavar="NAME=VALUE", help="A variable of the tree.")
    ] = None,
    webhook: Annotated[
        list[str] | None, typer.Option(metavar="NODE=JSON", help="What the app answers there.")
    ] = None,
    profile: Annotated[str, typer.Option(metavar="JSON", help="What is known of the caller.")] = "",
    queue: Annotated[
        list[str] | None,
        typer.Option(metavar="QUEUE=END", help="spoken, handed_over, timeout, full, unavailable"),
    ] = None,
    transfer: Annotated[
        list[str] | None,
        typer.Option(metavar="NODE=END", help="spoken, handed_over, busy, no_answer, unavailable"),
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(metavar="SERVICE", help="queue, transfer, callback, survey, record")
    ] = None,
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="Ask for keys once --keys are used up.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Play a call without a PBX, and print what is said, what is pressed, and where it goes."""
    from datetime import datetime

    from telephony.ivr.simulate import Caller, moment

    tree, trees = _one(file)
    packs = _packs()
    if lang and lang not in tree.languages:
        fail(Exit.USAGE, f"--lang: the tree does not speak {lang[:35]}. Choose {', '.join(tree.languages)}")
    who = Caller(
        keys=tuple(token.strip() for token in keys.split(",") if token.strip()),
        at=moment(at, tree) if at else datetime.now().astimezone(),
        number=caller,
        called=called,
        language=lang,
        variables=dict(_pair("--var", text) for text in variable or ()),
    )
    played = asyncio.run(
        _simulate(tree, trees, who, _world(webhook, profile, queue, transfer, without), packs, interactive)
    )
    phrases = _phrases(packs)
    if as_json:
        print_json(
            {
                "result": played.result,
                "variables": dict(played.handed_back),
                "transferred_to": played.transferred_to,
                "visits": [
                    {"tree": one.tree, "node": one.node, "type": one.type, "keys": one.keys}
                    | {"outcome": one.outcome, "to": one.target, "at_ms": one.at_ms}
                    for one in played.visits
                ],
                "transcript": played.text(phrases),
            }
        )
    elif interactive:
        print(f"= {played.result}")
    else:
        print(played.text(phrases), end="")


async def _simulate(
    tree: Tree, trees: Mapping[str, Tree], who: Caller, world: World, packs: Packs, interactive: bool
) -> Simulated:
    from telephony.ivr.saying import words_of
    from telephony.ivr.simulate import simulate as play

    quiet_logs()
    if not interactive:
        return await play(tree, who, world, trees=trees)
    phrases = _phrases(packs)

    def hear(voice: SilentVoice, media: Media) -> None:
        prompt, locale = voice.said[media.name]
        print(f"  {locale}: {words_of(prompt, phrases(locale))}")

    return await play(tree, who, world, trees=trees, ask=_ask, hear=hear)


def _ask() -> str | None:
    """Keys from the terminal: an empty line is silence, the end of the input a hang-up."""
    from telephony.ivr.scripted import TOKEN

    while True:
        try:
            line = input("keys> ").strip()
        except EOFError:
            return None
        if not line:
            return "timeout"
        if TOKEN.fullmatch(line) and not line.startswith("!"):
            return line
        say("Type keys (1, 4711#, *), hangup, or nothing for silence.")


def _world(
    webhook: Sequence[str] | None,
    profile: str,
    queue: Sequence[str] | None,
    transfer: Sequence[str] | None,
    without: Sequence[str] | None,
) -> World:
    from telephony.ivr.ports import QueueEnd, TransferEnd
    from telephony.ivr.scripted import World

    return World(
        profile=_object("--profile", profile) if profile else None,
        webhooks={name: _object("--webhook", text) for name, text in _pairs("--webhook", webhook)},
        queues={name: _end("--queue", text, QueueEnd) for name, text in _pairs("--queue", queue)},
        transfers={
            name: _end("--transfer", text, TransferEnd) for name, text in _pairs("--transfer", transfer)
        },
        without=frozenset(without or ()),
    )


def _pairs(option: str, texts: Sequence[str] | None) -> Iterator[tuple[str, str]]:
    return (_pair(option, text) for text in texts or ())


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        fail(Exit.USAGE, f"{option}: write NAME=VALUE, not {text[:60]!r}")
    return name, value


def _object(option: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        fail(Exit.USAGE, f'{option}: {text[:60]!r} is no JSON object. Write it like {{"status": "paid"}}')
    return value


def _end(option: str, text: str, kind: type[E]) -> E:
    try:
        return kind(text)
    except ValueError:
        fail(Exit.USAGE, f"{option}: {text[:60]!r} is none of {', '.join(kind)}")


# ---- test


@app.command("test")
def play_golden(
    files: Files,
    update: Annotated[
        bool, typer.Option("--update", help="Write what came as what is expected; look at the difference.")
    ] = False,
    by_calls: Annotated[
        bool, typer.Option("--pbx", help="As real calls, through a PBX and a carrier on this machine.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Play the golden conversations beside the trees (NAME.test.yaml), and compare."""
    from telephony.ivr.book import TEST_SUFFIX, read_file
    from telephony.ivr.golden import GoldenFile, play, read_golden, updated

    if update and by_calls:
        fail(Exit.USAGE, "--update: what is expected comes from the simulator; leave --pbx out")
    quiet_logs()
    loaded = _load(files, _rules(None, None))
    _refuse_errors(loaded.faults)
    packs = _packs()
    phrases = _phrases(packs)
    rows: list[dict[str, Any]] = []
    calls: list[tuple[str, Conversation]] = []
    for name, tree in loaded.named.items():
        path = Path(name).with_suffix("").with_name(f"{Path(name).stem}{TEST_SUFFIX}")
        if not path.is_file():
            continue
        file = read_golden(read_file(path), str(path))
        if not isinstance(file, GoldenFile):
            for fault in file:
                print(fault)
            raise typer.Exit(Exit.USAGE)
        if file.golden.tree != tree.name:
            fail(Exit.USAGE, f"{path}: tree is {file.golden.tree!r}. Write tree: {tree.name}")
        if by_calls:
            calls += [(tree.name, one) for one in file.golden.conversations]
            rows += [{"file": str(path)}] * len(file.golden.conversations)
            continue
        verdicts = [asyncio.run(play(one, tree, loaded.trees, phrases)) for one in file.golden.conversations]
        rows += [{"file": str(path), **asdict(verdict)} for verdict in verdicts]
        if update and all(verdict.transcript for verdict in verdicts):
            path.write_text(updated(file, [verdict.transcript for verdict in verdicts]), "utf-8")
    if calls:
        from telephony.cli.ivr_calls import play_by_calls

        played = run(play_by_calls(calls, loaded.trees, packs, phrases, say))
        rows = [{**row, **asdict(verdict)} for row, verdict in zip(rows, played, strict=True)]
    _show_verdicts(rows, update=update, as_json=as_json)


def _show_verdicts(rows: Sequence[dict[str, Any]], *, update: bool, as_json: bool) -> None:
    failed = [row for row in rows if row["difference"]]
    if as_json:
        print_json({"conversations": rows, "failed": len(failed)})
    else:
        for row in failed:
            print(f"{row['file']}: {row['name']}\n{row['difference']}")
        done = "written" if update else "differ"
        say(f"{count(len(rows), 'conversation')}: {f'{len(failed)} {done}' if failed else 'all as expected'}")
    if not rows:
        fail(Exit.USAGE, "there is no golden conversation. Put NAME.test.yaml beside the tree")
    unplayed = any(not row["transcript"] for row in failed)
    raise typer.Exit(Exit.FAILED if unplayed or (failed and not update) else Exit.OK)


# ---- graph


class Picture(StrEnum):
    """How a tree is drawn."""

    SVG = "svg"
    MERMAID = "mermaid"


@app.command()
def graph(
    file: File,
    form: Annotated[Picture, typer.Option("--format", help="svg or mermaid.")] = Picture.SVG,
    counts: Annotated[
        Path | None,
        typer.Option(metavar="JSON", help='{"nodes": {"main": 12}, "ways": {"main -> order": 7}}'),
    ] = None,
    from_store: Annotated[
        bool, typer.Option("--from-store", help="Counts of the calls that the store has.")
    ] = False,
    days: Annotated[int, typer.Option(min=1, max=3660, help="Of how many days, with --from-store.")] = 30,
    config: Config = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to; else standard output.")
    ] = None,
) -> None:
    """Draw a tree, with counts of calls laid over it where they are given."""
    from telephony.ivr.book import read_file
    from telephony.ivr.graph import mermaid, read_counts
    from telephony.ivr.picture import svg

    tree, _ = _one(file)
    numbers = None
    if counts is not None:
        try:
            numbers = read_counts(json.loads(read_file(counts)))
        except ValueError:
            fail(Exit.USAGE, f"--counts: {counts} is not JSON")
    if from_store:
        if counts is not None:
            fail(Exit.USAGE, "--counts and --from-store: choose one")
        numbers = _stored_counts(config, tree, days)
    drawn = svg(tree, numbers) if form is Picture.SVG else mermaid(tree, numbers)
    if output is None:
        print(drawn, end="")
        return
    try:
        output.write_text(drawn, "utf-8")
    except OSError as error:
        fail(Exit.USAGE, f"--output: {output} can't be written ({error.strerror})")


def _stored_counts(config: Path | None, tree: Tree, days: int) -> Counts:
    from telephony.ivr.graph import count_steps

    quiet_logs()
    return count_steps(asyncio.run(_paths(settings_or_exit(config), days)), tree)


async def _paths(settings: Settings, days: int) -> list[Sequence[dict[str, Any]]]:
    """The paths of calls through trees, a page at a time; each page is a short transaction of its own."""
    from telephony.ivr.inbound_log import PATH_EVENT

    found: list[Sequence[dict[str, Any]]] = []
    async with open_stored(settings, "graph") as store:
        since = await store.now_ms() - days * 86_400_000
        after = ""
        while True:
            async with store.reading() as work:
                page = await work.events.of_kind(PATH_EVENT, since, after=after, limit=PAGE)
            found += [event.detail["path"] for event in page]
            if len(page) < PAGE:
                return found
            after = page[-1].id


# ---- compile


@app.command("compile")
def compile_(
    file: File,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where it all goes.")],
    sounds_at: Annotated[
        str, typer.Option(metavar="PATH", help="Where the PBX finds the sounds; else in the folder.")
    ] = "",
    no_sounds: Annotated[bool, typer.Option("--no-sounds", help="The dialplan only.")] = False,
    recordings: Recordings = None,
    as_json: Json = False,
) -> None:
    """Make a plain Asterisk dialplan of a tree, and its sounds beside it."""
    from telephony.ivr.compile import compile_tree

    quiet_logs()
    tree, _ = _one(file)
    sounds = output / "sounds"
    folder = sounds_at or str(sounds.absolute())
    if not folder.startswith("/") or not set(folder) <= SAFE_PATH:
        fail(Exit.USAGE, "--sounds-at: write an absolute path of letters, figures and /._-")
    compiled = compile_tree(tree, folder)
    dialplan = output / f"{compiled.context}.conf"
    try:
        output.mkdir(parents=True, exist_ok=True)
        dialplan.write_text(compiled.text, "utf-8")
        files = 0 if no_sounds else asyncio.run(_render(compiled.sounds, sounds, recordings))
    except OSError as error:
        fail(Exit.USAGE, f"--output: {output} can't be written ({error.strerror})")
    if as_json:
        print_json(
            {"dialplan": str(dialplan), "context": compiled.context, "sounds": files}
            | {"notes": list(compiled.notes)}
        )
        return
    print(f"#include {dialplan.absolute()}")
    for note in compiled.notes:
        say(f"{tree.name}: {note}")
    say(f"{dialplan}: context {compiled.context}, {count(files, 'sound file')}")


async def _render(sounds: Sequence[Sound], folder: Path, recordings: Path | None) -> int:
    """Render sounds into a folder, in both laws; returns how many files that were."""
    import shutil

    written = 0
    async with scratch_studio(_packs(), recordings) as studio:
        for sound in sounds:
            media = await studio.compose(sound.prompt, sound.language)
            for ending in (".ulaw", ".alaw"):
                target = folder / f"{sound.path}{ending}"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(f"{media.name}{ending}", target)
                written += 1
            studio.discard(media)
    return written


# ---- reading files


def _expand(paths: Sequence[Path]) -> list[Path]:
    """The files of trees that are named, by themselves or by their folders."""
    from telephony.ivr.book import files_of

    found: list[Path] = []
    for path in paths:
        found += files_of(path) if path.is_dir() else [path]
    if not found:
        fail(Exit.USAGE, "there is no tree. Name a file, or a folder of .yaml files")
    return list(dict.fromkeys(found))


def _load(paths: Sequence[Path], rules: Rules) -> Loaded:
    """Read trees with all that lie beside them: subtrees are looked for there."""
    from telephony.ivr.book import check_files, files_of, read_file

    named = _expand(paths)
    folders: dict[Path, list[Path]] = {}
    for path in named:
        folders.setdefault(path.parent, []).append(path)
    trees: dict[str, Tree] = {}
    mine: dict[str, Tree] = {}
    faults: list[Fault] = []
    for folder, members in folders.items():
        beside = [path for path in files_of(folder) if path not in members]
        texts = {str(path): read_file(path) for path in [*members, *beside]}
        names = {str(path) for path in members}
        checked = check_files(texts, rules)
        faults += [fault for fault in checked.faults if fault.file in names]
        trees |= checked.trees
        mine |= {name: tree for name, tree in checked.by_file.items() if name in names}
    return Loaded(mine, trees, tuple(faults))


def _one(path: Path) -> tuple[Tree, dict[str, Tree]]:
    """One tree without an error, and those beside it."""
    loaded = _load([path], _rules(None, None))
    _refuse_errors(loaded.faults)
    return loaded.named[str(path)], loaded.trees


def _refuse_errors(faults: Sequence[Fault]) -> None:
    from telephony.ivr.faults import Severity

    errors = [fault for fault in faults if fault.severity is Severity.ERROR]
    for fault in errors:
        print(fault, file=sys.stderr)
    if errors:
        raise typer.Exit(Exit.FAILED)


def _packs() -> Packs:
    from telephony.resources import data_dir
    from telephony.speech.packs import Packs

    return Packs.load(data_dir("audio"))


def _phrases(packs: Packs) -> PhrasesOf:
    from telephony.ivr.transcript import phrases_of

    return phrases_of(packs)


def _rules(recordings: Path | None, allow_private: Sequence[str] | None) -> Rules:
    from telephony.egress.guard import Guard
    from telephony.ivr.known import rules_here

    if recordings is not None and not recordings.is_dir():
        fail(Exit.USAGE, f"--recordings: {recordings} is no folder")
    try:
        guard = Guard(allow_private or ())
    except ValueError as error:
        fail(Exit.USAGE, f"--allow-private: {error}")
    return rules_here(_packs(), recordings, guard)
