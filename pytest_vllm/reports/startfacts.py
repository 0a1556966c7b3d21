"""Words for the figures of a start: how far a phase is, what the server says about itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.reports.facts import seconds

if TYPE_CHECKING:
    from pytest_vllm.domain.phases import Progress
    from pytest_vllm.domain.server_facts import ServerFacts

_GIB = 2**30
_SMALL = 10.0


def counted(progress: Progress) -> str:
    """Say how far something is: `3/9 shards`, `1.2 of 4.4 GiB`, `2 modules`."""
    if progress.unit == "bytes":
        done = gib(progress.done / _GIB)
        return f"{done} GiB" if progress.total is None else f"{done} of {_total(progress)} GiB"
    of = "" if progress.total is None else f"/{progress.total}"
    unit = progress.unit.removesuffix("s") if f"{progress.done}{of}" == "1" else progress.unit
    return f"{progress.done}{of} {unit}"


def bar(progress: Progress, width: int) -> str:
    """Draw how far something is in `width` characters; nothing where no total is known."""
    if not progress.total:
        return ""
    full = min(progress.done, progress.total) * width // progress.total
    return f"[{'#' * full}{'.' * (width - full)}]"


def gib(value: float) -> str:
    """Write GiB with as many digits as matter."""
    return f"{value:.2f}" if value < _SMALL else f"{value:.1f}"


def server_rows(facts: ServerFacts | None) -> list[tuple[str, str]]:
    """Return what a server said about itself as names and values, the model first.

    What it did not say has no row.
    """
    if facts is None:
        return []
    split = {
        "tensor": facts.tensor_parallel,
        "pipeline": facts.pipeline_parallel,
        "data": facts.data_parallel,
    }
    rows = [
        ("vLLM", facts.version),
        ("Architecture", facts.architecture),
        ("Data type", facts.dtype),
        ("Quantization", facts.quantization),
        ("Attention backend", facts.attention_backend),
        ("Graphs", "off (--enforce-eager)" if facts.enforce_eager else ""),
        ("Parallel", ", ".join(f"{name} {size}" for name, size in split.items() if size)),
        ("Longest request", _count(facts.max_model_len, "tokens")),
        ("Checkpoint", _size(facts.checkpoint_gib)),
        ("Download", _took(facts.download_s)),
        ("Weights on a GPU", _size(facts.weights_gib)),
        ("Loading", _took(facts.load_s if facts.load_s is not None else facts.weights_s)),
        ("Memory of a GPU", _memory(facts)),
        ("Peak activation", _size(facts.peak_activation_gib)),
        ("Outside PyTorch", _size(facts.non_torch_gib)),
        ("Graph memory", _both(_size(facts.graph_gib), _took(facts.graph_s))),
        ("KV cache", _cache(facts)),
        ("Concurrency", _concurrency(facts)),
        ("Compilation", _took(facts.compile_s)),
        ("AITER modules built", _both(_count(facts.aiter_modules, ""), _took(facts.aiter_s))),
        ("Engine start", _took(facts.init_s)),
    ]
    return [(name, value) for name, value in rows if value]


def _total(progress: Progress) -> str:
    return gib((progress.total or 0) / _GIB)


def _size(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} GiB"


def _took(value: float | None) -> str:
    return "" if value is None else seconds(value)


def _count(value: int | None, unit: str) -> str:
    return "" if value is None else f"{value:,} {unit}".strip()


def _both(size: str, took: str) -> str:
    return f"{size} in {took}" if size and took else size or took


def _memory(facts: ServerFacts) -> str:
    if facts.gpu_total_gib is None or facts.gpu_free_gib is None:
        return ""
    share = "" if facts.utilization is None else f", utilization {facts.utilization:g}"
    return f"{facts.gpu_free_gib:.2f} of {facts.gpu_total_gib:.2f} GiB free at the start{share}"


def _cache(facts: ServerFacts) -> str:
    parts = (
        _size(facts.kv_cache_gib),
        _count(facts.kv_tokens, "tokens"),
        _count(facts.kv_blocks, "blocks"),
        facts.kv_cache_dtype and f"type {facts.kv_cache_dtype}",
    )
    return ", ".join(part for part in parts if part) if any(parts[:3]) else ""


def _concurrency(facts: ServerFacts) -> str:
    if facts.max_concurrency is None:
        return ""
    return f"{facts.max_concurrency:.2f} requests of full length"
