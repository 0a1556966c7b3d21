"""What a load that is over says of its prompts."""

from __future__ import annotations

from array import array

from pytest_vllm.adapters.load.level import Level
from pytest_vllm.domain.load.columns import UNTOLD, Columns
from pytest_vllm.domain.load.measurement import Measurement
from pytest_vllm.domain.load.plan import LoadPlan, Request


def test_prompts_that_the_server_counts_otherwise_are_counted() -> None:
    """A count that nobody made, or that the server did not tell, is no difference."""
    made, told = (10, 10, 0, 10), (10, 11, 7, UNTOLD)
    requests = tuple(Request(body=b"{}", prompt_tokens=count) for count in made)
    level = Level(
        plan=LoadPlan(url="http://127.0.0.1:1", requests=requests),
        columns=Columns(prompt_tokens=array("q", told)),
        measurement=Measurement(distributions={}, figures={}, requests=4),
        calibration=None,
        limited_by=(),
    )
    assert level.miscounted == 1
