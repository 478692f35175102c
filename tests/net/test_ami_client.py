"""The AMI client against a scripted manager over real sockets: losses, refusals, silence, floods and TLS."""

from __future__ import annotations

import asyncio
import datetime
import gc
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from structlog.testing import capture_logs

from telephony.errors import (
    ConfigError,
    LocalProtocolError,
    PbxAuthError,
    PbxRejected,
    PbxTimeout,
    PbxUnavailable,
    RemoteProtocolError,
)
from telephony.net import ami
from telephony.net.ami import AmiClient, AmiConfig, Connected, Disconnected, EventsLost
from telephony.wire.ami import AmiLimits, Message
from tests.net.fake_ami import Action, FakeAmi, FakePeer


def config(port: int, **changes: Any) -> AmiConfig:
    settings: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": port,
        "username": "me",
        "secret": "s3cret",
        "connect_timeout": 2.0,
        "action_timeout": 2.0,
        "backoff_min": 0.001,
        "backoff_max": 0.01,
    }
    return AmiConfig(**(settings | changes))


@asynccontextmanager
async def connected(fake: FakeAmi, **changes: Any) -> AsyncIterator[AmiClient]:
    client = AmiClient(config(fake.port, **changes))
    await client.start()
    try:
        assert await client.wait_connected(3)
        yield client
    finally:
        await client.stop()


@pytest.fixture
async def fake() -> AsyncIterator[FakeAmi]:
    async with FakeAmi().serving() as server:
        yield server


async def next_item(client: AmiClient) -> Any:
    async with asyncio.timeout(3):
        return await client.next_item()


def name_of(item: object) -> object:
    return item.name if isinstance(item, Message) else item


async def show_half_a_list(peer: FakePeer, action: Action) -> None:
    await peer.reply(action, "EventList: start")
    await peer.event("CoreShowChannel", f"ActionID: {action['actionid']}", "Uniqueid: 1")


async def show_list(peer: FakePeer, action: Action) -> None:
    await show_half_a_list(peer, action)
    await peer.event("Hangup", "Uniqueid: 9")
    await peer.event("CoreShowChannelsComplete", f"ActionID: {action['actionid']}", "EventList: Complete")


async def queue_originate(peer: FakePeer, action: Action) -> None:
    await peer.reply(action, "Message: Originate successfully queued")
    await peer.event("OriginateResponse", f"ActionID: {action['actionid']}", "Response: Failure", "Reason: 5")


async def cut(peer: FakePeer, _: Action) -> None:
    peer.cut()


class TestActions:
    async def test_login_is_by_challenge_and_the_secret_is_never_sent(self, fake: FakeAmi) -> None:
        async with connected(fake, events="call,reporting") as client:
            assert client.connected
            assert client.session == 1
        assert [a["action"] for a in fake.received] == ["Challenge", "Login", "Logoff"]
        assert fake.received[1]["events"] == "call,reporting"
        assert b"s3cret" not in b"".join(fake.raw)

    async def test_login_by_secret(self, fake: FakeAmi) -> None:
        async with connected(fake, md5=False):
            assert [a["action"] for a in fake.received] == ["Login"]

    async def test_a_reply_and_a_refusal(self, fake: FakeAmi) -> None:
        async def refuse(peer: FakePeer, action: Action) -> None:
            await peer.reply(action, "Message: No such channel", kind="Error")

        fake.scripts["hangup"] = refuse
        async with connected(fake) as client:
            assert (await client.action("Ping")).get("Ping") == "Pong"
            with pytest.raises(PbxRejected, match=r"^No such channel$"):
                await client.action("Hangup", [("Channel", "att-1")])

    async def test_a_list_comes_whole_and_other_events_go_to_the_queue(self, fake: FakeAmi) -> None:
        fake.scripts["coreshowchannels"] = show_list
        async with connected(fake) as client:
            reply = await client.action("CoreShowChannels")
            assert [event.get("Uniqueid") for event in reply.events] == ["1"]
            assert await next_item(client) == Connected(1)
            assert name_of(await next_item(client)) == "Hangup"

    async def test_an_originate_is_acknowledged_and_its_response_is_an_event(self, fake: FakeAmi) -> None:
        fake.scripts["originate"] = queue_originate
        async with connected(fake) as client:
            reply = await client.action("Originate", [("ActionID", "dial-1"), ("Async", "true")])
            assert (reply.text, reply.events) == ("Originate successfully queued", ())
            await next_item(client)
            event = await next_item(client)
            assert (event.name, event.get("ActionID"), event.get("Reason")) == (
                "OriginateResponse",
                "dial-1",
                "5",
            )

    async def test_replies_that_overtake_each_other_are_not_swapped(self, fake: FakeAmi) -> None:
        held: list[Action] = []

        async def hold(peer: FakePeer, action: Action) -> None:
            held.append(action)
            if len(held) == 20:
                for each in reversed(held):
                    await peer.reply(each, f"Value: {each['variable']}")

        fake.scripts["getvar"] = hold
        async with connected(fake) as client:
            replies = await asyncio.gather(
                *[client.action("GetVar", [("Variable", str(n))]) for n in range(20)]
            )
        assert [reply.get("Value") for reply in replies] == [str(n) for n in range(20)]

    async def test_line_breaks_never_reach_the_pbx(self, fake: FakeAmi) -> None:
        async with connected(fake) as client:
            with pytest.raises(LocalProtocolError):
                await client.action("Hangup", [("Channel", "x\r\nAction: Originate")])
            await client.action("Ping")
        assert fake.names() == ["Ping"]

    async def test_a_list_beyond_the_bounds_fails_its_action_only(self, fake: FakeAmi) -> None:
        fake.scripts["coreshowchannels"] = show_list
        async with connected(fake, limits=AmiLimits(max_list_events=0)) as client:
            with pytest.raises(RemoteProtocolError, match="CoreShowChannels"):
                await client.action("CoreShowChannels")
            await client.action("Ping")
            assert client.session == 1

    async def test_too_many_unanswered_actions_are_refused_unsent(self, fake: FakeAmi) -> None:
        async with connected(fake, limits=AmiLimits(max_pending=1)) as client:
            first = asyncio.create_task(client.action("Silence"))
            await fake.saw(lambda: fake.names() == ["Silence"])
            with pytest.raises(PbxUnavailable) as caught:
                await client.action("Ping")
            assert not caught.value.sent
            first.cancel()
            await asyncio.wait([first])
            await client.action("Ping")

    async def test_an_unanswered_action_times_out_and_its_late_reply_goes_nowhere(
        self, fake: FakeAmi
    ) -> None:
        async with connected(fake) as client:
            with pytest.raises(PbxTimeout, match="Originate"):
                await client.action("Originate", timeout=0.02)
            await fake.saw(lambda: fake.names() == ["Originate"])
            assert fake.peer is not None
            await fake.peer.reply(fake.received[-1], "Message: late")
            assert (await client.action("Ping")).get("Ping") == "Pong"
            assert client.connected
        assert fake.names() == ["Originate", "Ping"]

    async def test_not_connected_means_not_sent(self) -> None:
        client = AmiClient(config(1))
        with pytest.raises(PbxUnavailable) as caught:
            await client.action("Originate")
        assert not caught.value.sent

    async def test_a_peer_that_reads_nothing_fills_no_buffer(self, fake: FakeAmi) -> None:
        async def stop_reading(peer: FakePeer, _: Action) -> None:
            await asyncio.sleep(3600)

        fake.scripts["jam"] = stop_reading
        async with connected(fake, action_timeout=0.1, limits=AmiLimits(max_pending=1 << 20)) as client:
            big = [("Variable", "v" * 1000)] * 120
            jam = [asyncio.create_task(client.action("Jam", big, timeout=0.3)) for _ in range(400)]
            await asyncio.sleep(0.1)
            assert client._link is not None
            assert client._link._transport is not None
            assert client._link._transport.get_write_buffer_size() < 65536 + 130_000
            errors = await asyncio.gather(*jam, return_exceptions=True)
            unsent = [e for e in errors if isinstance(e, PbxUnavailable) and not e.sent]
            timed_out = [e for e in errors if isinstance(e, PbxTimeout)]
            assert len(unsent) + len(timed_out) == 400
            assert unsent
            assert timed_out


class TestLosses:
    async def test_a_loss_mid_action_is_told_at_once_and_nothing_is_sent_again(self, fake: FakeAmi) -> None:
        fake.scripts["originate"] = cut
        async with connected(fake) as client:
            with pytest.raises(PbxUnavailable) as caught:
                await client.action("Originate", [("ActionID", "dial-1")], timeout=60)
            assert caught.value.sent
            assert [name_of(await next_item(client)) for _ in range(3)] == [
                Connected(1),
                Disconnected(1, caught.value.args[0].removeprefix("the AMI connection was lost: ")),
                Connected(2),
            ]
            await client.action("Ping")
        assert fake.names() == ["Originate", "Ping"]

    async def test_a_loss_mid_list_fails_the_list_at_once(self, fake: FakeAmi) -> None:
        fake.scripts["coreshowchannels"] = show_half_a_list
        async with connected(fake) as client:
            action = asyncio.create_task(client.action("CoreShowChannels", timeout=60))
            await fake.saw(lambda: fake.names() == ["CoreShowChannels"])
            assert fake.peer is not None
            fake.peer.cut()
            with pytest.raises(PbxUnavailable) as caught:
                async with asyncio.timeout(2):
                    await action
            assert caught.value.sent

    async def test_events_in_the_same_bytes_as_the_login_come_after_connected(self, fake: FakeAmi) -> None:
        fake.after_login = lambda _: b"Event: FullyBooted\r\nUptime: 5\r\n\r\n"
        async with connected(fake) as client:
            assert await next_item(client) == Connected(1)
            assert name_of(await next_item(client)) == "FullyBooted"
            assert fake.peer is not None
            fake.peer.cut()
            kinds = [type(await next_item(client)) for _ in range(3)]
            assert kinds == [Disconnected, Connected, Message]

    async def test_garbage_after_the_login_ends_the_session(self, fake: FakeAmi) -> None:
        async with connected(fake, limits=AmiLimits(max_message=200)) as client:
            assert fake.peer is not None
            await fake.peer.send(b"x" * 300)
            assert await next_item(client) == Connected(1)
            lost = await next_item(client)
            assert (lost.session, lost.reason) == (1, "an AMI message is longer than 200 bytes")
            assert await next_item(client) == Connected(2)

    async def test_another_greeting_is_tried_again_until_it_is_the_manager(self, fake: FakeAmi) -> None:
        fake.banner = b"220 smtp.example.com ESMTP\r\n"
        client = AmiClient(config(fake.port))
        await client.start()
        await fake.saw(lambda: fake.connections > 2)
        assert not client.connected
        assert fake.received == []
        fake.banner = b"Asterisk Call Manager/5.0.0\r\n"
        assert await client.wait_connected(3)
        await client.stop()

    async def test_a_peer_that_says_nothing_is_given_up(self, fake: FakeAmi) -> None:
        fake.banner = b""
        client = AmiClient(config(fake.port, connect_timeout=0.02))
        await client.start()
        await fake.saw(lambda: fake.connections > 1)
        assert not await client.wait_connected(0.01)
        await client.stop()

    async def test_it_comes_back_when_the_pbx_does(self) -> None:
        async with FakeAmi().serving() as first:
            port = first.port
            client = AmiClient(config(port))
            await client.start()
            assert await client.wait_connected(3)
        assert await next_item(client) == Connected(1)
        assert (await next_item(client)).session == 1
        assert not await client.wait_connected(0.05)
        async with FakeAmi().serving(port=port):
            assert await client.wait_connected(3)
            assert await next_item(client) == Connected(2)
            await client.stop()

    async def test_a_half_open_connection_is_found_by_a_ping(self, fake: FakeAmi) -> None:
        async def swallow(_: FakePeer, __: Action) -> None:
            pass

        fake.scripts["ping"] = swallow
        async with connected(fake, ping_interval=0.02, action_timeout=0.05) as client:
            assert await next_item(client) == Connected(1)
            assert await next_item(client) == Disconnected(1, "no answer to a ping within 0.05 s")
            assert await next_item(client) == Connected(2)

    async def test_a_peer_that_answers_pings_stays(self, fake: FakeAmi) -> None:
        async with connected(fake, ping_interval=0.01) as client:
            await fake.saw(lambda: fake.names().count("Ping") > 4)
            assert client.session == 1

    async def test_a_peer_that_talks_is_not_pinged(self, fake: FakeAmi) -> None:
        async with connected(fake, ping_interval=0.2):
            assert fake.peer is not None
            for _ in range(30):
                await fake.peer.event("X")
                await asyncio.sleep(0.01)
        assert fake.names() == []

    async def test_keepalive_and_nodelay_are_on(self, fake: FakeAmi, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[int] = []
        made = ami._Link.connection_made

        def remember(link: Any, transport: asyncio.BaseTransport) -> None:
            made(link, transport)
            sock = transport.get_extra_info("socket")
            seen.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
            seen.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

        monkeypatch.setattr(ami._Link, "connection_made", remember)
        async with connected(fake):
            assert seen == [1, 1]


class TestRefusal:
    async def test_a_wrong_secret_is_final_and_says_how_to_mend_it(self, fake: FakeAmi) -> None:
        client = AmiClient(config(fake.port, secret="wr0ng"))
        with capture_logs() as logs:
            await client.start()
            with pytest.raises(PbxAuthError, match="'me'"):
                await client.wait_connected(3)
        (refused,) = [line for line in logs if line["event"] == "ami.login_refused"]
        assert "manager.conf" in refused["mend"]
        assert "wr0ng" not in repr(logs)
        assert isinstance(client.fatal, PbxAuthError)
        with pytest.raises(PbxAuthError):
            await client.action("Ping")
        await asyncio.sleep(0.05)
        assert fake.connections == 1
        await client.stop()

    async def test_a_login_in_use_passes(self, fake: FakeAmi) -> None:
        async def in_use(peer: FakePeer, action: Action) -> None:
            del fake.scripts["login"]
            await peer.reply(action, "Message: Login Already In Use", kind="Error")

        fake.scripts["login"] = in_use
        async with connected(fake) as client:
            assert client.fatal is None
        assert fake.connections == 2

    async def test_the_secret_is_not_shown(self) -> None:
        assert "s3cret" not in repr(config(1))


class TestQueue:
    async def test_what_does_not_fit_is_counted_in_its_place(self, fake: FakeAmi) -> None:
        async with connected(fake, event_queue_size=3) as client:
            assert fake.peer is not None
            for number in range(10):
                await fake.peer.event(f"E{number}")
            await client.action("Ping")
            assert client.events_lost_total == 7
            assert [name_of(await next_item(client)) for _ in range(3)] == [Connected(1), "E0", "E1"]
            await fake.peer.event("E10")
            await client.action("Ping")
            assert [name_of(await next_item(client)) for _ in range(3)] == ["E2", EventsLost(7), "E10"]
            assert client.events_lost_total == 7

    async def test_a_loss_of_the_link_is_never_dropped(self, fake: FakeAmi) -> None:
        async with connected(fake, event_queue_size=1) as client:
            assert fake.peer is not None
            await fake.peer.send(b"".join(b"Event: E%d\r\n\r\n" % number for number in range(5)))
            await client.action("Ping")
            fake.peer.cut()
            await fake.saw(lambda: fake.logins == 2)
            assert await client.wait_connected(3)
            items = [name_of(await next_item(client)) for _ in range(5)]
            assert items[:3] == [Connected(1), "E0", EventsLost(4)]
            assert isinstance(items[3], Disconnected)
            assert items[4] == Connected(2)

    async def test_sessions_that_nobody_reads_do_not_pile_up(self) -> None:
        queue = ami._EventQueue(10)
        for session in range(1, 100_001):
            queue.put_mark(Connected(session))
            queue.put_event(Message([("Event", "X")]))
            queue.put_mark(Disconnected(session, "test"))
        assert len(queue._items) < 1000
        items = [await queue.get() for _ in range(len(queue._items))]
        assert isinstance(items[0], EventsLost)
        assert sum(item.count for item in items if isinstance(item, EventsLost)) == queue.lost_total
        assert queue.lost_total + sum(isinstance(item, Message) for item in items) == 100_000
        assert items[-1] == Disconnected(100_000, "test")

    async def test_only_the_wanted_events_are_kept(self, fake: FakeAmi) -> None:
        async with connected(fake, event_names=("Hangup",)) as client:
            assert fake.peer is not None
            await fake.peer.send(b"Event: VarSet\r\n\r\nEvent: Hangup\r\n\r\n")
            assert [name_of(await next_item(client)) for _ in range(2)] == [Connected(1), "Hangup"]

    async def test_the_queue_has_one_consumer(self, fake: FakeAmi) -> None:
        async with connected(fake) as client:
            await next_item(client)
            first = asyncio.create_task(client.next_item())
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError):
                await client.next_item()
            first.cancel()
            await asyncio.wait([first])
            assert fake.peer is not None
            await fake.peer.event("X")
            assert name_of(await next_item(client)) == "X"


class TestStopping:
    async def test_a_stop_ends_what_is_in_flight_and_who_waits(self, fake: FakeAmi) -> None:
        async with connected(fake) as client:
            await next_item(client)
            action = asyncio.create_task(client.action("Silence", timeout=60))
            await fake.saw(lambda: fake.names() == ["Silence"])
            await client.stop()
            with pytest.raises(PbxUnavailable) as caught:
                await action
            assert caught.value.sent
            assert await next_item(client) == Disconnected(1, "the client was stopped")
            with pytest.raises(PbxUnavailable):
                await next_item(client)
        assert not client.connected

    async def test_a_stop_while_connecting_and_a_second_one(self, fake: FakeAmi) -> None:
        fake.banner = b""
        client = AmiClient(config(fake.port))
        await client.start()
        await fake.saw(lambda: fake.connections == 1)
        await client.stop()
        await client.stop()
        assert not client.connected

    async def test_a_peer_that_ignores_the_goodbye_does_not_hold_the_stop(
        self, fake: FakeAmi, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ami, "_CLOSE_SECONDS", 0.05)
        del fake.scripts["logoff"]
        async with connected(fake) as client:
            started = time.monotonic()
            await client.stop()
            assert time.monotonic() - started < 1

    async def test_nothing_is_left_behind(self, fake: FakeAmi, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.ERROR, "asyncio")
        fake.scripts["originate"] = cut
        async with connected(fake) as client:
            for _ in range(5):
                await client.wait_connected(3)
                with pytest.raises(PbxUnavailable):
                    await client.action("Originate")
        gc.collect()
        await asyncio.sleep(0)
        names = [task.get_name() for task in asyncio.all_tasks()]
        assert "ami-supervisor" not in names
        assert caplog.records == []

    @pytest.mark.parametrize("host", ["", "a" * 70 + ".example", "no such host"])
    async def test_a_host_that_is_none_is_a_reason_not_a_crash(self, host: str) -> None:
        client = AmiClient(config(1, host=host))
        with capture_logs() as logs:
            await client.start()
            await client.wait_connected(0.2)
        assert any(line["event"] == "ami.retry" for line in logs)
        await client.stop()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for `pbx.example` with its key, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pbx.example")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("pbx.example")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "pbx.pem"
    path.write_bytes(
        signed.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return path


class TestTls:
    @pytest.fixture
    async def fake(self, certificate: Path) -> AsyncIterator[FakeAmi]:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        async with FakeAmi().serving(tls=context) as server:
            yield server

    async def test_a_trusted_manager(self, fake: FakeAmi, certificate: Path) -> None:
        tls = {"tls": True, "ca_file": str(certificate), "server_hostname": "pbx.example"}
        async with connected(fake, **tls) as client:
            assert (await client.action("Ping")).get("Ping") == "Pong"

    @pytest.mark.parametrize("trusts", [True, False])
    async def test_another_name_or_authority_is_not_trusted(
        self, fake: FakeAmi, certificate: Path, trusts: bool
    ) -> None:
        changes = {"ca_file": str(certificate)} if trusts else {"server_hostname": "pbx.example"}
        client = AmiClient(config(fake.port, tls=True, **changes))
        with capture_logs() as logs:
            await client.start()
            assert not await client.wait_connected(0.3)
        await client.stop()
        assert fake.received == []
        assert any("certificate verify failed" in line.get("reason", "").lower() for line in logs)

    async def test_a_ca_file_that_cannot_be_read_is_named(self, tmp_path: Path) -> None:
        broken = tmp_path / "broken.pem"
        broken.write_text("no certificate")
        for path in (tmp_path / "missing.pem", broken):
            with pytest.raises(ConfigError, match="ca_file"):
                await AmiClient(config(1, tls=True, ca_file=str(path))).start()


async def test_how_lately_the_pbx_was_heard(fake: FakeAmi) -> None:
    away = AmiClient(AmiConfig(host="127.0.0.1", port=1, username="u", secret="s"))
    assert not away.heard_within(60)
    async with connected(fake) as client:
        await client.action("Ping")
        assert client.heard_within(1.0)
        await asyncio.sleep(0.1)
        assert client.connected
        assert not client.heard_within(0.05)
