"""Where the lab's Asterisk comes from: reading apt's sources, and keeping the last good root."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from telephony.errors import LabError
from telephony.lab import providers
from telephony.lab.providers import AptSource, apt_source_texts, find_asterisk, machine_source, private_root

BOOKWORM = {"ID": "debian", "VERSION_CODENAME": "bookworm"}
NOBLE = {"ID": "ubuntu", "VERSION_CODENAME": "noble"}


def test_the_first_source_of_the_own_release_is_taken():
    texts = [
        ("tool.sources", "Types: deb\nURIs: https://tool.example/apt\nSuites: nodistro\nComponents: main\n"),
        (
            "debian.sources",
            (
                "# a comment\nTypes: deb deb-src\nURIs: http://mirror.example/debian\n"
                "Suites: bookworm bookworm-updates\nSigned-By: /usr/share/keyrings/d.gpg\n\n"
                "Types: deb\nURIs: http://mirror.example/security\nSuites: bookworm-security\n"
            ),
        ),
    ]
    assert machine_source(texts, BOOKWORM) == AptSource(
        uris=("http://mirror.example/debian",),
        suites=("bookworm", "bookworm-updates"),
        signed_by="/usr/share/keyrings/d.gpg",
    )


def test_one_line_sources_are_read():
    text = (
        "# deb http://old.example/debian bookworm main\n"
        "deb-src http://src.example/debian bookworm main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/ubuntu noble main universe\n"
    )
    source = machine_source([("sources.list", text)], NOBLE)
    assert source == AptSource(("http://mirror.example/ubuntu",), ("noble",), "/k.gpg")


def test_a_disabled_source_is_passed_over():
    text = "Enabled: no\nTypes: deb\nURIs: http://a.example\nSuites: bookworm\n"
    with pytest.raises(LabError, match="bookworm"):
        machine_source([("a.sources", text)], BOOKWORM)


def test_a_key_inside_the_source_stays_whole():
    text = (
        "Types: deb\nURIs: http://a.example\nSuites: bookworm\nSigned-By:\n"
        " -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n -----END PGP PUBLIC KEY BLOCK-----\n"
    )
    source = machine_source([("a.sources", text)], BOOKWORM)
    assert source.signed_by.splitlines()[1:] == [
        " -----BEGIN PGP PUBLIC KEY BLOCK-----",
        " .",
        " abc",
        " -----END PGP PUBLIC KEY BLOCK-----",
    ]


def test_only_apts_own_files_are_read(tmp_path):
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("deb http://a.example bookworm main\n")
    (tmp_path / "sources.list.d" / "b.sources").write_text("Types: deb\n")
    (tmp_path / "sources.list.d" / "c.sources.disabled").write_text("Types: deb\n")
    assert [name for name, _ in apt_source_texts(tmp_path)] == ["sources.list", "b.sources"]


def fake_root(cache: Path, name: str, version: str) -> None:
    """A root whose loader is a script that answers like Asterisk."""
    lib = cache / name / "usr/lib/test-linux-gnu"
    modules = lib / "asterisk/modules"
    modules.mkdir(parents=True)
    for module in providers.REQUIRED_MODULES:
        (modules / f"{module}.so").touch()
    loader = lib / "ld-linux-test.so.2"
    loader.write_text(f"#!/bin/sh\necho Asterisk {version}\n")
    loader.chmod(0o755)
    binary = cache / name / "usr/sbin/asterisk"
    binary.parent.mkdir(parents=True)
    binary.touch()


async def test_a_cached_root_is_used_without_asking_the_mirror(tmp_path, monkeypatch):
    monkeypatch.setenv("TELEPHONY_LAB_CACHE", str(tmp_path))
    monkeypatch.setattr(providers, "_download", None)
    fake_root(tmp_path, "root-1", "22.9.0")
    (tmp_path / "current").symlink_to("root-1")
    program = await find_asterisk(only="rootfs")
    assert (program.version, program.source) == ("22.9.0", "rootfs")


async def test_a_refresh_that_fails_keeps_the_last_good_root(tmp_path, monkeypatch):
    monkeypatch.setenv("TELEPHONY_LAB_CACHE", str(tmp_path))
    fake_root(tmp_path, "root-1", "22.9.0")
    (tmp_path / "current").symlink_to("root-1")

    async def broken(*_args: object) -> None:
        raise LabError("sid does not offer an installable Asterisk today")

    monkeypatch.setattr(providers, "_download", broken)
    said: list[str] = []
    program = await private_root(said.append, refresh=True)
    assert program.version == "22.9.0"
    assert any("last good" in line for line in said)
    assert not list(tmp_path.glob("building-*"))


async def test_a_refresh_that_works_takes_over_in_one_step(tmp_path, monkeypatch):
    monkeypatch.setenv("TELEPHONY_LAB_CACHE", str(tmp_path))
    fake_root(tmp_path, "root-0", "22.7.0")
    fake_root(tmp_path, "root-1", "22.9.0")
    (tmp_path / "current").symlink_to("root-1")

    async def fetched(work: Path, _progress: object) -> tuple[str, list[Path]]:
        (work / "root").rmdir()
        fake_root(work, "root", "22.10.1+dfsg")
        return "sid", []

    monkeypatch.setattr(providers, "_download", fetched)
    first, second = await asyncio.gather(
        private_root(lambda _: None, refresh=True), private_root(lambda _: None)
    )
    assert first.version == "22.10.1+dfsg"
    assert second.version in {"22.9.0", "22.10.1+dfsg"}
    # The one before stays, because a running lab may use it; older ones go.
    assert {p.name for p in tmp_path.glob("root-*")} >= {"root-1"}
    assert not (tmp_path / "root-0").exists()


async def test_an_asterisk_that_is_too_old_or_incomplete_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TELEPHONY_LAB_CACHE", str(tmp_path))

    async def broken(*_args: object) -> None:
        raise LabError("no mirror")

    monkeypatch.setattr(providers, "_download", broken)
    fake_root(tmp_path, "root-1", "18.24.0")
    (tmp_path / "current").symlink_to("root-1")
    with pytest.raises(LabError, match="no mirror"):
        await find_asterisk(only="rootfs")


async def test_what_is_missing_is_said_for_every_way(tmp_path, monkeypatch):
    monkeypatch.setenv("TELEPHONY_LAB_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(providers.shutil, "which", lambda *_args, **_more: None)
    with pytest.raises(LabError, match=r"local: no `asterisk` on PATH.*rootfs: no `apt-get`"):
        await find_asterisk()
    with pytest.raises(LabError, match="there is no lab provider"):
        await find_asterisk(only="cloud")
