"""Where the data files are: beside the package in a checkout, inside it in an installed wheel.

What it never does: open them.
"""

from __future__ import annotations

from pathlib import Path


def data_dir(name: str) -> Path:
    """Return the folder `audio` or `dialplans`."""
    package = Path(__file__).resolve().parent
    installed = package / "_data" / name
    return installed if installed.is_dir() else package.parent / name
