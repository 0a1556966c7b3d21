"""Settings of all tests, and the stand-in of AMD's library, compiled for the wheel that asks."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.data.smi.standin import Smi, State

if TYPE_CHECKING:
    from collections.abc import Callable

# How long an example takes says nothing on a busy machine; no test asserts a time. What is tried is
# the same in each run, so that a test is red by the change that made it so; at night it is new.
settings.register_profile(
    "house", deadline=None, derandomize=not os.environ.get("PYTEST_VLLM_TEST_ALL")
)
settings.load_profile("house")

# Whole runs of the suites are many here; tests/real/test_memory.py has the soak that users get.
os.environ.setdefault("PYTEST_VLLM_SOAK_REQUESTS", "40")
# And each would measure for a minute; tests of the suite `performance` name a short profile.
os.environ.setdefault("PYTEST_VLLM_PERFORMANCE", "none")
# Pages with plots are a third of a second each; tests of reports name those that they look at.
os.environ.setdefault("PYTEST_VLLM_REPORT", "attestation,junit,md")

# Under nohup runs ignore a hang-up, and in a shell's background Ctrl-C, as they should; here they
# are to hear both.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
