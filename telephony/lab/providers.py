"""Where the lab's Asterisk comes from: one on the machine, or a private root file system.

The private root is made without root rights, chroot or debootstrap: apt, with a private state and an
empty package status, downloads Asterisk and all it depends on from the machine's own mirror, `dpkg-deb`
unpacks that into a cache folder, and Asterisk runs straight from there through the loader and the
libraries that came with it, so every path is the host's own.

What it never does: install anything on the machine, change its package state, or replace a root that
works by one that does not.
"""

# ruff: noqa: ASYNC240 - local files, looked at while nothing else waits

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from telephony.errors import LabError

Progress: TypeAlias = Callable[[str], None]
"""Takes one line of what is going on."""

OLDEST_MAJOR = 20
"""The oldest Asterisk that the lab and the dialplan work with."""

PACKAGES = ("asterisk", "asterisk-core-sounds-en-wav")

REQUIRED_MODULES = (
    "app_amd",
    "app_mixmonitor",
    "app_playback",
    "app_senddtmf",
    "cdr_csv",
    "chan_pjsip",
    "codec_alaw",
    "codec_ulaw",
    "format_pcm",
    "format_sln",
    "format_wav",
    "func_db",
    "func_groupcount",
    "pbx_config",
    "res_agi",
    "res_musiconhold",
    "res_pjsip",
    "res_pjsip_session",
    "res_rtp_asterisk",
)

_MARKER = "telephony-lab.json"
_BUILD_SECONDS = 600.0
_COMMAND_OUTPUT_LINES = 12


@dataclass(frozen=True, slots=True)
class AsteriskProgram:
    """An Asterisk that can be started with a configuration of our own.

    `command` is the start of its argument list; `module_dir` and `data_dir` are what `astmoddir` and
    `astdatadir` in asterisk.conf have to be; `source` is `local` or `rootfs`.
    """

    command: tuple[str, ...]
    version: str
    module_dir: Path
    data_dir: Path
    source: str


@dataclass(frozen=True, slots=True)
class AptSource:
    """One `deb` source of the machine's apt configuration: the mirror, and how it is trusted."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    signed_by: str = ""
    trusted: str = ""


async def find_asterisk(
    *, progress: Progress | None = None, refresh: bool = False, only: str | None = None
) -> AsteriskProgram:
    """Return an Asterisk to run, preparing one where that is needed.

    The ways are tried in order: an `asterisk` on PATH, then the private root. `only` (or
    `TELEPHONY_LAB_PROVIDER`) names the one to use. `refresh` builds the private root anew; where that
    fails, the last good one serves. Raises `LabError` that says, for every way, what is missing.
    """
    say = progress or (lambda _line: None)
    wanted = only or os.environ.get("TELEPHONY_LAB_PROVIDER") or ""
    ways: dict[str, Callable[[], Awaitable[AsteriskProgram]]] = {
        "local": local_asterisk,
        "rootfs": lambda: private_root(say, refresh=refresh),
    }
    if wanted and wanted not in ways:
        raise LabError(f"there is no lab provider {wanted!r}; there are: {', '.join(ways)}")
    problems: list[str] = []
    for name, way in ways.items():
        if wanted and name != wanted:
            continue
        try:
            return await way()
        except LabError as error:
            problems.append(f"{name}: {error}")
    raise LabError("no Asterisk for the lab. " + " | ".join(problems))


async def local_asterisk() -> AsteriskProgram:
    """Return the `asterisk` on PATH (or in /usr/sbin), if it is new enough and complete."""
    path = shutil.which("asterisk", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if path is None:
        raise LabError(f"no `asterisk` on PATH (install Asterisk {OLDEST_MAJOR} or newer)")
    libraries = ("/usr/lib/*", "/usr/lib", "/usr/lib64", "/usr/local/lib")
    module_dirs = _globbed(f"{library}/asterisk/modules" for library in libraries)
    data_dirs = [
        d for d in _globbed(("/usr/share/asterisk", "/var/lib/asterisk")) if (d / "documentation").is_dir()
    ]
    if not module_dirs or not data_dirs:
        raise LabError(f"{path} is there, but its modules or its documentation folder were not found")
    return await _checked((path,), module_dirs[0], data_dirs[0], "local")


async def private_root(progress: Progress, *, refresh: bool = False) -> AsteriskProgram:
    """Return the cached private root, building it first where there is none (or `refresh` asks)."""
    cache = cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    async with _locked(cache / "build.lock", progress):
        kept: AsteriskProgram | None = None
        with contextlib.suppress(LabError):
            kept = await _program_in(_current(cache))
        if kept is not None and not refresh:
            return kept
        try:
            return await _build(cache, progress)
        except LabError as error:
            if kept is None:
                raise
            progress(f"a fresh root could not be built, the last good one serves: {error}")
            return kept


def cache_dir() -> Path:
    """Where private roots are kept: `TELEPHONY_LAB_CACHE`, or a folder in the user's cache."""
    named = os.environ.get("TELEPHONY_LAB_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "telephony" / "lab"


# --- the private root ---------------------------------------------------------------------------------


async def _build(cache: Path, progress: Progress) -> AsteriskProgram:
    """Build a root beside the current one and make it the current one; raise `LabError` and keep the old."""
    for tool in ("apt-get", "dpkg-deb", "dpkg"):
        if shutil.which(tool) is None:
            raise LabError(
                f"no `{tool}`: a private root can only be made on Debian or Ubuntu;"
                f" install Asterisk {OLDEST_MAJOR} or newer instead"
            )
    for leftover in cache.glob("building-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    started = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix="building-", dir=cache))
    try:
        async with asyncio.timeout(_BUILD_SECONDS):
            root = work / "root"
            root.mkdir()
            suite, debs = await _download(work, progress)
            progress(f"unpacking {len(debs)} packages")
            await _unpack(debs, root)
            _finish_root(root)
            program = await _program_in(root)
            marker = {"version": program.version, "suite": suite, "built_at": int(time.time())}
            (root / _MARKER).write_text(json.dumps(marker) + "\n")
            final = cache / f"root-{re.split('[+~]', program.version)[0]}-{int(time.time())}"
            root.rename(final)
            _make_current(cache, final)
    except TimeoutError as error:
        raise LabError(f"the mirror was too slow: no root after {_BUILD_SECONDS:.0f} s") from error
    except OSError as error:
        raise LabError(f"the root could not be written to {cache}: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    progress(f"Asterisk {program.version} is ready ({time.monotonic() - started:.0f} s)")
    return await _program_in(final)


async def _download(work: Path, progress: Progress) -> tuple[str, list[Path]]:
    """Download Asterisk with its whole closure; return the suite and the packages."""
    release = _os_release()
    source = machine_source(apt_source_texts(), release)
    suite, components = _suite_for(release)
    architecture = (await _run("dpkg", "--print-architecture")).strip()
    config = _write_apt_config(work, source, suite, components, architecture)
    apt = ("apt-get", "-c", str(config), "-q")
    progress(f"reading the package list of {suite} from the machine's own mirror")
    await _run(*apt, "update", hint=f"`apt-get update` for {suite} failed")
    progress(f"downloading Asterisk from {suite}")
    hint = f"{suite} does not offer an installable Asterisk today"
    await _run(*apt, "install", "--download-only", "--no-install-recommends", "-y", *PACKAGES, hint=hint)
    debs = sorted((work / "cache" / "archives").glob("*.deb"))
    if not debs:
        raise LabError(f"{hint}: nothing was downloaded")
    return suite, debs


def _write_apt_config(work: Path, source: AptSource, suite: str, components: str, architecture: str) -> Path:
    """Write an apt configuration whose state is all in `work`; proxies and checks stay the machine's."""
    for folder in ("state/lists/partial", "cache/archives/partial", "empty"):
        (work / folder).mkdir(parents=True)
    (work / "status").touch()
    lines = ["Types: deb", f"URIs: {' '.join(source.uris)}", f"Suites: {suite}", f"Components: {components}"]
    if source.signed_by:
        lines.append(f"Signed-By: {source.signed_by}")
    if source.trusted:
        lines.append(f"Trusted: {source.trusted}")
    (work / "lab.sources").write_text("\n".join(lines) + "\n")
    config = work / "apt.conf"
    config.write_text(
        # Hooks of the machine's own apt work on its own state, not on this one.
        "#clear APT::Update::Pre-Invoke;\n"
        "#clear APT::Update::Post-Invoke;\n"
        "#clear APT::Update::Post-Invoke-Success;\n"
        "#clear DPkg::Post-Invoke;\n"
        "#clear APT::Architectures;\n"
        f'APT::Architectures "{architecture}";\n'
        'APT::Default-Release "";\n'
        # The user that apt downloads as may not reach a folder in somebody's home.
        'APT::Sandbox::User "root";\n'
        'Acquire::Languages "none";\n'
        f'Dir::Etc::sourcelist "{work}/lab.sources";\n'
        f'Dir::Etc::sourceparts "{work}/empty";\n'
        'Dir::Etc::preferences "/dev/null";\n'
        f'Dir::Etc::preferencesparts "{work}/empty";\n'
        f'Dir::State "{work}/state";\n'
        f'Dir::State::status "{work}/status";\n'
        f'Dir::Cache "{work}/cache";\n'
        f'Dir::Cache::archives "{work}/cache/archives";\n'
        f'Dir::Log "{work}";\n'
        'Binary::apt-get::APT::Keep-Downloaded-Packages "true";\n'
        'APT::Keep-Downloaded-Packages "true";\n'
    )
    return config


async def _unpack(debs: Iterable[Path], root: Path) -> None:
    """Unpack every package into `root`, one process per core."""
    slots = asyncio.Semaphore(os.cpu_count() or 1)

    async def one(deb: Path) -> None:
        async with slots:
            await _run("dpkg-deb", "-x", str(deb), str(root), hint=f"{deb.name} could not be unpacked")
            deb.unlink()

    async with asyncio.TaskGroup() as tasks:
        for deb in debs:
            tasks.create_task(one(deb))


def _finish_root(root: Path) -> None:
    """Do what the packages' own scripts would have done, and drop what the lab never reads."""
    for folder in ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info"):
        shutil.rmtree(root / folder, ignore_errors=True)
    sounds = root / "usr/share/asterisk/sounds"
    voice = sounds / "en_US_f_Allison"
    if voice.is_dir() and not (sounds / "en").exists():
        (sounds / "en").symlink_to(voice.name)


async def _program_in(root: Path) -> AsteriskProgram:
    """Return the Asterisk of an unpacked root; raise `LabError` where it is incomplete."""
    binary = root / "usr/sbin/asterisk"
    loaders = sorted(root.glob("usr/lib/*/ld-linux*.so.*")) + sorted(root.glob("lib/*/ld-linux*.so.*"))
    modules = sorted(root.glob("usr/lib/*/asterisk/modules"))
    if not (binary.is_file() and loaders and modules):
        raise LabError(f"the root in {root} is incomplete")
    libraries = {str(loader.parent) for loader in loaders} | {str(modules[0].parent.parent)}
    command = (str(loaders[0]), "--argv0", "asterisk", "--library-path", ":".join(sorted(libraries)))
    return await _checked((*command, str(binary)), modules[0], root / "usr/share/asterisk", "rootfs")


def _current(cache: Path) -> Path:
    return (cache / "current").resolve()


def _make_current(cache: Path, root: Path) -> None:
    """Point `current` at `root` in one step; keep the one before, which a running lab may still use."""
    before = _current(cache)
    link = cache / "current.new"
    link.unlink(missing_ok=True)
    link.symlink_to(root.name)
    link.replace(cache / "current")
    for old in cache.glob("root-*"):
        if old.resolve() not in {root.resolve(), before}:
            shutil.rmtree(old, ignore_errors=True)


@contextlib.asynccontextmanager
async def _locked(path: Path, progress: Progress) -> AsyncIterator[None]:
    """Hold `path` locked, so that one process builds and the others wait for what it builds."""
    with path.open("w") as handle:
        deadline = time.monotonic() + _BUILD_SECONDS
        told = False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LabError(f"another process has held {path} for too long") from None
                if not told:
                    progress("another process is preparing the root; waiting for it")
                    told = True
                await asyncio.sleep(0.1)
        yield


# --- the machine's apt sources ------------------------------------------------------------------------


def apt_source_texts(etc: Path = Path("/etc/apt")) -> list[tuple[str, str]]:
    """Return (name, text) of every source list that apt reads, in its order."""
    paths = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]
    return [
        (p.name, p.read_text(errors="replace"))
        for p in paths
        if p.suffix in {".list", ".sources"} and p.is_file()
    ]


def machine_source(texts: Iterable[tuple[str, str]], release: Mapping[str, str]) -> AptSource:
    """Return the first `deb` source that serves the machine's own release.

    `release` is what /etc/os-release says. Raises `LabError` where none does.
    """
    own = {release.get("VERSION_CODENAME", "")} - {""}
    if release.get("ID") == "debian":
        own |= {"sid", "unstable", "testing", "stable"}
    for name, text in texts:
        sources = _deb822_sources(text) if name.endswith(".sources") else _one_line_sources(text)
        for source in sources:
            if own & set(source.suites):
                return source
    raise LabError(
        f"no apt source in /etc/apt serves {'/'.join(sorted(own)) or 'this release'};"
        f" add the machine's mirror, or install Asterisk {OLDEST_MAJOR} or newer"
    )


def _deb822_sources(text: str) -> list[AptSource]:
    found = []
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        last = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1] in {" ", "\t"} and last:
                # A key block may stand in Signed-By itself; its lines have to stay lines.
                fields[last] += "\n" + line
            elif ":" in line:
                last, _, value = line.partition(":")
                last = last.strip().lower()
                fields[last] = value.strip()
        enabled = fields.get("enabled", "yes").lower() not in {"no", "false", "0"}
        if enabled and "deb" in fields.get("types", "").split() and fields.get("uris"):
            found.append(
                AptSource(
                    uris=tuple(fields["uris"].split()),
                    suites=tuple(fields.get("suites", "").split()),
                    signed_by=fields.get("signed-by", ""),
                    trusted=fields.get("trusted", ""),
                )
            )
    return found


def _one_line_sources(text: str) -> list[AptSource]:
    found = []
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[([^\]]*)\]\s*)?(\S+)\s+(\S+)", line)
        if match is None:
            continue
        options = {
            key.lower(): value
            for key, _, value in (item.partition("=") for item in (match.group(1) or "").split())
        }
        found.append(
            AptSource(
                uris=(match.group(2),),
                suites=(match.group(3),),
                signed_by=options.get("signed-by", "").replace(",", " "),
                trusted=options.get("trusted", ""),
            )
        )
    return found


def _suite_for(release: Mapping[str, str]) -> tuple[str, str]:
    """Return (suite, components) that has an Asterisk new enough for this distribution."""
    if release.get("ID") == "debian":
        return "sid", "main"
    codename = release.get("VERSION_CODENAME", "")
    if release.get("ID") == "ubuntu" and codename:
        return codename, "main universe"
    name = release.get("PRETTY_NAME", "this system")
    raise LabError(
        f"a private root can only be made on Debian or Ubuntu, not on {name};"
        f" install Asterisk {OLDEST_MAJOR} or newer"
    )


def _os_release(path: Path = Path("/etc/os-release")) -> dict[str, str]:
    if not path.is_file():
        return {}
    pairs = (line.partition("=") for line in path.read_text().splitlines() if "=" in line)
    return {key.strip(): value.strip().strip('"') for key, _, value in pairs}


# --- shared -------------------------------------------------------------------------------------------


async def _checked(command: tuple[str, ...], modules: Path, data: Path, source: str) -> AsteriskProgram:
    """Return the program after asking it for its version and looking for the modules it must have."""
    said = await _run(*command, "-V", hint="asterisk -V failed")
    match = re.search(r"Asterisk (?:GIT-|certified/)?(\d+)(\S*)", said)
    if match is None:
        raise LabError(f"asterisk -V said {said.strip()!r}, which is no version")
    if int(match.group(1)) < OLDEST_MAJOR:
        raise LabError(
            f"Asterisk {match.group(1)}{match.group(2)} is too old: {OLDEST_MAJOR} or newer is needed"
        )
    missing = [name for name in REQUIRED_MODULES if not (modules / f"{name}.so").is_file()]
    if missing:
        raise LabError(f"Asterisk in {modules} lacks {', '.join(missing)}")
    return AsteriskProgram(command, match.group(1) + match.group(2), modules, data, source)


async def _run(*command: str, hint: str = "") -> str:
    """Run to the end and return its output; `LabError` with the last lines where it fails."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = output.decode(errors="replace")
    if process.returncode != 0:
        tail = " / ".join(text.strip().splitlines()[-_COMMAND_OUTPUT_LINES:])
        raise LabError(f"{hint or command[0] + ' failed'}: {tail}")
    return text


def _globbed(patterns: Iterable[str]) -> list[Path]:
    return [path for pattern in patterns for path in sorted(Path("/").glob(pattern.lstrip("/")))]
