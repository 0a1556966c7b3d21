"""How a checkpoint's weights are stored, as its `config.json` says and vLLM reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.domain.memory.shape import Quantization
from pytest_vllm.domain.memory.values import count, flag, number, table, text, texts

if TYPE_CHECKING:
    from collections.abc import Mapping

NONE = Quantization()
_BLOCK = (128, 128)
_FP8_BITS = 8
_GROUPED_BITS = 4


def read_quantization(config: Mapping[str, object], part: Mapping[str, object]) -> Quantization:
    """Read how weights are stored; `NONE` when the config says nothing.

    Args:
        config: The whole config.
        part: The config of its language model, where multi-modal models may keep it.
    """
    for one in (config, part):
        found = table(one.get("quantization_config")) or table(one.get("compression_config"))
        if found:
            return _read(found)
    return NONE


def is_described(how: Quantization) -> bool:
    """Tell whether there is a formula for the size of weights that are stored in this way."""
    match how.method:
        case "" | "fp8" | "mxfp4" | "awq" | "gptq" | "modelopt":
            return how.bits <= _FP8_BITS or not how.method
        case "compressed-tensors":
            packed = how.bits == _GROUPED_BITS and not how.floats and how.group != 0
            return not how.mixed and (how.bits == _FP8_BITS or packed)
        case "quark":
            return how.bits == _FP8_BITS or (how.bits == _GROUPED_BITS and how.group > 0)
        case _:
            return False


def _read(found: Mapping[str, object]) -> Quantization:
    method = (
        text(found.get("quant_method")).lower().replace("compressed_tensors", "compressed-tensors")
    )
    inner = table(found.get("quantization"))
    if text(table(found.get("producer")).get("name")) == "modelopt" and inner:
        return _modelopt(inner)
    read = {"fp8": _fp8, "awq": _awq, "gptq": _gptq, "compressed-tensors": _compressed}.get(method)
    if read is not None:
        return read(found)
    if method == "mxfp4":
        return Quantization(method=method, bits=4, group=32, ignored=_ignored(found))
    if method == "quark":
        return _quark(found)
    return Quantization(method=method, bits=count(found.get("bits")) or 16)


def _fp8(found: Mapping[str, object]) -> Quantization:
    block = tuple(size for item in _list(found, "weight_block_size") if (size := count(item)))
    return Quantization(
        method="fp8",
        bits=_FP8_BITS,
        block=block if len(block) == len(_BLOCK) else (),
        static=text(found.get("activation_scheme")) == "static",
        ignored=_ignored(found),
    )


def _awq(found: Mapping[str, object]) -> Quantization:
    return Quantization(
        method="awq",
        bits=count(found.get("bits")) or count(found.get("w_bit")) or _GROUPED_BITS,
        group=_group(found.get("group_size") or found.get("q_group_size")),
        zeros=flag(found, "zero_point", default=True),
        ignored=_ignored(found),
    )


def _gptq(found: Mapping[str, object]) -> Quantization:
    return Quantization(
        method="gptq",
        bits=count(found.get("bits")) or _GROUPED_BITS,
        group=_group(found.get("group_size")),
        zeros=not flag(found, "sym", default=True),
        sorted_groups=flag(found, "desc_act"),
        head=flag(found, "lm_head"),
        ignored=(*_ignored(found), *_excluded(found)),
    )


def _excluded(found: Mapping[str, object]) -> tuple[str, ...]:
    """Return what GPTQModel leaves as it is: rules `-:pattern`."""
    rules = table(found.get("dynamic"))
    return tuple(f"re:{rule.removeprefix('-:')}" for rule in rules if rule.startswith("-:"))


def _compressed(found: Mapping[str, object]) -> Quantization:
    groups = [table(group) for group in table(found.get("config_groups")).values()]
    weights = next((item for group in groups if (item := table(group.get("weights")))), {})
    activations = next(
        (item for group in groups if (item := table(group.get("input_activations")))), {}
    )
    strategy = text(weights.get("strategy"))
    block = tuple(size for item in _list(weights, "block_structure") if (size := count(item)))
    group = count(weights.get("group_size")) or 0
    return Quantization(
        method="compressed-tensors",
        mixed=any(table(one.get("weights")) not in ({}, weights) for one in groups),
        bits=count(weights.get("num_bits")) or 16,
        floats=text(weights.get("type")) == "float",
        group=-1 if strategy == "channel" else group if strategy == "group" else 0,
        block=block if strategy == "block" and len(block) == len(_BLOCK) else (),
        zeros=not flag(weights, "symmetric", default=True),
        static=bool(activations) and not flag(activations, "dynamic"),
        activations=count(activations.get("num_bits")) or 16,
        order=weights.get("actorder") in ("group", True),
        ignored=texts(found.get("ignore")),
    )


def _modelopt(inner: Mapping[str, object]) -> Quantization:
    algorithm = text(inner.get("quant_algo")).upper()
    ignored = texts(inner.get("exclude_modules"))
    if algorithm == "NVFP4":
        return Quantization(
            method="modelopt_fp4",
            bits=4,
            group=count(inner.get("group_size")) or 16,
            ignored=ignored,
        )
    return Quantization(method="modelopt", bits=_FP8_BITS, static=True, ignored=ignored)


def _quark(found: Mapping[str, object]) -> Quantization:
    weight = table(table(found.get("global_quant_config")).get("weight"))
    kind = text(weight.get("dtype"))
    bits = {"fp8_e4m3": 8, "int8": 8, "fp4": 4, "int4": 4}.get(kind, 16)
    scheme = text(weight.get("qscheme"))
    activation = table(table(found.get("global_quant_config")).get("input_tensors"))
    return Quantization(
        method="quark",
        bits=bits,
        floats=kind.startswith("fp"),
        group={"per_group": count(weight.get("group_size")) or 32, "per_channel": -1}.get(
            scheme, 0
        ),
        static=bool(activation) and not flag(activation, "is_dynamic"),
        activations=8 if activation else 16,
        ignored=texts(found.get("exclude")),
    )


def _ignored(found: Mapping[str, object]) -> tuple[str, ...]:
    return texts(found.get("ignored_layers")) or texts(found.get("modules_to_not_convert"))


def _group(value: object) -> int:
    size = number(value)
    return -1 if size is None or size < 0 else int(size)


def _list(found: Mapping[str, object], key: str) -> list[object]:
    value = found.get(key)
    return value if isinstance(value, list) else []


def online(asked: str) -> Quantization:
    """Return how vLLM stores weights of 16 bits that `--quantization` has it quantize.

    `NONE` for a method that only reads what a checkpoint has stored.
    """
    block = _BLOCK if asked == "fp8_per_block" else ()
    if asked in {"fp8", "fp8_per_tensor", "fp8_per_block", "ptpc_fp8", "fp8_per_channel"}:
        group = -1 if asked in {"ptpc_fp8", "fp8_per_channel"} else 0
        return Quantization(method="fp8", bits=_FP8_BITS, block=block, group=group, online=True)
    return NONE
