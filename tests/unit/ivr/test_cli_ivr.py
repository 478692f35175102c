"""`telephony ivr …`, as a user runs it."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from telephony.cli import main
from telephony.cli.init import init
from telephony.ivr.inbound_log import InboundCall, InboundLog
from telephony.ivr.journal import Visit
from telephony.resources import data_dir
from telephony.store import Store

FOLDER = data_dir("dialplans") / "ivr"
FAULTS = Path(__file__).parent / "faults"


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The program itself, in this process: starting it anew each time would take most of the time."""
    monkeypatch.setattr("telephony.cli.ivr.quiet_logs", lambda: None)

    def go(*words: str, stdin: str = "") -> Done:
        monkeypatch.setattr(sys, "argv", ["telephony", "ivr", *words])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        monkeypatch.setattr(sys, "stderr", errors := io.StringIO())
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out = "".join(line for line in capsys.readouterr().out.splitlines(True) if "[info" not in line)
        return Done(int(ended.value.code or 0), out, errors.getvalue())

    return go


def test_check_tells_file_line_and_mend(run: Run) -> None:
    path = FAULTS / "dangling.yaml"
    done = run("check", str(path), str(FAULTS / "unused.yaml"))
    assert done.returncode == 1
    assert f"{path}:9:5: error dangling: main leads to menu_mian, which is not there." in done.stdout
    assert "2 trees: 1 error, 1 warning" in done.stderr
    assert run("check", str(FAULTS / "unused.yaml")).returncode == 0
    assert run("check", "--strict", str(FAULTS / "unused.yaml")).returncode == 1
    assert run("check", str(FAULTS / "none.yaml")).returncode == 2


def test_check_as_json_and_with_recordings(tmp_path: Path, run: Run) -> None:
    path = FAULTS / "missing-recording.yaml"
    assert run("check", str(path)).returncode == 0
    (tmp_path / "en").mkdir()
    done = run("check", str(path), "--recordings", str(tmp_path), "--json")
    assert done.returncode == 1
    (fault,) = json.loads(done.stdout)["faults"]
    assert (fault["code"], fault["severity"], fault["mark"]["line"]) == ("missing-recording", "error", 8)
    private = FAULTS / "webhook-private.yaml"
    assert run("check", str(private)).returncode == 1
    assert run("check", str(private), "--allow-private", "192.168.0.0/16").returncode == 0
    assert run("check", str(private), "--allow-private", "192.168.0.0/99").returncode == 2


def test_simulate_prints_a_transcript(run: Run) -> None:
    tree = str(FOLDER / "car-rescue.yaml")
    done = run(
        "simulate",
        tree,
        "--keys",
        "1,timeout,2,4711",
        "--at",
        "2026-12-24 23:30",
        "--caller",
        "+8613800000000",
    )
    assert done.returncode == 0, done.stderr
    assert "  says zh-CN: 有人受伤请按1，车辆故障请按2，查询救援车请按3，人工请按0。\n" in done.stdout
    assert "  hears nothing\n" in done.stdout
    assert done.stdout.endswith("  -> dialplan (handed_over)\n= transferred\n")
    more = run(
        "simulate", tree, "--keys", "2,3,4711", "--webhook", 'truck={"state": "near", "minutes": 3}', "--json"
    )
    played = json.loads(more.stdout)
    assert played["result"] == "told"
    assert played["variables"]["IVR_PLATE"] == "4711"
    assert [visit["node"] for visit in played["visits"]][-1] == "truck_comes"


def test_simulate_asks_for_keys(run: Run) -> None:
    done = run(
        "simulate", str(FOLDER / "car-rescue.yaml"), "-i", "--at", "2026-12-24 12:00", stdin="2\nx\n\n0\n"
    )
    assert done.returncode == 0, done.stderr
    assert "en: If somebody is hurt" in done.stdout
    assert "Type keys" in done.stderr
    assert done.stdout.endswith("= queued\n")
    assert run("simulate", str(FOLDER / "car-rescue.yaml"), "-i", stdin="").stdout.endswith("= hung_up\n")


@pytest.mark.parametrize(
    "words",
    [
        ("--keys", "abc"),
        ("--at", "tomorrow"),
        ("--lang", "fr"),
        ("--webhook", "truck"),
        ("--webhook", "truck=5"),
        ("--queue", "rescue=gone"),
        ("--var", "=5"),
    ],
)
def test_simulate_refuses_what_it_can_not_do(words: tuple[str, str], run: Run) -> None:
    done = run("simulate", str(FOLDER / "car-rescue.yaml"), *words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("telephony: ")


def test_simulate_refuses_a_tree_with_an_error(run: Run) -> None:
    done = run("simulate", str(FAULTS / "dangling.yaml"))
    assert done.returncode == 1
    assert "error dangling" in done.stderr


def test_golden_conversations_fail_when_a_tree_changes(tmp_path: Path, run: Run) -> None:
    for path in (FOLDER / "satisfaction.yaml", FOLDER / "satisfaction.test.yaml"):
        shutil.copy(path, tmp_path)
    tree = tmp_path / "satisfaction.yaml"
    assert run("test", str(tmp_path)).returncode == 0
    tree.write_text(tree.read_text("utf-8").replace("Thank you. Goodbye.", "Bye."), "utf-8")
    done = run("test", str(tree))
    assert done.returncode == 1
    assert "-  says en: Thank you. Goodbye.\n+  says en: Bye.\n" in done.stdout
    assert json.loads(run("test", str(tree), "--json").stdout)["failed"] == 1
    assert run("test", str(tree), "--update").returncode == 0
    assert run("test", str(tree)).returncode == 0
    (tmp_path / "satisfaction.test.yaml").write_text("tree: other\nconversations: [{name: x}]\n")
    assert run("test", str(tree)).returncode == 2
    (tmp_path / "satisfaction.test.yaml").unlink()
    assert run("test", str(tree)).returncode == 2


def test_the_schema_is_printed(run: Run) -> None:
    assert run("schema").stdout == (FOLDER / "tree.schema.json").read_text("utf-8")


def test_a_tree_is_compiled_with_its_sounds(tmp_path: Path, run: Run) -> None:
    tree = tmp_path / "small.yaml"
    tree.write_text(
        "version: 1\nname: small\nlanguages: [en]\nstart: main\nnodes:\n"
        "  main: {type: hangup, prompt: {en: Goodbye.}}\n",
        "utf-8",
    )
    done = run("compile", str(tree), "-o", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"#include {tmp_path}/out/telephony-ivr-small.conf\n"
    assert (
        f"Set(IVR__SOUNDS={tmp_path}/out/sounds)"
        in (tmp_path / "out" / "telephony-ivr-small.conf").read_text()
    )
    assert (tmp_path / "out" / "sounds" / "en" / "main.prompt.ulaw").stat().st_size > 1000
    assert (tmp_path / "out" / "sounds" / "en" / "ivr.invalid.alaw").is_file()
    again = run(
        "compile", str(tree), "-o", str(tmp_path / "out"), "--no-sounds", "--json", "--sounds-at", "/srv/x"
    )
    assert json.loads(again.stdout)["sounds"] == 0
    assert run("compile", str(tree), "-o", str(tmp_path), "--sounds-at", "/srv/${SHELL(id)}").returncode == 2


def test_a_tree_is_drawn(tmp_path: Path, run: Run) -> None:
    tree = str(FOLDER / "satisfaction.yaml")
    assert run("graph", tree).stdout.startswith("<svg ")
    assert run("graph", tree, "--format", "mermaid").stdout.startswith("flowchart TD\n")
    counts = tmp_path / "counts.json"
    counts.write_text('{"nodes": {"solved": 12}}')
    assert run("graph", tree, "--counts", str(counts), "-o", str(tmp_path / "t.svg")).returncode == 0
    assert "12 calls" in (tmp_path / "t.svg").read_text("utf-8")
    for wrong in ("{", '{"nodes": 5}'):
        counts.write_text(wrong)
        assert run("graph", tree, "--counts", str(counts)).returncode == 2
    assert run("graph", tree, "-o", str(tmp_path / "none" / "t.svg")).returncode == 2


def test_the_stored_calls_are_counted_page_by_page(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = time.time_ns() // 1_000_000
    visits = [Visit("satisfaction", "solved", "menu", moment, (), "1", "thanks")]
    url = f"sqlite:///{tmp_path}/t.db"

    async def fill() -> None:
        store = await Store.open(url, owner="one")
        kept = InboundLog(store, "shop")
        for number, age in enumerate((0, 0, 0, 0, 40)):
            ended = moment - age * 86_400_000
            kept.keep(
                InboundCall(str(number), "satisfaction", "", "1", "en", "x", ended, ended, tuple(visits))
            )
        await kept.stop()
        await store.close()

    asyncio.run(fill())
    config = tmp_path / "telephony.toml"
    init(config, as_json=True)
    config.write_text(config.read_text() + f'\n[store]\nurl = "{url}"\n')
    monkeypatch.setattr("telephony.cli.ivr.PAGE", 2)
    tree = str(data_dir("dialplans") / "ivr" / "satisfaction.yaml")
    drawn = run("graph", tree, "--from-store", "--config", str(config))
    assert drawn.returncode == 0, drawn.stderr
    assert "4 calls" in drawn.stdout
    gone = run("graph", tree, "--from-store", "--config", str(tmp_path / "no"))
    assert gone.returncode == 2
