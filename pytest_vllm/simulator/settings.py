"""How a simulated server is launched."""

from __future__ import annotations

from dataclasses import dataclass, field

from pytest_vllm.simulator.flaws import Flaws


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorSettings:
    """What `vllm serve` would be told on its command line, and how fast the engine shall be.

    Attributes:
        host: Address to listen on.
        port: Port to listen on, 0 for any free one.
        model: Path or name of the model, the `root` of `/v1/models`.
        served_names: Names that requests may use, the first one answers; none for `model` alone.
        version: Version that `/version` tells.
        max_model_len: Context length in tokens.
        max_num_seqs: Sequences that run at once; others wait.
        block_size: Tokens of one KV cache block.
        num_gpu_blocks: KV cache blocks, `None` for as many as all sequences can fill.
        enable_prefix_caching: Whether full blocks of prompts are kept.
        chat_template: Whether the model has one; a base model has none.
        tool_call_parser: Name of the tool parser with automatic tool choice, `None` for neither.
        enable_prompt_tokens_details: Whether usage tells cached tokens.
        enable_server_load_tracking: Whether `/load` counts.
        enable_request_id_headers: Whether replies carry `X-Request-Id`.
        api_key: Key that `/v1` asks for, `None` for none.
        first_token_delay_ms: Time that a prefill takes at least.
        token_delay_ms: Time between two tokens of a sequence at least.
        jitter_ms: Time added to each delay at most, drawn with `jitter_seed`.
        jitter_seed: Seed of the jitter, so that schedules repeat.
        sampling_seed: Seed of what requests without a seed draw, whatever runs beside them; `None`
            for fresh numbers.
        start_delay_s: Time between launch and readiness.
        refuse_while_starting: Whether connections are refused until ready; else `/health` says 503.
        flaws: Faults of the engine's inside.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    model: str = "simulated/small-lm"
    served_names: tuple[str, ...] = ()
    version: str = "0.32.0"
    max_model_len: int = 2048
    max_num_seqs: int = 16
    block_size: int = 16
    num_gpu_blocks: int | None = None
    enable_prefix_caching: bool = True
    chat_template: bool = True
    tool_call_parser: str | None = None
    enable_prompt_tokens_details: bool = False
    enable_server_load_tracking: bool = False
    enable_request_id_headers: bool = False
    api_key: str | None = None
    first_token_delay_ms: float = 0.0
    token_delay_ms: float = 1.0
    jitter_ms: float = 0.0
    jitter_seed: int = 0
    sampling_seed: int | None = None
    start_delay_s: float = 0.0
    refuse_while_starting: bool = True
    flaws: Flaws = field(default_factory=Flaws)

    @property
    def names(self) -> tuple[str, ...]:
        """Names that requests may use, the one that replies carry first."""
        return self.served_names or (self.model,)

    @property
    def blocks(self) -> int:
        """KV cache blocks."""
        if self.num_gpu_blocks is not None:
            return self.num_gpu_blocks
        return self.max_num_seqs * -(-self.max_model_len // self.block_size)
