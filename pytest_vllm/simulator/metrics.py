"""What the engine counts, told in Prometheus' text format under vLLM's names."""

from __future__ import annotations

import time
from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_vllm.simulator.sampling import SamplingParams
    from pytest_vllm.simulator.settings import SimulatorSettings

_TTFT_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_ITL_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0),
)
_REQUEST_S = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0),
    *(240.0, 480.0, 960.0, 1920.0, 7680.0),
)
_TOKENS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0)
_STEP_TOKENS = tuple(float(2**power) for power in (0, *range(3, 15)))
_CHOICES = (1.0, 2.0, 5.0, 10.0, 20.0)
FINISH_REASONS = ("stop", "length", "abort", "error", "repetition")


class Histogram:
    """Observations in buckets."""

    __slots__ = ("bounds", "counts", "help", "total")

    def __init__(self, bounds: tuple[float, ...], text: str) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.help = text

    def observe(self, value: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


def _histograms() -> dict[str, Histogram]:
    def phase(text: str) -> Histogram:
        return Histogram(_REQUEST_S, f"Histogram of time spent in {text} phase for request.")

    return {
        "vllm:request_prompt_tokens": Histogram(_TOKENS, "Number of prefill tokens processed."),
        "vllm:request_generation_tokens": Histogram(
            _TOKENS, "Number of generation tokens processed."
        ),
        "vllm:iteration_tokens_total": Histogram(
            _STEP_TOKENS, "Histogram of number of tokens per engine_step."
        ),
        "vllm:request_max_num_generation_tokens": Histogram(
            _TOKENS, "Histogram of maximum number of requested generation tokens."
        ),
        "vllm:request_params_n": Histogram(_CHOICES, "Histogram of the n request parameter."),
        "vllm:request_params_max_tokens": Histogram(
            _TOKENS, "Histogram of the max_tokens request parameter."
        ),
        "vllm:time_to_first_token_seconds": Histogram(
            _TTFT_S, "Histogram of time to first token in seconds."
        ),
        "vllm:inter_token_latency_seconds": Histogram(
            _ITL_S, "Histogram of inter-token latency in seconds."
        ),
        "vllm:request_time_per_output_token_seconds": Histogram(
            _ITL_S, "Histogram of time_per_output_token_seconds per request."
        ),
        "vllm:e2e_request_latency_seconds": Histogram(
            _REQUEST_S, "Histogram of e2e request latency in seconds."
        ),
        "vllm:request_queue_time_seconds": phase("WAITING"),
        "vllm:request_inference_time_seconds": phase("RUNNING"),
        "vllm:request_prefill_time_seconds": phase("PREFILL"),
        "vllm:request_decode_time_seconds": phase("DECODE"),
    }


@dataclass(slots=True, kw_only=True)
class Metrics:
    """Counters and histograms of one engine; gauges are read off the engine.

    Attributes:
        prompt_tokens: Prompt tokens processed.
        generation_tokens: Tokens generated.
        cache_queries: Prompt tokens looked up in the prefix cache.
        cache_hits: Prompt tokens found there.
        finished: Finished sequences by reason.
        histograms: Observations by family.
        started: When counting began, in seconds since 1970.
    """

    prompt_tokens: int = 0
    generation_tokens: int = 0
    cache_queries: int = 0
    cache_hits: int = 0
    finished: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FINISH_REASONS, 0))
    histograms: dict[str, Histogram] = field(default_factory=_histograms)
    started: float = field(default_factory=time.time)

    def observe(self, family: str, value: float) -> None:
        """Count an observation; `family` goes without its prefix."""
        self.histograms[f"vllm:{family}"].observe(value)

    def finish(
        self, prompt: int, params: SamplingParams, reason: str, times: Sequence[float]
    ) -> None:
        """Count a finished sequence.

        Args:
            prompt: Tokens of its prompt.
            params: What was asked of it.
            reason: Why it ended.
            times: When it arrived, when it began to run, and when each token came, in seconds.
        """
        tokens = len(times) - 2
        self.generation_tokens += tokens
        self.finished[reason] += 1
        arrived, started, first, last = times[0], times[1], times[2], times[-1]
        observe = self.observe
        observe("request_prompt_tokens", prompt)
        observe("request_generation_tokens", tokens)
        observe("iteration_tokens_total", prompt)
        observe("request_max_num_generation_tokens", tokens)
        observe("request_params_n", params.n)
        observe("request_params_max_tokens", params.max_tokens)
        observe("time_to_first_token_seconds", first - arrived)
        for before, after in pairwise(times[2:]):
            observe("inter_token_latency_seconds", after - before)
        if tokens > 1:
            observe("request_time_per_output_token_seconds", (last - first) / (tokens - 1))
        observe("e2e_request_latency_seconds", last - arrived)
        observe("request_queue_time_seconds", started - arrived)
        observe("request_inference_time_seconds", last - started)
        observe("request_prefill_time_seconds", first - started)
        observe("request_decode_time_seconds", last - first)

    def render(self, settings: SimulatorSettings, gauges: Mapping[str, float]) -> str:
        """Return the text of `/metrics`.

        Args:
            settings: The launch, for labels and the cache configuration.
            gauges: Running, waiting and KV cache usage of now.
        """
        label = f'engine="0",model_name="{settings.names[0]}"'
        lines: list[str] = []
        for name, text, value in (
            ("num_requests_running", "Number of requests in model execution batches.", "running"),
            ("num_requests_waiting", "Number of requests waiting to be processed.", "waiting"),
            ("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", "kv"),
        ):
            sample = [(f"{{{label}}}", gauges[value])]
            lines += _family(f"vllm:{name}", "gauge", text, sample)
        awake = [(f'{{{label},sleep_state="awake"}}', 1.0)]
        lines += _family("vllm:engine_sleep_state", "gauge", "Engine sleep state.", awake)
        for name, text, count in (
            ("prefix_cache_queries", "Prefix cache queries, in tokens.", self.cache_queries),
            ("prefix_cache_hits", "Prefix cache hits, in tokens.", self.cache_hits),
            ("num_preemptions", "Cumulative number of preemption from the engine.", 0),
            ("prompt_tokens", "Number of prefill tokens processed.", self.prompt_tokens),
            ("prompt_tokens_cached", "Number of cached prompt tokens.", self.cache_hits),
            ("generation_tokens", "Number of generation tokens processed.", self.generation_tokens),
        ):
            lines += self._counter(name, text, [(f"{{{label}}}", float(count))])
        reasons = [
            (f'{{engine="0",finished_reason="{reason}",model_name="{settings.names[0]}"}}', count)
            for reason, count in self.finished.items()
        ]
        lines += self._counter(
            "request_success", "Count of successfully processed requests.", reasons
        )
        for family, histogram in self.histograms.items():
            lines += _histogram(family, histogram, label)
        config = _cache_config(settings)
        labels = ",".join(f'{name}="{value}"' for name, value in sorted(config.items()))
        text = "Information of the LLMEngine CacheConfig"
        lines += _family("vllm:cache_config_info", "gauge", text, [(f"{{{labels}}}", 1.0)])
        return "\n".join(lines) + "\n"

    def _counter(self, name: str, text: str, samples: Sequence[tuple[str, float]]) -> list[str]:
        created = [(labels, self.started) for labels, _ in samples]
        family = f"vllm:{name}"
        return [
            *_family(f"{family}_total", "counter", text, samples),
            *_family(f"{family}_created", "gauge", text, created),
        ]


def _family(name: str, kind: str, text: str, samples: Iterable[tuple[str, float]]) -> list[str]:
    head = [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
    return head + [f"{name}{labels} {float(value)!r}" for labels, value in samples]


def _histogram(family: str, histogram: Histogram, label: str) -> list[str]:
    lines, running = [f"# HELP {family} {histogram.help}", f"# TYPE {family} histogram"], 0
    for bound, count in zip([*map(repr, histogram.bounds), "+Inf"], histogram.counts, strict=True):
        running += count
        lines.append(f'{family}_bucket{{{label},le="{bound}"}} {float(running)!r}')
    lines.append(f"{family}_count{{{label}}} {float(running)!r}")
    lines.append(f"{family}_sum{{{label}}} {histogram.total!r}")
    return lines


def _cache_config(settings: SimulatorSettings) -> dict[str, str]:
    size = settings.blocks * settings.block_size
    return {
        "block_size": str(settings.block_size),
        "cache_dtype": "auto",
        "enable_prefix_caching": str(settings.enable_prefix_caching),
        "engine": "0",
        "gpu_memory_utilization": "0.92",
        "kv_cache_max_concurrency": f"{size / settings.max_model_len:.2f}",
        "kv_cache_memory_bytes": str(size * 1024),
        "kv_cache_size_tokens": str(size),
        "num_gpu_blocks": str(settings.blocks),
        "prefix_caching_hash_algo": "sha256",
        "sliding_window": "None",
    }
