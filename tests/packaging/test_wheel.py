"""The wheel, installed alone: bundled suites, schemas and data are in it and are found."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
REPORTS = REPOSITORY / "pytest_vllm" / "reports"
UV = shutil.which("uv")
"""`./dev` has it on its PATH; it does what pip does in a quarter of the time."""
RECORDS = REPOSITORY / "tests" / "data" / "records"
SLOW = "test_san_francisco or test_poem or test_varied or test_facts"
"""Checks of free text; those of given text read the same shipped data."""


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel by way of the sdist, as a release does; return the folder of both."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", str(out), str(REPOSITORY)]
    command += ["--installer", "uv"] if UV else []
    subprocess.run(command, check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a fresh environment and return its interpreter."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(folder, with_pip=UV is None)
    interpreter = folder / "bin" / "python"
    pip = [str(interpreter), "-m", "pip", "install"]
    install = [UV, "pip", "install", "--python", str(interpreter)] if UV else pip
    subprocess.run([*install, "--quiet", str(wheel)], check=True, timeout=600)
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
    for path in (*REPORTS.glob("templates/*"), *REPORTS.glob("assets/*")):
        assert f"pytest_vllm/reports/{path.parent.name}/{path.name}" in names
    assert "pytest_vllm/data/profiles/promote.toml" in names
    assert not [name for name in names if name.startswith(("tests/", "tools/", "suites/"))]
    # the stand-ins of AMD's and NVIDIA's libraries are test code
    assert not [name for name in names if name.endswith((".c", ".h", ".so")) or "/smi/" in name]


def test_the_sdist_holds_what_its_own_tests_need(dist: Path) -> None:
    """Pages are in it, recipes and the records that tests read; nothing that a machine left."""
    (found,) = dist.glob("*.tar.gz")
    with tarfile.open(found) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    for folder in ("pytest_vllm/reports", "docs/ci", "tests/data/ci", "tests/data/records"):
        for path in (REPOSITORY / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert str(path.relative_to(REPOSITORY)) in names
    assert not [name for name in names if "__pycache__" in name or name.startswith(".vllm")]


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


def test_the_installed_wheel_renders_a_page(python: Path, tmp_path: Path) -> None:
    """Templates, style and plots come with it: the page is whole, from a record alone."""
    record = shutil.copy(RECORDS / "load-docker.json", tmp_path / "run.json")
    words = ("-m", "pytest_vllm", "report", str(record), "--html", "--output", "page.html")
    done = _run(python, tmp_path, *words)
    assert done.returncode == 0, done.stderr
    page = tmp_path.joinpath("page.html").read_text()
    for asset in REPORTS.glob("assets/page.*"):
        assert asset.read_text().splitlines()[1].strip() in page
    assert page.rstrip().endswith("</html>")


def _accepts(python: Path, folder: Path, *words: str) -> None:
    result = _run(python, folder, "-m", "pytest", "--vllm-report=html", *words)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "PROMOTE" in result.stdout
    (record,) = folder.glob(".vllm/*/run.json")
    assert (record.parent / "report.html").read_text().startswith("<!doctype html>")


def test_the_installed_wheel_accepts_a_real_model(
    python: Path, tmp_path: Path, real_vllm: str
) -> None:
    """From an empty folder, with nothing but the wheel: what needs every kind of shipped data."""
    some = ("--vllm-suite=models,chat,content", "-k", f"not ({SLOW})")
    _accepts(python, tmp_path, f"--vllm-url={real_vllm}", *some)


if os.environ.get("PYTEST_VLLM_TEST_ALL"):

    def test_the_installed_wheel_launches_and_accepts_a_real_model(
        python: Path, tmp_path: Path, real_vllm_python: str, real_model: str
    ) -> None:
        """All suites, on a server that the wheel starts itself."""
        _accepts(
            python,
            tmp_path,
            "--vllm-backend=process",
            f"--vllm-python={real_vllm_python}",
            f"--vllm-model={real_model}",
            "--vllm-serve-arg=--enforce-eager --max-model-len=2048 --max-num-seqs=16",
            "--vllm-env=VLLM_CPU_KVCACHE_SPACE=1",
            "--vllm-env=TORCHDYNAMO_DISABLE=1",
        )
