"""Whole runs of the plugin on real vLLM: verdict, evidence, exit code, and nothing left behind.

One run of all suites is CI's, of an image under the strictest profile. What is proven about other
launches needs some suites there, all of them where PYTEST_VLLM_TEST_ALL is set.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import uuid
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.adapters.backends.session import describe_holder
from pytest_vllm.domain.checks import Level, Outcome
from pytest_vllm.domain.verdict import Decision
from tests.real.whole_runs import (
    alive,
    by_docker,
    by_process,
    containers_of,
    evidence,
    family_of,
    open_judgements,
    record,
    run,
    run_until,
    told,
)

if TYPE_CHECKING:
    import psutil

ALL = bool(os.environ.get("PYTEST_VLLM_TEST_ALL"))
SHORT = Path(__file__).parents[1] / "data" / "performance" / "short.toml"


def test_an_image_is_promoted_by_the_digest_that_ran(
    real_image: str, real_model: str, tmp_path: Path
) -> None:
    """From image and model to PROMOTE under the strictest profile, with all evidence."""
    target = (*by_docker(real_image, real_model), "--vllm-profile=promote")
    done = run(tmp_path, *target, f"--vllm-performance={SHORT}")
    assert done.returncode == 0, told(done)
    judged = record(tmp_path)
    assert open_judgements(judged, Level.MUST) == []  # a busy host may well miss a SHOULD
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
    room = 32 + 2 * len(judged.warnings)
    assert [line.startswith("Evidence") for line in shown].index(True) < room


def test_an_older_vllm_is_not_rejected_for_its_age(
    real_vllm_python_030: str, real_model: str, tmp_path: Path
) -> None:
    """The suites whose rules depend on the version: shapes of replies, not what is said in them.

    Two workers share the server that was launched for them.
    """
    some = "server,completions,chat,stream,errors,extensions,responses,messages"
    how = () if ALL else ("-n", "2", f"--vllm-suite={some}")
    done = run(tmp_path, *by_process(real_vllm_python_030, real_model), *how)
    assert open_judgements(record(tmp_path)) == []
    assert done.returncode == 0, told(done)
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
    mark = f"PV_TEST_MARK={uuid.uuid4().hex}"
    family: list[psutil.Process] = []
    arguments = (*by_process(real_vllm_python, str(base)), f"--vllm-env={mark}", *how)
    code, output = run_until(
        "PASSED", lambda _: family.extend(family_of(mark)), tmp_path, *arguments
    )
    judged = record(tmp_path)
    assert open_judgements(judged) == []
    assert code == 0, output
    outcomes = {result.name: result.outcome for result in judged.results}
    assert outcomes["chat.usage.adds-up"] is Outcome.NOT_APPLICABLE
    assert outcomes["chat.base-model.refused"] is Outcome.PASS
    assert outcomes["memory.kv-cache.as-forecast"] is Outcome.PASS
    assert judged.forecast["verdict"] == "FITS"
    names = [phase.name for phase in judged.phases]
    assert (names[:3], names[-3:]) == (
        ["start", "config", "load"],
        ["api up", "ready", "first token"],
    )
    assert len(family) >= 3  # server, engine core, worker
    assert alive(family) == []
    assert judged.server is not None
    assert describe_holder(int(judged.server.url.rpartition(":")[2])) == ""


def test_a_bad_flag_is_one_error_and_a_reject(
    real_vllm_python: str, real_model: str, tmp_path: Path
) -> None:
    """The server is started: the preflight, which would tell it before, is told to let it pass."""
    arguments = (*by_process(real_vllm_python, real_model), "--vllm-serve-arg=--no-such-flag")
    done = run(tmp_path, *arguments, "--vllm-preflight-ignore=arguments.unknown-flag")
    assert done.returncode == 1, told(done)
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
    assert done.returncode == 0, told(done)
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
