"""Language packs: complete as shipped, and refused by name when they are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from telephony.errors import ConfigError, InputError, MissingPrompt, UnknownLocale
from telephony.resources import data_dir
from telephony.speech.packs import MAX_TEXT, REQUIRED_PHRASES, Packs, read_pack, speakable

Spoil = Callable[[str, str], Path]


@pytest.fixture
def spoil(tmp_path: Path) -> Spoil:
    """The English pack with one text replaced by another."""

    def make(old: str, new: str) -> Path:
        whole = (data_dir("audio") / "en.toml").read_text("utf-8")
        assert old in whole
        path = tmp_path / "en.toml"
        path.write_text(whole.replace(old, new), "utf-8")
        return path

    return make


def test_the_shipped_languages_are_complete(packs: Packs) -> None:
    assert packs.tags == ("en", "es", "zh-CN")
    for tag in packs.tags:
        pack = packs.pack(tag)
        assert len(set(pack.digits)) == 10
        for key, placeholders in REQUIRED_PHRASES.items():
            assert pack.placeholders(key) == placeholders
        assert pack.text("verification.greeting", (("brand", "Acme"),)).startswith("Acme")
        assert len(pack.voice("espeak-ng").digit_speeds) == 10


def test_one_is_said_yao_in_chinese(packs: Packs) -> None:
    assert packs.pack("zh-CN").digits[1] == "幺"


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("en", "en"),
        ("EN-us", "en"),
        ("en_GB", "en"),
        ("zh", "zh-CN"),
        ("zh-cn", "zh-CN"),
        ("zh-Hans-SG", "zh-CN"),
        ("es-MX", "es"),
    ],
)
def test_a_locale_finds_its_language(packs: Packs, asked: str, given: str) -> None:
    assert packs.locale(asked) == given


@pytest.mark.parametrize("asked", ["fr", "e", "", "en-", "en\r\n", "../en", "engl-ish", "x" * 200])
def test_an_unknown_locale_is_told_which_exist(packs: Packs, asked: str) -> None:
    with pytest.raises(UnknownLocale, match="en, es, zh-CN") as caught:
        packs.locale(asked)
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize("key", sorted(REQUIRED_PHRASES))
def test_a_missing_phrase_is_named_with_its_file(spoil: Spoil, key: str) -> None:
    path = spoil(f'"{key}"', '"some.other"')
    with pytest.raises(MissingPrompt) as caught:
        read_pack(path)
    assert key in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_digit_is_named_with_its_file(spoil: Spoil) -> None:
    path = spoil('7 = "seven"\n', "")
    with pytest.raises(MissingPrompt, match="digit 7 is missing") as caught:
        read_pack(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("{brand}. Your", "Your", "placeholders"),
        ("{brand}. Your", "{name}. Your", "placeholders"),
        ("{brand}. Your", "{brand}} Your", "brace"),
        ('"Goodbye."', "3", "not a text"),
        ('"verification.goodbye"', '"Good Bye" = "x"\n"verification.goodbye"', "phrase key"),
        ('tag = "en"', 'tag = "fr"', "another name"),
        ('tag = "en"', 'tag = "e n"', "language tag"),
        ('tag = "en"', "", "tag: is missing"),
        ('voice = "en-us"', "", "voice: is missing"),
        ("137, 110, ", "", "list of ten"),
        ("137,", "13,", "speed 13 "),
        ("[phrases]", "[phrases", "TOML"),
    ],
)
def test_a_malformed_pack_names_file_and_mend(spoil: Spoil, old: str, new: str, problem: str) -> None:
    path = spoil(old, new)
    with pytest.raises(ConfigError, match=problem) as caught:
        read_pack(path)
    assert str(path) in caught.value.key
    assert caught.value.mend


def test_no_pack_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no language pack"):
        Packs.load(tmp_path)


def test_a_language_is_added_by_a_file_and_replaced_by_a_later_folder(spoil: Spoil, tmp_path: Path) -> None:
    spoil('"Goodbye."', '"Bye now."')
    both = Packs.load(data_dir("audio"), tmp_path)
    assert both.tags == ("en", "es", "zh-CN")
    assert both.pack("en").text("verification.goodbye") == "Bye now."


def test_braces_in_a_value_mean_nothing(packs: Packs) -> None:
    text = packs.pack("en").text("verification.greeting", (("brand", "{brand} {0.__class__}"),))
    assert text.startswith("{brand} {0.__class__}.")


def test_an_unknown_key_and_a_value_that_is_not_given_are_named(packs: Packs) -> None:
    with pytest.raises(MissingPrompt, match=r"'no\.such'"):
        packs.pack("en").text("no.such")
    with pytest.raises(MissingPrompt, match=r"\{brand\}"):
        packs.pack("en").text("verification.greeting")


def test_control_characters_are_not_spoken() -> None:
    assert speakable("one\r\n\x00two\t three ") == "one two three"


@pytest.mark.parametrize("text", ["", " \r\n", "x" * (MAX_TEXT + 1)])
def test_a_text_that_cannot_be_said_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        speakable(text)
