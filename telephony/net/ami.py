"""The AMI client: one connection to one Asterisk, kept up, and one queue of what happens there.

`AmiClient` joins the pure machine of `wire/ami.py` to a TCP or TLS connection, logs in, watches the peer with
`Ping`, and connects again after a loss.

What it never does: send an action twice, keep an unbounded queue or write buffer, try a refused password
again, or log a header's value.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
from collections import deque
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, cast

import structlog

from telephony.errors import (
    ConfigError,
    Overloaded,
    PbxAuthError,
    PbxError,
    PbxRejected,
    PbxTimeout,
    PbxUnavailable,
    RemoteProtocolError,
    TelephonyError,
)
from telephony.net.backoff import Backoff
from telephony.wire.ami import (
    DEFAULT_LIMITS,
    AmiLimits,
    AmiProtocol,
    Banner,
    Header,
    Message,
    Reply,
    challenge_headers,
    login_headers,
)

_log = structlog.get_logger(__name__)

# Seconds: silence before the kernel probes the peer, between probes, and unanswered probes until it gives up;
# then milliseconds: what the peer's kernel has not taken by then is never delivered. Whoever takes over a
# call from a controller that the network cut off counts on the last.
_TCP_OPTIONS: Final = (
    ("TCP_KEEPIDLE", 30),
    ("TCP_KEEPINTVL", 10),
    ("TCP_KEEPCNT", 3),
    ("TCP_USER_TIMEOUT", 5_000),
)
# What may lie unsent in our process before actions wait, in bytes.
_WRITE_BUFFER: Final = 65536
# How much is gathered before it is written.
_TOGETHER: Final = 4_096
# Seconds that a connection may take to close in good order.
_CLOSE_SECONDS: Final = 1.0
# Connects and losses that may lie unread before the queue is cut down to the newest.
_MAX_MARKS: Final = 256


@dataclass(frozen=True, slots=True)
class AmiConfig:
    """Where Asterisk's manager is and how to talk to it. Times are in seconds.

    `events` is the mask of the login (`on`, `off`, or classes as in `manager.conf`); `event_names`, where not
    empty, keeps only events of these names (the PBX's own `eventfilter` spares the bandwidth too).
    `md5=False` sends the secret itself, fit for TLS only. `ca_file` is a PEM file, empty for the system's own
    authorities; `server_hostname` is the name in the certificate, empty for `host`.
    """

    host: str
    port: int
    username: str
    secret: str = field(repr=False)
    md5: bool = True
    tls: bool = False
    ca_file: str = ""
    server_hostname: str = ""
    events: str = "on"
    event_names: Collection[str] = ()
    connect_timeout: float = 5.0
    action_timeout: float = 5.0
    ping_interval: float = 10.0
    event_queue_size: int = 10000
    backoff_min: float = 0.25
    backoff_max: float = 10.0
    limits: AmiLimits = DEFAULT_LIMITS


@dataclass(frozen=True, slots=True)
class Connected:
    """Logged in; everything up to the next `Disconnected` belongs to this session."""

    session: int


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The session is over; events between it and the next one are lost. `reason` is for people."""

    session: int
    reason: str


@dataclass(frozen=True, slots=True)
class EventsLost:
    """So many events stood here and were dropped, because the queue was full."""

    count: int


AmiEvent: TypeAlias = Message | Connected | Disconnected | EventsLost


class _EventQueue:
    """What one consumer reads: bounded, with a note in place of what did not fit.

    `Connected` and `Disconnected` are taken beyond the bound. Only when `_MAX_MARKS` of them lie unread, so
    nobody has read for that many sessions, all that lies there becomes one `EventsLost`.
    """

    def __init__(self, size: int) -> None:
        self.lost_total = 0
        self._size = size
        self._items: deque[AmiEvent] = deque()
        self._lost = 0
        self._marks = 0
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False

    def put_event(self, event: Message) -> None:
        if self._lost or len(self._items) - self._marks >= self._size:
            self._lost += 1
            self.lost_total += 1
            return
        self._items.append(event)
        self._wake()

    def put_mark(self, mark: Connected | Disconnected) -> None:
        if self._marks >= _MAX_MARKS:
            unread = sum(isinstance(item, Message) for item in self._items)
            self._lost += unread + sum(item.count for item in self._items if isinstance(item, EventsLost))
            self.lost_total += unread
            self._items.clear()
            self._marks = 0
        self._note_lost()
        self._items.append(mark)
        self._marks += 1
        self._wake()

    async def get(self) -> AmiEvent:
        if self._waiter is not None:
            raise RuntimeError("the AMI event queue has one consumer")
        while not self._items:
            if self._closed:
                raise PbxUnavailable("the AMI client is stopped", sent=False)
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        item = self._items.popleft()
        self._marks -= isinstance(item, Connected | Disconnected)
        self._note_lost()
        return item

    def close(self) -> None:
        """Let the consumer read what lies there, then `PbxUnavailable`."""
        self._closed = True
        self._wake()

    def _note_lost(self) -> None:
        if self._lost:
            self._items.append(EventsLost(self._lost))
            self._lost = 0

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class _Link(asyncio.Protocol):
    """One connection, from the connect to the loss."""

    def __init__(
        self,
        config: AmiConfig,
        events: _EventQueue,
        on_login: Callable[[_Link], None],
        on_lost: Callable[[_Link, str], None],
    ) -> None:
        self._events = events
        self._on_login = on_login
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._machine = AmiProtocol(f"{secrets.token_hex(8)}-", config.limits)
        self._names = frozenset(config.event_names)
        self._waiters: dict[str, asyncio.Future[Reply]] = {}
        self._login_id: str | None = None
        self._unsent = bytearray()
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport: asyncio.Transport | None = None
        self.greeted: asyncio.Future[None] = self._loop.create_future()
        self.lost: asyncio.Future[str] = self._loop.create_future()
        self.heard_at = self._loop.time()
        self.session = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _TCP_OPTIONS:
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def data_received(self, data: bytes) -> None:
        if self.lost.done():
            return
        self.heard_at = self._loop.time()
        try:
            items = self._machine.receive(data)
        except RemoteProtocolError as error:
            self.drop(str(error))
            return
        put_event = self._events.put_event
        names = self._names
        for item in items:
            if type(item) is Message:
                if not names or item.name in names:
                    put_event(item)
            elif type(item) is Reply:
                self._on_reply(item)
            elif type(item) is Banner:
                self.greeted.set_result(None)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.drop(f"the connection broke: {exc}" if exc else "the PBX closed the connection")

    def drop(self, reason: str) -> None:
        """End the connection now; every action in flight learns of it at once."""
        if self.lost.done():
            return
        self.lost.set_result(reason)
        self._writable.set()
        if self._transport is not None:
            self._transport.abort()
        for waiter in self._waiters.values():
            if not waiter.done():
                waiter.set_exception(PbxUnavailable(f"the AMI connection was lost: {reason}", sent=True))
        self._waiters.clear()
        self._on_lost(self, reason)

    async def close(self, reason: str) -> None:
        """Log off where we are logged in, wait a moment for the goodbye, and close."""
        if self.session:
            with suppress(PbxError):
                await self.request("Logoff", (), _CLOSE_SECONDS)
        self.drop(reason)

    async def request(
        self, name: str, headers: Iterable[Header], timeout: float, *, login: bool = False
    ) -> Reply:
        """Send one action and wait for its reply. Raises as `AmiClient.action`, but hands over a refusal."""
        deadline = self._loop.time() + timeout
        if not self._writable.is_set():
            await self._wait_writable(deadline)
        if self.lost.done() or self._transport is None:
            raise PbxUnavailable("not connected to Asterisk's manager", sent=False)
        try:
            action_id, data = self._machine.send(name, headers)
        except Overloaded as error:
            raise PbxUnavailable(str(error), sent=False) from None
        waiter: asyncio.Future[Reply] = self._loop.create_future()
        self._waiters[action_id] = waiter
        if login:
            self._login_id = action_id
        self._write(data)
        # A plain timer: `asyncio.timeout` costs several times as much, and this is what every call waits for.
        timer = self._loop.call_at(deadline, _expire, waiter, name, timeout)
        try:
            return await waiter
        finally:
            timer.cancel()
            if self._waiters.get(action_id) is waiter:
                del self._waiters[action_id]
                self._machine.abandon(action_id)

    def _write(self, data: bytes) -> None:
        """Write with whatever else is sent in this turn of the loop: each write wakes the PBX."""
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent += data
        if len(self._unsent) >= _TOGETHER:
            self._flush()

    def _flush(self) -> None:
        if self._unsent and self._transport is not None and not self.lost.done():
            self._transport.write(bytes(self._unsent))
        self._unsent.clear()

    async def _wait_writable(self, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                # Several may wait here; the first to wake may fill the buffer again.
                while not self._writable.is_set():
                    await self._writable.wait()
        except TimeoutError:
            raise PbxUnavailable("the AMI connection takes no more; nothing was sent", sent=False) from None

    def _on_reply(self, reply: Reply) -> None:
        # The session begins here, not when the login's waiter runs: events may follow in the same bytes.
        if reply.action_id == self._login_id and reply.ok:
            self._login_id = None
            self._on_login(self)
        waiter = self._waiters.pop(reply.action_id, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(reply)


def _expire(waiter: asyncio.Future[Reply], name: str, seconds: float) -> None:
    if not waiter.done():
        waiter.set_exception(PbxTimeout(f"the PBX did not answer {name} within {seconds:g} s"))


class AmiClient:
    """A connection to Asterisk's manager that comes back by itself. Belongs to one event loop."""

    def __init__(self, config: AmiConfig) -> None:
        self.config: Final = config
        self._events = _EventQueue(config.event_queue_size)
        self.session = 0
        """Number of the newest session: counts the logins, from 1."""
        self.fatal: PbxAuthError | None = None
        """Set once the PBX refuses our user or password: nothing is tried any more."""
        self._backoff = Backoff(config.backoff_min, config.backoff_max)
        self._link: _Link | None = None
        self._settled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether we are logged in: an action given now would reach the socket."""
        return self._link is not None

    def heard_within(self, seconds: float) -> bool:
        """Whether we are logged in and something came from the PBX so lately: its answer will."""
        link = self._link
        return link is not None and asyncio.get_running_loop().time() - link.heard_at <= seconds

    @property
    def events_lost_total(self) -> int:
        """How many events were dropped because the queue was full, ever."""
        return self._events.lost_total

    async def start(self) -> None:
        """Begin to connect and return at once. Raises `ConfigError` when `ca_file` can't be read."""
        if self._task is not None:
            raise RuntimeError("an AMI client is started once")
        context = self._ssl_context()
        self._task = asyncio.create_task(self._keep_connected(context), name="ami-supervisor")

    async def stop(self) -> None:
        """Log off and end; actions in flight raise `PbxUnavailable(sent=True)`. May be called twice."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._events.close()

    async def wait_connected(self, timeout: float) -> bool:
        """Wait until logged in, at most `timeout` seconds. Raises `PbxAuthError` when that is hopeless."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not self.connected and self.fatal is None:
                    await self._settled.wait()
        self._raise_fatal()
        return self.connected

    async def action(
        self, name: str, headers: Iterable[Header] = (), *, timeout: float | None = None
    ) -> Reply:
        """Send one action and return its reply, with the whole event list where it opens one.

        Headers may repeat (`Variable`); an `ActionID` among them is used. `timeout` is in seconds for the
        whole exchange, `AmiConfig.action_timeout` by default. Nothing is ever sent again.

        Raises `PbxUnavailable` (`sent=False`: nothing reached the socket; `sent=True`: the connection was
        lost before the answer, mid list too), `PbxTimeout`, `PbxRejected` with the PBX's words,
        `PbxAuthError` when our login is refused, `LocalProtocolError` for CR, LF, NUL and what is longer
        than Asterisk reads, and `RemoteProtocolError` for a list beyond the bounds (the connection stays).
        """
        self._raise_fatal()
        if self._link is None:
            raise PbxUnavailable("not connected to Asterisk's manager", sent=False)
        reply = await self._link.request(
            name, headers, self.config.action_timeout if timeout is None else timeout
        )
        if not reply.ok:
            raise PbxRejected(reply.text or f"{name} was refused without a word")
        if reply.truncated:
            raise RemoteProtocolError(f"the event list of {name} is longer than the limits allow")
        return reply

    async def next_item(self) -> AmiEvent:
        """Wait for the next event, connect, loss or gap; for a single consumer.

        After `stop` what lies in the queue is still handed out, then `PbxUnavailable` is raised.
        """
        return await self._events.get()

    def _on_login(self, link: _Link) -> None:
        """Called by the link at the moment its login is accepted."""
        self.session += 1
        link.session = self.session
        self._link = link
        self._events.put_mark(Connected(self.session))
        self._settled.set()
        _log.info("ami.connected", host=self.config.host, port=self.config.port, session=self.session)

    def _on_lost(self, link: _Link, reason: str) -> None:
        """Called by the link once, when it is lost, logged in or not."""
        if self._link is not link:
            return
        self._link = None
        self._settled.clear()
        self._events.put_mark(Disconnected(link.session, reason))
        _log.warning("ami.disconnected", host=self.config.host, session=link.session, reason=reason)

    def _raise_fatal(self) -> None:
        if self.fatal is not None:
            raise PbxAuthError(str(self.fatal))

    def _ssl_context(self) -> ssl.SSLContext | None:
        if not self.config.tls:
            return None
        try:
            return ssl.create_default_context(cafile=self.config.ca_file or None)
        except OSError as error:
            raise ConfigError(
                "ami.ca_file", f"can't be used ({error.strerror or error})", "Name a readable PEM file"
            ) from error

    async def _keep_connected(self, context: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            reason = await self._connect_and_stay(context)
            if self.fatal is not None:
                return
            # A PBX that takes us in and throws us out at once is no reason to hurry.
            if loop.time() - started > self.config.backoff_max:
                self._backoff.reset()
            delay = self._backoff.next_delay()
            _log.info("ami.retry", host=self.config.host, reason=reason, seconds=round(delay, 3))
            await asyncio.sleep(delay)

    async def _connect_and_stay(self, context: ssl.SSLContext | None) -> str:
        """Live through one connection; returns why it ended."""
        config = self.config
        link = _Link(config, self._events, self._on_login, self._on_lost)
        try:
            async with asyncio.timeout(config.connect_timeout):
                await asyncio.get_running_loop().create_connection(
                    lambda: link,
                    config.host,
                    config.port,
                    ssl=context,
                    server_hostname=(config.server_hostname or config.host) if context else None,
                )
                first: list[asyncio.Future[Any]] = [link.greeted, link.lost]
                await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            await self._log_in(link)
            await self._watch(link)
        except TimeoutError:
            link.drop(f"no greeting within {config.connect_timeout:g} s")
        except (OSError, ValueError, OverflowError) as error:
            # The last two are a host name or a port that is none.
            link.drop(f"can't connect: {error}")
        except PbxAuthError as error:
            self._give_up(error)
            link.drop("our login was refused")
        except TelephonyError as error:
            link.drop(str(error))
        except asyncio.CancelledError:
            await link.close("the client was stopped")
            raise
        return await link.lost

    async def _log_in(self, link: _Link) -> None:
        config = self.config
        challenge: str | None = None
        if config.md5:
            reply = await link.request("Challenge", challenge_headers(), config.action_timeout)
            challenge = reply.get("Challenge")
            if not reply.ok or not challenge:
                raise PbxRejected(f"the PBX gives no MD5 challenge: {reply.text}")
        headers = login_headers(config.username, config.secret, challenge=challenge, events=config.events)
        reply = await link.request("Login", headers, config.action_timeout, login=True)
        if reply.ok:
            return
        # "Login Already In Use" and the like pass; only this one is about user and secret.
        if "authentication failed" in reply.text.lower():
            raise PbxAuthError(f"Asterisk's manager refuses user {config.username!r}: {reply.text}")
        raise PbxRejected(f"the login was refused: {reply.text}")

    def _give_up(self, error: PbxAuthError) -> None:
        self.fatal = error
        self._settled.set()
        _log.error(
            "ami.login_refused",
            host=self.config.host,
            port=self.config.port,
            username=self.config.username,
            mend="make user, secret and permit/deny in manager.conf agree with the configuration, "
            "'manager reload', then restart",
        )

    async def _watch(self, link: _Link) -> None:
        """Ping when nothing was heard for a while, until the link is lost."""
        loop = asyncio.get_running_loop()
        while not link.lost.done():
            rest = link.heard_at + self.config.ping_interval - loop.time()
            if rest > 0:
                await asyncio.wait([link.lost], timeout=rest)
                continue
            try:
                await link.request("Ping", (), self.config.action_timeout)
            except PbxTimeout:
                link.drop(f"no answer to a ping within {self.config.action_timeout:g} s")
