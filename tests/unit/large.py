"""A run larger than any that we know: 20,000 checks, 200 of them failed, more than 10 MB."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.checks import Outcome
from tests.unit.records import make_exchange, make_record, make_result

if TYPE_CHECKING:
    from pytest_vllm.domain.record import RunRecord

CHECKS, EACH_FAILS = 20_000, 100
SUITES = ("chat", "completions", "errors", "messages", "stream")


def large_record() -> RunRecord:
    exchange = make_exchange(response_body="some words of a reply " * 100)
    return make_record(
        tuple(
            make_result(
                f"{SUITES[n * len(SUITES) // CHECKS]}.point{n}.holds",
                Outcome.PASS if n % EACH_FAILS else Outcome.FAIL,
                "" if n % EACH_FAILS else f"{n} is not {n + 1}",
                exchanges=() if n % EACH_FAILS else (exchange,) * 3,
            )
            for n in range(CHECKS)
        )
    )
