"""Memory: what a launch made of it against the forecast, and what load makes of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from pytest_vllm import SHOULD, Client, ServerMemory, check, not_applicable, not_run, suite
from pytest_vllm.adapters.bounds import GIB, MIB, bound
from pytest_vllm.plugin.capacity import capacity_load, too_long
from pytest_vllm.plugin.loads import most_at_once, peak_load, soak
from pytest_vllm.plugin.memory import HOST, gib
from pytest_vllm.plugin.skips import after_stop, out_of_time

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_vllm.domain.server_facts import ServerFacts
    from pytest_vllm.domain.target import Target
    from pytest_vllm.plugin.loads import Soaked

pytestmark = suite("memory")

METRICS = ("metrics",)
CACHE = "vllm:cache_config_info"
PREEMPTIONS = ("vllm:num_preemptions_total", "vllm:num_preemptions")
ATTACHED = "the server is only attached to; launch it (--vllm-image, --vllm-backend=process)"
FILES = "file sizes"
LEGS = 2
LOOKS, FAST_S = 4, 5.0


@check("memory.weights.as-forecast", ref="X08", launched=True)
def test_weights(vllm: Client, vllm_memory: ServerMemory, vllm_target: Target) -> None:
    """The weights that the log tells MUST be those of the forecast."""
    said, expected = _said(vllm_memory), _expected(vllm_memory)
    if vllm_memory.device == "cpu":
        not_applicable("on the CPU vLLM does not log the size of its weights; a GPU is needed")
    loaded = vllm_memory.loaded_bytes
    if said.weights_gib is None:
        not_run("the log does not tell the size of the weights; is its level above INFO?")
    if loaded is None:
        not_run("the forecast has no size of the weights")
    kind = "weights-files-share" if expected.get("basis") == FILES else "weights-share"
    if any(vllm_target.serve_args.value(name) for name in ("--quantization", "-q")):
        kind = "weights-online-share" if kind == "weights-share" else kind
    room = max(bound(kind) * loaded, bound("weights-floor"))
    vllm.observe("memory.weights", f"log {said.weights_gib} GiB, forecast {gib(loaded)}")
    assert abs(said.weights_gib * GIB - loaded) <= room, (
        f"the log says {said.weights_gib} GiB, the forecast {gib(loaded)} +- {gib(room)}"
    )


@check("memory.kv-cache.as-forecast", ref="X08", needs=METRICS, launched=True)
def test_kv_cache(vllm: Client, vllm_memory: ServerMemory) -> None:
    """The KV cache MUST have the blocks of the forecast, as far as that can be exact."""
    said, expected = _said(vllm_memory), _expected(vllm_memory)
    if not vllm_memory.device:
        not_run("the log does not tell whether the server runs on a GPU")
    blocks, wanted = _blocks(vllm, said), _number(expected, "blocks")
    vllm.observe("memory.kv-cache", f"{blocks} blocks, forecast {wanted:g}")
    if vllm_memory.device == "cpu":
        room = max(1.0, bound("kv-cpu") * wanted)
        assert abs(blocks - wanted) <= room, f"{blocks} blocks, the forecast {wanted:g} +- {room:g}"
        return
    each = _number(expected, "bytes_per_block")
    least = wanted - bound("kv-below") * _number(expected, "requested_bytes") / each
    assert blocks >= least, (
        f"{blocks} blocks of {each / 2**20:.2f} MiB, the forecast {wanted:g}, at least {least:.0f}"
    )


@check("memory.kv-cache.fills-its-pool", ref="X08", level=SHOULD, needs=METRICS, launched=True)
def test_pool(vllm: Client, vllm_memory: ServerMemory) -> None:
    """The blocks SHOULD take the room that the log gives the KV cache, by the model's layout."""
    said, expected = _said(vllm_memory), _expected(vllm_memory)
    if said.kv_cache_gib is None:
        not_applicable("the log does not tell the size of the KV cache")
    each = _number(expected, "bytes_per_block")
    pool, taken = said.kv_cache_gib * GIB, _blocks(vllm, said) * each
    room = bound("pool-share") * pool + bound("pool-rounding") + each
    assert abs(pool - taken) <= room, f"{gib(taken)} of blocks in a pool of {gib(pool)}"


@check("memory.kv-cache.log-and-metrics-agree", ref="X08", needs=METRICS, launched=True)
def test_log_and_metrics(vllm: Client, vllm_memory: ServerMemory) -> None:
    """`/metrics` MUST tell the KV cache that the log tells, in tokens and in blocks."""
    said, config = _said(vllm_memory), vllm.metrics().info(CACHE)
    told = {"num_gpu_blocks": said.kv_blocks, "kv_cache_size_tokens": said.kv_tokens}
    known = {
        name: value for name, value in told.items() if value and config.get(name, "").isdigit()
    }
    if not known:
        not_applicable("log and /metrics have no figure of the KV cache in common")
    for name, value in known.items():
        assert int(config[name]) == value, f"{name}: {config[name]} in /metrics, {value} in the log"


@check(
    "memory.kv-cache.figures-fit",
    ref="X08",
    needs=METRICS,
    catches=("cache-blocks-wrong", "kv-tokens-wrong"),
)
def test_figures(vllm: Client) -> None:
    """Tokens, blocks and concurrency of `vllm:cache_config_info` MUST fit each other."""
    config = vllm.metrics().info(CACHE)
    tokens, blocks = config.get("kv_cache_size_tokens", ""), config.get("num_gpu_blocks", "")
    requests, length = config.get("kv_cache_max_concurrency", ""), vllm.max_model_len
    if not (tokens.isdigit() and blocks.isdigit() and config.get("block_size", "").isdigit()):
        not_applicable("this version tells no tokens of its KV cache in /metrics")
    if length and requests.replace(".", "", 1).isdigit():
        # The concurrency is rounded to two digits.
        assert abs(int(tokens) - float(requests) * length) <= 0.01 * length + 1, (
            f"{tokens} tokens are not {requests} requests of {length} tokens"
        )
    windows = [config.get(name, "None") for name in ("sliding_window", "mamba_block_size")]
    if set(windows) - {"None", ""} or config.get("is_attention_free") == "True":
        return  # a token does not take a place in every block
    size = config.get("effective_attention_block_size", "")
    room = int(blocks) * int(size if size.isdigit() else config["block_size"])
    times = int(tokens) / max(1, room)
    # Decode context parallelism splits the tokens over ranks: a whole number of times as many.
    assert times <= 1.01 or abs(times - round(times)) <= 0.01, (
        f"{tokens} tokens in {blocks} blocks, which hold {room}"
    )


@check("memory.free.as-seen-before", ref="G07", level=SHOULD, launched=True)
def test_free(vllm_memory: ServerMemory) -> None:
    """What vLLM found free at its start-up check SHOULD be what was free before the launch."""
    said = _said(vllm_memory)
    _on_gpu(vllm_memory)
    if said.gpu_free_gib is None:
        not_applicable("the log does not tell what was free at the start")
    gpus = _watched_gpus(vllm_memory)
    least = min(_total(vllm_memory, bdf) - vllm_memory.before(bdf) for bdf in gpus)
    found = said.gpu_free_gib * GIB
    assert abs(least - found) <= bound("free"), (
        f"{gib(least)} were free before the launch, vLLM found {gib(found)}"
    )
    asked = _number(vllm_memory.forecast, "requested_bytes")
    assert least + bound("use-below") >= asked, f"{gib(least)} were free, {gib(asked)} asked for"


@check("memory.use.as-forecast", ref="X08", launched=True)
def test_use(vllm: Client, vllm_memory: ServerMemory) -> None:
    """A server that is ready MUST hold its weights and cache, and no more than it was given."""
    _assert_within(vllm, vllm_memory, vllm_memory.use(), lower=True)


@check("memory.use.of-other-gpus", ref="X08", level=SHOULD, launched=True)
def test_other_gpus(vllm_memory: ServerMemory) -> None:
    """GPUs that were not handed over SHOULD be used as before: others may have begun there."""
    _said(vllm_memory)
    _on_gpu(vllm_memory)
    others = set(vllm_memory.gpus) - set(vllm_memory.handed_over)
    if not others:
        not_applicable("all GPUs of this host were handed over")
    seen = vllm_memory.use()
    for bdf in sorted(others & set(seen)):
        more = seen[bdf] - vllm_memory.before(bdf)
        assert more <= bound("others"), f"GPU {bdf}, not handed over: {gib(more)} more in use"


@check(
    "memory.peak.no-preemptions",
    ref="L02 L09",
    needs=METRICS,
    catches=("preempts-under-light-load",),
    alone=True,
    long=True,
)
def test_preemptions(vllm: Client, vllm_memory: ServerMemory, vllm_target: Target) -> None:
    """The most requests at a time MUST NOT lose their places while half of the cache is free."""
    before = vllm.metrics_at_rest().total(*PREEMPTIONS)
    count = most_at_once(vllm_target, vllm_memory)
    with vllm_memory.watched(every_s=0.2) as watch:
        count = peak_load(vllm, count=count, share=bound("light-load"))
    lost = vllm.metrics_at_rest().total(*PREEMPTIONS) - before
    most = {name: gib(use) for name, use in watch.most().items()}
    vllm.observe("memory.peak", f"{count} requests at a time: {most}")
    assert lost == 0, f"{lost:g} preemptions although at most half of the KV cache was needed"


@check("memory.peak.within-the-budget", ref="L02", launched=True, alone=True, long=True)
def test_peak(vllm: Client, vllm_memory: ServerMemory, vllm_target: Target) -> None:
    """While the most requests run at a time, no GPU MUST be used above what it was given."""
    _said(vllm_memory)
    count = most_at_once(vllm_target, vllm_memory)
    with vllm_memory.watched(every_s=0.2) as watch:
        peak_load(vllm, count=count, share=bound("light-load"))
    _assert_within(vllm, vllm_memory, watch.most(), lower=False)


@check(
    "memory.kv-cache.is-real",
    ref="L09",
    needs=("metrics", "tokenize"),
    catches=("kv-cache-smaller-than-told",),
    alone=True,
    long=True,
)
def test_capacity(vllm: Client, vllm_target: Target) -> None:
    """Requests that need 90 % of the stated tokens MUST all finish without a preemption."""
    held = capacity_load(vllm, vllm_target)
    for attempt in range(1, LOOKS):  # a fast server may be done before anybody looked
        if held.peak >= bound("capacity-held") * held.wanted or held.seconds > FAST_S:
            break
        held = capacity_load(vllm, vllm_target, attempt=attempt)
    vllm.observe("memory.kv-cache.is-real", held)
    assert held.preemptions == 0, f"{held.preemptions:g} preemptions: {held}"
    assert held.excess <= bound("capacity-over"), (
        f"the cache was {held.excess:.1f} times as full as what ran can make it: {held}"
    )
    if held.whole_s:  # what could be held was held; that is less than is required
        out_of_time(f"{too_long(held.whole_s, vllm_target.seconds('soak-limit'))}; {held}")
    if held.peak < bound("capacity-held") * held.wanted:
        not_run(f"{held}; the requests did not run at the same time")


@check(
    "memory.soak.no-growth",
    ref="L08",
    catches=("memory-leak",),
    launched=True,
    alone=True,
    long=True,
)
def test_soak(vllm: Client, vllm_memory: ServerMemory, vllm_target: Target) -> None:
    """Memory MUST NOT grow by more than the profile allows per 1,000 requests of a long load."""
    count = vllm_target.number("soak-requests")
    if count == 0:
        not_run("--vllm-soak-requests=0")
    if not vllm_memory.use():
        not_run(f"nothing shows the server's memory: {_unseen(vllm_memory)}")
    end = time.monotonic() + vllm_target.seconds("soak-limit")
    grown: list[str] = []
    for leg in range(LEGS):  # what fills once does not grow again, what leaks does
        found = soak(
            vllm,
            vllm_memory,
            leg=leg,
            count=count,
            limit_s=end - time.monotonic(),
            concurrency=most_at_once(vllm_target, vllm_memory),
        )
        if leg and not found.growths:
            break  # there was no time for another: the first one counts
        vllm.observe("memory.soak", found)
        if not found.growths:
            not_run(f"{found}: too few looks; raise --vllm-soak-requests or --vllm-soak-limit")
        grown = _grown(found, vllm_target)
        if not grown:
            _has_shown_no_growth(vllm_memory, found)
            return
    pytest.fail("\n".join(grown), pytrace=False)


@check("memory.release.after-stop", ref="G07", level=SHOULD, launched=True)
def test_release(vllm_memory: ServerMemory, vllm_target: Target) -> None:
    """Memory SHOULD be given back within 120 s after the stop: else the next server fails."""
    if not vllm_memory.owned:
        not_run(ATTACHED)
    if vllm_target.settings["keep"].value:
        not_run("the server is kept (--vllm-keep)")
    after_stop()


def _has_shown_no_growth(memory: ServerMemory, found: Soaked) -> None:
    """See that the memory in which the model is was watched: the processes' own is not enough."""
    if memory.device == "cpu" or any(name != HOST for name in found.growths):
        return
    why = memory.monitor_says or "--vllm-monitor names none"
    not_run(f"{HOST} did not grow, and no GPU was watched, where the model may be: {why}")


def _grown(found: Soaked, target: Target) -> list[str]:
    """Say what grew by more than is allowed, a line for each."""
    lines = []
    for name, growth in found.growths.items():
        option = "soak-growth-host" if name == HOST else "soak-growth"
        allowed = target.number(option) * MIB
        least = allowed * bound("growth-least") / 1000
        if growth.low > allowed and growth.rise > least:
            lines.append(
                f"{name} grows by {growth.slope / MIB:.0f} MiB per 1,000 requests (99 %: "
                f"{growth.low / MIB:.0f} to {growth.high / MIB:.0f}), allowed "
                f"{allowed / MIB:.0f} (--vllm-{option}): {found}"
            )
    return lines


def _said(memory: ServerMemory) -> ServerFacts:
    """Return what the log says, which only a launch shows."""
    if memory.said is None:
        not_run(ATTACHED)
    return memory.said


def _expected(memory: ServerMemory) -> Mapping[str, object]:
    """Return the forecast; without one nothing can be compared."""
    if not memory.forecast or not memory.forecast.get("kv_bytes_per_token"):
        notes = "; ".join(map(str, memory.forecast.get("notes") or ()))
        not_run(f"there is no forecast for this model: {notes or 'its shape is not known'}")
    return memory.forecast


def _number(expected: Mapping[str, object], name: str) -> float:
    value = expected.get(name)
    if not isinstance(value, int | float) or value <= 0:
        not_run(f"the forecast has no {name}")
    return float(value)


def _blocks(vllm: Client, said: ServerFacts) -> int:
    told = vllm.metrics().info(CACHE).get("num_gpu_blocks", "")
    if not told.isdigit() and said.kv_blocks is None:
        not_run("neither /metrics nor the log tells the blocks of the KV cache")
    return int(told) if told.isdigit() else int(said.kv_blocks or 0)


def _on_gpu(memory: ServerMemory) -> None:
    if memory.device == "cpu":
        not_applicable("the server runs on the CPU; a GPU is needed")


def _watched_gpus(memory: ServerMemory) -> tuple[str, ...]:
    """Return the GPUs of the ranks, or those handed over."""
    gpus = memory.rank_gpus or memory.handed_over
    if not gpus:
        not_run(f"no monitor sees a GPU: {memory.monitor_says or 'none is known'}")
    return gpus


def _total(memory: ServerMemory, bdf: str) -> int:
    return int(memory.gpus[bdf].get("vram_total_bytes") or 0)


def _unseen(memory: ServerMemory) -> str:
    return "; ".join(filter(None, (memory.unseen, memory.monitor_says))) or ATTACHED


def _assert_within(
    vllm: Client, memory: ServerMemory, seen: Mapping[str, int], *, lower: bool
) -> None:
    """Hold what is in use against the forecast: on the GPUs of the ranks, or in host memory."""
    said = _said(memory)
    loaded = memory.loaded_bytes
    _expected(memory)
    if not memory.device or loaded is None:
        not_run("the log does not tell where the server runs, or the forecast no weights")
    pool = _pool(memory, said)
    vllm.observe("memory.use", {name: gib(use) for name, use in seen.items()})
    if memory.device == "cpu":
        if HOST not in seen:
            not_run(f"the server's processes cannot be seen: {memory.unseen}")
        ranks = max(1, said.tensor_parallel or 1) * max(1, said.pipeline_parallel or 1)
        most = ranks * (loaded + pool) + bound("resident-above") * ranks
        assert seen[HOST] <= most, (
            f"processes hold {gib(seen[HOST])}, at most {gib(most)} for weights and KV cache"
        )
        assert not lower or seen[HOST] >= loaded, f"{gib(seen[HOST])} hold no {gib(loaded)}"
        return
    graphs = bound("use-graphs") if said.graph_gib is None else said.graph_gib * GIB
    asked = max(_number(memory.forecast, "requested_bytes"), loaded + pool)
    for bdf in _watched_gpus(memory):
        if bdf not in seen:
            not_run(f"the monitor does not tell what is in use on GPU {bdf}")
        most = asked + memory.before(bdf) + graphs + bound("use-above")
        assert seen[bdf] <= most, f"GPU {bdf}: {gib(seen[bdf])} in use, at most {gib(most)} given"
        least = loaded + pool - bound("use-below")
        assert not lower or seen[bdf] >= least, (
            f"GPU {bdf}: {gib(seen[bdf])} in use, which cannot hold weights and cache of "
            f"{gib(least)}"
        )


def _pool(memory: ServerMemory, said: ServerFacts) -> float:
    if said.kv_cache_gib is not None:
        return said.kv_cache_gib * GIB
    return _number(memory.forecast, "kv_bytes_per_rank")
