"""Rules about whether the arguments fit what the model's config says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.facts.model import ModelKind
from pytest_vllm.domain.finding import Fault, Finding, Severity
from pytest_vllm.domain.fit import Gate
from pytest_vllm.domain.preflight import not_applicable, without_gpu
from pytest_vllm.domain.preflight.version import known_to_be_listed, server_version
from pytest_vllm.domain.quantization import (
    FP8,
    LISTED_VERSION,
    METHODS,
    OLDER_METHODS,
    ON_ROCM,
    disagree,
    doubtful_fp8,
    lacks_fp8,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.domain.facts import LaunchFacts
    from pytest_vllm.domain.facts.config import ConfigFacts

_SPLITS_KV_HEADS = frozenset(
    {
        *("LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM", "Phi3ForCausalLM"),
        *("Qwen2ForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM", "Gemma2ForCausalLM"),
    }
)
"""Architectures that were read to assert it; of others it is only likely."""
_MOST_GPUS = 128
_VOCABULARY_STEP = 64
_TRUE = ("1", "true", "True")


def heads(facts: LaunchFacts, /) -> Iterator[Finding]:
    """Each GPU of a tensor-parallel group takes as many heads as the others."""
    config, tp = _config(facts), tensor_parallel(facts)
    if config is None or config.heads is None or tp is None or tp <= 1:
        return
    fits = valid_sizes(config)
    sizes = ", ".join(str(size) for size in fits)
    if config.heads % tp:
        yield Finding(
            id="model.heads",
            severity=_unless_overridden(facts),
            fault=Fault.USER,
            seen=f"{facts.target.model} has {config.heads} attention heads, which do not divide by "
            f"--tensor-parallel-size {tp}; these sizes do: {sizes}",
            cure=f"--vllm-serve-arg=--tensor-parallel-size={_nearest(facts, tp, fits)}",
            ref="H18",
        )
    elif not _splits(config, tp):
        sure = bool(_SPLITS_KV_HEADS.intersection(config.architectures[:1])) or _is_refused(facts)
        yield Finding(
            id="model.kv-heads",
            severity=_unless_overridden(facts) if sure else Severity.WARNING,
            fault=Fault.USER,
            seen=f"{facts.target.model} has {config.kv_heads} key-value heads, which neither "
            f"divide by --tensor-parallel-size {tp} nor divide it; these sizes fit: {sizes}",
            cure=f"--vllm-serve-arg=--tensor-parallel-size={_nearest(facts, tp, fits)}",
            ref="H18",
        )
    elif config.kv_heads is not None and not config.mla and config.kv_heads < tp:
        yield Finding(
            id="model.kv-heads",
            severity=Severity.NOTE,
            fault=Fault.USER,
            seen=f"{config.kv_heads} key-value heads on {tp} GPUs: each is held by "
            f"{tp // config.kv_heads} of them, so more GPUs save no memory of the KV cache",
        )


def quantization(facts: LaunchFacts, /) -> Iterator[Finding]:
    """The method must be one that vLLM knows, and the one that the weights are stored in."""
    asked = facts.target.serve_args.value("--quantization")
    config = _config(facts)
    stored = config.quantization if config is not None else ""
    named = f"config.json of {facts.target.model}"
    for method, where in ((stored, named), (asked or "", "--quantization")):
        if method and method not in METHODS:
            yield Finding(
                id="model.unknown-quantization",
                severity=_of_unknown(facts, method),
                fault=Fault.MODEL if where != "--quantization" else Fault.USER,
                seen=f"{where} asks for quantization {method!r}, which vLLM "
                f"{'.'.join(map(str, LISTED_VERSION))} does not know"
                + (" any more" if method in OLDER_METHODS else ""),
                cure="use weights in another format (fp8, awq, gptq, compressed-tensors, quark), "
                "or an image whose vLLM has it",
                ref="H16",
            )
            return
    if asked and stored and disagree(stored, asked):
        yield Finding(
            id="model.other-quantization",
            severity=_unless_overridden(facts),
            fault=Fault.USER,
            seen=f"the weights of {facts.target.model} are stored as {stored}, and --quantization "
            f"says {asked}",
            cure="drop --quantization: vLLM reads it from the model",
            ref="H17",
        )


def gguf(facts: LaunchFacts, /) -> Iterator[Finding]:
    """VLLM 0.32 has no loader for GGUF of its own any more."""
    model, version = facts.model, server_version(facts)
    earlier = version is not None and version[:2] < LISTED_VERSION[:2]
    if model is None or model.kind is not ModelKind.GGUF or earlier:
        return
    yield Finding(
        id="model.gguf",
        severity=Severity.WARNING,
        fault=Fault.USER,
        seen=f"{model.asked} is in GGUF, which vLLM {'.'.join(map(str, LISTED_VERSION))} reads "
        "only with a plugin",
        cure="--vllm-model of the same model in safetensors",
        ref="H16",
    )


def quantization_on_rocm(facts: LaunchFacts, /) -> Iterator[Finding]:
    """ROCm takes fewer methods than CUDA."""
    method = _method(facts)
    rocm = facts.image.rocm if facts.image is not None else False
    why = without_gpu(facts)
    if why and not rocm:
        yield not_applicable("model.quantization-not-on-rocm", why)
        return
    if not method or method not in METHODS or method in ON_ROCM:
        return
    yield Finding(
        id="model.quantization-not-on-rocm",
        severity=known_to_be_listed(facts),
        fault=Fault.MODEL,
        seen=f"quantization {method!r} is none that vLLM {'.'.join(map(str, LISTED_VERSION))} "
        "takes on ROCm",
        cure="use weights in another format: fp8, awq, gptq, compressed-tensors, quark or mxfp4",
        ref="G22",
    )


def fp8(facts: LaunchFacts, /) -> Iterator[Finding]:
    """A GPU without 8-bit floats compiles no kernel for them; vLLM finds out late."""
    why = without_gpu(facts)
    if why:
        yield not_applicable("model.fp8", why)
        return
    asked = facts.target.serve_args.value("--quantization") or ""
    stored = _stores_fp8(facts)
    if not stored and asked not in FP8:
        return
    if stored:
        fault, subject = Fault.MODEL, f"{facts.target.model} is in 8-bit floats (fp8), which"
        cure = "use the model in bf16 or int8 (--vllm-model=...), or GPUs from gfx942 on"
    else:
        fault, subject = Fault.USER, f"--quantization {asked} asks for 8-bit floats (fp8), which"
        cure = f"drop --vllm-serve-arg=--quantization={asked}, or use GPUs from gfx942 on"
    for gfx in dict.fromkeys(gpu.gfx for gpu in facts.gpus if gpu.gfx):
        name = lacks_fp8(gfx)
        if name or doubtful_fp8(gfx):
            yield Finding(
                id="model.fp8",
                severity=Severity.FATAL if name else Severity.WARNING,
                fault=fault,
                seen=f"{subject} {gfx}"
                + (f" ({name} series) does not have" if name else " at best emulates"),
                cure=cure,
                ref="G21",
            )


def fp8_cache(facts: LaunchFacts, /) -> Iterator[Finding]:
    """An fp8 KV cache needs 8-bit floats, too."""
    why = without_gpu(facts)
    if why:
        yield not_applicable("model.fp8-cache", why)
        return
    kind = facts.target.serve_args.value("--kv-cache-dtype") or ""
    lacking = next((gpu.gfx for gpu in facts.gpus if lacks_fp8(gpu.gfx)), "")
    if kind.startswith("fp8") and lacking:
        yield Finding(
            id="model.fp8-cache",
            severity=Severity.WARNING,
            fault=Fault.USER,
            seen=f"--kv-cache-dtype {kind} on {lacking}, which has no 8-bit floats",
            cure="drop --kv-cache-dtype",
            ref="G21",
        )


def length(facts: LaunchFacts, /) -> Iterator[Finding]:
    """Nobody may ask for longer sequences than the model was made for."""
    config, asked = _config(facts), facts.target.serve_args.max_model_len
    if config is None or config.context is None or asked is None:
        return
    longest = max(config.context, config.longer_context or 0)
    if asked <= longest or _allows_long(facts):
        return
    args = facts.target.serve_args
    scaled = any(args.has(flag) for flag in ("--rope-scaling", "--hf-overrides", "--rope-theta"))
    yield Finding(
        id="model.too-long",
        severity=Severity.WARNING if scaled else Severity.FATAL,
        fault=Fault.USER,
        seen=f"--max-model-len {asked} is more than the {longest} tokens that {facts.target.model} "
        f"was made for ({config.context_key})",
        cure=f"--vllm-serve-arg=--max-model-len={longest}, or "
        "--vllm-env=VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 if the answers do not matter",
        ref="H19",
    )


def tensor_parallel(facts: LaunchFacts) -> int | None:
    """Return the GPUs of a tensor-parallel group; `None` when the words do not say a number."""
    return parallel(facts, "--tensor-parallel-size")


def parallel(facts: LaunchFacts, flag: str) -> int | None:
    """Return a whole number of arguments, 1 when it is absent and `None` when it is none."""
    args = facts.target.serve_args
    if not args.has(flag):
        return None if args.has("--config") else 1
    text = args.value(flag) or ""
    return int(text) if text.isascii() and text.isdecimal() and int(text) > 0 else None


def valid_sizes(config: ConfigFacts) -> tuple[int, ...]:
    """Return the tensor-parallel sizes that a model takes."""
    top = min(config.heads or 1, _MOST_GPUS)
    divisors = [size for size in range(1, top + 1) if (config.heads or 1) % size == 0]
    # The vocabulary is padded to 64 and then split evenly (`VocabParallelEmbedding`).
    padded = -(-(config.vocab or 0) // _VOCABULARY_STEP) * _VOCABULARY_STEP
    return tuple(size for size in divisors if _splits(config, size) and padded % size == 0)


def _splits(config: ConfigFacts, tp: int) -> bool:
    """Tell whether key-value heads divide among GPUs, or GPUs among them."""
    if config.kv_heads is None or config.mla:
        return True
    return config.kv_heads % tp == 0 or tp % config.kv_heads == 0


def _nearest(facts: LaunchFacts, tp: int, sizes: tuple[int, ...]) -> int:
    """Return the largest valid size below the one asked for, for which GPUs are there."""
    here = len(facts.gpus) // (parallel(facts, "--pipeline-parallel-size") or 1)
    most = min(tp - 1, max(here, 1)) if facts.gpus else tp - 1
    return max((size for size in sizes if size <= most), default=1)


def _is_refused(facts: LaunchFacts) -> bool:
    """Tell whether the model is one of those that are known to refuse such a size."""
    forecast = facts.idle
    refused = forecast is not None and forecast.gate is Gate.INVALID
    return refused and forecast is not None and "key-value heads" in forecast.reason


def _config(facts: LaunchFacts) -> ConfigFacts | None:
    return facts.model.config if facts.model is not None else None


def _method(facts: LaunchFacts) -> str:
    config = _config(facts)
    stored = config.quantization if config is not None else ""
    return facts.target.serve_args.value("--quantization") or stored


def _stores_fp8(facts: LaunchFacts) -> bool:
    config = _config(facts)
    return config is not None and (config.fp8 or config.quantization in FP8)


def _of_unknown(facts: LaunchFacts, method: str) -> Severity:
    version = server_version(facts)
    earlier = version is not None and version[:2] < LISTED_VERSION[:2]
    if method in OLDER_METHODS and earlier:
        return Severity.NOTE
    return known_to_be_listed(facts)


def _unless_overridden(facts: LaunchFacts) -> Severity:
    overridden = facts.target.serve_args.has("--hf-overrides")
    return Severity.WARNING if overridden else Severity.FATAL


def _allows_long(facts: LaunchFacts) -> bool:
    variables = facts.model.variables if facts.model is not None else {}
    return variables.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "") in _TRUE


RULES = (heads, quantization, gguf, quantization_on_rocm, fp8, fp8_cache, length)
IDS = (
    "model.heads",
    "model.kv-heads",
    "model.unknown-quantization",
    "model.other-quantization",
    "model.gguf",
    "model.quantization-not-on-rocm",
    "model.fp8",
    "model.fp8-cache",
    "model.too-long",
)
