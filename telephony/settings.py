"""The configuration: one `telephony.toml`, every key also in the environment, checked before anything runs.

A key `[pbx.ami] secret` is `TELEPHONY_PBX__AMI__SECRET` in the environment; a secret may stand in a file
of its own (`secret_file`). Every fault is told at once, each with its key and the mend. What it never
does: connect to anything, or print a secret.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import os
import re
import socket
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from telephony.errors import ConfigError
from telephony.model.client import Client

ENVIRONMENT_PREFIX: Final = "TELEPHONY_"
DEFAULT_FILES: Final = (Path("telephony.toml"), Path("/etc/telephony/telephony.toml"))
SHARED_MEMORY: Final = Path("/dev") / "shm"
KEY_HASH: Final = re.compile(r"sha256:[0-9a-f]{64}")
_KEYS_OUTSIDE: Final = frozenset(
    {"TELEPHONY_CONFIG", "TELEPHONY_URL", "TELEPHONY_KEY", "TELEPHONY_LAB_CACHE"}
)

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Port = Annotated[int, Field(ge=0, le=65_535)]


class Section(BaseModel):
    """What every section has: nothing unknown, nothing changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Server(Section):
    """`[server]`: the HTTP face. `node` names this controller; each on one PostgreSQL needs its own."""

    host: str = "127.0.0.1"
    port: Port = 8080
    node: str = Field(default_factory=socket.gethostname, min_length=1, max_length=64)
    drain_seconds: Seconds = 30.0


class StoreSection(Section):
    """`[store]`: `sqlite:///path` or `postgresql://user@host/database`."""

    url: str = "sqlite:///var/telephony.db"


class Secrets(Section):
    """`[secrets]`: the key under which codes are sealed: 32 random bytes in base64."""

    master_key: SecretStr | None = None
    master_key_file: Path = Path("var/master.key")


class Ami(Section):
    """`[pbx.ami]`: the manager user that Asterisk knows."""

    host: str = "127.0.0.1"
    port: Port = 5038
    username: str = "telephony"
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
    """`[fastagi]`: where Asterisk's dialplan reaches us, and from where it may."""

    host: str = "127.0.0.1"
    port: Port = 4573
    allowed_peers: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    max_connections: int = Field(default=1000, ge=1)


class TrunkSection(Section):
    """`[[trunks]]`: one way out. `endpoint` is the PJSIP endpoint's name."""

    name: str = Field(min_length=1, max_length=64)
    endpoint: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")
    prefixes: tuple[str, ...] = ()
    number_format: Literal["e164", "digits", "00", "national"] = "e164"
    prefix: str = Field(default="", pattern=r"^[0-9*#+]*$")
    codecs: tuple[str, ...] = ()
    ring_timeout: Seconds = 30.0

    @field_validator("prefixes")
    @classmethod
    def _are_prefixes(cls, prefixes: tuple[str, ...]) -> tuple[str, ...]:
        return _check_prefixes(prefixes)


class SpeechSection(Section):
    """`[speech]`: what is spoken and where it lies. `media_dir` should be in memory."""

    locales: tuple[str, ...] = ("en", "zh-CN", "es")
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


class Numbers(Section):
    """`[numbers]`: who may be called. One of the two lists must say so."""

    default_region: str | None = Field(default=None, pattern=r"^[A-Z]{2}$")
    allowed_regions: tuple[str, ...] = ()
    allowed_prefixes: tuple[str, ...] = ()

    @field_validator("allowed_regions")
    @classmethod
    def _are_regions(cls, regions: tuple[str, ...]) -> tuple[str, ...]:
        for region in regions:
            if not re.fullmatch(r"[A-Z]{2}", region):
                raise ValueError(f"{region!r} is not a region; write two capital letters such as CN")
        return regions

    @field_validator("allowed_prefixes")
    @classmethod
    def _are_prefixes(cls, prefixes: tuple[str, ...]) -> tuple[str, ...]:
        return _check_prefixes(prefixes)

    @model_validator(mode="after")
    def _somebody_may_be_called(self) -> Numbers:
        if not self.allowed_regions and not self.allowed_prefixes:
            raise ValueError(
                'nobody may be called; write allowed_regions = ["CN"] or allowed_prefixes = ["+86"]'
            )
        return self


class ClientSection(Section):
    """`[[clients]]`: an app with its key's hash, `sha256:` and 64 hexadecimal digits."""

    name: str = Field(min_length=1, max_length=64)
    key_hash: str
    brand: str = Field(min_length=1, max_length=64)
    caller_number: str = Field(default="", pattern=r"^\+?[0-9]{0,20}$")
    default_locale: str = "en"
    locales: tuple[str, ...] = ()
    default_region: str | None = Field(default=None, pattern=r"^[A-Z]{2}$")
    sandbox: bool = False

    @field_validator("key_hash")
    @classmethod
    def _is_a_hash(cls, text: str) -> str:
        if not KEY_HASH.fullmatch(text):
            raise ValueError("is not a key's hash; `telephony key new NAME` prints a key and its hash")
        return text


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
    speech: SpeechSection = SpeechSection()
    verification: VerificationSection = VerificationSection()
    numbers: Numbers
    clients: tuple[ClientSection, ...] = Field(min_length=1)
    log: Log = Log()

    @model_validator(mode="after")
    def _names_are_unique(self) -> Settings:
        for what, names in (
            ("trunks", [trunk.name for trunk in self.trunks]),
            ("clients", [client.name for client in self.clients]),
        ):
            twice = {name for name in names if names.count(name) > 1}
            if twice:
                raise ValueError(
                    f"{what} must have names of their own; {', '.join(sorted(twice))} stands twice"
                )
        return self

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
                sandbox=section.sandbox,
            )
            for section in self.clients
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
        path = self.secrets.master_key_file
        if not path.exists():
            _write_new_key(path)
        return _decode_key("secrets.master_key_file", _read_secret("secrets.master_key_file", path))


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
    values = _read_toml(found) if found is not None else {}
    _overlay(values, environ)
    return check_settings(values)


def check_settings(values: Mapping[str, Any]) -> Settings:
    """Check values that stand in memory already. Raises `ConfigErrors`."""
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigErrors(tuple(_as_config_error(detail) for detail in error.errors())) from None


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


def _overlay(values: dict[str, Any], environ: Mapping[str, str]) -> None:
    """Put `TELEPHONY_SECTION__KEY` over the file's values; lists and numbers are written as TOML."""
    for name, text in sorted(environ.items()):
        if not name.startswith(ENVIRONMENT_PREFIX) or name in _KEYS_OUTSIDE:
            continue
        path = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        place = values
        for part in path[:-1]:
            deeper = place.setdefault(part, {})
            if not isinstance(deeper, dict):
                raise ConfigErrors(
                    (ConfigError(name, "names a key inside something that has none", "Check its spelling"),)
                )
            place = deeper
        place[path[-1]] = _from_environment(text)


def _from_environment(text: str) -> Any:
    """Read a value as TOML where it is TOML, and as a plain string where not."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _as_config_error(detail: ErrorDetails) -> ConfigError:
    """Say a pydantic fault in the words of somebody who edits a file."""
    key = _dotted(detail["loc"]) or "telephony.toml"
    kind = detail["type"]
    if kind == "missing":
        return ConfigError(key, "is missing", "Set it; docs/configuration.md shows an example")
    if kind == "extra_forbidden":
        return ConfigError(key, "is not a key of this program", _did_you_mean(detail["loc"]))
    if kind == "value_error":
        problem, _, mend = str(detail["ctx"]["error"]).partition("; ")
        return ConfigError(key, problem, _sentence(mend or "Check its value"))
    if kind == "too_short":
        return ConfigError(key, "is empty", f"Write at least one [[{key}]]")
    return ConfigError(key, "is not usable", _sentence(str(detail["msg"])))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _dotted(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _did_you_mean(location: tuple[int | str, ...]) -> str:
    """Suggest the key of this section that is spelt most alike, or list them."""
    model: Any = Settings
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        arguments = getattr(annotation, "__args__", ())
        model = arguments[0] if arguments else annotation
    names = list(model.model_fields)
    close = difflib.get_close_matches(str(location[-1]), names, n=1)
    return f"Did you mean {close[0]}?" if close else f"Known here: {', '.join(names)}"


def _check_prefixes(prefixes: tuple[str, ...]) -> tuple[str, ...]:
    for prefix in prefixes:
        if not re.fullmatch(r"\+[0-9]{1,15}", prefix):
            raise ValueError(f"{prefix!r} is not a prefix; write it like +86138")
    return prefixes


def _read_secret(key: str, path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise ConfigError(key, f"{path} cannot be read ({error.strerror})", "Check path and rights") from None


def _decode_key(key: str, text: str) -> bytes:
    try:
        decoded = base64.b64decode(text, validate=True)
    except binascii.Error:
        decoded = b""
    if len(decoded) != 32:
        raise ConfigError(key, "is not 32 bytes in base64", "Make one with: openssl rand -base64 32")
    return decoded


def _write_new_key(path: Path) -> None:
    """Make a master key that only we can read; two that start at once agree on one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(handle, "wb") as file:
        file.write(base64.b64encode(os.urandom(32)) + b"\n")
