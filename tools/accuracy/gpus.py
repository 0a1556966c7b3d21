"""Forecast and measurement side by side, for servers that ran on real GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tools.accuracy.reckoning import gib, percent, prose, reckon, rows, table

if TYPE_CHECKING:
    from pytest_vllm.domain.fit import Forecast

GIB = 2**30
_COMMON = 0.01
_HEAD = ("model", "GPU", "vLLM", "arguments", "weights: forecast", "log", "off",
         "KV tokens: forecast", "log", "off", "activation: forecast", "log", "graphs: forecast",
         "log")  # fmt: skip


def logged() -> list[tuple[dict[str, Any], Forecast]]:
    """Return every row of a log with the forecast for it."""
    found = []
    for row in table("h100.toml")["row"]:
        keys = ("arguments", "version", "positions")
        given = {key: row[key] for key in keys if key in row}
        found.append((row, reckon(row["model"], row["gpu"], **given)))
    return found


def loaded_bytes(found: Forecast) -> int:
    """Return what `Model loading took` should say: that of the stage that loads most."""
    return max((rank.total_bytes for rank in found.weights), default=0)


def part(found: Forecast, name: str) -> int:
    """Return a part of the waterfall."""
    return sum(one.bytes for one in found.parts if one.name == name)


def _exempt() -> str:
    """Name the rows that the test holds to another bound."""
    named = [row for row in table("h100.toml")["row"] if row.get("within", _COMMON) != _COMMON]
    told = (
        f"{row['model'].rpartition('/')[2]} {' '.join(f'`{word}`' for word in row['arguments'])} "
        f"(held to {row['within']:.0%})"
        for row in named
    )
    count = "1 row exempt" if len(named) == 1 else f"{len(named)} rows exempt"
    return f"{count}: {', '.join(told)}"


def section() -> list[str]:
    """Return the section of the page about logs that others and we took before."""
    lines = []
    for row, found in logged():
        weights, tokens = loaded_bytes(found), row.get("kv_tokens")
        lines.append(
            (
                row["model"].rpartition("/")[2],
                row["gpu"],
                row["version"],
                " ".join(f"`{word}`" for word in row.get("arguments", ())),
                gib(weights) if weights else "not known",
                f"{row['weights_gib']:.2f}",
                percent(weights, row["weights_gib"] * GIB) if weights else "",
                f"{found.kv_tokens:,}" if tokens else "",
                f"{tokens:,}" if tokens else "",
                percent(found.kv_tokens, tokens) if tokens else "",
                gib(part(found, "activation")) if "activation_gib" in row else "",
                f"{row['activation_gib']:.2f}" if "activation_gib" in row else "",
                gib(part(found, "graphs")) if "graphs_gib" in row else "",
                f"{row['graphs_gib']:.2f}" if "graphs_gib" in row else "",
            )
        )
    return [
        "## Logs of real GPUs",
        "",
        *prose(
            "GiB of one GPU. `log` is what vLLM printed: `Model loading took` (weights, tables of "
            "positions and MLA's copies), the KV cache, peak activation, graphs. The rows of vLLM "
            "0.26 are ours ([logs](../tests/data/logs/h100-0.26)); those of 0.19 are from a public "
            "report (llm-d-planner, branch `accuracy`), which states weights and activation only. "
            "The forecast is that of today for such a GPU when idle. A test holds tokens to 3 % "
            f"and weights to {_COMMON:.0%} or 0.1 GiB, with {_exempt()}. Activation and graphs are "
            "estimates, and these rows are what they were set by."
        ),
        "",
        *prose(
            "The exemption: weights that vLLM quantizes while it loads them (`--quantization=fp8` "
            "on a 16-bit checkpoint) take more than their parameters, which were 7.22 GiB to the "
            "byte on that GPU, too: 0.34 GiB more with files, 0.21 GiB with random weights. What "
            "that is made of is not modelled; `pytest-vllm fit` says so in a note, and the suite "
            "`memory` allows 8 %."
        ),
        "",
        *rows(_HEAD, lines),
    ]
