"""Batches, graphs and what is in flight go by device, platform and version."""

from __future__ import annotations

import pytest

from pytest_vllm.domain.fit import Gate, forecast
from pytest_vllm.domain.memory import GIB
from pytest_vllm.domain.memory.kv import lay_out, tokens
from pytest_vllm.domain.memory.overhead import Batch, batch, estimate, graphs_counted, in_flight
from pytest_vllm.domain.memory.serving import Platform, Serving
from pytest_vllm.domain.memory.shape import Attention
from tests.unit.fit_cases import (
    H100_BYTES,
    MI250_BYTES,
    MI300X_BYTES,
    mi300x,
    model,
    shape_of,
)

_7B = "deepseek-ai/deepseek-llm-7b-base"
_NEW, _OLD = (0, 32, 0), (0, 26, 0)


@pytest.mark.parametrize(
    ("serving", "total", "length", "expected"),
    [
        (Serving(), MI300X_BYTES, 131_072, Batch(tokens=16_384, requests=1024)),
        (Serving(), H100_BYTES, 131_072, Batch(tokens=8192, requests=1024)),
        (Serving(), MI250_BYTES, 131_072, Batch(tokens=2048, requests=256)),
        (Serving(doubled_batch=True), MI250_BYTES, 131_072, Batch(tokens=4096, requests=512)),
        (Serving(max_num_seqs=4), MI250_BYTES, 100, Batch(tokens=400, requests=4)),
        (Serving(max_num_batched_tokens=64), MI250_BYTES, 100, Batch(tokens=64, requests=64)),
        (
            Serving(platform=Platform.CPU, tensor_parallel=2),
            16 * GIB,
            2048,
            Batch(tokens=4096, requests=256),
        ),
    ],
)
def test_the_batch_goes_by_the_device(
    serving: Serving, total: int, length: int, expected: Batch
) -> None:
    """As `get_batch_defaults` of 0.32 answers on such devices."""
    assert batch(serving, total, length) == expected


@pytest.mark.parametrize(
    ("serving", "expected"),
    [
        (Serving(), 2000),
        (Serving(pipeline_parallel=4), 5000),
        (Serving(overlapped=False), 1000),
        (Serving(overlapped=False, pipeline_parallel=4), 4000),
        (Serving(version=_OLD), 1000),
    ],
)
def test_what_is_in_flight(serving: Serving, expected: int) -> None:
    """A batch for each stage and one that is prepared; older versions counted one."""
    assert in_flight(serving, 1000) == expected


@pytest.mark.parametrize(
    ("version", "counted"),
    [((0, 20, 0), False), ((0, 21, 0), True), (_OLD, False), ((0, 30, 0), True), (_NEW, True)],
)
def test_graphs_are_counted_by_version(version: tuple[int, ...], *, counted: bool) -> None:
    """From 0.21, but for the second runner of 0.26; never when that is switched off."""
    assert graphs_counted(Serving(version=version)) is counted
    assert not graphs_counted(Serving(version=version, graphs_estimated=False))


def test_no_graphs_where_none_are_captured() -> None:
    """Neither eagerly nor on a CPU."""
    shape, load = shape_of(model(_7B)), Batch(tokens=2048, requests=256)
    assert estimate(shape, Serving(), load).graphs > 0
    assert estimate(shape, Serving(eager=True), load).graphs == 0
    assert estimate(shape, Serving(platform=Platform.CPU), load).graphs == 0


def test_only_the_last_stage_samples() -> None:
    """So it takes more than the others for a large vocabulary."""
    shape, load = shape_of(model("Qwen/Qwen2.5-7B")), Batch(tokens=2048, requests=1024)
    asked = Serving(pipeline_parallel=2)
    first, last = (estimate(shape, asked, load, stage=stage).activation for stage in (0, 1))
    assert first < last


def test_chunks_are_kept_apart_only_where_that_is_allowed() -> None:
    """The variable says so; older versions did not by default."""
    shape = shape_of(model("meta-llama/Llama-4-Scout-17B-16E-Instruct"))
    assert any(layer.attention is Attention.CHUNKED for layer in shape.layers)
    name = "VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE"
    groups = [
        len(lay_out(shape, serving).groups)
        for serving in (
            Serving(),
            Serving(variables={name: "0"}),
            Serving(version=(0, 11, 0)),
            Serving(version=(0, 11, 0), variables={name: "1"}),
        )
    ]
    assert groups == [4, 1, 1, 4]


def test_tokens_as_older_versions_count_them() -> None:
    """Blocks of one group, whatever a request needs: 78,336 for gpt-oss-120b in 5.38 GiB.

    A public log of that says 78,384 (hf-mem#60); 5.38 is rounded, by up to eight blocks.
    """
    layout = lay_out(shape_of(model("openai/gpt-oss-120b")), Serving())
    blocks = int(5.38 * GIB) // layout.bytes_per_block
    old = tokens(layout, blocks, 131_072, 16_384, _OLD)
    assert abs(old - 78_384) <= 8 * 16
    assert tokens(layout, blocks, 131_072, 16_384, _NEW) == 139_142


def test_every_copy_of_a_model_needs_its_devices() -> None:
    """Two copies of one rank each: the second device is in use by others."""
    devices = (*mi300x(1), *mi300x(1, free=50 * GIB))
    assert forecast(model(_7B), devices, Serving()).gate is None
    assert forecast(model(_7B), devices, Serving(data_parallel=2)).gate is Gate.STARTUP
