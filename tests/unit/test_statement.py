"""The in-toto Statement of a run: what it says, when there is none, and that nothing belies it.

Held against in-toto's own library, which knows nothing of ours.
"""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from in_toto_attestation.predicates.test_result.v0 import test_result_pb2
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementProto

from pytest_vllm.adapters.runs import read_run
from pytest_vllm.adapters.store import EvidenceFolder
from pytest_vllm.domain.checks import Level, Outcome
from pytest_vllm.domain.ci_job import JOB, job_url
from pytest_vllm.domain.promoted_image import accepted_image
from pytest_vllm.domain.record import Material, Rules, from_json, to_json
from pytest_vllm.domain.repository import PinnedName
from pytest_vllm.domain.statement import (
    absence,
    problems,
    statement_json,
    statement_of,
    subject_of,
)
from pytest_vllm.domain.verdict import Decision
from pytest_vllm.reports.attestation import attestation_absence, attestation_json
from tests.unit.records import (
    DIGEST,
    HOSTILE,
    all_passed,
    hostile_record,
    make_failure,
    make_record,
    make_result,
)

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_vllm.domain.record import RunRecord

RULES = Rules(profile="promote", complete=True, pinned_image=True)
COMMIT = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
MODEL = f"HuggingFaceTB/SmolLM2-135M-Instruct@{COMMIT}"
MATERIALS = (
    Material(kind="profile", name="profiles/promote.toml", sha256="1" * 64),
    Material(kind="suite", name="suites/test_chat.py", sha256="2" * 64),
    Material(kind="compose", name="compose.json", sha256="3" * 64),
    Material(kind="model", name=MODEL, sha256="4" * 64, of="listing of 9 files: 9 read whole"),
)
GPUS = {
    "monitor": "amd",
    "gpus": [{"name": "MI300X", "gfx": "gfx942", "driver": "6.12.12", "bdf": "0000:05:00.0"}],
}
WAIVED = make_result("chat.waived.x", Outcome.WAIVED, "known")
SHOULD = make_result("chat.should.x", Outcome.FAIL, "slow", level=Level.SHOULD)
INFO = make_result("chat.info.x", Outcome.FAIL, "seen", level=Level.INFO)
FAILED = make_result("chat.must.x", Outcome.FAIL, "wrong")
ABSENT = make_result("chat.absent.x", Outcome.NOT_APPLICABLE, "no tools")


def stated(*more: Any, **changes: Any) -> RunRecord:
    """Return the record of a run that there is a statement about."""
    return make_record(
        (*all_passed(), *more), **{"rules": RULES, "materials": MATERIALS, "gpus": GPUS, **changes}
    )


def sha256(record: RunRecord) -> str:
    return hashlib.sha256(to_json(record).encode()).hexdigest()


def parsed(text: str) -> tuple[StatementProto, test_result_pb2.TestResult]:
    """Read a statement and its predicate with in-toto's own messages, which refuse what is new."""
    proto = json_format.Parse(text.replace('"_type"', '"type"', 1), StatementProto())
    Statement.copy_from_pb(proto).validate()
    predicate = json_format.MessageToDict(proto.predicate)
    result = json_format.ParseDict(predicate, test_result_pb2.TestResult())
    for descriptor in result.configuration:
        ResourceDescriptor.copy_from_pb(descriptor).validate()
    return proto, result


def test_in_totos_library_takes_it() -> None:
    proto, result = parsed(attestation_json(stated(WAIVED)))
    assert proto.type == "https://in-toto.io/Statement/v1"
    assert proto.predicate_type == "https://in-toto.io/attestation/test-result/v0.1"
    (subject,) = proto.subject
    assert (subject.name, f"sha256:{subject.digest['sha256']}") == ("rocm/vllm", DIGEST)
    assert result.result == "WARNED"
    assert len(result.passed_tests) == len(all_passed())
    assert (list(result.warned_tests), list(result.failed_tests)) == ([WAIVED.name], [])
    digests = {each.name: each.digest["sha256"] for each in result.configuration}
    assert digests == {
        "run.json": sha256(stated(WAIVED)),
        **{each.name: each.sha256 for each in MATERIALS},
    }


@given(
    st.text()
    | st.from_regex(r"(\[[0-9a-f:]{1,4}\]|[a-zA-Z0-9.-]{1,5})(:[0-9]{1,3})?/[a-zA-Z_/]{1,4}")
    | st.sampled_from(["[::1]:5000/vllm", "UP/x", "h:1/a:tag"])
)
def test_a_statement_has_a_subject_just_where_promotion_has_an_image(name: str) -> None:
    """Else a run would be promoted that nobody can have signed."""
    launch = {"image": {"asked": "x:1", "runs": f"{name}@{DIGEST}"}}
    record = stated(launch=launch)
    image = accepted_image(record)
    subject = subject_of(record)
    assert isinstance(image, PinnedName) == (subject is not None) == (not absence(record))
    if isinstance(image, PinnedName) and subject is not None:
        assert (subject.repository, subject.digest) == (name, image.digest)


def test_the_job_of_the_ci_is_its_url() -> None:
    job = "https://ci.example/job/7"
    _, result = parsed(attestation_json(stated(environment={JOB: job})))
    assert result.url == job
    assert "url" not in statement_of(stated())["predicate"]


def test_in_totos_library_would_refuse_another_form() -> None:
    """So that the test above can fail."""
    other = attestation_json(stated()).replace('"result":', '"outcome":')
    with pytest.raises(json_format.ParseError, match="outcome"):
        parsed(other)


def test_gpus_versions_and_rules_are_annotations_of_the_record() -> None:
    (run, *_, model) = statement_of(stated(ABSENT))["predicate"]["configuration"]
    assert run["annotations"]["gpus"] == [
        {"name": "MI300X", "gfx": "gfx942", "driver": "6.12.12"},
    ]
    assert run["annotations"]["versions"] == {"python": "3.11.7", "vllm": "0.32.0"}
    assert run["annotations"]["profile"] == {
        "name": "promote",
        "complete": True,
        "pinnedImage": True,
    }
    assert model["uri"] == f"pkg:huggingface/{MODEL}"
    assert model["annotations"] == {"kind": "model", "of": "listing of 9 files: 9 read whole"}


@pytest.mark.parametrize(
    ("results", "word", "warned", "failed"),
    [
        ((), "PASSED", [], []),
        ((ABSENT, INFO), "PASSED", [], []),
        ((SHOULD,), "WARNED", ["chat.should.x"], []),
        ((WAIVED,), "WARNED", ["chat.waived.x"], []),
        ((FAILED, SHOULD), "FAILED", ["chat.should.x"], ["chat.must.x"]),
    ],
    ids=["passed", "not judged", "should", "waived", "failed"],
)
def test_the_verdict_becomes_one_of_three_words(
    results: tuple[Any, ...], word: str, warned: list[str], failed: list[str]
) -> None:
    predicate = statement_of(stated(*results))["predicate"]
    assert predicate["result"] == word
    assert (predicate["warnedTests"], predicate["failedTests"]) == (warned, failed)
    assert not {*warned, *failed, ABSENT.name} & {*predicate["passedTests"]}


def test_a_reject_always_names_something_that_failed() -> None:
    """A policy that looks at `failedTests` alone must not let a failed start pass."""
    record = make_record((), failure=make_failure(), rules=RULES)
    assert record.verdict.decision is Decision.REJECT
    predicate = statement_of(record)["predicate"]
    assert (predicate["result"], predicate["failedTests"]) == ("FAILED", ["verdict"])


def test_an_edited_verdict_does_not_make_a_failed_check_pass() -> None:
    promote = stated().verdict
    assert statement_of(stated(FAILED, verdict=promote))["predicate"]["result"] == "FAILED"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"interrupted": "by a signal"}, "INCONCLUSIVE"),
        ({"backend": "attach", "launch": {}}, "backend attach"),
        ({"backend": HOSTILE}, "no image was tested"),
        ({"launch": {"image": {"runs": DIGEST}}}, "no digest of a registry"),
        ({"launch": {"image": HOSTILE}}, "no digest of a registry"),
        ({"launch": {"image": {"runs": f"rocm/vllm@{DIGEST}0"}}}, "no digest of a registry"),
        ({"launch": {"image": {"runs": f"a b@{DIGEST}"}}}, "no digest of a registry"),
        ({"launch": {"image": {"runs": f"a\x1b[2J@{DIGEST}"}}}, "no digest of a registry"),
        ({"rules": None}, "earlier version"),
    ],
    ids=[
        "open",
        "attached",
        "hostile",
        "only an ID",
        "no image",
        "long digest",
        "no name",
        "escape",
        "schema 1",
    ],
)
def test_without_a_verdict_or_a_digest_there_is_none(changes: dict[str, Any], words: str) -> None:
    record = stated(**changes)
    assert words in attestation_absence(record)
    assert attestation_absence(record).isprintable()
    assert attestation_json(record) == ""
    with pytest.raises(ValueError, match=words):
        statement_of(record)
    (problem,) = problems(record, record_sha256=sha256(record), text=statement_json(stated()))
    assert words in problem


def test_the_same_record_makes_the_same_bytes() -> None:
    record = stated(WAIVED, SHOULD)
    again = from_json(to_json(record), where="run.json")
    assert attestation_json(again) == attestation_json(record)


def test_it_names_the_run_json_that_the_store_writes(tmp_path: Path) -> None:
    """Also where the record holds what UTF-8 cannot, and what must not be shown."""
    secret = "hf_" + "s3cret" * 4
    environment = {"python": f"3.11.7 \ud800 {secret}", "pytest-vllm": HOSTILE}
    record = stated(
        make_result(f"chat.\ud800.{secret}"),
        environment=environment,
        warnings=(secret,),
    )
    folder = EvidenceFolder(tmp_path, secrets=("s3crets3cret",))
    folder.write(record, files={"attestation.json": attestation_json}, log_lines=())
    run = read_run(str(tmp_path))
    text = (tmp_path / "attestation.json").read_bytes().decode()
    assert problems(run.record, record_sha256=run.sha256, text=text) == ()
    assert "s3cret" not in text
    parsed(text)


def test_hostile_texts_are_only_text() -> None:
    record = replace(
        hostile_record(),
        verdict=stated(FAILED).verdict,
        launch={"image": {"runs": f"h/x@{DIGEST}", "asked": HOSTILE, "id": 7}},
        rules=Rules(profile=HOSTILE),
        gpus={"gpus": [HOSTILE, {"name": HOSTILE, "driver": float("nan")}]},
        materials=(Material(kind=HOSTILE, name=HOSTILE, sha256="", of=HOSTILE),),
    )
    assert not absence(record)
    _, result = parsed(statement_json(record))
    assert "\ud800" not in str(result.configuration)
    assert result.result == "FAILED"


@pytest.mark.parametrize(
    ("env", "url"),
    [
        ({}, ""),
        (
            {
                "GITHUB_SERVER_URL": "https://github.com",
                "GITHUB_REPOSITORY": "org/repo",
                "GITHUB_RUN_ID": "42",
            },
            "https://github.com/org/repo/actions/runs/42",
        ),
        ({"GITHUB_RUN_ID": "42"}, ""),
        ({"CI_JOB_URL": "https://gitlab.example/-/jobs/1"}, "https://gitlab.example/-/jobs/1"),
        ({"BUILD_URL": "http://jenkins:8080/job/a/1/"}, "http://jenkins:8080/job/a/1/"),
        ({"BUILDKITE_BUILD_URL": "https://buildkite.com/o/p/1"}, "https://buildkite.com/o/p/1"),
        ({"BUILD_URL": "https://user:password@jenkins/"}, ""),
        ({"BUILD_URL": "javascript:alert(1)"}, ""),
        ({"BUILD_URL": "https://jenkins/?token=x"}, ""),
        ({"BUILD_URL": HOSTILE}, ""),
    ],
)
def test_each_ci_names_its_job(env: dict[str, str], url: str) -> None:
    assert job_url(env) == url


@pytest.mark.parametrize("gpus", [None, HOSTILE, 7, {}, [None]])
def test_facts_of_gpus_that_make_no_sense_are_left_out(gpus: object) -> None:
    run = statement_of(stated(gpus={"gpus": gpus}))["predicate"]["configuration"][0]
    assert run["annotations"]["gpus"] == []


def test_a_material_that_nobody_could_hash_says_so() -> None:
    unknown = Material(kind="model", name="org/model", sha256="", of="not known: a remote engine")
    (_, model) = statement_of(stated(materials=(unknown,)))["predicate"]["configuration"]
    assert "digest" not in model
    assert model["annotations"]["of"] == "not known: a remote engine"
    parsed(statement_json(stated(materials=(unknown,))))


def test_only_a_model_is_a_package_of_the_hub() -> None:
    suite = Material(kind="suite", name=f"test_x.py@{COMMIT}", sha256="1" * 64)
    (_, found) = statement_of(stated(materials=(suite,)))["predicate"]["configuration"]
    assert "uri" not in found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is no JSON object"),
        ('{"_type": ' + "[" * 200 + "]" * 200 + "}", "the statement._type is nested too deeply"),
        ("{}", "its _type is nothing"),
        ('{"_type": "https://in-toto.io/Statement/v0.1"}', 'its _type is "https://in-toto.io/S'),
        (
            '{"_type": "https://in-toto.io/Statement/v1", "predicateType": "x\\u001b[2J"}',
            'its predicateType is "x',
        ),
    ],
)
def test_what_is_no_statement_is_named(text: str, words: str) -> None:
    record = stated()
    (problem,) = problems(record, record_sha256=sha256(record), text=text)
    assert words in problem
    assert problem.isprintable()


def test_an_edited_record_is_named_with_what_was_changed() -> None:
    text = statement_json(stated(FAILED))
    edited = stated(replace(FAILED, outcome=Outcome.PASS))
    found = problems(edited, record_sha256=sha256(edited), text=text)
    assert found[0].startswith(
        f"run.json was edited or replaced: its sha256 is {sha256(edited)}, and the statement was"
    )
    assert 'predicate.result: the statement says "FAILED", and run.json makes "PASSED"' in found


def test_the_statement_of_another_image_is_named() -> None:
    other = stated(launch={"image": {"runs": "rocm/vllm@sha256:" + "0" * 64}})
    found = problems(stated(), record_sha256=sha256(stated()), text=statement_json(other))
    subject = subject_of(other)
    assert subject is not None
    assert subject.digest == "sha256:" + "0" * 64
    assert any("subject[0].digest.sha256" in problem for problem in found)


def test_a_statement_that_differs_from_its_own_record_may_be_of_another_version() -> None:
    record = stated(environment={"pytest-vllm": "0.0.1"})
    text = statement_json(record).replace('"kind": "profile"', '"kind": "rules"')
    (difference, hint) = problems(record, record_sha256=sha256(record), text=text)
    assert 'the statement says "rules", and run.json makes "profile"' in difference
    assert hint == "only another version than the run's, pytest-vllm 0.0.1, may put it so"


def leaves(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to each value of a tree, the lists and objects themselves too."""
    if not isinstance(tree, dict | list):
        return [path]
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return [path, *(way for key, value in inner for way in leaves(value, (*path, key)))]


SHORT = replace(stated(), results=all_passed()[:2])
STATEMENT = statement_of(SHORT)
WAYS = [way for way in leaves(STATEMENT) if way]


@given(
    way=st.sampled_from(WAYS),
    value=st.sampled_from([None, "", "PASSED", 0, 1, True, [], {}, ["x"], {"sha256": "0" * 64}]),
    drop=st.booleans(),
)
def test_no_change_of_a_statement_goes_unnoticed(
    way: tuple[Any, ...], value: object, *, drop: bool
) -> None:
    edited: Any = copy.deepcopy(STATEMENT)
    place = edited
    for key in way[:-1]:
        place = place[key]
    before = place[way[-1]]
    if drop:
        del place[way[-1]]
    else:
        place[way[-1]] = value
    if isinstance(before, dict) and not drop:
        value = {**before, "more": None}  # an addition
        place[way[-1]] = value
    same = not drop and (type(before), before) == (type(value), value)
    found = problems(SHORT, record_sha256=sha256(SHORT), text=json.dumps(edited))
    assert bool(found) is not same
    assert all(problem.isprintable() for problem in found)
