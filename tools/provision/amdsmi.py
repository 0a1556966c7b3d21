"""Make a folder with one amdsmi wheel of each release that the tests try; they are pure Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tools.provision.package import uv
from tools.provision.place import cache_root, make_once

if TYPE_CHECKING:
    from pathlib import Path

VERSIONS = ("6.1.2", "6.2.4", "6.3.3", "6.4.4", "7.0.2")
"""One of each binary interface; the sizes of some structures differ between any two."""


def make_amdsmi(*, python: Path) -> Path:
    """Return a folder that holds a folder for each version, to be put on Python's path."""

    def build(partial: Path) -> None:
        for version in VERSIONS:
            where = ("--python", str(python), "--target", str(partial / version))
            uv("amdsmi", "pip", "install", "--quiet", "--no-deps", *where, f"amdsmi=={version}")

    return make_once(cache_root() / f"amdsmi-{'-'.join(VERSIONS)}", build)
