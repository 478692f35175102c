"""Where a prompt becomes one file that the PBX can play, before the phone rings.

Clips (digits, phrases, texts) are rendered once and kept; composing joins their octets. The ten
digits of a language stand in slots of one length, so that a file's size tells how many digits it
holds and nothing else; they are read together and never touched one by one, so that no access time
tells either. What it never does: put a digit of a secret into a name, a key, a log or an error.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import re
import secrets
import stat
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final, assert_never

import structlog

from telephony.errors import ConfigError, EngineError, InputError, MissingPrompt, SpeechError
from telephony.model.media import Media
from telephony.model.prompt import (
    Amount,
    Date,
    Digits,
    Mark,
    Number,
    Part,
    Phrase,
    Prompt,
    Recording,
    Silence,
    Text,
)
from telephony.speech.cache import Clip, ClipCache, clip_key
from telephony.speech.engine import Engine
from telephony.speech.packs import DIGITS, Pack, Packs, speakable
from telephony.speech.pcm import TELEPHONE_RATE, BadSound, Pcm, finish, read_wav
from telephony.speech.wording import amount_words, date_words, number_words

DIGIT_GAP: Final = 0.5
"""Seconds of silence between two digits of middling length."""

SHORTEST_GAP: Final = 0.4
LONGEST_GAP: Final = 0.7

MAX_DIGIT_SPREAD: Final = 0.25
"""Seconds by which the longest digit of a language may outlast the shortest."""

_JOIN_GAP: Final = 0.2
_MAX_SILENCE: Final = 30.0
_MAX_DIGITS: Final = 64
_MAX_PARTS: Final = 100
_MEMORY_BYTES: Final = 32 * 1024 * 1024
_MAX_RECORDING_BYTES: Final = 24 * 1024 * 1024
_RECORDING_NAME: Final = re.compile(r"[\w-]+([./][\w-]+)*")
_OPAQUE: Final = re.compile(r"[0-9a-f]{32}")
_OURS: Final = re.compile(r"\.?[0-9a-f]{32}\.(ulaw|alaw)(\.part)?")
_ENDINGS: Final = (".ulaw", ".alaw")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DigitSlots:
    """The ten digits of a language, each in the middle of a slot of the same length.

    `clip_samples` are the lengths of the sounds themselves, from zero to nine; `margin` is how much
    silence a slot has on either side of a digit of middling length, in samples.
    """

    slots: tuple[Clip, ...] = field(repr=False)
    clip_samples: tuple[int, ...]
    slot_samples: int
    margin: int


def lay_out_digits(clips: Sequence[Clip], sources: Sequence[str]) -> DigitSlots:
    """Put ten clips into slots of equal length.

    The silence between any two then lies between 400 and 700 ms. Raises `MissingPrompt` naming the
    source of the digit that is too long or too short for that.
    """
    lengths = [clip.samples for clip in clips]
    shortest, longest = min(lengths), max(lengths)
    if longest - shortest > MAX_DIGIT_SPREAD * TELEPHONE_RATE:
        middle = sorted(lengths)[len(lengths) // 2]
        odd = max(range(len(lengths)), key=lambda index: abs(lengths[index] - middle))
        raise MissingPrompt(
            f"{sources[odd]} lasts {1000 * lengths[odd] // TELEPHONE_RATE} ms where most digits last "
            f"{1000 * middle // TELEPHONE_RATE} ms; the ten must lie within "
            f"{MAX_DIGIT_SPREAD * 1000:.0f} ms. Say it {'faster' if lengths[odd] > middle else 'slower'}"
        )
    middling = (shortest + longest) // 2
    slot = middling + round(DIGIT_GAP * TELEPHONE_RATE)
    # A wide spread pulls the gaps apart around 550 ms, the middle of what is allowed.
    slot += (longest - shortest) // 5
    slots = []
    for clip in clips:
        before = (slot - clip.samples) // 2
        slots.append(_join([Clip.silence(before), clip, Clip.silence(slot - clip.samples - before)]))
    return DigitSlots(tuple(slots), tuple(lengths), slot, (slot - middling) // 2)


def _join(clips: Iterable[Clip]) -> Clip:
    whole = list(clips)
    return Clip(b"".join(clip.ulaw for clip in whole), b"".join(clip.alaw for clip in whole))


@dataclass(slots=True)
class _Gate:
    """A lock for one clip being made, and how many wait for it."""

    lock: asyncio.Lock
    users: int = 0


class Studio:
    """Turns prompts into files.

    `cache_dir` keeps clips on disk, at most `cache_limit_bytes`. `media_dir` takes the composed
    files and should lie in memory (below `/dev/shm`): it is made with mode 0750 if it is missing,
    and must not be open to everybody. `pbx_media_dir` is the same folder as the PBX sees it, None
    when it sees the same path. `recordings_dir` holds the user's own sounds, which win over the
    synthesiser: `<locale>/<phrase key>.wav`, `<locale>/digits/<0-9>.wav`; a phrase that names a brand
    may have one file per brand, `<locale>/<phrase key>/<brand in lower case, joined by ->.wav`.
    One event loop uses it; `close` ends it.
    """

    def __init__(
        self,
        packs: Packs,
        engine: Engine,
        *,
        cache_dir: Path,
        media_dir: Path,
        pbx_media_dir: str | None,
        recordings_dir: Path | None,
        cache_limit_bytes: int,
    ) -> None:
        self._packs = packs
        self._engine = engine
        self._cache = ClipCache(cache_dir, cache_limit_bytes)
        self._media_dir = media_dir.absolute()
        self._pbx_media_dir = _pbx_folder(pbx_media_dir or str(self._media_dir))
        self._recordings_dir = recordings_dir
        self._fingerprint: str | None = None
        self._memory: OrderedDict[str, Clip] = OrderedDict()
        self._memory_bytes = 0
        self._pinned: dict[str, Clip] = {}
        self._digits: dict[str, DigitSlots] = {}
        self._gates: dict[str, _Gate] = {}
        self._live: set[str] = set()
        self._media_dir_ready = False
        self._claim: int | None = None

    async def prepare(self, locales: Sequence[str] | None = None, phrases: Sequence[Phrase] = ()) -> None:
        """Make ready what can be: digits, phrases without placeholders, and the given `phrases`.

        For every language, or for `locales`. Raises `MissingPrompt`, `EngineError`, `ConfigError` or
        `UnknownLocale` for the first thing that is missing.
        """
        tags = (
            self._packs.tags
            if locales is None
            else tuple(dict.fromkeys(self._packs.locale(tag) for tag in locales))
        )
        await asyncio.to_thread(self._prepare_media_dir)
        started = time.monotonic()
        try:
            async with asyncio.TaskGroup() as group:
                for tag in tags:
                    pack = self._packs.pack(tag)
                    plain = [Phrase(key) for key in pack.phrases if not pack.placeholders(key)]
                    group.create_task(self.digit_slots(tag))
                    for phrase in (*plain, *phrases):
                        group.create_task(self._phrase(pack, phrase, pin=True))
        except ExceptionGroup as failed:
            raise _first(failed) from None
        log.info("speech.prepared", locales=tags, seconds=round(time.monotonic() - started, 3))

    def claim(self) -> None:
        """Take the media folder for this process alone, and erase what an earlier one left in it.

        A killed process leaves sounds that hold codes; they go when the next one starts. Raises
        `ConfigError` where another process has the folder.
        """
        self._prepare_media_dir()
        path = self._media_dir.with_name(f"{self._media_dir.name}.lock")
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                "speech.media_dir",
                f"{self._media_dir} is taken by another process ({error.strerror})",
                "Give each controller a folder of its own",
            ) from None
        self._claim = handle
        self.sweep(0)

    def locale(self, tag: str) -> str:
        """The canonical tag of the language that speaks `tag`. Raises `UnknownLocale`."""
        return self._packs.locale(tag)

    async def compose(self, prompt: Prompt, locale: str) -> Media:
        """Write the prompt as one sound in both laws; both files are whole when this returns.

        Raises `UnknownLocale`, `MissingPrompt`, `EngineError`, `InputError` (a part that can't be
        said), `ConfigError` (the folder) or `SpeechError` (the folder is full).
        """
        pack = self._packs.pack(self._packs.locale(locale))
        if not prompt.parts or len(prompt.parts) > _MAX_PARTS:
            raise InputError("prompt", "has no part or too many", f"Send 1 to {_MAX_PARTS} parts")
        clips, marks = await self._clips(prompt.parts, pack)
        sound = _join(clips)
        if not sound.samples:
            raise InputError("prompt", "has no length", "Send at least one word")
        if not self._media_dir_ready:
            await asyncio.to_thread(self._prepare_media_dir)
        return self._publish(sound, tuple(mark / TELEPHONE_RATE for mark in marks))

    def discard(self, media: Media) -> None:
        """Erase the files of a sound; one that is gone already, or was never ours, is no error."""
        folder, _, name = media.name.rpartition("/")
        if folder == self._pbx_media_dir and _OPAQUE.fullmatch(name):
            self._erase(name)

    def sweep(self, older_than_seconds: float) -> int:
        """Erase what a crashed process left in the media folder; returns how many files.

        Only files named as this class names them, last written longer ago than that, and none that
        this process still holds.
        """
        oldest = time.time() - older_than_seconds
        erased = 0
        try:
            entries = list(os.scandir(self._media_dir))
        except FileNotFoundError:
            return 0
        for entry in entries:
            name = entry.name.lstrip(".").partition(".")[0]
            if not _OURS.fullmatch(entry.name) or name in self._live:
                continue
            try:
                if entry.stat(follow_symlinks=False).st_mtime < oldest:
                    Path(entry.path).unlink()
                    erased += 1
            except FileNotFoundError:
                continue
        if erased:
            log.info("speech.swept", files=erased)
        return erased

    async def close(self) -> None:
        """Erase every composed file of this process, and let the folder go."""
        for name in tuple(self._live):
            self._erase(name)
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None

    async def digit_slots(self, locale: str) -> DigitSlots:
        """The ten digits of a language, made on first use. Raises like `prepare`."""
        tag = self._packs.locale(locale)
        if tag not in self._digits:
            pack = self._packs.pack(tag)
            voice = pack.voice(self._engine.name)
            made: list[Clip] = []
            sources: list[str] = []
            for index, digit in enumerate(DIGITS):
                recorded = self._recorded(tag, f"digits/{digit}")
                sources.append(str(recorded) if recorded else f"{pack.source}: digit {digit}")
                if recorded:
                    made.append(await self._from_file(recorded, pin=True))
                else:
                    spoken = pack.digits[index]
                    made.append(await self._said(spoken, voice.name, voice.digit_speeds[index], pin=True))
            self._digits[tag] = lay_out_digits(made, sources)
        return self._digits[tag]

    async def _clips(self, parts: Sequence[Part], pack: Pack) -> tuple[list[Clip], list[int]]:
        """The sound of all parts in order, with a breath between two that are spoken; marks in samples."""
        clips: list[Clip] = []
        marks: list[int] = []
        heard = [part for part in parts if not isinstance(part, Mark)]
        at = -1
        for part in parts:
            if isinstance(part, Mark):
                marks.append(sum(clip.samples for clip in clips))
                continue
            at += 1
            before = heard[at - 1] if at else None
            after = heard[at + 1] if at + 1 < len(heard) else None
            if isinstance(part, Silence):
                clips.append(await self._pause(part, before, after, pack))
                continue
            if _breath_between(before, part):
                clips.append(Clip.silence(round(_JOIN_GAP * TELEPHONE_RATE)))
            if isinstance(part, Digits):
                clips.extend(_in_slots(part, await self.digit_slots(pack.tag)))
            else:
                clips.append(await self._spoken(part, pack))
        return clips, marks

    async def _pause(self, part: Silence, before: Part | None, after: Part | None, pack: Pack) -> Clip:
        """A silence; the margin that a neighbouring digit has in its slot counts as part of it.

        The margin is that of a digit of middling length, whichever digit it is.
        """
        if not 0 <= part.seconds <= _MAX_SILENCE:
            raise InputError("silence", "is not a length", f"Send 0 to {_MAX_SILENCE:g} seconds")
        samples = round(part.seconds * TELEPHONE_RATE)
        for neighbour in (before, after):
            if isinstance(neighbour, Digits):
                samples -= (await self.digit_slots(pack.tag)).margin
        return Clip.silence(max(0, samples))

    async def _spoken(self, part: Recording | Phrase | Text | Number | Amount | Date, pack: Pack) -> Clip:
        match part:
            case Recording():
                return await self._recording(pack, part.name)
            case Phrase():
                return await self._phrase(pack, part)
            case Text():
                return await self._text(pack, part.text)
            case Number():
                return await self._text(pack, number_words(part.value, pack.tag))
            case Amount():
                return await self._text(pack, amount_words(part.value, part.currency, pack.tag))
            case Date():
                return await self._text(pack, date_words(part.when, pack.tag, with_time=part.with_time))
            case _ as never:
                assert_never(never)

    async def _phrase(self, pack: Pack, phrase: Phrase, *, pin: bool = False) -> Clip:
        # The text is made even where a recording wins: an unknown key or a missing value is an error
        # whether or not somebody has recorded it.
        text = pack.text(phrase.key, phrase.values)
        placeholders = pack.placeholders(phrase.key)
        recorded = None
        if "brand" in placeholders and len(placeholders) == 1:
            brand = re.sub(r"[\W_]+", "-", dict(phrase.values)["brand"].casefold()).strip("-")
            recorded = self._recorded(pack.tag, f"{phrase.key}/{brand}") if brand else None
        # A recording can't say an amount that changes from call to call; a brand it can.
        if recorded is None and placeholders <= {"brand"}:
            recorded = self._recorded(pack.tag, phrase.key)
        if recorded is not None:
            return await self._from_file(recorded, pin=pin)
        return await self._text(pack, text, pin=pin)

    async def _recording(self, pack: Pack, name: str) -> Clip:
        if not _RECORDING_NAME.fullmatch(name):
            raise InputError("recording", "is not a name", "Use letters, digits, dots, hyphens and slashes")
        path = self._recorded(pack.tag, name)
        if path is None:
            places = [pack.source.parent / pack.tag]
            if self._recordings_dir is not None:
                places.insert(0, self._recordings_dir / pack.tag)
            where = " or ".join(str(place / f"{name}.wav") for place in places)
            raise MissingPrompt(f"recording {name} is missing in {pack.tag}. Put it at {where}")
        return await self._from_file(path)

    def _recorded(self, tag: str, name: str) -> Path | None:
        """The user's recording of that name, else the language pack's, else None."""
        packaged = self._packs.pack(tag).source.parent
        for folder in (self._recordings_dir, packaged):
            if folder is not None and (path := folder / tag / f"{name}.wav").is_file():
                return path
        return None

    async def _from_file(self, path: Path, *, pin: bool = False) -> Clip:
        async def make() -> tuple[Clip, str]:
            return await asyncio.to_thread(self._read_recording, path)

        return await self._kept(_recording_key(path), make, pin=pin)

    def _read_recording(self, path: Path) -> tuple[Clip, str]:
        try:
            if path.stat().st_size > _MAX_RECORDING_BYTES:
                raise ConfigError(str(path), "is too long", "Keep a recording under two minutes")
            octets = path.read_bytes()
        except OSError as error:
            raise MissingPrompt(f"{path} can't be read: {error.strerror}") from error
        key = clip_key("recording", hashlib.sha256(octets).hexdigest())
        clip = self._cache.load(key)
        if clip is None:
            try:
                clip = Clip.of(finish(read_wav(octets)))
            except BadSound as error:
                mend = "Save it as WAV, 16-bit PCM, mono or stereo, 8 to 48 kHz"
                raise ConfigError(str(path), str(error), mend) from None
            self._cache.store(key, clip)
        return clip, key

    async def _text(self, pack: Pack, text: str, *, pin: bool = False) -> Clip:
        voice = pack.voice(self._engine.name)
        return await self._said(speakable(text), voice.name, voice.phrase_speed, pin=pin)

    async def _said(self, text: str, voice: str, speed: int, *, pin: bool = False) -> Clip:
        if self._fingerprint is None:
            self._fingerprint = await asyncio.to_thread(lambda: self._engine.fingerprint)
        key = clip_key("said", self._engine.name, self._fingerprint, voice, str(speed), text)

        async def make() -> tuple[Clip, str]:
            clip = await asyncio.to_thread(self._cache.load, key)
            if clip is None:
                pcm = await self._engine.synthesize(text, voice, speed)
                clip = await asyncio.to_thread(_clip_of_speech, pcm)
                await asyncio.to_thread(self._cache.store, key, clip)
            return clip, key

        return await self._kept(key, make, pin=pin)

    async def _kept(
        self, key: str, make: Callable[[], Awaitable[tuple[Clip, str]]], *, pin: bool = False
    ) -> Clip:
        """The clip from memory, else made once however many ask for it at a time."""
        clip = self._remembered(key)
        if clip is not None and not pin:
            return clip
        async with self._gate(key):
            clip = self._remembered(key)
            if clip is None or (pin and key not in self._pinned):
                clip, file_key = await make()
                if pin:
                    self._pinned[key] = clip
                    self._cache.pin((file_key,))
                else:
                    self._remember(key, clip)
            return clip

    @asynccontextmanager
    async def _gate(self, key: str) -> AsyncIterator[None]:
        gate = self._gates.setdefault(key, _Gate(asyncio.Lock()))
        gate.users += 1
        try:
            async with gate.lock:
                yield
        finally:
            gate.users -= 1
            if not gate.users:
                del self._gates[key]

    def _remembered(self, key: str) -> Clip | None:
        if (pinned := self._pinned.get(key)) is not None:
            return pinned
        if (clip := self._memory.get(key)) is not None:
            self._memory.move_to_end(key)
        return clip

    def _remember(self, key: str, clip: Clip) -> None:
        self._memory[key] = clip
        self._memory_bytes += 2 * clip.samples
        while self._memory_bytes > _MEMORY_BYTES and len(self._memory) > 1:
            _, oldest = self._memory.popitem(last=False)
            self._memory_bytes -= 2 * oldest.samples

    def _prepare_media_dir(self) -> None:
        """Make the media folder, or see that nobody else can read or replace what lies in it."""
        folder = self._media_dir
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                folder.mkdir(mode=0o750)
            except FileExistsError:
                pass
            else:
                # Whatever the umask is, the PBX enters by the group.
                folder.chmod(0o750)
            facts = folder.lstat()
        except OSError as error:
            mend = "Name a folder that this user may make, below /dev/shm"
            raise ConfigError("speech.media_dir", f"{folder}: {error.strerror}", mend) from error
        if not stat.S_ISDIR(facts.st_mode):
            raise ConfigError("speech.media_dir", f"{folder} is not a folder", "Name a folder of its own")
        if facts.st_uid not in {os.geteuid(), 0}:
            raise ConfigError(
                "speech.media_dir", f"{folder} belongs to another user", "Remove it or name another folder"
            )
        if stat.S_IMODE(facts.st_mode) & 0o007:
            raise ConfigError(
                "speech.media_dir", f"{folder} is open to everybody", f"Run: chmod o-rwx {folder}"
            )
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ConfigError(
                "speech.media_dir", f"{folder} can't be written to", "Let this user write there"
            )
        self._media_dir_ready = True

    def _publish(self, sound: Clip, marks: tuple[float, ...]) -> Media:
        """Write both files, each under a hidden name first. Quick: the folder lies in memory."""
        name = secrets.token_hex(16)
        self._live.add(name)
        try:
            for ending, octets in zip(_ENDINGS, (sound.ulaw, sound.alaw), strict=True):
                self._write(f"{name}{ending}", octets)
        except OSError as error:
            self._erase(name)
            self._media_dir_ready = False
            raise SpeechError(f"can't write to {self._media_dir}: {error.strerror}") from None
        return Media(f"{self._pbx_media_dir}/{name}", sound.samples / TELEPHONE_RATE, marks)

    def _write(self, name: str, octets: bytes) -> None:
        unfinished = self._media_dir / f".{name}.part"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(unfinished, flags, 0o640)
        with os.fdopen(descriptor, "wb") as file:
            # Whatever the umask is, the PBX reads by the group.
            os.fchmod(descriptor, 0o640)
            file.write(octets)
        unfinished.rename(self._media_dir / name)

    def _erase(self, name: str) -> None:
        for ending in _ENDINGS:
            for path in (f"{name}{ending}", f".{name}{ending}.part"):
                try:
                    (self._media_dir / path).unlink(missing_ok=True)
                except OSError as error:
                    log.error("speech.not_erased", folder=str(self._media_dir), error=error.strerror)
                    return
        self._live.discard(name)


def _breath_between(before: Part | None, part: Part) -> bool:
    """Whether two parts need a pause that nobody asked for; digits after digits keep their rhythm."""
    if before is None or isinstance(before, Silence):
        return False
    return not (isinstance(before, Digits) and isinstance(part, Digits))


def _in_slots(part: Digits, digits: DigitSlots) -> tuple[Clip, ...]:
    """The slots of the digits. The error does not repeat what was wrong with them."""
    if not 1 <= len(part.digits) <= _MAX_DIGITS or not set(part.digits) <= set(DIGITS):
        raise InputError("digits", "are not 0 to 9", f"Send 1 to {_MAX_DIGITS} digits")
    return tuple(map(digits.slots.__getitem__, map(int, part.digits)))


def _recording_key(path: Path) -> str:
    """By size and time too, so that a recording that was replaced is heard without a restart."""
    try:
        facts = path.stat()
    except OSError as error:
        raise MissingPrompt(f"{path} can't be read: {error.strerror}") from None
    return f"{path}:{facts.st_size}:{facts.st_mtime_ns}"


def _clip_of_speech(pcm: Pcm) -> Clip:
    try:
        return Clip.of(finish(pcm))
    except BadSound as error:
        raise EngineError(f"the synthesiser said nothing ({error}): is the text in its language?") from None


def _pbx_folder(folder: str) -> str:
    plain = folder.rstrip("/")
    if not PurePosixPath(plain).is_absolute() or not plain.isprintable():
        raise ConfigError(
            "speech.pbx_media_dir", "is not an absolute path", "Write one such as /dev/shm/media"
        )
    return plain


def _first(group: ExceptionGroup[Exception]) -> Exception:
    """The first error of a group of groups."""
    error: Exception = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
