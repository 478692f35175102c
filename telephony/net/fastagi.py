"""FastAGI: the server that Asterisk's `AGI(agi://…)` connects to, and the channel a handler talks through.
 `AgiLink` joins the pure machine of `wire/agi.py` to any asyncio transport; `FastAgiServer` is its TCP
shell. AGI over standard input and output joins the same link to two pipes.

What it never does: know what a call is for, log an argument or a reply, send a command twice, or keep a
connection that is out of step.
"""

from __future__ import annotations

import asyncio
import ipaddress
import traceback
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeAlias, cast
from urllib.parse import parse_qsl

import structlog

from telephony.errors import (
    CallEnded,
    ConfigError,
    LocalProtocolError,
    PbxRejected,
    PbxTimeout,
    RemoteProtocolError,
    TelephonyError,
)
from telephony.wire.agi import DEFAULT_LIMITS, AgiLimits, AgiProtocol, AgiReply, Environment

_log = structlog.get_logger(__name__)

LOOPBACK: Final = ("127.0.0.0/8", "::1/128")
_MAX_QUERY_FIELDS: Final = 64
# Peers of which is remembered whether they may connect: it is nearly always the same one.
_MAX_KNOWN_PEERS: Final = 1_000
# How long a handler that was cancelled may take to clean up when the server stops, in seconds.
_CANCEL_SECONDS: Final = 5.0
# How long after a command another one may follow that is to cut it short, and after how long it is repeated:
# one that Asterisk read together with the command lies unseen until something follows.
_CUT_AFTER: Final = 0.25
_CUT_AGAIN: Final = 1.0
# How long an expired command waits for what may lie unread in the socket, in seconds.
_THAW_SECONDS: Final = 0.05

_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class AgiChannel:
    """The conversation with one channel, from the environment to the end of the connection.

    Belongs to one handler at a time: a second command while one is in flight is a `LocalProtocolError`.
    """

    def __init__(
        self, environment: Mapping[str, str], protocol: AgiProtocol, writer: asyncio.WriteTransport, peer: str
    ) -> None:
        """Raises `RemoteProtocolError` when the script's query string names a key twice or has too many."""
        self.env: Mapping[str, str] = environment
        """Every `agi_*` value as Asterisk sent it."""
        self.unique_id: str = environment.get("agi_uniqueid", "")
        """The channel's unique id."""
        self.peer = peer
        """The PBX's address, without a port."""
        script, _, query = environment.get("agi_network_script", "").partition("?")
        self.script: str = script
        """The path behind the host in `agi://host/script?query`, without its leading slash."""
        self.query: Mapping[str, str] = _parse_query(query)
        """The decoded query string, at most 64 keys."""
        self.arguments: tuple[str, ...] = _arguments(environment)
        """`agi_arg_1` and those that follow it."""
        self.hung_up = False
        """Whether Asterisk told us of a hangup (`HANGUP`, or 511 to a command)."""
        self.heard_at = 0.0
        """When the last command was sent that has its reply, by the event loop's time: a reply may lie unread
        while we are frozen."""
        self._protocol = protocol
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[AgiReply] | None = None
        self._heeds_hangup = True
        self._connected = True
        self._sent_at = 0.0
        self._cut_at = 0.0
        self._cutting: asyncio.TimerHandle | None = None

    @property
    def connected(self) -> bool:
        """Whether the connection stands: neither side has closed it."""
        return self._connected

    async def command(self, *words: str, timeout: float, after_hangup: bool = False) -> AgiReply:
        """Send one command, each word an argument of its own, and return its reply of code 200.

        The result is handed back as it is: -1 means an error or a hangup, and which of them depends on the
        command. A playback that the hangup cuts short is answered `200 result=-1` first; `HANGUP` follows in
        a moment. So -1 may be returned although the call is over, and then the very next command raises
        `CallEnded`: Asterisk always sends `HANGUP` before it reads another command. `command("NOOP", …)`
        settles the question.

        `timeout` is in seconds, for the whole exchange. With `after_hangup` a hangup raises nothing: the
        command is sent and answered on the dead channel too (`GET VARIABLE`, `SET VARIABLE`, `DATABASE …`,
        `EXEC`, `NOOP` and `VERBOSE` are served there).

        Raises `CallEnded` with `hung_up=True` when `HANGUP` came before the reply, or right behind a reply of
        -1 or of another code than 200, and when the PBX answers 511; any other reply that came before it is
        returned, for it may hold a key. Raises `CallEnded` with `hung_up=False` when the connection ended
        without a `HANGUP`, or is closed already; `PbxTimeout` after `timeout`; `PbxRejected` with the PBX's
        words for any other code; `RemoteProtocolError` when the PBX broke the protocol;
        `LocalProtocolError` for a command that must not be sent, with the channel still usable. After
        `PbxTimeout`, `RemoteProtocolError` and after a cancellation the connection is closed: it would be
        out of step.
        """
        if self._waiter is not None:
            raise LocalProtocolError("an AGI command is in flight already")
        if self.hung_up and not after_hangup:
            raise CallEnded(hung_up=True)
        if not self._connected:
            raise self._ended()
        while self._protocol.awaiting_reply:
            # A hangup, or a key, ended the last command for its caller; Asterisk still owes a reply.
            started = self._loop.time()
            await self._reply(timeout, heeds_hangup=False)
            timeout -= self._loop.time() - started
            if not self._connected:
                raise self._ended()
        self._writer.write(self._protocol.send_command(*words))
        self._sent_at = self._loop.time()
        reply = await self._reply(timeout, heeds_hangup=not after_hangup)
        if reply.code == 511:
            self.hung_up = True
            raise CallEnded(hung_up=True)
        if self.hung_up and not after_hangup and (reply.code != 200 or reply.result == "-1"):
            raise CallEnded(hung_up=True)
        if reply.code != 200:
            raise PbxRejected(f"{reply.code} {reply.value}")
        return reply

    async def command_until(self, stop: asyncio.Future[Any], *words: str, timeout: float) -> AgiReply | None:
        """Send a command that plays, and cut it short once `stop` is done; None where that ended it.

        Raises what `command` raises.
        """
        self._cut_at = self._loop.time() + _CUT_AFTER
        stop.add_done_callback(self._cut)
        try:
            reply = await self.command(*words, timeout=timeout)
        finally:
            stop.remove_done_callback(self._cut)
            if self._cutting is not None:
                self._cutting.cancel()
                self._cutting = None
        return None if stop.done() and reply.endpos is None else reply

    def _cut(self, _stop: object = None) -> None:
        now = self._loop.time()
        if self._connected and self._protocol.awaiting_reply:
            if now >= self._cut_at:
                self._writer.write(self._protocol.interrupt())
                self._cut_at = now + _CUT_AGAIN
            self._cutting = self._loop.call_at(self._cut_at, self._cut)

    def close(self) -> None:
        """End the AGI session: Asterisk goes on in the dialplan. Safe to call more than once."""
        if self._connected:
            self._connected = False
            self._writer.close()
            self._fail(self._ended())

    async def _reply(self, timeout: float, *, heeds_hangup: bool) -> AgiReply:
        waiter: asyncio.Future[AgiReply] = self._loop.create_future()
        self._waiter = waiter
        self._heeds_hangup = heeds_hangup
        timer = self._loop.call_later(timeout, self._expire)
        try:
            return await waiter
        except asyncio.CancelledError:
            self._break(self._ended())
            raise
        finally:
            timer.cancel()
            self._waiter = None

    def _expire(self) -> None:
        # A process that was stopped and goes on meets its timers before it reads what came meanwhile.
        self._loop.call_later(_THAW_SECONDS, self._expire_now, self._waiter)

    def _expire_now(self, waiter: asyncio.Future[AgiReply] | None) -> None:
        if waiter is self._waiter:
            self._break(PbxTimeout("the PBX did not answer an AGI command in time"))

    def _ended(self) -> CallEnded:
        if self.hung_up:
            return CallEnded(hung_up=True)
        return CallEnded("the connection to the PBX has ended", hung_up=False)

    def _fail(self, error: TelephonyError) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)

    def _break(self, error: TelephonyError) -> None:
        self._fail(error)
        if self._connected:
            self._connected = False
            self._writer.abort()

    def take_reply(self, reply: AgiReply) -> None:
        """For the link: hand the reply to whoever waits; one that nobody waits for any more is dropped."""
        self.heard_at = self._sent_at
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(reply)

    def take_hangup(self) -> None:
        """For the link: the channel was hung up."""
        self.hung_up = True
        if self._heeds_hangup:
            self._fail(CallEnded(hung_up=True))

    def take_end(self, error: TelephonyError | None = None) -> None:
        """For the link: the connection is gone, by `error` where the peer broke the protocol."""
        self._connected = False
        self._fail(error or self._ended())


def _parse_query(query: str) -> Mapping[str, str]:
    if not query:
        return MappingProxyType({})
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_QUERY_FIELDS)
    except ValueError:
        raise RemoteProtocolError(f"the AGI query has more than {_MAX_QUERY_FIELDS} keys") from None
    values = dict(pairs)
    if len(values) < len(pairs):
        raise RemoteProtocolError("the AGI query holds a key twice")
    return MappingProxyType(values)


def _arguments(environment: Mapping[str, str]) -> tuple[str, ...]:
    arguments: list[str] = []
    while (value := environment.get(f"agi_arg_{len(arguments) + 1}")) is not None:
        arguments.append(value)
    return tuple(arguments)


class AgiLink(asyncio.Protocol):
    """One AGI conversation on one asyncio transport, or on a pair: pass the writing half as `writer`.

    A shell derives from it and says what happens when the environment has come, on a breach and at the end.
    """

    def __init__(
        self, limits: AgiLimits = DEFAULT_LIMITS, *, writer: asyncio.WriteTransport | None = None
    ) -> None:
        self._protocol = AgiProtocol(limits)
        self._writer = writer
        self.channel: AgiChannel | None = None

    def peer_name(self) -> str:
        """Who is at the other end, for `AgiChannel.peer`."""
        return ""

    def channel_ready(self, channel: AgiChannel) -> None:
        """The environment has come: start the handler."""

    def protocol_broken(self, error: RemoteProtocolError) -> None:
        """The peer broke the protocol; the connection is being closed."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio's callback."""
        if self._writer is None:
            self._writer = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        """Asyncio's callback."""
        if self._protocol.ended:
            return
        try:
            events = self._protocol.receive(data)
            for event in events:
                if isinstance(event, AgiReply):
                    if self.channel is not None:
                        self.channel.take_reply(event)
                elif isinstance(event, Environment):
                    self._open_channel(event)
                elif self.channel is not None:
                    self.channel.take_hangup()
        except RemoteProtocolError as error:
            self._protocol.receive_eof()
            self.protocol_broken(error)
            if self.channel is not None:
                self.channel.take_end(error)
            if self._writer is not None:
                self._writer.abort()

    def eof_received(self) -> None:
        """Asyncio's callback; the transport closes itself after it."""
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio's callback."""
        self._end()

    def _open_channel(self, environment: Environment) -> None:
        if self._writer is None:
            return
        self.channel = AgiChannel(environment.values, self._protocol, self._writer, self.peer_name())
        self.channel_ready(self.channel)

    def _end(self) -> None:
        self._protocol.receive_eof()
        if self.channel is not None:
            self.channel.take_end()


AgiHandler: TypeAlias = Callable[[AgiChannel], Awaitable[None]]


@dataclass(slots=True)
class FastAgiStats:
    """What the server has seen since it was made."""

    connections: int = 0
    """Accepted by the kernel, whatever became of them."""
    sessions: int = 0
    """Came as far as a handler."""
    refused_peers: int = 0
    """Closed at once: not from an allowed network."""
    refused_full: int = 0
    """Closed at once: too many connections stood, or the server was stopping."""
    empty: int = 0
    """Closed by the peer before the environment was complete."""
    environment_timeouts: int = 0
    protocol_errors: int = 0
    handler_errors: int = 0
    """Handlers that raised anything but `CallEnded`."""


class FastAgiServer:
    """Listens for Asterisk and runs one handler per AGI session."""

    def __init__(
        self,
        handler: AgiHandler,
        *,
        host: str = "127.0.0.1",
        port: int = 4573,
        allowed_peers: Collection[str] = LOOPBACK,
        max_connections: int = 500,
        environment_timeout: float = 5.0,
        limits: AgiLimits = DEFAULT_LIMITS,
        drain_seconds: float = 10.0,
    ) -> None:
        """Take the handler; nothing is bound before `start`.

        `allowed_peers` are IP networks or addresses; port 0 takes a free one; times are in seconds. Raises
        `ConfigError` for a network that cannot be read.
        """
        self._handler = handler
        self._host = host
        self._port = port
        self._networks = tuple(_network(text) for text in allowed_peers)
        self._known_peers: dict[str, bool] = {}
        self._max_connections = max_connections
        self._environment_timeout = environment_timeout
        self._limits = limits
        self._drain_seconds = drain_seconds
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self.stats = FastAgiStats()

    @property
    def port(self) -> int:
        """The port that is bound, after `start`; before it the one asked for."""
        if self._server is not None and self._server.sockets:
            return int(self._server.sockets[0].getsockname()[1])
        return self._port

    @property
    def connections(self) -> int:
        """How many connections stand now."""
        return len(self._connections)

    @property
    def sessions(self) -> int:
        """How many handlers run now."""
        return len(self._tasks)

    async def start(self) -> None:
        """Bind and listen. Raises `ConfigError` when the address cannot be bound."""
        self._stopping = False
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: _Connection(self), self._host, self._port, backlog=min(self._max_connections, 1024)
            )
        except OSError as error:
            raise ConfigError(
                "fastagi",
                f"cannot listen on {self._host}:{self._port} ({error.strerror})",
                "Free it or change it",
            ) from error
        _log.info("fastagi listening", host=self._host, port=self.port)

    async def stop(self) -> None:
        """Stop accepting, let handlers end within `drain_seconds`, cancel the rest and close everything."""
        server, self._server = self._server, None
        if server is None:
            return
        self._stopping = True
        server.close()
        for connection in tuple(self._connections):
            if connection.channel is None:
                connection.abort()
        try:
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=self._drain_seconds)
        finally:
            await self._cancel_handlers()
            for connection in tuple(self._connections):
                connection.abort()
        await server.wait_closed()

    async def _cancel_handlers(self) -> None:
        tasks = tuple(self._tasks)
        if not tasks:
            return
        _log.warning("fastagi sessions cancelled at stop", sessions=len(tasks))
        for task in tasks:
            task.cancel()
        _, running = await asyncio.wait(tasks, timeout=_CANCEL_SECONDS)
        if running:
            _log.error("fastagi handlers ignore their cancellation", sessions=len(running))

    def admit(self, connection: _Connection, host: str) -> bool:
        """For a connection: count it, and say whether it may stay."""
        self.stats.connections += 1
        if not self._allows(host):
            self.stats.refused_peers += 1
            _log.warning("fastagi peer refused", peer=host)
            return False
        if self._stopping or len(self._connections) >= self._max_connections:
            self.stats.refused_full += 1
            return False
        self._connections.add(connection)
        return True

    def forget(self, connection: _Connection) -> None:
        """For a connection: it is closed."""
        self._connections.discard(connection)

    def serve(self, channel: AgiChannel) -> None:
        """For a connection: run the handler in a task that the server owns."""
        self.stats.sessions += 1
        task = asyncio.get_running_loop().create_task(self._run(channel), name="fastagi session")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def limits(self) -> AgiLimits:
        """The protocol bounds of every connection."""
        return self._limits

    @property
    def environment_timeout(self) -> float:
        """Seconds from the connect until the environment must be complete."""
        return self._environment_timeout

    def _allows(self, host: str) -> bool:
        known = self._known_peers.get(host)
        if known is None:
            if len(self._known_peers) >= _MAX_KNOWN_PEERS:
                self._known_peers.clear()
            known = self._known_peers[host] = _is_in(host, self._networks)
        return known

    async def _run(self, channel: AgiChannel) -> None:
        try:
            await self._handler(channel)
        except CallEnded as ended:
            _log.debug("fastagi session ended early", unique_id=channel.unique_id, hung_up=ended.hung_up)
        except Exception as error:
            self.stats.handler_errors += 1
            _log.error("fastagi handler failed", unique_id=channel.unique_id, **_describe(error))
        finally:
            channel.close()


class _Connection(AgiLink):
    """The TCP shell of a link: admission, the environment's deadline, and counting."""

    def __init__(self, server: FastAgiServer) -> None:
        super().__init__(server.limits)
        self._server = server
        self._host = ""
        self._admitted = False
        self._deadline: asyncio.TimerHandle | None = None

    def peer_name(self) -> str:
        return self._host

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        address = transport.get_extra_info("peername")
        # A zone such as %eth0 belongs to this machine, not to the peer.
        self._host = str(address[0]).partition("%")[0] if address else ""
        self._admitted = self._server.admit(self, self._host)
        if not self._admitted:
            self.abort()
            return
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(self._server.environment_timeout, self._expire)

    def data_received(self, data: bytes) -> None:
        if self._admitted:
            super().data_received(data)

    def channel_ready(self, channel: AgiChannel) -> None:
        self._cancel_deadline()
        self._server.serve(channel)

    def protocol_broken(self, error: RemoteProtocolError) -> None:
        self._cancel_deadline()
        self._server.stats.protocol_errors += 1
        unique_id = self.channel.unique_id if self.channel is not None else ""
        _log.warning(
            "fastagi peer broke the protocol", peer=self._host, unique_id=unique_id, problem=str(error)
        )

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if not self._admitted:
            return
        if self._deadline is not None:
            self._server.stats.empty += 1
            self._cancel_deadline()
        self._server.forget(self)

    def abort(self) -> None:
        """Close at once; what is unsent is dropped."""
        if self._writer is not None:
            self._writer.abort()

    def _expire(self) -> None:
        self._deadline = None
        self._server.stats.environment_timeouts += 1
        _log.warning("fastagi environment did not come in time", peer=self._host)
        self.abort()

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _is_in(host: str, networks: Collection[_Network]) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks)


def _network(text: str) -> _Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise ConfigError(
            "fastagi.allowed_peers", f"{text!r} is no IP network", "Write e.g. 192.0.2.0/24 or 192.0.2.7"
        ) from None


def _describe(error: Exception) -> dict[str, str]:
    """Name an error without showing what it carries: foreign messages may quote a code or a number."""
    frames = traceback.extract_tb(error.__traceback__)
    described = {"error": type(error).__name__}
    if frames:
        described["where"] = f"{frames[-1].filename}:{frames[-1].lineno} {frames[-1].name}"
    if isinstance(error, TelephonyError):
        described["message"] = str(error)
    return described
