"""The weights of a rank against what vLLM's own model classes allocate."""

from __future__ import annotations

from pytest_vllm.domain.memory.weights import weigh
from tests.unit import oracle_cases as oracle
from tools.accuracy.reckoning import configs, gib, prose, rows

_HEAD = ("model", "layout", "vLLM's classes", "forecast", "difference", "GiB", "positions")


def section() -> list[str]:
    """Return the section of the page: the models of the table in full, the rest as a sum."""
    record = oracle.record()
    lines, others, exact, total = [], 0, 0, 0
    for name in oracle.names():
        case, answer = oracle.case(name), record["answers"][name]
        rank = weigh(oracle.model(case), oracle.serving(case))[case.get("stage", 0)]
        off = rank.parameters_bytes - answer["bytes"]
        rope = rank.rope_bytes - answer["rope"]
        same = off == rope == 0
        exact, total = exact + same, total + 1
        if same and (case["model"] not in configs() or "change" in case):
            others += 1
            continue
        lines.append(
            (
                case["model"].rpartition("/")[2],
                name.removeprefix(case["model"].rpartition("/")[2]).strip() or "tp1",
                f"{answer['bytes']:,}",
                f"{rank.parameters_bytes:,}",
                f"{off:+,}" if off else "0",
                gib(answer["bytes"]),
                f"{rope:+,}" if rope else "0",
            )
        )
    asked = {oracle.case(name)["model"] for name in oracle.names()}
    missing = sorted(set(configs()) - asked)
    return [
        "## Weights of a rank against vLLM's own classes",
        "",
        *prose(
            f"{exact} of {total} records are equal to the byte. `tools/oracle.py` built the model "
            f"class of vLLM {record['version']} for one rank on PyTorch's meta device (platform "
            f"{record['platform']}) and added up its parameters and its tables of rotary "
            "positions; the forecast is the closed form of today. `difference` is that of the "
            "parameters, `positions` that of the tables, both in bytes. Layouts: tp, pp and ep are "
            "tensor, pipeline and expert parallel sizes."
        ),
        "",
        *prose(
            f"The table has the {len(configs())} models of this page as they are published; "
            f"{others} more records, of {len(asked - set(configs()))} other models and of these "
            "with few layers and other ways to quantize, are equal as well and stand in "
            "`tests/data/oracle/record.json`. "
            + (
                f"Not asked, for they share their shapes with another: {', '.join(missing)}."
                if missing
                else "Every model of the table was built."
            )
        ),
        "",
        *rows(_HEAD, lines),
    ]
