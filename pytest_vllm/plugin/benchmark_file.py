"""`benchmark.json` of a run: what pytest-benchmark itself would save of its loads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    import pytest

FILE = "benchmark.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkFile:
    """The file, or why there is none.

    Attributes:
        text: Its content, empty where nothing was measured.
        problem: What stood in the way, empty for nothing.
    """

    text: str = ""
    problem: str = ""


def benchmark_file(config: pytest.Config) -> BenchmarkFile:
    """Have pytest-benchmark write down what it carried, as `--benchmark-json` does.

    Every part comes from its own hooks, so that its form is its own, and what other plugins add to
    it is in it too. The text still holds secrets, like all evidence before `EvidenceFolder`.
    """
    session: Any = getattr(config, "_benchmarksession", None)  # no public way
    if session is None or not any(not one.has_error for one in session.benchmarks):
        return BenchmarkFile()
    from pytest_benchmark import utils  # noqa: PLC0415 - it may be turned off

    dumps: Any = utils.safe_dumps
    hook = config.hook
    try:
        machine_info = session.get_machine_info()
        commit_info = hook.pytest_benchmark_generate_commit_info(config=config)
        hook.pytest_benchmark_update_commit_info(config=config, commit_info=commit_info)
        found = hook.pytest_benchmark_generate_json(
            config=config,
            benchmarks=session.benchmarks,
            include_data=True,
            machine_info=machine_info,
            commit_info=commit_info,
        )
        hook.pytest_benchmark_update_json(
            config=config, benchmarks=session.benchmarks, output_json=found
        )
        return BenchmarkFile(text=f"{dumps(found, ensure_ascii=True, indent=1)}\n")
    except Exception as error:  # noqa: BLE001 - hooks of anybody; the evidence must be written
        return BenchmarkFile(
            problem=f"{FILE} could not be made by pytest-benchmark: {one_line(repr(error))}"
        )
