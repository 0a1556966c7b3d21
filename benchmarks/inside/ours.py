"""Our client, as `pytest-vllm load` runs it: plan, load, figures; and the times for the truth."""

from __future__ import annotations

import json
import sys
from array import array
from dataclasses import asdict
from pathlib import Path

from raw import body, job

from pytest_vllm.adapters.load.run import run_load
from pytest_vllm.domain.load.columns import Columns, Ending
from pytest_vllm.domain.load.measurement import Slo
from pytest_vllm.domain.load.metrics import measure
from pytest_vllm.domain.load.plan import LoadPlan, Request


def main(work: dict) -> None:
    requests = tuple(
        Request(body=json.dumps(body(number, work["tokens"])).encode(), want_tokens=work["tokens"])
        for number in range(work["requests"])
    )
    plan = LoadPlan(url=work["url"], requests=requests, concurrency=work["streams"])
    columns = run_load(plan)
    measure(plan, columns, slo=Slo())
    bad = [number for number, how in enumerate(columns.ending) if how != Ending.DONE]
    if bad:
        sys.exit(f"{len(bad)} requests failed, such as {bad[0]}: {columns.failures}")
    assert columns.facts is not None
    Path(work["out"] + ".facts").write_text(json.dumps(asdict(columns.facts)), "utf-8")
    save(Path(work["out"]), columns)


def save(path: Path, columns: Columns) -> None:
    """Write what `raw.save` writes, out of columns."""
    with path.open("wb") as file:
        for number, sent in enumerate(columns.send_ns):
            first, count = columns.first_row[number], columns.events[number]
            array("q", (number, sent, count)).tofile(file)
            columns.event_ns[first : first + count].tofile(file)


main(job())
