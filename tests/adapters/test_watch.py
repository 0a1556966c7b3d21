"""A start is watched: fatal lines, deaths, hangs, downloads, and what must not count as any."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.adapters.backends import make_backend
from pytest_vllm.adapters.backends.process import ProcessBackend
from pytest_vllm.adapters.knowledge import signatures
from pytest_vllm.adapters.ready import wait_until_ready
from pytest_vllm.adapters.startup import Startup
from pytest_vllm.adapters.transfer import CacheMeter, Transfer, follow_download
from pytest_vllm.domain.diagnosis import FatalWatch
from pytest_vllm.domain.errors import LaunchFailed, TargetError
from pytest_vllm.domain.finding import Fault
from pytest_vllm.domain.phases import Progress
from tests.adapters.test_ready import STAND_IN, FastClock, make_target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_vllm.domain.phases import StartState

LOGS = Path(__file__).parent.parent / "data" / "logs"
HEALTHY = (
    "cpu-0.32/ok_startup.log",
    "h100-0.26/ds7b.log",
    "h100-0.26/v2lite.log",
    "old-formats/v0-0.6.log",
    "old-formats/v0-0.6-tp.log",
    "old-formats/v1-0.8.log",
    "old-formats/v1-0.11-rocm.log",
    "old-formats/v1-0.18-rocm.log",
)
RETRIED = ("dns", "hub_refused", "hub_s429", "hub_s503")


def lines_of(name: str) -> list[str]:
    text = (LOGS / name).read_bytes().decode()
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def retried(name: str) -> list[str]:
    """Return a log in which the Hub answers at the fourth try, after which all is well."""
    failed = lines_of(f"cpu-0.32/{name}.log")
    last = next(n for n, line in enumerate(failed) if "[Retry 3/5]" in line)
    healthy = lines_of("cpu-0.32/ok_startup.log")
    resolved = next(n for n, line in enumerate(healthy) if "Resolved architecture" in line)
    return failed[: last + 1] + healthy[resolved:]


@pytest.fixture
def play(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., ProcessBackend]]:
    """Launch the stand-in, which prints a log before it serves, hangs or ends."""
    monkeypatch.setenv("PYTHONPATH", str(STAND_IN))
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    backends: list[ProcessBackend] = []

    def start(mode: str, lines: list[str], **options: object) -> ProcessBackend:
        log = tmp_path / f"play{len(backends)}.log"
        log.write_text("\n".join(lines) + "\n")
        target = make_target(
            backend="process",
            model=str(folder),
            serve_arg=[f"--mode={mode}", f"--note={log}"],
            **options,
        )
        backend = make_backend(target, workdir=tmp_path, run_id="t3")
        assert isinstance(backend, ProcessBackend)
        backends.append(backend)
        backend.launch()
        pause = threading.Event()
        while mode == "play-and-hang" and len(backend.log) <= len(lines):  # it adds a line
            pause.wait(0.01)
        return backend

    yield start
    for backend in backends:
        backend.stop()


def wait(
    backend: ProcessBackend,
    clock: FastClock | None = None,
    on_phase: Callable[[StartState], None] = lambda _: None,
) -> LaunchFailed:
    """Wait for a server that never becomes ready."""
    clocks = {"clock": clock, "sleep": clock.sleep} if clock else {}
    with pytest.raises(LaunchFailed) as caught:
        wait_until_ready(backend, backend._target, on_phase=on_phase, **clocks)
    return caught.value


@pytest.mark.parametrize("name", HEALTHY)
def test_no_line_of_a_healthy_log_is_fatal(name: str) -> None:
    watch = FatalWatch(signatures())
    assert [line for line in lines_of(name) if watch.feed(line)] == []


@pytest.mark.parametrize("name", RETRIED)
def test_no_line_of_a_log_with_retries_that_succeed_is_fatal(name: str) -> None:
    watch = FatalWatch(signatures())
    assert [line for line in retried(name) if watch.feed(line)] == []


@pytest.mark.parametrize(
    "lines", [lines_of("h100-0.26/ds7b.log"), retried("dns")], ids=["healthy", "retries"]
)
def test_a_start_with_such_a_log_succeeds(
    play: Callable[..., ProcessBackend], lines: list[str]
) -> None:
    backend = play("play", lines)
    startup = Startup(lambda _: None)
    ready = wait_until_ready(backend, backend._target, startup=startup)
    assert ready.phases == startup.phases
    names = [phase.name for phase in ready.phases]
    assert names[:3] == ["start", "config", "load"]
    assert names[-3:] == ["api up", "ready", "first token"]
    assert startup.facts.version in ("0.26.0", "0.32.0")


@pytest.mark.parametrize(
    ("name", "ref", "phase", "cure"),
    [
        ("h100-0.26/free_mem_error.log", "G7", "config", "--gpu-memory-utilization"),
        ("cpu-0.32/m_noweights.log", "H20", "load", ""),
        ("cpu-0.32/maxlen.log", "H19", "config", ""),
    ],
)
def test_the_first_fatal_line_ends_the_wait(
    play: Callable[..., ProcessBackend], name: str, ref: str, phase: str, cure: str
) -> None:
    """The server hangs instead of ending, which a limit would tell in minutes, in other words."""
    backend = play("play-and-hang", lines_of(name), timeout="60")
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        time.sleep(seconds)

    with pytest.raises(LaunchFailed) as caught:
        wait_until_ready(backend, backend._target, sleep=sleep)
    error = caught.value
    assert sum(waited) < 5.0
    assert error.diagnosis is not None
    assert (error.diagnosis.ref, error.phase) == (ref, phase)
    assert error.message.startswith(error.diagnosis.cause)
    assert f"a fatal line of the log in phase {phase}" in error.message
    assert error.advice.startswith(error.diagnosis.cure)
    assert cure in error.advice
    assert error.exit_code_of_server is None


@pytest.mark.parametrize(
    ("name", "ref", "by_host"),
    [
        ("h100-0.26/free_mem_error.log", "G7", True),
        ("cpu-0.32/dns.log", "H1", True),
        ("cpu-0.32/hub_s503.log", "H4", True),
        ("cpu-0.32/maxlen.log", "H19", False),
        ("cpu-0.32/m_noconf.log", "H12", False),
    ],
)
def test_a_death_is_diagnosed_and_its_fault_decides_whom_to_blame(
    play: Callable[..., ProcessBackend], name: str, ref: str, *, by_host: bool
) -> None:
    error = wait(play("play-and-end", lines_of(name)))
    assert error.diagnosis is not None
    assert (error.diagnosis.ref, error.blames_host) == (ref, by_host)
    assert error.message.startswith(error.diagnosis.cause)
    assert error.tail


def test_a_hang_is_diagnosed_and_names_the_option(play: Callable[..., ProcessBackend]) -> None:
    lines = lines_of("h100-0.26/ds7b.log")
    last = next(n for n, line in enumerate(lines) if "12/51" in line)
    backend = play("play-and-hang", lines[:last])
    clock = FastClock()
    error = wait(backend, clock)
    assert error.phase == "graph capture"
    assert "vLLM hangs in phase graph capture: nothing new for 360 s" in error.message
    assert "limit of this phase 300 s" in error.message
    assert error.diagnosis is not None
    assert error.diagnosis.ref == "G20"
    assert "--vllm-phase-timeout=graph-capture=600" in error.advice


def test_a_worker_that_waits_for_others_is_diagnosed(play: Callable[..., ProcessBackend]) -> None:
    lines = [
        "(Worker_TP0 pid=9) INFO 01-01 00:00:00 [parallel_state.py:1] world_size=2 rank=0 local",
        "(Worker_TP0 pid=9) INFO 01-01 00:00:00 [pynccl.py:111] vLLM is using nccl==2.27.7",
    ]
    error = wait(play("play-and-hang", lines), FastClock())
    assert error.phase == "config"
    assert error.diagnosis is not None
    assert error.diagnosis.ref == "G13"


def test_our_own_questions_are_no_sign_of_life(play: Callable[..., ProcessBackend]) -> None:
    """A sick server notes each `GET /health` in its log."""
    backend = play("sick", [])
    pause = threading.Event()
    while backend.url is None:
        pause.wait(0.02)
    error = wait(backend, FastClock())
    assert "hangs in phase config: nothing new for 660 s" in error.message
    assert "/health: status 500" in error.message


def test_a_first_token_that_does_not_come_names_its_limit(
    play: Callable[..., ProcessBackend],
) -> None:
    error = wait(play("silent-at-first-token", [], phase_timeout=["first-token=1"]))
    assert error.phase == "first token"
    assert "the first completion (/v1/completions) gave no reply" in error.message
    assert "--vllm-phase-timeout=first-token=2" in error.advice


def test_the_limit_of_a_phase_can_be_set(play: Callable[..., ProcessBackend]) -> None:
    backend = play("play-and-hang", ["non-default args: x"], phase_timeout=["config=100"])
    clock = FastClock()
    error = wait(backend, clock)
    assert "hangs in phase config: nothing new for 120 s (limit of this phase 100 s)" in (
        error.message
    )
    assert clock.now <= 180
    assert "--vllm-phase-timeout=config=200" in error.advice


def test_the_chatter_of_an_idle_engine_is_no_sign_of_life(
    play: Callable[..., ProcessBackend],
) -> None:
    chatter = "INFO [shm_broadcast.py:871] No available shared memory broadcast block found in 60"
    backend = play("play-and-hang", ["Starting to load model m...", *[chatter] * 6])
    clock = FastClock()
    error = wait(backend, clock)
    assert error.phase == "load"
    assert error.diagnosis is not None
    assert error.diagnosis.ref == "G15"


def test_a_wrong_limit_is_refused_before_anything_starts() -> None:
    with pytest.raises(TargetError, match="there is no phase 'warmup'"):
        make_target(url="http://127.0.0.1:1", phase_timeout=["warmup=3"])


def test_a_download_is_a_phase_that_counts_bytes(tmp_path: Path) -> None:
    clock = FastClock()
    states: list[StartState] = []
    startup = Startup(states.append, clock=clock)
    startup.read("Starting to load model org/m...")
    meter = CacheMeter(tmp_path, total=64 * 2**20)
    transfer = Transfer(meter, startup)
    blobs = tmp_path / "blobs"
    assert not transfer.look()  # too early for another look
    clock.sleep(0)
    assert not transfer.look()  # nothing there
    blobs.mkdir()
    weights = blobs / "abc.incomplete"
    seen = []
    for mebibytes in (1, 24, 24, 48):
        weights.write_bytes(b"\1" * (mebibytes * 2**20))
        clock.sleep(0)
        seen.append((transfer.look(), startup.phase))
    assert seen == [
        (True, "load"),  # a tokenizer, perhaps
        (True, "download"),
        (False, "download"),
        (True, "download"),
    ]
    assert startup.progress == Progress(done=48 * 2**20, total=64 * 2**20, unit="bytes")
    startup.read("Time spent downloading weights for org/m: 4.0 seconds")
    assert startup.phase == "load"
    weights.write_bytes(b"\1" * (49 * 2**20))
    clock.sleep(0)
    assert transfer.look()  # the last bytes, which were there before the line was read
    assert startup.phase == "load"
    startup.read("Model loading took 1.0 GiB and 3.0 seconds")
    startup.read("GPU KV cache size: 1,000 tokens")
    weights.write_bytes(b"\1" * (60 * 2**20))
    clock.sleep(0)
    assert not transfer.look()  # what comes now is no download of weights


def test_the_total_is_that_of_the_index(tmp_path: Path) -> None:
    meter = CacheMeter(tmp_path)
    assert meter.progress(5) == Progress(done=5, total=None, unit="bytes")
    index = tmp_path / "snapshots" / "abc" / "model.safetensors.index.json"
    index.parent.mkdir(parents=True)
    for text in ("{", "[]", '{"metadata": {}}', '{"metadata": {"total_size": "many"}}'):
        index.write_text(text)
        assert meter.progress(5).total is None
    index.write_text('{"metadata": {"total_size": 1000}}')
    assert meter.progress(5) == Progress(done=5, total=1000, unit="bytes")
    assert meter.progress(1040) == Progress(done=1000, total=1000, unit="bytes")
    assert meter.progress(2000) == Progress(done=2000, total=None, unit="bytes")


def test_a_file_allotted_in_advance_counts_by_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    with (tmp_path / "blobs" / "x.incomplete").open("wb") as file:
        file.truncate(2**30)
        file.write(b"\1" * 2**20)
    assert 2**20 <= CacheMeter(tmp_path).size() < 2**22


def test_only_a_hub_model_of_ours_is_followed(tmp_path: Path) -> None:
    startup = Startup(lambda _: None)
    (tmp_path / "models--org--m" / "blobs").mkdir(parents=True)
    given = {"HF_HUB_CACHE": str(tmp_path)}
    by_path = make_target(backend="process", model=str(tmp_path))
    assert not follow_download(by_path, startup, given)()
    by_id = make_target(
        backend="process", model="org/m", env=[f"HF_HUB_CACHE={tmp_path}", "OTHER=1"]
    )
    look = follow_download(by_id, startup, {})
    assert isinstance(getattr(look, "__self__", None), Transfer)
    assert look.__self__._meter._blobs == tmp_path / "models--org--m" / "blobs"


def test_whom_a_fault_blames() -> None:
    blamed = {fault for fault in Fault if not fault.rejects}
    assert blamed == {Fault.HOST, Fault.NETWORK, Fault.FLAKY}
