"""Whole runs of the plugin on real vLLM: verdict, evidence, exit code, and nothing left behind.

One run of all suites is CI's, of an image under the strictest profile. What is proven about other
launches needs some suites there, all of them where PYTEST_VLLM_TEST_ALL is set.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import uuid
import xml.etree.ElementTree as ET
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.record import RunRecord, from_json
from pytest_vllm.domain.verdict import Decision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SERVE = "--vllm-serve-arg=--enforce-eager --max-model-len=2048 --max-num-seqs=16 --dtype=bfloat16"
ENV = ("--vllm-env=VLLM_CPU_KVCACHE_SPACE=1", "--vllm-env=TORCHDYNAMO_DISABLE=1")
LIMIT_S = 900
ALL = bool(os.environ.get("PYTEST_VLLM_TEST_ALL"))
SHORT = Path(__file__).parents[1] / "data" / "performance" / "short.toml"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in a folder, as a user does."""
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def by_process(python: str, model: str) -> tuple[str, ...]:
    where = (f"--vllm-python={python}", f"--vllm-model={model}")
    return ("--vllm-backend=process", *where, SERVE, *ENV)


def by_docker(image: str, model: str) -> tuple[str, ...]:
    return (f"--vllm-image={image}", f"--vllm-model={model}", SERVE, *ENV)


def evidence(folder: Path) -> Path:
    (found,) = folder.glob(".vllm/*/run.json")
    return found.parent


def record(folder: Path) -> RunRecord:
    return from_json((evidence(folder) / "run.json").read_text(), where="run.json")


def family_of(mark: str) -> list[psutil.Process]:
    """List the processes whose environment holds a text, and all that descend from them.

    vLLM's engine and workers write their title over their environment, so they have no mark.
    """
    found: dict[int, psutil.Process] = {}
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError, psutil.NoSuchProcess):
            if mark.encode() in entry.read_bytes():
                process = psutil.Process(int(entry.parent.name))
                for member in (process, *process.children(recursive=True)):
                    found[member.pid] = member
    return list(found.values())


def alive(processes: Iterable[psutil.Process]) -> list[str]:
    """Describe the processes that still run; a dead one that init has not collected does not."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {process.status()} {process.cmdline()}")
    return found


def containers_of(run_id: str) -> list[str]:
    mine = f"label=com.docker.compose.project=pv-{run_id}"
    words = ["docker", "ps", "-aq", "--filter", mine]
    networks = ["docker", "network", "ls", "-q", "--filter", mine]
    out = [subprocess.check_output(words, text=True), subprocess.check_output(networks, text=True)]
    return " ".join(out).split()


def open_judgements(judged: RunRecord) -> list[str]:
    good = (Outcome.PASS, Outcome.NOT_APPLICABLE)
    return [f"{r.name}: {r.message}" for r in judged.results if r.outcome not in good]


def test_an_image_is_promoted_by_the_digest_that_ran(
    real_image: str, real_model: str, tmp_path: Path
) -> None:
    """From image and model to PROMOTE under the strictest profile, with all evidence."""
    target = (*by_docker(real_image, real_model), "--vllm-profile=promote")
    done = run(tmp_path, *target, f"--vllm-performance={SHORT}")
    assert done.returncode == 0, done.stdout + done.stderr
    judged = record(tmp_path)
    assert open_judgements(judged) == []
    assert judged.verdict.decision is Decision.PROMOTE
    assert [level["name"] for level in judged.performance["levels"]] == ["c8"]
    image_id = subprocess.check_output(
        ["docker", "image", "inspect", "-f", "{{.Id}}", real_image], text=True
    ).strip()
    assert judged.launch["image"]["id"] == image_id
    folder = evidence(tmp_path)
    compose = json.loads((folder / "compose.json").read_text())
    assert compose["services"]["vllm"]["image"] == image_id
    assert "# ✅ PROMOTE" in (folder / "report.md").read_text()
    cases = ET.parse(folder / "junit.xml").findall(".//testcase")  # noqa: S314 - our own file
    assert len(cases) == len(judged.results)
    assert "Application startup complete" in (folder / "server.log").read_text()
    assert containers_of(judged.run_id) == []
    shown = done.stdout[done.stdout.index("= PROMOTE ") :].splitlines()
    # What follows the evidence is pytest-benchmark's table.
    assert [line.startswith("Evidence") for line in shown].index(True) < 40


def test_an_older_vllm_is_not_rejected_for_its_age(
    real_vllm_python_030: str, real_model: str, tmp_path: Path
) -> None:
    """The suites whose rules depend on the version: shapes of replies, not what is said in them.

    Two workers share the server that was launched for them.
    """
    some = "server,models,completions,chat,stream,errors,extensions,tokenization,metrics,responses"
    how = () if ALL else ("-n", "2", f"--vllm-suite={some},messages,logprobs")
    done = run(tmp_path, *by_process(real_vllm_python_030, real_model), *how)
    assert open_judgements(record(tmp_path)) == []
    assert done.returncode == 0, done.stdout + done.stderr
    assert record(tmp_path).server.version.startswith("0.30")  # type: ignore[union-attr]


def test_a_base_model_is_promoted_without_its_chat(
    real_vllm_python: str, real_model: str, tmp_path: Path
) -> None:
    """Without a chat template the chat checks do not apply, and K02 does."""
    base = tmp_path / "base"
    shutil.copytree(real_model, base, ignore=shutil.ignore_patterns("chat_template*"))
    config = json.loads((base / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    how = () if ALL else ("--vllm-suite=completions,chat,templates,memory",)
    done = run(tmp_path, *by_process(real_vllm_python, str(base)), *how)
    judged = record(tmp_path)
    assert open_judgements(judged) == []
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = {result.name: result.outcome for result in judged.results}
    assert outcomes["chat.usage.adds-up"] is Outcome.NOT_APPLICABLE
    assert outcomes["chat.base-model.refused"] is Outcome.PASS
    assert outcomes["memory.kv-cache.as-forecast"] is Outcome.PASS
    assert judged.forecast["verdict"] == "FITS"


def test_a_bad_flag_is_one_error_and_a_reject(
    real_vllm_python: str, real_model: str, tmp_path: Path
) -> None:
    """The server is started: the preflight, which would tell it before, is told to let it pass."""
    arguments = (*by_process(real_vllm_python, real_model), "--vllm-serve-arg=--no-such-flag")
    done = run(tmp_path, *arguments, "--vllm-preflight-ignore=arguments.unknown-flag")
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"\d+ skipped, (\d+ deselected, )?1 error in", done.stdout), done.stdout
    assert "this vLLM does not know --no-such-flag" in done.stdout
    judged = record(tmp_path)
    assert judged.verdict.decision is Decision.REJECT
    assert judged.failure is not None
    assert judged.failure.diagnosis is not None
    assert judged.failure.diagnosis.ref == "H24"
    assert any("error: unrecognized arguments" in line for line in judged.failure.tail)
    assert sum(r.outcome is Outcome.ERROR for r in judged.results) == 1
    assert {r.outcome for r in judged.results} == {Outcome.ERROR, Outcome.NOT_RUN}


def test_a_named_file_runs_alone(real_vllm: str, tmp_path: Path) -> None:
    """A user's own test gets the client; with no check in it pytest's own exit code counts."""
    own = tmp_path / "my_test.py"
    own.write_text(
        "def test_mine(vllm):\n"
        "    reply = vllm.complete('Hello', max_tokens=3)\n"
        "    assert reply.json['usage']['completion_tokens'] <= 3\n"
        "def test_wrong(vllm):\n"
        "    assert vllm.model == 'nobody'\n"
    )
    good = run(tmp_path, "my_test.py", f"--vllm-url={real_vllm}", "-k", "mine")
    assert good.returncode == 0, good.stdout + good.stderr
    assert "1 passed, 1 deselected" in good.stdout
    assert "no verdict" in good.stdout
    assert run(tmp_path, "my_test.py", f"--vllm-url={real_vllm}").returncode == 1


def test_two_workers_share_one_server_and_one_verdict(real_vllm: str, tmp_path: Path) -> None:
    suites = "--vllm-suite=server,models,errors"
    done = run(tmp_path, f"--vllm-url={real_vllm}", suites, "-n", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    judged = record(tmp_path)
    assert judged.verdict.decision is Decision.PROMOTE
    suites_seen = {result.check.suite for result in judged.results}
    assert suites_seen == {"server", "models", "errors", "liveness"}


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_a_selection_cannot_promote_under_profile_promote(
    real_vllm: str, tmp_path: Path, workers: tuple[str, ...]
) -> None:
    """Checks that were deselected have no result, so nothing is promoted."""
    arguments = (f"--vllm-url={real_vllm}", "--vllm-suite=models", "-k", "unique", *workers)
    free = run(tmp_path, *arguments, "--vllm-artifacts=free")
    assert free.returncode == 0, free.stdout + free.stderr
    strict = run(tmp_path, *arguments, "--vllm-profile=promote")
    assert strict.returncode == 75, strict.stdout + strict.stderr
    judged = record(tmp_path)
    assert judged.verdict.decision is Decision.INCONCLUSIVE
    assert "have no result" in judged.verdict.reasons[0]


def test_a_failed_check_leaves_a_replay_and_breaks_the_baseline(
    real_vllm: str, tmp_path: Path
) -> None:
    """REJECT with the exchange, a script that repeats it, and the change against an earlier run."""
    own = tmp_path / "test_own.py"
    text = (
        "from pytest_vllm import check, suite\n"
        "pytestmark = suite('own')\n"
        "@check('own.answers')\n"
        "def test_answers(vllm):\n"
        "    '''The model MUST answer.'''\n"
        "    assert 'WORD' in vllm.complete('It\\'s a $HOME \"test\"', max_tokens=1).text\n"
    )
    own.write_text(text.replace("WORD", "choices"))
    first = run(tmp_path, "test_own.py", f"--vllm-url={real_vllm}", "--vllm-artifacts=before")
    assert first.returncode == 0, first.stdout + first.stderr
    own.write_text(text.replace("WORD", "no such word"))
    (before,) = tmp_path.glob("before/*/run.json")
    arguments = (f"--vllm-url={real_vllm}", f"--vllm-baseline={before.parent}")
    second = run(tmp_path, "test_own.py", *arguments)
    assert second.returncode == 1, second.stdout + second.stderr
    assert "1 broken" in second.stdout
    replay = evidence(tmp_path) / "checks" / "own.answers" / "replay.sh"
    again = subprocess.run([replay], capture_output=True, text=True, check=True, timeout=60)
    assert "HTTP/1.1 200 OK" in again.stdout
    sent = json.loads((replay.parent / "exchange.json").read_text())
    assert "It's a $HOME" in json.dumps(sent)


def run_until(
    moment: str, act: Callable[[subprocess.Popen[str]], object], folder: Path, *arguments: str
) -> tuple[int, str]:
    """Run pytest, act on the first line that matches, and return exit code and output."""
    lines = []
    with subprocess.Popen(
        command("-v", *arguments),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # A shell starts background jobs deaf to Ctrl-C; a CI may run these tests in one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if re.search(moment, line.rstrip()):
                act(process)
                break
        lines += process.stdout.readlines()
        return process.wait(timeout=LIMIT_S), "".join(lines)


def test_an_engine_that_is_killed_in_mid_run_is_rejected(
    real_vllm_python: str, real_model: str, tmp_path: Path
) -> None:
    """When its engine dies, vLLM 0.32 ends with exit code 0; that is no reason to promote."""
    mark = f"PV_TEST_MARK={uuid.uuid4().hex}"
    family: list[psutil.Process] = []

    def kill_engine(_process: subprocess.Popen[str]) -> None:
        family.extend(family_of(mark))
        (engine,) = [p for p in family if "EngineCore" in " ".join(p.cmdline())]
        engine.kill()

    arguments = (*by_process(real_vllm_python, real_model), f"--vllm-env={mark}")
    code, output = run_until("PASSED", kill_engine, tmp_path, *arguments)
    judged = record(tmp_path)
    assert (code, judged.verdict.decision) == (1, Decision.REJECT), output
    assert "the server ended in mid-run with exit code 0" in judged.verdict.reasons[0]
    outcomes = [result.outcome for result in judged.results]
    failed = [result for result in judged.results if result.outcome is Outcome.FAIL]
    assert 1 <= len(failed) <= 16  # those that were under way, and nothing else
    assert all("the server ended in mid-run with exit code 0" in r.message for r in failed), output
    assert all("server.log:" in result.message for result in failed)
    assert outcomes.count(Outcome.NOT_RUN) > len(failed)
    assert [finding.ref for finding in judged.findings if "mid-run" in finding.seen] == ["Q5"]
    assert alive(family) == []


@pytest.mark.parametrize(
    ("backend", "number", "moment"),
    [
        ("process", signal.SIGINT, r"vllm: .* config$"),
        ("docker", signal.SIGTERM, r"vllm: .* config$"),
        ("docker", signal.SIGINT, r"PASSED"),
        *([("process", signal.SIGTERM, r"PASSED")] if ALL else []),
    ],
)
def test_a_signal_leaves_nothing_behind(
    backend: str,
    number: signal.Signals,
    moment: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """Ctrl-C and SIGTERM, at the start and in mid-run: no process, container or network stays."""
    real_model = request.getfixturevalue("real_model")
    mark = f"PV_TEST_MARK={uuid.uuid4().hex}"
    if backend == "docker":
        arguments = by_docker(request.getfixturevalue("real_image"), real_model)
    else:
        arguments = by_process(request.getfixturevalue("real_vllm_python"), real_model)
    family: list[psutil.Process] = []

    def send(process: subprocess.Popen[str]) -> None:
        family.extend(family_of(mark))
        process.send_signal(number)

    code, output = run_until(moment, send, tmp_path, *arguments, f"--vllm-env={mark}")
    assert code == (2 if number is signal.SIGINT else 128 + number), output
    assert "INCONCLUSIVE" in output
    assert family
    assert alive(family) == []
    assert containers_of(record(tmp_path).run_id) == []
