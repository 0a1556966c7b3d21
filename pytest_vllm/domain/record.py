"""The record of a run: the one source of every report, and its versioned JSON form."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from pytest_vllm.domain.checks import Check, CheckResult, Layer, Level, Outcome
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.exchange import Exchange
from pytest_vllm.domain.phases import Phase
from pytest_vllm.domain.server import ServerInfo
from pytest_vllm.domain.settings import Setting
from pytest_vllm.domain.verdict import Decision, StartFailure, Verdict

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A check whose outcome differs from the baseline's.

    Attributes:
        name: Name of the case.
        kind: `broken`, `fixed`, `new` or `gone`.
        before: Outcome in the baseline, empty for `new`.
        after: Outcome now, empty for `gone`.
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
    """

    run_id: str
    decision: Decision
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """Everything a report needs. Times are ISO 8601 in UTC, durations seconds.

    Attributes:
        run_id: Name of the evidence folder.
        started: When the run began.
        duration_s: How long it took.
        verdict: The decision with its reasons.
        settings: Every option that was set, and the defaults.
        backend: How the server was run.
        launch: Facts of the launch: image digest, entrypoint, command, devices, ...
        server: The ready server, `None` when it never was.
        failure: Why there was no server, `None` when there was.
        phases: Start-up phases.
        gpus: Facts of the GPUs, one mapping each, and `reason` when none are known.
        results: Results of checks.
        deselected: IDs of checks that the user left out.
        comparison: The checks against the baseline, if one was given.
        environment: Versions and host of the run.
        warnings: What a reader should know although it decides nothing.
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
    results: tuple[CheckResult, ...] = ()
    deselected: tuple[str, ...] = ()
    comparison: Comparison | None = None
    environment: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def to_json(record: RunRecord) -> str:
    """Write a record as JSON, the schema version first."""
    document = {"schema": SCHEMA, **dataclasses.asdict(record)}
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(text: str, *, where: str) -> RunRecord:
    """Read a record.

    Args:
        text: What `to_json` wrote.
        where: Name of the file for error messages.

    Raises:
        TargetError: It is no record, or of a schema that this version cannot read.
    """
    try:
        document = json.loads(text)
        if not isinstance(document, dict) or document.pop("schema", None) != SCHEMA:
            raise TargetError(
                f"{where} is not a run record of schema {SCHEMA}",
                advice="name a run.json that pytest-vllm wrote, or its folder",
            )
        return _record(document)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TargetError(
            f"{where} is not a readable run record ({type(error).__name__}: {error})",
            advice="name a run.json that pytest-vllm wrote, or its folder",
        ) from None


def _record(document: dict[str, Any]) -> RunRecord:
    server, failure = document.get("server"), document.get("failure")
    comparison = document.get("comparison")
    return RunRecord(
        **{
            **document,
            "verdict": Verdict(
                decision=Decision(document["verdict"]["decision"]),
                reasons=tuple(document["verdict"]["reasons"]),
            ),
            "settings": tuple(_setting(item) for item in document["settings"]),
            "server": _server(server) if server else None,
            "failure": StartFailure(**_tupled(failure, "tail")) if failure else None,
            "phases": tuple(Phase(**item) for item in document["phases"]),
            "results": tuple(read_result(item) for item in document["results"]),
            "deselected": tuple(document["deselected"]),
            "comparison": _comparison(comparison) if comparison else None,
            "warnings": tuple(document["warnings"]),
        }
    )


def read_result(item: dict[str, Any]) -> CheckResult:
    """Make a result out of what `dataclasses.asdict` made of it (also after JSON)."""
    check = _tupled(item["check"], "needs")
    check |= {"level": Level(check["level"]), "layer": Layer(check["layer"])}
    return CheckResult(
        **{
            **item,
            "check": Check(**check),
            "outcome": Outcome(item["outcome"]),
            "exchanges": tuple(_exchange(exchange) for exchange in item["exchanges"]),
        }
    )


def read_server(item: dict[str, Any]) -> ServerInfo:
    """Make a server out of what `dataclasses.asdict` made of it (also after JSON)."""
    return _server(item)


def _server(item: dict[str, Any]) -> ServerInfo:
    return ServerInfo(**_tupled(item, "served_names", "capabilities"))


def _setting(item: dict[str, Any]) -> Setting:
    value = item["value"]
    return Setting(**{**item, "value": tuple(value) if isinstance(value, list) else value})


def _exchange(item: dict[str, Any]) -> Exchange:
    headers = {
        key: tuple((name, value) for name, value in item[key])
        for key in ("request_headers", "response_headers")
    }
    return Exchange(**{**item, **headers})


def _comparison(item: dict[str, Any]) -> Comparison:
    return Comparison(
        run_id=item["run_id"],
        decision=Decision(item["decision"]),
        changes=tuple(Change(**change) for change in item["changes"]),
    )


def _tupled(item: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {**item, **{key: tuple(item[key]) for key in keys}}
