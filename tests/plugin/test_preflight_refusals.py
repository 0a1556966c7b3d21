"""What makes no sense is told in a line or two, by the verb as by a run, never by a traceback."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

VERB = [sys.executable, "-m", "pytest_vllm", "preflight"]
RUN = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--vllm-suite=models"]
POWERLESS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"]
"""Root may look everywhere; without these rights it is a user like any other."""


def told(
    command: list[str], cwd: Path, env: dict[str, str] | None = None
) -> tuple[int, str, list[str]]:
    """Run a command; return its exit code, all that it printed, and its lines of errors."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "DOCKER_"))}
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**ours, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout + done.stderr, done.stderr.splitlines()


@pytest.fixture
def bare_python(tmp_path: Path) -> Path:
    """An interpreter without any package."""
    environment = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    return environment / "bin" / "python"


@pytest.mark.parametrize("verb", [VERB, RUN], ids=["verb", "run"])
def test_an_interpreter_that_is_none_is_a_wrong_option(verb: list[str], tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    words = ["--vllm-backend=process", "--vllm-python=/nope", "--vllm-model=./m"]
    code, text, _ = told([*verb, *words], tmp_path)
    assert code == 4
    assert "--vllm-python: /nope is no program that can be run" in text


@pytest.mark.parametrize("verb", [VERB, RUN], ids=["verb", "run"])
def test_an_interpreter_without_vllm_is_a_wrong_option(
    verb: list[str], tmp_path: Path, bare_python: Path
) -> None:
    (tmp_path / "m").mkdir()
    words = ["--vllm-backend=process", f"--vllm-python={bare_python}", "--vllm-model=./m"]
    code, text, _ = told([*verb, *words], tmp_path)
    assert code == 4
    assert f"{bare_python} has no vLLM" in text


@pytest.mark.parametrize("closed", ["folder", "parent"])
def test_a_model_that_this_user_may_not_look_at(closed: str, tmp_path: Path) -> None:
    folder = tmp_path / "parent" / "folder"
    folder.mkdir(parents=True)
    door = folder if closed == "folder" else folder.parent
    door.chmod(0)
    rights = POWERLESS if os.geteuid() == 0 else []
    words = ["--vllm-image=a/b:1", f"--vllm-model={folder}"]
    try:
        code, _, errors = told([*rights, *VERB, *words], tmp_path)
    finally:
        door.chmod(0o700)
    assert code == 4
    assert errors[0].startswith("ERROR: --vllm-model (option): user ")
    assert errors[0].endswith(f"may not look at {folder}")
    assert "chmod a+rX" in errors[1]


def test_an_option_that_does_not_exist_is_one_line(tmp_path: Path) -> None:
    code, _, errors = told([*VERB, "--vllm-modle=m", "--vllm-image=a/b:1"], tmp_path)
    assert code == 4
    assert errors == [
        "ERROR: there is no option --vllm-modle; did you mean --vllm-model?",
        "  fix: pytest --help lists the --vllm-* options",
    ]


@pytest.mark.parametrize("verb", [VERB, RUN], ids=["verb", "run"])
@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ('[[waiver]]\ncheck = "chat.usage.adds-up"\nexpires = {gone}\n', "a waiver has expired"),
        ('[[waiver]]\ncheck = "chat.usage.adds"\nexpires = {today}\n', "no check chat.usage.adds"),
        ("[performance]\nrounds = 0\n", "rounds"),
        ("[verdict]\npinned-image = true\n", "refuses image a/b:latest"),
    ],
    ids=["expired", "unknown", "performance", "mutable"],
)
def test_rules_that_refuse_a_run_refuse_the_look_ahead(
    verb: list[str], rules: str, said: str, tmp_path: Path
) -> None:
    today = dt.datetime.now(dt.UTC).date()
    text = rules.format(today=today, gone=today - dt.timedelta(days=1))
    text = text.replace("[[waiver]]", '[[waiver]]\nreason = "known"\nlink = "https://h/1"')
    complete = "" if "[verdict]" in text else "[verdict]\ncomplete = true\n"
    (tmp_path / "mine.toml").write_text(f"schema = 1\n{complete}{text}")
    words = ["--vllm-image=a/b:latest", "--vllm-model=a/b", "--vllm-profile=mine.toml"]
    code, text, _ = told([*verb, *words], tmp_path)
    assert code == 4
    assert said in text


def test_an_engine_without_an_address_is_told(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    words = ["--vllm-image=a/b:1", "--vllm-model=./m"]
    code, text, _ = told([*VERB, *words], tmp_path, {"DOCKER_HOST": "garbage"})
    assert code == 1, "an empty model's folder is the user's fault, wherever the engine is"
    assert "D1 engine.unreachable: DOCKER_HOST: 'garbage' is no address" in text
    assert "write unix:///PATH or tcp://HOST:PORT" in text


def test_help_promises_no_more_than_it_keeps(tmp_path: Path) -> None:
    code, text, _ = told([*VERB, "--help"], tmp_path)
    assert code == 0
    assert "starts no server" in text
