"""The loads of a run against those of an earlier one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.adapters.model_listing import list_model
from pytest_vllm.domain.metric_change import Effect, Form
from pytest_vllm.domain.record import Material
from pytest_vllm.domain.settings import Setting
from pytest_vllm.domain.stored import (
    compare_performance,
    facts_of,
    first_run,
    record_facts,
)
from tests.unit.performances import performance
from tests.unit.records import all_passed, make_record

if TYPE_CHECKING:
    from pathlib import Path

FOLDER, HUB = "/models/Qwen3-8B", "Qwen/Qwen3-8B"
COMMIT = "0123456789" * 4
SAMPLED = "model files (read whole, by size and samples)"
LINKED = "model files (read whole, by the Hub's SHA-256)"


@pytest.mark.parametrize(
    ("factor", "effect"),
    [(1.0, Effect.NO_CHANGE), (1.4, Effect.WORSE), (0.7, Effect.BETTER)],
)
def test_loads_are_compared_round_against_round(factor: float, effect: Effect) -> None:
    judgement = compare_performance(performance(), performance(factor))
    assert judgement is not None
    assert judgement.form is Form.STORED
    assert judgement.effect is effect
    assert {change.tolerance for change in judgement.changes} == {0.10}
    assert [change.metric for change in judgement.changes] == [
        "output_tokens_per_s",
        "tpot_p50_ms",
        "ttft_p50_ms",
    ]


def test_an_allowed_change_replaces_the_tolerance() -> None:
    judgement = compare_performance(
        performance(),
        performance(1.3),
        allowed={"output_tokens_per_s": 0.6, "tpot_p50_ms": 0.6, "ttft_p50_ms": 0.6},
    )
    assert judgement is not None
    assert judgement.effect is Effect.NO_CHANGE


def test_less_than_days_differ_by_is_not_held() -> None:
    """Sound servers were rejected under a smaller change that a profile allowed."""
    allowed = {"tpot_p50_ms": 0.005}
    judgement = compare_performance(
        performance(noise=0.002), performance(1.04, noise=0.002), allowed=allowed
    )
    assert judgement is not None
    assert judgement.effect is Effect.NO_CHANGE
    assert {change.metric: change.asked for change in judgement.changes} == {
        "output_tokens_per_s": None,
        "tpot_p50_ms": 0.005,
        "ttft_p50_ms": None,
    }


def test_a_rate_is_judged_from_the_schedule() -> None:
    judgement = compare_performance(performance(open_loop=True), performance(open_loop=True))
    assert judgement is not None
    assert judgement.changes[-1].metric == "ttft_sched_p50_ms"


def test_runs_without_any_load_have_nothing_to_compare() -> None:
    assert compare_performance({}, {}) is None


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ({}, performance(), "the baseline has no load in it: it needs the suite performance"),
        (performance(), {}, "this run has no load in it: it needs the suite performance"),
        (
            performance(),
            performance(levels=("c16",)),
            "no level of load in common: c8 of the baseline, c16 of this run",
        ),
        (
            performance(),
            performance(conditions={"workload": "code"}),
            "other workload: chat of the baseline, code of this run",
        ),
        (
            performance(),
            performance(failed=1),
            "5 of 320 requests of this run failed, at most 0.1 % may",
        ),
        (
            performance(limits=["its core was full"]),
            performance(),
            "the client was the limit of the baseline: its core was full",
        ),
        (
            performance(levels=("c1", "c8")),
            performance(levels=("c1", "c8"), output_tokens=4000),
            (
                "level c1: other output: 64 tokens a request of the baseline, 62.5 of this run, "
                "so they did not do the same work"
            ),
        ),
    ],
)
def test_what_forbids_a_comparison_is_named(
    before: dict[str, Any], after: dict[str, Any], words: str
) -> None:
    judgement = compare_performance(before, after)
    assert judgement is not None
    assert judgement.obstacles[0] == words
    assert judgement.changes == ()
    assert judgement.effect is Effect.CANNOT_TELL


def test_a_level_that_is_not_gated_is_left_out() -> None:
    """A sweep shows levels of a few rounds that cannot be compared."""
    sweep = performance(levels=("c1", "c8"))
    sweep["levels"][0]["gated"] = False
    judgement = compare_performance(sweep, performance())
    assert judgement is not None
    assert judgement.effect is Effect.NO_CHANGE


def test_a_level_that_one_side_lacks_is_not_told_and_the_others_are() -> None:
    judgement = compare_performance(performance(levels=("c1", "c8")), performance())
    assert judgement is not None
    effects = {change.metric: change.effect for change in judgement.changes}
    assert effects["c8/tpot_p50_ms"] is Effect.NO_CHANGE
    assert effects["c1/tpot_p50_ms"] is Effect.CANNOT_TELL


def test_what_must_be_the_same_is_read_out_of_a_record() -> None:
    gpus = [
        {"name": "AMD Instinct MI300X", "driver": "6.14.14", "partition": "SPX/NPS1"},
        {"name": "AMD Instinct MI300X", "driver": "6.14.14", "partition": "SPX/NPS1"},
    ]
    record = make_record(all_passed())
    serve = Setting(name="serve-arg", value=("--dtype=bfloat16", "-tp 2"), source="option")
    record = replace(
        record,
        gpus={"monitor": "amd", "gpus": gpus},
        facts={"model": {"revision": "1a2b"}},
        settings=(serve,),
    )
    facts = record_facts(record)
    assert facts["GPUs"] == "2x AMD Instinct MI300X"
    assert facts["partition of the GPUs"] == "2x SPX/NPS1"
    assert facts["driver"] == "6.14.14"
    assert facts["model revision"] == "1a2b"
    assert facts["arguments"] == "--dtype=bfloat16 -tp 2"
    assert record.server is not None
    assert facts["model"] == (record.server.launch_model or record.server.model) != ""
    other = {**facts, "driver": "7.0.1"}
    judgement = compare_performance(performance(), performance(), facts=(facts, other))
    assert judgement is not None
    assert judgement.obstacles == ("other driver: 6.14.14 of the baseline, 7.0.1 of this run",)


def content_facts(*materials: Material, revision: str = "") -> dict[str, str]:
    """Return by what the content of a model is known."""
    facts = facts_of(
        gpus={},
        facts={"model": {"revision": revision}},
        settings=(),
        server=None,
        materials=materials,
    )
    return {name: value for name, value in facts.items() if name.startswith("model ")}


def model(name: str, sha256: str = "a" * 64, of: str = "") -> Material:
    return Material(kind="model", name=name, sha256=sha256, of=of)


NINE = "listing of 9 files: 7 read whole, 2 by size and samples"


@pytest.mark.parametrize(
    ("material", "revision", "facts"),
    [
        (None, "", {"model revision": ""}),
        (None, "v1", {"model revision": "v1"}),
        (model(FOLDER, "", "not known: it is gone"), "v1", {"model revision": "v1"}),
        (model(FOLDER), "", {"model files": "a" * 64}),
        (model(FOLDER, of=NINE), "", {SAMPLED: "a" * 64}),
        (model(f"{FOLDER}@v1"), "v1", {"model revision": "v1", "model files": "a" * 64}),
        (model(f"{FOLDER}@{COMMIT}"), "", {"model files": "a" * 64}),
        (model(f"{HUB}@{COMMIT}", of=NINE), "main", {"model revision": COMMIT}),
        (model(f"{HUB}@{COMMIT}", ""), "main", {"model revision": "main"}),
        (Material(kind="suite", name="x", sha256="b" * 64), "", {"model revision": ""}),
    ],
)
def test_the_content_of_a_model_is_known_by_commit_or_digest(
    material: Material | None, revision: str, facts: dict[str, str]
) -> None:
    """What `--vllm-revision` says of a folder, vLLM does not read."""
    found = content_facts(*([material] if material else ()), revision=revision)
    assert found == facts


def weights(folder: Path, first: bytes, *, linked: bool = False) -> Path:
    """Make a model with a file that is too large to be read whole; it takes no room."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    file = folder / "model.safetensors"
    if linked:
        blobs = folder.parent / "blobs"
        blobs.mkdir()
        file.symlink_to(blobs / ("c" * 64))
    with file.open("wb") as stream:
        stream.write(first)
        stream.truncate(65 * 2**20)
    return folder


def test_digests_are_compared_where_the_files_were_read_alike(tmp_path: Path) -> None:
    """A folder of links into the Hub's cache has another digest of the same model."""
    made = [
        weights(tmp_path / "old", b"old"),
        weights(tmp_path / "new", b"new"),
        weights(tmp_path / "linked", b"old", linked=True),
    ]
    (made[1] / "more.json").write_text("{}")
    listings = map(list_model, made)
    facts = [content_facts(model(FOLDER, it.sha256, it.of)) for it in listings]
    assert [list(side) for side in facts] == [[SAMPLED], [SAMPLED], [LINKED]]
    compared = [
        compare_performance(performance(), performance(), facts=(facts[0], other))
        for other in facts
    ]
    reasons = [judgement.obstacles for judgement in compared if judgement is not None]
    assert [len(found) for found in reasons] == [0, 1, 0]
    assert reasons[1][0].startswith(f"other {SAMPLED}: ")


def test_nothing_is_known_of_an_attached_server() -> None:
    """Arguments that somebody gave beside its URL are not those that it runs with."""
    serve = Setting(name="serve-arg", value=("--max-model-len=2048",), source="ini")
    facts = facts_of(gpus={}, facts={}, settings=(serve,), server=None, backend="attach")
    assert set(facts.values()) == {""}
    started = facts_of(gpus={}, facts={}, settings=(), server=None, backend="docker")
    assert started["arguments"] == "none"


def test_a_first_run_says_how_it_becomes_a_baseline() -> None:
    assert "--vllm-baseline=20261123-1" in first_run("20261123-1")
    assert "nothing was compared" in first_run("x")
