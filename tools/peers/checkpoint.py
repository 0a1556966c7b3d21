"""The tensors of public checkpoints, from their configs: what a tool that reads headers would see.

Names, types and shapes are those of the files on the Hub; the sums are held against the published
bytes in `tests/unit/test_peers.py`. Only what the models of the table need is here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Tensor = tuple[str, str, tuple[int, ...]]
"""Name, type in the spelling of safetensors, shape."""
Config = dict[str, Any]

TYPES = {"BF16": 2, "F16": 2, "F32": 4, "F8_E4M3": 1, "U8": 1}
_BLOCK = 128
_TORCH = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


def tensors(config: Mapping[str, Any]) -> list[Tensor]:
    """Return every tensor of the checkpoint of a model, in the order of its layers."""
    return list(_FAMILIES[config["model_type"]](dict(config)))


def size(tensor: Tensor) -> int:
    """Return the bytes of a tensor."""
    total = TYPES[tensor[1]]
    for dimension in tensor[2]:
        total *= dimension
    return total


class _Writer:
    """Spells tensors of one type; linear layers in 8 bits with scales if the checkpoint is so."""

    def __init__(self, config: Config) -> None:
        self.type = _TORCH[config.get("torch_dtype") or "bfloat16"]
        quantization = config.get("quantization_config") or {}
        self.in_blocks = quantization.get("quant_method") == "fp8"

    def plain(self, name: str, *shape: int) -> Tensor:
        return name, self.type, shape

    def linear(self, name: str, out: int, into: int, *, bias: bool = False) -> Iterator[Tensor]:
        if self.in_blocks:
            blocks = (-(-out // _BLOCK), -(-into // _BLOCK))
            yield f"{name}.weight", "F8_E4M3", (out, into)
            yield f"{name}.weight_scale_inv", "F32", blocks
        else:
            yield f"{name}.weight", self.type, (out, into)
        if bias:
            yield f"{name}.bias", self.type, (out,)

    def gated(self, name: str, width: int, hidden: int) -> Iterator[Tensor]:
        yield from self.linear(f"{name}.gate_proj", width, hidden)
        yield from self.linear(f"{name}.up_proj", width, hidden)
        yield from self.linear(f"{name}.down_proj", hidden, width)

    def norms(self, hidden: int, *names: str) -> Iterator[Tensor]:
        for name in names:
            yield self.plain(f"{name}.weight", hidden)


def _attention(write: _Writer, at: str, config: Config, *, norm: bool = False) -> Iterator[Tensor]:
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    width = config.get("head_dim") or hidden // heads
    every = bool(config.get("attention_bias")) and config["model_type"] == "gpt_oss"
    three = every or bool(config.get("attention_bias")) or config["model_type"] == "qwen2"
    yield from write.linear(f"{at}.q_proj", heads * width, hidden, bias=three)
    yield from write.linear(f"{at}.k_proj", kv_heads * width, hidden, bias=three)
    yield from write.linear(f"{at}.v_proj", kv_heads * width, hidden, bias=three)
    yield from write.linear(f"{at}.o_proj", hidden, heads * width, bias=every)
    if norm:
        yield from write.norms(width, f"{at}.q_norm", f"{at}.k_norm")


def _latent_attention(write: _Writer, at: str, config: Config) -> Iterator[Tensor]:
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    latent, rope = config["kv_lora_rank"], config["qk_rope_head_dim"]
    nope, value, queries = config["qk_nope_head_dim"], config["v_head_dim"], config["q_lora_rank"]
    if queries:
        yield from write.linear(f"{at}.q_a_proj", queries, hidden)
        yield from write.norms(queries, f"{at}.q_a_layernorm")
        yield from write.linear(f"{at}.q_b_proj", heads * (nope + rope), queries)
    else:
        yield from write.linear(f"{at}.q_proj", heads * (nope + rope), hidden)
    yield from write.linear(f"{at}.kv_a_proj_with_mqa", latent + rope, hidden)
    yield from write.norms(latent, f"{at}.kv_a_layernorm")
    yield from write.linear(f"{at}.kv_b_proj", heads * (nope + value), latent)
    yield from write.linear(f"{at}.o_proj", hidden, heads * value)


def _ends(write: _Writer, config: Config, *, prefix: str = "model.") -> Iterator[Tensor]:
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    yield write.plain(f"{prefix}embed_tokens.weight", vocabulary, hidden)
    yield write.plain(f"{prefix}norm.weight", hidden)
    if not config.get("tie_word_embeddings"):
        yield write.plain(f"{prefix.replace('model.', '')}lm_head.weight", vocabulary, hidden)


def _dense(config: Config) -> Iterator[Tensor]:
    write, hidden = _Writer(config), config["hidden_size"]
    kind = config["model_type"]
    more = ("pre_feedforward_layernorm", "post_feedforward_layernorm") * (kind == "gemma2")
    yield from _ends(write, config | {"tie_word_embeddings": _tied(config)})
    for number in range(config["num_hidden_layers"]):
        at = f"model.layers.{number}"
        yield from _attention(write, f"{at}.self_attn", config, norm=kind == "qwen3")
        yield from write.gated(f"{at}.mlp", config["intermediate_size"], hidden)
        names = ("input_layernorm", "post_attention_layernorm", *more)
        yield from write.norms(hidden, *(f"{at}.{name}" for name in names))


def _tied(config: Config) -> bool:
    return bool(config.get("tie_word_embeddings", config["model_type"].startswith("gemma")))


def _phi3(config: Config) -> Iterator[Tensor]:
    write, hidden = _Writer(config), config["hidden_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    width, wide = hidden // heads, config["intermediate_size"]
    yield from _ends(write, config)
    for number in range(config["num_hidden_layers"]):
        at = f"model.layers.{number}"
        yield from write.linear(f"{at}.self_attn.qkv_proj", (heads + 2 * kv_heads) * width, hidden)
        yield from write.linear(f"{at}.self_attn.o_proj", hidden, heads * width)
        yield from write.linear(f"{at}.mlp.gate_up_proj", 2 * wide, hidden)
        yield from write.linear(f"{at}.mlp.down_proj", hidden, wide)
        yield from write.norms(hidden, f"{at}.input_layernorm", f"{at}.post_attention_layernorm")


def _gpt2(config: Config) -> Iterator[Tensor]:
    hidden, context = config["n_embd"], config["n_positions"]
    write = _Writer({"torch_dtype": "float32"})
    yield write.plain("wte.weight", config["vocab_size"], hidden)
    yield write.plain("wpe.weight", context, hidden)
    for number in range(config["n_layer"]):
        at = f"h.{number}"
        yield write.plain(f"{at}.attn.bias", 1, 1, context, context)
        for name, into, out in (
            ("attn.c_attn", hidden, 3 * hidden),
            ("attn.c_proj", hidden, hidden),
            ("mlp.c_fc", hidden, 4 * hidden),
            ("mlp.c_proj", 4 * hidden, hidden),
        ):
            yield write.plain(f"{at}.{name}.weight", into, out)
            yield write.plain(f"{at}.{name}.bias", out)
        for name in ("ln_1", "ln_2"):
            yield write.plain(f"{at}.{name}.weight", hidden)
            yield write.plain(f"{at}.{name}.bias", hidden)
    yield write.plain("ln_f.weight", hidden)
    yield write.plain("ln_f.bias", hidden)


def _experts(config: Config) -> Iterator[Tensor]:
    """Mixtral and Qwen3-MoE."""
    write, hidden = _Writer(config), config["hidden_size"]
    mixtral = config["model_type"] == "mixtral"
    count = config["num_local_experts" if mixtral else "num_experts"]
    wide = config["intermediate_size" if mixtral else "moe_intermediate_size"]
    names = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
    yield from _ends(write, config)
    for number in range(config["num_hidden_layers"]):
        at = f"model.layers.{number}"
        block = f"{at}.block_sparse_moe" if mixtral else f"{at}.mlp"
        yield from _attention(write, f"{at}.self_attn", config, norm=not mixtral)
        yield from write.norms(hidden, f"{at}.input_layernorm", f"{at}.post_attention_layernorm")
        yield write.plain(f"{block}.gate.weight", count, hidden)
        for expert in range(count):
            for name in names[:2]:
                yield from write.linear(f"{block}.experts.{expert}.{name}", wide, hidden)
            yield from write.linear(f"{block}.experts.{expert}.{names[2]}", hidden, wide)


def _routed(config: Config) -> Iterator[Tensor]:
    """DeepSeek V2 and V3, GLM-4.5: first dense layers, then experts; layers to predict ahead."""
    write, hidden = _Writer(config), config["hidden_size"]
    layers, ahead = config["num_hidden_layers"], config.get("num_nextn_predict_layers") or 0
    yield from _ends(write, config)
    for number in range(layers + ahead):
        at = f"model.layers.{number}"
        if config["model_type"] == "glm4_moe":
            yield from _attention(write, f"{at}.self_attn", config, norm=config["use_qk_norm"])
        else:
            yield from _latent_attention(write, f"{at}.self_attn", config)
        yield from write.norms(hidden, f"{at}.input_layernorm", f"{at}.post_attention_layernorm")
        if number < config["first_k_dense_replace"]:
            yield from write.gated(f"{at}.mlp", config["intermediate_size"], hidden)
        else:
            yield from _mixture(write, f"{at}.mlp", config)
        if number >= layers:
            yield write.plain(f"{at}.embed_tokens.weight", config["vocab_size"], hidden)
            yield write.plain(f"{at}.shared_head.head.weight", config["vocab_size"], hidden)
            yield write.plain(f"{at}.eh_proj.weight", hidden, 2 * hidden)
            yield from write.norms(hidden, f"{at}.enorm", f"{at}.hnorm", f"{at}.shared_head.norm")


def _mixture(write: _Writer, at: str, config: Config) -> Iterator[Tensor]:
    hidden, wide = config["hidden_size"], config["moe_intermediate_size"]
    count = config["n_routed_experts"]
    yield write.plain(f"{at}.gate.weight", count, hidden)
    if config["model_type"] != "deepseek_v2":
        yield f"{at}.gate.e_score_correction_bias", "F32", (count,)
    for expert in range(count):
        yield from write.gated(f"{at}.experts.{expert}", wide, hidden)
    shared = config["n_shared_experts"] * wide
    yield from write.gated(f"{at}.shared_experts", shared, hidden)


def _gpt_oss(config: Config) -> Iterator[Tensor]:
    write, hidden = _Writer(config), config["hidden_size"]
    count, wide, heads = (
        config[name] for name in ("num_local_experts", "intermediate_size", "num_attention_heads")
    )
    yield from _ends(write, config)
    for number in range(config["num_hidden_layers"]):
        at = f"model.layers.{number}"
        yield from _attention(write, f"{at}.self_attn", config)
        yield write.plain(f"{at}.self_attn.sinks", heads)
        yield from write.norms(hidden, f"{at}.input_layernorm", f"{at}.post_attention_layernorm")
        yield from write.linear(f"{at}.mlp.router", count, hidden, bias=True)
        for name, out, into in (("gate_up_proj", 2 * wide, hidden), ("down_proj", hidden, wide)):
            yield f"{at}.mlp.experts.{name}_blocks", "U8", (count, out, into // 32, 16)
            yield f"{at}.mlp.experts.{name}_scales", "U8", (count, out, into // 32)
            yield write.plain(f"{at}.mlp.experts.{name}_bias", count, out)


def _gemma3(config: Config) -> Iterator[Tensor]:
    text, eyes = config["text_config"], config["vision_config"]
    write, hidden = _Writer(config), text["hidden_size"]
    yield write.plain("language_model.model.embed_tokens.weight", text["vocab_size"], hidden)
    yield write.plain("language_model.model.norm.weight", hidden)
    for number in range(text["num_hidden_layers"]):
        at = f"language_model.model.layers.{number}"
        yield from _attention(write, f"{at}.self_attn", text, norm=True)
        yield from write.gated(f"{at}.mlp", text["intermediate_size"], hidden)
        names = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm",
                 "post_feedforward_layernorm")  # fmt: skip
        yield from write.norms(hidden, *(f"{at}.{name}" for name in names))
    seen = eyes["hidden_size"]
    yield write.plain("multi_modal_projector.mm_input_projection_weight", seen, hidden)
    yield from write.norms(seen, "multi_modal_projector.mm_soft_emb_norm")
    at = "vision_tower.vision_model"
    patches = (eyes["image_size"] // eyes["patch_size"]) ** 2
    yield write.plain(f"{at}.embeddings.position_embedding.weight", patches, seen)
    yield write.plain(
        f"{at}.embeddings.patch_embedding.weight", seen, 3, eyes["patch_size"], eyes["patch_size"]
    )
    yield write.plain(f"{at}.embeddings.patch_embedding.bias", seen)
    for number in range(eyes["num_hidden_layers"]):
        yield from _seeing_layer(write, f"{at}.encoder.layers.{number}", eyes, out="out_proj")
    yield from _both(write, seen, f"{at}.post_layernorm")


def _llama4(config: Config) -> Iterator[Tensor]:
    text, eyes = config["text_config"], config["vision_config"]
    write, hidden, wide = _Writer(config), text["hidden_size"], text["intermediate_size"]
    count = text["num_local_experts"]
    yield write.plain("language_model.model.embed_tokens.weight", text["vocab_size"], hidden)
    yield write.plain("language_model.model.norm.weight", hidden)
    yield write.plain("language_model.lm_head.weight", text["vocab_size"], hidden)
    for number in range(text["num_hidden_layers"]):
        at = f"language_model.model.layers.{number}"
        yield from _attention(write, f"{at}.self_attn", text)
        yield from write.norms(hidden, f"{at}.input_layernorm", f"{at}.post_attention_layernorm")
        yield write.plain(f"{at}.feed_forward.router.weight", count, hidden)
        yield write.plain(f"{at}.feed_forward.experts.gate_up_proj", count, hidden, 2 * wide)
        yield write.plain(f"{at}.feed_forward.experts.down_proj", count, wide, hidden)
        yield from write.gated(f"{at}.feed_forward.shared_expert", wide, hidden)
    seen, patch = eyes["hidden_size"], eyes["patch_size"]
    patches = (eyes["image_size"] // patch) ** 2 + 1
    projected = eyes["projector_output_dim"]
    yield write.plain("multi_modal_projector.linear_1.weight", hidden, eyes["vision_output_dim"])
    yield write.plain("vision_model.class_embedding", seen)
    yield write.plain("vision_model.positional_embedding_vlm", patches, seen)
    yield write.plain("vision_model.patch_embedding.linear.weight", seen, 3 * patch * patch)
    yield from _both(write, seen, "vision_model.layernorm_pre", "vision_model.layernorm_post")
    for number in range(eyes["num_hidden_layers"]):
        yield from _seeing_layer(write, f"vision_model.model.layers.{number}", eyes, out="o_proj")
    at = "vision_model.vision_adapter.mlp"
    yield write.plain(f"{at}.fc1.weight", eyes["projector_input_dim"], eyes["intermediate_size"])
    yield write.plain(f"{at}.fc2.weight", projected, projected)


def _seeing_layer(write: _Writer, at: str, eyes: Config, *, out: str) -> Iterator[Tensor]:
    width, wide = eyes["hidden_size"], eyes["intermediate_size"]
    for name in ("q_proj", "k_proj", "v_proj", out):
        yield from write.linear(f"{at}.self_attn.{name}", width, width, bias=True)
    yield from write.linear(f"{at}.mlp.fc1", wide, width, bias=True)
    yield from write.linear(f"{at}.mlp.fc2", width, wide, bias=True)
    yield from _both(write, width, f"{at}.layer_norm1", f"{at}.layer_norm2")


def _both(write: _Writer, width: int, *names: str) -> Iterator[Tensor]:
    for name in names:
        yield write.plain(f"{name}.weight", width)
        yield write.plain(f"{name}.bias", width)


_FAMILIES: dict[str, Callable[[Config], Iterator[Tensor]]] = {
    **dict.fromkeys(("llama", "qwen2", "qwen3", "gemma2"), _dense),
    **dict.fromkeys(("mixtral", "qwen3_moe"), _experts),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "glm4_moe"), _routed),
    "phi3": _phi3,
    "gpt2": _gpt2,
    "gpt_oss": _gpt_oss,
    "gemma3": _gemma3,
    "llama4": _llama4,
}
