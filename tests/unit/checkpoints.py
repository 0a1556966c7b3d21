"""The tensors of checkpoints as their headers name them, made from a config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.memory.weights import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_BLOCK = 128


def tensors(config: dict[str, Any]) -> tuple[Tensor, ...]:
    """Return all tensors of a checkpoint of one of a few families."""
    return tuple(_MAKERS[config["model_type"]](config))


def _matrix(name: str, rows: int, columns: int, *, fp8: bool = False) -> Iterator[Tensor]:
    kind = "F8_E4M3" if fp8 else "BF16"
    yield Tensor(name=f"{name}.weight", dtype=kind, shape=(rows, columns))
    if fp8:
        blocks = (-(-rows // _BLOCK), -(-columns // _BLOCK))
        yield Tensor(name=f"{name}.weight_scale_inv", dtype="F32", shape=blocks)


def _vector(name: str, size: int, kind: str = "BF16") -> Tensor:
    return Tensor(name=name, dtype=kind, shape=(size,))


def _ends(config: dict[str, Any]) -> Iterator[Tensor]:
    hidden = config["hidden_size"]
    yield from _matrix("model.embed_tokens", config["vocab_size"], hidden)
    yield from _matrix("lm_head", config["vocab_size"], hidden)
    yield _vector("model.norm.weight", hidden)


def _mlp(name: str, hidden: int, width: int, *, fp8: bool = False) -> Iterator[Tensor]:
    yield from _matrix(f"{name}.gate_proj", width, hidden, fp8=fp8)
    yield from _matrix(f"{name}.up_proj", width, hidden, fp8=fp8)
    yield from _matrix(f"{name}.down_proj", hidden, width, fp8=fp8)


def _llama(config: dict[str, Any]) -> Iterator[Tensor]:
    """Llama, Qwen 2 and Qwen 3 with experts: names of transformers' own classes."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    keys = config["num_key_value_heads"]
    head = config.get("head_dim") or hidden // heads
    yield from _ends(config)
    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        for name, count in (("q", heads), ("k", keys), ("v", keys)):
            yield from _matrix(f"{layer}.self_attn.{name}_proj", count * head, hidden)
            if config["model_type"] == "qwen2":
                yield _vector(f"{layer}.self_attn.{name}_proj.bias", count * head)
        yield from _matrix(f"{layer}.self_attn.o_proj", hidden, heads * head)
        yield _vector(f"{layer}.self_attn.rotary_emb.inv_freq", head // 2, "F32")
        if config["model_type"] == "qwen3_moe":
            yield _vector(f"{layer}.self_attn.q_norm.weight", head)
            yield _vector(f"{layer}.self_attn.k_norm.weight", head)
            yield from _matrix(f"{layer}.mlp.gate", config["num_experts"], hidden)
            for expert in range(config["num_experts"]):
                name = f"{layer}.mlp.experts.{expert}"
                yield from _mlp(name, hidden, config["moe_intermediate_size"])
        else:
            yield from _mlp(f"{layer}.mlp", hidden, config["intermediate_size"])
        yield _vector(f"{layer}.input_layernorm.weight", hidden)
        yield _vector(f"{layer}.post_attention_layernorm.weight", hidden)


def _phi3(config: dict[str, Any]) -> Iterator[Tensor]:
    """Phi-3: projections fused in the checkpoint."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head, width = hidden // heads, config["intermediate_size"]
    rows = (heads + 2 * config["num_key_value_heads"]) * head
    yield from _ends(config)
    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        yield from _matrix(f"{layer}.self_attn.qkv_proj", rows, hidden)
        yield from _matrix(f"{layer}.self_attn.o_proj", hidden, heads * head)
        yield from _matrix(f"{layer}.mlp.gate_up_proj", 2 * width, hidden)
        yield from _matrix(f"{layer}.mlp.down_proj", hidden, width)
        yield _vector(f"{layer}.input_layernorm.weight", hidden)
        yield _vector(f"{layer}.post_attention_layernorm.weight", hidden)


def _gpt2(config: dict[str, Any]) -> Iterator[Tensor]:
    """GPT-2: matrices as (columns, rows), in 32 bits, with the masks of attention."""
    hidden, context = config["n_embd"], config["n_positions"]
    yield Tensor(name="wte.weight", dtype="F32", shape=(config["vocab_size"], hidden))
    yield Tensor(name="wpe.weight", dtype="F32", shape=(context, hidden))
    for index in range(config["n_layer"]):
        layer = f"h.{index}"
        yield Tensor(name=f"{layer}.attn.bias", dtype="F32", shape=(1, 1, context, context))
        sizes = {"attn.c_attn": (1, 3), "attn.c_proj": (1, 1)}
        sizes |= {"mlp.c_fc": (1, 4), "mlp.c_proj": (4, 1)}
        for name, (columns, rows) in sizes.items():
            matrix = (columns * hidden, rows * hidden)
            yield Tensor(name=f"{layer}.{name}.weight", dtype="F32", shape=matrix)
            yield _vector(f"{layer}.{name}.bias", rows * hidden, "F32")
        for name in ("ln_1", "ln_2"):
            yield _vector(f"{layer}.{name}.weight", hidden, "F32")
            yield _vector(f"{layer}.{name}.bias", hidden, "F32")
    yield _vector("ln_f.weight", hidden, "F32")
    yield _vector("ln_f.bias", hidden, "F32")


def _deepseek(config: dict[str, Any]) -> Iterator[Tensor]:
    """DeepSeek-V3 and V3.2 in fp8 blocks, with its layer for multi-token prediction."""
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    yield from _ends(config)
    for index in range(layers + config.get("num_nextn_predict_layers", 0)):
        layer = f"model.layers.{index}"
        yield from _latent(f"{layer}.self_attn", config)
        yield _vector(f"{layer}.input_layernorm.weight", hidden)
        yield _vector(f"{layer}.post_attention_layernorm.weight", hidden)
        if index < config["first_k_dense_replace"]:
            yield from _mlp(f"{layer}.mlp", hidden, config["intermediate_size"], fp8=True)
        else:
            yield from _experts(f"{layer}.mlp", config)
        if index >= layers:
            yield from _matrix(f"{layer}.embed_tokens", config["vocab_size"], hidden)
            yield from _matrix(f"{layer}.shared_head.head", config["vocab_size"], hidden)
            yield from _matrix(f"{layer}.eh_proj", hidden, 2 * hidden)
            for name in ("enorm", "hnorm", "shared_head.norm"):
                yield _vector(f"{layer}.{name}.weight", hidden)


def _latent(name: str, config: dict[str, Any]) -> Iterator[Tensor]:
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    q, kv, rope = config["q_lora_rank"], config["kv_lora_rank"], config["qk_rope_head_dim"]
    nope, value = config["qk_nope_head_dim"], config["v_head_dim"]
    yield from _matrix(f"{name}.q_a_proj", q, hidden, fp8=True)
    yield _vector(f"{name}.q_a_layernorm.weight", q)
    yield from _matrix(f"{name}.q_b_proj", heads * (nope + rope), q, fp8=True)
    yield from _matrix(f"{name}.kv_a_proj_with_mqa", kv + rope, hidden, fp8=True)
    yield _vector(f"{name}.kv_a_layernorm.weight", kv)
    yield from _matrix(f"{name}.kv_b_proj", heads * (nope + value), kv, fp8=True)
    yield from _matrix(f"{name}.o_proj", hidden, heads * value, fp8=True)
    if "index_n_heads" in config:
        picks, head = config["index_n_heads"], config["index_head_dim"]
        yield from _matrix(f"{name}.indexer.wq_b", picks * head, q, fp8=True)
        yield from _matrix(f"{name}.indexer.wk", head, hidden, fp8=True)
        yield from _matrix(f"{name}.indexer.weights_proj", picks, hidden)
        yield _vector(f"{name}.indexer.k_norm.weight", head, "F32")
        yield _vector(f"{name}.indexer.k_norm.bias", head, "F32")


def _experts(name: str, config: dict[str, Any]) -> Iterator[Tensor]:
    hidden, width = config["hidden_size"], config["moe_intermediate_size"]
    experts = config["n_routed_experts"]
    yield from _matrix(f"{name}.gate", experts, hidden)
    yield _vector(f"{name}.gate.e_score_correction_bias", experts, "F32")
    shared = config["n_shared_experts"] * width
    yield from _mlp(f"{name}.shared_experts", hidden, shared, fp8=True)
    for expert in range(experts):
        yield from _mlp(f"{name}.experts.{expert}", hidden, width, fp8=True)


def _gpt_oss(config: dict[str, Any]) -> Iterator[Tensor]:
    """Gpt-oss: all experts of a layer in one tensor, in MXFP4."""
    hidden, experts = config["hidden_size"], config["num_local_experts"]
    heads, keys, head = config["num_attention_heads"], config["num_key_value_heads"], 64
    yield from _ends(config)
    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        for name, count in (("q", heads), ("k", keys), ("v", keys)):
            yield from _matrix(f"{layer}.self_attn.{name}_proj", count * head, hidden)
            yield _vector(f"{layer}.self_attn.{name}_proj.bias", count * head)
        yield from _matrix(f"{layer}.self_attn.o_proj", hidden, heads * head)
        yield _vector(f"{layer}.self_attn.o_proj.bias", hidden)
        yield _vector(f"{layer}.self_attn.sinks", heads)
        yield from _matrix(f"{layer}.mlp.router", experts, hidden)
        yield _vector(f"{layer}.mlp.router.bias", experts)
        sizes = {
            "gate_up_proj": (2 * config["intermediate_size"], hidden),
            "down_proj": (hidden, config["intermediate_size"]),
        }
        for name, (rows, columns) in sizes.items():
            stem = f"{layer}.mlp.experts.{name}"
            blocks = (experts, rows, columns // 32, 16)
            yield Tensor(name=f"{stem}_blocks", dtype="U8", shape=blocks)
            yield Tensor(name=f"{stem}_scales", dtype="U8", shape=blocks[:3])
            yield Tensor(name=f"{stem}_bias", dtype="BF16", shape=(experts, rows))
        yield _vector(f"{layer}.input_layernorm.weight", hidden)
        yield _vector(f"{layer}.post_attention_layernorm.weight", hidden)


_MAKERS: dict[str, Callable[[dict[str, Any]], Iterator[Tensor]]] = {
    "llama": _llama,
    "qwen2": _llama,
    "qwen3_moe": _llama,
    "phi3": _phi3,
    "gpt2": _gpt2,
    "deepseek_v3": _deepseek,
    "deepseek_v32": _deepseek,
    "gpt_oss": _gpt_oss,
}
