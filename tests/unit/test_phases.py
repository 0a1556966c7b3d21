"""Start-up phases, read from logs of real starts and of older formats."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.domain.phases import (
    INTERLUDES,
    ORDER,
    PhaseTracker,
    Progress,
    clean,
    split_process,
)

LOGS = Path(__file__).parent.parent / "data" / "logs"
GPU_PHASES = "start, config, load, compile, kv cache, graph capture, api up, ready"
RANK = {name: rank for rank, name in enumerate(ORDER)}


def track(name: str) -> PhaseTracker:
    """Feed a log line by line, line numbers standing for seconds."""
    tracker = PhaseTracker()
    text = (LOGS / name).read_bytes().decode()
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n")):
        tracker.feed(line, float(number))
    return tracker


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "cpu-0.32/ok_startup.log",
            "start, config, load, compile, kv cache, api up, ready",
        ),
        ("cpu-0.32/live.log", "start, config, load, kv cache, api up, ready"),
        ("h100-0.26/ds7b.log", GPU_PHASES),
        ("h100-0.26/v2lite.log", GPU_PHASES),
        ("h100-0.26/free_mem_error.log", "start, config"),
        ("cpu-0.32/m_noweights.log", "start, config, load"),
        ("cpu-0.32/badarg.log", "start"),
        ("cpu-0.32/dns.log", "start, config"),
        (
            "old-formats/v0-0.6.log",
            "start, config, load, kv cache, graph capture, api up, ready",
        ),
        ("old-formats/v0-0.6-tp.log", "start, config, load, kv cache, api up, ready"),
        (
            "old-formats/v1-0.8.log",
            "start, config, load, download, load, compile, kv cache, graph capture, api up, ready",
        ),
        (
            "old-formats/v1-0.11-rocm.log",
            (
                "start, config, load, compile, aiter jit, compile, kv cache, aiter jit, kv cache, "
                "graph capture, api up, ready"
            ),
        ),
        (
            "old-formats/v1-0.18-rocm.log",
            (
                "start, config, aiter jit, config, load, download, load, aiter jit, load, "
                "kv cache, api up, ready"
            ),
        ),
    ],
)
def test_logs_show_how_far_the_start_got(name: str, expected: str) -> None:
    assert ", ".join(phase for phase, _ in track(name).entered) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cpu-0.32/ok_startup.log", [("load", 1, 1, "shards")]),
        ("h100-0.26/ds7b.log", [("graph capture", 51, 51, "graphs")]),
        ("old-formats/v0-0.6.log", [("load", 2, 2, "shards")]),
        ("old-formats/v1-0.8.log", [("load", 8, 8, "shards"), ("graph capture", 67, 67, "graphs")]),
        (
            "old-formats/v1-0.11-rocm.log",
            [
                ("load", 4, 4, "shards"),
                ("aiter jit", 1, None, "modules"),
                ("aiter jit", 2, None, "modules"),
                ("graph capture", 35, 35, "graphs"),
            ],
        ),
    ],
)
def test_what_is_counted_is_kept(
    name: str, expected: list[tuple[str, int, int | None, str]]
) -> None:
    kept = [
        (phase.name, phase.progress.done, phase.progress.total, phase.progress.unit)
        for phase in track(name).phases(1e6)
        if phase.progress is not None
    ]
    assert kept == expected


def test_bars_grow_line_by_line() -> None:
    seen: list[int] = []
    tracker = PhaseTracker()
    for line in (LOGS / "h100-0.26/ds7b.log").read_bytes().decode().replace("\r", "\n").split("\n"):
        tracker.feed(line, 0.0)
        if tracker.counted and tracker.counted.done not in seen[-1:]:
            seen.append(tracker.counted.done)
    assert seen[:4] == [0, 3, 6, 9]  # of 51 PIECEWISE graphs, then as many FULL ones
    assert seen.count(51) == 2


@pytest.mark.parametrize(
    ("line", "phase"),
    [
        ("INFO 10-07 22:54:57 model_runner.py:1014] Starting to load model x...", "load"),
        ("Loading pt checkpoint shards: 50% Completed | 1/2 [00:01<00:01, 1.0s/it]", "load"),
        (
            "Loading safetensors using Runai Model Streamer: 10% Completed | 29/291 [00:01<, ]",
            "load",
        ),
        ("Multi-thread loading shards: 10% Completed | 1/10 [00:01<00:05, 1.0s/it]", "load"),
        (
            "INFO 06-02 11:03:18 [kv_cache_utils.py:637] GPU KV cache size: 1,234 tokens",
            "kv cache",
        ),
        ("(EngineCore_DP0 pid=7) INFO 01-01 00:00:00 [a.py:1] # GPU blocks: 9, # CPU", "kv cache"),
        ("INFO 08-06 01:39:23 executor_base.py:111] # cuda blocks: 13618, # CPU bl", "kv cache"),
        ("INFO:     Uvicorn running on http://0.0.0.0:8000 (Press CTRL+C to quit)", "api up"),
        ("[aiter] start build [module_rmsnorm] under /x", "aiter jit"),
        ("[aiter] [pid=254 pname=P-4] start build [module_moe] under /x", "aiter jit"),
        ("[aiter] waiting for baton release at /x/lock_module_moe", "aiter jit"),
    ],
)
def test_lines_of_other_versions_are_known(line: str, phase: str) -> None:
    tracker = PhaseTracker()
    assert tracker.feed(line, 1.0)
    assert tracker.current == phase


@pytest.mark.parametrize(
    "line",
    [
        "[aiter] import [module_rmsnorm] under /cache/module_rmsnorm.so",
        "WARNING [vllm.py:1] Loading safetensors checkpoint shards was slow last time",
        'INFO: 127.0.0.1:1 - "POST /v1/completions HTTP/1.1" 200 OK',
        "",
        "\x00\ufffd% | / [",
    ],
)
def test_other_lines_are_no_sign(line: str) -> None:
    tracker = PhaseTracker()
    assert not tracker.feed(line, 1.0)
    assert tracker.current == "start"


def test_graphs_that_are_captured_on_trial_belong_to_the_kv_cache() -> None:
    """VLLM 0.32 captures some graphs to know what they leave to the KV cache."""
    tracker = PhaseTracker()
    tracker.enter("compile", 1.0)
    bar = "Capturing CUDA graphs (FULL):  50%|#####     | 1/2 [00:01<00:01,  1.00it/s]"
    tracker.feed(bar, 2.0)
    assert (tracker.current, tracker.counted) == ("kv cache", None)
    tracker.feed("INFO [a.py:1] GPU KV cache size: 1,234 tokens", 3.0)
    assert tracker.feed(bar, 4.0)
    assert tracker.current == "graph capture"
    assert tracker.counted == Progress(done=1, total=2, unit="graphs")


def test_an_interlude_goes_back_to_what_it_interrupted() -> None:
    tracker = PhaseTracker()
    tracker.enter("pull", 0.0)
    tracker.leave("pull", 60.0)
    tracker.feed("Starting to load model x...", 70.0)
    tracker.enter("download", 71.0)
    assert not tracker.enter("download", 72.0)
    tracker.feed("Loading safetensors checkpoint shards: 0% Completed | 0/2 [00:00<?, ?it/s]", 80.0)
    assert [(phase.name, phase.duration_s) for phase in tracker.phases(90.0)] == [
        ("pull", 60.0),
        ("start", 10.0),
        ("load", 1.0),
        ("download", 9.0),
        ("load", 10.0),
    ]
    assert not tracker.leave("download", 91.0)


def test_two_modules_are_one_interlude_until_both_are_built() -> None:
    tracker = PhaseTracker()
    for line in ("start build [a] u", "start build [b] u", "finish build [a], cost 1.0s"):
        tracker.feed(f"[aiter] {line}", 1.0)
    assert tracker.current == "aiter jit"
    tracker.feed("[aiter] finish build [b], cost 2.0s", 2.0)
    assert tracker.current == "start"


def test_a_progress_bar_counts_as_its_last_state() -> None:
    bar = "Capturing CUDA graphs:   0%|  | 0/51\rCapturing CUDA graphs: 100%|##| 51/51"
    assert clean(bar) == "Capturing CUDA graphs: 100%|##| 51/51"
    assert clean("\x1b[32mINFO\x1b[0m: up\r\n") == "INFO: up"


def test_the_process_is_split_off() -> None:
    assert split_process("(EngineCore_DP0 pid=7) INFO x") == ("EngineCore_DP0", "INFO x")
    assert split_process("(no process) x") == ("", "(no process) x")


def test_durations_end_where_the_next_phase_begins() -> None:
    tracker = PhaseTracker()
    tracker.enter("load", 3.0)
    tracker.enter("ready", 5.5)
    phases = tracker.phases(6.0)
    assert [(p.name, p.start_s, p.duration_s) for p in phases] == [
        ("start", 0.0, 3.0),
        ("load", 3.0, 2.5),
        ("ready", 5.5, 0.5),
    ]
    assert tracker.phases()[-1].duration_s is None


@given(st.lists(st.sampled_from(ORDER), max_size=12))
def test_all_but_interludes_only_go_forward(names: list[str]) -> None:
    tracker = PhaseTracker()
    for second, name in enumerate(names):
        tracker.enter(name, float(second))
    lasting = [RANK[name] for name, _ in tracker.entered if name not in INTERLUDES]
    assert lasting == sorted(lasting)
    phases = tracker.phases(1e9)
    assert all(p.duration_s is not None and p.duration_s >= 0 for p in phases)
    assert all(one.name != two.name for one, two in itertools.pairwise(phases))


@given(st.lists(st.text(), max_size=12))
def test_no_text_breaks_it(lines: list[str]) -> None:
    tracker = PhaseTracker()
    for second, line in enumerate(lines):
        tracker.feed(line, float(second))
    assert {name for name, _ in tracker.entered} <= set(ORDER)
