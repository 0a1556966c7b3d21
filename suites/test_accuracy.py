"""Whether the model still solves problems; takes minutes, so it runs only when it is named."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pytest_vllm import Client, check, not_applicable, suite
from pytest_vllm.adapters.harness import run_task
from pytest_vllm.domain.interval import Score, is_below, is_worse, task_share
from pytest_vllm.plugin.accuracy import answer_questions
from pytest_vllm.plugin.golden import differ, load_golden

if TYPE_CHECKING:
    from pytest_vllm.domain.target import Target

pytestmark = suite("accuracy", optional=True)

TASK_S = 3600.0
"""Seconds for a task of the harness."""


@check("accuracy.arithmetic.floor", ref="Q15")
def test_arithmetic(vllm: Client, vllm_target: Target) -> None:
    """The share of word problems solved MUST NOT be below floor or golden by more than chance."""
    score = answer_questions(vllm, concurrency=_number(vllm_target, "concurrency") or 1)
    vllm.observe("accuracy.arithmetic", score)
    named = isinstance(vllm_target.settings["golden"].value, str)
    golden = load_golden(vllm_target, vllm) if named else None
    if golden is not None and golden.accuracy is not None and is_worse(score, golden.accuracy):
        differ(golden, vllm, f"{score}, the golden {golden.accuracy}")
    floor = _number(vllm_target, "accuracy-floor")
    if floor is None and (golden is None or golden.accuracy is None):
        not_applicable(
            f"{score}; neither --vllm-accuracy-floor=PERCENT nor a golden says what is required"
        )
    if floor is not None:
        assert not is_below(score, floor / 100), f"{score}, required {floor} %"


@check("accuracy.task.floor", ref="Q15")
def test_task(vllm: Client, vllm_target: Target) -> None:
    """The score of the named task MUST NOT lie below the floor by more than chance."""
    task = vllm_target.settings["accuracy-task"].value
    if not isinstance(task, str):
        not_applicable("no task is named with --vllm-accuracy-task=NAME")
    document = run_task(
        task,
        url=vllm.server.url,
        model=vllm.model,
        api_key=os.environ.get(vllm.server.api_key_env, "") if vllm.server.api_key_env else "",
        concurrency=_number(vllm_target, "concurrency") or 1,
        timeout_s=TASK_S,
    )
    metric, share, total = task_share(document, task)
    score = Score(right=round(share * total), total=total)
    vllm.observe(f"accuracy.{task}", f"{metric}: {score}")
    floor = _number(vllm_target, "accuracy-floor")
    if floor is None:
        not_applicable(f"{score}; no floor is set with --vllm-accuracy-floor=PERCENT")
    assert not is_below(score, floor / 100), f"{metric}: {score}, required {floor} %"


def _number(target: Target, name: str) -> int | None:
    value = target.settings[name].value
    return None if value is None else int(str(value).partition(".")[0])
