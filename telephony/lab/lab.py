"""The lab itself: a PBX and a carrier brought up together on loopback addresses of their own.

Each lab on a machine takes a number and with it the addresses 127.77.NUMBER.1 and .4 (PBX), .2 and .3 (the
carrier's two trunks), so labs run beside each other and beside a PBX that listens everywhere. What it
never does: leave a process or a folder behind after `stop`, or survive the process that started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import math
import os
import secrets
import shutil
import signal
import socket
import struct
import tempfile
import wave
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TypeVar

from telephony.errors import LabError
from telephony.lab.carrier import Carrier, Subscriber
from telephony.lab.config import CarrierOptions, PbxOptions, write_carrier, write_pbx
from telephony.lab.instance import AsteriskInstance
from telephony.lab.providers import AsteriskProgram, Progress, find_asterisk

_T = TypeVar("_T")

_NUMBERS = range(1, 250)
_SIP_PORTS = range(15060, 15160, 10)
_AMI_PORTS = range(15038, 15138, 10)
_AGI_PORTS = range(14573, 14673, 10)
# A UNIX socket's path may have 107 characters; the longest of ours is `/NNN/carrier/run/asterisk.ctl`.
_LONGEST_RUNTIME_DIR = 75
_TRUNK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class LabState:
    """What another process needs to know of a running lab; kept as JSON in `Lab.state_file`.

    `ami_user` has the controller's rights and no more; `test_user` has every right. `agi` is where the
    PBX's dialplan looks for the controller. `trunks` are endpoint names in the PBX; beside them is
    `carrier-strict`, whose carrier takes alaw only, and keys by SIP INFO. `calls_log` has a JSON line for
    each call's arrival at the carrier and for its end.
    """

    number: int
    pid: int
    run_dir: str
    version: str
    pbx_address: str
    pbx_address_b: str
    carrier_address: str
    carrier_address_b: str
    sip_port: int
    ami_port: int
    ami_user: str
    ami_secret: str
    test_user: str
    test_secret: str
    agi: str
    trunks: tuple[str, ...]
    calls_log: str


class Lab:
    """A PBX and a carrier. `async with Lab() as lab:` or `start` and `stop`, from the main thread.

    `agi_host` and `agi_port` are where the controller's FastAGI server listens (by default on the PBX's
    address, on a port that is free: see `agi`); `agi_globals` are further globals of the PBX's dialplan;
    `debug` fills both full logs; `program` is an Asterisk found before; `progress` is told what happens.
    `keep_recordings` is a folder for the recordings that stays; else they go with the lab.
    """

    def __init__(
        self,
        *,
        program: AsteriskProgram | None = None,
        agi_host: str | None = None,
        agi_port: int | None = None,
        agi_globals: Mapping[str, str] | None = None,
        debug: bool = False,
        keep_recordings: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._program = program
        self._agi_host = agi_host
        self._agi_port = agi_port
        self._globals = dict(agi_globals or {})
        self._debug = debug
        self._keep_recordings = keep_recordings
        self._progress = progress or (lambda _line: None)
        self._lock: IO[str] | None = None
        self._run_dir: Path | None = None
        self._pbx: AsteriskInstance | None = None
        self._carrier: Carrier | None = None
        self._state: LabState | None = None

    @property
    def pbx(self) -> AsteriskInstance:
        """The PBX; its AMI user is the controller's."""
        return _there(self._pbx)

    @property
    def carrier(self) -> Carrier:
        """The carrier and its subscribers."""
        return _there(self._carrier)

    @property
    def state(self) -> LabState:
        """Addresses, ports and users."""
        return _there(self._state)

    @property
    def state_file(self) -> Path:
        """Where `state` stands as JSON, readable by this user only."""
        return Path(self.state.run_dir) / "lab.json"

    @property
    def agi(self) -> tuple[str, int]:
        """(host, port) where the PBX's dialplan looks for the controller's FastAGI server."""
        host, _, port = self.state.agi.rpartition(":")
        return host, int(port)

    async def start(self) -> None:
        """Bring both up, and return when the PBX sees its trunks alive. Raises `LabError`."""
        if self._lock is not None:
            raise LabError("this lab is up already")
        program = self._program or await find_asterisk(progress=self._progress)
        try:
            self._prepare(program)
            await self.carrier.listen()
            self._write()
            self._progress(f"starting a PBX and a carrier (Asterisk {program.version})")
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.carrier.asterisk.start())
                tasks.create_task(self.pbx.start())
            await self.carrier.connect()
            await self._trunks_alive()
            self._write_state()
        except BaseException as error:
            await self.stop()
            if isinstance(error, ExceptionGroup):
                raise error.exceptions[0] from None
            raise
        self._progress(
            f"lab {self.state.number} is up: PBX {self.pbx.address}, carrier {self.state.carrier_address}"
        )

    async def stop(self) -> None:
        """End both, and remove everything. Does nothing where nothing is up."""
        instances = [self._pbx] if self._pbx is not None else []
        if self._carrier is not None:
            instances.append(self._carrier.asterisk)
        try:
            if self._carrier is not None:
                await self._carrier.close()
            await asyncio.gather(*(instance.stop() for instance in instances))
        finally:
            if self._run_dir is not None:
                shutil.rmtree(self._run_dir, ignore_errors=True)
            if self._lock is not None:
                self._lock.close()
            self._lock = None
            self._run_dir = None

    async def __aenter__(self) -> Lab:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # --- bringing it up ---------------------------------------------------------------------------

    def _prepare(self, program: AsteriskProgram) -> None:
        """Take a number, a folder and free ports, and make the two instances."""
        number, self._lock, run_dir = _take_number()
        self._run_dir = run_dir
        addresses = [f"127.77.{number}.{host}" for host in (1, 2, 3, 4)]
        sip_port = _free_port(addresses, _SIP_PORTS, socket.SOCK_DGRAM)
        ami_port = _free_port(addresses, _AMI_PORTS, socket.SOCK_STREAM)
        agi_host = self._agi_host or addresses[0]
        agi_port = self._agi_port or _free_port([agi_host], _AGI_PORTS, socket.SOCK_STREAM)
        self._state = LabState(
            number=number,
            pid=os.getpid(),
            run_dir=str(run_dir),
            version=program.version,
            pbx_address=addresses[0],
            pbx_address_b=addresses[3],
            carrier_address=addresses[1],
            carrier_address_b=addresses[2],
            sip_port=sip_port,
            ami_port=ami_port,
            ami_user="telephony",
            ami_secret=secrets.token_hex(12),
            test_user="test",
            test_secret=secrets.token_hex(12),
            agi=f"{agi_host}:{agi_port}",
            trunks=("carrier", "carrier-alaw", "carrier-b"),
            calls_log=str(run_dir / "calls.jsonl"),
        )
        self._pbx = AsteriskInstance(
            program,
            name="the PBX",
            run_dir=run_dir / "pbx",
            address=addresses[0],
            sip_port=sip_port,
            ami_port=ami_port,
            ami_user=self._state.ami_user,
            ami_secret=self._state.ami_secret,
        )
        carrier = AsteriskInstance(
            program,
            name="the carrier",
            run_dir=run_dir / "carrier",
            address=addresses[1],
            sip_port=sip_port,
            ami_port=ami_port,
            ami_user="lab",
            ami_secret=secrets.token_hex(12),
        )
        recordings = self._keep_recordings or run_dir / "heard"
        self._carrier = Carrier(carrier, recordings=recordings, log_file=run_dir / "calls.jsonl")

    def _write(self) -> None:
        state = self.state
        write_pbx(
            self.pbx,
            PbxOptions(
                agi=state.agi,
                address_b=state.pbx_address_b,
                carrier_address=state.carrier_address,
                carrier_address_b=state.carrier_address_b,
                carrier_port=state.sip_port,
                test_user=state.test_user,
                test_secret=state.test_secret,
                globals=self._globals,
                debug=self._debug,
            ),
        )
        write_carrier(
            self.carrier.asterisk,
            CarrierOptions(
                agi=self.carrier.agi,
                address_b=state.carrier_address_b,
                pbx_address=state.pbx_address,
                pbx_address_b=state.pbx_address_b,
                pbx_port=state.sip_port,
                debug=self._debug,
            ),
        )
        _write_beep(self.carrier.beep)

    async def _trunks_alive(self) -> None:
        """Wait until the PBX has had an answer from each trunk; it asks every few seconds by itself."""
        for trunk in self.state.trunks:
            await self.pbx.console(f"pjsip qualify {trunk}")
        deadline = asyncio.get_running_loop().time() + _TRUNK_SECONDS
        while (await self.pbx.console("pjsip show contacts")).count(" Avail ") < len(self.state.trunks):
            if asyncio.get_running_loop().time() > deadline:
                raise LabError("the PBX does not see its trunks alive; is UDP on loopback filtered?")
            await asyncio.sleep(0.05)

    def _write_state(self) -> None:
        self.state_file.touch(mode=0o600)
        self.state_file.write_text(json.dumps(asdict(self.state), indent=2) + "\n")


async def up(
    *,
    default: Subscriber | None = None,
    agi_host: str | None = None,
    agi_port: int | None = None,
    debug: bool = False,
    progress: Progress | None = None,
    ready: asyncio.Event | None = None,
) -> None:
    """Run a lab until SIGTERM or SIGINT comes; `default` answers every number. Raises `LabError`.

    Other processes find it by `running_labs` and end it by `down`.
    """
    lab = Lab(agi_host=agi_host, agi_port=agi_port, debug=debug, progress=progress)
    enough = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, enough.set)
    try:
        async with lab:
            lab.carrier.default = default
            if ready is not None:
                ready.set()
            await enough.wait()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def down(state: LabState, *, timeout: float = 15.0) -> None:
    """Ask the process that runs a lab to end it; `LabError` where it stands after `timeout` seconds."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(state.pid, signal.SIGTERM)
    deadline = asyncio.get_running_loop().time() + timeout
    while any(lab.number == state.number and lab.pid == state.pid for lab in running_labs()):
        if asyncio.get_running_loop().time() > deadline:
            raise LabError(f"lab {state.number} (process {state.pid}) did not end within {timeout:.0f} s")
        await asyncio.sleep(0.1)


def running_labs() -> list[LabState]:
    """Every lab of this user that is up now, by its number."""
    found = []
    for path in sorted(_runtime_dir().glob("*/lab.json"), key=lambda p: int(p.parent.name)):
        lock = path.parent.with_suffix(".lock")
        if _is_locked(lock):
            with contextlib.suppress(OSError, ValueError, TypeError):
                values = json.loads(path.read_text())
                found.append(LabState(**{**values, "trunks": tuple(values["trunks"])}))
    return found


def _there(value: _T | None) -> _T:
    if value is None:
        raise LabError("the lab is not up")
    return value


def _runtime_dir() -> Path:
    """A folder of this user's own for locks and running labs, short enough for UNIX sockets."""
    name = f"telephony-lab-{os.getuid()}"
    path = Path(tempfile.gettempdir()) / name
    if len(str(path)) > _LONGEST_RUNTIME_DIR:
        path = Path("/tmp") / name
    path.mkdir(mode=0o700, exist_ok=True)
    if path.is_symlink() or path.stat().st_uid != os.getuid():
        raise LabError(f"{path} belongs to somebody else; remove it, or set TMPDIR")
    return path


def _take_number() -> tuple[int, IO[str], Path]:
    """Return a free lab number, the lock that holds it, and its folder."""
    base = _runtime_dir()
    _sweep(base)
    # Each user begins elsewhere: locks are per user, addresses are the machine's.
    start = os.getuid() * 37
    for step in _NUMBERS:
        number = (start + step - 1) % len(_NUMBERS) + 1
        lock = (base / f"{number}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        run_dir = base / str(number)
        shutil.rmtree(run_dir, ignore_errors=True)
        run_dir.mkdir(mode=0o700)
        return number, lock, run_dir
    raise LabError(f"{len(_NUMBERS)} labs run already; end one")


def _sweep(base: Path) -> None:
    """Remove what labs left behind whose process was killed."""
    for run_dir in base.iterdir():
        if not run_dir.is_dir():
            continue
        with run_dir.with_suffix(".lock").open("w") as lock, contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(run_dir, ignore_errors=True)


def _is_locked(path: Path) -> bool:
    try:
        with path.open() as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _free_port(addresses: Iterable[str], candidates: Iterable[int], kind: socket.SocketKind) -> int:
    """Return the first port that is free on every address: outside the range the kernel hands out."""
    addresses = list(addresses)
    for port in candidates:
        with contextlib.ExitStack() as stack:
            try:
                for address in addresses:
                    probe = stack.enter_context(socket.socket(socket.AF_INET, kind))
                    probe.bind((address, port))
            except OSError:
                continue
            return port
    raise LabError(f"no free port among {candidates} on {', '.join(addresses)}")


def _write_beep(path: Path) -> None:
    """Write half a second of 1 kHz: an answering machine's tone, whatever sounds are installed."""
    samples = (int(12000 * math.sin(2 * math.pi * 1000 * n / 8000)) for n in range(4000))
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
