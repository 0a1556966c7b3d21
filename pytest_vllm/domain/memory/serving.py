"""What arguments, variables and version of a server mean for its memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Platform(StrEnum):
    """What vLLM runs on; the formulas differ."""

    ROCM = "rocm"
    CUDA = "cuda"
    CPU = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """How a server spreads a model over devices and what it may take of them.

    Attributes:
        version: Version of vLLM, which decides defaults and definitions.
        version_assumed: Whether it is only assumed: what one version refuses stands against none.
        platform: What it runs on.
        tensor_parallel: Devices over which a layer is split.
        pipeline_parallel: Groups of layers.
        data_parallel: Copies of the attention layers.
        local_copies: How many of them are on this host, `None` for all.
        expert_parallel: Whether whole experts, not slices of them, are spread.
        decode_context_parallel: Devices over which the tokens of the KV cache are split.
        dtype: `--dtype`: `auto` is that of the config, float32 loaded as 16 bits.
        quantization: `--quantization`, empty when it was not given.
        kv_cache_dtype: `--kv-cache-dtype`: `auto` is the type of the model.
        block_size: Tokens of a block, `None` for the version's and backend's own.
        max_model_len: Tokens of a request, `None` for the model's own.
        fits_length: Whether vLLM itself looks for the longest that fits (`auto`, `-1`).
        max_num_seqs: Requests at a time, `None` for the default of the device.
        max_num_batched_tokens: Tokens of a step, `None` for the default of the device.
        doubled_batch: Whether both defaults are doubled (`--performance-mode throughput`).
        hosts: Hosts over which the ranks are spread, 0 when that is not known.
        utilization: `--gpu-memory-utilization`, `None` for the version's default.
        eager: Whether graphs are switched off.
        prefix_caching: Whether prefixes are kept, `None` for the default of the model.
        hybrid_manager: Whether layers with windows keep no more than their window in the cache.
        overlapped: Whether a step is scheduled while another runs.
        attention_backend: `--attention-backend`, empty for vLLM's own choice.
        graphs_estimated: Whether graphs are counted into the share before the cache is sized.
        kv_cache_bytes: `--kv-cache-memory-bytes`; for a CPU the size of its KV space.
        blocks: `--num-gpu-blocks-override`.
        variables: Variables of the server that change its memory, such as `VLLM_ROCM_FP8_PADDING`.
        unmodelled: Arguments that change the memory in ways that no formula here covers.
    """

    version: tuple[int, ...] = (0, 32, 0)
    version_assumed: bool = False
    platform: Platform = Platform.ROCM
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    data_parallel: int = 1
    local_copies: int | None = None
    expert_parallel: bool = False
    decode_context_parallel: int = 1
    dtype: str = "auto"
    quantization: str = ""
    kv_cache_dtype: str = "auto"
    block_size: int | None = None
    max_model_len: int | None = None
    fits_length: bool = False
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    doubled_batch: bool = False
    hosts: int = 1
    utilization: float | None = None
    eager: bool = False
    prefix_caching: bool | None = None
    hybrid_manager: bool = True
    overlapped: bool = True
    attention_backend: str = ""
    graphs_estimated: bool = True
    kv_cache_bytes: int | None = None
    blocks: int | None = None
    variables: dict[str, str] = field(default_factory=dict)
    unmodelled: tuple[str, ...] = ()

    @property
    def ranks(self) -> int:
        """Devices of one copy of the model."""
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def ranks_here(self) -> int:
        """Devices that all copies take of this host; of one of several its even part.

        With Ray, which takes ranks wherever there is room, those of all hosts together.
        """
        whole = self.ranks * self.data_parallel
        if self.hosts > 1:
            return -(-whole // self.hosts)
        if self.local_copies is None:
            return whole
        return self.ranks * min(self.local_copies, self.data_parallel)
