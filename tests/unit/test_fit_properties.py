"""What holds for every forecast: it never raises, adds up, and more of something is never worse."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, assume, given, settings

from pytest_vllm.domain.fit import Device, Fit, Forecast, Gate, ModelMemory, forecast
from pytest_vllm.domain.memory import GIB
from pytest_vllm.domain.memory.config import read_shape
from pytest_vllm.domain.memory.outlook import Case, reckon
from pytest_vllm.domain.memory.plain import to_json
from pytest_vllm.domain.memory.reading import read_serving
from pytest_vllm.domain.memory.serving import Platform, Serving
from pytest_vllm.domain.target import ServeArgs
from tests.unit.fit_cases import model

_NAMES = (
    "deepseek-ai/DeepSeek-V3.1",
    "deepseek-ai/DeepSeek-V2-Lite",
    "deepseek-ai/deepseek-llm-7b-base",
    "deepseek-ai/deepseek-llm-67b-base",
    "meta-llama/Llama-3.1-8B",
    "meta-llama/Llama-3.2-1B",
    "Qwen/Qwen2.5-7B",
    "Qwen/Qwen3-30B-A3B",
    "google/gemma-2-9b",
    "mistralai/Mixtral-8x7B-v0.1",
    "openai/gpt-oss-20b",
)
_VERSIONS = ((0, 9, 0), (0, 10, 2), (0, 20, 0), (0, 26, 0), (0, 32, 0))
_EVERYTHING = bool(os.environ.get("PYTEST_VLLM_TEST_ALL"))
_QUICK = settings(
    max_examples=500 if _EVERYTHING else 60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=not _EVERYTHING,
)

_LONG = {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}
_FIELDS = {
    "utilization": "utilization",
    "tensor-parallel": "tensor_parallel",
    "max-model-len": "max_model_len",
    "quantization": "quantization",
    "gpus": "tensor_parallel",
    "kv-cache": "kv_cache_bytes",
}
_BESIDE = {
    "--gpu-memory-utilization=": "utilization",
    "--tensor-parallel-size=": "tensor_parallel",
}
"""What the argument of a kind of suggestion changes."""

models = st.sampled_from(_NAMES).map(model)
sizes = st.integers(8 * GIB, 300 * GIB)


@st.composite
def devices(draw: st.DrawFn, *, most: int = 16) -> tuple[Device, ...]:
    """Make devices of one size, of which others hold something or nothing."""
    total = draw(sizes)
    found = []
    for _ in range(draw(st.sampled_from([1, 2, 4, 8, most]))):
        free = draw(st.just(total) | st.integers(0, total))
        found.append(Device(name="any", gfx="gfx942", total_bytes=total, free_bytes=free))
    return tuple(found)


@st.composite
def servings(draw: st.DrawFn) -> Serving:
    """Make arguments, sensible or not."""
    return Serving(
        version=draw(st.sampled_from(_VERSIONS)),
        platform=draw(st.sampled_from(Platform)),
        tensor_parallel=draw(st.sampled_from([1, 2, 3, 4, 8, 16])),
        pipeline_parallel=draw(st.sampled_from([1, 1, 2, 3])),
        data_parallel=draw(st.sampled_from([1, 1, 2])),
        local_copies=draw(st.sampled_from([None, None, 1, 2])),
        hosts=draw(st.sampled_from([1, 1, 1, 2, 0])),
        expert_parallel=draw(st.booleans()),
        decode_context_parallel=draw(st.sampled_from([1, 1, 2])),
        kv_cache_dtype=draw(st.sampled_from(["auto", "fp8", "bfloat16"])),
        block_size=draw(st.none() | st.sampled_from([1, 16, 64])),
        max_model_len=draw(st.none() | st.integers(1, 200_000)),
        fits_length=draw(st.booleans()),
        max_num_seqs=draw(st.none() | st.integers(1, 2048)),
        max_num_batched_tokens=draw(st.none() | st.integers(1, 65_536)),
        utilization=draw(st.none() | st.floats(0.01, 1.0)),
        eager=draw(st.booleans()),
        kv_cache_bytes=draw(st.none() | st.none() | st.integers(0, 300 * GIB)),
        blocks=draw(st.none() | st.none() | st.integers(1, 10_000)),
        prefix_caching=draw(st.none() | st.booleans()),
        hybrid_manager=draw(st.booleans()),
        overlapped=draw(st.booleans()),
        variables=draw(st.sampled_from([{}, _LONG, _LONG])),
    )


def _check(found: Forecast) -> None:
    """Assert what holds for every forecast."""
    assert (found.gate is None) is (found.verdict is Fit.FITS)
    assert found.reason
    counts = (found.kv_bytes, found.blocks, found.kv_tokens, found.max_model_len)
    assert min(*counts, found.need_bytes, found.missing_bytes, found.requested_bytes) >= 0
    assert found.max_concurrency >= 0
    assert 0 <= found.utilization_max <= 1
    assert re.search(r"-\d[\d.,]* GiB", " ".join([found.reason, *found.notes])) is None
    assert all(part.bytes >= 0 for part in found.parts)
    if found.parts:
        whole = sum(part.bytes for part in found.parts) - found.missing_bytes
        assert whole in {device.total_bytes for device in found.devices}
    json.dumps(to_json(found), allow_nan=False)


@_QUICK
@given(models, devices(), servings())
def test_a_forecast_adds_up(
    known: ModelMemory, given_devices: tuple[Device, ...], serving: Serving
) -> None:
    """Whatever is asked: no error, nothing negative, parts that add up to the device."""
    _check(forecast(known, given_devices, serving))


@_QUICK
@given(models, devices(), servings())
def test_what_is_suggested_does_fit(
    known: ModelMemory, given_devices: tuple[Device, ...], serving: Serving
) -> None:
    """Each suggestion, put into the arguments, gives a forecast that is not DOES_NOT_FIT."""
    found = forecast(known, given_devices, serving)
    tightest = min(given_devices, key=lambda device: device.free_bytes)
    for one in found.suggestions:
        if not one.argument:
            continue
        said = read_serving(
            ServeArgs(tuple(one.argument.split(" "))),
            {},
            version=serving.version,
            platform=serving.platform,
        )
        beside = {field for option, field in _BESIDE.items() if option in one.argument}
        fields = {_FIELDS[one.kind]} | beside
        changed = replace(serving, **{field: getattr(said, field) for field in fields})
        enough = given_devices
        if one.kind == "gpus":
            enough = (tightest,) * changed.ranks_here
            assert f"{len(enough)} devices" in one.text
        assert forecast(known, enough, changed).verdict is not Fit.DOES_NOT_FIT, one


@_QUICK
@given(models, devices(), servings())
def test_the_safe_share_fits_and_none_that_fits_is_above_it(
    known: ModelMemory, given_devices: tuple[Device, ...], serving: Serving
) -> None:
    """So the same output never calls a share safe that is none, nor one unsafe that fits."""
    found = forecast(known, given_devices, serving)
    safe = found.utilization_safe
    if found.verdict is Fit.FITS:
        assert safe is not None
        assert found.utilization <= safe
    if safe is None:
        return
    again = forecast(known, given_devices, replace(serving, utilization=safe))
    assert again.verdict is Fit.FITS
    assert again.utilization_safe == safe
    checked = serving.version >= (0, 9, 1) and serving.platform is not Platform.CPU
    assert safe <= found.utilization_max + 0.001 or not checked


@_QUICK
@given(models, devices(), servings())
def test_more_devices_are_suggested_only_where_those_at_hand_are_too_few(
    known: ModelMemory, given_devices: tuple[Device, ...], serving: Serving
) -> None:
    """Never beside another share or size, or a smaller cache, that fits on those at hand."""
    found = forecast(known, given_devices, serving)
    kinds = {one.kind: one.text for one in found.suggestions}
    if "gpus" in kinds:
        assert "that fits" not in kinds.get("tensor-parallel", "")
        assert "is safe" not in kinds.get("utilization", "") or found.gate is Gate.STARTUP
        assert "kv-cache" not in kinds
        assert int(kinds["gpus"].partition("devices")[0].split()[-1]) > len(given_devices)


@_QUICK
@given(models, devices(), servings(), st.floats(0.05, 1.0), st.floats(0.05, 1.0))
def test_a_larger_share_leaves_more_for_the_cache(
    known: ModelMemory,
    given_devices: tuple[Device, ...],
    serving: Serving,
    one: float,
    other: float,
) -> None:
    """Bytes, blocks and tokens never shrink, and only the start-up check comes closer."""
    case = Case(model=known, devices=given_devices, serving=replace(serving, fits_length=False))
    low, high = (reckon(case.but(utilization=share)) for share in sorted((one, other)))
    assume(low.gate is not Gate.INVALID)
    assert low.blocks <= high.blocks
    assert low.kv_tokens <= high.kv_tokens
    assert low.kv_bytes <= high.kv_bytes or low.gate is not high.gate


@_QUICK
@given(models, devices(), servings(), st.integers(1, 200_000), st.integers(1, 200_000))
def test_a_longer_request_never_fits_better(
    known: ModelMemory,
    given_devices: tuple[Device, ...],
    serving: Serving,
    one: int,
    other: int,
) -> None:
    """It needs more, fewer of them fit at a time, and the verdict is no better."""
    # Named, as vLLM lowers its default for requests so short that the batch cannot be filled.
    asked = replace(serving, fits_length=False, max_num_batched_tokens=8192)
    case = Case(model=known, devices=given_devices, serving=asked)
    short, long = (reckon(case.but(max_model_len=length)) for length in sorted((one, other)))
    assert short.need_bytes <= long.need_bytes or short.gate is not long.gate
    assert short.max_concurrency >= long.max_concurrency
    order = [Fit.FITS, Fit.MARGINAL, Fit.DOES_NOT_FIT]
    assert order.index(short.verdict) <= order.index(long.verdict)


@_QUICK
@given(models, sizes, servings())
def test_more_ranks_load_less_each(known: ModelMemory, size: int, serving: Serving) -> None:
    """Twice the ranks: no rank loads more, and from two on the cache holds no fewer tokens.

    One rank is apart: it needs no buffers to talk to others.
    """
    asked = replace(serving, pipeline_parallel=1, decode_context_parallel=1, fits_length=False)
    if asked.platform is Platform.CPU:
        # There the default batch grows with the ranks.
        asked = replace(asked, max_num_batched_tokens=2048, max_num_seqs=16)
    many = (Device(name="any", total_bytes=size, free_bytes=size),) * 16
    case = Case(model=known, devices=many, serving=asked)
    found = [reckon(case.but(tensor_parallel=count)) for count in (1, 2, 4, 8, 16)]
    valid = [one for one in found if one.gate is not Gate.INVALID]
    weights = [one.weights[0].total_bytes for one in valid]
    assert weights == sorted(weights, reverse=True)
    tokens = [one.kv_tokens for one in valid if one.serving.tensor_parallel > 1]
    assert tokens == sorted(tokens)


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**62)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([1, 2, 8, 64, 128, 4096, "float16", "fp8", "sliding_attention"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


@settings(parent=_QUICK, max_examples=2000 if _EVERYTHING else 100)
@given(
    st.sampled_from(_NAMES),
    st.dictionaries(st.integers(0, 60), _VALUES, max_size=4),
    st.sets(st.integers(0, 60), max_size=3),
    servings(),
)
def test_a_config_from_anywhere_never_raises(
    name: str, changed: dict[int, Any], dropped: set[int], serving: Serving
) -> None:
    """Keys with values of the wrong kind, and keys that are missing."""
    raw = dict(_raw(name))
    keys = sorted(raw)
    for index, value in changed.items():
        raw[keys[index % len(keys)]] = value
    for index in dropped:
        raw.pop(keys[index % len(keys)], None)
    shape = read_shape(raw)
    large = Device(name="any", total_bytes=192 * GIB, free_bytes=190 * GIB)
    _check(forecast(ModelMemory(name=name, shape=shape, files_bytes=10**10), (large,) * 8, serving))


def _raw(name: str) -> dict[str, Any]:
    shape = model(name).shape
    return getattr(shape, "raw", None) or {"architectures": ["LlamaForCausalLM"], "hidden_size": 64}
