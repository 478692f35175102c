"""Databases for tests: a file for SQLite, a private server for PostgreSQL.

It never touches a PostgreSQL that runs on the machine: the server it starts has its own folder, a free
port on loopback and no Unix socket, and ends with the test session.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from telephony.errors import StoreUnavailable
from telephony.store import Store

_SETTINGS = ("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=on")


@contextmanager
def commits_unheard(store: Store) -> Iterator[None]:
    """Meanwhile transactions are committed, and only a broken connection is heard of it."""
    working = store.engine.writing

    @asynccontextmanager
    async def broken() -> AsyncIterator[Any]:
        async with working() as connection:
            yield connection
        raise StoreUnavailable("the connection broke during the commit")

    with patch.object(store.engine, "writing", broken):
        yield


class PostgresMissing(Exception):
    """There is no PostgreSQL to start; the message says why."""


class PostgresServer:
    """A server of our own, with `fsync` on, in a folder of our own."""

    def __init__(self, binaries: Path, folder: Path, account: dict[str, Any]) -> None:
        self._binaries = binaries
        self._folder = folder
        self._account = account
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(cls) -> PostgresServer:
        """Start one; raises `PostgresMissing` with the reason where that can't be done."""
        binaries = _binaries()
        account = _account()
        folder = Path(tempfile.mkdtemp(prefix="telephony-pg-"))
        if account:
            os.chown(folder, account["user"], account["group"])
        made = subprocess.run(
            [
                binaries / "initdb",
                "-D",
                folder / "data",
                "-A",
                "trust",
                "-U",
                "postgres",
                "-E",
                "UTF8",
                "--no-sync",
            ],
            capture_output=True,
            **account,
            cwd=folder,
            check=False,
        )
        if made.returncode != 0:
            shutil.rmtree(folder, ignore_errors=True)
            raise PostgresMissing(f"initdb failed: {made.stderr.decode(errors='replace')[-200:]}")
        server = cls(binaries, folder, account)
        server.run()
        return server

    def run(self) -> None:
        """Start it, at first or after `crash`; returns once it answers."""
        self._process = subprocess.Popen(
            [
                str(self._binaries / "postgres"),
                "-D",
                str(self._folder / "data"),
                "-p",
                str(self._port),
                *_SETTINGS,
            ],
            stdout=subprocess.DEVNULL,
            stderr=(self._folder / "log").open("ab"),
            **self._account,
            cwd=self._folder,
        )
        deadline = time.monotonic() + 20
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = (self._folder / "log").read_text(errors="replace")[-400:]
                self.stop()
                raise PostgresMissing(f"the server did not come up: {log}")
            time.sleep(0.05)

    def crash(self) -> None:
        """End it without a last checkpoint: `run` begins with a recovery."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGQUIT)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)

    def _ready(self) -> bool:
        answer = subprocess.run(
            [self._binaries / "pg_isready", "-h", "127.0.0.1", "-p", str(self._port)],
            capture_output=True,
            check=False,
        )
        return answer.returncode == 0

    def new_database(self, template: str = "template1") -> str:
        """Make an empty database, or a copy of `template`, and return its URL."""
        name = f"t{uuid.uuid4().hex}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        return f"postgresql://postgres@127.0.0.1:{self._port}/{name}"

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run a statement as the server's administrator; return what it printed."""
        command = [str(self._binaries / "psql"), "-h", "127.0.0.1", "-p", str(self._port), "-U", "postgres"]
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [*command, "-XAtq", "-d", database, "-c", statement], capture_output=True, check=True, text=True
        )
        return done.stdout.strip()

    def stop(self) -> None:
        """End the server at once and remove its folder: nobody reads it again."""
        self.crash()
        shutil.rmtree(self._folder, ignore_errors=True)


def _binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))
    if found:
        return found[-1].parent
    on_path = shutil.which("postgres")
    if on_path is None:
        raise PostgresMissing("no PostgreSQL server is installed (apt install postgresql)")
    return Path(on_path).resolve().parent


def _account() -> dict[str, Any]:
    """As whom to run: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    try:
        account = pwd.getpwnam("postgres")
    except KeyError as error:
        raise PostgresMissing("there is no user postgres to run the server as") from error
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
