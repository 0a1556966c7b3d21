"""Nothing outlives a run, however it ends: eight ways to die, two backends, several moments.

A light server with vLLM's process tree stands in for vLLM, so that the matrix takes minutes: nearly
every moment of every way is tried once. Where PYTEST_VLLM_TEST_ALL is set each way is tried ten
times, and some of them with real vLLM. Beside all this somebody else's server runs, and goes on.
"""

from __future__ import annotations

import os
import signal
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.real.cleanup.bystander import Bystander, bystander
from tests.real.cleanup.cell import MOMENTS, NUMBERS, Cell, Outcome, run_cell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.real.cleanup.server import Server

ALL = bool(os.environ.get("PYTEST_VLLM_TEST_ALL"))
TIMES = 10
AT_ONCE = 6
ALIKE = ("int-twice", "hup")
"""Ways that differ little from the one before: every other moment of them will do in CI."""
CELLS = [
    Cell(way=way, backend=backend, moment=moments[n % len(moments)], repetition=n)
    for way, moments in MOMENTS.items()
    for backend in ("process", "docker")
    for n in (range(TIMES) if ALL else range(0, len(moments), 1 + (way in ALIKE)))
]
REAL_CELLS = [
    Cell(way=way, backend=backend, moment=moment, real=True)
    for way, moment in (
        ("int-twice", "running"),
        ("kill", "starting"),
        ("kill", "xdist"),
        ("engine", "running"),
    )
    for backend in ("process", "docker")
]


@pytest.fixture(scope="module")
def others(stand_in_server: Server) -> Iterator[Bystander]:
    """Somebody else's container and process, called like ours."""
    with bystander(stand_in_server.image) as made:
        yield made


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest,
    stand_in_server: Server,
    others: Bystander,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[Cell, Future[Outcome]]]:
    """Run the wanted cells, a few at a time: they mostly wait."""
    del others
    folder = tmp_path_factory.mktemp("cells")
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        yield {
            cell: pool.submit(run_cell, cell, folder=folder / str(cell), server=stand_in_server)
            for cell in _wanted(request.session.items)
            if not cell.real
        }
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _wanted(items: list[pytest.Item]) -> list[Cell]:
    parameters = [item.callspec.params for item in items if hasattr(item, "callspec")]
    return [given["cell"] for given in parameters if isinstance(given.get("cell"), Cell)]


def expected_codes(cell: Cell) -> set[int]:
    """Return what pytest may end with."""
    if cell.way in ("end", "engine", "set-up"):
        if cell.moment == "refused" and cell.backend == "process":
            return {75}  # the port is taken: the host's fault
        if cell.moment == "server":
            return {75}  # killed from outside: by the host for want of memory, for all we know
        return {0} if cell.moment in ("passes", "stubborn", "stopping") else {1}
    number = NUMBERS[cell.way]
    if cell.way == "kill":
        return {-number}
    by_signal = 2 if number == signal.SIGINT else 128 + number
    # What comes while the server is being stopped cannot change what the checks have shown.
    return {by_signal, 0} if cell.moment == "stopping" else {by_signal}


def tell(outcome: Outcome, record_property: Callable[[str, object], None]) -> None:
    """Put the figures of `docs/cleanup.md` into the JUnit file."""
    record_property("left", len(outcome.left))
    record_property("clean_s", round(outcome.clean_s, 2))


def judge(cell: Cell, outcome: Outcome) -> None:
    """Fail on what is left, and on an exit code that tells another story."""
    if outcome.left:
        pytest.fail("\n".join(["left:", *outcome.left, outcome.output]), pytrace=False)
    assert outcome.code in expected_codes(cell), outcome.output
    if cell.way not in ("end", "set-up"):
        assert outcome.seen >= 1 + (cell.moment != "preflight")  # there was something to clean up


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_nothing_is_left(
    cell: Cell,
    outcomes: dict[Cell, Future[Outcome]],
    others: Bystander,
    record_property: Callable[[str, object], None],
) -> None:
    outcome = outcomes[cell].result()
    tell(outcome, record_property)
    judge(cell, outcome)
    assert others.harmed() == []


if ALL:  # real vLLM takes a minute each

    @pytest.mark.parametrize("cell", REAL_CELLS, ids=str)
    def test_nothing_of_real_vllm_is_left(
        cell: Cell,
        real_server: Server,
        tmp_path_factory: pytest.TempPathFactory,
        record_property: Callable[[str, object], None],
    ) -> None:
        outcome = run_cell(cell, folder=tmp_path_factory.mktemp("real") / "run", server=real_server)
        tell(outcome, record_property)
        judge(cell, outcome)
