"""Make the root folder of a small Debian 12 with Python 3.11, the base of the demo's image."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from tools.provision.command import answer, run
from tools.provision.place import ProvisionError, cache_root, in_mb, make_once, remove_tree, say

SUITE = "bookworm"
INCLUDE = ("python3", "libgomp1", "libnuma1", "ca-certificates")
APT_FOLDER = Path("/etc/apt")


def make_base() -> Path:
    """Make the root folder with debootstrap, signatures checked; return it. Needs root."""
    final = cache_root() / f"debian-{SUITE}"

    def build(partial: Path) -> None:
        demand_tools()
        downloads = cache_root() / "debs"
        downloads.mkdir(exist_ok=True)
        arguments = ["--variant=minbase", f"--include={','.join(INCLUDE)}"]
        mirror = find_mirror()
        where = [SUITE, str(partial), *([mirror] if mirror else [])]
        run("debian", ["debootstrap", "--print-debs", "--keep-debootstrap-dir", *arguments, *where])
        say("debian", f"{_download_size(partial)} to download, from {mirror or 'the default'}")
        remove_tree(partial)
        partial.mkdir(mode=0o755)
        # debootstrap mounts /proc in the folder: in a mount namespace of its own, whatever
        # happens to it, nothing stays mounted
        run(
            "debian",
            ["unshare", "--mount", "debootstrap", f"--cache-dir={downloads}", *arguments, *where],
            env=_proxy(),
        )
        for part in ("var/lib/apt/lists", "var/cache/apt/archives"):
            remove_tree(partial / part)
            (partial / part / "partial").mkdir(parents=True)

    return make_once(final, build)


def demand_tools() -> None:
    """Raise with the cure if this machine or user cannot make a base."""
    if os.geteuid() != 0:
        raise ProvisionError(
            "Building the image needs root (debootstrap makes device files and changes root), "
            "and you are not root. Name an image to pull in PYTEST_VLLM_DEMO_IMAGE, "
            "or use --backend process."
        )
    if shutil.which("debootstrap") is None:
        raise ProvisionError(
            "Building the image needs debootstrap: apt-get install debootstrap "
            "(./dev provision engine --install does it)."
        )


def find_mirror() -> str | None:
    """Return the Debian mirror that this machine's apt uses; None for debootstrap's own choice.

    `PYTEST_VLLM_DEBIAN_MIRROR` wins. Reads both forms of sources.list(5).
    """
    chosen = os.environ.get("PYTEST_VLLM_DEBIAN_MIRROR")
    if chosen:
        return chosen
    for file in sorted(APT_FOLDER.glob("sources.list.d/*.sources")):
        for stanza in re.split(r"\n\s*\n", file.read_text(errors="replace")):
            fields = dict(re.findall(r"(?m)^([A-Za-z-]+):\s*(.+)$", stanza))
            if _has_base(fields.get("Suites", ""), fields.get("Components", "")):
                return str(fields.get("URIs", "").split()[0])
    for file in (APT_FOLDER / "sources.list", *sorted(APT_FOLDER.glob("sources.list.d/*.list"))):
        text = file.read_text(errors="replace") if file.exists() else ""
        for uri, suite, components in re.findall(
            r"(?m)^deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+(\S+)\s+(.+)$", text
        ):
            if _has_base(suite, components):
                return str(uri)
    return None


def _has_base(suites: str, components: str) -> bool:
    return SUITE in suites.split() and "main" in components.split()


def _proxy() -> dict[str, str]:
    """Return apt's proxy as wget knows it, unless one is set."""
    found = answer(["apt-config", "shell", "proxy", "Acquire::http::Proxy"]) or ""
    proxy = found.partition("=")[2].strip("'")
    return {"http_proxy": proxy} if proxy and not os.environ.get("http_proxy") else {}


def _download_size(partial: Path) -> str:
    """Add up the sizes of the packages that debootstrap named, by the archive's own index."""
    log = (cache_root() / "logs" / "debian.log").read_text(errors="replace")
    names = set(log.rpartition("$ debootstrap --print-debs")[2].split())
    total = count = 0
    for index in partial.glob("var/lib/apt/lists/*_Packages"):
        for stanza in index.read_text(errors="replace").split("\n\n"):
            fields = dict(re.findall(r"(?m)^(Package|Size): (\S+)$", stanza))
            if fields.get("Package") in names:
                total += int(fields["Size"])
                count += 1
    return f"{count} packages, {in_mb(total)} and the index"
