"""A forecast on a terminal: the verdict first, nothing beyond the edge, nothing that is not so."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.domain.fit import Device, Fit, Forecast, Gate, Part, Suggestion
from pytest_vllm.domain.memory.kv import KvLayout
from pytest_vllm.domain.memory.serving import Serving
from pytest_vllm.reports.fit import render

GIB = 2**30
CODES = re.compile(r"\x1b\[[0-9;]*m")
DEVICE = Device(name="MI300X", gfx="gfx942", total_bytes=192 * GIB, free_bytes=190 * GIB)
FITS = Forecast(
    verdict=Fit.FITS,
    reason="20.00 GiB of cache hold 5.0 requests of 4,096 tokens",
    model="org/model",
    devices=(DEVICE,) * 2,
    serving=Serving(tensor_parallel=2),
    parts=(
        Part(name="in use", bytes=2 * GIB),
        Part(name="weights", bytes=96 * GIB),
        Part(name="rope", bytes=0),
        Part(name="activation", bytes=4 * GIB, estimated=True),
        Part(name="KV cache", bytes=80 * GIB, estimated=True),
        Part(name="margin", bytes=10 * GIB, estimated=True),
    ),
    layout=KvLayout(
        groups=(), block_size=16, bytes_per_block=16 * 1024, bytes_per_token=1024, element_bytes=2
    ),
    kv_bytes=80 * GIB,
    blocks=5_242_880,
    kv_tokens=83_886_080,
    max_concurrency=20_480.0,
    max_model_len=4096,
    suggestions=(
        Suggestion(kind="max-model-len", text="up to 4,096", argument="--max-model-len=4096"),
    ),
    notes=("a note",),
)
FAILS = replace(
    FITS,
    verdict=Fit.DOES_NOT_FIT,
    gate=Gate.WEIGHTS,
    parts=(Part(name="weights", bytes=240 * GIB), Part(name="KV cache", bytes=0)),
    missing_bytes=48 * GIB,
    kv_bytes=0,
    blocks=0,
)


def test_it_begins_with_verdict_model_and_devices() -> None:
    lines = render(FITS).splitlines()
    assert lines[0] == "FITS: org/model on 2 MI300X devices of 192.00 GiB, vLLM 0.32, TP=2"
    assert lines[1] == f"  {FITS.reason}"
    assert render(FAILS).startswith("DOES_NOT_FIT (weights): org/model on ")


def test_the_waterfall_is_aligned_and_shows_what_is_estimated() -> None:
    lines = render(FITS, plain=True).splitlines()
    start = next(i for i, line in enumerate(lines) if "~ estimated" in line)
    rows = lines[start + 1 : start + 7]
    assert [row[:26] for row in rows] == [
        "  in use              2.00",
        "  weights            96.00",
        "  activation         ~4.00",
        "  KV cache          ~80.00",
        "  margin            ~10.00",
        "  device            192.00",
    ]
    bars = [row[28:] for row in rows[:-1]]
    assert [set(bar) for bar in bars] == [{"#"}] * 5
    assert len(bars[1]) == pytest.approx(len(bars[3]) * 96 / 80, abs=1)
    assert sum(map(len, bars)) == pytest.approx(80 - 28, abs=3)


def test_what_is_missing_is_told() -> None:
    text = render(FAILS)
    assert "  together          240.00\n" in text
    assert "  device            192.00\n" in text
    assert "  missing            48.00\n" in text
    assert "tokens at a time" not in text
    assert "what would fit" in text
    assert "what fits at most" in render(FITS)


def test_the_cache_is_told_in_blocks_tokens_and_requests() -> None:
    text = render(FITS, width=120)
    assert "1,024 bytes a token, 5,242,880 blocks of 16 tokens: 83,886,080 tokens" in text
    assert "20,480.00 requests of 4,096 tokens at a time" in text


def test_colour_changes_no_text() -> None:
    coloured = render(FITS, colour=True)
    assert coloured.startswith("\x1b[1;32mFITS\x1b[0m: ")
    assert CODES.sub("", coloured) == render(FITS)
    assert "\x1b[1;31mDOES_NOT_FIT (weights)\x1b[0m" in render(FAILS, colour=True)


def test_an_argument_to_paste_is_never_broken() -> None:
    argument = "--some-very-long-argument=" + "x" * 90
    suggestion = Suggestion(kind="quantization", text="a text", argument=argument)
    assert argument in render(replace(FITS, suggestions=(suggestion,)), width=40)


def test_a_name_cannot_write_on_the_terminal() -> None:
    text = render(replace(FITS, model="a\x1b[2Jb\x07", notes=("x\x1b]0;t\x07",)))
    assert "\x1b" not in text
    assert "\x07" not in text


def test_devices_of_several_kinds_are_told_apart() -> None:
    other = Device(name="", gfx="gfx90a", total_bytes=64 * GIB, free_bytes=64 * GIB)
    first = " ".join(render(replace(FITS, devices=(DEVICE, other))).split())
    assert "on one MI300X of 192.00 GiB and one gfx90a of 64.00 GiB, vLLM" in first


@given(
    width=st.integers(1, 200),
    sizes=st.lists(st.integers(0, 2**45), min_size=1, max_size=10),
    colour=st.booleans(),
    plain=st.booleans(),
)
def test_no_row_is_wider_than_the_terminal(
    width: int, sizes: list[int], *, colour: bool, plain: bool
) -> None:
    parts = tuple(Part(name="MLA copies", bytes=size, estimated=True) for size in sizes)
    text = render(replace(FITS, parts=parts), width=width, colour=colour, plain=plain)
    rows = [row for row in CODES.sub("", text).splitlines() if "MLA copies" in row]
    assert len(rows) == sum(size > 0 for size in sizes)
    assert all(len(row) <= max(width, 40) for row in rows)
    assert not plain or text.isascii()
