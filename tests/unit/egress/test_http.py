"""Requests to somebody else: where they go, how long they take, how much is read."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from telephony.egress.guard import Guard
from telephony.egress.http import MAX_ANSWER, Egress, HttpCaller, SystemLookup
from telephony.errors import AddressRefused, NoAnswer
from tests.unit.egress.conftest import Received, Receiver, closes, hangs, says

LOCAL = Guard(("127.0.0.0/8",))


class Names:
    """A name server that answers as told, the last answer for ever."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, _host: str) -> Sequence[str]:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    await made.up()
    yield made
    await made.down()


@pytest_asyncio.fixture
async def caller() -> AsyncIterator[HttpCaller]:
    made = HttpCaller(LOCAL)
    yield made
    await made.close()


async def test_what_is_sent(receiver: Receiver, caller: HttpCaller) -> None:
    async def echo(_request: web.Request, received: Received) -> web.StreamResponse:
        return web.Response(status=201, body=received.raw, headers={"X-One": "1"})

    receiver.behaves = echo
    answer = await caller.post_json(receiver.url, b'{"a":1}', {"X-Mine": "yes"}, 5)
    assert (answer.status, answer.body, answer.truncated) == (201, b'{"a":1}', False)
    assert answer.headers["x-one"] == "1"
    sent = receiver.got[0].headers
    assert sent["content-type"] == "application/json"
    assert sent["x-mine"] == "yes"
    assert sent["user-agent"].startswith("telephony/")
    assert sent["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["::ffff:127.0.0.1"], ["1.1.1.1", "10.0.0.1"], ["fe80::1%eth0"]]
)
async def test_a_name_that_leads_to_our_own_networks(receiver: Receiver, addresses: list[str]) -> None:
    caller = HttpCaller(Guard(), lookup=Names(addresses))
    with pytest.raises(AddressRefused) as caught:
        await caller.post_json(f"http://example.com:{receiver.port}/", b"{}", {}, 5)
    assert "example.com" in str(caught.value)
    assert not any(address in str(caught.value) for address in addresses)
    assert receiver.got == []
    await caller.close()


OURS_IN_DISGUISE = (
    "0.0.0.0",
    "0",
    "0x0",
    "127.1",
    "127.0.1",
    "127.0.0.1.",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "017700000001",
    "0177.0.0.1",
    "127.0.0.01",
    "%31%32%37.0.0.1",
    "127%2e0.0.1",
    "[::]",
    "[::1]",
    "[::127.0.0.1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:0:127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[2002:7f00:1::]",
    "[0:0:0:0:0:ffff:127.0.0.1]",
    "localhost",
    "LocalHost.",
    "①②⑦.0.0.1",
    "127。0。0。1",
    "user@127.0.0.1",
    "example.com@127.0.0.1",
    "example.com:80@127.0.0.1",
    "example.com%40127.0.0.1",
    "example.com\\@127.0.0.1",
    "127.0.0.1\\@example.com",
    "127.0.0.1%23@example.com",
    "127.0.0.1%00.example.com",
    "127.0.0.1 .example.com",
)


@pytest.mark.parametrize("host", OURS_IN_DISGUISE)
async def test_no_way_of_writing_it_leads_to_ourselves(receiver: Receiver, host: str) -> None:
    # The system's resolver takes more for an address than we do: whatever it is asked, it leads to us.
    caller = HttpCaller(Guard(), lookup=Names(["127.0.0.1"]))
    with pytest.raises(AddressRefused):
        await caller.post_json(f"http://{host}:{receiver.port}/hook", b"{}", {}, 5)
    assert receiver.got == []
    await caller.close()


async def test_localhost_by_the_systems_own_resolver(receiver: Receiver) -> None:
    caller = HttpCaller(Guard())
    for host in ("localhost", "0x7f000001"):
        with pytest.raises((AddressRefused, NoAnswer)):
            await caller.post_json(f"http://{host}:{receiver.port}/", b"{}", {}, 5)
    with pytest.raises(AddressRefused):
        await caller.post_json(f"http://localhost:{receiver.port}/", b"{}", {}, 5)
    assert receiver.got == []
    await caller.close()


async def test_an_answer_that_changes_changes_nothing(receiver: Receiver) -> None:
    """The first answer is looked at and connected to; the second is looked at anew."""
    names = Names(["127.0.0.1"], ["127.0.0.2"])
    caller = HttpCaller(Guard(("127.0.0.1",)), lookup=names)
    url = f"http://example.com:{receiver.port}/"
    assert (await caller.post_json(url, b"{}", {}, 5)).status == 204
    assert names.asked == 1
    with pytest.raises(AddressRefused):
        await caller.post_json(url, b"{}", {}, 5)
    assert len(receiver.got) == 1
    await caller.close()


async def test_a_name_that_is_none() -> None:
    caller = HttpCaller(Guard())
    for host in ("nobody.invalid", "a" * 70 + ".example"):
        with pytest.raises(NoAnswer, match="resolved"):
            await caller.post_json(f"http://{host}/", b"{}", {}, 20)
    await caller.close()


async def test_one_lookup_for_those_who_ask_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(host: str) -> tuple[str, ...]:
        asked.append(host)
        return ("1.1.1.1",)

    monkeypatch.setattr("telephony.egress.http._getaddrinfo", answer)
    lookup = SystemLookup()
    assert set(await asyncio.gather(*(lookup("example.com") for _ in range(5)))) == {("1.1.1.1",)}
    assert asked == ["example.com"]
    await lookup("example.com")
    assert len(asked) == 2
    lookup.close()


async def test_a_redirect_is_an_answer(receiver: Receiver, caller: HttpCaller) -> None:
    receiver.behaves = says(302, Location="/elsewhere")
    assert (await caller.post_json(receiver.url, b"{}", {}, 5)).status == 302
    assert len(receiver.got) == 1


async def test_no_proxy_from_the_environment(
    receiver: Receiver, caller: HttpCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1/")
    assert (await caller.post_json(receiver.url, b"{}", {}, 5)).status == 204


async def test_no_cookie_is_kept(receiver: Receiver, caller: HttpCaller) -> None:
    receiver.behaves = says(200, Set_Cookie="a=b; Path=/")
    for _ in range(2):
        await caller.post_json(receiver.url, b"{}", {}, 5)
    assert "cookie" not in receiver.got[1].headers


async def test_what_hangs_ends_at_the_deadline(receiver: Receiver, caller: HttpCaller) -> None:
    receiver.behaves = hangs
    with pytest.raises(NoAnswer, match=r"within 0\.1 s"):
        await caller.post_json(receiver.url, b"{}", {}, 0.1)


async def test_a_trickle_ends_at_the_deadline(receiver: Receiver, caller: HttpCaller) -> None:
    async def trickle(request: web.Request, _received: Received) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.01)

    receiver.behaves = trickle
    with pytest.raises(NoAnswer, match="within"):
        await caller.post_json(receiver.url, b"{}", {}, 0.2)


async def test_what_is_closed_or_refused(receiver: Receiver, caller: HttpCaller) -> None:
    receiver.behaves = closes
    with pytest.raises(NoAnswer, match="closed"):
        await caller.post_json(receiver.url, b"{}", {}, 5)
    await receiver.down()
    with pytest.raises(NoAnswer, match="refused") as caught:
        await caller.post_json(receiver.url, b"{}", {}, 5)
    assert "127.0.0.1" not in str(caught.value)


async def test_a_server_that_speaks_something_else(caller: HttpCaller) -> None:
    async def ssh(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(ssh, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(NoAnswer):
            await caller.post_json(f"http://127.0.0.1:{port}/", b"{}", {}, 5)


@pytest.mark.parametrize(("size", "truncated"), [(MAX_ANSWER, False), (MAX_ANSWER + 1, True)])
async def test_an_answer_is_read_up_to_its_bound(
    receiver: Receiver, caller: HttpCaller, size: int, truncated: bool
) -> None:
    async def long(_request: web.Request, _received: Received) -> web.StreamResponse:
        return web.Response(body=b"x" * size)

    receiver.behaves = long
    answer = await caller.post_json(receiver.url, b"{}", {}, 5)
    assert (len(answer.body), answer.truncated) == (MAX_ANSWER, truncated)


async def test_an_endless_answer_that_is_not_wanted(receiver: Receiver, caller: HttpCaller) -> None:
    async def endless(request: web.Request, _received: Received) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65536)

    receiver.behaves = endless
    answer = await caller.post_json(receiver.url, b"{}", {}, 2, most=0)
    assert (answer.status, answer.body) == (200, b"")


async def test_a_packed_answer_is_not_unpacked(receiver: Receiver, caller: HttpCaller) -> None:
    async def packed(_request: web.Request, _received: Received) -> web.StreamResponse:
        return web.Response(body=b"not gzip at all", headers={"Content-Encoding": "gzip"})

    receiver.behaves = packed
    assert (await caller.post_json(receiver.url, b"{}", {}, 5)).body == b"not gzip at all"


async def test_a_certificate_that_nobody_vouches_for(tmp_path: Path, caller: HttpCaller) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=127.0.0.1",
        "-days",
        "1",
    ]
    subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    received: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read(1))
        writer.close()

    async with await asyncio.start_server(take, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(NoAnswer, match="certificate"):
            await caller.post_json(f"https://127.0.0.1:{port}/", b"{}", {}, 5)
    assert b"P" not in received


async def test_a_signed_question_and_its_answer(receiver: Receiver, caller: HttpCaller) -> None:
    async def decide(_request: web.Request, received: Received) -> web.StreamResponse:
        return web.json_response({"id": received.id})

    receiver.behaves = decide
    answer = await Egress(caller).post_signed(
        receiver.url, (b"k" * 32,), "msg_1", b"{}", 3, timestamp=1_700_000_000
    )
    assert answer.body == b'{"id": "msg_1"}'
    assert receiver.got[0].headers["webhook-timestamp"] == "1700000000"
