"""The cases that the project began with, with the verdict of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tools.accuracy.reckoning import reckon, rows, table

if TYPE_CHECKING:
    from pytest_vllm.domain.fit import Forecast

_HEAD = ("case", "model", "GPUs", "arguments", "verdict", "where it ends", "reason")


def cases() -> list[tuple[dict[str, Any], Forecast]]:
    """Return every case with its forecast."""
    keys = ("arguments", "free", "variant")
    return [
        (case, reckon(case["model"], case["gpus"], **{k: case[k] for k in keys if k in case}))
        for case in table("story.toml")["case"]
    ]


def section() -> list[str]:
    """Return the section of the page."""
    lines = []
    for case, found in cases():
        gpus = case["gpus"] + (f", {case['free']} free" if "free" in case else "")
        model = case["model"].rpartition("/")[2] + (
            f" as {case['variant']}" if "variant" in case else ""
        )
        words = " ".join(f"`{word}`" for word in case.get("arguments", ()))
        gate = found.gate or ""
        lines.append((case["title"], model, gpus, words, found.verdict, gate, found.reason))
    return [
        "## The cases of the story",
        "",
        "Made by the forecast of today for vLLM 0.32; a test holds verdict and gate of each.",
        "",
        *rows(_HEAD, lines),
    ]
