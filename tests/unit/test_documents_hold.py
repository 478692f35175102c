"""What the documents say of the configuration and of problems is so."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import BaseModel

from telephony.api.problems import KINDS
from telephony.calls.policy import NO_INPUT, policy_for
from telephony.model.call import CallClass
from telephony.model.hangup import Cause
from telephony.settings import Settings, check_settings

DOCS = Path(__file__).resolve().parents[2] / "docs"


def example() -> str:
    found = re.search(r"```toml\n(.*?)```", (DOCS / "configuration.md").read_text(), re.DOTALL)
    assert found
    return found[1]


def least() -> Settings:
    """A configuration of what must be written, and nothing else."""
    said = tomllib.loads(example())
    client = {name: said["clients"][0][name] for name in ("name", "key_hash", "brand")}
    return check_settings(
        {
            "pbx": {"ami": {"secret": "x"}},
            "numbers": {"allowed_regions": ["CN"]},
            "trunks": [{"name": "main", "endpoint": "carrier"}],
            "clients": [client],
        }
    )


def keys_of(model: type[BaseModel]) -> set[str]:
    found = set(model.model_fields)
    for field in model.model_fields.values():
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found |= keys_of(kind)
    return found


def test_the_example_loads() -> None:
    check_settings(tomllib.loads(example()))


def test_the_example_has_every_key() -> None:
    told = re.findall(r"^\W*([a-z_]+) =|^\[+([a-z_.]+)\]|(\w+) = \d+[,}]", example(), re.MULTILINE)
    assert keys_of(Settings) <= {part for words in told for word in words for part in word.split(".")}


@pytest.mark.parametrize(
    "section",
    [
        "server",
        "store",
        "overflow",
        "breaker",
        "verification",
        "payments",
        "calls",
        "calling_hours",
        "fastagi",
        "ivr",
        "log",
    ],
)
def test_the_defaults_of_the_example_are_the_defaults(section: str) -> None:
    said = getattr(check_settings(tomllib.loads(example())), section).model_dump(exclude={"node"})
    assert said == getattr(least(), section).model_dump(exclude={"node"})


def test_the_retry_of_the_example_is_the_default() -> None:
    said = check_settings(tomllib.loads(example())).retry_rules()[CallClass.TRANSACTION]
    told, plain = policy_for(CallClass.TRANSACTION, said), policy_for(CallClass.TRANSACTION, {})
    assert replace(told, on=None) == plain
    for cause in [*Cause, NO_INPUT]:
        for rang in (False, True):
            assert told.step(cause, rang=rang) is plain.step(cause, rang=rang), cause


def test_every_problem_is_told_with_its_status() -> None:
    told = re.findall(r"^\| `/docs#([a-z-]+)` \| (\d+) ", (DOCS / "http.md").read_text(), re.MULTILINE)
    assert {(kind, int(status)) for kind, status in told} == {(kind, row[0]) for kind, row in KINDS.items()}
