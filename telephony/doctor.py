"""Holds a configuration against the machine and the PBX that it names, one finding at a time.

What it never does: change anything, place a call, or migrate a store.
"""

from __future__ import annotations

import asyncio
import errno
import re
import socket
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

import aiohttp
from sqlalchemy import select

from telephony.app import ami_config
from telephony.errors import PbxAuthError, PbxError, PbxRejected, TelephonyError, WireError
from telephony.net.ami import AmiClient
from telephony.resources import data_dir
from telephony.settings import Settings
from telephony.speech.engine import EspeakNg
from telephony.store.engines import open_engine

OLDEST_ASTERISK: Final = 20
NEEDED_ACTIONS: Final = ("Originate", "Hangup", "Getvar", "Setvar", "CoreShowChannels", "CoreStatus", "DBGet")
TOO_MUCH: Final = ("Command", "UpdateConfig", "ModuleLoad", "Reload")
"""Actions of the classes `command`, `config` and `system`: whoever has them can run programs on the PBX."""

CLOCKS_APART: Final = 2.0
"""Seconds from which on the clocks of PBX and controller are told to differ."""

SECONDS: Final = 5.0
_CONTEXT: Final = re.compile(r"^\[(telephony-[a-z-]+)\]", re.MULTILINE)
_EVERYWHERE: Final = ("0.0.0.0", "::")  # noqa: S104 - what a configuration may say, not what we bind
_GONE: Final = ("", "INVALID")
"""What `DEVICE_STATE` says of an endpoint that is not there."""


class Level(StrEnum):
    """How bad a finding is: with a fault, calls fail."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one part, and what mends it."""

    part: str
    level: Level
    found: str
    mend: str = ""


async def examine(settings: Settings) -> AsyncIterator[Finding]:
    """Look at speech, store, ports and PBX in turn; what cannot be looked at is a finding too."""
    yield await _speech()
    yield await _store(settings)
    yield await _http(settings)
    yield _agi_port(settings)
    async for finding in _pbx(settings):
        yield finding


async def _speech() -> Finding:
    try:
        engine = await asyncio.to_thread(lambda: EspeakNg().fingerprint)
    except TelephonyError as error:
        return Finding("speech", Level.WARNING, str(error), "Recordings alone must say everything then")
    return Finding("speech", Level.OK, engine)


async def _store(settings: Settings) -> Finding:
    url = settings.store.url
    path = Path(url.removeprefix("sqlite:///"))
    if url.startswith("sqlite:") and not await asyncio.to_thread(path.exists):
        return Finding("store", Level.OK, f"{path} will be made at the first start")
    try:
        engine = open_engine(url, deadline=SECONDS)
        try:
            async with engine.reading() as connection:
                await connection.execute(select(1))
        finally:
            await engine.close()
    except TelephonyError as error:
        return Finding("store", Level.FAULT, str(error), "See that it is up, and who may connect to it")
    return Finding("store", Level.OK, "answers")


async def _http(settings: Settings) -> Finding:
    """A controller that runs already tells of itself; else its port must be free."""
    host, port = settings.server.host, settings.server.port
    part = f"http {host}:{port}"
    reached = "localhost" if host in _EVERYWHERE else host
    with suppress(aiohttp.ClientError, TimeoutError, ValueError):
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SECONDS)) as session,
            session.get(f"http://{reached}:{port}/readyz") as reply,
        ):
            parts = (await reply.json()).get("parts", {})
            wrong = [f"{name}: {state}" for name, state in parts.items() if state != "ok"]
            if reply.status == 200:
                return Finding(part, Level.OK, "a controller runs and is ready")
            return Finding(part, Level.FAULT, f"a controller runs but is not ready ({', '.join(wrong)})")
    return _port(part, host, port, "server.port")


def _agi_port(settings: Settings) -> Finding:
    agi = settings.fastagi
    return _port(f"fastagi {agi.host}:{agi.port}", agi.host, agi.port, "fastagi.port")


def _port(part: str, host: str, port: int, key: str) -> Finding:
    try:
        family, kind, proto, _name, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, proto) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return Finding(part, Level.OK, "is in use, by a controller that runs, or by somebody else")
        return Finding(
            part, Level.FAULT, f"cannot be listened on: {error.strerror}", f"Mend {key} or its host"
        )
    return Finding(part, Level.OK, "is free")


async def _pbx(settings: Settings) -> AsyncIterator[Finding]:
    config = replace(ami_config(settings), events="off", event_names=())
    part = f"manager {config.host}:{config.port}"
    ami = AmiClient(config)
    try:
        await ami.start()
        if not await ami.wait_connected(config.connect_timeout + config.action_timeout):
            yield Finding(
                part, Level.FAULT, "does not answer", "See [pbx.ami], and manager.conf: enabled, bindaddr"
            )
            return
        yield Finding(part, Level.OK, f"lets {config.username} in")
        yield await _looked("version", _version(ami))
        yield await _looked("clock", _clock(ami))
        yield await _looked("rights", _rights(ami))
        yield await _looked("dialplan", _dialplan(ami))
        yield await _looked("TELEPHONY_AGI", _agi_address(ami, settings))
        for endpoint in dict.fromkeys(trunk.endpoint for trunk in settings.trunks):
            yield await _looked(f"endpoint {endpoint}", _endpoint(ami, endpoint))
    except PbxAuthError as error:
        yield Finding(part, Level.FAULT, str(error), "Make user, secret and permit of manager.conf agree")
    finally:
        await ami.stop()


async def _looked(part: str, look: Coroutine[None, None, Finding]) -> Finding:
    try:
        return await look
    except PbxAuthError:
        raise
    except (PbxError, WireError) as error:
        return Finding(part, Level.FAULT, str(error))


async def _version(ami: AmiClient) -> Finding:
    version = (await ami.action("CoreSettings")).get("AsteriskVersion")
    major = re.match(r"\d+", version)
    if major and int(major[0]) < OLDEST_ASTERISK:
        return Finding("version", Level.FAULT, f"Asterisk {version}", f"Install {OLDEST_ASTERISK} or newer")
    return Finding("version", Level.OK, f"Asterisk {version}")


async def _clock(ami: AmiClient) -> Finding:
    seconds = float(await _variable(ami, "STRFTIME(,,%s.%3q)"))
    apart = abs(seconds - time.time())
    if apart > CLOCKS_APART:
        return Finding("clock", Level.WARNING, f"is {apart:.0f} s away from ours", "Run NTP on both machines")
    return Finding("clock", Level.OK, "agrees with ours")


async def _rights(ami: AmiClient) -> Finding:
    reply = await ami.action("ListCommands")
    may = {name for name, _ in reply.message.headers}
    missing = [name for name in NEEDED_ACTIONS if name not in may]
    if missing:
        mend = "Give it the rights of docs/dialplan.md in manager.conf, then: manager reload"
        return Finding("rights", Level.FAULT, f"the user lacks {', '.join(missing)}", mend)
    beyond = [name for name in TOO_MUCH if name in may]
    if beyond:
        mend = "Take system, command and config out of write= in manager.conf"
        return Finding(
            "rights", Level.WARNING, f"the user may {', '.join(beyond)}, which we never need", mend
        )
    return Finding("rights", Level.OK, "what is needed and no more")


async def _dialplan(ami: AmiClient) -> Finding:
    shipped = (data_dir("dialplans") / "asterisk" / "telephony.conf").read_text()
    contexts = _CONTEXT.findall(shipped)
    missing = [one for one in contexts if await _variable(ami, f"DIALPLAN_EXISTS({one})") != "1"]
    if len(missing) == len(contexts):
        return Finding("dialplan", Level.FAULT, "is not there", "#include telephony.conf in extensions.conf")
    if missing:
        mend = "Copy the telephony.conf of this version, then: dialplan reload"
        return Finding("dialplan", Level.FAULT, f"lacks {', '.join(missing)}", mend)
    return Finding("dialplan", Level.OK, f"{len(contexts)} contexts of ours")


async def _agi_address(ami: AmiClient, settings: Settings) -> Finding:
    agi = settings.fastagi
    told = await _variable(ami, "TELEPHONY_AGI")
    ours = agi.advertise or f"{agi.host}:{agi.port}"
    if told == ours or (agi.advertise and told):
        return Finding("TELEPHONY_AGI", Level.OK, told)
    mend = f"Write TELEPHONY_AGI={ours} below [globals] in extensions.conf, then: dialplan reload"
    if not told:
        level = Level.WARNING if agi.advertise else Level.FAULT
        return Finding("TELEPHONY_AGI", level, "is not set in the dialplan", mend)
    return Finding("TELEPHONY_AGI", Level.WARNING, f"is {told}, and we listen on {ours}", mend)


async def _endpoint(ami: AmiClient, name: str) -> Finding:
    part = f"endpoint {name}"
    state = await _variable(ami, f"DEVICE_STATE(PJSIP/{name})")
    if state in _GONE:
        return Finding(
            part, Level.FAULT, "is not there", "See `pjsip show endpoints`, and the trunk's endpoint"
        )
    if state == "UNAVAILABLE":
        mend = "See `pjsip show contacts`: its carrier does not answer OPTIONS, or has not registered"
        return Finding(part, Level.FAULT, "cannot be reached", mend)
    return Finding(part, Level.OK, state.lower().replace("_", " "))


async def _variable(ami: AmiClient, name: str) -> str:
    try:
        return (await ami.action("Getvar", [("Variable", name)])).get("Value")
    except PbxRejected:
        return ""
