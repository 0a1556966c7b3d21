"""What `--vllm-baseline` holds against an earlier run besides figures: model and arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.domain.performance import read_performance
from pytest_vllm.domain.profile import Profile
from pytest_vllm.plugin.load import Load
from pytest_vllm.plugin.materials import model_materials
from pytest_vllm.plugin.performance import Performance
from pytest_vllm.plugin.state import RunState
from tests.adapters.test_ready import make_target
from tests.unit.performances import performance
from tests.unit.records import make_record
from tests.unit.test_performance_suite import SERVER, SWEEP

if TYPE_CHECKING:
    from pathlib import Path


class Measured(Performance):
    """Has its figures already."""

    def measured(self, *_words: object) -> Any:
        """Send nothing."""


def state_of(folder: Path, **target: Any) -> RunState:
    """Return a run of a model in a folder that has its figures."""
    return RunState(
        target=make_target(model=str(folder), **target),
        profile=Profile(name="x"),
        facts={"model": {"kind": "folder", "path": str(folder)}},
        performance=performance(),
    )


def obstacles(state: RunState) -> tuple[str, ...]:
    """Judge it, and return what forbids to compare it with its baseline."""
    measures = Measured(state, Load(SERVER), read_performance("mine", SWEEP))
    judgement = measures.judge(None)  # type: ignore[arg-type]
    assert judgement is not None
    return judgement.obstacles


def test_weights_that_changed_at_the_same_path_are_no_baseline(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    state = state_of(tmp_path, image="rocm/vllm:1", serve_arg="--max-model-len 2048")
    known = tuple(model_materials(state))
    state.baseline = make_record(materials=known, performance=performance())
    assert obstacles(state) == ()
    (tmp_path / "config.json").write_text('{"changed": 1}')
    (reason,) = obstacles(state)
    assert reason.startswith("other model files (read whole): ")


@pytest.mark.parametrize(("backend", "compared"), [("docker", False), ("attach", True)])
def test_nobody_knows_the_arguments_of_an_attached_server(
    tmp_path: Path, backend: str, *, compared: bool
) -> None:
    where = {"docker": {"image": "rocm/vllm:1"}, "attach": {"url": "http://h:1"}}[backend]
    state = state_of(tmp_path, **where)
    state.baseline = make_record(performance=performance())
    found = obstacles(state)
    assert (found == ()) is compared
    assert compared or found[0].startswith("other arguments: --max-model-len 2048 of the baseline")
