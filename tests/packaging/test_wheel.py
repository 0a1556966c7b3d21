"""The wheel, installed alone: bundled suites, schemas and data are in it and are found."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
EVERYTHING = bool(os.environ.get("PYTEST_VLLM_TEST_ALL"))
SLOW = "test_san_francisco or test_poem or test_varied or test_facts"
"""Checks of free text; those of given text read the same shipped data."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel by way of the sdist, as a release does."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(out), str(REPOSITORY)],
        check=True,
        capture_output=True,
    )
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a fresh environment and return its interpreter."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(folder, with_pip=True)
    interpreter = folder / "bin" / "python"
    subprocess.run(
        [interpreter, "-m", "pip", "install", "--quiet", str(wheel)], check=True, timeout=600
    )
    return interpreter


def _run(python: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    return subprocess.run(
        [str(python), *arguments],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_the_wheel_holds_suites_schemas_and_profiles_once(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert len(names) == len(set(names))
    for path in REPOSITORY.glob("suites/*.py"):
        assert f"pytest_vllm/suites/{path.name}" in names
    for path in REPOSITORY.glob("schemas/**/*.json"):
        assert f"pytest_vllm/schemas/{path.relative_to(REPOSITORY / 'schemas')}" in names
    assert "pytest_vllm/data/profiles/promote.toml" in names
    assert not [name for name in names if name.startswith(("tests/", "tools/", "suites/"))]
    # the stand-ins of AMD's and NVIDIA's libraries are test code
    assert not [name for name in names if name.endswith((".c", ".h", ".so")) or "/smi/" in name]


def test_the_bundled_suites_are_collected_from_an_empty_folder(
    python: Path, tmp_path: Path
) -> None:
    arguments = ("-m", "pytest", "--collect-only", "-q", "--vllm-url=http://127.0.0.1:9")
    result = _run(python, tmp_path, *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    files = {line.partition("::")[0] for line in result.stdout.splitlines() if "::" in line}
    stems = {Path(name).name for name in files}
    on_request = {"test_accuracy.py"}
    assert stems == {path.name for path in REPOSITORY.glob("suites/test_*.py")} - on_request


def test_the_console_script_prints_a_command(python: Path, tmp_path: Path) -> None:
    script = python.parent / "pytest-vllm"
    tmp_path.joinpath("model").mkdir()
    tmp_path.joinpath("model", "config.json").write_text("{}")
    result = subprocess.run(
        [script, "command", "--vllm-image=some/image:1", "--vllm-model=./model"],
        cwd=tmp_path,
        env={**os.environ, "DOCKER_HOST": "unix:///nowhere.sock"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "docker run" in result.stdout
    assert "some/image:1" in result.stdout


def test_the_installed_wheel_brings_its_tables(python: Path, tmp_path: Path) -> None:
    """A forecast needs the shipped configs, GPUs and flags."""
    words = ("deepseek-ai/DeepSeek-V3.1", "--gpus", "MI300X:8", "--offline", "--", "-tp", "8")
    result = subprocess.run(
        [python.parent / "pytest-vllm", "fit", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("FITS: deepseek-ai/DeepSeek-V3.1 on 8 MI300X devices")


def test_the_installed_wheel_accepts_a_real_model(
    python: Path, tmp_path: Path, real_vllm_python: str, real_model: str
) -> None:
    """From an empty folder, with nothing but the wheel: real vLLM, PROMOTE.

    CI runs what needs every kind of shipped data, since tests/real has the others; nightly runs
    all.
    """
    result = _run(
        python,
        tmp_path,
        "-m",
        "pytest",
        "--vllm-backend=process",
        f"--vllm-python={real_vllm_python}",
        f"--vllm-model={real_model}",
        "--vllm-serve-arg=--enforce-eager --max-model-len=2048 --max-num-seqs=16",
        "--vllm-env=VLLM_CPU_KVCACHE_SPACE=1",
        "--vllm-env=TORCHDYNAMO_DISABLE=1",
        *(() if EVERYTHING else ("--vllm-suite=models,chat,content", "-k", f"not ({SLOW})")),
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "PROMOTE" in result.stdout
    assert len(list(tmp_path.glob(".vllm/*/run.json"))) == 1
