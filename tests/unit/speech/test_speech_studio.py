"""Prompts composed into files: what lies on disk, what does not, and what fails by name."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import stat
import time
from array import array
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from telephony.errors import ConfigError, EngineError, InputError, MissingPrompt, SpeechError, UnknownLocale
from telephony.model.media import Media
from telephony.model.prompt import Amount, Date, Digits, Number, Phrase, Prompt, Recording, Silence, Text
from telephony.resources import data_dir
from telephony.speech import g711
from telephony.speech.cache import Clip
from telephony.speech.packs import Packs
from telephony.speech.pcm import Pcm
from telephony.speech.studio import lay_out_digits
from tests.unit.speech.conftest import MakeStudio
from tests.unit.speech.sounds import ToneEngine, tone, wav

BRAND = (("brand", "Acme"),)


def verification(code: str) -> Prompt:
    digits = Digits(code, secret=True)
    return Prompt(
        (
            Phrase("verification.greeting", BRAND),
            digits,
            Silence(2),
            Phrase("verification.again"),
            digits,
        )
    )


def octets(media: Media, law: str = "ulaw") -> bytes:
    return Path(f"{media.name}.{law}").read_bytes()


async def test_a_prompt_becomes_two_whole_files_under_an_opaque_name(
    make_studio: MakeStudio, tmp_path: Path
) -> None:
    media = await make_studio().compose(verification("402817"), "en-US")
    folder, _, name = media.name.rpartition("/")
    assert folder == str(tmp_path / "media")
    assert re.fullmatch(r"[0-9a-f]{32}", name)
    assert sorted(path.name for path in (tmp_path / "media").iterdir()) == [f"{name}.alaw", f"{name}.ulaw"]
    assert len(octets(media)) == len(octets(media, "alaw"))
    assert media.seconds == len(octets(media)) / 8000
    for law in ("ulaw", "alaw"):
        assert stat.S_IMODE(Path(f"{media.name}.{law}").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "media").stat().st_mode) == 0o750


async def test_the_mode_does_not_hang_on_the_umask(make_studio: MakeStudio, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        media = await make_studio().compose(verification("1234"), "en")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "media").stat().st_mode) == 0o750
    assert stat.S_IMODE(Path(f"{media.name}.ulaw").stat().st_mode) == 0o640


async def test_both_laws_say_the_same(make_studio: MakeStudio) -> None:
    media = await make_studio().compose(verification("402817"), "en")
    one, other = g711.from_ulaw(octets(media)), g711.from_alaw(octets(media, "alaw"))
    assert max(abs(a - b) for a, b in zip(one, other, strict=True)) < 1200
    assert max(map(abs, one)) > 4000


async def test_the_digits_stand_in_order_each_in_its_own_slot(make_studio: MakeStudio) -> None:
    studio = make_studio()
    digits = await studio.digit_slots("en")
    media = await studio.compose(Prompt((Digits("402817", secret=True),)), "en")
    assert octets(media) == b"".join(digits.slots[int(digit)].ulaw for digit in "402817")
    assert octets(media, "alaw") == b"".join(digits.slots[int(digit)].alaw for digit in "402817")
    assert len({slot.ulaw for slot in digits.slots}) == 10


@pytest.mark.parametrize("locale", ["en", "es", "zh-CN"])
async def test_size_and_length_tell_nothing_of_the_code(make_studio: MakeStudio, locale: str) -> None:
    studio = make_studio()
    codes = random.Random(5)
    sizes = set()
    for _ in range(60):
        media = await studio.compose(verification(f"{codes.randrange(10**6):06}"), locale)
        sizes.add((len(octets(media)), len(octets(media, "alaw")), media.seconds))
        studio.discard(media)
    assert len(sizes) == 1


async def test_no_trace_of_the_code(
    make_studio: MakeStudio, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code = "739051"
    prompt = verification(code)
    studio = make_studio()
    with capture_logs() as logs, caplog.at_level(logging.DEBUG):
        await studio.prepare()
        before = {path.name: path.stat() for path in (tmp_path / "cache").iterdir()}
        media = await studio.compose(prompt, "en")
        studio.discard(media)
        kept = studio._memory, studio._pinned, studio._live
        after = {path.name: path.stat() for path in (tmp_path / "cache").iterdir()}
    for shown in (
        repr(prompt),
        repr(media),
        repr(logs),
        caplog.text,
        repr(studio),
        repr(list(after)),
        repr(kept),
    ):
        assert code not in shown
    # No digit clip was looked at for this code: the only new file is the greeting.
    assert len(after) == len(before) + 1
    assert all(after[name].st_mtime_ns == facts.st_mtime_ns for name, facts in before.items())
    assert not list((tmp_path / "media").iterdir())


@pytest.mark.parametrize("wrong", ["", "73x51", "７３", "12 34", "1" * 65])
async def test_digits_that_are_none_are_refused_and_not_repeated(
    make_studio: MakeStudio, tmp_path: Path, wrong: str
) -> None:
    with pytest.raises(InputError, match="0 to 9") as caught:
        await make_studio().compose(Prompt((Digits(wrong, secret=True),)), "en")
    if wrong:
        assert wrong not in str(caught.value)
        assert wrong not in repr(caught.value)
    assert not list((tmp_path / "media").glob("*"))


async def test_a_silence_is_as_long_as_it_says_next_to_digits(make_studio: MakeStudio) -> None:
    studio = make_studio()
    digits = await studio.digit_slots("en")
    media = await studio.compose(Prompt((Digits("11"), Silence(2), Digits("11"))), "en")
    heard = octets(media)
    margin = (digits.slot_samples - digits.clip_samples[1]) / 8000
    longest = max(len(run) for run in re.findall(rb"\xff{400,}", heard)) / 8000
    assert longest == pytest.approx(2.0, abs=0.06)
    assert margin == pytest.approx(0.5, abs=0.1)


async def test_a_breath_parts_words_from_digits_and_no_digit_from_another(make_studio: MakeStudio) -> None:
    studio = make_studio()
    slot = (await studio.digit_slots("en")).slot_samples

    async def samples(*parts: Text | Digits) -> int:
        return len(octets(await studio.compose(Prompt(parts), "en")))

    word = await samples(Text("hello"))
    assert await samples(Text("hello"), Digits("12"), Text("hello")) == 2 * word + 2 * slot + 2 * 1600
    assert await samples(Digits("12"), Digits("34")) == 4 * slot


async def test_every_kind_of_part_is_said(make_studio: MakeStudio, engine: ToneEngine) -> None:
    parts = (
        Text("Hello\r\nthere"),
        Number(7),
        Amount(Decimal("128.50"), "CNY"),
        Date(datetime(2026, 11, 24, tzinfo=UTC)),
        Phrase("verification.goodbye"),
    )
    media = await make_studio().compose(Prompt(parts), "zh-CN")
    assert engine.said == ["Hello there", "七", "一百二十八元五角", "二零二六年十一月二十四日", "再见。"]
    assert len(re.findall(rb"\xff{1600}", octets(media))) == 4


@pytest.mark.parametrize(
    "parts",
    [
        (),
        (Silence(0),),
        (Silence(-1),),
        (Silence(1e9),),
        (Silence(float("nan")),),
        (Text("x" * 1001),),
        (Text(" "),),
    ],
)
async def test_what_cannot_be_said_is_refused(
    make_studio: MakeStudio, parts: tuple[Text | Silence, ...]
) -> None:
    with pytest.raises(InputError):
        await make_studio().compose(Prompt(parts), "en")


async def test_locales(make_studio: MakeStudio) -> None:
    studio = make_studio()
    assert studio.locale("zh") == "zh-CN"
    with pytest.raises(UnknownLocale, match="en, es, zh-CN"):
        studio.locale("fr")
    with pytest.raises(UnknownLocale):
        await studio.compose(Prompt((Text("bonjour"),)), "fr")


async def test_after_prepare_nothing_is_rendered_for_a_code(
    make_studio: MakeStudio, engine: ToneEngine
) -> None:
    studio = make_studio()
    await studio.prepare(phrases=[Phrase("verification.greeting", BRAND)])
    assert sorted(set(engine.said)) == sorted(engine.said)
    ready = len(engine.said)
    for locale in ("en", "es", "zh-CN"):
        await studio.compose(verification("402817"), locale)
    assert len(engine.said) == ready


async def test_a_second_process_takes_its_clips_from_disk(make_studio: MakeStudio) -> None:
    await make_studio().prepare()
    another = ToneEngine()
    await make_studio(engine=another).prepare()
    assert another.said == []


async def test_another_version_of_the_synthesiser_is_asked_anew(make_studio: MakeStudio) -> None:
    await make_studio().prepare(["en"])
    newer = ToneEngine()
    newer.fingerprint = "tones 2"
    await make_studio(engine=newer).prepare(["en"])
    assert "seven" in newer.said


async def test_prepare_may_be_for_some_languages(make_studio: MakeStudio, engine: ToneEngine) -> None:
    await make_studio().prepare(["es-MX"])
    assert "siete" in engine.said
    assert "seven" not in engine.said


async def test_a_damaged_clip_is_made_anew(make_studio: MakeStudio, tmp_path: Path) -> None:
    first = await make_studio().compose(verification("402817"), "en")
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    again = await make_studio().compose(verification("402817"), "en")
    assert octets(first) == octets(again)


async def test_many_asking_at_once_render_once(make_studio: MakeStudio, engine: ToneEngine) -> None:
    studio = make_studio()
    prompt = Prompt((Text("a busy evening"),))
    made = await asyncio.gather(*(studio.compose(prompt, "en") for _ in range(20)))
    assert engine.said == ["a busy evening"]
    assert len({media.name for media in made}) == 20


async def test_a_caller_who_gives_up_does_not_spoil_it_for_the_others(make_studio: MakeStudio) -> None:
    class SlowEngine(ToneEngine):
        started = asyncio.Event()
        go_on = asyncio.Event()

        async def synthesize(self, text: str, voice: str, speed: int) -> Pcm:
            self.started.set()
            await self.go_on.wait()
            return await super().synthesize(text, voice, speed)

    slow = SlowEngine()
    studio = make_studio(engine=slow)
    prompt = Prompt((Text("wait for it"),))
    impatient = asyncio.create_task(studio.compose(prompt, "en"))
    patient = asyncio.create_task(studio.compose(prompt, "en"))
    await slow.started.wait()
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    slow.go_on.set()
    assert (await patient).seconds > 0
    assert studio._gates == {}


async def test_an_engine_that_fails_leaves_no_file_and_may_succeed_later(
    make_studio: MakeStudio, tmp_path: Path
) -> None:
    class Moody(ToneEngine):
        well = False

        async def synthesize(self, text: str, voice: str, speed: int) -> Pcm:
            if not self.well:
                raise EngineError("not today")
            return await super().synthesize(text, voice, speed)

    moody = Moody()
    studio = make_studio(engine=moody)
    with pytest.raises(EngineError, match="not today"):
        await studio.prepare()
    with pytest.raises(EngineError, match="not today"):
        await studio.compose(verification("402817"), "en")
    assert not list((tmp_path / "media").iterdir())
    moody.well = True
    await studio.prepare()
    assert (await studio.compose(verification("402817"), "en")).seconds > 0


async def test_a_synthesiser_that_says_nothing_is_an_error(make_studio: MakeStudio) -> None:
    class Mute(ToneEngine):
        async def synthesize(self, text: str, voice: str, speed: int) -> Pcm:
            return Pcm(8000, array("h", bytes(8000)))

    with pytest.raises(EngineError, match="said nothing"):
        await make_studio(engine=Mute()).compose(Prompt((Text("hello"),)), "en")


async def test_a_digit_of_another_length_is_named(make_studio: MakeStudio, engine: ToneEngine) -> None:
    engine.lengths["seven"] = 0.9
    with pytest.raises(MissingPrompt, match=r"en\.toml: digit 7 lasts 9\d\d ms.*faster"):
        await make_studio().prepare(["en"])


@pytest.mark.parametrize("spread", [0.0, 0.05, 0.12, 0.2, 0.25])
def test_gaps_stay_within_bounds_for_any_spread_that_is_taken(spread: float) -> None:
    lengths = [0.3 + spread * index / 9 for index in range(10)]
    digits = lay_out_digits([Clip.of(tone(seconds)) for seconds in lengths], list("0123456789"))
    assert {slot.samples for slot in digits.slots} == {digits.slot_samples}
    for one in digits.slots:
        for other in digits.slots:
            gap = max(len(run) for run in re.findall(rb"\xff+", one.ulaw + other.ulaw)) / 8000
            assert 0.4 <= gap <= 0.7


# Recordings


def put(path: Path, samples: array[int], rate: int = 8000, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(wav(samples, rate, channels))


async def test_a_users_recordings_win(make_studio: MakeStudio, engine: ToneEngine, tmp_path: Path) -> None:
    own = tmp_path / "own"
    put(own / "en" / "verification.again.wav", tone(1.0, rate=44100), 44100)
    put(own / "en" / "digits" / "3.wav", tone(0.4, rate=48000), 48000)
    studio = make_studio(recordings_dir=own)
    await studio.prepare(["en"])
    assert "Again, your code is:" not in engine.said
    assert "three" not in engine.said
    assert (await studio.digit_slots("en")).clip_samples[3] == pytest.approx(0.4 * 8000, abs=80)
    media = await studio.compose(Prompt((Phrase("verification.again"),)), "en")
    assert media.seconds == pytest.approx(1.0, abs=0.02)


async def test_where_everything_is_recorded_no_synthesiser_is_needed(
    make_studio: MakeStudio, packs: Packs, tmp_path: Path
) -> None:
    class Absent(ToneEngine):
        @property
        def fingerprint(self) -> str:  # type: ignore[override]
            raise EngineError("not installed")

    own = tmp_path / "own" / "en"
    for key in packs.pack("en").phrases:
        put(own / f"{key}.wav", tone(0.5))
    for digit in range(10):
        put(own / "digits" / f"{digit}.wav", tone(0.4, hertz=400 + 50 * digit))
    studio = make_studio(engine=Absent(), recordings_dir=tmp_path / "own")
    await studio.prepare(["en"])
    assert (await studio.compose(verification("402817"), "en")).seconds > 10
    with pytest.raises(EngineError, match="not installed"):
        await studio.prepare(["es"])


async def test_a_brand_may_have_its_own_recording(
    make_studio: MakeStudio, engine: ToneEngine, tmp_path: Path
) -> None:
    own = tmp_path / "own" / "en"
    put(own / "verification.greeting.wav", tone(1.0))
    put(own / "verification.greeting" / "acme-taxi.wav", tone(2.0))
    studio = make_studio(recordings_dir=tmp_path / "own")
    for brand, seconds in (("ACME Taxi", 2.0), ("Other", 1.0), ("../../x", 1.0)):
        prompt = Prompt((Phrase("verification.greeting", (("brand", brand),)),))
        assert (await studio.compose(prompt, "en")).seconds == pytest.approx(seconds, abs=0.02)
    assert engine.said == []


async def test_a_recording_that_was_replaced_is_heard_at_once(
    make_studio: MakeStudio, tmp_path: Path
) -> None:
    path = tmp_path / "own" / "en" / "common.apology.wav"
    put(path, tone(1.0))
    studio = make_studio(recordings_dir=tmp_path / "own")
    await studio.prepare(["en"])
    prompt = Prompt((Phrase("common.apology"),))
    assert (await studio.compose(prompt, "en")).seconds == pytest.approx(1.0, abs=0.02)
    put(path, tone(2.0))
    assert (await studio.compose(prompt, "en")).seconds == pytest.approx(2.0, abs=0.02)


async def test_recordings_by_name_are_found_or_missed_by_name(
    make_studio: MakeStudio, tmp_path: Path
) -> None:
    put(
        tmp_path / "own" / "en" / "jingle.wav", array("h", [v for s in tone(0.5) for v in (s, s)]), channels=2
    )
    studio = make_studio(recordings_dir=tmp_path / "own")
    media = await studio.compose(Prompt((Recording("jingle"),)), "en")
    assert media.seconds == pytest.approx(0.5, abs=0.02)
    with pytest.raises(MissingPrompt, match=r"nothing-here\.wav"):
        await studio.compose(Prompt((Recording("nothing-here"),)), "en")
    for name in ("../en/jingle", "/etc/passwd", "a\nb", ""):
        with pytest.raises(InputError):
            await studio.compose(Prompt((Recording(name),)), "en")


async def test_a_recording_that_is_no_such_wav_is_named(make_studio: MakeStudio, tmp_path: Path) -> None:
    path = tmp_path / "own" / "en" / "common.apology.wav"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"ID3 this is an MP3")
    with pytest.raises(ConfigError, match="not a WAV") as caught:
        await make_studio(recordings_dir=tmp_path / "own").prepare(["en"])
    assert caught.value.key == str(path)


# The media folder


async def test_files_are_whole_when_they_appear(
    make_studio: MakeStudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio = make_studio()
    await studio.prepare(["en"])
    seen: list[tuple[str, int]] = []
    real = Path.rename

    def watch(path: Path, target: Path) -> Path:
        # Before the rename: nothing of this name can be seen, and what will appear is already whole.
        assert not target.exists()
        assert path.name.startswith(".")
        seen.append((target.suffix, path.stat().st_size))
        return real(path, target)

    monkeypatch.setattr(Path, "rename", watch)
    media = await studio.compose(verification("402817"), "en")
    whole = len(octets(media))
    assert seen == [(".ulaw", whole), (".alaw", whole)]
    assert not list((tmp_path / "media").glob(".*"))


async def test_a_full_folder_leaves_nothing_behind(
    make_studio: MakeStudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio = make_studio()
    await studio.prepare(["en"])
    real = Path.rename

    def full(path: Path, target: Path) -> Path:
        if target.suffix == ".alaw":
            raise OSError(28, "No space left on device")
        return real(path, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(SpeechError, match="No space left"):
        await studio.compose(verification("402817"), "en")
    assert not list((tmp_path / "media").iterdir())
    monkeypatch.undo()
    assert (await studio.compose(verification("402817"), "en")).seconds > 0


async def test_discard_erases_both_files_and_may_be_repeated(make_studio: MakeStudio, tmp_path: Path) -> None:
    studio = make_studio()
    media = await studio.compose(verification("402817"), "en")
    keep = await studio.compose(verification("402817"), "en")
    studio.discard(media)
    studio.discard(media)
    assert {path.stem for path in (tmp_path / "media").iterdir()} == {Path(keep.name).name}


async def test_discard_takes_nothing_else(make_studio: MakeStudio, tmp_path: Path) -> None:
    studio = make_studio()
    own = await studio.compose(verification("402817"), "en")
    folder = tmp_path / "media"
    foreign = [tmp_path / "other.ulaw", folder / "notes.ulaw"]
    for path in foreign:
        path.write_bytes(b"x")
    same_name = f"{tmp_path}/{Path(own.name).name}"
    names = (f"{folder}/../other", f"{tmp_path}/other", f"{folder}/notes", "notes", same_name, "", "/")
    for name in names:
        studio.discard(Media(name, 1.0))
    assert all(path.exists() for path in foreign)
    assert Path(f"{own.name}.ulaw").exists()


async def test_the_pbx_sees_the_folder_by_its_own_path(make_studio: MakeStudio, tmp_path: Path) -> None:
    studio = make_studio(pbx_media_dir="/var/spool/codes/")
    media = await studio.compose(verification("402817"), "en")
    assert media.name.startswith("/var/spool/codes/")
    assert (tmp_path / "media" / (Path(media.name).name + ".ulaw")).exists()
    studio.discard(media)
    assert not list((tmp_path / "media").iterdir())


@pytest.mark.parametrize("folder", ["relative/path", "/with\nnewline", "/with\x00nul"])
def test_a_path_that_the_pbx_cannot_take_is_refused(make_studio: MakeStudio, folder: str) -> None:
    with pytest.raises(ConfigError, match=r"speech\.pbx_media_dir"):
        make_studio(pbx_media_dir=folder)


async def test_close_erases_all_of_this_process_and_nothing_of_another(
    make_studio: MakeStudio, tmp_path: Path
) -> None:
    one, other = make_studio(), make_studio()
    await one.compose(verification("402817"), "en")
    kept = await other.compose(verification("402817"), "en")
    await one.close()
    assert {path.stem for path in (tmp_path / "media").iterdir()} == {Path(kept.name).name}


async def test_sweep_erases_what_a_crash_left(make_studio: MakeStudio, tmp_path: Path) -> None:
    crashed, studio = make_studio(), make_studio()
    old = await crashed.compose(verification("402817"), "en")
    fresh = await crashed.compose(verification("402817"), "en")
    own = await studio.compose(verification("402817"), "en")
    folder = tmp_path / "media"
    (folder / f".{'0' * 32}.ulaw.part").write_bytes(b"half")
    (folder / "notes.txt").write_bytes(b"not ours")
    past = time.time() - 1000
    for path in folder.iterdir():
        if Path(fresh.name).name not in path.name:
            os.utime(path, (past, past))
    assert studio.sweep(900) == 3
    left = {path.name.partition(".")[0] for path in folder.iterdir()}
    assert left == {Path(fresh.name).name, Path(own.name).name, "notes"}
    assert not Path(f"{old.name}.ulaw").exists()


async def test_a_folder_that_is_open_to_everybody_is_refused(make_studio: MakeStudio, tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "media").chmod(0o755)
    with pytest.raises(ConfigError, match="chmod o-rwx"):
        await make_studio().prepare(["en"])


async def test_a_link_in_the_place_of_the_folder_is_refused(make_studio: MakeStudio, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o750)
    (tmp_path / "media").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="not a folder"):
        await make_studio().compose(verification("402817"), "en")


async def test_a_folder_that_cannot_be_made_is_named(make_studio: MakeStudio, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"speech\.media_dir"):
        await make_studio(media_dir=tmp_path / "file" / "media").prepare(["en"])


async def test_an_incomplete_language_fails_before_anything_is_said(tmp_path: Path) -> None:
    whole = (data_dir("audio") / "es.toml").read_text("utf-8")
    (tmp_path / "es.toml").write_text(whole.replace('"common.apology"', '"common.other"'), "utf-8")
    with pytest.raises(MissingPrompt, match=r"common\.apology"):
        Packs.load(tmp_path)


async def test_composing_from_ready_clips_is_quick(make_studio: MakeStudio) -> None:
    studio = make_studio()
    await studio.prepare(["en"], phrases=[Phrase("verification.greeting", BRAND)])
    prompt = verification("402817")
    times = []
    for _ in range(20):
        started = time.perf_counter()
        await studio.compose(prompt, "en")
        times.append(time.perf_counter() - started)
    # The best of twenty: a busy machine may stop us now and then.
    assert min(times) < 0.005
