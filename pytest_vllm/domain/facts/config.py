"""What a model's `config.json` says, as far as it decides whether vLLM can start it.

The values are read as vLLM 0.32 reads them (`transformers_utils/model_arch_config_convertor.py`,
`config/model.py`). A config comes from anywhere, so a value of the wrong type counts as absent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config")
_HEADS = ("num_attention_heads", "n_head", "n_heads")
_KV_HEADS = ("n_head_kv", "num_kv_heads", "num_key_value_heads", "multi_query_group_num")
_EXPERTS = ("num_experts", "moe_num_experts", "n_routed_experts", "num_local_experts")
_EXPERTS_USED = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk")
_LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
_SCALED_ALREADY = ("su", "longrope", "llama3", "default", "mrope")
_YARN = ("yarn", "deepseek_yarn", "deepseek_llama_scaling")
_LARGEST = 2**53


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFacts:
    """The part of a config that the rules look at; `None` or empty is what it does not say.

    Attributes:
        model_type: Name by which transformers knows the model.
        architectures: Names of model classes, first one counts.
        auto_map: Classes that come with the model as code, such as `AutoConfig`.
        heads: Attention heads, which tensor parallelism divides.
        kv_heads: Key-value heads.
        mla: Whether attention is latent, so that key-value heads do not count.
        experts: Experts of each mixture.
        experts_used: Experts that one token uses.
        context: Longest sequence in tokens; never below what any version of vLLM derives.
        context_key: Name that the context was read from.
        longer_context: `model_max_length`, up to which vLLM lets a user go beyond `context`.
        quantization: Method that the weights are stored in, in vLLM's spelling.
        fp8: Whether that method stores 8-bit floats.
        layers: Layers of the main model.
        vocab: Tokens of the vocabulary, without padding.
        pooling: Whether the architecture makes embeddings or scores instead of text.
    """

    model_type: str = ""
    architectures: tuple[str, ...] = ()
    auto_map: tuple[str, ...] = ()
    heads: int | None = None
    kv_heads: int | None = None
    mla: bool = False
    experts: int | None = None
    experts_used: int | None = None
    context: int | None = None
    context_key: str = ""
    longer_context: int | None = None
    quantization: str = ""
    fp8: bool = False
    layers: int | None = None
    vocab: int | None = None
    pooling: bool = False


def read_config(raw: Mapping[str, object]) -> ConfigFacts:
    """Read the facts out of the JSON object of a `config.json`. Never raises."""
    text = _text_part(raw)
    context, key = _context(raw, text)
    architectures = _texts(raw.get("architectures"))
    return ConfigFacts(
        model_type=_text(raw.get("model_type")),
        architectures=architectures,
        auto_map=tuple(sorted(str(name) for name in _table(raw.get("auto_map")))),
        heads=_first(text, _HEADS),
        kv_heads=_first(text, _KV_HEADS),
        mla=_count(text.get("kv_lora_rank")) is not None,
        experts=_first(text, _EXPERTS),
        experts_used=_first(text, _EXPERTS_USED),
        context=context,
        context_key=key,
        longer_context=_count(raw.get("model_max_length")),
        quantization=_quantization(raw) or _quantization(text),
        fp8=_stores_fp8(raw) or _stores_fp8(text),
        layers=_first(text, ("num_hidden_layers", "n_layer", "n_layers")),
        vocab=_count(text.get("vocab_size")),
        pooling=bool(architectures) and _is_pooling(architectures[0]),
    )


def _text_part(raw: Mapping[str, object]) -> Mapping[str, object]:
    """Return the config of the language model inside a multi-modal one, else the whole."""
    for name in _TEXT_PARTS:
        part = _table(raw.get(name))
        if _first(part, _HEADS) is not None or _table(part.get("text_config")):
            return _text_part(part)
    return raw


def _context(raw: Mapping[str, object], text: Mapping[str, object]) -> tuple[int | None, str]:
    lengths = {key: length for key in _LENGTHS if (length := _count(text.get(key))) is not None}
    if not lengths:
        return None, ""
    key = min(lengths, key=lambda name: lengths[name])
    if "model_max_length" in lengths:
        key = "model_max_length"
    derived = lengths[key]
    if "gemma3" in _text(raw.get("model_type")):
        return derived, key
    return max([derived, *_scaled(text, derived)]), key


def _scaled(text: Mapping[str, object], derived: int) -> Iterator[int]:
    """Yield the lengths that some version of vLLM makes of the rope settings."""
    for name in ("rope_scaling", "rope_parameters"):
        rope = _table(text.get(name))
        for part in (rope, *(_table(value) for value in rope.values())):
            factor = part.get("factor")
            if isinstance(factor, bool) or not isinstance(factor, int | float) or factor < 1:
                continue
            kind = _text(part.get("rope_type")) or _text(part.get("type"))
            if kind in _SCALED_ALREADY or not factor < _LARGEST:
                continue
            original = _count(part.get("original_max_position_embeddings"))
            base = (original or derived) if kind in _YARN else derived
            yield int(base * factor)


def _quantization(config: Mapping[str, object]) -> str:
    table = _table(config.get("quantization_config")) or _table(config.get("compression_config"))
    if not table:
        return ""
    inner = _table(table.get("quantization"))
    if _text(_table(table.get("producer")).get("name")) == "modelopt" and inner:
        algorithm = _text(inner.get("quant_algo")).upper()
        return "modelopt_fp4" if algorithm == "NVFP4" else "modelopt" if algorithm else ""
    method = _text(table.get("quant_method")).lower()
    return method.replace("compressed_tensors", "compressed-tensors")


def _stores_fp8(config: Mapping[str, object]) -> bool:
    table = _table(config.get("quantization_config")) or _table(config.get("compression_config"))
    method = _text(table.get("quant_method"))
    if method in ("fp8", "fbgemm_fp8", "deepseek_v4_fp8"):
        return True
    if method.replace("_", "-") == "compressed-tensors":
        parts = [_table(group) for group in _table(table.get("config_groups")).values()]
        weights = [_table(part.get("weights")) for part in parts]
        return any(part.get("type") == "float" and part.get("num_bits") == 8 for part in weights)  # noqa: PLR2004 - the 8 of fp8
    inner = _table(table.get("quantization"))
    return _text(inner.get("quant_algo")).upper().startswith("FP8")


def _is_pooling(architecture: str) -> bool:
    ends = ("ForSequenceClassification", "ForTokenClassification", "RewardModel", "Embedding")
    return architecture.endswith((*ends, "EmbeddingModel", "BertModel", "ForMaskedLM"))


def _first(table: Mapping[str, object], keys: tuple[str, ...]) -> int | None:
    return next((found for key in keys if (found := _count(table.get(key))) is not None), None)


def _count(value: object) -> int | None:
    """Return a whole number above zero, else `None`."""
    if isinstance(value, float) and value.is_integer() and value < _LARGEST:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _LARGEST:
        return None
    return value


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: object) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def _table(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}
