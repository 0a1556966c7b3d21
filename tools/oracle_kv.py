"""Ask real vLLM how it lays out the KV cache of `tests/data/oracle-kv/cases.json`.

Run it with the interpreter of a vLLM; it needs no GPU and loads no model:

    cd tests/data/oracle-kv
    PYTHON_WITH_VLLM ../../../tools/oracle_kv.py cases.json > 0.32.json

It makes the specs that the layers of a model would make, and hands them to vLLM's own
`get_kv_cache_configs` and, for models with states, `_align_hybrid_block_size`. Only the objects
around them, which hold the arguments, are stand-ins.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

_TYPES = {2: "bfloat16", 4: "float32", 1: "uint8"}


def main() -> None:
    """Print what vLLM says, case by case."""
    cases = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    # vLLM writes to stdout when it is imported.
    with contextlib.redirect_stdout(sys.stderr):
        import vllm  # noqa: PLC0415 - only there in the other interpreter

        answers = {case["name"]: ask(case) for case in cases}
    lines = [f"{json.dumps(name)}: {json.dumps(answer)}" for name, answer in answers.items()]
    body = ",\n".join(lines)
    sys.stdout.write(f'{{"vllm": {json.dumps(vllm.__version__)}, "answers": {{\n{body}\n}}}}\n')


def ask(case: dict[str, Any]) -> dict[str, Any]:
    """Return what vLLM makes of one case."""
    from vllm.v1.core import kv_cache_utils as real  # noqa: PLC0415

    config = _config(case)
    layers = _layers(case)
    _align(case, config, layers)
    specs = {}
    for index, layer in enumerate(layers):
        specs.update(_specs(case, config, index, layer))
    stages = case["serving"].get("pipeline_parallel", 1)
    held = [_of_stage(specs, len(layers), stages, stage) for stage in range(stages)]
    groups = real.get_kv_cache_groups(config, dict(specs))
    try:
        found = real.get_kv_cache_configs(config, held, [case["available"]] * stages)
    except ValueError as error:
        return {"error": str(error).split("(")[0].strip()}
    tokens, concurrency = real.get_kv_cache_capacity(config, found[0])
    return {
        "groups": [len(group.layer_names) for group in groups],
        "block_size": config.cache_config.block_size,
        "bytes_per_block": [
            real._pool_bytes_per_block(config, one.kv_cache_groups)  # noqa: SLF001
            for one in found
        ],
        "need_bytes": [
            real._max_memory_usage_bytes_from_groups(  # noqa: SLF001
                config, one.kv_cache_groups
            )
            for one in found
        ],
        "blocks": found[0].num_blocks,
        "tokens": tokens,
        "concurrency": round(concurrency, 6),
        "length": config.model_config.max_model_len,
    }


def _layers(case: dict[str, Any]) -> list[dict[str, Any]]:
    if "config" not in case:
        return [layer for part in case["pattern"] * case["repeat"] for layer in _several(part)]
    part = {**case["config"], **case["config"].get("text_config", {})}
    heads = part["num_attention_heads"]
    width = part.get("head_dim") or part["hidden_size"] // heads
    full = {
        "attention": "full",
        "kv_heads": part["num_key_value_heads"],
        "head_dim": width,
        "v_head_dim": width,
    }
    return [full if one == "full" else {"attention": one} for one in _kinds(part) if one]


def _kinds(part: dict[str, Any]) -> list[str]:
    """Return what each layer is, as the classes of vLLM choose it."""
    count = part["num_hidden_layers"]
    if "hybrid_override_pattern" in part:
        return [{"M": "state", "*": "full"}.get(one, "") for one in part["hybrid_override_pattern"]]
    if "layer_types" in part:
        return [
            "full" if one.endswith("attention") and "linear" not in one else "state"
            for one in part["layer_types"]
        ]
    if "attn_layer_period" in part:
        at, every = part["attn_layer_offset"], part["attn_layer_period"]
        return ["full" if index % every == at else "state" for index in range(count)]
    every = part["full_attention_interval"]
    return ["full" if (index + 1) % every == 0 else "state" for index in range(count)]


def _several(part: dict[str, Any]) -> list[dict[str, Any]]:
    return [part] * part.get("times", 1)


def _config(case: dict[str, Any]) -> Any:
    from vllm.v1.kv_cache_layout import KVCacheLayout  # noqa: PLC0415

    serving = case["serving"]
    parallel = SimpleNamespace(
        decode_context_parallel_size=serving.get("decode_context_parallel", 1),
        tensor_parallel_size=serving.get("tensor_parallel", 1),
        pipeline_parallel_size=serving.get("pipeline_parallel", 1),
    )
    has_states = any(layer["attention"] == "state" for layer in _layers(case))
    keeps = serving.get("prefix_caching", True) and has_states
    cache = SimpleNamespace(
        block_size=serving.get("block_size") or (128 if serving.get("platform") == "cpu" else 16),
        cache_dtype=serving.get("kv_cache_dtype", "auto"),
        num_gpu_blocks_override=serving.get("blocks"),
        get_resolved_kv_cache_layout=lambda: KVCacheLayout.LBNHC,
        mamba_cache_mode="align" if keeps else "none",
        mamba_block_size=None,
        mamba_page_size_padded=None,
        kv_cache_dtype_skip_layers=None,
        enable_prefix_caching=True,
        prefix_cache_retention_interval=None,
    )
    return SimpleNamespace(
        cache_config=cache,
        parallel_config=parallel,
        model_config=SimpleNamespace(
            max_model_len=case["length"],
            original_max_model_len=-1 if serving.get("fits_length") else case["length"],
        ),
        scheduler_config=SimpleNamespace(
            disable_hybrid_kv_cache_manager=not serving.get("hybrid_manager", True)
        ),
        device_config=SimpleNamespace(device_type="cuda"),
        attention_config=SimpleNamespace(hisparse_config=None),
        speculative_config=None,
        num_prefill_lookahead_tokens=0,
        max_in_flight_tokens=case["in_flight"],
    )


def _specs(case: dict[str, Any], config: Any, index: int, layer: dict[str, Any]) -> dict[str, Any]:
    from vllm.v1 import kv_cache_interface as real  # noqa: PLC0415

    name, kind = f"layers.{index}", layer["attention"]
    block, mode = config.cache_config.block_size, config.cache_config.cache_dtype
    if kind == "state":
        padded = config.cache_config.mamba_page_size_padded
        shapes, dtypes = _states(case, layer)
        spec = real.MambaSpec(
            block_size=block,
            shapes=shapes,
            dtypes=dtypes,
            page_size_padded=padded,
            mamba_cache_mode=config.cache_config.mamba_cache_mode,
        )
        return {name: spec}
    if kind == "latent (MLA)":
        return _latent(case, config, name)
    heads = max(1, layer["kv_heads"] // config.parallel_config.tensor_parallel_size)
    common = {
        "block_size": block,
        "num_kv_heads": heads,
        "head_size": layer["head_dim"],
        "head_size_v": layer["v_head_dim"],
        "dtype": _dtype(case, mode),
        "kv_quant_mode": real.get_kv_quant_mode(mode),
    }
    if kind == "sliding window":
        made = real.SlidingWindowSpec(**common, sliding_window=layer["window"])
    elif kind == "chunked":
        made = real.ChunkedLocalAttentionSpec(**common, attention_chunk_size=layer["window"])
    else:
        made = real.FullAttentionSpec(**common)
    if mode.endswith("per_token_head"):
        from vllm.v1.attention.backends.triton_attn import (  # noqa: PLC0415
            TritonAttentionBackend,
        )

        made = TritonAttentionBackend.customize_spec(made)
    return {name: made}


def _latent(case: dict[str, Any], config: Any, name: str) -> dict[str, Any]:
    import torch  # noqa: PLC0415
    from vllm.v1 import kv_cache_interface as real  # noqa: PLC0415

    block, mode, latent = (
        config.cache_config.block_size,
        config.cache_config.cache_dtype,
        case["latent"],
    )
    found = {
        name: real.MLAAttentionSpec(
            block_size=block,
            num_kv_heads=1,
            max_tp_shards=1,
            head_size=latent["kv_lora_rank"] + latent["rope_head_dim"],
            dtype=_dtype(case, mode),
            cache_dtype_str=mode,
            kv_quant_mode=real.get_kv_quant_mode(mode),
            state_content_bytes={"fp8_ds_mla": 656, "nvfp4_ds_mla": 352}.get(mode),
        )
    }
    if "index_head_dim" in latent:
        width = latent["index_head_dim"]
        found[f"{name}.indexer"] = real.MLAAttentionSpec(
            block_size=block,
            num_kv_heads=1,
            max_tp_shards=1,
            head_size=width + width // 128 * 4,
            dtype=torch.uint8,
            cache_role=real.SparseCacheRole.INDEXER,
        )
    return found


def _states(case: dict[str, Any], layer: dict[str, Any]) -> tuple[Any, Any]:
    import torch  # noqa: PLC0415

    split = case["serving"].get("tensor_parallel", 1)
    if "config" in case:
        return _states_of_class(case, split)
    shapes = tuple((count // split,) for _, count, _ in layer["state"])
    return shapes, tuple(getattr(torch, _TYPES[size]) for _, _, size in layer["state"])


def _states_of_class(case: dict[str, Any], split: int) -> tuple[Any, Any]:
    """Ask the class of a model for the states of one of its layers."""
    import torch  # noqa: PLC0415

    module, name = case["model"].split(":")
    found = importlib.import_module(f"vllm.model_executor.models.{module}")
    part = {**case["config"], **case["config"].get("text_config", {})}
    # What `MODELS_CONFIG_MAP` makes of `auto` for these classes.
    asked = part.get("mamba_ssm_dtype") or part.get("mamba_ssm_cache_dtype") or "auto"
    hf = SimpleNamespace(**part)
    config = SimpleNamespace(
        parallel_config=SimpleNamespace(tensor_parallel_size=split),
        cache_config=SimpleNamespace(
            mamba_cache_dtype="auto", mamba_ssm_cache_dtype=asked, use_replayssm=False
        ),
        model_config=SimpleNamespace(hf_config=hf, hf_text_config=hf, dtype=torch.bfloat16),
        speculative_config=None,
        num_speculative_tokens=0,
    )
    owner = getattr(found, name)
    return (
        owner.get_mamba_state_shape_from_config(config),
        owner.get_mamba_state_dtype_from_config(config),
    )


def _dtype(case: dict[str, Any], mode: str) -> Any:
    import torch  # noqa: PLC0415
    from vllm.utils.torch_utils import STR_DTYPE_TO_TORCH_DTYPE  # noqa: PLC0415

    if mode == "auto":
        return getattr(torch, case["serving"].get("dtype", "bfloat16"))
    return STR_DTYPE_TO_TORCH_DTYPE[mode]


def _align(case: dict[str, Any], config: Any, layers: list[dict[str, Any]]) -> None:
    """Let vLLM choose the block of a model with states and attention."""
    import torch  # noqa: PLC0415
    from vllm.platforms.interface import Platform  # noqa: PLC0415
    from vllm.v1.attention.backends.triton_attn import TritonAttentionBackend  # noqa: PLC0415

    kinds = {layer["attention"] for layer in layers}
    if "state" not in kinds or len(kinds) == 1:
        return
    state = next(layer for layer in layers if layer["attention"] == "state")
    other = next(layer for layer in layers if layer["attention"] != "state")
    shapes, dtypes = _states(case, state)
    latent = case["latent"]
    width = latent["kv_lora_rank"] + latent["rope_head_dim"] if latent else other["head_dim"]
    config.model_config.use_mla = bool(latent)
    config.model_config.dtype = torch.bfloat16
    config.model_config.architecture = "any"
    config.model_config.get_head_size = lambda: width
    config.model_config.get_num_kv_heads = lambda parallel: (
        1 if latent else max(1, other["kv_heads"] // parallel.tensor_parallel_size)
    )
    model = SimpleNamespace(
        get_mamba_state_shape_from_config=lambda _: shapes,
        get_mamba_state_dtype_from_config=lambda _: dtypes,
    )
    with (
        mock.patch(
            "vllm.model_executor.models.ModelRegistry.resolve_model_cls",
            return_value=(model, ""),
        ),
        mock.patch.object(
            Platform, "_find_non_ssm_backends", return_value=[TritonAttentionBackend]
        ),
        mock.patch(
            "vllm.config.vllm.set_current_vllm_config",
            side_effect=lambda _: contextlib.nullcontext(),
        ),
    ):
        Platform._align_hybrid_block_size(config, TritonAttentionBackend)  # noqa: SLF001


def _of_stage(specs: dict[str, Any], layers: int, stages: int, stage: int) -> dict[str, Any]:
    from vllm.distributed.utils import get_pp_indices  # noqa: PLC0415

    start, end = get_pp_indices(layers, stage, stages)
    return {name: spec for name, spec in specs.items() if start <= int(name.split(".")[1]) < end}


if __name__ == "__main__":
    main()
