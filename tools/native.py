"""Write the names of models that a vLLM and its transformers know, for the preflight.

Run it with an interpreter that has that vLLM: `python tools/native.py FILE`
(FILE is `pytest_vllm/data/models/native.json` in this repository).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def names() -> dict[str, object]:
    """Return model types and architectures out of the registries of both libraries."""
    import transformers  # noqa: PLC0415 - takes seconds
    import vllm  # noqa: PLC0415
    from transformers.models.auto import modeling_auto  # noqa: PLC0415
    from vllm.model_executor.models import registry  # noqa: PLC0415
    from vllm.transformers_utils.config import _CONFIG_REGISTRY  # noqa: PLC0415

    architectures = set(registry.ModelRegistry.get_supported_archs())
    for name in dir(modeling_auto):
        if name.endswith("_MAPPING_NAMES"):
            for value in getattr(modeling_auto, name).values():
                architectures.update([value] if isinstance(value, str) else value)
    return {
        "schema": 1,
        "vllm": vllm.__version__,
        "transformers": transformers.__version__,
        "note": "names that vLLM and its transformers know, written by tools/native.py",
        "model_types": sorted({*transformers.CONFIG_MAPPING.keys(), *_CONFIG_REGISTRY.keys()}),
        "architectures": sorted(architectures),
        "removed": getattr(registry, "_PREVIOUSLY_SUPPORTED_MODELS", {}),
    }


if __name__ == "__main__":
    text = json.dumps(names(), separators=(",", ":"), indent=0)
    Path(sys.argv[1]).write_text(f"{text}\n", encoding="utf-8")
