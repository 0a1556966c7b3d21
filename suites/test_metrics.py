"""Metrics: what dashboards, autoscalers and the reports of this project read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pytest_vllm import INFO, SHOULD, Client, check, not_applicable, suite

if TYPE_CHECKING:
    from pytest_vllm.domain.metrics import Metrics
    from pytest_vllm.domain.target import Target

pytestmark = suite("metrics", concurrent=True)

METRICS = ("metrics",)
RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
PROMPT, GENERATED = "vllm:prompt_tokens_total", "vllm:generation_tokens_total"
FINISHED = "vllm:request_success_total"
# Renamed in vLLM 0.11: the newer name first.
KV_USAGE = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
CACHE_HITS = ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total")
LATENCIES = ("vllm:time_to_first_token_seconds", "vllm:e2e_request_latency_seconds")
CACHE = "vllm:cache_config_info"
TEXT = "The river runs through the old town and under seven bridges. "


@check("metrics.exposition.parses", needs=METRICS, ref="X01", catches=("metrics-unparsable",))
def test_parses(vllm: Client) -> None:
    """`/metrics` MUST be in Prometheus' text format."""
    assert vllm.metrics().samples


@check("metrics.route.is-there", ref="X01", catches=("metrics-missing",))
def test_route(vllm: Client) -> None:
    """A server MUST have `/metrics`: without it nobody sees what it does."""
    assert vllm.get("/metrics").status == 200


@check("metrics.exposition.media-type", level=SHOULD, needs=METRICS, ref="X01")
def test_media_type(vllm: Client) -> None:
    """`/metrics` SHOULD be sent as `text/plain`, or as OpenMetrics, which Prometheus asks for."""
    assert vllm.get("/metrics").content_type in ("text/plain", "application/openmetrics-text")


@check("metrics.families.present", needs=METRICS, ref="X01", catches=("metrics-families-renamed",))
def test_families(vllm: Client) -> None:
    """The metrics of load, tokens, ends and latency MUST be there under vLLM's names."""
    vllm.complete("Hello", max_tokens=2)
    names = vllm.metrics_when(lambda seen: FINISHED in seen.names).names
    wanted = {RUNNING, WAITING, PROMPT, GENERATED, FINISHED}
    wanted |= {f"{latency}_count" for latency in LATENCIES}
    assert wanted - names == set()
    assert names & set(KV_USAGE)


@check("metrics.types.declared", level=SHOULD, needs=METRICS, ref="X01")
def test_types(vllm: Client) -> None:
    """Counters, gauges and histograms SHOULD be declared as what they are."""
    types = vllm.metrics().types
    seen = {name: types.get(name) for name in (RUNNING, PROMPT.removesuffix("_total"))}
    assert list(seen.values()) == ["gauge", "counter"]
    assert [types.get(latency) for latency in LATENCIES] == ["histogram", "histogram"]


@check("metrics.labels.model", level=SHOULD, needs=METRICS, ref="X01")
def test_model_label(vllm: Client) -> None:
    """The samples of vLLM SHOULD name a served model."""
    models = {sample.labels.get("model_name") for sample in vllm.metrics().find(RUNNING)}
    assert models <= set(vllm.server.served_names)


@check("metrics.values.numbers", needs=METRICS, ref="X01", catches=("metrics-gauge-negative",))
def test_values(vllm: Client) -> None:
    """No gauge of requests and no counter of tokens MUST be negative or not a number."""
    metrics = vllm.metrics()
    names = {RUNNING, WAITING, PROMPT, GENERATED, FINISHED, *KV_USAGE}
    bad = [s for s in metrics.samples if s.name in names and not s.value >= 0]
    assert bad == []


@check("metrics.counters.rise", needs=METRICS, ref="X02", catches=("metrics-frozen",))
def test_counters_rise(vllm: Client) -> None:
    """The counters of tokens MUST rise when tokens are read and written."""
    before = vllm.metrics()
    usage = vllm.complete(TEXT, max_tokens=4, ignore_eos=True).json["usage"]
    wanted = {PROMPT: usage["prompt_tokens"], GENERATED: usage["completion_tokens"]}

    def risen(now: Metrics) -> bool:
        return all(now.total(n) - before.total(n) >= more for n, more in wanted.items())

    assert risen(vllm.metrics_when(risen))


@check(
    "metrics.tokens.as-usage",
    needs=METRICS,
    ref="X02",
    catches=("metrics-frozen", "metrics-tokens-doubled"),
    alone=True,
)
def test_tokens(vllm: Client) -> None:
    """The counters of tokens MUST rise by exactly what the usage says."""
    before = vllm.metrics_at_rest()
    usage = vllm.complete(TEXT, max_tokens=7, ignore_eos=True).json["usage"]
    after = vllm.metrics_when(lambda now: now.total(GENERATED) != before.total(GENERATED))
    assert after.total(PROMPT) - before.total(PROMPT) == usage["prompt_tokens"]
    assert after.total(GENERATED) - before.total(GENERATED) == usage["completion_tokens"] == 7


@check(
    "metrics.success.by-reason",
    needs=METRICS,
    ref="X03",
    catches=("metrics-frozen", "metrics-reason-swapped"),
    alone=True,
)
def test_success(vllm: Client) -> None:
    """A request that ends at its bound MUST be counted once, under `length`."""
    before = vllm.metrics_at_rest()
    vllm.complete("Hello", max_tokens=3, ignore_eos=True)
    after = vllm.metrics_when(lambda now: _finished(now) != _finished(before))
    assert _finished(after) - _finished(before) == 1
    assert _finished(after, "length") - _finished(before, "length") == 1


@check(
    "metrics.refusals.count-nothing",
    needs=METRICS,
    ref="X04",
    catches=("metrics-refused-counted",),
    alone=True,
)
def test_refusals(vllm: Client) -> None:
    """A refused request MUST NOT add to the counters of tokens."""
    before = vllm.metrics_at_rest()
    for _ in range(3):
        vllm.send("POST", "/v1/completions", body=_body(vllm, "Hello", temperature=-1))
    after = vllm.metrics_at_rest()
    assert after.total(PROMPT) == before.total(PROMPT)
    assert after.total(GENERATED) == before.total(GENERATED)


@check(
    "metrics.gauges.fall-to-zero",
    needs=METRICS,
    ref="X05",
    catches=("metrics-gauge-stuck", "metrics-gauge-negative"),
    alone=True,
)
def test_idle(vllm: Client) -> None:
    """A server at rest MUST say that no request runs or waits."""
    vllm.complete("Hello", max_tokens=2)
    metrics = vllm.metrics_at_rest()
    assert metrics.total(RUNNING) == metrics.total(WAITING) == 0


@check("metrics.kv-cache.empty-at-rest", needs=METRICS, ref="X05", alone=True)
def test_kv_at_rest(vllm: Client) -> None:
    """The KV cache of a server at rest MUST be free: 1 means all of it is in use."""
    vllm.complete("Hello", max_tokens=2)
    vllm.metrics_at_rest()
    usage = vllm.metrics_when(lambda now: now.total(*KV_USAGE) == 0).total(*KV_USAGE)
    assert usage == 0


@check("metrics.gauges.show-load", level=SHOULD, needs=METRICS, ref="X05", alone=True)
def test_running(vllm: Client) -> None:
    """The gauges SHOULD show a request while it runs: autoscalers live on them."""
    seen: list[float] = []

    def look() -> None:
        deadline = vllm.metrics_when(lambda now: now.total(RUNNING) >= 1, within_s=4)
        seen.append(deadline.total(RUNNING))

    def run() -> None:
        vllm.complete(TEXT, max_tokens=96, ignore_eos=True)

    vllm.together([run, look])
    if seen == [0]:
        not_applicable("the request was over before anybody could look")
    assert seen[0] >= 1


@check(
    "metrics.prefix-cache.hits-rise",
    needs=METRICS,
    ref="X06",
    catches=("metrics-cache-hits-frozen",),
    alone=True,
)
def test_prefix_hits(vllm: Client) -> None:
    """A long prompt that comes again MUST raise the hits of the prefix cache."""
    metrics = vllm.metrics()
    config = metrics.info(CACHE)
    if config.get("enable_prefix_caching", "").lower() != "true":
        not_applicable("prefix caching is off, or the server does not say that it is on")
    if metrics.engines > 1:
        not_applicable("the next request may go to another engine, which has a cache of its own")
    block = int(config["block_size"]) if config.get("block_size", "").isdigit() else 128
    prompt = _prompt_of(vllm, 2 * block + 2)
    before = vllm.metrics_at_rest().total(*CACHE_HITS)
    for _ in range(2):
        vllm.complete(prompt, max_tokens=1)
    after = vllm.metrics_when(lambda now: now.total(*CACHE_HITS) > before)
    assert after.total(*CACHE_HITS) - before >= block


@check("metrics.abort.counted", level=INFO, needs=METRICS, ref="X07", alone=True)
def test_abort(vllm: Client) -> None:
    """An aborted request is counted under `abort`, or not: vLLM 0.32 does not."""
    before = _finished(vllm.metrics_at_rest(), "abort")
    vllm.abandon("/v1/completions", _body(vllm, TEXT, max_tokens=200, stream=True), after_lines=1)
    after = _finished(vllm.metrics_at_rest(), "abort")
    vllm.observe("request_success_total{abort} after an aborted stream", f"+{after - before:g}")


@check(
    "metrics.cache-config.told",
    level=SHOULD,
    needs=METRICS,
    ref="X08",
    catches=("metrics-cache-info-missing",),
)
def test_cache_config(vllm: Client) -> None:
    """`vllm:cache_config_info` SHOULD tell the block size and the share of memory in use."""
    config = vllm.metrics().info(CACHE)
    assert {"block_size", "gpu_memory_utilization"} <= set(config)
    for name in ("block_size", "num_gpu_blocks", "kv_cache_size_tokens", "cache_dtype"):
        vllm.observe(f"cache_config_info {name}", config.get(name, "not told"))


@check("metrics.cache-config.as-launched", needs=METRICS, ref="X08")
def test_cache_config_as_launched(vllm: Client, vllm_target: Target) -> None:
    """The cache MUST be configured as was asked for at launch."""
    config, asked = vllm.metrics().info(CACHE), vllm_target.serve_args
    wanted = {
        name: asked.value(flag)
        for flag, name in (
            ("--gpu-memory-utilization", "gpu_memory_utilization"),
            ("--block-size", "block_size"),
        )
        if asked.value(flag) and name in config
    }
    if not wanted:
        not_applicable("neither --gpu-memory-utilization nor --block-size was given")
    for name, value in wanted.items():
        assert float(config[name]) == float(value or "nan"), name


@check("metrics.corrupted.none", needs=METRICS, ref="X09")
def test_corrupted(vllm: Client) -> None:
    """No request MUST be counted as corrupted (with `VLLM_COMPUTE_NANS_IN_LOGITS=1`)."""
    metrics = vllm.metrics()
    found = metrics.find("vllm:corrupted_requests_total", "vllm:corrupted_requests")
    if not found:
        not_applicable("the server was started without VLLM_COMPUTE_NANS_IN_LOGITS=1")
    assert sum(sample.value for sample in found) == 0


@check(
    "metrics.latency.counts-requests",
    needs=METRICS,
    ref="X10",
    catches=("metrics-histogram-frozen",),
    alone=True,
)
def test_latency_counts(vllm: Client) -> None:
    """The histograms of TTFT and latency MUST count each request once."""
    before = vllm.metrics_at_rest()
    vllm.complete("Hello", max_tokens=2, ignore_eos=True)
    counts = [f"{latency}_count" for latency in LATENCIES]

    def moved(now: Metrics) -> bool:
        return all(now.total(name) > before.total(name) for name in counts)

    after = vllm.metrics_when(moved)
    assert [after.total(name) - before.total(name) for name in counts] == [1, 1]


@check("metrics.latency.first-token-before-end", needs=METRICS, ref="X10", alone=True)
def test_latency_order(vllm: Client) -> None:
    """The time to the first token MUST NOT be longer than the whole request took."""
    before = vllm.metrics_at_rest()
    reply = vllm.complete("Hello", max_tokens=8, ignore_eos=True)
    last = f"{LATENCIES[1]}_count"
    after = vllm.metrics_when(lambda now: now.total(last) > before.total(last))
    ttft, e2e = (after.total(f"{n}_sum") - before.total(f"{n}_sum") for n in LATENCIES)
    assert math.isfinite(ttft)
    assert 0 < ttft <= e2e
    assert e2e * 1000 <= reply.elapsed_ms + 1000  # the server's clock and ours


@check("metrics.preemptions.told", level=INFO, needs=METRICS, ref="X01")
def test_preemptions(vllm: Client) -> None:
    """How often a request lost its place in the KV cache is seen in every run."""
    found = vllm.metrics().find("vllm:num_preemptions_total", "vllm:num_preemptions")
    vllm.observe("preemptions since the start", sum(sample.value for sample in found))


def _finished(metrics: Metrics, reason: str = "") -> float:
    labels = {"finished_reason": reason} if reason else {}
    return sum(sample.value for sample in metrics.find(FINISHED, **labels))


def _body(vllm: Client, prompt: str, **params: Any) -> dict[str, Any]:
    return {"model": vllm.model, "prompt": prompt, "max_tokens": 4, "ignore_eos": True, **params}


def _prompt_of(vllm: Client, tokens: int) -> list[int]:
    """Return a prompt of so many tokens that nobody sent before."""
    head = vllm.tokenize(f"Run {vllm.seed}, {id(vllm)}. ")
    body = vllm.tokenize(TEXT)
    prompt = (head + body * (tokens // len(body) + 1))[:tokens]
    if vllm.max_model_len is not None and len(prompt) >= vllm.max_model_len:
        not_applicable(f"the context of {vllm.max_model_len} tokens holds no two blocks")
    return prompt
