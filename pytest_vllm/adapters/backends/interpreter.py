"""The interpreter of the process backend: found, asked for vLLM, and what it is started with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vllm.adapters.backends.image import MODULE
from pytest_vllm.domain.errors import TargetError

if TYPE_CHECKING:
    from pytest_vllm.domain.target import Target

_CHECK_S = 20
_NO_VLLM = 3
_FIND_VLLM = (
    "import importlib.util, sys;"
    "found = importlib.util.find_spec('vllm');"
    f"sys.exit({_NO_VLLM} if found is None else 0)"
)


def find_python(target: Target) -> Path:
    """Return the interpreter as named; links stay, since a virtual environment is found by them."""
    asked = target.settings["python"].value
    if asked is None:
        return Path(sys.executable)
    found = shutil.which(os.path.expanduser(str(asked)))  # noqa: PTH111 - a name or a path
    if found is None:
        raise TargetError(
            f"--vllm-python: {asked} is no program that can be run",
            advice="name an interpreter that has vLLM, such as ENV/bin/python",
        )
    return Path(found).absolute()


def check_vllm(python: Path) -> None:
    """Look for vLLM without importing it, which would take many seconds."""
    try:
        done = subprocess.run(  # noqa: S603 - the user's interpreter
            [python, "-c", _FIND_VLLM],
            capture_output=True,
            text=True,
            check=False,
            timeout=_CHECK_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TargetError(
            f"--vllm-python: {python} does not run: {error}", advice="name a Python interpreter"
        ) from None
    if done.returncode == _NO_VLLM:
        raise TargetError(
            f"{python} has no vLLM",
            advice=f"{python} -m pip install vllm, or name another with --vllm-python=PATH",
        )
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise TargetError(
            f"--vllm-python: {python} does not run Python code: {last[0]}",
            advice="name a Python interpreter",
        )


def start_words(target: Target, python: Path) -> tuple[str, ...]:
    """Return the words before the model.

    Raises:
        TargetError: `vllm serve` was asked for and is not beside the interpreter.
    """
    if target.text("entrypoint") != "vllm":
        return (str(python), "-m", MODULE, "--model")
    command = python.parent / "vllm"
    if not command.is_file():
        raise TargetError(
            f"--vllm-entrypoint=vllm: there is no {command}",
            advice="use --vllm-entrypoint=module, or name another --vllm-python",
        )
    return (str(command), "serve")
