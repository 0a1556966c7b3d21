"""What other estimators say about the same models, from the record of a live run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pytest_vllm.domain.fit import ModelMemory
from pytest_vllm.domain.memory.config import read_shape
from pytest_vllm.domain.memory.kv import lay_out
from pytest_vllm.domain.memory.serving import Platform, Serving
from pytest_vllm.domain.memory.shape import UnknownShape
from pytest_vllm.domain.memory.weights import weigh
from tools.accuracy.reckoning import DATA, configs, gib, percent, prose, rows

RECORD = DATA / "peers.json"
_HEAD = ("model", "vLLM: weights", "KV/token", "hf-mem: weights", "off", "KV/token", "off",
         "accelerate: weights", "off")  # fmt: skip
_EXACT = 0.0005


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What vLLM allocates for a model on one device of ROCm.

    Attributes:
        weights_bytes: Its parameters.
        kv_bytes_per_token: One token in the caches of all layers.
    """

    weights_bytes: int
    kv_bytes_per_token: int


def truth(name: str) -> Truth | None:
    """Return the figures of vLLM by our formulas, `None` for a model that none describes."""
    shape = read_shape(configs()[name])
    if isinstance(shape, UnknownShape):
        return None
    serving = Serving(platform=Platform.ROCM)
    ranks = weigh(ModelMemory(name=name, shape=shape), serving)
    return Truth(
        weights_bytes=sum(rank.parameters_bytes for rank in ranks),
        kv_bytes_per_token=lay_out(shape, serving).bytes_per_token,
    )


def section() -> list[str]:
    """Return the section of the page."""
    record = json.loads(RECORD.read_text("utf-8"))
    failed: list[str] = []
    lines = [_row(name, found, failed) for name, found in record["models"].items()]
    stated = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    limit = record["limit_bytes"] // 2**30
    return [
        "## Other estimators on the same models",
        "",
        *prose(
            f"Run live on {record['date']} by `./dev peers` ({stated}, Python {record['python']}); "
            "nightly does it again and compares. Both tools read a stand-in of the Hub with the "
            "true configs, and weight files with the true headers (their sums are held against "
            "the published bytes) and nothing behind them."
        ),
        "",
        *prose(
            f"- hf-mem was asked with `--experimental --max-model-len {record['tokens']}`. It has "
            "no option for the address of the Hub, so its requests were redirected."
        ),
        *prose(
            "- accelerate was asked for `float16`, or `int8` or `int4` where the checkpoint is "
            f"stored so, and read from the table that it prints, in {limit} GiB of address space. "
            "It builds the model without its head, so an output embedding that is not tied is not "
            "in its sum."
        ),
        *prose(
            "- vLLM's columns are what its classes allocate on one device of ROCm, by the "
            "formulas that the first section proves. Without speculative decoding it loads no "
            "layers that predict ahead, which the files of DeepSeek-V3 and GLM-4.5 hold; it pads "
            "the experts of gpt-oss to the tiles of its kernels. Its KV cache is that of a token "
            "within every window."
        ),
        "",
        *prose(
            "Weights in GiB, KV cache in bytes a token over all layers; `off` is against vLLM. "
            "Neither tool tells ranks, activation, graphs, free memory or a verdict."
        ),
        "",
        *rows(_HEAD, lines),
        *(["", "What failed:", ""] if failed else []),
        *failed,
    ]


def _row(name: str, found: dict[str, Any], failed: list[str]) -> tuple[str, ...]:
    ours = truth(name)
    mem, accelerate = found["hf-mem"], found["accelerate"]
    method = (configs()[name].get("quantization_config") or {}).get("quant_method", "")
    kind = {"fp8": "int8", "mxfp4": "int4"}.get(method, "float16")
    weights, cache = mem.get("weights_bytes"), mem.get("kv_bytes_per_token")
    stated = accelerate.get(kind)
    model = name.rpartition("/")[2]
    for tool, answer in (("hf-mem", mem), ("accelerate", accelerate)):
        failed += [
            f"- {model}, {tool}: {answer[key]}" for key in ("error", "kv_error") if key in answer
        ]
    return (
        model,
        gib(ours.weights_bytes) if ours else "not known",
        f"{ours.kv_bytes_per_token:,}" if ours else "",
        gib(weights) if weights else "failed",
        _off(weights, ours.weights_bytes) if ours and weights else "",
        f"{cache:,.0f}" if cache else ("failed" if "kv_error" in mem else "none"),
        _off(cache, ours.kv_bytes_per_token) if ours and cache else "",
        f"{gib(stated)} ({kind})" if stated else "failed",
        _off(stated, ours.weights_bytes) if ours and stated else "",
    )


def _off(found: float, true: int) -> str:
    ratio = found / true
    if abs(ratio - 1) < _EXACT:
        return "0"
    return f"{ratio:.1f}x" if ratio > 2 else percent(found, true)  # noqa: PLR2004 - reads better
