"""The configuration: what a small file means, what the environment changes, and how each fault is told."""

from __future__ import annotations

import base64
import stat
import threading
from datetime import time
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from telephony.calls.quiet import Window
from telephony.errors import ConfigError
from telephony.model.call import CallClass
from telephony.pbx.port import EarlyMedia, IdentityForm
from telephony.settings import ConfigErrors, Settings, check_settings, find_config, load_settings
from telephony.trunks.breaker import BreakerRules
from telephony.trunks.dialect import NumberFormat, Trunk
from telephony.trunks.hours import WeekHours, parse_window
from telephony.trunks.routing import Order, RouteRule
from telephony.trunks.saturation import SaturationRules

HASH = "sha256:" + "0f" * 32
OTHER_HASH = "sha256:" + "1e" * 32
SMALLEST = f"""
[pbx.ami]
secret = "s3cret"

[numbers]
allowed_regions = ["CN"]

[[trunks]]
name = "main"
endpoint = "carrier"

[[clients]]
name = "shop"
key_hash = "{HASH}"
brand = "Acme"
"""


def smallest() -> dict[str, Any]:
    return {
        "pbx": {"ami": {"secret": "s3cret"}},
        "numbers": {"allowed_regions": ["CN"]},
        "trunks": [{"name": "main", "endpoint": "carrier"}],
        "clients": [{"name": "shop", "key_hash": HASH, "brand": "Acme"}],
    }


def load(tmp_path: Path, text: str = SMALLEST, **environ: str) -> Settings:
    path = tmp_path / "telephony.toml"
    path.write_text(text)
    return load_settings(path, environ)


def faults(values: dict[str, Any]) -> dict[str, str]:
    """Key and `problem. mend` of every fault."""
    with pytest.raises(ConfigErrors) as caught:
        check_settings(values)
    return {error.key: f"{error.problem}. {error.mend}" for error in caught.value.errors}


def changed(path: str, value: Any) -> dict[str, Any]:
    """The smallest configuration with one key set: `trunks.0.name`."""
    values: Any = smallest()
    place = values
    *above, last = path.split(".")
    for part in above:
        place = place[int(part)] if part.isdigit() else place.setdefault(part, {})
    place[last] = value
    return values  # type: ignore[no-any-return]


# ---- what is right


def test_the_smallest_file_is_enough(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8080)
    assert settings.store.url == "sqlite:///var/telephony.db"
    assert (settings.fastagi.host, settings.fastagi.port) == ("127.0.0.1", 4573)
    assert settings.ami_secret() == "s3cret"
    assert settings.verification.code_length == 6
    assert [(one.count, one.seconds) for one in settings.verification.calls_per_number] == [
        (3, 300.0),
        (10, 86_400.0),
    ]


def test_clients_as_the_rooms_below_know_them() -> None:
    values = smallest()
    values["numbers"] |= {"default_region": "CN", "allowed_prefixes": ["+1212"]}
    values["clients"].append(
        {
            "name": "bank",
            "key_hash": OTHER_HASH,
            "brand": "Bank",
            "caller_number": "+861088880000",
            "caller_numbers": ["+861088880001"],
            "default_locale": "zh-CN",
            "locales": ["zh-CN"],
            "default_region": "US",
        }
    )
    shop, bank = check_settings(values).client_list()
    assert (shop.name, shop.default_region, shop.regions, shop.prefixes) == (
        "shop",
        "CN",
        ("CN",),
        ("+1212",),
    )
    assert (bank.default_region, bank.locales) == ("US", ("zh-CN",))
    assert (shop.caller_numbers, bank.caller_numbers) == ((), ("+861088880001",))


def test_hours_and_retries_as_the_rooms_below_know_them() -> None:
    values = smallest() | {
        "calling_hours": {"transaction": ["09:00-12:00", "14:00-24:00"], "survey": ["00:00-24:00"]},
        "retry": {"survey": {"attempts": 2, "on": ["busy"]}, "callback": {"pause": 30}},
    }
    settings = check_settings(values)
    assert settings.windows() == {
        CallClass.OTP: (),
        CallClass.TRANSACTION: (Window(time(9), time(12)), Window(time(14), time(0))),
        CallClass.CALLBACK: (),
        CallClass.SURVEY: (Window(time(0), time(0)),),
    }
    assert settings.retry_rules() == {
        CallClass.SURVEY: {"attempts": 2, "on": ["busy"]},
        CallClass.CALLBACK: {"pause": 30.0},
    }
    assert check_settings(smallest()).retry_rules() == {}


def test_a_plain_trunk_as_the_rooms_below_know_it() -> None:
    settings = check_settings(smallest())
    assert settings.trunk_list() == (Trunk("main", "carrier"),)
    assert settings.route_rules() == ()
    assert settings.breaker_rules() == BreakerRules()
    assert settings.saturation_rules() == SaturationRules()


def test_trunks_and_routes_as_the_rooms_below_know_them() -> None:
    values = smallest()
    values["numbers"]["default_region"] = "CN"
    values["trunks"].append(
        {
            "name": "b",
            "endpoint": "carrier-b",
            "channels": 30,
            "calls_per_second": 2.5,
            "burst": 5,
            "priority": 2,
            "cost": 0.04,
            "weight": 3,
            "hours": ["mon-fri 09:00-18:00"],
            "zone": "Asia/Shanghai",
            "number_format": "national",
            "caller_numbers": ["+861088880000"],
            "caller_format": "national",
            "from_number": "95588",
            "from_name": "Acme",
            "identity": "pai",
            "identity_domain": "carrier.example",
            "codecs": ["alaw"],
            "dtmf_mode": "info",
            "early_media": "announces",
            "false_answer": 4,
        }
    )
    values["routes"] = [
        {"name": "codes", "prefixes": ["+86"], "classes": ["otp"], "trunks": ["b"], "overflow": ["main"]},
        {"name": "rest", "trunks": ["main", "b"], "order": "cost"},
    ]
    values["overflow"] = {"trunks": ["b"], "saturated_at": 0.8, "recovered_at": 0.5, "seconds": 5}
    values["breaker"] = {"failures": 2, "window": 9, "pause": 1, "longest": 8}
    settings = check_settings(values)
    assert settings.trunk_list()[1] == Trunk(
        name="b",
        endpoint="carrier-b",
        channels=30,
        calls_per_second=2.5,
        burst=5,
        priority=2,
        cost=0.04,
        weight=3,
        hours=WeekHours((parse_window("mon-fri 09:00-18:00"),), ZoneInfo("Asia/Shanghai")),
        number_format=NumberFormat.NATIONAL,
        region="CN",
        caller_numbers=("+861088880000",),
        caller_format=NumberFormat.NATIONAL,
        from_number="95588",
        from_name="Acme",
        identity=IdentityForm.PAI,
        identity_domain="carrier.example",
        codecs=("alaw",),
        dtmf_mode="info",
        early_media=EarlyMedia.ANNOUNCES,
        false_answer=4.0,
    )
    assert settings.route_rules() == (
        RouteRule("codes", ("b",), ("+86",), frozenset({CallClass.OTP}), overflow=("main",)),
        RouteRule("rest", ("main", "b"), order=Order.COST),
    )
    assert settings.breaker_rules() == BreakerRules(2, 9.0, 1.0, longest=8.0)
    assert settings.saturation_rules() == SaturationRules(0.8, 0.5, 5.0)


# ---- the environment


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        SMALLEST + "\n[server]\nport = 1\n",
        TELEPHONY_SERVER__PORT="9000",
        TELEPHONY_VERIFICATION__REQUIRE_KEYPRESS="true",
        TELEPHONY_NUMBERS__ALLOWED_PREFIXES='["+86138"]',
        TELEPHONY_VERIFICATION__CALLS_PER_NUMBER="[{count = 1, seconds = 60}]",
        TELEPHONY_CALLING_HOURS__SURVEY='["09:00-12:00"]',
        TELEPHONY_RETRY__SURVEY__ATTEMPTS="4",
        TELEPHONY_LOG__LEVEL="debug",
        TELEPHONY_SPEECH__CACHE_DIR="/srv/speech",
    )
    assert settings.server.port == 9000
    assert settings.verification.require_keypress is True
    assert settings.numbers.allowed_prefixes == ("+86138",)
    assert settings.verification.calls_per_number[0].seconds == 60
    assert settings.windows()[CallClass.SURVEY] == (Window(time(9), time(12)),)
    assert settings.retry_rules() == {CallClass.SURVEY: {"attempts": 4}}
    assert settings.log.level == "debug"
    assert settings.speech.cache_dir == Path("/srv/speech")


@pytest.mark.parametrize("text", ["0123", "true", "2026-01-01", '"quoted"', "a # b", "[1]", "1e5"])
def test_text_stays_as_it_stands(tmp_path: Path, text: str) -> None:
    settings = load(tmp_path, TELEPHONY_PBX__AMI__SECRET=text, TELEPHONY_SERVER__NODE=text)
    assert settings.ami_secret() == text
    assert settings.server.node == text


def test_lists_of_sections_come_from_the_environment_too() -> None:
    settings = load_settings(
        None,
        {
            "TELEPHONY_PBX__AMI__SECRET": "x",
            "TELEPHONY_NUMBERS__ALLOWED_REGIONS": '["CN"]',
            "TELEPHONY_TRUNKS": '[{name = "main", endpoint = "carrier"}]',
            "TELEPHONY_CLIENTS": f'[{{name = "shop", key_hash = "{HASH}", brand = "Acme"}}]',
        },
    )
    assert settings.trunks[0].endpoint == "carrier"


def test_a_variable_that_is_no_key_is_told_with_the_rest(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors) as caught:
        load(tmp_path, SMALLEST + "[log]\nlevel = 'loud'\n", TELEPHONY_SERVER_PORT="1", TELEPHONY_X__Y="1")
    told = {error.key: error.mend for error in caught.value.errors}
    assert told["TELEPHONY_SERVER_PORT"] == "Did you mean TELEPHONY_SERVER__PORT?"
    assert "TELEPHONY_SERVER__PORT" in told["TELEPHONY_X__Y"]
    assert "log.level" in told


def test_variables_of_others_are_let_be(tmp_path: Path) -> None:
    load(
        tmp_path,
        TELEPHONY_CONFIG="x",
        TELEPHONY_URL="x",
        TELEPHONY_KEY="x",
        TELEPHONY_LAB_CACHE="x",
        TELEPHONY_SERVICE_HOST="10.0.0.1",
        TELEPHONY_SERVICE_PORT="80",
        TELEPHONY_SERVICE_PORT_HTTP="80",
        TELEPHONY_PORT="tcp://10.0.0.1:80",
        TELEPHONY_PORT_80_TCP="tcp://10.0.0.1:80",
        TELEPHONY_PORT_80_TCP_ADDR="10.0.0.1",
        HOME="/root",
    )


def test_a_variable_does_not_break_a_section_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors) as caught:
        load(tmp_path, "server = 5\n" + SMALLEST, TELEPHONY_SERVER__PORT="1")
    assert [error.key for error in caught.value.errors] == ["server"]


# ---- where it is found


def test_the_file_that_is_named_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(Path("a"), {"TELEPHONY_CONFIG": "b"}) == Path("a")
    assert find_config(None, {"TELEPHONY_CONFIG": "b"}) == Path("b")
    (tmp_path / "telephony.toml").touch()
    assert find_config(None, {}) == Path("telephony.toml")


def test_nothing_found_is_told_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("telephony.settings.DEFAULT_FILES", (Path("telephony.toml"),))
    with pytest.raises(ConfigErrors) as caught:
        load_settings(None, {})
    assert caught.value.errors[0].problem == "was not found"
    assert {"trunks", "clients", "numbers"} <= {error.key for error in caught.value.errors}


@pytest.mark.parametrize(
    ("text", "problem"), [("a = = 1", "is not TOML"), ("\xff", "is not TOML"), (None, "cannot be read")]
)
def test_a_file_that_cannot_be_read(tmp_path: Path, text: str | None, problem: str) -> None:
    path = tmp_path / "telephony.toml"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigErrors, match=problem):
        load_settings(path, {})


# ---- what is wrong


@pytest.mark.parametrize(
    ("path", "value", "key", "words"),
    [
        ("serve", {}, "serve", "Did you mean server?"),
        ("server.prot", 1, "server.prot", "Did you mean port?"),
        ("pbx.ami.zzz", 1, "pbx.ami.zzz", "Known here: host, port"),
        ("trunks.0.endpiont", "x", "trunks[0].endpiont", "Did you mean endpoint?"),
        ("server.port", 70_000, "server.port", "less than or equal to 65535"),
        ("server.port", "http", "server.port", "whole number"),
        ("server.drain_seconds", 0, "server.drain_seconds", "greater than 0"),
        ("server.drain_seconds", float("nan"), "server.drain_seconds", "out of range"),
        ("server.host", "", "server.host", "one line of text"),
        ("server.node", "a\nb", "server.node", "control character"),
        ("ivr.folder", "/nowhere", "ivr.folder", "Name the folder of your trees"),
        ("ivr.inbound", "hotline", "ivr.inbound", "Write the folder of trees"),
        ("ivr.numbers", {"+861088880000": "hotline"}, "ivr.numbers", "Write the folder of trees"),
        ("ivr.inbound", "../hotline", "ivr.inbound", "without .yaml"),
        ("ivr.queue_context", "agents,1", "ivr.queue_context", "not a name of the dialplan"),
        ("ivr.webhook_secret", "whsec_short", "ivr.webhook_secret", ""),
        ("ivr.webhook_secret_file", "/nowhere", "ivr.webhook_secret_file", "cannot be read"),
        ("ivr.allow_private", ["10.0.0.0/40"], "ivr.allow_private[0]", "10.1.0.0/16"),
        ("store.url", "mysql://x", "store.url", "postgresql://user@host/database"),
        ("store.url", "sqlite://", "store.url", "sqlite:///var/telephony.db"),
        ("pbx.kind", "pabx", "pbx.kind", "'asterisk'"),
        ("pbx.ami.secret", "a\r\nAction: x", "pbx.ami.secret", "more than a line"),
        ("pbx.ami.secret", "", "pbx.ami.secret", "is empty"),
        ("pbx.ami.secret_file", "/nowhere", "pbx.ami.secret", "Keep one of the two"),
        ("pbx.ami.username", "a\nb", "pbx.ami.username", "control character"),
        ("pbx.ami.tls_ca_file", "/nowhere/ca.pem", "pbx.ami.tls_ca_file", "is not a file"),
        ("fastagi.allowed_peers", ["10.0.0.0/33"], "fastagi.allowed_peers[0]", "10.0.0.0/24"),
        ("fastagi.allowed_peers", ["10.0.0.1/24"], "fastagi.allowed_peers[0]", "host bits"),
        ("fastagi.allowed_peers", [], "fastagi.allowed_peers", "Write at least one"),
        ("fastagi.advertise", "10.0.0.5", "fastagi.advertise", "such as 10.0.0.5:4573"),
        ("fastagi.advertise", "::1:4573", "fastagi.advertise", "host:port"),
        ("fastagi.advertise", "pbx:4573,x=1", "fastagi.advertise", "host:port"),
        ("store.lease_seconds", 10, "store.lease_seconds", "greater than or equal to 15"),
        ("trunks", [], "trunks", "[[trunks]]"),
        ("trunks.0.endpoint", "PJSIP/carrier", "trunks[0].endpoint", "without PJSIP/"),
        ("trunks.0.prefixes", ["86"], "trunks[0].prefixes[0]", "+86138"),
        ("trunks.0.prefix", "9w", "trunks[0].prefix", "cannot be dialled"),
        (
            "trunks.0.number_format",
            "e.164",
            "trunks[0].number_format",
            "'e164', 'digits', '00' or 'national'",
        ),
        ("trunks.0.codecs", ["g711"], "trunks[0].codecs[0]", "ulaw"),
        ("trunks.0.channels", -1, "trunks[0].channels", "greater than or equal to 0"),
        ("trunks.0.channels", 10_001, "trunks[0].channels", "less than or equal to 10000"),
        ("trunks.0.calls_per_second", 0, "trunks[0].calls_per_second", "greater than 0"),
        ("trunks.0.burst", 3, "trunks[0].calls_per_second", "missing beside burst"),
        ("trunks.0.priority", 0, "trunks[0].priority", "greater than or equal to 1"),
        ("trunks.0.cost", -0.1, "trunks[0].cost", "greater than or equal to 0"),
        ("trunks.0.weight", 1.5, "trunks[0].weight", "whole number"),
        ("trunks.0.hours", ["9-18"], "trunks[0].hours[0]", "mon-fri 09:00-18:00"),
        ("trunks.0.hours", ["09:00-18:00"], "trunks[0].zone", "Asia/Shanghai"),
        ("trunks.0.zone", "Peking", "trunks[0].zone", "Asia/Shanghai"),
        ("trunks.0.zone", "/etc/passwd", "trunks[0].zone", "Asia/Shanghai"),
        ("trunks.0.number_format", "national", "trunks[0].region", 'region = "CN"'),
        ("trunks.0.caller_format", "national", "trunks[0].region", 'region = "CN"'),
        ("trunks.0.region", "China", "trunks[0].region", "ISO 3166-1"),
        ("trunks.0.caller_numbers", ["Acme"], "trunks[0].caller_numbers[0]", "write digits"),
        ("trunks.0.from_number", "a@b", "trunks[0].from_number", "write digits"),
        ("trunks.0.from_name", 'A "B"', "trunks[0].from_name", "without quotes"),
        ("trunks.0.identity", "p-asserted", "trunks[0].identity", "'from', 'pai' or 'rpid'"),
        ("trunks.0.identity", "rpid", "trunks[0].identity_domain", "missing beside identity rpid"),
        ("trunks.0.identity_domain", "a>b", "trunks[0].identity_domain", "sip.carrier.example"),
        ("trunks.0.dtmf_mode", "2833", "trunks[0].dtmf_mode", "'rfc4733', 'info' or 'inband'"),
        ("trunks.0.early_media", "music", "trunks[0].early_media", "'rings' or 'announces'"),
        ("trunks.0.false_answer", 61, "trunks[0].false_answer", "less than or equal to 60"),
        ("routes", [{"name": "r", "trunks": []}], "routes[0].trunks", "at least one"),
        ("routes", [{"name": "r", "trunks": ["mian"]}], "routes[0].trunks[0]", "Write one of main"),
        (
            "routes",
            [{"name": "r", "trunks": ["main"], "overflow": ["x"]}],
            "routes[0].overflow[0]",
            "no trunk of this file",
        ),
        (
            "routes",
            [{"name": "r", "trunks": ["main"], "classes": ["sms"]}],
            "routes[0].classes[0]",
            "'otp', 'transaction', 'callback' or 'survey'",
        ),
        ("overflow.trunks", ["main"], "overflow.trunks", "at least one trunk out"),
        ("overflow.saturated_at", 0.5, "overflow.recovered_at", "less than saturated_at"),
        ("overflow.seconds", 0, "overflow.seconds", "greater than 0"),
        ("overflow.crowded_at", 1.1, "overflow.crowded_at", "less than or equal to 1"),
        ("overflow.inbound", ["queue"], "overflow.inbound[0]", "write one of extension:CONTEXT:EXTENSION"),
        ("overflow.inbound", ["busy", "tree:A"], "overflow.inbound[1]", "write tree:NAME"),
        ("overflow.inbound", ["number:110:mian"], "overflow.inbound[0]", "Write one of main"),
        ("breaker.failures", 0, "breaker.failures", "greater than or equal to 1"),
        ("breaker.pause", 301, "breaker.longest", "pause or more"),
        ("breaker.longest", 3601, "breaker.longest", "less than or equal to 3600"),
        ("speech.cache_limit_mb", 1, "speech.cache_limit_mb", "greater than or equal to 8"),
        ("verification.code_length", 3, "verification.code_length", "greater than or equal to 4"),
        ("verification.ttl", 1.5, "verification.ttl", "whole number"),
        ("verification.require_keypress", "maybe", "verification.require_keypress", "true or false"),
        ("verification.calls_per_number", 3, "verification.calls_per_number", "square brackets"),
        (
            "verification.calls_per_number",
            [{"count": 0, "seconds": 1}],
            "verification.calls_per_number[0].count",
            "out of range",
        ),
        ("calls.ttl", 29, "calls.ttl", "greater than or equal to 30"),
        ("calls.max_calls", 0, "calls.max_calls", "greater than or equal to 1"),
        ("calls.max_calls", 1001, "calls.max_calls", "fastagi.max_connections"),
        ("calls.otp_share", 1, "calls.otp_share", "less than or equal to 0.9"),
        ("calls.max_cals", 1, "calls.max_cals", "Did you mean max_calls?"),
        ("calling_hours.transaction", "09:00-12:00", "calling_hours.transaction", "square brackets"),
        (
            "calling_hours.transaction",
            ["9-12"],
            "calling_hours.transaction[0]",
            "Write them like 09:00-12:00",
        ),
        ("calling_hours.survey", ["09:00-25:00"], "calling_hours.survey[0]", "from 00:00 to 24:00"),
        ("calling_hours.survey", ["24:00-09:00"], "calling_hours.survey[0]", "from 00:00 to 24:00"),
        ("calling_hours.survey", ["09:00-09:00"], "calling_hours.survey[0]", "ends before it begins"),
        (
            "calling_hours.survey",
            ["09:00-12:00", "21:00-09:00"],
            "calling_hours.survey[1]",
            'two: "21:00-24:00", "00:00-09:00"',
        ),
        ("calling_hours.sales", [], "calling_hours.sales", "Known here: otp, transaction"),
        ("retry.survey.attempts", 11, "retry.survey.attempts", "less than or equal to 10"),
        ("retry.survey.pause", 0, "retry.survey.pause", "greater than or equal to 1"),
        ("retry.survey.on", ["declined"], "retry.survey.on", "Known: busy"),
        ("retry.survey.wait", 1, "retry.survey.wait", "Known here: attempts, pause"),
        ("retry.sales", {}, "retry.sales", "Known here: otp"),
        ("clients.0.caller_numbers", [""], "clients[0].caller_numbers[0]", "at least 1"),
        ("clients.0.caller_numbers", ["Acme"], "clients[0].caller_numbers[0]", "write digits"),
        ("numbers", {}, "numbers", "allowed_regions"),
        ("numbers.allowed_regions", ["China"], "numbers.allowed_regions[0]", "two capital letters"),
        ("numbers.allowed_regions", ["XX"], "numbers.allowed_regions[0]", "ISO 3166-1"),
        ("numbers.allowed_prefixes", ["+"], "numbers.allowed_prefixes[0]", "+86138"),
        ("numbers.default_region", "cn", "numbers.default_region", "two capital letters"),
        ("clients", [], "clients", "telephony key new"),
        ("clients.0.key_hash", "tk_abc", "clients[0].key_hash", "telephony key new"),
        ("clients.0.brand", "x" * 65, "clients[0].brand", "at most 64"),
        ("clients.0.caller_number", "Acme", "clients[0].caller_number", "write digits"),
        ("clients.0.default_locale", "fr", "clients[0].default_locale", "speech.locales"),
        ("clients.0.locales", ["fr", "en"], "clients[0].locales", "speech.locales"),
        ("clients.0.locales", ["es"], "clients[0].default_locale", "is not among"),
        ("log.level", "loud", "log.level", "'debug', 'info', 'warning' or 'error'"),
        ("log", 1, "log", "section"),
    ],
)
def test_each_fault_names_its_key_and_mend(path: str, value: Any, key: str, words: str) -> None:
    told = faults(changed(path, value))
    assert list(told) == [key]
    assert words.lower() in told[key].lower()


@pytest.mark.parametrize("key", ["trunks", "numbers", "clients"])
def test_what_is_missing_is_shown(key: str) -> None:
    values = smallest()
    del values[key]
    told = faults(values)
    assert list(told) == [key]
    assert "is missing. Write" in told[key]


def test_a_secret_is_needed() -> None:
    values = smallest()
    del values["pbx"]
    assert list(faults(values)) == ["pbx.ami.secret"]


def test_names_and_keys_are_ones_own() -> None:
    values = smallest()
    values["trunks"] *= 2
    values["routes"] = [{"name": "r", "trunks": ["main"]}] * 2
    values["clients"] *= 2
    keys = ["trunks[1].name", "routes[1].name", "clients[1].name", "clients[1].key_hash"]
    assert list(faults(values)) == keys


def test_all_faults_are_told_at_once_and_none_twice() -> None:
    values = changed("trunks.0.endpoint", "a b")
    values |= {"log": {"level": "loud", "fromat": "json"}, "store": {"url": "x"}}
    told = faults(values)
    assert set(told) == {"trunks[0].endpoint", "log.level", "log.fromat", "store.url"}
    with pytest.raises(ConfigError) as caught:
        check_settings(values)
    assert str(caught.value).count("\n") == 3


def test_no_secret_is_told_or_shown() -> None:
    for values in (
        changed("pbx.ami.secret", ["hunter2"]),
        changed("clients.0.key_hash", "hunter2"),
        changed("secrets.master_key", ["hunter2"]),
    ):
        assert "hunter2" not in str(faults(values))
    assert "s3cret" not in repr(check_settings(smallest()))


# ---- secrets in files


def test_a_secret_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("from-a-file\n")
    values = smallest()
    values["pbx"]["ami"] = {"secret_file": str(path)}
    assert check_settings(values).ami_secret() == "from-a-file"


@pytest.mark.parametrize("content", [None, b"", b"a\nb", b"\xff\xfe"])
def test_a_secret_file_that_is_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    values = smallest()
    values["pbx"]["ami"] = {"secret_file": str(path)}
    assert list(faults(values)) == ["pbx.ami.secret_file"]


def with_store(tmp_path: Path, **secrets: str) -> Settings:
    values = smallest()
    values["store"] = {"url": f"sqlite:///{tmp_path}/state/telephony.db"}
    values["secrets"] = secrets
    return check_settings(values)


def test_the_master_key_is_made_once_beside_the_database(tmp_path: Path) -> None:
    settings = with_store(tmp_path)
    key = settings.master_key()
    path = tmp_path / "state" / "master.key"
    assert len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert settings.master_key() == key
    assert [one.name for one in path.parent.iterdir()] == ["master.key"]


def test_two_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    settings = with_store(tmp_path)
    start = threading.Barrier(8)
    found: list[bytes] = []

    def begin() -> None:
        start.wait()
        found.append(settings.master_key())

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_a_master_key_that_is_given(tmp_path: Path) -> None:
    text = base64.b64encode(bytes(range(32))).decode()
    assert with_store(tmp_path, master_key=text).master_key() == bytes(range(32))
    path = tmp_path / "key"
    path.write_text(text + "\n")
    assert with_store(tmp_path, master_key_file=str(path)).master_key() == bytes(range(32))


@pytest.mark.parametrize("text", ["short", base64.b64encode(b"x" * 31).decode(), "é"])
def test_a_master_key_that_is_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="32 bytes") as caught:
        with_store(tmp_path, master_key=text).master_key()
    assert text not in str(caught.value)


def test_a_place_where_no_key_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file, not a folder")
    with pytest.raises(ConfigError, match="cannot be written"):
        with_store(tmp_path).master_key()


def test_controllers_on_postgresql_share_a_key() -> None:
    values = changed("store.url", "postgresql://telephony@db/telephony")
    assert list(faults(values)) == ["secrets.master_key_file"]
    values["secrets"] = {"master_key": base64.b64encode(bytes(32)).decode()}
    assert check_settings(values).master_key() == bytes(32)


@pytest.mark.parametrize(
    ("given", "missing"),
    [("transfer_extension", "transfer_context"), ("transfer_context", "transfer_extension")],
)
def test_an_agent_needs_an_extension_and_a_context(given: str, missing: str) -> None:
    assert f"payments.{missing}" in faults({**smallest(), "payments": {given: "600"}})
    whole = check_settings({**smallest(), "payments": {given: "600", missing: "agents"}})
    assert {whole.payments.transfer_extension, whole.payments.transfer_context} == {"600", "agents"}
    assert f"payments.{given}" in faults({**smallest(), "payments": {given: "600,1", missing: "agents"}})
