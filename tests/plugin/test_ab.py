"""`pytest-vllm ab` on simulators: a slow side is found, a garbage one refused, nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_vllm.domain.ab_words import read_words
from pytest_vllm.plugin.ab_series import traffic_of
from tests.plugin.simulated import simulated

TREE = Path(__file__).parent.parent / "data" / "stand_in" / "tree"
ALL = bool(os.environ.get("PYTEST_VLLM_TEST_ALL"))
SMALL = ("--requests=11", "--warm-up=1", "--concurrency=4", "--no-calibrate")
WORKLOAD = 'schema = 1\nsummary = "Little."\nprompt_tokens = 16\noutput_tokens = 8\n'
WIDE = ("output_tokens_per_s", "ttft_p50_ms", "tpot_p50_ms")
PROFILE = 'schema = 1\n[slo.change]\ne2el-p50 = "77%"\nttft-p50 = "88%"\n'
"""Tokens take 5 ms and more below: a client that a busy host sends late by as much as a tenth of a
reply was the limit, and nothing is compared."""


def command(folder: Path, *words: str) -> list[str]:
    (folder / "small.toml").write_text(WORKLOAD)
    verb = [sys.executable, "-m", "pytest_vllm", "ab", "--workload=small.toml"]
    return [*verb, "--vllm-monitor=none", *words]


def environment(**more: str) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    paths = (str(TREE), os.environ.get("PYTHONPATH", ""))
    return ours | {"PYTHONPATH": os.pathsep.join(filter(None, paths))} | more


def compare(folder: Path, *words: str) -> tuple[int, str, dict[str, Any] | None]:
    """Return exit code, what was printed, and the record."""
    done = subprocess.run(
        command(folder, *words),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    found = sorted(folder.glob(".vllm/*/ab.json"))
    record = json.loads(found[-1].read_text()) if found else None
    return done.returncode, done.stdout + done.stderr, record


def effects(record: dict[str, Any]) -> dict[str, str]:
    judgement = record["comparisons"][0]["judgement"]
    return {change["metric"]: change["effect"] for change in judgement["changes"]}


def test_a_slow_side_is_worse_and_the_other_way_round_better(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(PROFILE)
    allowed = ("--vllm-profile=own.toml", "--change=ttft-p50=99%")
    with simulated("--token-delay-ms=5") as fast, simulated("--token-delay-ms=25") as slow:
        code, told, record = compare(tmp_path, f"--url={fast}", f"--url={slow}", *allowed, *SMALL)
        assert code == 1, told
        assert record is not None
        assert "worse" in effects(record).values()  # one that tells it ends it
        changes = record["comparisons"][0]["judgement"]["changes"]
        assert {change["metric"]: change["tolerance"] for change in changes} == {
            "output_tokens_per_s": 0.03,
            "tpot_p50_ms": 0.03,
            "ttft_p50_ms": 0.99,
            "e2el_p50_ms": 0.77,
        }
        assert "ab: the candidate is worse (exit code 1)" in told
        order = [run["side"] for run in record["comparisons"][0]["runs"]]
        assert [order[start : start + 4] for start in (0, 4, 8)] == [
            [one, other, other, one]
            for one, other in (
                ("base", "candidate") if order[start] == "base" else ("candidate", "base")
                for start in (0, 4, 8)
            )
        ]
        if ALL:
            code, told, record = compare(tmp_path, f"--url={slow}", f"--url={fast}", *SMALL)
            assert record is not None
            assert effects(record)["tpot_p50_ms"] == "better", told
            assert code in (0, 75), told


@pytest.mark.parametrize("load", [("--concurrency=1",), ("--rate=0.5",)])
def test_a_run_has_the_requests_that_a_median_needs(load: tuple[str, ...]) -> None:
    """Ten requests have no median, so that nothing could ever be told of TTFT and TPOT."""
    words = ("--url=http://a", "--url=http://b", *load)
    assert traffic_of(read_words(words)).requests == 11
    assert traffic_of(read_words((*words, "--requests=4"))).requests == 4


def test_two_sides_alike_differ_by_nothing_that_counts(tmp_path: Path) -> None:
    """The tolerance is wide, since how busy this host is says nothing about the rule."""
    wide = [f"--change={name}=900%" for name in WIDE]
    with simulated("--token-delay-ms=10") as one, simulated("--token-delay-ms=10") as other:
        code, told, record = compare(tmp_path, f"--url={one}", f"--url={other}", *wide, *SMALL)
    assert code == 0, told
    assert record is not None
    assert effects(record) == dict.fromkeys(WIDE, "no change")
    pairs = record["comparisons"][0]["runs"]
    assert {run["seed"] for run in pairs} == set(range(6))
    assert "ab: the candidate is no worse (exit code 0)" in told


@pytest.mark.parametrize(("side", "code"), [("candidate", 1), *([("base", 75)] if ALL else [])])
def test_a_side_that_writes_garbage_is_not_compared(tmp_path: Path, side: str, code: int) -> None:
    with simulated() as good, simulated("--defect=constant-token") as bad:
        sides = (bad, good) if side == "base" else (good, bad)
        seen, told, record = compare(tmp_path, *(f"--url={url}" for url in sides), *SMALL)
    assert seen == code, told
    assert record is not None
    assert record["comparisons"] == []
    assert record["stop"]["blame"] == side
    assert f"the {side}: its answers make no sense" in told


def test_nobody_at_an_address_is_told_without_a_traceback(tmp_path: Path) -> None:
    words = ("--url=http://127.0.0.1:9", "--url=http://127.0.0.1:10", "--vllm-timeout=1", *SMALL)
    code, told, _ = compare(tmp_path, *words)
    assert code == 75, told
    assert "the base did not come up" in told
    assert "Traceback" not in told


def test_what_cannot_be_is_refused_before_anything_starts(tmp_path: Path) -> None:
    code, told, record = compare(tmp_path, "--url=http://a", "--url=http://b", "--restart")
    assert (code, record) == (4, None)
    assert "--restart cannot restart the server of the base" in told
    code, told, record = compare(tmp_path, "--url=http://a", "--url=http://a/v1")
    assert (code, record) == (4, None), told
    assert "both sides come to the same options" in told


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def launched(model: Path) -> tuple[str, ...]:
    return (
        f"--python={sys.executable}", f"--model={model}", "--vllm-preflight-ignore=all",
        "--vllm-entrypoint=module", "--vllm-env=STAND_IN_TOKEN_MS=2",
    )  # fmt: skip


def test_a_signal_ends_it_and_leaves_nothing(tmp_path: Path, model: Path) -> None:
    """Every run has a start of its own here; the signal comes when some have been."""
    mark = f"ab-{os.getpid()}"
    words = (*launched(model), "--b-env=STAND_IN_TOKEN_MS=3", *SMALL)
    with subprocess.Popen(
        command(tmp_path, *words),
        cwd=tmp_path,
        env=environment(STAND_IN_MARK=mark),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        told = ""
        for line in process.stdout:
            told += line
            if "run  2/12" in line:
                process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM, told
    assert "started in" in told
    assert "interrupted: nothing is said of the candidate" in told
    assert processes(mark) == []
    assert not list(Path("/dev/shm").glob(f"*{mark}*"))  # noqa: S108 - where the stand-in leaves it
    (record,) = tmp_path.glob(".vllm/*/ab.json")
    document = json.loads(record.read_text())
    assert document["servers"] == "restart"
    assert len(document["comparisons"][0]["runs"]) >= 2
    assert all(run["start_s"] > 0 for run in document["comparisons"][0]["runs"])


if ALL:

    def test_a_server_against_itself_gives_the_rate_of_false_alarms(tmp_path: Path) -> None:
        with simulated("--token-delay-ms=1") as url:
            code, told, record = compare(
                tmp_path, f"--url={url}", "--aa=2", "--pairs=6", "--requests=4", "--warm-up=0",
                "--concurrency=4", "--no-calibrate",
            )  # fmt: skip
        assert code == 0, told
        assert record is not None
        assert record["alarms"]["worse"]["total"] == 2
        assert record["servers"] == "one"
        assert "told worse" in told
        assert "of 2:" in told

    def test_servers_that_are_restarted_for_each_run(tmp_path: Path, model: Path) -> None:
        words = (*launched(model), "--b-env=STAND_IN_TOKEN_MS=12", *SMALL)
        code, told, record = compare(tmp_path, *words)
        assert code == 1, told
        assert record is not None
        assert "worse" in effects(record).values()  # one that tells it ends it
        assert record["servers"] == "restart"
        assert sorted(path.name for path in tmp_path.glob(".vllm/*/servers/*")) == sorted(
            f"{letter}{number}" for letter in "ab" for number in range(1, 7)
        )


def processes(mark: str) -> list[str]:
    """Return the command lines that carry a mark."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if mark in line:
            found.append(line)
    return found
