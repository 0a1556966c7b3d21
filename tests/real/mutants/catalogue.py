"""The broken and the healthy variants of the model: names, what they stand for, how to make them.

Pure data. The operations are functions of `inside/mutant_weights.py` (checkpoint tensors) and
`inside/mutant_engine.py` (running modules).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Operation = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to serve the model.

    Attributes:
        name: Used in the table and in test IDs.
        what: The fault that it stands for.
        operations: What the worker does to the clean model, in order.
        dtype: `--dtype` of the server.
        told: What a launch of such a model says about its precision; a golden of another one is
            then compared within wider bounds.
    """

    name: str
    what: str
    operations: tuple[Operation, ...] = ()
    dtype: str = "bfloat16"
    told: tuple[str, ...] = ()


def variant(name: str, what: str, operation: str, **arguments: Any) -> Variant:
    """Build a variant that one operation makes."""
    return Variant(name=name, what=what, operations=((operation, arguments),))


def lost_shards(layer: int | None) -> tuple[Operation, ...]:
    """Lose what the second of two ranks adds behind attention and MLP; None is all layers."""
    return tuple(("lose_shard", {"only": only, "layer": layer}) for only in ("o_proj", "down_proj"))


MIDDLE = 15  # of 30 layers
LAST = [25, 26, 27, 28, 29]
ROTATED = [8, 0, 1, 2, 3, 4, 5, 6, 7]

HEALTHY = (
    Variant(name="bf16", what="the weights as they are"),
    Variant(name="fp32", what="float32", dtype="float32", told=("--dtype=float32",)),
    Variant(
        name="fp8-rounded",
        what="matrices rounded to fp8 e4m3fn and back, one scale each",
        operations=(("round_fp8", {}),),
        told=("--quantization=fp8",),
    ),
    Variant(
        name="int8-rounded",
        what="matrices rounded to int8 and back, one scale a row",
        operations=(("round_int8", {}),),
        told=("--quantization=compressed-tensors",),
    ),
)

# The 31 kinds that the design report and the issue name.
NAMED = (
    variant("rope-theta-x0.1", "RoPE base a tenth", "change_theta", factor=0.1),
    variant("rope-theta-x0.5", "RoPE base halved", "change_theta", factor=0.5),
    variant("rope-theta-x2", "RoPE base doubled", "change_theta", factor=2.0),
    variant("rope-theta-x5", "RoPE base five times", "change_theta", factor=5.0),
    variant("rope-off", "no rotation at all", "remove_rope"),
    variant("layers-last-5-dropped", "last 5 of 30 layers left out", "drop_layers", layers=LAST),
    variant("layer-middle-dropped", "layer 15 left out", "drop_layers", layers=[MIDDLE]),
    variant("layers-swapped", "layers 10 and 20 exchanged", "swap_layers", first=10, second=20),
    variant("head-lost", "1 of 270 heads gives nothing", "lose_head", layer=MIDDLE, head=4),
    variant(
        "heads-permuted",
        "query heads rotated by one, all layers",
        "permute_heads",
        only="q_proj",
        order=ROTATED,
        layer=None,
    ),
    variant("fp8-scale-x0.5", "fp8 scales halved (fn for fnuz)", "round_fp8", scale_error=0.5),
    variant("fp8-scale-x1.1", "fp8 scales 10 % too large", "round_fp8", scale_error=1.1),
    variant("fp8-scale-x2", "fp8 scales doubled", "round_fp8", scale_error=2.0),
    Variant(
        name="tp2-no-all-reduce",
        what="the second rank's part lost, all layers",
        operations=lost_shards(layer=None),
    ),
    Variant(
        name="tp2-no-all-reduce-once",
        what="the second rank's part lost in layer 15",
        operations=lost_shards(layer=MIDDLE),
    ),
    variant("noise-1", "1 % noise on all matrices", "add_noise", ratio=0.01, seed=1),
    variant("noise-2", "2 % noise on all matrices", "add_noise", ratio=0.02, seed=1),
    variant("noise-5", "5 % noise on all matrices", "add_noise", ratio=0.05, seed=1),
    variant("noise-10", "10 % noise on all matrices", "add_noise", ratio=0.10, seed=1),
    variant(
        "int4-without-scales",
        "int4 integers taken for weights",
        "round_int4",
        group=64,
        use_scales=False,
    ),
    variant(
        "int4-groups-off",
        "int4 scales of the next group",
        "round_int4",
        group=64,
        use_scales=True,
        groups_off=1,
    ),
    variant("int8-rows-off", "int8 scales of the next row", "round_int8", rows_off=1),
    variant("norm-eps", "epsilon of the norms 0.1, not 1e-5", "change_eps", eps=0.1),
    variant("embeddings-off-by-one", "neighbour's vector", "shift_embeddings", rows=1),
    variant("random-weights", "random numbers of the same spread", "randomise", seed=1),
    variant("nan-weight", "one NaN in one matrix", "poison", layer=MIDDLE),
    variant(
        "kv-heads-swapped",
        "key heads 0 and 1 exchanged, all layers",
        "permute_heads",
        only="k_proj",
        order=[1, 0, 2],
        layer=None,
    ),
    variant("gate-up-swapped", "gate and up exchanged, all layers", "swap_gate_and_up", layer=None),
    variant("residual-dropped", "residual lost behind layer 15", "drop_residual", layer=MIDDLE),
    variant("logits-x0.5", "logits halved", "scale_logits", factor=0.5),
    variant("norms-plus-0.1", "a constant error in every norm", "shift_norms", by=0.1),
)

# More that an engine can get wrong: harder ones, and those that only decoding, long prompts or
# batches show.
FURTHER = (
    variant(
        "layers-neighbours-swapped", "layers 14, 15 exchanged", "swap_layers", first=14, second=15
    ),
    variant(
        "heads-permuted-once",
        "query heads of layer 15 rotated by one",
        "permute_heads",
        only="q_proj",
        order=ROTATED,
        layer=MIDDLE,
    ),
    variant("scale-x0.5-once", "scales of layer 15 halved", "scale", factor=0.5, layer=MIDDLE),
    variant(
        "output-transposed-once",
        "o_proj of layer 15 transposed",
        "transpose",
        only="o_proj",
        layer=MIDDLE,
    ),
    variant("logits-x1.1", "logits 10 % too large", "scale_logits", factor=1.1),
    variant("attention-scale-x0.5", "attention scores halved", "scale_attention", factor=0.5),
    variant("attention-scale-x1.1", "attention scores 10 % up", "scale_attention", factor=1.1),
    variant("rope-interleaved", "RoPE pairs neighbours, not halves", "interleave_rope"),
    variant("rope-table-short", "RoPE table ends at position 1024", "shorten_rope", end=1024),
    variant(
        "decode-positions-off",
        "positions of small steps one too large",
        "shift_decode_positions",
        by=1,
        most_tokens=16,
    ),
    variant(
        "rows-swapped",
        "in batches of 3, 5, 6, 7 two sequences get each other's logits",
        "swap_rows",
        sizes=[3, 5, 6, 7],
    ),
)

MUTANTS = NAMED + FURTHER
VARIANTS = {entry.name: entry for entry in HEALTHY + MUTANTS}
DISK = VARIANTS["noise-10"]
"""Is compared with a server that starts on its weights: it changes every matrix."""
