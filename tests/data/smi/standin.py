"""Compiles the stand-in of ROCm's library for one wheel of amdsmi, and says what it shows."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

SOURCE = Path(__file__).with_name("standin.c")
ABIS = {"6.1.2": 61, "6.2.4": 62, "6.3.3": 63, "6.4.4": 64, "7.0.2": 70}
"""Binary interface of each wheel."""

GIB = 2**30
MI300X = {"id": "0x74a1", "total": 206141652992, "used": 297795584, "hotspot": 41, "vram": 37}
MI300X |= {"activity": 3, "sclk": 132, "mclk": 900, "ue": 0, "compute": "SPX", "memory": "NPS1"}
MI250 = {"id": "0x740c", "total": 68702699520, "used": 10854400, "hotspot": 38, "edge": 35}
MI250 |= {"activity": 0, "sclk": 800, "mclk": 1600, "ue": 0}
MI355X = {"id": "0x75a3", "total": 309220868096, "used": 297795584, "hotspot": 44, "activity": 0}
MI355X |= {"sclk": 150, "mclk": 1900, "ue": 0, "compute": "SPX", "memory": "NPS1"}
RADEON = {"id": "0x744c", "total": 25753026560, "used": 100000000, "edge": 33, "hotspot": 39}
RADEON |= {"activity": 1, "sclk": 40, "mclk": 96}
_BUSES = ("05", "26", "46", "65", "85", "a6", "c6", "e5")

HOSTS: dict[str, list[dict[str, object]]] = {
    "MI300X x8": [{"bdf": f"0000:{bus}:00.0", **MI300X, "hip": n} for n, bus in enumerate(_BUSES)],
    # four cards of two dies each; HIP counts the dies in another order than their addresses
    "MI250 x4": [
        {"bdf": f"0000:{bus}:00.0", **MI250, "hip": n ^ 1} for n, bus in enumerate(_BUSES)
    ],
    "MI355X x1": [{"bdf": "0000:75:00.0", **MI355X, "hip": 0}],
    "Radeon x1": [{"bdf": "0000:03:00.0", **RADEON, "hip": 0}],
    "MI300X in CPX": [
        {"bdf": f"0000:05:00.{n}", **MI300X, "compute": "CPX", "memory": "NPS4", "hip": n}
        for n in range(8)
    ],
}


@dataclass(slots=True)
class State:
    """What the stand-in shows; each change is one rename, so no reader sees half of it.

    Attributes:
        file: Read by the library (`$SMI_STATE`).
        gpus: One mapping each, in the order of the library.
        lines: What else the file says, such as `init=34`.
    """

    file: Path
    gpus: list[dict[str, object]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def show(self, *gpus: dict[str, object], lines: tuple[str, ...] = ()) -> None:
        """Show other GPUs."""
        self.gpus, self.lines = [dict(gpu) for gpu in gpus], list(lines)
        self.write()

    def change(self, index: int, **values: object) -> None:
        """Change quantities of one GPU; `None` takes one away."""
        self.gpus[index] |= values
        self.write()

    def write(self) -> None:
        """Write the file."""
        rows = [
            ";".join(f"{key}={value}" for key, value in gpu.items() if value is not None)
            for gpu in self.gpus
        ]
        new = self.file.with_suffix(".new")
        new.write_text("".join(f"{line}\n" for line in (*self.lines, *rows)), encoding="utf-8")
        new.replace(self.file)


@dataclass(slots=True)
class Smi:
    """Real wheels of amdsmi, and libraries for them to stand on, compiled when first asked for.

    Attributes:
        wheels: Holds a folder for each version of the wheel.
        folder: Where libraries are compiled.
    """

    wheels: Path
    folder: Path
    _made: dict[str, Path] = field(default_factory=dict)

    def wheel(self, version: str) -> Path:
        """Return the folder to be put on Python's path."""
        return self.wheels / version

    def library(self, version: str) -> Path:
        """Return the ROCm folder with the library of a version."""
        if version not in self._made:
            folder = self.folder / version
            self._made[version] = compile_library(self.wheel(version), folder, abi=ABIS[version])
        return self._made[version]


def compile_library(wheel: Path, folder: Path, *, abi: int) -> Path:
    """Compile the library that a wheel binds; return the folder to be named in `ROCM_PATH`.

    Args:
        wheel: Folder with the package `amdsmi`.
        folder: Where to put `lib/libamd_smi.so`.
        abi: Binary interface, such as 70 for 7.0.
    """
    (folder / "lib").mkdir(parents=True)
    wrapper = (wheel / "amdsmi/amdsmi_wrapper.py").read_text(encoding="utf-8")
    bound = set(re.findall(r"_libraries\['libamd_smi\.so'\]\.(\w+)", wrapper))
    ours = set(re.findall(r"(?m)^(?:Status |GROWN\()(amdsmi_\w+)", SOURCE.read_text("utf-8")))
    stubs = "".join(f"STUB({name})\n" for name in sorted(bound - ours))
    (folder / "stubs.h").write_text(stubs, encoding="utf-8")
    command = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", f"-DABI={abi}"]
    command += ["-I", str(folder), "-o", str(folder / "lib/libamd_smi.so"), str(SOURCE)]
    subprocess.run(command, check=True)
    return folder
