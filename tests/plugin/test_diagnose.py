"""`pytest-vllm diagnose` judges any file and standard input, and refuses what is none, readably."""

from __future__ import annotations

import io
import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.cli import main
from pytest_vllm.plugin import diagnosing

if TYPE_CHECKING:
    from collections.abc import Callable

LOGS = Path(__file__).parent.parent / "data" / "logs"
FAILED = LOGS / "h100-0.26" / "free_mem_error.log"
HEALTHY = LOGS / "cpu-0.32" / "ok_startup.log"
KEYS = {"id", "ref", "class", "cause", "cure", "evidence", "phase"}


@pytest.fixture(name="diagnose")
def fixture_diagnose(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def diagnose(*words: object) -> tuple[int, str, str]:
        code = main(["diagnose", *map(str, words)])
        out, err = capsys.readouterr()
        return code, out, err

    return diagnose


@pytest.fixture(name="as_json")
def fixture_as_json(diagnose: Any) -> Callable[..., dict[str, Any]]:
    def as_json(file: object) -> dict[str, Any]:
        code, out, err = diagnose(file, "--json")
        assert (code, err) == (0, "")
        return dict(json.loads(out))

    return as_json


def test_the_text_says_what_why_and_what_to_do(diagnose: Any) -> None:
    code, out, err = diagnose(FAILED)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "G7 gpu.free-memory (class host)"
    assert "66.06 of 79.18 GiB" in lines[1]
    assert "--vllm-serve-arg='--gpu-memory-utilization=0.81'" in lines[2]
    assert lines[3].startswith("  phase: ")
    assert re.match(r"  line \d+: .*Free memory on device", lines[4])


def test_json_has_the_agreed_keys(as_json: Any) -> None:
    found = as_json(FAILED)
    assert set(found) == KEYS | {"outcome", "others", "warnings"}
    assert found["outcome"] == "failure"
    assert (found["id"], found["ref"], found["class"]) == ("gpu.free-memory", "G7", "host")
    assert found["evidence"][0]["line"] == 54
    assert set(found["evidence"][0]) == {"line", "text"}


def test_others_have_the_same_form(as_json: Any, tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text("HIP error: invalid device function\nNo HIP GPUs are available\n", "utf-8")
    found = as_json(file)
    assert found["ref"] == "G3"
    assert [(set(other), other["ref"]) for other in found["others"]] == [(KEYS, "G1")]


def test_a_healthy_log_has_no_id_and_says_so(as_json: Any, diagnose: Any) -> None:
    found = as_json(HEALTHY)
    assert (found["id"], found["ref"], found["class"], found["evidence"]) == (None, None, None, [])
    assert found["outcome"] == "none"
    assert found["cause"] == "no failure found: the log reaches phase ready"
    assert found["phase"] == "ready"
    assert diagnose(HEALTHY)[1] == "no failure found: the log reaches phase ready\n"


def test_an_unknown_failure_has_no_id_and_says_what_was_seen(
    as_json: Any, diagnose: Any, tmp_path: Path
) -> None:
    file = tmp_path / "log"
    file.write_text("ValueError: something new\n", "utf-8")
    found = as_json(file)
    assert (found["id"], found["ref"], found["class"]) == (None, None, None)
    assert found["outcome"] == "unknown"
    assert found["cause"] == "ValueError: something new"
    assert found["evidence"] == [{"line": 1, "text": "ValueError: something new"}]
    assert diagnose(file)[1].startswith("unknown\n  cause: ValueError: something new\n  no known")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "words", [("diagnose", FAILED), ("diagnose", FAILED, "--json"), ("preflight", "--help")]
)
def test_a_reader_that_goes_away_ends_it_quietly(
    words: tuple[object, ...], unbuffered: str
) -> None:
    """As after `| head`: the reader is gone before the first byte is written."""
    gone, output = os.pipe()
    os.close(gone)
    try:
        ended = subprocess.run(
            (sys.executable, "-m", "pytest_vllm", *map(str, words)),
            stdout=output,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        )
    finally:
        os.close(output)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_standard_input_is_a_log(as_json: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(FAILED.read_bytes()))
    monkeypatch.setattr(sys, "stdin", stream)
    assert as_json("-")["ref"] == "G7"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\n" * 1000,
        b"\xff\xfe\x00\x01" * 1000,
        random.Random(7).randbytes(200_000),  # noqa: S311 - a repeatable mess
        b"Error: " * 100_000,
        b"\x1b[31m" * 10_000,
    ],
    ids=["empty", "blank", "binary", "noise", "one long line", "colours"],
)
def test_any_file_is_read(as_json: Any, tmp_path: Path, raw: bytes) -> None:
    file = tmp_path / "log"
    file.write_bytes(raw)
    found = as_json(file)
    assert found["ref"] is None
    assert found["outcome"] == "none"
    assert "nothing can be said" in found["cause"]
    assert found["phase"] == ""


def test_lines_are_counted_at_carriage_returns_too(as_json: Any, tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_bytes(b"one\r\ntwo\rthree\nRuntimeError: No HIP GPUs are available\r\n")
    assert [item["line"] for item in as_json(file)["evidence"]] == [4]


def test_a_mark_of_byte_order_is_no_text(as_json: Any, tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_bytes(b"\xef\xbb\xbfKilled\n")
    assert as_json(file)["ref"] == "D17"


def test_of_a_huge_log_the_end_is_read_and_the_lines_are_counted_from_the_begin(
    as_json: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosing, "_LONGEST", 4_000)
    monkeypatch.setattr(diagnosing, "_CHUNK", 1_000)
    file = tmp_path / "log"
    lines = [f"line {number}" for number in range(1, 5_000)]
    file.write_text("\n".join([*lines, "RuntimeError: No HIP GPUs are available"]), "utf-8")
    assert [item["line"] for item in as_json(file)["evidence"]] == [5_000]


def test_a_long_log_is_judged_in_seconds(as_json: Any, tmp_path: Path) -> None:
    """15 MB of an idle server; 1.7 s of processor time measured on a shared core."""
    idle = (
        'INFO:     127.0.0.1:35072 - "GET /health HTTP/1.1" 200 OK\n'
        "(APIServer pid=1) INFO 11-22 16:15:22 [loggers.py:335] Engine 000: Avg prompt throughput:"
        " 0.0 tokens/s, Avg generation throughput: 0.0 tokens/s, Running: 0 reqs, Waiting: 0 reqs\n"
    )
    file = tmp_path / "log"
    file.write_text(HEALTHY.read_text("utf-8") + idle * 50_000, "utf-8")
    before = time.process_time()
    assert as_json(file)["phase"] == "ready"
    assert time.process_time() - before < 10


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "the following arguments are required: FILE|CONTAINER"),
        (("/no/such.log",), "there is no file '/no/such.log'"),
        ((LOGS,), "is a folder"),
        (("a\0b",), "cannot be read"),
        (("x" * 5_000 + "/y",), "cannot be read"),
        (("",), "no file and no container is named"),
        ((FAILED, "--xml"), "unrecognized arguments: --xml"),
    ],
)
def test_a_bad_argument_is_refused_with_4(
    diagnose: Any, words: tuple[object, ...], said: str
) -> None:
    code, out, err = diagnose(*words)
    assert (code, out) == (4, "")
    assert said in err
    assert "Traceback" not in err


def test_a_name_that_is_no_file_is_asked_of_the_engine(
    diagnose: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    code, _, err = diagnose("no-such-container")
    assert code == 4
    assert "no.sock" in err
    assert "Traceback" not in err


def test_help_tells_how(diagnose: Any) -> None:
    code, out, _ = diagnose("--help")
    assert code == 0
    assert "FILE|CONTAINER" in out
    assert "Exit code: 0" in out


def test_secrets_of_our_environment_are_not_shown(
    as_json: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_notarealtoken123456")
    file = tmp_path / "log"
    file.write_text("ValueError: bad token hf_notarealtoken123456\n", "utf-8")
    assert as_json(file)["cause"] == "ValueError: bad token [redacted]"
