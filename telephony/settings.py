"""The configuration: one `telephony.toml`, every key also in the environment, checked before anything runs.

A key `[pbx.ami] secret` is `TELEPHONY_PBX__AMI__SECRET` in the environment; a secret may stand in a file
of its own (`secret_file`). Every fault is told at once, each with its key and the mend. What it never
does: connect to anything, or print a secret.
"""

from __future__ import annotations

import base64
import difflib
import ipaddress
import os
import re
import secrets
import socket
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import time
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from phonenumbers import SUPPORTED_REGIONS
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from telephony.calls.policy import MAX_ROUNDS, policy_for
from telephony.calls.quiet import Window
from telephony.egress.guard import Guard, url_problem
from telephony.egress.rules import DeliveryRules, Endpoint
from telephony.egress.schedule import WHOLE_SCHEDULE
from telephony.egress.signing import decode_secret
from telephony.errors import ConfigError, InputError
from telephony.model.call import CallClass
from telephony.model.client import Client
from telephony.model.trunk import MOST_LINES
from telephony.pbx.port import EarlyMedia, IdentityForm
from telephony.trunks.breaker import BreakerRules
from telephony.trunks.dialect import NumberFormat, Trunk
from telephony.trunks.hours import WeekHours, parse_window
from telephony.trunks.overflow import Step, parse_step, plan_text
from telephony.trunks.routing import Order, RouteRule
from telephony.trunks.saturation import SaturationRules

ENVIRONMENT_PREFIX: Final = "TELEPHONY_"
DEFAULT_FILES: Final = (Path("telephony.toml"), Path("/etc/telephony/telephony.toml"))
SHARED_MEMORY: Final = Path("/dev") / "shm"
KEY_HASH: Final = re.compile(r"sha256:[0-9a-f]{64}")
# What is no key of the file: the command line's own variables, the lab's, and those that Kubernetes
# sets in every pod once a Service is named `telephony`.
_NO_KEYS: Final = re.compile(
    r"TELEPHONY_(CONFIG|URL|KEY|LAB_\w+|SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP)(_\w+)?)?)"
)
_CODECS: Final = ("ulaw", "alaw", "g722", "g729", "gsm", "ilbc", "opus", "slin", "slin16", "speex")
_HOURS: Final = re.compile(r"((?:[01][0-9]|2[0-3]):[0-5][0-9])-((?:[01][0-9]|2[0-3]):[0-5][0-9]|24:00)")
_MIDNIGHT: Final = "24:00"
_STORES: Final = re.compile(r"sqlite(\+aiosqlite)?:///[^?]+|(postgres|postgresql|postgresql\+asyncpg)://.+")


def _checked(wrong: Callable[[str], str | None]) -> AfterValidator:
    """Make a check from a function that says `problem; mend` of a text, or None."""

    def check(text: str) -> str:
        words = wrong(text)
        if words is not None:
            raise ValueError(words)
        return text

    return AfterValidator(check)


def _no_region(text: str) -> str | None:
    if text in SUPPORTED_REGIONS:
        return None
    return f"{text!r} is not a region; write its two capital letters (ISO 3166-1), such as CN"


def _no_prefix(text: str) -> str | None:
    if re.fullmatch(r"\+[0-9]{1,15}", text):
        return None
    return f"{text!r} is not a prefix; write it like +86138"


def _no_network(text: str) -> str | None:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        return f"{error}; write an address or a network such as 10.0.0.0/24"
    return None


def _no_codec(text: str) -> str | None:
    return None if text in _CODECS else f"{text!r} is not a codec; write some of {', '.join(_CODECS)}"


def _no_line(text: str) -> str | None:
    if text and text.isprintable():
        return None
    return "is empty or holds a control character; write one line of text"


def _no_key_hash(text: str) -> str | None:
    if KEY_HASH.fullmatch(text):
        return None
    return "is not a key's hash; `telephony key new NAME` prints a key and its hash"


def _no_caller_number(text: str) -> str | None:
    if re.fullmatch(r"(\+?[0-9]{1,20})?", text):
        return None
    return "is not a caller number; write digits with or without a leading +, or leave it out"


def _no_endpoint(text: str) -> str | None:
    if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", text):
        return None
    return "is not an endpoint's name; write the section's name in pjsip.conf, without PJSIP/"


def _no_dial_prefix(text: str) -> str | None:
    return None if re.fullmatch(r"[0-9*#+]{0,20}", text) else "cannot be dialled; write digits, *, # or +"


def _no_dialplan_name(text: str) -> str | None:
    if re.fullmatch(r"[A-Za-z0-9_+*#.-]{0,64}", text):
        return None
    return "is not a name of the dialplan; write letters, digits and _ + * # . -"


def _no_recordings_folder(text: str) -> str | None:
    if re.fullmatch(r"(/[A-Za-z0-9._-]+)*", text) and ".." not in text:
        return None
    return "is not an absolute path of letters, digits and . _ -; write the folder as the PBX sees it"


def _no_step(text: str) -> str | None:
    try:
        parse_step(text)
    except ValueError as error:
        return str(error)
    return None


def _no_tree(text: str) -> str | None:
    if re.fullmatch(r"([a-z][a-z0-9_-]{0,63})?", text):
        return None
    return "is not a tree's name; write that of its file, without .yaml"


def _no_called_number(text: str) -> str | None:
    if re.fullmatch(r"\+?[0-9]{1,20}", text):
        return None
    return "is not a called number; write digits with or without a leading +"


def _no_agi_address(text: str) -> str | None:
    if re.fullmatch(r"(([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5})?", text):
        return None
    return "is not an address; write host:port as the PBX reaches it, such as 10.0.0.5:4573"


def _no_week_hours(text: str) -> str | None:
    try:
        parse_window(text)
    except ValueError as error:
        return str(error)
    return None


def _no_zone(text: str) -> str | None:
    if not text:
        return None
    try:
        ZoneInfo(text)
    except (ValueError, OSError, ZoneInfoNotFoundError):
        return f"{text!r} is not a time zone; write its name in the IANA database, such as Asia/Shanghai"
    return None


def _no_display_name(text: str) -> str | None:
    if text.isprintable() and not set(text) & set('"\\<>'):
        return None
    return "is not a name to be shown; write a line of text without quotes, backslashes and brackets"


def _no_domain(text: str) -> str | None:
    if re.fullmatch(r"[A-Za-z0-9.-]{0,253}", text):
        return None
    return "is not a domain; write it like sip.carrier.example"


def _no_store(text: str) -> str | None:
    if _STORES.fullmatch(text):
        return None
    return "is not a store; write sqlite:///var/telephony.db or postgresql://user@host/database"


def _window(text: str) -> Window:
    """Read `09:00-12:00`; raises `ValueError` with `problem; mend`."""
    found = _HOURS.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} names no hours; write them like 09:00-12:00, from 00:00 to 24:00")
    start, end = time.fromisoformat(found[1]), time.fromisoformat(found[2].replace(_MIDNIGHT, "00:00"))
    if found[2] != _MIDNIGHT and end <= start:
        raise ValueError(
            f'{text!r} ends before it begins; over midnight write two: "{found[1]}-24:00", "00:00-{found[2]}"'
        )
    return Window(start, end)


def _no_hours(text: str) -> str | None:
    try:
        _window(text)
    except ValueError as error:
        return str(error)
    return None


def _no_reachable_entry(text: str) -> str | None:
    try:
        Guard((text,))
    except ValueError as error:
        return f"{error}; write a network such as 10.1.0.0/16, an address, or a host name"
    return None if _no_line(text) is None else "is empty; write a network or a host name"


Seconds = Annotated[float, Field(gt=0, le=86_400)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Region = Annotated[str, _checked(_no_region)]
NumberPrefix = Annotated[str, _checked(_no_prefix)]
Line = Annotated[str, Field(max_length=255), _checked(_no_line)]
Name = Annotated[str, Field(max_length=64), _checked(_no_line)]


class Section(BaseModel):
    """What every section has: nothing unknown, nothing changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Server(Section):
    """`[server]`: the HTTP face. `node` names this controller; each on one PostgreSQL needs its own."""

    host: Line = "127.0.0.1"
    port: Port = 8080
    node: Name = Field(default_factory=socket.gethostname)
    drain_seconds: Seconds = 30.0


class StoreSection(Section):
    """`[store]`: `sqlite:///path` or `postgresql://user@host/database`.

    What a controller was doing that died is taken over by another one after `lease_seconds`.
    """

    url: Annotated[str, _checked(_no_store)] = "sqlite:///var/telephony.db"
    lease_seconds: Annotated[float, Field(ge=15, le=300)] = 30.0


class Secrets(Section):
    """`[secrets]`: the key under which codes are sealed: 32 random bytes in base64.

    With neither key nor file the key is made at the first start, beside the SQLite file.
    """

    master_key: SecretStr | None = None
    master_key_file: Path | None = None


class Ami(Section):
    """`[pbx.ami]`: the manager user that Asterisk knows."""

    host: Line = "127.0.0.1"
    port: Port = 5038
    username: Line = "telephony"
    secret: SecretStr | None = None
    secret_file: Path | None = None
    tls: bool = False
    tls_ca_file: str = ""
    connect_timeout: Seconds = 5.0
    action_timeout: Seconds = 5.0


class PbxSection(Section):
    """`[pbx]`."""

    kind: Literal["asterisk"] = "asterisk"
    ami: Ami = Ami()


class FastAgi(Section):
    """`[fastagi]`: where Asterisk's dialplan reaches us, and from where it may.

    Calls of this controller are sent to `advertise` (`host:port`); without it, to where the dialplan's own
    `TELEPHONY_AGI` points.
    """

    host: Line = "127.0.0.1"
    port: Port = 4573
    advertise: Annotated[str, _checked(_no_agi_address)] = ""
    allowed_peers: tuple[Annotated[str, _checked(_no_network)], ...] = Field(
        ("127.0.0.0/8", "::1/128"), min_length=1
    )
    max_connections: int = Field(default=1000, ge=1, le=100_000)


class TrunkSection(Section):
    """`[[trunks]]`: one way out, and how its carrier wants it. `endpoint` is the PJSIP endpoint's name.

    Without `channels` there is no limit, without `calls_per_second` no pace. Times in seconds.
    """

    name: Name
    endpoint: Annotated[str, _checked(_no_endpoint)]
    prefixes: tuple[NumberPrefix, ...] = ()
    channels: int | None = Field(default=None, ge=0, le=MOST_LINES)
    calls_per_second: Annotated[float, Field(gt=0, le=1000)] | None = None
    burst: int = Field(default=1, ge=1, le=1000)
    priority: int = Field(default=1, ge=1, le=1000)
    cost: Annotated[float, Field(ge=0, le=1_000_000)] | None = None
    weight: int = Field(default=0, ge=0, le=1_000_000)
    hours: tuple[Annotated[str, _checked(_no_week_hours)], ...] = ()
    zone: Annotated[str, _checked(_no_zone)] = ""
    number_format: Literal["e164", "digits", "00", "national"] = "e164"
    region: Region | None = None
    prefix: Annotated[str, _checked(_no_dial_prefix)] = ""
    caller_numbers: tuple[Annotated[str, Field(min_length=1), _checked(_no_caller_number)], ...] = ()
    caller_format: Literal["as_is", "e164", "digits", "00", "national"] = "as_is"
    from_number: Annotated[str, _checked(_no_caller_number)] = ""
    from_name: Annotated[str, Field(max_length=64), _checked(_no_display_name)] = ""
    identity: Literal["from", "pai", "rpid"] = "from"
    identity_domain: Annotated[str, _checked(_no_domain)] = ""
    codecs: tuple[Annotated[str, _checked(_no_codec)], ...] = ()
    dtmf_mode: Literal["", "rfc4733", "info", "inband"] = ""
    early_media: Literal["rings", "announces"] = "rings"
    false_answer: float = Field(default=0.0, ge=0, le=60)
    ring_timeout: Annotated[float, Field(ge=1, le=300)] = 30.0


class RouteSection(Section):
    """`[[routes]]`: trunks by hand, for numbers of these `prefixes` and calls of these `classes`.

    `overflow` are tried in their order when none of `trunks` can take a call.
    """

    name: Name
    prefixes: tuple[NumberPrefix, ...] = ()
    classes: tuple[CallClass, ...] = ()
    trunks: tuple[Name, ...] = Field(min_length=1)
    order: Order = Order.LISTED
    overflow: tuple[Name, ...] = ()


class OverflowSection(Section):
    """`[overflow]`: `trunks` are kept for calls that no other can take.

    `inbound` is what becomes of a caller whose trunk is full, step by step; without any: 503. From
    `crowded_at` of the lines on, callers hear short prompts.

    A trunk is saturated when it is full, or when `saturated_at` of its lines were in use for `seconds`; it
    has recovered when no more than `recovered_at` were for as long.
    """

    trunks: tuple[Name, ...] = ()
    inbound: tuple[Annotated[str, _checked(_no_step)], ...] = ()
    crowded_at: float = Field(default=0.9, ge=0, le=1)
    saturated_at: float = Field(default=0.9, gt=0, le=1)
    recovered_at: float = Field(default=0.7, ge=0, lt=1)
    seconds: Seconds = 10.0


class BreakerSection(Section):
    """`[breaker]`: a trunk that fails so often within `window` is left alone for `pause`, up to `longest`.

    Times in seconds.
    """

    failures: int = Field(default=5, ge=1, le=1000)
    window: Annotated[float, Field(ge=1, le=3600)] = 30.0
    pause: Annotated[float, Field(ge=1, le=3600)] = 5.0
    longest: Annotated[float, Field(ge=1, le=3600)] = 300.0


class SpeechSection(Section):
    """`[speech]`: what is spoken and where it lies. `media_dir` should be in memory."""

    locales: tuple[Line, ...] = Field(("en", "zh-CN", "es"), min_length=1)
    engine: Literal["espeak-ng"] = "espeak-ng"
    cache_dir: Path = Path("var/speech")
    cache_limit_mb: int = Field(default=256, ge=8)
    media_dir: Path = Field(default_factory=lambda: SHARED_MEMORY / f"telephony-{os.getuid()}")
    pbx_media_dir: str | None = None
    recordings_dir: Path | None = None


class Budget(Section):
    """At most `count` calls within `seconds`."""

    count: int = Field(ge=1)
    seconds: Seconds


class VerificationSection(Section):
    """`[verification]`: defaults and limits; times in seconds."""

    code_length: int = Field(default=6, ge=4, le=10)
    ttl: int = Field(default=600, ge=30, le=3600)
    max_checks: int = Field(default=5, ge=1, le=20)
    max_sends: int = Field(default=5, ge=1, le=20)
    play_times: int = Field(default=2, ge=1, le=3)
    require_keypress: bool = False
    dial_within: Seconds = 30.0
    failures_per_number: int = Field(default=10, ge=1)
    failures_window: Seconds = 3600.0
    calls_per_number: tuple[Budget, ...] = (
        Budget(count=3, seconds=300.0),
        Budget(count=10, seconds=86_400.0),
    )


class PaymentSection(Section):
    """`[payments]`: defaults; times in seconds.

    Whoever presses 0 goes on in the dialplan at `transfer_extension` in `transfer_context`; without both
    nobody is offered an agent.
    """

    ttl: int = Field(default=600, ge=30, le=86_400)
    transfer_extension: Annotated[str, _checked(_no_dialplan_name)] = ""
    transfer_context: Annotated[str, _checked(_no_dialplan_name)] = ""


class CallSection(Section):
    """`[calls]`: how long a call of `POST /v1/calls` is open, in seconds, and how many are at work at once.

    `otp_share` is the part of `max_calls` that is kept free for codes.
    """

    ttl: int = Field(default=86_400, ge=30, le=604_800)
    max_calls: int = Field(default=500, ge=1, le=100_000)
    otp_share: float = Field(default=0.2, ge=0, le=0.9)


Hours = tuple[Annotated[str, _checked(_no_hours)], ...]


class CallingHours(Section):
    """`[calling_hours]`: when each class may ring, by the clock of whoever is called; empty: always."""

    otp: Hours = ()
    transaction: Hours = ()
    callback: Hours = ()
    survey: Hours = ()


class RetryRule(Section):
    """How often a phone is rung and when, for what a request does not say; as its `retry`."""

    attempts: int | None = Field(default=None, ge=1, le=MAX_ROUNDS)
    pause: Annotated[float, Field(ge=1, le=86_400)] | None = None
    longest_pause: Annotated[float, Field(ge=1, le=86_400)] | None = None
    on: tuple[str, ...] | None = None


class RetrySection(Section):
    """`[retry.otp]` and the like: by class of call."""

    otp: RetryRule = RetryRule()
    transaction: RetryRule = RetryRule()
    callback: RetryRule = RetryRule()
    survey: RetryRule = RetryRule()


class Numbers(Section):
    """`[numbers]`: who may be called. One of the two lists must say so."""

    default_region: Region | None = None
    allowed_regions: tuple[Region, ...] = ()
    allowed_prefixes: tuple[NumberPrefix, ...] = ()

    @model_validator(mode="after")
    def _somebody_may_be_called(self) -> Numbers:
        if not self.allowed_regions and not self.allowed_prefixes:
            raise ValueError(
                'nobody may be called; write allowed_regions = ["CN"] or allowed_prefixes = ["+86"]'
            )
        return self


class ClientSection(Section):
    """`[[clients]]`: an app with its key's hash, `sha256:` and 64 hexadecimal digits.

    Calls show `caller_number`, or one of `caller_numbers` where the request asks for it.
    An `operator` may change trunks. Its webhooks go to `webhook_url`, signed with `webhook_secret` (`whsec_`
    and base64) and, while that is being changed, with `webhook_old_secret` too.
    """

    name: Name
    key_hash: Annotated[str, _checked(_no_key_hash)]
    brand: Name
    caller_number: Annotated[str, _checked(_no_caller_number)] = ""
    caller_numbers: tuple[Annotated[str, Field(min_length=1), _checked(_no_caller_number)], ...] = ()
    default_locale: Line = "en"
    locales: tuple[Line, ...] = ()
    default_region: Region | None = None
    webhook_url: Annotated[str, _checked(url_problem)] | None = None
    webhook_secret: SecretStr | None = None
    webhook_secret_file: Path | None = None
    webhook_old_secret: SecretStr | None = None
    operator: bool = False


class Webhooks(Section):
    """`[webhooks]`: how events reach the clients; times in seconds.

    `allow_private` lists networks and host names that may be sent to although they are not of the Internet.
    """

    timeout: Annotated[float, Field(ge=1, le=60)] = 15.0
    concurrency: int = Field(default=32, ge=1, le=1000)
    per_endpoint: int = Field(default=4, ge=1, le=100)
    dead_after: float = Field(default=float(WHOLE_SCHEDULE), ge=60, le=WHOLE_SCHEDULE)
    keep_days: int = Field(default=30, ge=4, le=365)
    allow_private: tuple[Annotated[str, _checked(_no_reachable_entry)], ...] = ()


class IvrSection(Section):
    """`[ivr]`: the trees of `folder`, for those who call in and to be called out (docs/ivr.md).

    A call for which the dialplan names no tree gets that of its called number in `numbers`, else `inbound`.
    Queues go on in the dialplan at `queue_context`, each at the extension of its name, numbers at
    `number_context`; without them neither is there. `client` is whose the calls are that came in
    (with one client they are its own). `lookup_url` is the app that knows who calls,
    `recordings_dir` the PBX's folder for what callers say. What apps are asked is signed with
    `webhook_secret`; `allow_private` is what may be reached beside the Internet.
    """

    folder: Path | None = None
    inbound: Annotated[str, _checked(_no_tree)] = ""
    numbers: dict[Annotated[str, _checked(_no_called_number)], Annotated[str, _checked(_no_tree)]] = {}
    queue_context: Annotated[str, _checked(_no_dialplan_name)] = ""
    number_context: Annotated[str, _checked(_no_dialplan_name)] = ""
    client: str = ""
    lookup_url: Annotated[str, _checked(url_problem)] | None = None
    recordings_dir: Annotated[str, _checked(_no_recordings_folder)] = ""
    webhook_secret: SecretStr | None = None
    webhook_secret_file: Path | None = None
    allow_private: tuple[Annotated[str, _checked(_no_reachable_entry)], ...] = ()


class Log(Section):
    """`[log]`."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"


class Settings(Section):
    """The whole configuration."""

    server: Server = Server()
    store: StoreSection = StoreSection()
    secrets: Secrets = Secrets()
    pbx: PbxSection = PbxSection()
    fastagi: FastAgi = FastAgi()
    trunks: tuple[TrunkSection, ...] = Field(min_length=1)
    routes: tuple[RouteSection, ...] = ()
    overflow: OverflowSection = OverflowSection()
    breaker: BreakerSection = BreakerSection()
    speech: SpeechSection = SpeechSection()
    verification: VerificationSection = VerificationSection()
    payments: PaymentSection = PaymentSection()
    calls: CallSection = CallSection()
    calling_hours: CallingHours = CallingHours()
    retry: RetrySection = RetrySection()
    numbers: Numbers
    clients: tuple[ClientSection, ...] = Field(min_length=1)
    webhooks: Webhooks = Webhooks()
    ivr: IvrSection = IvrSection()
    log: Log = Log()

    def client_list(self) -> tuple[Client, ...]:
        """The clients as the rooms below know them."""
        return tuple(
            Client(
                name=section.name,
                brand=section.brand,
                caller_number=section.caller_number,
                default_locale=section.default_locale,
                locales=section.locales,
                default_region=section.default_region or self.numbers.default_region,
                regions=self.numbers.allowed_regions,
                prefixes=self.numbers.allowed_prefixes,
                caller_numbers=section.caller_numbers,
                operator=section.operator,
            )
            for section in self.clients
        )

    def windows(self) -> dict[CallClass, tuple[Window, ...]]:
        """The hours of `[calling_hours]`, by class."""
        hours = self.calling_hours
        return {one: tuple(map(_window, getattr(hours, one.value))) for one in CallClass}

    def retry_rules(self) -> dict[CallClass, dict[str, Any]]:
        """What `[retry.…]` says of each class, as `policy_for` takes it."""
        rules: dict[CallClass, dict[str, Any]] = {}
        for one in CallClass:
            said = getattr(self.retry, one.value).model_dump(mode="json", exclude_none=True)
            if said:
                rules[one] = said
        return rules

    def trunk_list(self) -> tuple[Trunk, ...]:
        """The trunks as the rooms below know them."""
        return tuple(_trunk(section, self.numbers.default_region) for section in self.trunks)

    def route_rules(self) -> tuple[RouteRule, ...]:
        """The routes of `[[routes]]`."""
        return tuple(
            RouteRule(
                name=section.name,
                trunks=section.trunks,
                prefixes=section.prefixes,
                classes=frozenset(section.classes),
                order=section.order,
                overflow=section.overflow,
            )
            for section in self.routes
        )

    def breaker_rules(self) -> BreakerRules:
        """The bounds of `[breaker]`."""
        rules = self.breaker
        return BreakerRules(
            failures=rules.failures, window=rules.window, pause=rules.pause, longest=rules.longest
        )

    def overflow_plan(self) -> str:
        """What becomes of callers whose trunk is full, as the dialplan reads it."""
        return plan_text(self.overflow_steps(), self.trunk_list())

    def overflow_steps(self) -> tuple[Step, ...]:
        """The steps of `[overflow] inbound`."""
        return tuple(parse_step(text) for text in self.overflow.inbound)

    def saturation_rules(self) -> SaturationRules:
        """When `[overflow]` calls a trunk saturated."""
        rules = self.overflow
        return SaturationRules(rules.saturated_at, rules.recovered_at, rules.seconds)

    def webhook_endpoints(self) -> dict[str, Endpoint]:
        """Where the clients that have a `webhook_url` want their webhooks, by name; raises `ConfigError`."""
        return {
            client.name: Endpoint(client.webhook_url, _webhook_secrets(f"clients[{place}]", client))
            for place, client in enumerate(self.clients)
            if client.webhook_url is not None
        }

    def ivr_webhook_secrets(self) -> tuple[bytes, ...]:
        """What signs the webhooks of trees, decoded; empty where nothing is written. Raises `ConfigError`."""
        ivr = self.ivr
        if ivr.webhook_secret is not None:
            key, text = "ivr.webhook_secret", ivr.webhook_secret.get_secret_value()
        elif ivr.webhook_secret_file is not None:
            key = "ivr.webhook_secret_file"
            text = _read_secret(key, ivr.webhook_secret_file)
        else:
            return ()
        try:
            return (decode_secret(text),)
        except InputError as error:
            raise ConfigError(key, error.problem, error.mend) from None

    def delivery_rules(self) -> DeliveryRules:
        """The bounds of `[webhooks]`."""
        rules = self.webhooks
        return DeliveryRules(
            timeout=rules.timeout,
            per_endpoint=rules.per_endpoint,
            concurrency=rules.concurrency,
            dead_after=rules.dead_after,
            keep=rules.keep_days * 86_400.0,
        )

    def ami_secret(self) -> str:
        """The manager's secret, from the key itself or from its file; raises `ConfigError`."""
        ami = self.pbx.ami
        if ami.secret is not None:
            return ami.secret.get_secret_value()
        if ami.secret_file is not None:
            return _read_secret("pbx.ami.secret_file", ami.secret_file)
        raise ConfigError(
            "pbx.ami.secret", "is missing", "Set it, or secret_file, to the secret in manager.conf"
        )

    def master_key(self) -> bytes:
        """The 32 bytes that seal codes; made at the first start where nothing is configured."""
        if self.secrets.master_key is not None:
            return _decode_key("secrets.master_key", self.secrets.master_key.get_secret_value())
        path = self.secrets.master_key_file or self._state_dir() / "master.key"
        _write_new_key(path)
        return _decode_key("secrets.master_key_file", _read_secret("secrets.master_key_file", path))

    def _state_dir(self) -> Path:
        """The folder of the SQLite file; with PostgreSQL `check_settings` asks for a key instead."""
        return Path(self.store.url.partition(":///")[2]).parent


def _trunk(section: TrunkSection, default_region: str | None) -> Trunk:
    caller_format = None if section.caller_format == "as_is" else NumberFormat(section.caller_format)
    return Trunk(
        name=section.name,
        endpoint=section.endpoint,
        prefixes=section.prefixes,
        number_format=NumberFormat(section.number_format),
        prefix=section.prefix,
        codecs=section.codecs,
        ring_timeout=section.ring_timeout,
        region=section.region or default_region or "",
        channels=section.channels,
        calls_per_second=section.calls_per_second,
        burst=section.burst,
        priority=section.priority,
        cost=section.cost,
        weight=section.weight,
        hours=WeekHours(tuple(map(parse_window, section.hours)), ZoneInfo(section.zone or "UTC")),
        caller_numbers=section.caller_numbers,
        caller_format=caller_format,
        from_number=section.from_number,
        from_name=section.from_name,
        identity=IdentityForm(section.identity),
        identity_domain=section.identity_domain,
        dtmf_mode=section.dtmf_mode,
        early_media=EarlyMedia(section.early_media),
        false_answer=section.false_answer,
    )


class ConfigErrors(ConfigError):
    """Every fault of a configuration at once, each a `ConfigError`."""

    def __init__(self, errors: tuple[ConfigError, ...]) -> None:
        first = errors[0]
        super().__init__(first.key, first.problem, first.mend)
        self.errors = errors

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)


def find_config(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the file to read: the given one, `TELEPHONY_CONFIG`, or the first default that exists."""
    if path is not None:
        return path
    if environ.get("TELEPHONY_CONFIG"):
        return Path(environ["TELEPHONY_CONFIG"])
    return next((candidate for candidate in DEFAULT_FILES if candidate.is_file()), None)


def load_settings(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read file and environment (which wins), and check both. Raises `ConfigErrors`."""
    environ = os.environ if environ is None else environ
    found = find_config(path, environ)
    values: dict[str, Any] = {}
    faults: list[ConfigError] = []
    if found is not None:
        values = _read_toml(found)
    faults += _overlay(values, environ)
    try:
        settings = check_settings(values)
    except ConfigErrors as errors:
        faults += errors.errors
        if found is None:
            places = " or ".join(str(place) for place in DEFAULT_FILES)
            faults.insert(0, ConfigError("telephony.toml", "was not found", f"Write {places}, or name it"))
    if faults:
        raise ConfigErrors(tuple(faults))
    return settings


def check_settings(values: Mapping[str, Any]) -> Settings:
    """Check values that stand in memory already. Raises `ConfigErrors`."""
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigErrors(tuple(_as_config_error(one) for one in _telling(error.errors()))) from None
    faults = tuple(_faults_between(settings))
    if faults:
        raise ConfigErrors(faults)
    return settings


def _telling(details: list[ErrorDetails]) -> Iterator[ErrorDetails]:
    """Leave out `too short` for a list that is only short of its faulty items."""
    places = [detail["loc"] for detail in details]
    for detail in details:
        place = detail["loc"]
        inside = any(len(one) > len(place) and one[: len(place)] == place for one in places)
        if not (detail["type"] == "too_short" and inside):
            yield detail


def _faults_between(settings: Settings) -> Iterator[ConfigError]:
    """Find what only shows when keys are looked at together."""
    yield from _twice("trunks", "name", [trunk.name for trunk in settings.trunks])
    yield from _twice("routes", "name", [route.name for route in settings.routes])
    yield from _trunk_faults(settings)
    yield from _twice("clients", "name", [client.name for client in settings.clients])
    yield from _twice("clients", "key_hash", [client.key_hash for client in settings.clients])
    spoken = settings.speech.locales
    for place, client in enumerate(settings.clients):
        for key, tags in (("default_locale", (client.default_locale,)), ("locales", client.locales)):
            for tag in tags:
                if tag not in spoken:
                    mend = f"Write one of {', '.join(spoken)}, or add it to speech.locales"
                    yield ConfigError(f"clients[{place}].{key}", f"{tag!r} is not spoken here", mend)
        if client.locales and client.default_locale not in client.locales:
            mend = f"Write one of {', '.join(client.locales)}"
            yield ConfigError(f"clients[{place}].default_locale", "is not among the client's locales", mend)
        yield from _webhook_faults(f"clients[{place}]", client)
    for call_class, rule in settings.retry_rules().items():
        try:
            policy_for(call_class, rule)
        except InputError as error:
            key = error.field.replace("retry", f"retry.{call_class.value}", 1)
            yield ConfigError(key, error.problem, error.mend)
    most = settings.fastagi.max_connections
    if settings.calls.max_calls > most:
        mend = f"Write at most {most}, or raise fastagi.max_connections too"
        yield ConfigError("calls.max_calls", "is more than fastagi.max_connections takes", mend)
    payments = settings.payments
    if bool(payments.transfer_extension) != bool(payments.transfer_context):
        missing = "transfer_context" if payments.transfer_extension else "transfer_extension"
        yield ConfigError(f"payments.{missing}", "is missing beside the other", "Write both, or neither")
    yield from _ivr_faults(settings)
    ami = settings.pbx.ami
    if ami.secret is not None and ami.secret_file is not None:
        yield ConfigError("pbx.ami.secret", "stands beside secret_file", "Keep one of the two")
    elif ami.secret is not None and _no_line(ami.secret.get_secret_value()):
        yield ConfigError("pbx.ami.secret", "is empty or more than a line", "Write it as in manager.conf")
    elif ami.secret is None:
        try:
            settings.ami_secret()
        except ConfigError as error:
            yield error
    if ami.tls_ca_file and not Path(ami.tls_ca_file).is_file():
        yield ConfigError("pbx.ami.tls_ca_file", "is not a file", "Name the CA's certificate (PEM)")
    keys = settings.secrets
    if keys.master_key is not None and keys.master_key_file is not None:
        yield ConfigError("secrets.master_key", "stands beside master_key_file", "Keep one of the two")
    elif keys.master_key is None and keys.master_key_file is None and "postgres" in settings.store.url[:8]:
        yield ConfigError(
            "secrets.master_key_file",
            "is missing, and controllers that share a PostgreSQL share one key",
            "Give each the same file; make it with: openssl rand -base64 32",
        )


def _ivr_faults(settings: Settings) -> Iterator[ConfigError]:
    ivr = settings.ivr
    if ivr.folder is None:
        for key in ("inbound", "numbers"):
            if getattr(ivr, key):
                yield ConfigError(
                    f"ivr.{key}", "names a tree without ivr.folder", "Write the folder of trees"
                )
    elif not ivr.folder.is_dir():
        yield ConfigError("ivr.folder", f"{ivr.folder} is not a folder", "Name the folder of your trees")
    if ivr.webhook_secret is not None and ivr.webhook_secret_file is not None:
        yield ConfigError("ivr.webhook_secret", "stands beside webhook_secret_file", "Keep one of the two")
        return
    try:
        secrets = settings.ivr_webhook_secrets()
    except ConfigError as error:
        yield error
        return
    names = [client.name for client in settings.clients]
    if ivr.client and ivr.client not in names:
        known = ", ".join(names) or "none: there is none"
        yield ConfigError("ivr.client", "names no client", f"Write one of {known}")
    if ivr.lookup_url is not None and not secrets:
        mend = 'Make one with: echo "whsec_$(openssl rand -base64 32)"'
        yield ConfigError("ivr.webhook_secret", "is missing beside lookup_url", mend)


def _trunk_faults(settings: Settings) -> Iterator[ConfigError]:
    """Find what is wrong between a trunk's keys, and between trunks and routes."""
    for place, trunk in enumerate(settings.trunks):
        section = f"trunks[{place}]"
        national = "national" in (trunk.number_format, trunk.caller_format)
        if national and trunk.region is None and settings.numbers.default_region is None:
            mend = 'Write region = "CN", or numbers.default_region'
            yield ConfigError(f"{section}.region", "is missing: national numbers belong to a region", mend)
        if trunk.hours and not trunk.zone:
            mend = 'Write by which clock, such as zone = "Asia/Shanghai"'
            yield ConfigError(f"{section}.zone", "is missing beside hours", mend)
        if trunk.burst > 1 and trunk.calls_per_second is None:
            yield ConfigError(f"{section}.calls_per_second", "is missing beside burst", "Write both")
        if trunk.identity == "rpid" and not trunk.identity_domain:
            mend = "Write the domain of the caller's address"
            yield ConfigError(f"{section}.identity_domain", "is missing beside identity rpid", mend)
    known = [trunk.name for trunk in settings.trunks]
    lists = [("overflow.trunks", settings.overflow.trunks)]
    for place, route in enumerate(settings.routes):
        lists += [(f"routes[{place}].trunks", route.trunks), (f"routes[{place}].overflow", route.overflow)]
    for key, names in lists:
        for place, name in enumerate(names):
            if name not in known:
                mend = f"Write one of {', '.join(known)}"
                yield ConfigError(f"{key}[{place}]", f"{name!r} is no trunk of this file", mend)
    for place, step in enumerate(settings.overflow_steps()):
        if step.trunk is not None and step.trunk not in known:
            mend = f"Write one of {', '.join(known)}"
            yield ConfigError(f"overflow.inbound[{place}]", f"{step.trunk!r} is no trunk of this file", mend)
    if not set(known) - set(settings.overflow.trunks):
        mend = "Leave at least one trunk out of it"
        yield ConfigError("overflow.trunks", "keeps every trunk for overflow", mend)
    if settings.overflow.recovered_at >= settings.overflow.saturated_at:
        mend = "Write less than saturated_at"
        yield ConfigError("overflow.recovered_at", "leaves no distance to saturated_at", mend)
    if settings.breaker.longest < settings.breaker.pause:
        yield ConfigError("breaker.longest", "is shorter than pause", "Write pause or more")


def _webhook_faults(section: str, client: ClientSection) -> Iterator[ConfigError]:
    given = (client.webhook_secret, client.webhook_secret_file, client.webhook_old_secret)
    if client.webhook_url is None:
        if any(one is not None for one in given):
            yield ConfigError(f"{section}.webhook_url", "is missing beside its secret", "Write where to send")
    elif client.webhook_secret is not None and client.webhook_secret_file is not None:
        yield ConfigError(
            f"{section}.webhook_secret", "stands beside webhook_secret_file", "Keep one of the two"
        )
    else:
        try:
            _webhook_secrets(section, client)
        except ConfigError as error:
            yield error


def _webhook_secrets(section: str, client: ClientSection) -> tuple[bytes, ...]:
    """The decoded secrets, newest first."""
    texts: list[tuple[str, str]] = []
    if client.webhook_secret is not None:
        texts.append(("webhook_secret", client.webhook_secret.get_secret_value()))
    elif client.webhook_secret_file is not None:
        key = "webhook_secret_file"
        texts.append((key, _read_secret(f"{section}.{key}", client.webhook_secret_file)))
    else:
        raise ConfigError(
            f"{section}.webhook_secret",
            "is missing beside webhook_url",
            'Make one with: echo "whsec_$(openssl rand -base64 32)"',
        )
    if client.webhook_old_secret is not None:
        texts.append(("webhook_old_secret", client.webhook_old_secret.get_secret_value()))
    decoded: list[bytes] = []
    for key, text in texts:
        try:
            decoded.append(decode_secret(text))
        except InputError as error:
            raise ConfigError(f"{section}.{key}", error.problem, error.mend) from None
    return tuple(decoded)


def _twice(section: str, key: str, values: list[str]) -> Iterator[ConfigError]:
    for place, value in enumerate(values):
        if value in values[:place]:
            first = values.index(value)
            problem = f"is that of {section}[{first}] too"
            yield ConfigError(f"{section}[{place}].{key}", problem, f"Give each of {section} its own")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigErrors(
            (ConfigError(str(path), f"cannot be read ({error.strerror})", "Name another file with --config"),)
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigErrors((ConfigError(str(path), f"is not TOML: {error}", "Mend that line"),)) from None


def _overlay(values: dict[str, Any], environ: Mapping[str, str]) -> Iterator[ConfigError]:
    """Put `TELEPHONY_SECTION__KEY` over the file's values; tells of variables that name no key."""
    for name, text in sorted(environ.items()):
        if not name.startswith(ENVIRONMENT_PREFIX) or _NO_KEYS.fullmatch(name):
            continue
        path = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        known = _known_paths()
        if tuple(path) not in known:
            close = difflib.get_close_matches("__".join(path), ["__".join(one) for one in known], n=1)
            mend = f"Did you mean {ENVIRONMENT_PREFIX}{close[0].upper()}?" if close else _ENVIRONMENT_MEND
            yield ConfigError(name, "is not a key of this program", mend)
            continue
        place = values
        for part in path[:-1]:
            deeper = place.setdefault(part, {})
            if not isinstance(deeper, dict):
                break  # The file has something else here; the check of the whole says so.
            place = deeper
        else:
            place[path[-1]] = text if known[tuple(path)] else _from_environment(text)


_ENVIRONMENT_MEND: Final = "Write TELEPHONY_SECTION__KEY, such as TELEPHONY_SERVER__PORT"


def _known_paths(
    model: type[BaseModel] | None = None, above: tuple[str, ...] = ()
) -> dict[tuple[str, ...], bool]:
    """Every key that the environment can set, and whether it takes its text as it stands."""
    found: dict[tuple[str, ...], bool] = {}
    for name, field in (model or Settings).model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= _known_paths(kind, (*above, name))
        else:
            found[(*above, name)] = _is_text(kind)
    return found


def _is_text(kind: Any) -> bool:
    """Whether a key holds text: then `007` stays `007`, and a secret of digits stays a text."""
    if kind in (str, SecretStr, Path) or get_origin(kind) is Literal:
        return True
    if get_origin(kind) is tuple:
        return False
    return any(_is_text(one) for one in get_args(kind))


def _from_environment(text: str) -> Any:
    """Read numbers, switches and lists as TOML writes them; what is none of these is left to the check."""
    try:
        read = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return read["value"] if len(read) == 1 else text


_MISSING: Final[Mapping[str, str]] = {
    "trunks": 'Write a [[trunks]] section with name = "main" and endpoint = the PJSIP endpoint',
    "clients": "Write a [[clients]] section; `telephony key new NAME` prints one",
    "numbers": 'Write [numbers] with allowed_regions = ["CN"] or allowed_prefixes = ["+86"]',
}


def _as_config_error(detail: ErrorDetails) -> ConfigError:
    """Say a pydantic fault in the words of somebody who edits a file."""
    key = _dotted(detail["loc"]) or "telephony.toml"
    context = detail.get("ctx", {})
    match detail["type"]:
        case "missing":
            mend = _MISSING.get(key, "Set it; docs/configuration.md shows an example")
            return ConfigError(key, "is missing", mend)
        case "extra_forbidden":
            return ConfigError(key, "is not a key of this program", _did_you_mean(detail["loc"]))
        case "value_error":
            problem, _, mend = str(context["error"]).partition("; ")
            return ConfigError(key, problem, _sentence(mend or "Check its value"))
        case "too_short":
            return ConfigError(key, "is empty", _MISSING.get(key, "Write at least one"))
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            bound = str(detail["msg"]).removeprefix("Input should be ")
            return ConfigError(key, "is out of range", f"Write a number {bound}")
        case "literal_error" | "enum":
            return ConfigError(key, "is none of the choices", f"Write {context['expected']}")
        case "string_too_long":
            return ConfigError(key, "is too long", f"Write at most {context['max_length']} characters")
        case kind if kind in _TYPES:
            return ConfigError(key, "is of another kind", _TYPES[kind])
        case _:
            return ConfigError(key, "is not usable", _sentence(str(detail["msg"])))


_TYPES: Final[Mapping[str, str]] = {
    "string_type": "Write a text in quotes",
    "int_type": "Write a whole number, without quotes",
    "int_parsing": "Write a whole number, without quotes",
    "int_from_float": "Write a whole number",
    "float_type": "Write a number, without quotes",
    "float_parsing": "Write a number, without quotes",
    "bool_type": "Write true or false, without quotes",
    "bool_parsing": "Write true or false, without quotes",
    "tuple_type": "Write a list in square brackets",
    "path_type": "Write a path in quotes",
    "model_type": "Write it as a section of its own, with its name in square brackets",
    "model_attributes_type": "Write it as a section of its own, with its name in square brackets",
}


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _dotted(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _did_you_mean(location: tuple[int | str, ...]) -> str:
    """Suggest the key of this section that is spelt most alike, or list them."""
    names = list(_model_at(location[:-1]).model_fields)
    close = difflib.get_close_matches(str(location[-1]), names, n=1)
    return f"Did you mean {close[0]}?" if close else f"Known here: {', '.join(names)}"


def _model_at(location: Iterable[int | str]) -> type[BaseModel]:
    """Return the section that a place in the configuration belongs to."""
    model: type[BaseModel] = Settings
    for part in location:
        if isinstance(part, str):
            kind = model.model_fields[part].annotation
            model = next(
                one for one in (kind, *get_args(kind)) if isinstance(one, type) and issubclass(one, BaseModel)
            )
    return model


def _read_secret(key: str, path: Path) -> str:
    try:
        text = path.read_text().strip()
    except OSError as error:
        raise ConfigError(key, f"{path} cannot be read ({error.strerror})", "Check path and rights") from None
    except UnicodeDecodeError:
        text = ""
    if _no_line(text):
        raise ConfigError(key, f"{path} is empty or holds more than a line of text", "Write one line")
    return text


def _decode_key(key: str, text: str) -> bytes:
    try:
        decoded = base64.b64decode(text, validate=True)
    except ValueError:
        decoded = b""
    if len(decoded) != 32:
        raise ConfigError(key, "is not 32 bytes in base64", "Make one with: openssl rand -base64 32")
    return decoded


def _write_new_key(path: Path) -> None:
    """Make a master key where none is, that only we can read; two that start at once agree on one.

    It is written whole under another name and then linked: whoever sees the name sees all of it.
    """
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(base64.b64encode(secrets.token_bytes(32)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            path.hardlink_to(draft)
        except FileExistsError:
            return
        finally:
            draft.unlink()
    except OSError as error:
        raise ConfigError(
            "secrets.master_key_file", f"{path} cannot be written ({error.strerror})", "Check path and rights"
        ) from None
