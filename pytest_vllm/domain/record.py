"""The record of a run: the one source of every report, and its versioned JSON form."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

from pytest_vllm.domain.checks import Check, CheckResult
from pytest_vllm.domain.decode import decode
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.exchange import Exchange
from pytest_vllm.domain.finding import Diagnosis, Evidence, Fault, Finding, Severity
from pytest_vllm.domain.metric_change import Effect, Form, Judgement, MetricChange
from pytest_vllm.domain.observation import Observation, Sample
from pytest_vllm.domain.phases import Phase, Progress
from pytest_vllm.domain.record_history import SCHEMA, upgrade
from pytest_vllm.domain.run_name import read_run_name
from pytest_vllm.domain.server import ServerInfo
from pytest_vllm.domain.server_facts import ServerFacts
from pytest_vllm.domain.settings import Setting
from pytest_vllm.domain.text import one_line, redact
from pytest_vllm.domain.verdict import Decision, StartFailure, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from _typeshed import DataclassInstance


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Something that the result of a run rests on, named by its content.

    Attributes:
        kind: `suite`, `profile`, `performance`, `golden`, `compose` or `model`.
        name: What a reader calls it: `suites/test_chat.py`, `profile promote`, `org/model@rev`.
        sha256: Digest in hexadecimal.
        of: What exactly was hashed, where that is not simply the file; empty for the file.
    """

    kind: str
    name: str
    sha256: str
    of: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The rules under which a run was judged.

    Attributes:
        profile: Name or path of the profile.
        complete: Whether every MUST check of the catalogue had to have a result.
        pinned_image: Whether an image without a meaningful tag or digest was refused.
        required: IDs of the checks that had to have a result, empty unless `complete`.
    """

    profile: str
    complete: bool = False
    pinned_image: bool = False
    required: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WaiverUse:
    """A waiver, and what it was good for.

    Attributes:
        check: ID of the check.
        reason: Why it may fail.
        link: Where that is tracked.
        expires: Last day on which it counts, `YYYY-MM-DD`.
        waived: Names of the results that it turned from `fail` into `waived`; none: it was not
            needed.
        note: Why it waived nothing, empty where it did.
    """

    check: str
    reason: str
    link: str
    expires: str
    waived: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A check whose outcome differs from the baseline's.

    Attributes:
        name: Name of the case.
        kind: One of `check_changes.KINDS`: `broken`, `gone`, `new`, `fixed`, ...
        before: Outcome in the baseline, empty for what is new; the level for `level`.
        after: Outcome now, empty for `gone`; the level for `level`.
    """

    name: str
    kind: str
    before: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The checks against those of an earlier run.

    Attributes:
        run_id: The earlier run.
        decision: What the earlier run ended in.
        changes: What differs, broken checks first.
        metrics: What became of the figures of the suite `performance`, `None` where neither run
            has any.
    """

    run_id: str
    decision: Decision
    changes: tuple[Change, ...] = ()
    metrics: Judgement | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A start that failed and was tried once more.

    Attributes:
        diagnosis: Why it failed; its fault is flaky.
        phases: How far it came.
    """

    diagnosis: Diagnosis
    phases: tuple[Phase, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """Everything a report needs. Times are ISO 8601 in UTC, durations seconds.

    Attributes:
        run_id: Name of the evidence folder.
        started: When the run began.
        duration_s: How long it took.
        checks_s: How long the checks took all together; they run at the same time.
        verdict: The decision with its reasons.
        settings: Every option that was set, and the defaults.
        backend: How the server was run.
        launch: Facts of the launch: image digest, entrypoint, command, devices, ...
        server: The ready server, `None` when it never was.
        failure: Why there was no server, `None` when there was.
        phases: Start-up phases.
        gpus: Facts of the GPUs, one mapping each, and `reason` when none are known.
        results: Results of checks.
        observations: What was seen and not judged, each once.
        samples: Replies for a person to read.
        deselected: IDs of checks that the user left out.
        comparison: The checks against the baseline, if one was given.
        environment: Versions and host of the run.
        warnings: What a reader should know although it decides nothing.
        findings: What preflight and clean-up found.
        facts: What preflight gathered: `host`, `engine`, `image`, `model`, ... as plain data.
        server_facts: Figures out of the server's log.
        forecast: What the memory was expected to be, as `pytest-vllm fit --json` prints it.
        gpu_samples: What the monitor saw during the run, as columns: `monitor`, `interval_s`,
            `time_s`, and for each GPU a list of the same length for every quantity.
        attempts: Starts that failed by a flaky fault and were tried again.
        performance: What the suite `performance` measured, as plain data: `profile`, `workload`,
            `calibration` (of the compared level), `levels` (each with its calibration, the figures
            of its rounds and one whole measurement), `saturation`, `regression`, `notes`; empty
            when it did not run.
        rules: Under which rules it was judged, `None` in records of schema 1.
        waivers: The waivers of the profile.
        materials: What the result rests on, each with its digest.
    """

    run_id: str
    started: str
    duration_s: float
    verdict: Verdict
    settings: tuple[Setting, ...]
    backend: str
    launch: dict[str, Any] = field(default_factory=dict)
    server: ServerInfo | None = None
    failure: StartFailure | None = None
    phases: tuple[Phase, ...] = ()
    gpus: dict[str, Any] = field(default_factory=dict)
    checks_s: float = 0.0
    results: tuple[CheckResult, ...] = ()
    observations: tuple[Observation, ...] = ()
    samples: tuple[Sample, ...] = ()
    deselected: tuple[str, ...] = ()
    comparison: Comparison | None = None
    environment: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    server_facts: ServerFacts | None = None
    attempts: tuple[Attempt, ...] = ()
    forecast: dict[str, Any] = field(default_factory=dict)
    gpu_samples: dict[str, Any] = field(default_factory=dict)
    performance: dict[str, Any] = field(default_factory=dict)
    rules: Rules | None = None
    waivers: tuple[WaiverUse, ...] = ()
    materials: tuple[Material, ...] = ()


_NAMES = {
    kind.__name__: kind
    for kind in (
        Attempt,
        Decision,
        Diagnosis,
        Effect,
        Evidence,
        Exchange,
        Fault,
        Finding,
        Form,
        Judgement,
        Material,
        MetricChange,
        Observation,
        Phase,
        Progress,
        Rules,
        Sample,
        ServerFacts,
        ServerInfo,
        Setting,
        Severity,
        StartFailure,
        Verdict,
        WaiverUse,
    )
}


def to_json(record: RunRecord) -> str:
    """Write a record as JSON, the schema version first.

    The text is valid for every reader: what UTF-8 or JSON cannot hold (lone surrogates, NaN,
    infinities) is written as text that names it.
    """
    document = {"schema": SCHEMA, **to_plain(record)}
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(text: str, *, where: str) -> RunRecord:
    """Read a record.

    Args:
        text: What `to_json` wrote.
        where: Name of the file for error messages.

    Raises:
        TargetError: It is no record, or of a schema that this version cannot read.
    """
    advice = "name a run.json that pytest-vllm wrote, or its folder"
    try:
        document = json.loads(text)
        if not isinstance(document, dict):
            raise TargetError(f"{where} is no run record", advice=advice)
        record = decode(RunRecord, upgrade(document, where=where), names=_NAMES, where="run")
        read_run_name(record.run_id, where="run.run_id")
        if record.comparison is not None:
            read_run_name(record.comparison.run_id, where="run.comparison.run_id")
    except RecursionError:
        raise TargetError(f"{where} is nested too deeply", advice=advice) from None
    except ValueError as error:
        raise TargetError(
            f"{where} is not a readable run record: {one_line(str(error))}", advice=advice
        ) from None
    return record


def to_plain(item: DataclassInstance) -> dict[str, Any]:
    """Write a check, a result or a server as plain data that `read_...` takes back."""
    return cast("dict[str, Any]", plain(dataclasses.asdict(item)))


def read_check(item: dict[str, Any]) -> Check:
    """Make a check out of what `to_plain` made of it (also after JSON)."""
    return decode(Check, item, names=_NAMES)


def read_result(item: dict[str, Any]) -> CheckResult:
    """Make a result out of what `to_plain` made of it (also after JSON)."""
    return decode(CheckResult, item, names=_NAMES)


def read_server(item: dict[str, Any]) -> ServerInfo:
    """Make a server out of what `to_plain` made of it (also after JSON)."""
    return decode(ServerInfo, item, names=_NAMES)


def read_failure(item: dict[str, Any]) -> StartFailure:
    """Make a failure out of what `to_plain` made of it (also after JSON)."""
    return decode(StartFailure, item, names=_NAMES)


def redact_record(record: RunRecord, secrets: Sequence[str]) -> RunRecord:
    """Return the record without secrets in any of its texts."""
    return cast("RunRecord", _map_text(record, lambda text: redact(text, secrets)))


def _map_text(value: object, change: Callable[[str], str]) -> object:
    if isinstance(value, Enum):
        return value
    if isinstance(value, str):
        return change(value)
    if isinstance(value, tuple | list):
        return type(value)(_map_text(item, change) for item in value)
    if isinstance(value, dict):
        return {_map_text(key, change): _map_text(item, change) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        texts = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
        return type(value)(**{key: _map_text(item, change) for key, item in texts.items()})
    return value


def plain(value: Any) -> Any:
    """Return a JSON-able copy that every reader of UTF-8 and JSON accepts."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {plain(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, int | float | None) else plain(str(value))
