"""Two runs against each other: machine, checks and figures in one result."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.metric_change import Effect
from pytest_vllm.domain.record import Material
from pytest_vllm.domain.run_comparison import RunComparison, Sameness, Side, compare_runs
from pytest_vllm.domain.settings import Setting
from pytest_vllm.domain.stored import record_facts
from tests.unit.performances import performance
from tests.unit.records import all_passed, make_record, make_result

if TYPE_CHECKING:
    from pytest_vllm.domain.record import RunRecord

GPU = {"name": "AMD Instinct MI300X", "driver": "6.16.6"}


def side(record: RunRecord, name: str = "a") -> Side:
    return Side(
        name=name, performance=record.performance, facts=record_facts(record), record=record
    )


def run(factor: float = 1.0, *, gpu: Any = GPU, count: int = 8, **changes: Any) -> RunRecord:
    """Return a run on GPUs with a load."""
    gpus = {"monitor": "amd", "gpus": [dict(gpu)] * count}
    model = {"model": {"revision": changes.pop("revision", "abc123")}}
    arguments = changes.pop("arguments", ("--max-model-len", "2048"))
    record = make_record(changes.pop("results", None), **changes)
    settings = tuple(
        replace(item, value=arguments) if item.name == "serve-arg" else item
        for item in record.settings
    )
    return replace(
        record, gpus=gpus, facts=model, settings=settings, performance=performance(factor)
    )


def test_the_same_machine_is_compared() -> None:
    found = compare_runs(side(run()), side(run(1.4)))
    assert {fact.same for fact in found.machine if fact.name != "partition of the GPUs"} == {
        Sameness.SAME
    }
    assert found.performance is not None
    assert found.performance.effect is Effect.WORSE
    assert found.exit_code == 1
    assert not found.forced
    assert [rounds.metric for rounds in found.rounds] == [
        "output_tokens_per_s",
        "tpot_p50_ms",
        "ttft_p50_ms",
    ]
    assert {len(rounds.base) for rounds in found.rounds} == {5}


OTHERS = [
    ({"gpu": {**GPU, "name": "AMD Instinct MI325X"}}, "GPUs"),
    ({"count": 4}, "GPUs"),
    ({"count": 0}, "GPUs"),
    ({"gpu": {**GPU, "driver": "6.16.13"}}, "driver"),
    ({"gpu": {**GPU, "partition": "CPX"}}, None),
    ({"revision": "def456"}, "model revision"),
    ({"arguments": ("--max-model-len", "4096")}, "arguments"),
]


@pytest.mark.parametrize(("changes", "name"), OTHERS)
def test_what_differs_is_named_and_forbids_figures(
    changes: dict[str, Any], name: str | None
) -> None:
    found = compare_runs(side(run()), side(run(1.4, **changes)))
    assert found.performance is not None
    if name is None:  # only one side tells it: said, and no reason to refuse
        (fact,) = [fact for fact in found.machine if fact.name == "partition of the GPUs"]
        assert fact.same is Sameness.NOT_KNOWN
        assert not found.performance.obstacles
        return
    assert {fact.name for fact in found.machine if fact.same is Sameness.DIFFERS} >= {name}
    assert any(reason.startswith(f"other {name}: ") for reason in found.performance.obstacles)
    assert found.performance.changes == ()
    assert found.could_be_forced
    assert found.exit_code == 75


def folder(digest: str, **changes: Any) -> RunRecord:
    """Return a run of a model in a folder."""
    told = Material(kind="model", name="/models/Qwen3-8B", sha256=digest * 64)
    return run(revision="", materials=(told,), **changes)


def test_another_model_at_the_same_path_is_named_and_forbids_figures() -> None:
    found = compare_runs(side(folder("a")), side(folder("b")))
    assert found.performance is not None
    assert found.performance.obstacles == (
        f"other model files: {'a' * 64} of the base, {'b' * 64} of the candidate",
    )
    assert found.exit_code == 75
    assert compare_runs(side(folder("a")), side(folder("a", factor=1.01))).exit_code == 0


@pytest.mark.parametrize(
    ("base", "candidate", "names"),
    [
        (folder("a"), run(), {"model files", "model revision"}),
        (folder("a"), run(revision=""), {"model files", "model revision"}),
        (run(revision=""), run(), {"model revision"}),
        (run(), run(backend="attach"), {"arguments"}),
        (run(backend="attach"), run(backend="attach"), {"arguments"}),
    ],
)
def test_what_nobody_knows_of_both_is_said_and_forbids_nothing(
    base: RunRecord, candidate: RunRecord, names: set[str]
) -> None:
    """As of records without materials, and of servers that somebody else started."""
    found = compare_runs(side(base), side(candidate))
    unknown = {fact.name for fact in found.machine if fact.same is Sameness.NOT_KNOWN}
    assert unknown == {"partition of the GPUs", *names}
    assert found.performance is not None
    assert not found.performance.obstacles


@pytest.mark.parametrize("changes", [changes for changes, name in OTHERS if name])
def test_force_compares_and_keeps_saying_what_was_overruled(changes: dict[str, Any]) -> None:
    found = compare_runs(side(run()), side(run(1.4, **changes)), force=True)
    assert found.performance is not None
    assert found.performance.effect is Effect.WORSE
    refused = compare_runs(side(run()), side(run(1.4, **changes)))
    assert refused.performance is not None
    assert found.forced == refused.performance.obstacles != ()


def test_force_changes_nothing_where_nothing_is_in_the_way() -> None:
    assert compare_runs(side(run()), side(run(1.4)), force=True) == compare_runs(
        side(run()), side(run(1.4))
    )


def test_nothing_can_be_forced_out_of_a_run_without_a_load() -> None:
    bare = replace(run(), performance={})
    found = compare_runs(side(run()), side(bare), force=True)
    assert found.performance is not None
    assert "has no load in it" in found.performance.obstacles[0]
    assert found.forced == ()
    assert not found.could_be_forced
    assert found.exit_code == 75


def test_what_may_differ_on_purpose_is_named_and_forbids_nothing() -> None:
    base, candidate = run(), run(1.4)
    image = Setting(name="image", value="rocm/vllm:0.33.0", source="option")
    variables = Setting(name="env", value=("VLLM_ROCM_USE_AITER=1",), source="option")
    candidate = replace(candidate, settings=(*candidate.settings[1:], image, variables))
    found = compare_runs(side(base), side(candidate))
    others = {fact.name: fact for fact in found.others}
    assert others["image"].same is Sameness.DIFFERS
    assert others["variables"].candidate == "VLLM_ROCM_USE_AITER=1"
    assert found.performance is not None
    assert not found.performance.obstacles


@pytest.mark.parametrize(
    ("before", "after", "code"),
    [
        (Outcome.PASS, Outcome.PASS, 0),
        (Outcome.PASS, Outcome.FAIL, 1),
        (Outcome.PASS, Outcome.ERROR, 75),
        (Outcome.PASS, Outcome.NOT_RUN, 75),
        (Outcome.ERROR, Outcome.FAIL, 1),
        (Outcome.NOT_RUN, Outcome.FAIL, 1),
        (Outcome.WAIVED, Outcome.FAIL, 1),
        (Outcome.FAIL, Outcome.WAIVED, 0),
        (Outcome.FAIL, Outcome.PASS, 0),
        (Outcome.PASS, Outcome.NOT_APPLICABLE, 0),
    ],
)
def test_a_check_that_broke_is_worse(before: Outcome, after: Outcome, code: int) -> None:
    runs = [
        replace(make_record((*all_passed(), make_result("chat.x.y", outcome))), performance={})
        for outcome in (before, after)
    ]
    found = compare_runs(*map(side, runs))
    assert found.exit_code == code


def test_loads_alone_have_neither_checks_nor_machine() -> None:
    loads = [Side(name=name, performance=performance()) for name in "ab"]
    found = compare_runs(*loads)
    assert isinstance(found, RunComparison)
    assert found.checks is None
    assert found.machine == ()
    assert found.exit_code == 0
