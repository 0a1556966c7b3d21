"""Forecast, log and monitor in one table, for the servers that ran on a lent GPU."""

from __future__ import annotations

import json
from typing import Any

from tools.accuracy.reckoning import DATA, gib, percent, prose, rows

GIB = 2**30
_HEAD = ("what", "forecast", "log", "off", "monitor")


def measured() -> list[dict[str, Any]]:
    """Return what `tools.gpu.case` brought back."""
    files = sorted((DATA / "gpu").glob("*.json"))
    return [json.loads(file.read_text("utf-8")) for file in files]


def weights(forecast: dict[str, Any]) -> int:
    """Return what `Model loading took` should say."""
    kinds = ("weights", "rope", "MLA copies", "padding")
    return sum(part["bytes"] for part in forecast["parts"] if part["name"] in kinds)


def section() -> list[str]:
    """Return the section of the page."""
    found = measured()
    if not found:
        return []
    hosts = {case["before"].get("name", "") for case in found}
    return [
        "## A lent GPU: forecast, log and monitor",
        "",
        *prose(
            f"{' and '.join(sorted(hosts))}, driver {found[0]['before']['driver_version']}, vLLM "
            f"{found[0]['host']['vllm']}, torch {found[0]['host']['torch']}, {found[0]['date']}. "
            "`pytest-vllm fit --gpus auto` was asked first, with the version of vLLM; then `pytest "
            "--vllm-backend=process --vllm-suite=memory` launched the server with random weights "
            "of the true shapes and ran the suite (`tools/gpu`). The columns are that forecast, "
            "what the server logged, and what our monitor `nvidia` sampled meanwhile. Whole "
            "records and logs are in `tests/data/accuracy/gpu`. GiB of one GPU."
        ),
        *(line for case in found for line in _case(case)),
    ]


def _case(case: dict[str, Any]) -> list[str]:
    forecast, record = case["fit"]["document"], case["run"]["record"]
    told = record["server_facts"]
    parts = {part["name"]: part["bytes"] for part in forecast["parts"]}
    used = _used(record)
    words = " ".join(f"`{word}`" for word in case["arguments"])
    lines = [
        _sizes("weights", weights(forecast), told["weights_gib"]),
        _sizes("KV cache", forecast["kv_bytes_per_rank"], told["kv_cache_gib"]),
        (
            "KV tokens",
            f"{forecast['kv_tokens']:,}",
            f"{told['kv_tokens']:,}",
            percent(forecast["kv_tokens"], told["kv_tokens"]),
            "",
        ),
        _sizes("peak activation", parts["activation"], told["peak_activation_gib"]),
        _sizes("graphs", parts["graphs"], told["graph_gib"]),
        _sizes("context", parts["context"], told["non_torch_gib"], off=False),
        _sizes(
            "in use when ready, all of the GPU",
            forecast["devices"][0]["total_bytes"] - parts["margin"],
            None,
            seen=used["ready"],
        ),
        ("most in use", "", "", "", gib(used["most"])),
        ("in use at first", "", "", "", gib(used["first"])),
        ("in use after the stop", "", "", "", gib(used["last"])),
    ]
    outcomes = [result["outcome"] for result in record["results"]]
    ended = f"{record['verdict']['decision']} in {case['run']['seconds']:.0f} s"
    counted = ", ".join(f"{outcomes.count(kind)} {kind}" for kind in dict.fromkeys(outcomes))
    return [
        "",
        f"### {case['case']}",
        "",
        f"{case['model']}, {words}: {forecast['verdict']}, then {ended}.",
        "",
        *rows(_HEAD, lines),
        "",
        f"Checks of the run: {counted}.",
        *[f"- {_result(result)}" for result in record["results"] if _is_told(result)],
        *[f"- {seen['name']}: {seen['value']}" for seen in record["observations"]],
    ]


def _sizes(
    name: str, forecast: float, told: float | None, *, seen: float | None = None, off: bool = True
) -> tuple[str, ...]:
    return (
        name,
        gib(forecast),
        "" if told is None else f"{told:.2f}",
        percent(forecast, told * GIB) if told and off else "",
        "" if seen is None else gib(seen),
    )


def _used(record: dict[str, Any]) -> dict[str, int]:
    """Return what the first GPU used: at first, when the server was ready, at most, at last."""
    samples = record["gpu_samples"]
    column = [
        (at, used)
        for at, used in zip(samples["time_s"], samples["gpus"][0]["vram_used_bytes"], strict=True)
        if used is not None
    ]
    began = sum(phase["duration_s"] or 0 for phase in record["phases"])
    ready = next((used for at, used in column if at >= began), column[-1][1])
    return {
        "first": column[0][1],
        "ready": ready,
        "most": max(used for _, used in column),
        "last": column[-1][1],
    }


def _is_told(result: dict[str, Any]) -> bool:
    return result["outcome"] not in ("pass", "not applicable")


def _result(result: dict[str, Any]) -> str:
    return f"{result['check']['id']} {result['outcome']}: {result['message']}"
