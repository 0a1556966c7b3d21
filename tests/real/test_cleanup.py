"""Nothing outlives a run, however it ends: eight ways to die, two backends, several moments.

A light server with vLLM's process tree stands in for vLLM, so that the matrix takes minutes: every
moment of every way is tried once, each way ten times where PYTEST_VLLM_TEST_ALL is set.
"""

from __future__ import annotations

import os
import signal
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.real.cleanup.cell import MOMENTS, NUMBERS, Cell, Outcome, run_cell
from tests.real.cleanup.image import Images, stand_in_images

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TIMES = 10 if os.environ.get("PYTEST_VLLM_TEST_ALL") else 0
AT_ONCE = 4
CELLS = [
    Cell(way=way, backend=backend, moment=moments[n % len(moments)], repetition=n)
    for way, moments in MOMENTS.items()
    for backend in ("process", "docker")
    for n in range(TIMES or len(moments))
]


@pytest.fixture(scope="module")
def images(real_image_bash: str) -> Iterator[Images]:
    """Images of the stand-in."""
    with stand_in_images(real_image_bash) as made:
        yield made


@pytest.fixture(scope="module")
def interruptible() -> Iterator[None]:
    """Let Ctrl-C reach what we start; a shell starts background jobs deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest,
    images: Images,
    real_model: str,
    tmp_path_factory: pytest.TempPathFactory,
    interruptible: None,
) -> Iterator[dict[Cell, Future[Outcome]]]:
    """Run the wanted cells, a few at a time: they mostly wait."""
    del interruptible
    folder = tmp_path_factory.mktemp("cells")
    wanted = [
        item.callspec.params["cell"]
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and "cell" in getattr(getattr(item, "callspec", None), "params", {})
    ]
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        yield {
            cell: pool.submit(
                run_cell, cell, folder=folder / str(cell), images=images, model=real_model
            )
            for cell in wanted
        }
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def expected_codes(cell: Cell) -> set[int]:
    """Return what pytest may end with."""
    if cell.way in ("end", "engine", "set-up"):
        if cell.moment == "refused" and cell.backend == "process":
            return {75}  # the port is taken: the host's fault
        return {0} if cell.moment in ("passes", "stubborn", "stopping") else {1}
    number = NUMBERS[cell.way]
    if cell.way == "kill":
        return {-number}
    by_signal = 2 if number == signal.SIGINT else 128 + number
    # What comes while the server is being stopped cannot change what the checks have shown.
    return {by_signal, 0} if cell.moment == "stopping" else {by_signal}


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_nothing_is_left(
    cell: Cell,
    outcomes: dict[Cell, Future[Outcome]],
    record_property: Callable[[str, object], None],
) -> None:
    outcome = outcomes[cell].result()
    record_property("clean_s", round(outcome.clean_s, 2))
    if outcome.left:
        pytest.fail("\n".join(["left:", *outcome.left, outcome.output]), pytrace=False)
    assert outcome.code in expected_codes(cell), outcome.output
    if cell.way not in ("end", "set-up"):
        assert outcome.seen >= 2
