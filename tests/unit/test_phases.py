"""Start-up phases, read from logs of real starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.domain.phases import ORDER, PhaseTracker, clean, split_process

GPU_PHASES = (
    "start, process, config, engine, load, compile, kv cache, graph capture, engine ready, api up"
)
LOGS = Path(__file__).parent.parent / "data" / "logs"


def phases_of(name: str) -> list[str]:
    """Feed a log line by line, line numbers standing for seconds."""
    tracker = PhaseTracker()
    for number, line in enumerate((LOGS / name).read_bytes().decode().split("\n")):
        tracker.feed(line, float(number))
    return [phase for phase, _ in tracker.entered]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "cpu-0.32/ok_startup.log",
            "start, process, config, engine, load, compile, kv cache, engine ready, api up",
        ),
        (
            "h100-0.26/ds7b.log",
            GPU_PHASES,
        ),
        (
            "h100-0.26/v2lite.log",
            GPU_PHASES,
        ),
        ("h100-0.26/free_mem_error.log", "start, process, config, engine"),
        ("cpu-0.32/m_noweights.log", "start, process, config, engine, load"),
        ("cpu-0.32/badarg.log", "start"),
        ("cpu-0.32/dns.log", "start, process"),
    ],
)
def test_real_logs_show_how_far_the_start_got(name: str, expected: str) -> None:
    assert ", ".join(phases_of(name)) == expected


@pytest.mark.parametrize(
    ("line", "phase"),
    [
        ("INFO 10-07 22:54:57 model_runner.py:1014] Starting to load model x...", "load"),
        (
            "INFO 06-02 11:03:18 [kv_cache_utils.py:637] GPU KV cache size: 1,234 tokens",
            "kv cache",
        ),
        ("(EngineCore_DP0 pid=7) INFO 01-01 00:00:00 [a.py:1] # GPU blocks: 9, # CPU", "kv cache"),
        ("INFO:     Uvicorn running on http://0.0.0.0:8000 (Press CTRL+C to quit)", "api up"),
        ("[aiter] start build [module_rmsnorm] under /x", "compile"),
    ],
)
def test_lines_of_other_versions_are_known(line: str, phase: str) -> None:
    tracker = PhaseTracker()
    assert tracker.feed(line, 1.0)
    assert tracker.current == phase


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
def test_phases_only_go_forward(names: list[str]) -> None:
    tracker = PhaseTracker()
    for second, name in enumerate(names):
        tracker.enter(name, float(second))
    entered = [ORDER.index(name) for name, _ in tracker.entered]
    assert entered == sorted(set(entered))
    assert all(p.duration_s is not None and p.duration_s >= 0 for p in tracker.phases(1e9))
