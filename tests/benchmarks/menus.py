"""CPU per call for a menu of three levels: the controller with its PBX, against the compiled dialplan.

Both say the same sounds to the same callers, who press a key at each level. The carrier is not counted.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from telephony.lab import Lab, own_dialplan, press_keys
from tests.acceptance.control import ControllerProcess, settings_of
from tests.acceptance.test_ivr import SECRET, compiled, edition_of
from tests.benchmarks.measure import CALLS, ROUNDS, Report, cpu_of, ratios

RATE = 10.0
"""Calls begun per second."""

WARM_CALLS = 5
CALLED = "+861088880005"
NAME = "three-levels"

LEVEL = """\
  {here}:
    type: menu
    prompt: {{en: "{here}. To go on, press 1. For a person, press 0."}}
    keys: {{"1": {{label: On, to: {there}}}}}
    on_fail: person
    allow: {{menu-too-deep: the benchmark wants three levels}}
"""

LEVELS = "".join(
    LEVEL.format(here=here, there=there)
    for here, there in (("one", "two"), ("two", "three"), ("three", "bye"))
)

TREE = f"""\
version: 1
name: {NAME}
languages: [en]
start: one
agent: person
nodes:
{LEVELS}
  bye: {{type: hangup, prompt: {{en: Goodbye.}}}}
  person: {{type: transfer, extension: "100", context: agents}}
"""

KEYS = [(2.0, "1"), (4.0, "1"), (6.0, "1")]
"""Two seconds of each menu are heard."""

Say = Callable[[str], None]


async def menus(report: Report, say: Say) -> None:
    """Measure both in turns."""
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="telephony-bench-") as name:
        folder = Path(name)
        trees = folder / "trees"
        trees.mkdir()
        (trees / f"{NAME}.yaml").write_text(TREE, "utf-8")
        plan = await compiled(folder, edition_of(trees), NAME)
        globals_ = f"[globals](+)\nTELEPHONY_TREE_{CALLED[1:]}={NAME}\n"
        async with Lab(keep_recordings=folder / "heard") as lab, own_dialplan(lab, globals_ + plan):
            values = settings_of(lab, folder, ivr={"folder": str(trees), "webhook_secret": SECRET})
            values["log"] = {"level": "info"}
            for turn in range(ROUNDS):
                process = ControllerProcess(folder, json.loads(json.dumps(values)))
                try:
                    await process.start()
                    await calls(lab, WARM_CALLS)
                    own, pbx = await measured(lab, process.pid, CALLS)
                    ended = [line["result"] for line in process.log_lines("ivr.ended")]
                    assert set(ended) == {"completed"}, ended
                finally:
                    await process.stop()
                await calls(lab, WARM_CALLS)
                _, plain = await measured(lab, None, CALLS)
                for side, value in (("ours own", own), ("ours PBX", pbx), ("compiled", plain)):
                    figures.setdefault(side, []).append(value)
                say(
                    f"turn {turn + 1}: {1000 * own:.1f} ms + PBX {1000 * pbx:.1f} ms per call,"
                    f" compiled {1000 * plain:.1f} ms"
                )
    report.keep("processor seconds per call of three menus", figures)
    total = [own + pbx for own, pbx in zip(figures["ours own"], figures["ours PBX"], strict=True)]
    plain_turns = figures["compiled"]
    report.row("CPU per call of three menus / compiled", ratios(total, plain_turns), aim="≤ 1.25")
    report.row("  of it the PBX with us / compiled", ratios(figures["ours PBX"], plain_turns))
    middle, plain = 1000 * statistics.median(total), 1000 * statistics.median(plain_turns)
    say(f"median {middle:.1f} ms against {plain:.1f} ms")


async def measured(lab: Lab, pid: int | None, count: int) -> tuple[float, float]:
    """Processor seconds per call of the controller and of the PBX."""
    pbx_pid = lab.pbx.pid or 0
    own, pbx = cpu_of(pid) if pid else 0.0, cpu_of(pbx_pid)
    await calls(lab, count)
    own = cpu_of(pid) - own if pid else 0.0
    return own / count, (cpu_of(pbx_pid) - pbx) / count


async def calls(lab: Lab, count: int) -> None:
    """Place calls at the rate, and wait until all are over."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    placed = []
    for index in range(count):
        await asyncio.sleep(max(0.0, began + index / RATE - loop.time()))
        caller = f"+86137{index:08d}"
        placed.append(await lab.carrier.place(CALLED, press_keys(KEYS, answer_after=0), caller=caller))
    for call in placed:
        await call.wait_ended(60)
        assert call.final_code == 200, call
    lab.carrier.calls.clear()
