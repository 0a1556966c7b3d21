"""A start that fails by a flaky fault is tried once more, and only that; the record says so."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TREE = Path(__file__).parent.parent / "data" / "stand_in" / "tree"
STRIKES = Path("vllm", "entrypoints", "openai", "api_server.py")
LIMIT_S = 120
HANG = "HW Exception by GPU node-1 (Agent handle: 0x5b522e50) reason :GPU Hang"
SERVER = '''
"""The stand-in, which ends badly as often as the file says."""
import os, pathlib, runpy, sys

left = pathlib.Path(os.environ["STRIKES"])
often = 0 if "--help" in " ".join(sys.argv) else int(left.read_text())
if often:
    left.write_text(str(often - 1))
    print("INFO 11-23 01:00:00 [api_server.py:1] vLLM API server version 0.32.0", flush=True)
    print(os.environ["LAST_WORDS"], flush=True)
    os._exit(int(os.environ["EXIT_CODE"]))
runpy.run_path(os.environ["REAL"], run_name="__main__")
'''
CHECK = """
from pytest_vllm import check, suite

pytestmark = suite("own")


@check("own.answers")
def test_answers(vllm):
    '''The server MUST answer.'''
    assert vllm.complete("Hello", max_tokens=2).text
"""


def accept(
    folder: Path, *, strikes: int, words: str = HANG, code: int = 134
) -> tuple[int, dict[str, Any]]:
    """Run pytest on a server that fails to start some times."""
    shutil.copytree(TREE, folder / "tree")
    (folder / "tree" / STRIKES).write_text(SERVER)
    (folder / "strikes").write_text(str(strikes))
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    (folder / "test_own.py").write_text(CHECK)
    options = ["--vllm-backend=process", "--vllm-model=./model", "--vllm-preflight-ignore=all"]
    paths = [str(folder / "tree"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_own.py", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "STRIKES": str(folder / "strikes"),
            "LAST_WORDS": words,
            "EXIT_CODE": str(code),
            "REAL": str(TREE / STRIKES),
        },
    )
    (run,) = folder.glob(".vllm/*/run.json")
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(run.read_text())


def test_a_gpu_hang_is_tried_again_and_told(tmp_path: Path) -> None:
    code, record = accept(tmp_path, strikes=1)
    assert code == 0, record["verdict"]
    (attempt,) = record["attempts"]
    assert attempt["diagnosis"]["ref"] == "D19"
    assert attempt["diagnosis"]["fault"] == "flaky"
    assert attempt["phases"]
    (first,) = tmp_path.glob(".vllm/*/server.attempt-1.log")
    assert HANG in first.read_text()
    (report,) = tmp_path.glob(".vllm/*/report.md")
    assert "D19" in report.read_text()
    logs = {each["name"]: each["sha256"] for each in record["materials"] if each["kind"] == "log"}
    files = [first, first.with_name("server.log")]
    assert logs == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_a_second_failure_is_the_last(tmp_path: Path) -> None:
    code, record = accept(tmp_path, strikes=2)
    assert code == 75, record["verdict"]
    assert len(record["attempts"]) == 1
    assert record["failure"]["diagnosis"]["ref"] == "D19"
    assert (tmp_path / "strikes").read_text() == "0"


@pytest.mark.parametrize(
    ("words", "exit_code", "ref"),
    [("error: unrecognized arguments: --no-such", 2, "H24"), ("nothing that is known", 1, None)],
    ids=["flag", "unknown"],
)
def test_no_other_failure_is_tried_again(
    tmp_path: Path, words: str, exit_code: int, ref: str | None
) -> None:
    code, record = accept(tmp_path, strikes=1, words=words, code=exit_code)
    assert code == 1, record["verdict"]
    assert record["attempts"] == []
    assert record["failure"]["diagnosis"]["ref"] == ref
    assert (tmp_path / "strikes").read_text() == "0"
