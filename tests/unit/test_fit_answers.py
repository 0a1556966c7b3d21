"""What a forecast says besides its verdict: who needs a device, what is safe, what would help."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_vllm.domain.fit import Device, Fit, Forecast, Gate, ModelMemory, forecast
from pytest_vllm.domain.memory import GIB
from pytest_vllm.domain.memory.config import read_shape
from pytest_vllm.domain.memory.plain import to_json
from pytest_vllm.domain.memory.reading import read_serving
from pytest_vllm.domain.memory.serving import Platform, Serving
from pytest_vllm.domain.memory.shape import UnknownShape
from pytest_vllm.domain.target import ServeArgs
from pytest_vllm.reports.fit import render
from tests.unit.fit_cases import MI300X_BYTES, cuda_026, h100, mi250, mi300x, model, shape_of, small

V3 = "deepseek-ai/DeepSeek-V3.1"
_7B = "deepseek-ai/deepseek-llm-7b-base"
_67B = "deepseek-ai/deepseek-llm-67b-base"
_LLAMA_8B = "meta-llama/Llama-3.1-8B"
_TAKEN = int(164.76 * GIB)


def _read(*words: str) -> Serving:
    return read_serving(ServeArgs(words), {}, version=(0, 32, 0), platform=Platform.ROCM)


def _text(found: Forecast, kind: str) -> str:
    return " | ".join(one.text for one in found.suggestions if one.kind == kind)


def _argument(found: Forecast, kind: str) -> str:
    return next((one.argument for one in found.suggestions if one.kind == kind), "")


def test_every_copy_of_the_model_needs_its_own_devices() -> None:
    """Two copies of eight ranks on eight dies: as `-tp 16`, it cannot be."""
    found = forecast(model(V3), mi250(4), _read("-tp", "8", "-dp", "2"))
    assert (found.verdict, found.gate) == (Fit.DOES_NOT_FIT, Gate.INVALID)
    assert found.reason == (
        "--tensor-parallel-size 8 x --data-parallel-size 2 needs 16 devices, and there are 8"
    )
    assert forecast(model(V3), mi250(8), _read("-tp", "8", "-dp", "2")).gate is not Gate.INVALID


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        (("-tp", "2", "-pp", "2", "-dp", "2"), 8),
        (("-tp", "4", "-dp", "4", "--data-parallel-size-local", "1"), 4),
        (("-tp", "4", "-dp", "4", "-dpl", "2"), 8),
        (("-tp", "4", "-dp", "2", "--data-parallel-rank", "0"), 4),
        (("-tp", "4", "-dp", "2", "--data-parallel-external-lb"), 4),
        (("-tp", "8", "-pp", "2", "--nnodes", "2"), 8),
        (("-tp", "8", "-dp", "2", "--nnodes", "4"), 4),
        (("-tp", "8", "-dp", "4", "--distributed-executor-backend", "ray"), 0),
        (("-tp", "8", "-dp", "4", "--data-parallel-backend", "ray"), 0),
        (("-tp", "8", "-dp", "4", "-dpl", "0"), 0),
    ],
)
def test_devices_are_counted_for_this_host_only(words: tuple[str, ...], needed: int) -> None:
    """One fewer is refused, as many are not; with Ray the host may have any number."""
    enough = forecast(model(V3), mi300x(max(needed, 1)), _read(*words))
    assert enough.gate is not Gate.INVALID
    if needed:
        short = forecast(model(V3), mi300x(needed - 1), _read(*words))
        assert short.gate is Gate.INVALID
        assert f"needs {needed} devices" in short.reason


def test_the_tightest_device_of_any_copy_decides() -> None:
    """The second copy's device is in use by others; that of nobody plays no part."""
    full = mi300x(1, free=50 * GIB)
    two = _read("-dp", "2")
    assert forecast(model(_7B), (*mi300x(1), *full), two).gate is Gate.STARTUP
    assert forecast(model(_7B), (*mi300x(2), *full), two).verdict is Fit.FITS


@pytest.mark.parametrize(("name", "several"), [(V3, True), (_LLAMA_8B, False)])
def test_copies_that_talk_to_each_other_take_the_context_of_several(
    name: str, *, several: bool
) -> None:
    """Ranks of a mixture exchange tokens; copies of a dense model are apart."""
    found = forecast(model(name), small(2000, 2), Serving(data_parallel=2))
    (context,) = (part.bytes for part in found.parts if part.name == "context")
    assert context == (5 if several else 2.5) * GIB


@pytest.mark.parametrize(
    ("share", "verdict"),
    [(0.83, Fit.FITS), (0.845, Fit.FITS), (0.85, Fit.MARGINAL), (0.858, Fit.MARGINAL)],
)
def test_a_share_that_leaves_less_than_the_context_is_marginal(share: float, verdict: Fit) -> None:
    """2.5 GiB are estimated for it on AMD, all of which may be taken by the start-up check."""
    found = forecast(model(_7B), mi300x(free=_TAKEN), Serving(utilization=share))
    assert (found.verdict, found.gate) == (verdict, Gate.STARTUP if verdict != "FITS" else None)
    assert found.utilization_max == 0.858
    assert found.utilization_safe == max(0.83, share if verdict is Fit.FITS else 0)
    plain = to_json(found)
    assert (plain["utilization_max"], plain["utilization_safe"]) == (0.858, found.utilization_safe)
    words = f"a share of {found.utilization_safe} is safe; above 0.858 no start-up check can pass"
    assert _text(found, "utilization") == words


def test_on_cuda_what_is_taken_before_the_check_is_measured() -> None:
    """0.52 GiB: 78.66 of 79.18 GiB were free at the check."""
    verdicts = []
    for left in (0.51, 0.53):
        devices = h100(free=int((79.18 * 0.9 + left) * GIB))
        verdicts.append(forecast(model(_7B), devices, cuda_026(utilization=0.9, eager=True)))
    assert [one.gate for one in verdicts] == [Gate.STARTUP, None]


@pytest.mark.parametrize("gib", [16, 24, 32, 48, 63.98, 192, 288])
@pytest.mark.parametrize("ranks", [1, 8])
def test_the_default_share_of_an_idle_device_is_no_alarm(gib: float, ranks: int) -> None:
    """An idle Instinct shows 0.28 GiB in use; a small one keeps less free than a context."""
    size = int(gib * GIB)
    idle = Device(name="any", gfx="gfx942", total_bytes=size, free_bytes=size - int(0.28 * GIB))
    asked = Serving(tensor_parallel=ranks, max_model_len=4096)
    found = forecast(model("meta-llama/Llama-3.2-1B"), (idle,) * ranks, asked)
    assert found.gate is not Gate.STARTUP


def test_no_more_devices_are_asked_for_where_those_at_hand_do() -> None:
    """67B on eight dies: four of them are enough, so nobody needs sixteen."""
    found = forecast(model(_67B), mi250(4), Serving())
    assert _argument(found, "tensor-parallel") == "--tensor-parallel-size=4"
    assert _text(found, "gpus") == ""


def test_fewer_bits_are_tried_on_all_devices_at_hand() -> None:
    """671B in 4 bits: 41 GiB on each of eight dies, which may do, and not on one."""
    found = forecast(model(V3), mi250(4), Serving())
    int4 = next(one.text for one in found.suggestions if one.text.startswith("int4"))
    assert int4.endswith("may fit with --tensor-parallel-size=8")
    halves = forecast(model(_67B), mi300x(2, free=60 * GIB), Serving(utilization=0.28))
    assert _argument(halves, "quantization") == "--quantization=fp8 --tensor-parallel-size=2"


def test_devices_without_a_rank_are_told_in_the_first_line() -> None:
    """Whoever forgets -tp sees it at once."""
    head = " ".join(render(forecast(model(_67B), mi250(4), Serving())).split("\n", 2)[:2])
    words = " ".join(head.split())
    assert "on one of 8 MI250 devices of 63.98 GiB, vLLM 0.32, TP=1" in words
    some = " ".join(render(forecast(model(_67B), mi250(4), Serving(tensor_parallel=4))).split())
    assert "on 4 of 8 MI250 devices of 63.98 GiB, vLLM 0.32, TP=4" in some
    mixed = forecast(model(_7B), (*mi300x(1), *mi250(1)), Serving())
    assert "on one MI300X of 191.98 GiB of 3 devices, vLLM" in " ".join(render(mixed).split())
    alone = render(forecast(model(_7B), mi300x(), Serving()))
    assert "TP=" not in alone


@pytest.mark.parametrize(
    ("gib", "verdict"), [(160, Fit.FITS), (171, Fit.MARGINAL), (180, Fit.DOES_NOT_FIT)]
)
def test_a_named_cache_leaves_room_for_what_is_estimated(gib: int, verdict: Fit) -> None:
    """Of 191.7 GiB: 12.9 are weights, 5.3 estimates, and the estimates may be as wrong."""
    free = MI300X_BYTES - 297_771_008
    found = forecast(model(_7B), mi300x(free=free), _read(f"--kv-cache-memory-bytes={gib}G"))
    assert found.verdict is verdict
    assert "GiB" in found.reason
    assert "-" not in found.reason
    if verdict is Fit.FITS:
        return
    assert found.gate is Gate.BLOCKS
    assert _argument(found, "kv-cache") == "--kv-cache-memory-bytes=167G"
    assert "utilization" not in {one.kind for one in found.suggestions}
    smaller = replace(found.serving, kv_cache_bytes=167 * GIB)
    assert forecast(model(_7B), mi300x(free=free), smaller).verdict is Fit.FITS
    larger = replace(found.serving, kv_cache_bytes=168 * GIB)
    assert forecast(model(_7B), mi300x(free=free), larger).verdict is Fit.MARGINAL


_BROKEN = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}


@pytest.mark.parametrize(
    "raw", [{}, {"architectures": ["NewForCausalLM"]}, {"architectures": ["LlamaForCausalLM"]}]
)
def test_what_is_not_known_is_no_zero(raw: dict[str, object]) -> None:
    """Neither a shape nor files: null, no waterfall, no number of devices, no word of files."""
    found = forecast(ModelMemory(name="x", shape=read_shape(raw)), mi300x(), Serving())
    assert (found.verdict, found.gate) == (Fit.MARGINAL, Gate.WEIGHTS)
    plain = to_json(found)
    for key in ("weights_bytes_per_rank", "kv_bytes_per_rank", "kv_tokens", "blocks", "basis"):
        assert plain[key] is None, key
    assert found.parts == ()
    assert {one.kind for one in found.suggestions} == {"utilization"}
    text = render(found)
    assert "size of the files" not in text
    assert "there are no files" in text
    assert "0.0" not in text.replace("0.97", "").replace("0.998", "")


def test_blocks_of_an_unknown_size_name_no_cache() -> None:
    """The share decides then, and what is missing of it is told without a sign."""
    unknown = ModelMemory(name="x", shape=UnknownShape(reason="no"), files_bytes=10**10)
    found = forecast(unknown, mi300x(), Serving(blocks=1, utilization=0.0625))
    assert (found.verdict, found.gate) == (Fit.MARGINAL, Gate.BLOCKS)
    assert "too much, and nothing is left" in found.reason
    assert "-" not in found.reason


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", -4096),
        ("hidden_size", 4096.5),
        ("vocab_size", -1),
        ("num_key_value_heads", -8),
        ("intermediate_size", 0.5),
        ("num_hidden_layers", float("inf")),
    ],
)
def test_a_value_that_no_model_has_is_named(key: str, value: float) -> None:
    """Whatever files there are: vLLM cannot build it."""
    broken = read_shape({**_BROKEN, key: value})
    found = forecast(ModelMemory(name="x", shape=broken, files_bytes=10**10), mi300x(), Serving())
    assert (found.verdict, found.gate) == (Fit.DOES_NOT_FIT, Gate.INVALID)
    assert f"{key} is {value}" in found.reason
    assert to_json(found)["weights_bytes_per_rank"] is None
    overridden = Serving(unmodelled=("--hf-overrides: it may change the model",))
    again = forecast(ModelMemory(name="x", shape=broken), mi300x(), overridden)
    assert again.verdict is Fit.MARGINAL


@pytest.mark.parametrize(
    ("key", "value"), [("num_key_value_heads", None), ("head_dim", None), ("n_inner", None)]
)
def test_a_value_that_is_left_out_is_no_alarm(key: str, value: None) -> None:
    """Many configs write null."""
    assert not isinstance(read_shape({**_BROKEN, key: value}), UnknownShape)


def test_a_marginal_length_says_that_estimates_decide() -> None:
    """More is left than is needed, and still it is not sure."""
    found = forecast(model(V3), mi300x(4), Serving(tensor_parallel=4))
    assert found.verdict is Fit.MARGINAL
    assert "estimates of 9.00 GiB (context, activation, graphs) decide" in found.reason


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ((99, 0, 0), "vLLM 99.0 is newer than what is known here: it is reckoned as 0.32"),
        ((0, 5, 0), "vLLM 0.5 is older than what is known here: it is reckoned as 0.8"),
        ((0, 23, 0), "whether vLLM 0.23 takes graphs off before it sizes the cache"),
        ((0, 28, 0), "whether vLLM 0.28 takes graphs off before it sizes the cache"),
    ],
)
def test_what_is_not_known_of_a_version_is_said(version: tuple[int, ...], words: str) -> None:
    """Only where it matters."""
    said = "\n".join(forecast(model(_7B), mi300x(), Serving(version=version)).notes)
    assert words in said
    eager = forecast(model(_7B), mi300x(), Serving(version=version, eager=True)).notes
    assert not any("graphs off" in note for note in eager)
    for known in ((0, 20, 0), (0, 26, 0), (0, 30, 1), (0, 32, 0)):
        notes = "\n".join(forecast(model(_7B), mi300x(), Serving(version=known)).notes)
        assert "known here" not in notes
        assert "whether" not in notes


def test_an_argument_that_the_version_lacks_is_said() -> None:
    """0.8 has no --kv-cache-memory-bytes."""
    asked = Serving(version=(0, 8, 0), kv_cache_bytes=10 * GIB)
    lacking = "--kv-cache-memory-bytes came with 0.10.2: vLLM 0.8 refuses it"
    assert lacking in forecast(model(_7B), mi300x(), asked).notes
    newer = forecast(model(_7B), mi300x(), replace(asked, version=(0, 32, 0)))
    assert not any("came with" in note for note in newer.notes)


def test_a_launch_that_fails_serves_no_request() -> None:
    """What its cache would be is said as that."""
    text = render(forecast(model(_7B), mi300x(free=_TAKEN), Serving(utilization=0.9)))
    assert "KV cache of a rank, as it would be\n" in text
    assert "at a time" not in text
    good = render(forecast(model(_7B), mi300x(), Serving()))
    assert "KV cache of a rank\n" in good
    assert "at a time" in good


def test_the_first_gate_counts_the_context_too() -> None:
    """8B on 15.92 GiB: 15 of weights and 2.5 of context end while loading."""
    radeon = small(15.92)
    found = forecast(model(_LLAMA_8B), radeon, Serving())
    assert (found.verdict, found.gate) == (Fit.DOES_NOT_FIT, Gate.WEIGHTS)
    assert "of which its context takes about 2.50 GiB" in found.reason


def test_weights_that_leave_just_the_context_may_be_more() -> None:
    """0.05 GiB to spare are less than a formula may be off."""
    tight = small(14.99 + 2.5 + 0.05)
    found = forecast(model(_LLAMA_8B), tight, Serving(max_model_len=128))
    assert (found.verdict, found.gate) == (Fit.MARGINAL, Gate.WEIGHTS)
    assert "of which its context takes about 2.50 GiB; they may be 0.15 GiB more" in found.reason


@pytest.mark.parametrize(
    ("asked", "stored", "noted"),
    [("fp8", "", True), ("ptpc_fp8", "", True), ("awq", "", False), ("fp8", "fp8", False)],
)
def test_only_weights_that_vllm_quantizes_itself_take_more(
    asked: str, stored: str, *, noted: bool
) -> None:
    """Measured on an H100: 7.43 GiB for 7.22 that were reckoned."""
    known = model(_7B)
    if stored:
        how = shape_of(model(V3)).quantization
        known = replace(known, shape=replace(shape_of(known), quantization=how))
    found = forecast(known, mi300x(), Serving(quantization=asked))
    assert any("took 3 to 5 % more" in note for note in found.notes) is noted
