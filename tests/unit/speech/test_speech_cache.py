"""The clip cache: whole files only, bounded, and shared by processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from telephony.speech.cache import Clip, ClipCache, clip_key
from tests.unit.speech.sounds import tone

CLIP = Clip.of(tone(0.2))
FILE_BYTES = 2 * CLIP.samples + 44


def test_a_clip_comes_back(tmp_path: Path) -> None:
    cache = ClipCache(tmp_path / "new" / "folder", 10**6)
    assert cache.load("a") is None
    cache.store("a", CLIP)
    assert cache.load("a") == CLIP
    assert ClipCache(tmp_path / "new" / "folder", 10**6).load("a") == CLIP
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["a.clip"]


def test_keys_part_what_would_run_together() -> None:
    assert clip_key("ab", "c") != clip_key("a", "bc")
    assert clip_key("ab") == clip_key("ab")


@pytest.mark.parametrize("damage", ["short", "empty", "flipped", "foreign", "another length"])
def test_a_damaged_file_is_seen_and_erased(tmp_path: Path, damage: str) -> None:
    cache = ClipCache(tmp_path, 10**6)
    cache.store("a", CLIP)
    path = tmp_path / "a.clip"
    whole = path.read_bytes()
    damaged = {
        "short": whole[:-10],
        "empty": b"",
        "flipped": whole[:-1] + bytes([whole[-1] ^ 1]),
        "foreign": b"RIFF" + whole[4:],
        "another length": whole[:8] + (CLIP.samples + 1).to_bytes(4, "little") + whole[12:],
    }
    path.write_bytes(damaged[damage])
    assert cache.load("a") is None
    assert not path.exists()
    cache.store("a", CLIP)
    assert cache.load("a") == CLIP


def test_it_stays_within_its_limit_and_the_oldest_go_first(tmp_path: Path) -> None:
    cache = ClipCache(tmp_path, 3 * FILE_BYTES)
    for at, key in enumerate("abc"):
        cache.store(key, CLIP)
        os.utime(tmp_path / f"{key}.clip", (1000 + at, 1000 + at))
    assert cache.load("a") is not None  # used just now, so b is the oldest
    cache.store("d", CLIP)
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["a", "c", "d"]


def test_what_is_pinned_or_was_just_written_is_never_evicted(tmp_path: Path) -> None:
    cache = ClipCache(tmp_path, FILE_BYTES)
    cache.pin(["a"])
    for key in "abc":
        cache.store(key, CLIP)
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["a", "c"]


def test_what_a_crash_left_half_written_goes_in_time_and_foreign_files_stay(tmp_path: Path) -> None:
    cache = ClipCache(tmp_path, 10**6)
    (tmp_path / "old.part").write_bytes(b"x")
    os.utime(tmp_path / "old.part", (1000, 1000))
    (tmp_path / "fresh.part").write_bytes(b"x")
    (tmp_path / "README").write_bytes(b"x")
    os.utime(tmp_path / "README", (1000, 1000))
    cache.store("a", CLIP)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README", "a.clip", "fresh.part"]


def test_a_folder_that_cannot_be_used_costs_no_speech(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = ClipCache(tmp_path / "file" / "below", 10**6)
    cache.store("a", CLIP)
    assert cache.load("a") is None


WORKER = """
import sys
from pathlib import Path
from telephony.speech.cache import Clip, ClipCache
cache = ClipCache(Path(sys.argv[1]), int(sys.argv[2]))
wrong = 0
for round in range(150):
    for key in "abcdef":
        clip = cache.load(key)
        expected = key.encode() * 3000
        if clip is None:
            cache.store(key, Clip(expected, expected))
        elif clip.ulaw != expected or clip.alaw != expected:
            wrong += 1
print(wrong)
"""


def test_two_processes_share_a_folder_and_never_read_half_a_file(tmp_path: Path) -> None:
    # The limit is below what the six need, so that both write and evict all the time.
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path), "20000"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    for worker in workers:
        said, _ = worker.communicate(timeout=60)
        assert worker.returncode == 0, said
        assert said.splitlines()[-1] == "0"
        assert "cache_damaged" not in said
        assert "cache_unwritable" not in said
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 20000
    assert not list(tmp_path.glob("*.part"))
