"""`make demo`: the lab and a controller on this machine, real calls, and what the persons heard.

A verification call and a payment call at the same time. Every step is printed as it happens; the summary
and the recordings are left in `var/demo/`. What it never does: touch a PBX that is there already, or
ring anybody outside the lab.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web
from rich.console import Console
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from telephony.api.keys import hash_key, new_key
from telephony.app import Controller, running
from telephony.errors import ConfigError, TelephonyError
from telephony.lab import Lab, answer_and_listen, press_keys
from telephony.lab.ear import hear
from telephony.logs import set_up_logs
from telephony.model.call import FINAL_CALL_STATUSES, CallStatus
from telephony.services.codes import make_code
from telephony.settings import Settings, check_settings
from telephony.speech.g711 import from_ulaw

FOLDER: Final = Path("var/demo")
NUMBER: Final = "+8613800000001"
PAYER: Final = "+8613800000002"
PRESS_AFTER: Final = 14.0
"""Seconds after the answer at which the payer presses 1: the amount was said, the question still stands."""

BRAND: Final = "Acme Rides"
LOCALES: Final = ("en", "zh-CN", "es")


class Story:
    """Tells the steps with the seconds since the start."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._started = time.monotonic()

    def tell(self, text: str) -> None:
        """Print one step."""
        self._console.print(f"[dim]{time.monotonic() - self._started:6.1f} s[/dim]  {text}")

    def fail(self, text: str) -> None:
        """Print what went wrong."""
        self._console.print(f"[bold red]{text}[/bold red]")


class Shop:
    """The app's own server: takes webhooks, and believes only those whose signature is right."""

    def __init__(self) -> None:
        self.secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        self.url = ""
        self.told: asyncio.Queue[dict[str, Any]] = asyncio.Queue(16)
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen on loopback."""
        server = web.Application()
        server.router.add_post("/webhooks", self._take)
        self._runner = web.AppRunner(server, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/webhooks"

    async def stop(self) -> None:
        """Listen no more."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        raw = await request.read()
        try:
            Webhook(self.secret).verify(raw, dict(request.headers))
        except WebhookVerificationError:
            return web.Response(status=400)
        self.told.put_nowait(json.loads(raw))
        return web.Response(status=204)


class DemoApi:
    """The app's side: what your own program would send."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str) -> None:
        self._session = session
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}"}

    async def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send one request and return the JSON of a 2xx answer; raises `TelephonyError` otherwise."""
        async with self._session.request(
            method, f"{self._url}{path}", json=body, headers=self._headers
        ) as reply:
            answer: dict[str, Any] = await reply.json()
            if reply.status >= 400:
                raise TelephonyError(f"{method} {path}: {answer.get('detail', reply.status)}")
            return answer


def demo_settings(lab: Lab, folder: Path, key: str, locale: str, shop: Shop) -> Settings:
    """The embedded defaults, with the lab's addresses."""
    host, port = lab.agi
    return check_settings(
        {
            "server": {"port": 8080 if os.environ.get("KEEP") else 0, "node": "demo"},
            "store": {"url": f"sqlite:///{folder}/telephony.db"},
            "secrets": {"master_key_file": str(folder / "master.key")},
            "pbx": {
                "ami": {
                    "host": lab.pbx.address,
                    "port": lab.pbx.ami_port,
                    "username": lab.state.ami_user,
                    "secret": lab.state.ami_secret,
                }
            },
            "fastagi": {"host": host, "port": port},
            "trunks": [{"name": "carrier", "endpoint": "carrier"}],
            "speech": {
                "locales": [locale],
                "cache_dir": "var/speech",
                "media_dir": f"/dev/shm/telephony-demo-{lab.state.number}",  # noqa: S108
            },
            "numbers": {"default_region": "CN", "allowed_regions": ["CN"]},
            "clients": [
                {
                    "name": "demo",
                    "key_hash": hash_key(key),
                    "brand": BRAND,
                    "caller_number": "+861088880000",
                    "default_locale": locale,
                    "webhook_url": shop.url,
                    "webhook_secret": shop.secret,
                }
            ],
            "webhooks": {"allow_private": ["127.0.0.1"]},
        }
    )


async def verification(story: Story, lab: Lab, controller: Controller, api: DemoApi) -> dict[str, Any]:
    """Place a verification call, listen to what was heard, and check the code that was heard."""
    code = make_code(6)
    lab.carrier.subscribe(NUMBER, answer_and_listen(after=2.0))
    story.tell(f"POST /v1/verifications  [cyan]{{'to': '{NUMBER}', 'code': '…'}}[/cyan]")
    view = await api.ask("POST", "/v1/verifications", {"to": NUMBER, "code": code})
    story.tell(f"201 Created: {view['id']}, {view['status']}; the code is not in the answer")
    call = await follow(story, api, view["call_id"], "verification call")
    if call["status"] != CallStatus.COMPLETED:
        raise TelephonyError(f"the call ended as {call['status']} ({call['failure_reason']})")
    attempt = call["attempts"][0]
    story.tell(f"trunk: {attempt['trunk_reason']}; hangup cause: {attempt['cause']}")
    (rung,) = lab.carrier.calls_to(NUMBER)
    await rung.wait_ended()
    heard = FOLDER / "heard-verification.wav"
    shutil.copyfile(rung.heard or "", heard)
    story.tell(f"what the person heard is in [green]{heard}[/green] ({rung.codec} over RTP)")
    slots = await controller.studio.digit_slots(view["locale"])
    clips = {str(digit): bytes(from_ulaw(clip.ulaw)) for digit, clip in enumerate(slots.slots)}
    digits = "".join(one.label for one in await asyncio.to_thread(hear, heard, clips))
    said = [digits[start : start + len(code)] for start in range(0, len(digits), len(code))]
    story.tell(f"digits heard in the recording: [bold]{' … '.join(said)}[/bold]")
    checked = await api.ask("POST", f"/v1/verifications/{view['id']}/check", {"code": said[0]})
    story.tell(f"POST …/check with what was heard: [bold green]{checked['status']}[/bold green]")
    return {
        "to": view["to"],
        "locale": view["locale"],
        "code": code,
        "status": checked["status"],
        "heard": said[0],
        "times_heard": len(said),
        "recording": str(heard),
        "call": call,
    }


async def payment(story: Story, lab: Lab, api: DemoApi, shop: Shop) -> dict[str, Any]:
    """Place a payment call whose callee presses 1, and wait for the webhook that tells of it."""
    lab.carrier.subscribe(PAYER, press_keys([(PRESS_AFTER, "1")], answer_after=1.5))
    order = {"to": PAYER, "order_id": "A-1024", "amount": "128.50", "currency": "CNY", "payee": "Acme"}
    story.tell(f"POST /v1/payment-confirmations  [cyan]{order}[/cyan]")
    view = await api.ask("POST", "/v1/payment-confirmations", order)
    story.tell(f"201 Created: {view['id']}, {view['status']}")
    call = await follow(story, api, view["call_id"], "payment call")
    kind = "payment_confirmation.confirmed"
    async with asyncio.timeout(15):
        while (event := await shop.told.get())["type"] != kind:
            pass
    story.tell(f"webhook, its signature verified: [bold green]{event['type']}[/bold green]")
    (rung,) = lab.carrier.calls_to(PAYER)
    await rung.wait_ended()
    heard = FOLDER / "heard-payment.wav"
    shutil.copyfile(rung.heard or "", heard)
    story.tell(f"what the person heard is in [green]{heard}[/green]; keys pressed: {rung.digits_sent}")
    done = await api.ask("GET", f"/v1/payment-confirmations/{view['id']}")
    return {
        "to": done["to"],
        "locale": done["locale"],
        "order_id": done["order_id"],
        "amount": done["amount"],
        "currency": done["currency"],
        "status": done["status"],
        "keys": rung.digits_sent,
        "webhook": event,
        "recording": str(heard),
        "call": call,
    }


async def follow(story: Story, api: DemoApi, call_id: str, what: str) -> dict[str, Any]:
    """Tell each status of a call as it comes, and return it once it is final."""
    told = ""
    while True:
        waiting = f"?wait=20&while={told}" if told else ""
        call = await api.ask("GET", f"/v1/calls/{call_id}{waiting}")
        if call["status"] != told:
            told = call["status"]
            story.tell(f"{what}: {told}")
        if told in FINAL_CALL_STATUSES:
            return call


async def demo(story: Story, locale: str, *, keep: bool) -> bool:
    """Run the whole demo; returns whether everything went well."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    key = new_key()
    story.tell("bringing up the lab: a PBX and a carrier, both Asterisk, on loopback")
    with tempfile.TemporaryDirectory(prefix="telephony-demo-") as folder:
        shop = Shop()
        async with Lab(progress=story.tell) as lab, AsyncExitStack() as stack:
            await shop.start()
            stack.push_async_callback(shop.stop)
            story.tell(f"starting the controller (SQLite, espeak-ng, {locale})")
            async with (
                running(demo_settings(lab, Path(folder), key, locale, shop)) as controller,
                aiohttp.ClientSession() as session,
            ):
                if not await controller.pbx.wait_ready(10):
                    raise TelephonyError("the controller could not log in to the PBX")
                story.tell(f"ready: {controller.url} (API), FastAGI on port {controller.pbx.agi_port}")
                api = DemoApi(session, controller.url, key)
                done, paid = await asyncio.gather(
                    verification(story, lab, controller, api), payment(story, lab, api, shop)
                )
                summary = {"verification": done, "payment": paid}
                (FOLDER / "summary.json").write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
                story.tell(f"summary: [green]{FOLDER / 'summary.json'}[/green]")
                if keep:
                    await stay(story, lab, controller, key)
    return bool(
        done["status"] == "approved" and done["heard"] == done["code"] and paid["status"] == "confirmed"
    )


async def stay(story: Story, lab: Lab, controller: Controller, key: str) -> None:
    """Leave everything running until Ctrl-C."""
    lab.carrier.default = answer_and_listen()
    story.tell(f"still running: [green]{controller.url}/docs[/green] (every number answers; Ctrl-C ends it)")
    story.tell(f"try: TELEPHONY_URL={controller.url} TELEPHONY_KEY={key} telephony verify {NUMBER}")
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


def main() -> int:
    """Entry point; the exit code is 0 when the code was heard and approved, and the payment confirmed."""
    set_up_logs("error", "console")
    story = Story()
    locale = os.environ.get("LOCALE") or "en"
    try:
        if locale not in LOCALES:
            raise ConfigError("LOCALE", f"{locale} is not spoken here", f"Use one of {', '.join(LOCALES)}")
        good = asyncio.run(demo(story, locale, keep=bool(os.environ.get("KEEP"))))
    except TelephonyError as error:
        story.fail(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    if not good:
        story.fail("what was heard or answered is not what it should be")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
