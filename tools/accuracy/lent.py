"""Forecast, log and monitor in one table, for the servers that ran on a lent GPU."""

from __future__ import annotations

import json
from typing import Any

from tools.accuracy.reckoning import DATA, gib, percent, prose, rows

GIB = 2**30
_HEAD = ("served", "what", "forecast", "log", "off", "monitor")
_SINCE = {
    ("memory.weights.as-forecast", "fail"): (
        " (weights that are quantized while they are loaded have a bound of their own since)"
    ),
    ("memory.kv-cache.is-real", "not run"): " (the run was given 120 s instead of the default 600)",
}
"""What to know of results that no run of today would repeat."""


def measured() -> list[dict[str, Any]]:
    """Return what `tools.gpu.case` brought back, runs that ended in PROMOTE first."""
    files = sorted((DATA / "gpu").glob("*.json"))
    found = [json.loads(file.read_text("utf-8")) for file in files]
    return sorted(found, key=lambda case: _decision(case) != "PROMOTE")


def _decision(case: dict[str, Any]) -> str:
    return str(case["run"]["record"]["verdict"]["decision"])


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
    first = found[0]
    return [
        "## A lent GPU: forecast, log and monitor",
        "",
        *prose(
            f"{' and '.join(sorted(hosts))}, driver {first['before']['driver_version']}, vLLM "
            f"{first['host']['vllm']}, torch {first['host']['torch']}, {first['date']}. "
            "`pytest-vllm fit --gpus auto` was asked first, with the version of vLLM; then `pytest "
            "--vllm-backend=process --vllm-suite=memory` launched the server with random weights "
            "of the true shapes and ran the suite (`tools/gpu`). The columns are that forecast, "
            "what the server logged, and what our monitor `nvidia` (NVML) sampled each second. "
            "Records and logs are in `tests/data/accuracy/gpu`. GiB of the GPU."
        ),
        "",
        *rows(_HEAD, [line for case in found for line in _quantities(case)]),
        "",
        *prose(
            "Context: the log tells what came after its first look at the GPU, when CUDA held "
            "0.52 GiB already. In use: the whole GPU. Where a check below names a forecast of "
            "blocks, it is that of the run's own preflight, which did not know the version of "
            "vLLM and reckoned with 0.32."
        ),
        *(line for case in found for line in _outcome(case)),
    ]


def _quantities(case: dict[str, Any]) -> list[tuple[str, ...]]:
    forecast, record = case["fit"]["document"], case["run"]["record"]
    told = record["server_facts"]
    parts = {part["name"]: part["bytes"] for part in forecast["parts"]}
    used = _used(record)
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
            "in use when ready",
            forecast["devices"][0]["total_bytes"] - parts["margin"],
            None,
            seen=used["ready"],
        ),
        ("most in use", "", "", "", gib(used["most"])),
        ("in use before", "", "", "", gib(used["first"])),
        ("in use after the stop", "", "", "", gib(used["last"])),
    ]
    return [(case["case"], *line) for line in lines]


def _outcome(case: dict[str, Any]) -> list[str]:
    """Return how the run ended, and what it observed."""
    forecast, record = case["fit"]["document"], case["run"]["record"]
    words = " ".join(f"`{word}`" for word in case["arguments"])
    outcomes = [result["outcome"] for result in record["results"]]
    ended = f"{_decision(case)} in {case['run']['seconds']:.0f} s"
    counted = ", ".join(f"{outcomes.count(kind)} {kind}" for kind in dict.fromkeys(outcomes))
    return [
        "",
        f"### {case['case']}",
        "",
        f"{case['model']}, {words}: {forecast['verdict']}, then {ended}; {counted}.",
        "",
        *[f"- {_result(result)}" for result in record["results"] if _is_told(result)],
        *[f"- {name}: {value}" for name, value in _observed(record)],
    ]


def _observed(record: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what checks observed; the last where a check observed twice."""
    return list({seen["name"]: seen["value"] for seen in record["observations"]}.items())


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
    told = result["message"].partition("\n")[0].removeprefix("not run: ")
    why = _SINCE.get((result["check"]["id"], result["outcome"]), "")
    return f"{result['check']['id']} {result['outcome']}: {told}{why}"
