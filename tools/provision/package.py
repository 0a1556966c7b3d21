"""Resolve and install Python packages with uv, and know their sizes before the download."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.provision.command import run
from tools.provision.place import ProvisionError, cache_root, in_mb, say

if TYPE_CHECKING:
    from collections.abc import Sequence

CUDA_PREFIXES = ("nvidia-", "cuda-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """One package file to install; `size_bytes` is None if its server does not tell."""

    name: str
    version: str
    url: str
    size_bytes: int | None

    @property
    def is_local(self) -> bool:
        """Tell whether the file lies on this disk already."""
        return self.url.startswith("file:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """What a resolution chose: a PEP 751 file that uv installs from, and its archives."""

    path: Path
    archives: tuple[Archive, ...]

    @property
    def is_cuda(self) -> bool:
        """Tell whether NVIDIA's packages are in, as a CUDA build of torch brings them."""
        return any(archive.name.startswith(CUDA_PREFIXES) for archive in self.archives)

    @property
    def download_bytes(self) -> int:
        """Add up what may have to be downloaded; less if uv has some of it."""
        return sum(a.size_bytes or 0 for a in self.archives if not a.is_local)

    def describe(self) -> str:
        """Say how much there is to download, and what is largest."""
        large = sorted(self.archives, key=lambda a: a.size_bytes or 0, reverse=True)[:4]
        names = ", ".join(
            f"{a.name} {a.version} {in_mb(a.size_bytes or 0)}{' from this disk' * a.is_local}"
            for a in large
        )
        unknown = sum(a.size_bytes is None for a in self.archives)
        more = f", and {unknown} of a size that their server does not tell" if unknown else ""
        return (
            f"{len(self.archives)} packages, at most {in_mb(self.download_bytes)} to download"
            f"{more} (largest: {names})"
        )


def resolve(  # noqa: PLR0913 - the parts of one resolution
    step: str,
    requirements: Sequence[str] | Path,
    *,
    python: Path,
    lock: Path,
    overrides: Sequence[str] = (),
    options: Sequence[str] = (),
) -> Lock:
    """Choose versions for the requirements (lines, or a pyproject.toml) and write them to `lock`.

    Args:
        step: the name in progress lines.
        requirements: requirement lines, or the path of a `pyproject.toml`.
        python: the interpreter that shall run them.
        lock: the file to write, `pylock.NAME.toml`.
        overrides: requirement lines that replace what packages ask for themselves.
        options: more options of `uv pip compile`.
    """
    source = requirements if isinstance(requirements, Path) else lock.with_suffix(".in")
    if not isinstance(requirements, Path):
        source.write_text("".join(f"{line}\n" for line in requirements))
    forced = lock.with_suffix(".override")
    forced.write_text("".join(f"{line}\n" for line in overrides))
    uv(
        step,
        *("pip", "compile", "--format", "pylock.toml", "--output-file", str(lock)),
        *("--no-header", "--quiet", "--override", str(forced), "--python", str(python)),
        *options,
        str(source),
    )
    table = tomllib.loads(lock.read_text())
    archives = [_archive(package) for package in table.get("packages", [])]
    with ThreadPoolExecutor(16) as pool:
        return Lock(path=lock, archives=tuple(pool.map(_with_size, archives)))


def install(step: str, lock: Lock, *, python: Path, options: Sequence[str] = ()) -> None:
    """Install a lock into an interpreter's environment (or a `--target` in `options`)."""
    say(step, lock.describe())
    uv(step, "pip", "install", "--python", str(python), *options, "-r", str(lock.path))


def uv(step: str, *arguments: str) -> None:
    """Run uv with this machine's pip settings, the project's cache and no Python downloads."""
    run(step, [uv_program(), *arguments], env=uv_environment(), cwd=cache_root())


def uv_program() -> Path:
    """Find uv: beside this interpreter (`./dev` puts it there), else on PATH."""
    beside = Path(sys.prefix) / "bin" / "uv"
    found = beside if beside.exists() else shutil.which("uv")
    if found is None:
        raise ProvisionError("uv is not installed. Use ./dev provision, which brings its own uv.")
    return Path(found)


@cache
def uv_environment() -> dict[str, str]:
    """Return uv's settings: pip's own indexes and wheel folders, since uv does not read them.

    What the user set for uv (`UV_...`) wins.
    """
    pip = _pip_settings()
    wanted = {
        "UV_FIND_LINKS": ",".join(pip.get("find-links", [])),
        "UV_DEFAULT_INDEX": " ".join(pip.get("index-url", [])),
        "UV_INDEX": " ".join(pip.get("extra-index-url", [])),
        # pip takes the best version of all indexes; so the same settings mean the same here
        "UV_INDEX_STRATEGY": "unsafe-best-match" if pip.get("extra-index-url") else "",
        "SSL_CERT_FILE": " ".join(pip.get("cert", [])),
        "UV_CACHE_DIR": str(cache_root() / "uv"),
        "UV_HTTP_TIMEOUT": "180",
    }
    chosen = {k: v for k, v in wanted.items() if v and not os.environ.get(k)}
    return chosen | {"UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1"}


def _pip_settings() -> dict[str, list[str]]:
    """Read pip's settings from its files and variables: key -> values."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=False,
    )
    settings: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        name, _, quoted = line.partition("=")
        key = name.rpartition(".")[2]
        # a later line wins in pip too: files first, then variables
        settings[key] = quoted.strip("'\"").replace("\\n", " ").split()
    return settings


def _archive(package: dict[str, Any]) -> Archive:
    """Read one `[[packages]]` of a lock; of several wheels that fit, the largest."""
    files = package.get("wheels") or [package.get("sdist") or package.get("archive") or {}]
    sizes = [file.get("size") for file in files]
    largest = max(files, key=lambda file: file.get("size") or 0)
    return Archive(
        name=package["name"],
        version=package.get("version", ""),
        url=largest.get("url") or _file_url(largest.get("path")),
        size_bytes=None if None in sizes else largest["size"],
    )


def _file_url(path: str | None) -> str:
    return "" if path is None else (cache_root() / path).resolve().as_uri()


def _with_size(archive: Archive) -> Archive:
    """Ask the disk or the server for a size that the index did not tell."""
    if archive.size_bytes is not None or not archive.url:
        return archive
    if archive.is_local:
        path = Path(urllib.parse.unquote(urllib.parse.urlsplit(archive.url).path))
        return replace(archive, size_bytes=path.stat().st_size)
    return replace(archive, size_bytes=remote_size(archive.url))


def remote_size(url: str) -> int | None:
    """Ask a server by HEAD how large a file is, in bytes; None if it does not say."""
    request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - from the resolver
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:  # noqa: S310
            length = reply.headers.get("Content-Length")
    except OSError:
        return None
    return int(length) if length else None
