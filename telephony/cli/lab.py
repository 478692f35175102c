"""`telephony lab`: a PBX and a carrier on this machine, to try things out."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from telephony.cli.exits import Exit, fail, run, say
from telephony.cli.keys import client_toml
from telephony.cli.options import Json
from telephony.cli.output import print_json, quiet_logs

if TYPE_CHECKING:
    from telephony.lab import LabState, Subscriber

LAB_CALL_SECONDS: Final = 60.0

lab_app = typer.Typer(help="A PBX and a carrier on this machine, to try things out.", no_args_is_help=True)


@lab_app.command("up")
def lab_up(
    answer: Annotated[
        bool, typer.Option("--answer", help="Every number answers and listens (default).")
    ] = False,
    busy: Annotated[bool, typer.Option("--busy", help="Every number is busy (486).")] = False,
    no_answer: Annotated[bool, typer.Option("--no-answer", help="Every number rings on.")] = False,
    decline: Annotated[
        bool, typer.Option("--decline", help="Every number rings, then declines (603).")
    ] = False,
    unallocated: Annotated[bool, typer.Option("--unallocated", help="No number exists (404).")] = False,
    voicemail: Annotated[bool, typer.Option("--voicemail", help="Every number is a voicemail box.")] = False,
    hang_up_early: Annotated[
        bool, typer.Option("--hang-up-early", help="Every number answers and hangs up after 1 s.")
    ] = False,
    press: Annotated[
        str | None, typer.Option(metavar="KEYS", help="Every number answers, and presses KEYS after 2 s.")
    ] = None,
    write: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Write the telephony.toml there (it must be new).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a lab until Ctrl-C, and show what a controller needs to use it."""
    chosen = {
        "answer": answer,
        "busy": busy,
        "no_answer": no_answer,
        "decline": decline,
        "unallocated": unallocated,
        "voicemail": voicemail,
        "hang_up_early": hang_up_early,
        "press_keys": press is not None,
    }
    names = [name for name, wanted in chosen.items() if wanted]
    if len(names) > 1:
        fail(Exit.USAGE, "a number can behave in one way only; choose one of the options")
    if press is not None and not (press and set(press) <= set("0123456789*#ABCD")):
        fail(Exit.USAGE, "--press: takes keys such as 1 or *")
    if write is not None and write.exists():
        fail(Exit.USAGE, f"{write} is there already; name a new file")
    quiet_logs()
    subscriber = _subscriber(names[0] if names else "answer", press or "")
    raise typer.Exit(run(_lab_up(subscriber, write, as_json=as_json)))


def _subscriber(name: str, keys: str) -> Subscriber:
    from telephony import lab

    if name == "press_keys":
        return lab.press_keys([(2.0, keys)])
    made: dict[str, Callable[[], Subscriber]] = {
        "answer": lab.answer_and_listen,
        "busy": lab.busy,
        "no_answer": lab.no_answer,
        "decline": lab.decline,
        "unallocated": lab.unallocated,
        "voicemail": lab.voicemail,
        "hang_up_early": lab.hang_up_early,
    }
    return made[name]()


async def _lab_up(subscriber: Subscriber, write: Path | None, *, as_json: bool) -> Exit:
    from telephony.lab import running_labs, up

    ready = asyncio.Event()
    lab = asyncio.create_task(up(default=subscriber, progress=say, ready=ready))
    waiting = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait((lab, waiting), return_when=asyncio.FIRST_COMPLETED)
        if ready.is_set():
            state = next(state for state in running_labs() if state.pid == os.getpid())
            _show_lab(state, write, as_json=as_json)
        await lab
    finally:
        waiting.cancel()
        lab.cancel()
        await asyncio.gather(lab, waiting, return_exceptions=True)
    return Exit.OK


def _show_lab(state: LabState, write: Path | None, *, as_json: bool) -> None:
    from dataclasses import asdict

    from telephony.api.keys import hash_key, new_key

    key = new_key()
    snippet = _lab_toml(state, hash_key(key))
    if write is not None:
        with os.fdopen(os.open(write, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(snippet)
    if as_json:
        print_json({**asdict(state), "key": key, "config": snippet})
        return
    print(f"PBX      {state.pbx_address}: SIP {state.sip_port}, AMI {state.ami_port}, user {state.ami_user}")
    print(f"carrier  {state.carrier_address} and {state.carrier_address_b}; calls in {state.calls_log}")
    if write is None:
        print(f"\n# telephony.toml for this lab\n{snippet}")
    else:
        print(f"config   {write}")
    print(
        f"Now:  telephony serve --config {write or 'telephony.toml'}\n"
        f"and:  TELEPHONY_KEY={key} telephony verify +8613800000001\n"
        "Ctrl-C ends the lab.",
        flush=True,
    )


def _lab_toml(state: LabState, key_hash: str) -> str:
    """A whole configuration that fits a lab; all it keeps lies in the lab's folder and goes with it."""
    host, _, port = state.agi.rpartition(":")
    folder = f"{state.run_dir}/controller"
    return f"""[store]
url = "sqlite:///{folder}/telephony.db"

[secrets]
master_key_file = "{folder}/master.key"

[pbx.ami]
host = "{state.pbx_address}"
port = {state.ami_port}
username = "{state.ami_user}"
secret = "{state.ami_secret}"

[fastagi]
host = "{host}"
port = {port}

[speech]
cache_dir = "{folder}/speech"

[numbers]
allowed_regions = ["CN", "US", "ES", "GB"]

[[trunks]]
name = "carrier"
endpoint = "{state.trunks[0]}"

{client_toml("lab", key_hash, "Lab")}
[log]
format = "console"
"""


@lab_app.command("call")
def lab_call(
    number: Annotated[str, typer.Argument(help="What the PBX dials, such as +8613800000001.")],
    trunk: Annotated[str, typer.Option(help="The PBX's endpoint to dial through.")] = "carrier",
    seconds: Annotated[
        float, typer.Option(min=0.1, max=60.0, help="Hang up so long after the answer.")
    ] = 3.0,
    lab: Annotated[int | None, typer.Option(help="The lab's number, where several are up.")] = None,
    as_json: Json = False,
) -> None:
    """Let the lab's PBX ring one of its subscribers, without a controller, and tell what came of it."""
    if not number or not set(number) <= set("+0123456789*#"):
        fail(Exit.USAGE, f"{number!r} can't be dialled; write digits, +, * and # only")
    quiet_logs()
    state = _running_lab(lab)
    if trunk not in state.trunks:
        fail(Exit.USAGE, f"the lab has no trunk {trunk!r}; it has {', '.join(state.trunks)}")
    ended = run(_lab_call(state, number, trunk, seconds))
    if as_json:
        print_json(ended)
    else:
        answered = ended["answered_at"] is not None
        print(
            f"{number}: {'answered' if answered else 'not answered'}, SIP {ended['final_code'] or 'unknown'}"
        )
    raise typer.Exit(Exit.OK if ended["final_code"] == 200 else Exit.FAILED)


async def _lab_call(state: LabState, number: str, trunk: str, seconds: float) -> dict[str, Any]:
    """Originate, and return the carrier's own account of the call."""
    from telephony.net.ami import AmiClient, AmiConfig

    log = Path(state.calls_log)
    seen = _length(log)
    manager = AmiClient(
        AmiConfig(
            host=state.pbx_address,
            port=state.ami_port,
            username=state.test_user,
            secret=state.test_secret,
            events="off",
        )
    )
    order = (
        ("Channel", f"PJSIP/{number}@{trunk}"),
        ("Timeout", "30000"),
        ("Application", "Wait"),
        ("Data", f"{seconds:g}"),
        ("Async", "true"),
    )
    await manager.start()
    try:
        if not await manager.wait_connected(5.0):
            fail(Exit.UNREACHABLE, f"the lab's PBX does not answer at {state.pbx_address}:{state.ami_port}")
        await manager.action("Originate", order)
        deadline = time.monotonic() + LAB_CALL_SECONDS + seconds
        while True:
            for entry in _log_entries(log, seen):
                if entry["event"] == "ended" and entry["number"] == number and not entry["placed"]:
                    return entry
            if time.monotonic() > deadline:
                fail(Exit.FAILED, f"the carrier saw no end of a call to {number}")
            await asyncio.sleep(0.1)
    finally:
        await manager.stop()


def _length(log: Path) -> int:
    """Bytes of a file, 0 where there is none yet."""
    return log.stat().st_size if log.exists() else 0


def _log_entries(log: Path, start: int) -> Iterator[dict[str, Any]]:
    """The whole lines of the carrier's log from `start` (bytes)."""
    if not log.exists():
        return
    with log.open("rb") as file:
        file.seek(start)
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


@lab_app.command("down")
def lab_down(
    lab: Annotated[int | None, typer.Option(help="The lab's number, where several are up.")] = None,
    as_json: Json = False,
) -> None:
    """End a lab that runs elsewhere on this machine."""
    from telephony.lab import down

    state = _running_lab(lab)
    run(down(state))
    if as_json:
        print_json({"number": state.number, "pid": state.pid, "ended": True})
    else:
        print(f"lab {state.number} has ended")


def _running_lab(number: int | None) -> LabState:
    """The lab of this number, or the only one there is."""
    from telephony.lab import running_labs

    labs = [state for state in running_labs() if number in (None, state.number)]
    if not labs:
        fail(Exit.UNREACHABLE, "no such lab is up; `telephony lab up` starts one")
    if len(labs) > 1:
        numbers = ", ".join(str(state.number) for state in labs)
        fail(Exit.USAGE, f"several labs are up ({numbers}); choose one with --lab")
    return labs[0]
