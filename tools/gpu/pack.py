"""Pack what a GPU host without network lacks: vLLM, our dependencies, this project's wheel.

    python -m tools.gpu.pack vllm FOLDER     what vLLM 0.26 and we need, in parts of 60 MB
    python -m tools.gpu.pack project FOLDER  a wheel of this checkout

The host has Python 3.12 with torch 2.11 for CUDA 13, transformers 5 and triton. `install.sh` puts
the parts together there.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PART_BYTES = 60_000_000
"""What a transfer carries at most, with room for the checkout that travels with it."""
GLIBC = (39, 38, 35, 34, 31, 28, 27, 26, 24, 17)
"""Minor versions of the C library that wheels are tagged with; pip matches each exactly."""
OLD_TAGS = ("manylinux2014", "manylinux2010", "manylinux1", "linux")


def main(words: list[str]) -> int:
    """Do one of the two; see the module's docstring."""
    if len(words) != 2 or words[0] not in ("vllm", "project"):  # noqa: PLR2004 - verb and folder
        sys.exit(__doc__)
    folder = Path(words[1])
    folder.mkdir(parents=True, exist_ok=True)
    if words[0] == "project":
        _pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
        return 0
    with tempfile.TemporaryDirectory() as work:
        wheels = Path(work) / "wheels"
        download(wheels)
        pack = Path(work) / "pack.tar"
        with tarfile.open(pack, "w") as tar:
            for wheel in sorted(wheels.iterdir()):
                tar.add(wheel, wheel.name)
        print(f"{split(pack, folder)} parts in {folder}")
    return 0


def download(wheels: Path) -> None:
    """Fetch the wheels that both lists name for the host's interpreter, and none of their needs."""
    tags = [f"manylinux_2_{minor}_x86_64" for minor in GLIBC] + [f"{t}_x86_64" for t in OLD_TAGS]
    platforms = [word for tag in tags for word in ("--platform", tag)]
    abis = [word for abi in ("cp312", "abi3", "none") for word in ("--abi", abi)]
    lists = [word for name in ("vllm-0.26", "own") for word in ("-r", str(HERE / f"{name}.txt"))]
    python = ("--python-version", "3.12", "--implementation", "cp")
    _pip("download", "--no-deps", "--only-binary=:all:", *python, *abis, *platforms,
         "-d", str(wheels), *lists)  # fmt: skip


def split(pack: Path, folder: Path) -> int:
    """Cut a file into `part0/pk.00`, `part1/pk.01`, ...; return how many."""
    number = 0
    with pack.open("rb") as stream:
        while piece := stream.read(PART_BYTES):
            part = folder / f"part{number}"
            part.mkdir(exist_ok=True)
            (part / f"pk.{number:02}").write_bytes(piece)
            number += 1
    return number


def _pip(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", words[0], "-q", *words[1:]], check=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
