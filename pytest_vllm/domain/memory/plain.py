"""A forecast as JSON: for `fit --json` and for the record of a run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_vllm.domain.fit import Forecast


def to_json(forecast: Forecast) -> dict[str, object]:
    """Return a forecast as one flat object. Sizes are bytes; `gate` is null when it fits.

    Figures of a rank are those of the tightest one, `weights_bytes_per_rank` that of the heaviest.
    What is not known is null: without weights nothing is known of the room for the cache either,
    and without a layout nothing of its tokens.
    """
    layout = forecast.layout
    weighed = bool(forecast.weights)
    return {
        "verdict": forecast.verdict.value,
        "gate": forecast.gate.value if forecast.gate else None,
        "reason": forecast.reason,
        "model": forecast.model,
        "weights_bytes_per_rank": max(
            (rank.total_bytes for rank in forecast.weights), default=None
        ),
        "basis": forecast.basis.value if forecast.weights else None,
        "kv_bytes_per_token": layout.bytes_per_token if layout else None,
        "kv_bytes_per_rank": forecast.kv_bytes if weighed else None,
        "kv_tokens": forecast.kv_tokens if weighed and layout else None,
        "need_bytes": forecast.need_bytes if layout else None,
        "blocks": forecast.blocks if weighed and layout else None,
        "block_size": layout.block_size if layout else None,
        "bytes_per_block": layout.bytes_per_block if layout else None,
        "max_concurrency": _finite(forecast.max_concurrency) if weighed and layout else None,
        "max_model_len": forecast.max_model_len,
        "utilization": _finite(forecast.utilization),
        "utilization_max": _finite(forecast.utilization_max),
        "utilization_safe": forecast.utilization_safe,
        "requested_bytes": forecast.requested_bytes,
        "missing_bytes": forecast.missing_bytes,
        "vllm_version": ".".join(map(str, forecast.serving.version)),
        "platform": forecast.serving.platform.value,
        "tensor_parallel": forecast.serving.tensor_parallel,
        "pipeline_parallel": forecast.serving.pipeline_parallel,
        "data_parallel": forecast.serving.data_parallel,
        "devices": [
            {
                "name": device.name,
                "gfx": device.gfx,
                "bdf": device.bdf,
                "total_bytes": device.total_bytes,
                "free_bytes": device.free_bytes,
            }
            for device in forecast.devices
        ],
        "parts": [
            {"name": part.name, "bytes": part.bytes, "estimated": part.estimated}
            for part in forecast.parts
        ],
        "suggestions": [
            {"kind": one.kind, "text": one.text, "argument": one.argument}
            for one in forecast.suggestions
        ],
        "notes": list(forecast.notes),
    }


def _finite(value: float) -> float:
    return round(value, 4) if math.isfinite(value) else 0.0
