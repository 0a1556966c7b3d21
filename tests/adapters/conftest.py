"""The stand-in of AMD's library, compiled once for the wheel that asks for it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.data.smi.standin import ABIS, State, compile_library

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(slots=True)
class Smi:
    """Real wheels of amdsmi, and libraries for them to stand on.

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


@pytest.fixture(scope="session")
def smi(tmp_path_factory: pytest.TempPathFactory) -> Smi:
    """The wheels that ./dev provision made, and the compiler."""
    named = os.environ.get("PYTEST_VLLM_TEST_AMDSMI", "")
    if not named:
        pytest.fail("PYTEST_VLLM_TEST_AMDSMI is not set; ./dev test makes and names the real parts")
    return Smi(wheels=Path(named), folder=tmp_path_factory.mktemp("smi"))


@pytest.fixture
def use_smi(
    smi: Smi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str], State]:
    """Put a wheel on Python's path and a library where the wheel looks for it."""

    def use(wheel: str, library: str) -> State:
        state = State(tmp_path / "smi-state")
        state.write()
        monkeypatch.syspath_prepend(str(smi.wheel(wheel)))
        monkeypatch.delenv("ROCM_HOME", raising=False)
        monkeypatch.setenv("ROCM_PATH", str(smi.library(library)))
        monkeypatch.setenv("SMI_STATE", str(state.file))
        return state

    return use
