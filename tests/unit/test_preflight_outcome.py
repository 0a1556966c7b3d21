"""What a preflight comes to: order, exit code, failure, and facts as plain data."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.facts.host import Holder
from pytest_vllm.domain.facts.model import Flaw, FlawedFile, ModelFacts, ModelKind
from pytest_vllm.domain.finding import Fault, Finding, Severity
from pytest_vllm.domain.preflight import outcome as outcome_module
from pytest_vllm.domain.preflight.catalogue import ENTRIES, REFS
from pytest_vllm.domain.preflight.outcome import (
    Preflight,
    check_ignored,
    judge,
    plain_facts,
    read_host,
)
from pytest_vllm.domain.preflight.rules import IDS, RULES
from pytest_vllm.plugin.state import failure_text
from pytest_vllm.reports.markdown import report_md
from pytest_vllm.reports.preflight import finding_lines, preflight_text, warning_line
from pytest_vllm.reports.terminal import summary
from tests.unit.launch_facts import make_model
from tests.unit.launches import GIB, make_bare_host, make_host, make_image, make_launch
from tests.unit.records import make_record

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_vllm.domain.facts import LaunchFacts

RULE_FILES = Path(outcome_module.__file__).parent
HOST = Finding(id="a.host", severity=Severity.FATAL, fault=Fault.HOST, seen="h", cure="c", ref="D1")
MODEL = Finding(id="a.model", severity=Severity.FATAL, fault=Fault.MODEL, seen="m", ref="H20")
NOTE = Finding(id="a.note", severity=Severity.NOTE, fault=Fault.HOST, seen="n")
WARNING = Finding(id="a.warning", severity=Severity.WARNING, fault=Fault.USER, seen="w", cure="x")
NOT_ASKED = Finding(id="a.gpu", severity=Severity.NOT_APPLICABLE, fault=Fault.HOST, seen="no GPU")


def outcome(*findings: Finding) -> Preflight:
    return Preflight(facts=make_launch(), findings=findings, took_s=0.5)


def test_nothing_found_is_a_start_to_be_tried() -> None:
    assert (outcome(WARNING, NOTE, NOT_ASKED).exit_code, outcome(WARNING).failure) == (0, None)


def test_the_host_leaves_the_verdict_open() -> None:
    failure = outcome(HOST).failure
    assert failure is not None
    assert (failure.kind, failure.message, failure.advice) == ("host", "h", "c")
    assert failure.diagnosis is not None
    assert (failure.diagnosis.id, failure.diagnosis.ref) == ("a.host", "D1")
    assert failure.phase == "preflight"
    assert outcome(HOST).exit_code == 75


def test_what_cannot_work_anywhere_counts_before_the_host() -> None:
    looked = outcome(HOST, MODEL)
    assert looked.exit_code == 1
    assert looked.failure is not None
    assert looked.failure.kind == "launch"
    assert looked.failure.message == "m"
    assert [other.id for other in looked.failure.others] == ["a.host"]


def rule(_facts: LaunchFacts, /) -> Iterable[Finding]:
    return (NOTE, HOST, HOST, NOT_ASKED, WARNING)


def test_findings_come_once_and_the_gravest_first() -> None:
    found = judge(make_launch(), [rule], ignore=[])
    assert [finding.id for finding in found] == ["a.host", "a.warning", "a.note", "a.gpu"]


@pytest.mark.parametrize("ignore", [["all"], ["a.host"]])
def test_what_the_user_ignores_stops_nothing_and_is_still_told(ignore: list[str]) -> None:
    found = judge(make_launch(), [rule], ignore=ignore)
    assert [finding.id for finding in found if finding.ignored] == ["a.host"]
    assert outcome(*found).exit_code == 0
    assert "fatal, ignored: D1 a.host: h" in finding_lines(found)


def test_only_findings_that_exist_can_be_ignored() -> None:
    check_ignored(["all", "engine.disk"], IDS)
    with pytest.raises(TargetError, match=r"'engine.disc'; did you mean engine.disk\?") as caught:
        check_ignored(["engine.disc"], IDS)
    assert "docs/preflight.md" in caught.value.advice
    assert "image.gfx" not in str(caught.value)


def test_a_ref_names_all_findings_of_its_row() -> None:
    check_ignored(["D1", "H24", "G6"], REFS)
    found = judge(make_launch(), [rule], ignore=["D1"])
    assert [finding.id for finding in found if finding.ignored] == ["a.host"]
    with pytest.raises(TargetError, match="no finding 'H99'"):
        check_ignored(["H99"], (*IDS, *REFS))


def test_the_catalogue_says_of_every_finding_what_the_rules_say() -> None:
    assert [entry.id for entry in ENTRIES] == list(dict.fromkeys(entry.id for entry in ENTRIES))
    entries = {entry.id: entry for entry in ENTRIES}
    assert set(entries) == set(IDS)
    checked = 0
    for file in RULE_FILES.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or ast.unparse(node.func) != "Finding":
                continue
            told = {word.arg: word.value for word in node.keywords}
            name = told["id"]
            if not isinstance(name, ast.Constant):
                continue
            entry = entries[name.value]
            faults = {"Fault." + fault.upper() for fault in entry.faults}
            grave = {"Severity." + severity.upper() for severity in entry.severities}
            checked += 1
            for word, known in (("fault", faults), ("severity", grave)):
                if ast.unparse(told[word]).startswith(word.title() + ".") and (
                    isinstance(told[word], ast.Attribute)
                ):
                    assert ast.unparse(told[word]) in known, name.value
            if isinstance(told.get("ref"), ast.Constant):
                assert ast.literal_eval(told["ref"]) in entry.refs, name.value
    assert checked > 70


GPU_RULES = {
    *("image.gfx", "image.cuda", "model.fp8", "model.fp8-cache", "model.gpus", "model.weights"),
    *("model.quantization-not-on-rocm", "host.no-device", "host.device-access", "host.groups"),
    *("host.mixed-gpus", "host.gpu-in-use", "host.numa-balancing", "gpu.free-memory"),
    *("arguments.hidden-gpus", "arguments.visible-devices"),
    *("model.cache-blocks", "model.length-memory"),
}


def test_without_a_gpu_every_question_about_one_is_listed_in_one_line() -> None:
    image = make_image(env={})
    findings = judge(make_launch(host=make_bare_host(), image=image), RULES, ignore=[])
    silent = {f.id for f in findings if f.severity is Severity.NOT_APPLICABLE}
    assert silent == GPU_RULES
    (line,) = [line for line in finding_lines(findings) if line.startswith("not applicable")]
    assert all(name in line for name in GPU_RULES)
    assert not {f.id for f in judge(make_launch(), RULES, ignore=[])} & GPU_RULES


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (make_model(cached=True), "on this host"),
        (make_model(cached=False), "on this host, incomplete"),
        (
            make_model(flaws=(FlawedFile(name="a", flaw=Flaw.TRUNCATED),)),
            "on this host, incomplete",
        ),
        (make_model(kind=ModelKind.HUB, cached=False), "not on this host"),
    ],
)
def test_a_model_that_is_incomplete_is_still_here(model: ModelFacts, said: str) -> None:
    facts = make_launch(model=model)
    text = preflight_text(Preflight(facts=facts, findings=(), took_s=0.1))
    assert f"model   org/model, {said}" in text.splitlines()


def test_every_rule_has_names_of_its_own() -> None:
    assert len(IDS) == len(set(IDS))
    assert all(name.count(".") == 1 for name in IDS)
    assert len(RULES) == len(set(RULES))


def test_rules_that_were_not_asked_are_one_line() -> None:
    second = replace(NOT_ASKED, id="b.gpu")
    other = replace(NOT_ASKED, id="c.net", seen="no network")
    assert finding_lines([NOT_ASKED, second, other]) == [
        "not applicable: a.gpu, b.gpu: no GPU",
        "not applicable: c.net: no network",
    ]


def test_a_warning_is_one_line_with_its_way_out() -> None:
    assert warning_line(WARNING) == "a.warning: w; fix: x"


def test_the_text_says_what_was_looked_at_and_what_it_comes_to() -> None:
    text = preflight_text(outcome(HOST, WARNING))
    lines = text.splitlines()
    assert lines[:4] == ["fatal: D1 a.host: h", "  fix: c", "warning: a.warning: w", "  fix: x"]
    assert "host    box: 1 x AMD Instinct MI300X OAM gfx942 192.0 GiB, memory 1500.0 GiB" in lines
    assert "engine  docker 28.0.1, compose 2.40.3, 500.0 GiB free in /var/lib/docker" in lines
    assert lines[-1] == "preflight: 1 finding stands against a start (0.5 s); exit code 75"
    assert "nothing stands against" in preflight_text(outcome(NOTE))


def test_reports_of_a_run_that_was_not_started_say_so_and_name_every_finding() -> None:
    failure = outcome(MODEL).failure
    assert failure is not None
    record = replace(make_record(), failure=failure, findings=(MODEL, WARNING, NOTE, NOT_ASKED))
    screen = summary(record, width=100, color=False, evidence="/e")
    assert "was not started: the preflight" in screen
    assert "(read report.md first)" in screen
    report = report_md(record)
    assert "## Findings" in report
    assert "- `fatal: H20 a.model: m`" in report
    assert "- `warning: a.warning: w; fix: x`" in report
    assert "- `not applicable: a.gpu: no GPU`" in report
    assert "nothing was started" in failure_text(failure)
    assert "still running" not in failure_text(failure)


def test_facts_hold_no_value_of_a_variable_that_could_be_secret() -> None:
    image = make_image(env={"MY_KEY": "s3cr3t", "PYTORCH_ROCM_ARCH": "gfx942", "ROCM_PATH": "/o"})
    plain = plain_facts(make_launch(image=image))
    assert "s3cr3t" not in json.dumps(plain)
    assert plain["image"]["env"] == {
        "MY_KEY": "",
        "PYTORCH_ROCM_ARCH": "gfx942",
        "ROCM_PATH": "/o",
    }
    assert "target" not in plain


def test_facts_of_a_host_survive_their_way_through_json() -> None:
    holder = Holder(pid=4, name="p", devices=("/dev/kfd",), vram_bytes=2 * GIB)
    host = make_host(holders=(holder,), variables={"HIP_VISIBLE_DEVICES": "0"})
    document = json.loads(json.dumps({"facts": plain_facts(make_launch(host=host))}))
    read = read_host(document, where="f.json")
    assert read == replace(host, source="f.json")
    assert not read.here


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "holds no facts of a host"),
        ({}, "holds no facts of a host"),
        ({"facts": {"host": []}}, "holds no facts of a host"),
        ({"host": {"gpus": 4}}, "host.gpus is a int"),
        ({"host": {"gpu": []}}, "unknown key 'gpu'"),
        ({"host": {"gpus": [{"name": "x"}]}}, "no 'index'"),
    ],
)
def test_facts_that_are_none_are_refused(document: object, words: str) -> None:
    with pytest.raises(TargetError, match=words) as caught:
        read_host(document, where="f.json")
    assert "f.json" in caught.value.message
    assert "--json" in caught.value.advice
