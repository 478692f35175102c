"""A running controller, as a command talks to it over HTTP."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from telephony import __version__
from telephony.cli.exits import Exit, fail
from telephony.cli.options import DEFAULT_URL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import aiohttp

REQUEST_SECONDS: Final = 30.0


class Controller:
    """A running controller, as its HTTP API shows it; ends the program with what it refuses."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def get(self, path: str, **query: str | float) -> dict[str, Any]:
        """Read a resource."""
        return await self._ask("GET", path, params={name: str(value) for name, value in query.items()})

    async def post(self, path: str, body: dict[str, Any], *, once: bool = True) -> dict[str, Any]:
        """Make or change something; `once` sends an Idempotency-Key."""
        from uuid import uuid4

        headers = {"Idempotency-Key": str(uuid4())} if once else {}
        return await self._ask("POST", path, json=body, headers=headers)

    async def _ask(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        import aiohttp

        try:
            async with self._session.request(
                method, self._url + path, allow_redirects=False, **request
            ) as response:
                status = response.status
                reply = await response.json(content_type=None)
        except (TimeoutError, aiohttp.ClientConnectionError, aiohttp.InvalidURL) as error:
            fail(Exit.UNREACHABLE, f"no controller answers at {self._url} ({error or 'timeout'})")
        except (ValueError, aiohttp.ClientError):
            fail(Exit.UNREACHABLE, f"what answers at {self._url} is no controller")
        if not isinstance(reply, dict):
            fail(Exit.UNREACHABLE, f"what answers at {self._url} is no controller")
        if status >= 300:
            fail(
                _code_of_reply(status, reply),
                _words_of_problem(status, reply, response.headers.get("Retry-After")),
            )
        return reply


@asynccontextmanager
async def controller_at(url: str, key: str | None) -> AsyncIterator[Controller]:
    """The controller at this address; ends the program where the key or the address can be none."""
    import aiohttp

    if not key:
        fail(Exit.USAGE, "a key is missing. Set TELEPHONY_KEY; `telephony key new NAME` makes one")
    if not key.isascii() or not key.isprintable():
        fail(Exit.USAGE, "the key holds characters that no key has")
    if not url.startswith(("http://", "https://")):
        fail(Exit.USAGE, f"{url!r} is no address. Write it like {DEFAULT_URL}")
    headers = {"Authorization": f"Bearer {key}", "User-Agent": f"telephony/{__version__}"}
    timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
        yield Controller(session, url.rstrip("/"))


def quoted(resource_id: str) -> str:
    """An id as one step of a path, whatever it holds."""
    from urllib.parse import quote

    return quote(resource_id, safe="")


def _code_of_reply(status: int, reply: dict[str, Any]) -> Exit:
    """The exit code that a problem stands for."""
    if status in (403, 409, 429) or reply.get("type") == "/docs#overloaded":
        return Exit.REFUSED
    return Exit.UNREACHABLE if status >= 500 else Exit.USAGE


def _words_of_problem(status: int, reply: dict[str, Any], retry_after: str | None) -> str:
    words = f"{reply.get('title', 'refused')} ({status}): {reply.get('detail', '')}"
    if retry_after:
        words += f"; try again in {retry_after} s"
    mends = [f"\n  {one['field']}: {one['mend']}" for one in reply.get("errors", ())]
    return words + "".join(mend for mend in mends if mend.partition(": ")[2] not in words)
