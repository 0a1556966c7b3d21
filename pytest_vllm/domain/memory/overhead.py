"""What vLLM takes besides weights and cache: estimates, and the terms that decide `MARGINAL`.

Measured on one H100: vLLM 0.19 (49 runs, github.com/jgchn/llm-d-planner, branch accuracy) and 0.26
(two runs). Nothing of it is measured on AMD, where only a reserve is kept. A forecast never ends on
these figures alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_vllm.domain.memory import GIB, MIB
from pytest_vllm.domain.memory.serving import Platform
from pytest_vllm.domain.memory.shape import Attention, ModelShape

if TYPE_CHECKING:
    from pytest_vllm.domain.memory.serving import Serving
    from pytest_vllm.domain.memory.shape import Layer, UnknownShape

SECOND_RUNNER_FROM = (0, 26)
"""From here on the second model runner is the default; its dummy sampler does not sort."""
_WASTEFUL_SAMPLERS = ((0, 15), (0, 16))
_SETTLED_FROM = (0, 27)
"""Before it a window kept one batch besides itself; 0.30 and 0.32 count every batch under way."""
_GRAPHS_COUNTED_FROM = (0, 21)
_GRAPHS_NOT_COUNTED = (0, 26)
"""Measured: 58.84 GiB of cache = 72.84 requested - 12.87 weights - 0.91 - 0.22, without 0.71 of
graphs. Sources of 0.30 and 0.32 count them for both runners."""
_GRAPHS_SEEN_COUNTED = (0, 30)
_LARGE, _MIDDLE = 160 * GIB, 70 * GIB
_VOCAB_STEP = 64
_LOGIT = 4
_LATENT_TOKENS = 65_536
"""Tokens for which MLA makes room when it looks at a long context in chunks."""
_UNKNOWN_ACTIVATION = 2 * GIB
_GRAPHS = GIB
_GRAPHS_OF_EXPERTS = GIB * 5 // 4
_CPU_PROCESS = 3 * GIB // 2
_MOST_CHOSEN = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What is scheduled at most.

    Attributes:
        tokens: Tokens of a step.
        requests: Requests at a time.
    """

    tokens: int
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead:
    """Estimates for one rank, in bytes.

    Attributes:
        before: Taken before the start-up check: context and communication buffers.
        context: Taken after it for the same purpose.
        activation: Peak of a step besides what stays.
        graphs: Captured graphs.
        graphs_counted: Whether they are taken off before the cache is sized.
    """

    before: int
    context: int
    activation: int
    graphs: int
    graphs_counted: bool


def batch(serving: Serving, total_bytes: int, length: int | None) -> Batch:
    """Return the batch: what was asked for, else the defaults for a device of that size.

    Defaults: `EngineArgs.get_batch_defaults` of vLLM 0.32. Names of GPUs play no part but for the
    A100, which gets those of a small device.

    Args:
        serving: What was asked for.
        total_bytes: Memory of the device.
        length: Longest request, `None` when it is not known.
    """
    if serving.platform is Platform.CPU:
        tokens, requests = 2048 * serving.ranks, 128 * serving.ranks
    elif total_bytes >= _LARGE:
        tokens, requests = 16_384, 1024
    elif total_bytes >= _MIDDLE:
        tokens, requests = 8192, 1024
    else:
        tokens, requests = 2048, 256
    factor = 2 if serving.doubled_batch else 1
    most = serving.max_num_seqs or requests * factor
    if serving.max_num_batched_tokens:
        tokens = serving.max_num_batched_tokens
    else:
        tokens = min(tokens * factor, most * length) if length else tokens * factor
    return Batch(tokens=tokens, requests=serving.max_num_seqs or min(most, tokens))


def in_flight(serving: Serving, tokens: int) -> int:
    """Return the tokens that may be scheduled and not yet settled (`max_in_flight_tokens`)."""
    stages = serving.pipeline_parallel
    if serving.version[:2] < _SETTLED_FROM:
        return tokens
    if not serving.overlapped:
        return stages * tokens
    if serving.version[:2] >= SECOND_RUNNER_FROM:
        return (stages + 1) * tokens
    return max(stages, 2) * tokens


def estimate(
    shape: ModelShape | UnknownShape, serving: Serving, load: Batch, *, stage: int = 0
) -> Overhead:
    """Estimate what a rank takes besides weights and cache.

    Args:
        shape: The model.
        serving: How it is split.
        load: What is scheduled at most.
        stage: Pipeline stage of the rank.
    """
    before, context = _context(shape, serving)
    graphs = _graphs(shape, serving)
    return Overhead(
        before=before,
        context=context,
        activation=_activation(shape, serving, load, stage),
        graphs=graphs,
        graphs_counted=graphs > 0 and graphs_counted(serving),
    )


def graphs_counted(serving: Serving) -> bool:
    """Tell whether this version takes the graphs off before it sizes the cache."""
    version = serving.version[:2]
    return (
        serving.graphs_estimated
        and version >= _GRAPHS_COUNTED_FROM
        and version != _GRAPHS_NOT_COUNTED
    )


def graphs_placed_surely(serving: Serving) -> bool:
    """Tell whether it was seen, in a log or in source, what this version does with its graphs."""
    version = serving.version[:2]
    between = _GRAPHS_COUNTED_FROM <= version < _GRAPHS_NOT_COUNTED
    after = _GRAPHS_NOT_COUNTED < version < _GRAPHS_SEEN_COUNTED
    return not (serving.graphs_estimated and (between or after))


def _context(shape: ModelShape | UnknownShape, serving: Serving) -> tuple[int, int]:
    """Return what is taken before and after the start-up check.

    H100: 0.52 GiB before (78.66 of 79.18 free at the check on an idle GPU); after it 0.22 alone,
    0.07 with pipeline stages only, 2.1 with tensor parallelism. AMD: a reserve of 2 GiB alone and
    4 GiB for ranks that talk to others after the check, and a quarter of that before it.
    """
    if serving.platform is Platform.CPU:
        return 0, _CPU_PROCESS
    if serving.platform is Platform.ROCM:
        alone = serving.ranks == 1 and not _meets_copies(shape, serving)
        reserve = (2 if alone else 4) * GIB
        return reserve // 4, reserve
    if serving.tensor_parallel > 1 or _meets_copies(shape, serving):
        return 532 * MIB, 2150 * MIB
    after = 225 if serving.version[:2] >= SECOND_RUNNER_FROM else 276
    return 532 * MIB, after * MIB


def _meets_copies(shape: ModelShape | UnknownShape, serving: Serving) -> bool:
    """Tell whether data-parallel ranks talk to each other: those of a dense model are apart."""
    if serving.data_parallel == 1:
        return False
    return not isinstance(shape, ModelShape) or _has_experts(shape)


def _has_experts(shape: ModelShape) -> bool:
    return any(layer.experts for layer in shape.layers)


def _graphs(shape: ModelShape | UnknownShape, serving: Serving) -> int:
    """Estimate captured graphs: 0.51 to 1.85 GiB on 0.19, mean 1.04; 0.71 and 1.20 on 0.26."""
    if serving.eager or serving.platform is Platform.CPU:
        return 0
    experts = isinstance(shape, ModelShape) and _has_experts(shape)
    return _GRAPHS_OF_EXPERTS if experts else _GRAPHS


def _activation(shape: ModelShape | UnknownShape, serving: Serving, load: Batch, stage: int) -> int:
    """Estimate the peak of a step: of the layers, or of the sampler after the last of them."""
    if not isinstance(shape, ModelShape):
        return _UNKNOWN_ACTIVATION
    kept = load.tokens * shape.hidden * 2
    forward = max((_forward(shape, layer, serving, load) for layer in shape.layers), default=0)
    last = stage == serving.pipeline_parallel - 1
    padded = -(-shape.vocab // _VOCAB_STEP) * _VOCAB_STEP
    logits = min(load.requests, load.tokens) * padded * _LOGIT
    sampler = logits * _copies(serving) + 2 * kept if last else 0
    return max(forward, sampler)


def _copies(serving: Serving) -> int:
    """Return how many copies of all logits the sampler holds.

    0.15 and 0.16 took 2.5 times what 0.17 takes (3.7 to 4.1 copies); older ones are taken to be
    like it. The second runner takes two on an H100; on AMD that is not measured, so 4 stays the
    bound.
    """
    if serving.version[:2] in _WASTEFUL_SAMPLERS:
        return 10
    measured = serving.platform is Platform.CUDA and serving.version[:2] >= SECOND_RUNNER_FROM
    return 2 if measured else 4


def _forward(shape: ModelShape, layer: Layer, serving: Serving, load: Batch) -> int:
    """Estimate the peak of one layer: 16-bit buffers of its MLP, residuals, and MLA's look back."""
    split = serving.tensor_parallel
    width = 3 * layer.intermediate // split + 4 * shape.hidden
    if layer.experts:
        chosen = _chosen(shape)
        part = layer.intermediate if serving.expert_parallel else layer.intermediate // split
        width = chosen * (max(2 * part, shape.hidden) + part) + 4 * shape.hidden
    look_back = 0
    if layer.attention is Attention.LATENT:
        per_head = shape.nope_head_dim + layer.v_head_dim
        look_back = _LATENT_TOKENS * (layer.heads // split) * per_head * 2
    return load.tokens * width * 2 + look_back


def _chosen(shape: ModelShape) -> int:
    """Return how many experts a token uses."""
    for key in ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "top_k"):
        value = shape.raw.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _MOST_CHOSEN:
            return value
    return 1
