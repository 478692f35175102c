"""The FastAGI server against a client that acts as Asterisk over a real socket.

What it never does: wait for time to pass where an event can be awaited, or bind a fixed port.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest
from structlog.testing import capture_logs

from telephony.errors import (
    CallEnded,
    ConfigError,
    LocalProtocolError,
    PbxRejected,
    PbxTimeout,
    RemoteProtocolError,
)
from telephony.net.fastagi import AgiChannel, AgiLink, FastAgiServer
from telephony.wire.agi import AgiLimits, AgiReply

ENVIRONMENT = (
    b"agi_network: yes\nagi_network_script: x/y?a=b&c=%e4%bd%a0+1&d=\n"
    b"agi_request: agi://127.0.0.1/x/y\nagi_uniqueid: 17.1\nagi_arg_1: first\nagi_arg_2: \n\n"
)
LONG = 20.0
"""A deadline that only a broken test meets."""


@dataclass(slots=True)
class FakeAsterisk:
    """The PBX's end of one FastAGI connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def command(self) -> bytes:
        return await asyncio.wait_for(self.reader.readline(), LONG)

    async def ended(self) -> bytes:
        """Read until the server closes; returns what came before that."""
        try:
            return await asyncio.wait_for(self.reader.read(), LONG)
        except ConnectionResetError:
            return b""

    def say(self, data: bytes) -> None:
        self.writer.write(data)

    async def leave(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


@asynccontextmanager
async def serving(
    handler: Callable[[AgiChannel], Awaitable[None]], **options: Any
) -> AsyncIterator[FastAgiServer]:
    server = FastAgiServer(handler, port=0, **options)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def connect(server: FastAgiServer, environment: bytes = ENVIRONMENT) -> FakeAsterisk:
    asterisk = FakeAsterisk(*await asyncio.open_connection("127.0.0.1", server.port))
    asterisk.say(environment)
    return asterisk


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until `condition` holds."""
    async with asyncio.timeout(LONG):
        while not condition():
            await asyncio.sleep(0.001)


class Script:
    """A handler that hands its channel to the test and stays until it is told to go."""

    def __init__(self) -> None:
        self.channels: asyncio.Queue[AgiChannel] = asyncio.Queue()
        self.go = asyncio.Event()
        self.cancelled = 0

    async def __call__(self, channel: AgiChannel) -> None:
        await self.channels.put(channel)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def channel(self) -> AgiChannel:
        return await asyncio.wait_for(self.channels.get(), LONG)


@asynccontextmanager
async def session(**options: Any) -> AsyncIterator[tuple[FastAgiServer, FakeAsterisk, AgiChannel]]:
    script = Script()
    async with serving(script, **options) as server:
        asterisk = await connect(server)
        channel = await script.channel()
        try:
            yield server, asterisk, channel
        finally:
            script.go.set()
            await asterisk.leave()


async def test_the_channel_shows_what_asterisk_told() -> None:
    async with session() as (server, _, channel):
        assert channel.env["agi_request"] == "agi://127.0.0.1/x/y"
        assert channel.unique_id == "17.1"
        assert channel.script == "x/y"
        assert dict(channel.query) == {"a": "b", "c": "你 1", "d": ""}
        assert channel.arguments == ("first", "")
        assert channel.peer == "127.0.0.1"
        assert channel.connected
        assert not channel.hung_up
        assert (server.sessions, server.connections) == (1, 1)


async def test_commands_and_replies() -> None:
    async def handler(channel: AgiChannel) -> None:
        replies.append(await channel.command("STREAM", "FILE", 'a "b" c', "", timeout=LONG))
        replies.append(await channel.command("GET", "VARIABLE", "X", timeout=LONG))

    replies: list[AgiReply] = []
    async with serving(handler) as server:
        asterisk = await connect(server)
        assert await asterisk.command() == b'STREAM FILE "a \\"b\\" c" ""\n'
        asterisk.say(b"200 result=-1 endpos=0\n")
        assert await asterisk.command() == b"GET VARIABLE X\n"
        asterisk.say(b"200 result=1 (a (b))\n")
        assert await asterisk.ended() == b""
        assert replies == [AgiReply(200, "-1", None, 0), AgiReply(200, "1", "a (b)")]
        await asterisk.leave()


async def test_rejections_carry_the_words_of_the_pbx() -> None:
    async with session() as (_, asterisk, channel):
        asterisk.say(b"")
        for reply, words in (
            (b"510 Invalid or unknown command\n", "510 Invalid or unknown command"),
            (
                b"520-Invalid.\nUsage: X\n520 End of proper usage.\n",
                "520 Invalid.\nUsage: X\nEnd of proper usage.",
            ),
        ):
            task = asyncio.create_task(channel.command("X", timeout=LONG))
            await asterisk.command()
            asterisk.say(reply)
            with pytest.raises(PbxRejected) as caught:
                await task
            assert str(caught.value) == words
        assert channel.connected


async def test_hangup_that_follows_the_reply_of_a_cut_playback() -> None:
    """The order of Asterisk: the -1 comes first and is returned; the next command raises."""
    async with session() as (_, asterisk, channel):
        task = asyncio.create_task(channel.command("STREAM", "FILE", "x", "", timeout=LONG))
        await asterisk.command()
        asterisk.say(b"200 result=-1 endpos=5760\n")
        assert (await task).result == "-1"
        task = asyncio.create_task(channel.command("NOOP", timeout=LONG))
        await asterisk.command()
        asterisk.say(b"HANGUP\n")
        with pytest.raises(CallEnded) as caught:
            await task
        assert caught.value.hung_up
        # The reply of that command is still owed, and must not be taken for that of the next.
        after = asyncio.create_task(channel.command("GET", "VARIABLE", "X", timeout=LONG, after_hangup=True))
        asterisk.say(b"200 result=0\n")
        assert await asterisk.command() == b"GET VARIABLE X\n"
        asterisk.say(b"200 result=1 (mine)\n")
        assert (await after).value == "mine"
        with pytest.raises(CallEnded):
            await channel.command("NOOP", timeout=LONG)


async def test_an_owed_reply_that_came_meanwhile_is_dropped() -> None:
    async with session() as (_, asterisk, channel):
        task = asyncio.create_task(channel.command("NOOP", timeout=LONG))
        await asterisk.command()
        asterisk.say(b"HANGUP\n200 result=7\n")
        with pytest.raises(CallEnded):
            await task
        after = asyncio.create_task(channel.command("NOOP", timeout=LONG, after_hangup=True))
        assert await asterisk.command() == b"NOOP\n"
        asterisk.say(b"HANGUP\n200 result=8\n")
        assert (await after).result == "8"


@pytest.mark.parametrize(
    "data",
    [
        b"HANGUP\n200 result=0\n",
        b"200 result=-1 endpos=80\nHANGUP\nHANGUP\n",
        b"520 Invalid command syntax.  Proper usage not available.\nHANGUP\n",
        b"511 Command Not Permitted on a dead channel or intercept routine\n",
        b"HANGUP\n",
    ],
)
async def test_hangup_with_the_reply_ends_the_call(data: bytes) -> None:
    async with session() as (_, asterisk, channel):
        task = asyncio.create_task(channel.command("STREAM", "FILE", "x", "", timeout=LONG))
        await asterisk.command()
        asterisk.say(data)
        with pytest.raises(CallEnded) as caught:
            await task
        assert caught.value.hung_up
        assert channel.hung_up


async def test_a_key_that_came_before_the_hangup_counts() -> None:
    """Both lie in the socket when we come to read: the key was pressed all the same."""
    async with session() as (_, asterisk, channel):
        task = asyncio.create_task(channel.command("STREAM", "FILE", "x", "1", timeout=LONG))
        await asterisk.command()
        asterisk.say(b"200 result=49 endpos=80\nHANGUP\n")
        await asterisk.leave()
        assert (await task).result == "49"
        with pytest.raises(CallEnded) as caught:
            await channel.command("NOOP", timeout=LONG)
        assert caught.value.hung_up


async def test_hangup_while_no_command_runs() -> None:
    async with session() as (_, asterisk, channel):
        asterisk.say(b"HANGUP\n")
        await until(lambda: channel.hung_up)
        with pytest.raises(CallEnded):
            await channel.command("NOOP", timeout=LONG)
        assert channel.connected


@pytest.mark.parametrize(("last", "hung_up"), [(b"", False), (b"200 resu", False), (b"HANGUP\n", True)])
async def test_end_of_stream_in_mid_command(last: bytes, hung_up: bool) -> None:
    async with session() as (_, asterisk, channel):
        task = asyncio.create_task(channel.command("STREAM", "FILE", "x", "", timeout=LONG))
        await asterisk.command()
        asterisk.say(last)
        await asterisk.leave()
        with pytest.raises(CallEnded) as caught:
            await task
        assert caught.value.hung_up is hung_up
        await until(lambda: not channel.connected)
        with pytest.raises(CallEnded) as caught:
            await channel.command("NOOP", timeout=LONG, after_hangup=True)
        assert caught.value.hung_up is hung_up


async def test_a_deadline_closes_the_connection() -> None:
    async with session() as (_, asterisk, channel):
        task = asyncio.create_task(channel.command("STREAM", "FILE", "4711", "", timeout=0.02))
        await asterisk.command()
        with pytest.raises(PbxTimeout) as caught:
            await task
        assert "4711" not in str(caught.value)
        assert await asterisk.ended() == b""
        with pytest.raises(CallEnded) as ended:
            await channel.command("NOOP", timeout=LONG)
        assert not ended.value.hung_up


async def test_a_cancelled_command_closes_the_connection() -> None:
    async with session() as (_, asterisk, channel):
        task = asyncio.create_task(channel.command("STREAM", "FILE", "x", "", timeout=LONG))
        await asterisk.command()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asterisk.ended() == b""
        assert not channel.connected


async def test_one_command_at_a_time() -> None:
    async with session() as (_, asterisk, channel):
        task = asyncio.create_task(channel.command("ANSWER", timeout=LONG))
        await asterisk.command()
        with pytest.raises(LocalProtocolError, match="in flight"):
            await channel.command("NOOP", timeout=LONG)
        asterisk.say(b"200 result=0\n")
        assert (await task).result == "0"


async def test_an_unlawful_command_is_not_sent_and_harms_nothing() -> None:
    async with session() as (_, asterisk, channel):
        with pytest.raises(LocalProtocolError):
            await channel.command("SET", "VARIABLE", "X", "1\nHANGUP", timeout=LONG)
        task = asyncio.create_task(channel.command("NOOP", timeout=LONG))
        assert await asterisk.command() == b"NOOP\n"
        asterisk.say(b"200 result=0\n")
        assert (await task).result == "0"


async def test_a_breach_in_mid_command_reaches_the_caller() -> None:
    async with session() as (server, asterisk, channel):
        task = asyncio.create_task(channel.command("NOOP", timeout=LONG))
        await asterisk.command()
        asterisk.say(b"nonsense\n")
        with pytest.raises(RemoteProtocolError):
            await task
        assert await asterisk.ended() == b""
        assert server.stats.protocol_errors == 1


async def test_connect_and_close_leaves_nothing(caplog: pytest.LogCaptureFixture) -> None:
    script = Script()
    async with serving(script) as server:
        before = len(asyncio.all_tasks())
        with capture_logs() as logs, caplog.at_level(logging.WARNING):
            for turn in range(200):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                if turn % 3 == 1:
                    writer.write(ENVIRONMENT[: turn % len(ENVIRONMENT)])
                if turn % 3 == 2:
                    writer.transport.abort()
                else:
                    writer.close()
                del reader
            await until(lambda: server.stats.connections == 200 and server.connections == 0)
            gc.collect()
        assert server.stats.empty == 200
        assert server.sessions == server.stats.sessions == 0
        assert len(asyncio.all_tasks()) == before
        assert [entry for entry in logs if entry["log_level"] not in ("debug", "info")] == []
        assert caplog.records == []
        # It still serves.
        asterisk = await connect(server)
        await script.channel()
        script.go.set()
        await asterisk.ended()
        await asterisk.leave()


async def test_an_environment_that_does_not_come_in_time() -> None:
    async with serving(Script(), environment_timeout=0.02) as server:
        slow = await connect(server, ENVIRONMENT[:-1])
        assert await slow.ended() == b""
        assert server.stats.environment_timeouts == 1
        await until(lambda: server.connections == 0)
        assert (server.stats.sessions, server.stats.empty) == (0, 0)
        await slow.leave()


async def test_the_environment_deadline_ends_with_the_environment() -> None:
    async with session(environment_timeout=0.02) as (server, asterisk, channel):
        await asyncio.sleep(0.04)
        task = asyncio.create_task(channel.command("NOOP", timeout=LONG))
        await asterisk.command()
        asterisk.say(b"200 result=0\n")
        assert (await task).result == "0"
        assert server.stats.environment_timeouts == 0


@pytest.mark.parametrize(
    "environment",
    [
        b"agi_x: " + b"x" * 600,
        b"agi_uniqueid: 1\nagi_uniqueid: 2\n",
        b"GET / HTTP/1.1\n",
        b"agi_network_script: x?n=1&n=2\n\n",
        b"agi_network_script: x?" + b"&".join(b"%d=" % n for n in range(65)) + b"\n\n",
    ],
)
async def test_an_unlawful_environment_is_closed(environment: bytes) -> None:
    async with serving(Script(), limits=AgiLimits(max_line_bytes=512)) as server:
        asterisk = await connect(server, environment)
        assert await asterisk.ended() == b""
        assert server.stats.protocol_errors == 1
        await until(lambda: server.connections == 0)
        assert (server.sessions, server.stats.sessions, server.stats.empty) == (0, 0, 0)
        await asterisk.leave()


async def test_peers_outside_the_allowed_networks_are_closed() -> None:
    async with serving(Script(), allowed_peers=["192.0.2.0/24", "2001:db8::1"]) as server:
        asterisk = await connect(server)
        assert await asterisk.ended() == b""
        assert (server.stats.refused_peers, server.stats.sessions, server.connections) == (1, 0, 0)
        await asterisk.leave()


async def test_allowed_peers_must_be_networks() -> None:
    with pytest.raises(ConfigError, match="no IP network"):
        FastAgiServer(Script(), allowed_peers=["pbx.example"])


async def test_connections_beyond_the_limit_are_closed() -> None:
    async with session(max_connections=1) as (server, _, channel):
        second = await connect(server)
        assert await second.ended() == b""
        assert (server.stats.refused_full, server.stats.sessions) == (1, 1)
        assert channel.connected
        await second.leave()


async def test_a_place_is_free_again_after_a_session() -> None:
    script = Script()
    script.go.set()
    async with serving(script, max_connections=1) as server:
        for _ in range(3):
            asterisk = await connect(server)
            assert await asterisk.ended() == b""
            await asterisk.leave()
            await until(lambda: server.connections == 0)
        assert (server.stats.sessions, server.stats.refused_full) == (3, 0)


async def test_a_failing_handler_is_logged_without_what_it_knows() -> None:
    async def handler(channel: AgiChannel) -> None:
        code = channel.arguments[0]
        raise ValueError(f"code {code}")

    with capture_logs() as logs:
        async with serving(handler) as server:
            asterisk = await connect(server)
            assert await asterisk.ended() == b""
            assert server.stats.handler_errors == 1
            await asterisk.leave()
    (entry,) = [entry for entry in logs if entry["log_level"] == "error"]
    assert entry["unique_id"] == "17.1"
    assert entry["error"] == "ValueError"
    assert "first" not in str(logs)


async def test_a_hangup_is_no_failure_of_the_handler() -> None:
    async def handler(channel: AgiChannel) -> None:
        await channel.command("NOOP", timeout=LONG)

    with capture_logs() as logs:
        async with serving(handler) as server:
            asterisk = await connect(server)
            await asterisk.command()
            asterisk.say(b"HANGUP\n200 result=0\n")
            assert await asterisk.ended() == b""
            assert server.stats.handler_errors == 0
            await asterisk.leave()
    assert {entry["log_level"] for entry in logs} <= {"debug", "info"}


async def test_stop_lets_a_running_handler_end() -> None:
    script = Script()
    server = FastAgiServer(script, port=0, drain_seconds=LONG)
    await server.start()
    port = server.port
    running = await connect(server)
    channel = await script.channel()
    pending = await connect(server, b"agi_network: yes\n")
    await until(lambda: server.connections == 2)
    stopping = asyncio.create_task(server.stop())
    assert await pending.ended() == b""
    with pytest.raises(OSError, match="Connect"):
        await asyncio.open_connection("127.0.0.1", port)
    command = asyncio.create_task(channel.command("NOOP", timeout=LONG))
    await running.command()
    running.say(b"200 result=0\n")
    assert (await command).result == "0"
    assert not stopping.done()
    script.go.set()
    await asyncio.wait_for(stopping, LONG)
    assert script.cancelled == 0
    assert await running.ended() == b""
    assert (server.connections, server.sessions) == (0, 0)
    for asterisk in (running, pending):
        await asterisk.leave()
    await server.stop()


async def test_stop_cancels_what_does_not_end() -> None:
    script = Script()
    server = FastAgiServer(script, port=0, drain_seconds=0.02)
    await server.start()
    asterisk = await connect(server)
    channel = await script.channel()
    await asyncio.wait_for(server.stop(), LONG)
    assert script.cancelled == 1
    assert not channel.connected
    assert server.sessions == 0
    assert await asterisk.ended() == b""
    await asterisk.leave()


async def test_it_starts_again_after_a_stop() -> None:
    script = Script()
    script.go.set()
    server = FastAgiServer(script, port=0)
    for turn in (1, 2):
        await server.start()
        asterisk = await connect(server)
        assert await asterisk.ended() == b""
        await asterisk.leave()
        await server.stop()
        assert server.stats.sessions == turn


async def test_a_port_in_use_is_a_config_error() -> None:
    async with serving(Script()) as server:
        second = FastAgiServer(Script(), port=server.port)
        with pytest.raises(ConfigError, match="cannot listen"):
            await second.start()


class _Pipe(asyncio.WriteTransport):
    """The writing half of a pair of pipes."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True


async def test_a_link_runs_on_a_pair_of_pipes() -> None:
    pipe = _Pipe()
    link = AgiLink(writer=pipe)
    link.connection_made(asyncio.ReadTransport())
    link.data_received(ENVIRONMENT)
    channel = link.channel
    assert channel is not None
    task = asyncio.create_task(channel.command("NOOP", timeout=LONG))
    await asyncio.sleep(0)
    assert pipe.written == b"NOOP\n"
    link.data_received(b"200 result=0\n")
    assert (await task).result == "0"
    channel.close()
    assert pipe.closed
