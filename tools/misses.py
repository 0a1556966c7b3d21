"""Count misses: `python -m tools.misses [TIMES] [DEFECT ...]` meets each defect many times.

Every check that claims a defect is run so often against a simulator that has it and draws fresh
numbers each time. A row tells of a check that let it pass at least once. Without names, all defects
are met but those that wait for a slow server or need the loads of the suite `performance`.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vllm.domain.checks import Outcome
from pytest_vllm.simulator.defects import DEFECTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

TIMES = "PYTEST_VLLM_MISSES_TIMES"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have every case of every test run so many times (this module is the runs' plugin)."""
    numbers = range(int(os.environ[TIMES]))
    metafunc.fixturenames.append("_time")
    metafunc.parametrize("_time", numbers, ids=[f"time{number}" for number in numbers])


def missed(defect: str, folder: Path) -> dict[str, int]:
    """Meet a defect; return how often each check let it pass, in which no case failed."""
    from tests.defects import acceptance  # noqa: PLC0415 - runs load this too

    with acceptance.serving(defect) as url:
        wanted, words = acceptance.nodes(acceptance.claims(defect)), ["-p", __spec__.name]
        golden = folder / "golden.json"
        run = acceptance.accept(url, folder / defect, wanted, golden=golden, words=words)
    caught: dict[str, set[str]] = defaultdict(set)
    seen: dict[str, set[str]] = defaultdict(set)
    for result in run.record.results:
        times = re.findall(r"\btime\d+\b", result.name)
        seen[result.check.id].update(times)
        if result.outcome is Outcome.FAIL:
            caught[result.check.id].update(times)
    assert all(seen.values()), f"{defect}: {run.log}"  # noqa: S101 - else nothing was counted
    return {check: len(times - caught[check]) for check, times in seen.items()}


def main(argv: Sequence[str]) -> int:
    """Print a row for each check that missed its defect."""
    times = int(argv[0]) if argv else 100
    os.environ[TIMES], os.environ["PYTEST_VLLM_TEST_ALL"] = str(times), "1"
    from tests.defects import acceptance  # noqa: PLC0415 - reads the environment

    acceptance.LIMIT_S = 3600
    names = argv[1:] or [
        name
        for name in DEFECTS
        if name not in acceptance.PATIENT
        and not any(
            check.id.startswith(("performance.", "memory.")) for check in acceptance.claims(name)
        )
    ]
    print(f"| defect | check | missed of {times} |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with acceptance.serving(None) as url:
            acceptance.record_golden(url, folder / "golden.json")
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = zip(names, pool.map(lambda name: missed(name, folder), names), strict=True)
            for defect, counts in found:
                for check, count in sorted(counts.items()):
                    if count:
                        print(f"| {defect} | {check} | {count} |", flush=True)
    print(f"{len(names)} defects were met {times} times.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
