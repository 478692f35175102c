"""HTTP requests to somebody else: guarded, bounded in time and size, no redirects, no proxies.

The name is resolved once per request and the very addresses that the guard has seen are connected to, so
an answer that changes in between (DNS rebinding) changes nothing. Connections are not kept: a receiver
that closes an idle one would make the next request fail. TLS certificates are verified.
What it never does: retry, follow a redirect, keep a cookie, read the environment, decompress.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from telephony import __version__
from telephony.egress.guard import Address, Guard
from telephony.egress.signing import signed_headers
from telephony.errors import AddressRefused, NoAnswer

Lookup: TypeAlias = Callable[[str], Awaitable[Sequence[str]]]
"""From a host name to the texts of its addresses; raises `OSError` when there are none."""

MAX_ANSWER: Final = 64 * 1024
_LOOKUPS: Final = 32
"""How many names are looked up at once; more wait for a thread, within their own deadline."""
_CHUNK: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """What the other side answered: `body` as far as it was wanted, `truncated` when there was more.

    Names in `headers` are in lower case; of several with one name the last counts.
    """

    status: int
    body: bytes = field(repr=False)
    truncated: bool
    headers: Mapping[str, str] = field(repr=False)


class HttpCaller:
    """Makes requests one at a time for whoever asks; how many at once is the asker's to bound.

    `lookup` stands in for the system's resolver in tests.
    """

    def __init__(self, guard: Guard, *, lookup: Lookup | None = None) -> None:
        self._guard = guard
        self._system = SystemLookup()
        self._lookup = lookup or self._system
        self._session: aiohttp.ClientSession | None = None

    async def post_json(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        timeout: float,
        *,
        most: int = MAX_ANSWER,
    ) -> Answer:
        """POST `body`, which is JSON already, and return the answer, whatever its status.

        `timeout` in seconds is for all of it, name lookup to last byte; `most` bytes of the answer are
        read. Raises `AddressRefused` before anything is sent, `NoAnswer` otherwise.
        """
        target = self._guard.admit(url)
        try:
            async with (
                asyncio.timeout(timeout),
                self._opened().post(
                    target,
                    data=body,
                    headers={**headers, "Content-Type": "application/json", "Accept-Encoding": "identity"},
                    allow_redirects=False,
                ) as response,
            ):
                received, truncated = await _read(response.content, most)
                found = {name.lower(): value for name, value in response.headers.items()}
                return Answer(response.status, received, truncated, found)
        except TimeoutError:
            raise NoAnswer(f"no answer within {timeout:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            # Their own words may hold the address that a name leads to; the kind is enough.
            raise NoAnswer(f"no answer: {_in_words(error)}") from error

    async def close(self) -> None:
        """End what is under way and release the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None
        self._system.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                resolver=GuardedResolver(self._guard, self._lookup),
                use_dns_cache=False,
                force_close=True,
                limit=0,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"telephony/{__version__}", "Accept": "application/json"},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                trust_env=False,
                auto_decompress=False,
            )
        return self._session


class Egress:
    """Signed requests: webhooks, and questions to an app whose answer is waited for."""

    def __init__(self, caller: HttpCaller) -> None:
        self._caller = caller

    async def post_signed(
        self,
        url: str,
        secrets: Sequence[bytes],
        message_id: str,
        payload: bytes,
        timeout: float,
        *,
        timestamp: int,
        most: int = MAX_ANSWER,
    ) -> Answer:
        """POST UTF-8 JSON with its signatures; `timestamp` is now, in seconds since the epoch.

        The receiver turns away what is minutes off its own clock, so it is taken anew for each try. The
        rest is as in `HttpCaller.post_json`.
        """
        headers = signed_headers(secrets, message_id, timestamp, payload)
        return await self._caller.post_json(url, payload, headers, timeout, most=most)


async def _read(stream: aiohttp.StreamReader, most: int) -> tuple[bytes, bool]:
    """At most `most` bytes, and whether there were more; with `most` 0 nothing is waited for."""
    received = bytearray()
    while len(received) < most:
        chunk = await stream.read(min(_CHUNK, most - len(received)))
        if not chunk:
            return bytes(received), False
        received += chunk
    return bytes(received), most > 0 and bool(await stream.read(1))


def _in_words(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the name can't be resolved"
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        return "TLS failed or the certificate is not valid"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "the connection was refused or could not be made"
    if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionError | aiohttp.ClientOSError):
        return "the connection was closed"
    return "what came back is not HTTP" if isinstance(error, aiohttp.ClientResponseError) else "it broke off"


class GuardedResolver(AbstractResolver):
    """Resolves for aiohttp and lets through only what the guard admits; one bad address refuses all."""

    def __init__(self, guard: Guard, lookup: Lookup) -> None:
        self._guard = guard
        self._lookup = lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses to connect to, as numbers. Raises `AddressRefused`, `OSError`."""
        addresses = [_address(text) for text in await self._lookup(host)]
        for address in addresses:
            self._guard.admit_address(host, address)
        if not addresses:
            raise OSError("no addresses")
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Nothing is held."""


def _address(text: str) -> Address:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        raise AddressRefused("the name resolved to something that is no address") from None


class SystemLookup:
    """The system's resolver, in threads of its own: a name server that hangs holds nobody else up.

    Requests for the same name at the same time share one lookup.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_LOOKUPS, thread_name_prefix="egress-lookup")
        self._running: dict[str, asyncio.Future[tuple[str, ...]]] = {}

    async def __call__(self, host: str) -> tuple[str, ...]:
        """Return the addresses of `host`; raises `OSError`."""
        running = self._running.get(host)
        if running is None:
            running = asyncio.get_running_loop().run_in_executor(self._threads, _getaddrinfo, host)
            self._running[host] = running
            running.add_done_callback(lambda done: self._forget(host, done))
        return await asyncio.shield(running)

    def close(self) -> None:
        """Take no more; a lookup under way ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _forget(self, host: str, done: asyncio.Future[tuple[str, ...]]) -> None:
        self._running.pop(host, None)
        if not done.cancelled():
            # Looked at, even where everybody who asked has gone: else it would be reported as unseen.
            done.exception()


def _getaddrinfo(host: str) -> tuple[str, ...]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise OSError("not a host name") from error
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
