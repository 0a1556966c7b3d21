"""Small plans of loads, for tests."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.load.prompts import build_plan
from pytest_vllm.domain.load.traffic import Traffic
from pytest_vllm.domain.load.workload import read_workload

if TYPE_CHECKING:
    from pytest_vllm.adapters.load.connection import LoadServer
    from pytest_vllm.domain.load.plan import LoadPlan, Request

FEW = Traffic(requests=6, concurrency=2)
SIZES = {"prompt_tokens": 100, "output_tokens": 4}


def plan_of(server: LoadServer, traffic: Traffic = FEW, **table: Any) -> LoadPlan:
    return build_plan(server, read_workload({**SIZES, **table}), traffic)


def body(request: Request) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(request.body)
    return found
