"""Records as JSON: there and back, and clear words for what is no record."""

from __future__ import annotations

import json
import math
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_vllm.domain.checks import Check, CheckResult, Layer, Level, Outcome
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.exchange import Exchange
from pytest_vllm.domain.phases import Phase, Progress
from pytest_vllm.domain.record import (
    Change,
    Comparison,
    RunRecord,
    from_json,
    read_check,
    read_result,
    read_server,
    redact_record,
    to_json,
)
from pytest_vllm.domain.server import ServerInfo
from pytest_vllm.domain.server_facts import ServerFacts
from pytest_vllm.domain.settings import Setting
from pytest_vllm.domain.verdict import Decision, StartFailure, Verdict
from tests.unit.records import HOSTILE, hostile_record, make_failure, make_record, make_result

TEXT = st.text(max_size=8)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.lists(TEXT, max_size=2).map(tuple)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
FACTS = st.dictionaries(TEXT, JSON, max_size=2)
HEADERS = st.lists(st.tuples(TEXT, TEXT), max_size=2).map(tuple)
EXCHANGES = st.builds(
    Exchange,
    method=TEXT,
    url=TEXT,
    request_headers=HEADERS,
    request_body=TEXT,
    status=st.none() | st.integers(),
    response_headers=HEADERS,
    response_body=TEXT,
    elapsed_ms=NUMBER,
    failure=TEXT,
)
CHECKS = st.builds(
    Check,
    id=TEXT,
    suite=TEXT,
    level=st.sampled_from(Level),
    requirement=TEXT,
    layer=st.sampled_from(Layer),
    needs=TEXTS,
    ref=TEXT,
)
RESULTS = st.builds(
    CheckResult,
    check=CHECKS,
    case=TEXT,
    outcome=st.sampled_from(Outcome),
    message=TEXT,
    duration_s=NUMBER,
    exchanges=st.lists(EXCHANGES, max_size=2).map(tuple),
)
SERVERS = st.builds(
    ServerInfo,
    url=TEXT,
    model=TEXT,
    served_names=TEXTS,
    max_model_len=st.none() | st.integers(),
    owned=st.booleans(),
    version=TEXT,
    capabilities=TEXTS,
    absent=st.dictionaries(TEXT, TEXT, max_size=2),
    api_key_env=TEXT,
    launch_model=TEXT,
)
SETTINGS = st.builds(
    Setting,
    name=TEXT,
    value=st.none() | TEXT | NUMBER | st.booleans() | TEXTS,
    source=TEXT,
)
VERDICTS = st.builds(Verdict, decision=st.sampled_from(Decision), reasons=TEXTS)
FAILURES = st.builds(
    StartFailure,
    kind=TEXT,
    message=TEXT,
    advice=TEXT,
    phase=TEXT,
    exit_code=st.none() | st.integers(),
    tail=TEXTS,
)
RUN_NAMES = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}", fullmatch=True)
CHANGES = st.builds(Change, name=TEXT, kind=TEXT, before=TEXT, after=TEXT)
COMPARISONS = st.builds(
    Comparison,
    run_id=RUN_NAMES,
    decision=st.sampled_from(Decision),
    changes=st.lists(CHANGES, max_size=2).map(tuple),
)
RECORDS = st.builds(
    RunRecord,
    run_id=RUN_NAMES,
    started=TEXT,
    duration_s=NUMBER,
    verdict=VERDICTS,
    settings=st.lists(SETTINGS, max_size=3).map(tuple),
    backend=TEXT,
    launch=FACTS,
    server=st.none() | SERVERS,
    failure=st.none() | FAILURES,
    phases=st.lists(
        st.builds(
            Phase,
            name=TEXT,
            start_s=NUMBER,
            duration_s=st.none() | NUMBER,
            progress=st.none()
            | st.builds(Progress, done=st.integers(), total=st.none() | st.integers(), unit=TEXT),
        ),
        max_size=2,
    ).map(tuple),
    server_facts=st.none() | st.builds(ServerFacts, version=TEXT, kv_tokens=st.integers()),
    gpus=FACTS,
    results=st.lists(RESULTS, max_size=3).map(tuple),
    deselected=TEXTS,
    comparison=st.none() | COMPARISONS,
    environment=st.dictionaries(TEXT, TEXT, max_size=2),
    warnings=TEXTS,
)
SLOW_DATA = settings(suppress_health_check=[HealthCheck.too_slow])


@SLOW_DATA
@given(RECORDS)
def test_a_record_survives_json(record: RunRecord) -> None:
    assert from_json(to_json(record), where="x") == record


def test_records_as_they_are_survive_json() -> None:
    for record in (make_record(), make_record((), failure=make_failure())):
        assert from_json(to_json(record), where="x") == record


def test_the_schema_comes_first() -> None:
    assert to_json(make_record()).startswith('{\n "schema": 2,')


def test_foreign_text_never_breaks_the_json() -> None:
    """Lone surrogates, NUL and NaN become text that any reader of JSON accepts."""
    text = to_json(hostile_record())

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    document = json.loads(text.encode("utf-8"), parse_constant=refuse)
    again = from_json(text, where="x")
    assert "\\ud800" in document["server"]["model"]
    assert "nan" in document["launch"].values()
    assert to_json(again) == text


def test_what_travels_between_processes_is_read_the_same_way() -> None:
    record = json.loads(to_json(make_record((make_result("chat.a.b", Outcome.FAIL),))))
    assert read_result(record["results"][0]) == make_result("chat.a.b", Outcome.FAIL)
    assert read_check(record["results"][0]["check"]).id == "chat.a.b"
    assert read_server(record["server"]) == make_record().server


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a readable run record"),
        ("{", "not a readable run record"),
        ("null", "is no run record"),
        ("[]", "is no run record"),
        ("{}", "its key schema is None"),
        ('{"schema": 0}', "its key schema is 0"),
        ('{"schema": true}', "its key schema is True"),
        ('{"schema": "2"}', "its key schema is '2'"),
        ('{"schema": "' + "x" * 9_000 + '"}', r"its key schema is .{,60}$"),
        ('{"schema": 1}', "run has no 'run_id'"),
        ('{"schema": 1, "rules": null}', "run has 'rules', which schema 1 has not"),
        ('{"schema": 2}', "run has no 'run_id'"),
        ("[" * 200_000, "nested too deeply"),
        ('{"schema": 2, "\\ud800": 1}', "unknown key"),
        ("1" * 5000, "not a readable run record"),
    ],
)
def test_what_is_no_record_is_named(text: str, words: str) -> None:
    with pytest.raises(TargetError, match=r"file\.json is") as caught:
        from_json(text, where="file.json")
    assert re.search(words, caught.value.message)
    assert "run.json" in caught.value.advice


def test_a_record_of_a_later_schema_asks_for_an_upgrade() -> None:
    with pytest.raises(TargetError, match="written by a newer pytest-vllm") as caught:
        from_json('{"schema": 99}', where="file.json")
    assert caught.value.advice == "upgrade pytest-vllm"


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_an_endless_duration_is_read_back(value: float) -> None:
    record = make_record(duration_s=value)
    assert from_json(to_json(record), where="file.json") == record


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("run_id",), 5, "run.run_id is a int"),
        *(
            (("run_id",), name, f"run.run_id is {name!r}, which is no name of a run")
            for name in ("", ".", "../x", "a/b", "x;id", "--\n", "ä", "$(id)")
        ),
        (("run_id",), "x\n::error::y", "which is no name of a run"),
        (("run_id",), "x" * 129, "which is no name of a run"),
        (("comparison",), {"run_id": "\x1b[31m", "decision": "REJECT"}, "no name of a run"),
        (("duration_s",), True, "run.duration_s is a bool"),
        (("verdict", "decision"), "MAYBE", "'MAYBE' is not a valid Decision"),
        (("verdict", "reasons"), "text", "run.verdict.reasons is a str"),
        (("results", 0, "outcome"), "great", "'great' is not a valid Outcome"),
        (("results", 0, "outcome"), None, "run.results[0].outcome is a NoneType"),
        (("results", 0, "check", "id"), ["x"], "run.results[0].check.id is a list"),
        (("results", 0, "exchanges"), [{"method": "GET"}], "has no 'url'"),
        (("results", 0, "later"), 1, "run.results[0] has the unknown key 'later'"),
        (("settings", 0, "value"), {"a": 1}, "run.settings[0].value is a dict"),
        (("server",), "up", "run.server is a str"),
        (("environment",), {"a": 1}, "run.environment.a is a int"),
    ],
)
def test_a_wrong_value_is_named_by_its_path(
    path: tuple[str | int, ...], value: object, words: str
) -> None:
    document = json.loads(to_json(make_record()))
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(TargetError) as caught:
        from_json(json.dumps(document), where="file.json")
    assert words in caught.value.message


@SLOW_DATA
@given(st.data())
def test_a_damaged_record_is_a_record_or_a_clear_error(data: st.DataObject) -> None:
    text = to_json(make_record((make_result("chat.a.b", Outcome.FAIL),), failure=make_failure()))
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(start + 30, len(text))))
    damaged = text[:start] + data.draw(st.text(max_size=10)) + text[end:]
    try:
        record = from_json(damaged, where="file.json")
    except TargetError as error:
        assert "file.json" in error.message  # noqa: PT017 - both ways are right
        assert "\n" not in error.message  # noqa: PT017 - both ways are right
    else:
        assert to_json(record)


@given(st.dictionaries(TEXT, JSON, max_size=5))
def test_any_json_is_a_clear_error(document: dict[str, object]) -> None:
    with pytest.raises(TargetError):
        from_json(json.dumps({"schema": 2, **document}), where="file.json")


def test_secrets_leave_every_text_of_a_record() -> None:
    hidden = "plain-value"
    assert "rm -rf" in HOSTILE
    text = to_json(hostile_record()).replace("rm -rf", hidden)
    record = redact_record(from_json(text, where="x"), [hidden])
    assert hidden not in to_json(record)
    assert "[redacted]" in to_json(record)


def test_redaction_changes_nothing_else() -> None:
    record = hostile_record()
    assert to_json(redact_record(record, ["not there at all"])) == to_json(record)
    assert HOSTILE in str(redact_record(record, []).warnings[0])
