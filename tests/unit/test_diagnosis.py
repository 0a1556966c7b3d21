"""Real logs, real excerpts and other wordings of all failures are recognized; nothing else is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.adapters.knowledge import signatures, wide_context
from pytest_vllm.domain.diagnosis import FatalWatch, ServerEnd, diagnose
from pytest_vllm.domain.facts import LaunchFacts
from pytest_vllm.domain.facts.arguments import Flag, HelpFacts
from pytest_vllm.domain.facts.config import ConfigFacts
from pytest_vllm.domain.facts.host import Holder, HostFacts
from pytest_vllm.domain.facts.model import ModelFacts
from pytest_vllm.domain.figures import Context, context_of
from pytest_vllm.domain.finding import Diagnosis, Fault
from pytest_vllm.domain.signature import Role, Signature

if TYPE_CHECKING:
    from pytest_vllm.domain.target import Target

DATA = Path(__file__).parent.parent / "data"
LOGS = DATA / "logs"
WORDINGS = tomllib.loads((DATA / "wordings.toml").read_text("utf-8"))["wording"]
EXPECTED = {
    "cpu-0.32/badarg.log": "H24",
    "cpu-0.32/badid.log": "H8",
    "cpu-0.32/dns.log": "H1",
    "cpu-0.32/hub_badtoken.log": "H5",
    "cpu-0.32/hub_gated401.log": "H6",
    "cpu-0.32/hub_missing401.log": "H7",
    "cpu-0.32/hub_missing404.log": "H7",
    "cpu-0.32/hub_refused.log": "H2",
    "cpu-0.32/hub_s429.log": "H4",
    "cpu-0.32/hub_s503.log": "H4",
    "cpu-0.32/live.log": "Q5",
    "cpu-0.32/m_badarch.log": "H14",
    "cpu-0.32/m_noconf.log": "H12",
    "cpu-0.32/m_notok.log": "H22",
    "cpu-0.32/m_noweights.log": "H20",
    "cpu-0.32/m_quant_unknown.log": "H16",
    "cpu-0.32/m_remote.log": "H15",
    "cpu-0.32/m_shape.log": "H23",
    "cpu-0.32/maxlen.log": "H19",
    "cpu-0.32/offline.log": "H9",
    "cpu-0.32/oldapi_badarg.log": "H24",
    "cpu-0.32/portbusy.log": "H25",
    "cpu-0.32/quantarg.log": "H16",
    "cpu-0.32/unkenv.log": "G23",
    "h100-0.26/free_mem_error.log": "G7",
    "h100-0.26/kv_none.log": "G9",
    "h100-0.26/kv_small.log": "G10",
    "h100-0.26/oom_late.log": "G8",
    "h100-0.26/oom_load.log": "G8",
    "h100-0.26/tp2.log": "G6",
}
HEALTHY = (
    "cpu-0.32/ok_startup.log",
    "h100-0.26/ds7b.log",
    "h100-0.26/v2lite.log",
    "old-formats/v0-0.6-tp.log",
    "old-formats/v0-0.6.log",
    "old-formats/v1-0.11-rocm.log",
    "old-formats/v1-0.18-rocm.log",
    "old-formats/v1-0.8.log",
)
ENVELOPES = (
    "Engine core initialization failed",
    "WorkerProc initialization failed",
    "EngineDeadError",
    "validation error for",
    "We couldn't connect to",
    "LocalEntryNotFoundError",
)
ROWS = {
    *(f"D{n}" for n in range(1, 21)),
    *(f"G{n}" for n in range(1, 25)),
    *(f"H{n}" for n in range(1, 27)),
    *(f"Q{n}" for n in range(1, 7)),
}
WRAPPINGS = {
    "as it is": "{}",
    "engine": "(EngineCore pid=7) ERROR 11-22 10:00:00 [core.py:1] {}",
    "worker of TP": "(Worker_TP0_EP0 pid=412) ERROR 11-22 10:00:00 [multiproc_executor.py:953] {}",
    "worker of 0.6": "(VllmWorkerProcess pid=82) ERROR 10-07 22:54:57 multiproc_utils.py:233] {}",
    "colours": "\x1b[1;36m(EngineCore pid=7)\x1b[0;0m {}\x1b[0m",
    "progress bar": "Loading safetensors checkpoint shards:   0% Completed | 0/4 [00:00<?]\r{}",
    "docker logs --timestamps": "2026-11-22T10:00:00.123456789Z {}",
    "compose": "vllm-1  | {}",
    "compose --timestamps": "vllm-1  | 2026-11-22T10:00:00.123456789Z {}",
    "terminal": "{}\r",
}
STORY = (
    "ValueError: Free memory on device (164.76/191.98 GiB) on startup is less than desired GPU"
    " memory utilization (0.9, 172.79 GiB). Decrease GPU memory utilization or reduce GPU memory"
    " used by other processes."
)


def text_of(name: str) -> str:
    return (LOGS / name).read_bytes().decode()


def first(*lines: str, context: Context | None = None, end: ServerEnd | None = None) -> Diagnosis:
    return diagnose(lines, signatures(), context=context, end=end)[0]


def refs(*lines: str, end: ServerEnd | None = None, daemon_error: str = "") -> list[str | None]:
    found = diagnose(lines, signatures(), end=end, daemon_error=daemon_error)
    return [item.ref for item in found]


def end_of(signature: Signature) -> ServerEnd | None:
    code = signature.excerpt_exit
    return None if code is None else ServerEnd(exit_code=code)


def test_every_row_of_the_table_has_one_signature() -> None:
    assert sorted(signature.ref for signature in signatures()) == sorted(ROWS)
    assert len({signature.id for signature in signatures()}) == len(ROWS)


def test_every_log_is_judged() -> None:
    """A log that is added without its expected row fails here."""
    found = {str(path.relative_to(LOGS)) for path in LOGS.rglob("*.log")}
    assert found == set(HEALTHY) | set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_real_failure_has_one_diagnosis(name: str) -> None:
    (found,) = diagnose((text_of(name),), signatures(), context=wide_context())
    assert found.ref == EXPECTED[name]
    assert found.cause
    assert "{" not in found.cause + found.cure
    assert not any(envelope in found.cause for envelope in ENVELOPES)
    assert found.cure
    assert found.phase


@pytest.mark.parametrize("name", EXPECTED)
def test_evidence_is_quoted_with_the_number_of_its_line(name: str) -> None:
    lines = re.split(r"\r\n|\r|\n", text_of(name))
    found = first(text_of(name))
    assert 1 <= len(found.evidence) <= 5
    assert [item.line for item in found.evidence] == sorted({e.line for e in found.evidence})
    for item in found.evidence:
        words = " ".join(lines[item.line - 1].split())
        assert item.text.removesuffix("...") in words


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_log_has_no_diagnosis(name: str) -> None:
    assert diagnose((text_of(name),), signatures()) == ()


@pytest.mark.parametrize("name", HEALTHY)
@given(share=st.floats(0, 1))
def test_a_healthy_log_that_is_cut_anywhere_has_none_either(name: str, share: float) -> None:
    text = text_of(name)
    assert diagnose((text[: int(share * len(text))],), signatures()) == ()


@pytest.mark.parametrize("signature", signatures(), ids=lambda signature: signature.ref)
def test_an_excerpt_is_its_own_test(signature: Signature) -> None:
    assert refs(*signature.excerpt, end=end_of(signature)) == [signature.ref]
    assert signature.excerpt or signature.exit


@pytest.mark.parametrize("wrapping", WRAPPINGS.values(), ids=WRAPPINGS)
@pytest.mark.parametrize("signature", signatures(), ids=lambda signature: signature.ref)
def test_an_excerpt_is_known_however_it_is_wrapped(signature: Signature, wrapping: str) -> None:
    """Requests that are refused stand in replies, and access logs are no vLLM process."""
    bare = [re.sub(r"^.*?\[[\w.]+:\d+\] ", "", line) for line in signature.excerpt]
    wrapped = [wrapping.format(line) for line in bare]
    assert refs(*wrapped, end=end_of(signature)) == [signature.ref]


@pytest.mark.parametrize(
    "wording",
    WORDINGS,
    ids=[f"{n} {entry.get('ref', 'unknown')}" for n, entry in enumerate(WORDINGS)],
)
def test_other_wordings(wording: dict[str, Any]) -> None:
    found = diagnose(wording["lines"], signatures(), context=wide_context())
    assert (found[0].ref if found else None) == wording.get("ref")
    if "cause" in wording:
        assert wording["cause"] in found[0].cause
    if "without" in wording:
        assert wording["without"] not in found[0].cause + found[0].cure


@pytest.mark.parametrize("signature", signatures(), ids=lambda signature: signature.ref)
def test_an_excerpt_within_a_failed_start_is_found(signature: Signature) -> None:
    """The same lines below a real beginning; without hints and silence, which need a failure."""
    causes = [p for p in signature.patterns if p.role in (Role.CAUSE, Role.CONSEQUENCE)]
    if not causes or signature.hang is not None or signature.serving or signature.exit:
        return
    begin = text_of("h100-0.26/free_mem_error.log").split("\n")[:20]
    envelope = "RuntimeError: Engine core initialization failed. See root cause above. {}"
    assert refs(*begin, *signature.excerpt, envelope) == [signature.ref]


def test_the_innermost_process_wins() -> None:
    log = (
        "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.",
        "(APIServer pid=1) OSError: [Errno 98] Address already in use",
        "(EngineCore pid=2) ERROR 11-22 16:06:24 [core.py:1] Error: No HIP GPUs are available",
        "(Worker_TP0 pid=3) ERROR 11-22 16:06:29 [x.py:9] HIP error: invalid device function",
    )
    assert refs(*log) == ["G3", "G1", "H25"]


def test_the_first_link_of_a_chain_wins() -> None:
    log = (
        "httpx2.ConnectError: [Errno -2] Name or service not known",
        "The above exception was the direct cause of the following exception:",
        "OSError: [Errno 28] No space left on device",
    )
    assert refs(*log)[0] == "H1"


def test_evidence_of_the_daemon_comes_before_state_and_log() -> None:
    end = ServerEnd(exit_code=137, oom_killed=True)
    log = "RuntimeError: No HIP GPUs are available"
    said = "Error response from daemon: Unable to find group render: no matching entries"
    assert refs(log, end=end, daemon_error=said) == ["D12", "D17", "G1"]
    assert refs(log, end=end) == ["D17", "G1"]
    assert refs(log, end=ServerEnd(exit_code=137)) == ["G1"]


def test_what_the_engine_says_is_evidence_without_a_line() -> None:
    said = 'exec: "vllm": executable file not found in $PATH'
    (found,) = diagnose((), signatures(), daemon_error=said)
    assert found.ref == "D8"
    assert [(item.line, item.text) for item in found.evidence] == [(0, said)]


@pytest.mark.parametrize(
    ("end", "ref"),
    [
        (ServerEnd(exit_code=0), "D16"),
        (ServerEnd(exit_code=137), "D17"),
        (ServerEnd(exit_code=1, oom_killed=True), "D17"),
        (ServerEnd(exit_code=139), "D18"),
        (ServerEnd(exit_code=134), "D19"),
        (ServerEnd(exit_code=1), None),
        (ServerEnd(hung=True), None),
    ],
)
def test_an_end_without_a_log(end: ServerEnd, ref: str | None) -> None:
    assert refs("", end=end) == [ref]


def test_an_end_without_a_log_is_told_in_words_that_fit_a_process_too() -> None:
    found = first("", end=ServerEnd(exit_code=0))
    assert "container" not in found.cause
    assert "--vllm-python" in found.cure, "what a process is started with"
    sent = first("", end=ServerEnd(exit_code=0), context=Context(sent="bash", image="/bin/sh"))
    assert "we sent bash, the image says /bin/sh" in sent.cure


def test_exit_code_0_after_a_line_of_vllm_is_no_shell_that_ended() -> None:
    (found,) = diagnose(
        (text_of("cpu-0.32/ok_startup.log"),), signatures(), end=ServerEnd(exit_code=0)
    )
    assert found.id is None
    assert "exit code 0" in found.cause


def test_a_server_that_was_stopped_is_well() -> None:
    log = text_of("cpu-0.32/ok_startup.log") + "INFO:     Shutting down\n"
    assert refs(log, end=ServerEnd(exit_code=0, stopped=True)) == []
    assert refs(log, end=ServerEnd(exit_code=143, stopped=True)) == []
    assert refs(log, end=ServerEnd(exit_code=139, stopped=True)) == ["D18"]


def test_what_a_server_says_after_it_was_told_to_stop_is_nothing_wrong() -> None:
    log = (
        text_of("cpu-0.32/ok_startup.log"),
        (
            "(APIServer pid=1) INFO 11-23 01:16:01 [l.py:254] [shutdown] API server: shutdown"
            " triggered"
        ),
        (
            "(APIServer pid=1) ERROR 11-23 01:16:01 [async_llm.py:906] vllm.v1.engine.exceptions."
            "EngineDeadError: EngineCore encountered an issue."
        ),
    )
    assert refs(*log) == []
    (found,) = diagnose(log, signatures(), end=ServerEnd(exit_code=0))
    assert "told it to stop" in found.cause


def test_of_a_server_that_was_started_again_the_last_start_counts() -> None:
    well, failed = text_of("cpu-0.32/ok_startup.log"), text_of("cpu-0.32/m_noweights.log")
    stop = (
        "(APIServer pid=1) INFO 11-23 01:16:01 [l.py:2] [shutdown] API server: shutdown triggered"
    )
    assert refs(failed, well) == []
    assert refs(well, failed) == ["H20"]
    assert refs(well, stop, failed) == ["H20"]
    assert refs(failed, failed) == ["H20"]


def test_a_start_that_somebody_stopped_says_so() -> None:
    begin = text_of("cpu-0.32/ok_startup.log").split("\n")[:20]
    (found,) = diagnose((*begin, "KeyboardInterrupt: terminated"), signatures())
    assert found.id is None
    assert found.cause == "somebody told it to stop: KeyboardInterrupt: terminated"


def test_a_failure_that_is_overcome_is_none() -> None:
    retry = "'[Errno -2] Name or service not known' thrown while requesting HEAD https://hf.co/x"
    trace = "httpx2.ConnectError: [Errno -2] Name or service not known"
    assert refs(retry, text_of("cpu-0.32/ok_startup.log")) == []
    assert refs(trace, text_of("cpu-0.32/ok_startup.log")) == []


def test_requests_that_are_refused_are_no_cause_of_a_death() -> None:
    refused = "(APIServer pid=3) ERROR [x.py:1] This model's maximum context length is 9 tokens"
    log = (text_of("cpu-0.32/ok_startup.log"), refused)
    assert refs(*log) == [], "a server that is well refuses requests"
    assert refs(refused) == ["Q3"], "who cuts the line out asks about it"
    assert refs(*log, end=ServerEnd(exit_code=137)) == ["D17"]
    assert refs(*log, end=ServerEnd(exit_code=1)) == [None]


def test_a_line_of_source_in_a_traceback_is_no_evidence() -> None:
    log = (
        "Traceback (most recent call last):",
        '  File "/x/hub.py", line 7, in load',
        '    raise RuntimeError("No HIP GPUs are available")',
        "RuntimeError: something else",
    )
    assert refs(*log) == [None]


def test_a_request_that_quotes_an_error_is_none() -> None:
    log = "(APIServer pid=1) INFO 11-22 10:00:00 [logger.py:43] prompt: 'HIP out of memory'"
    assert refs(log) == []


def test_unknown_stays_unknown_and_says_what_it_saw() -> None:
    (found,) = diagnose(
        (
            "(APIServer pid=1) INFO 11-22 16:00:00 [api_utils.py:286] non-default args: {}",
            "(Worker pid=3) ERROR 11-22 16:06:29 [x.py:9] ValueError: something new",
            "RuntimeError: Engine core initialization failed. See root cause above.",
        ),
        signatures(),
    )
    assert (found.id, found.ref, found.fault, found.cure) == (None, None, None, "")
    assert found.cause == "ValueError: something new"
    assert [item.line for item in found.evidence] == [2]


def test_an_envelope_alone_is_unknown_and_not_well() -> None:
    (found,) = diagnose(
        (
            "(Worker pid=3) ERROR 11-22 16:06:29 [x.py:9] BrokenPipeError: [Errno 32] Broken pipe",
            "RuntimeError: Engine core initialization failed. Failed core proc(s): {'E': 1}",
        ),
        signatures(),
    )
    assert found.id is None
    assert "only the envelope" in found.cause
    assert found.evidence[0].line == 2


SILENCE = (
    "(EngineCore pid=4) INFO 11-22 10:01:00 [shm_broadcast.py:681] No available shared memory"
    " broadcast block found in 60 seconds."
)


def test_silence_counts_from_the_fifth_line_without_a_new_phase() -> None:
    begin = text_of("cpu-0.32/ok_startup.log").split("\n")[:40]
    assert refs(*begin, *[SILENCE] * 4) == []
    assert refs(*begin, *[SILENCE] * 5) == ["G15"]
    moved = "(Worker pid=3) INFO 11-22 10:00:00 [x.py:1] Model loading took 1.2 GiB and 3 seconds"
    assert refs(*begin, *[SILENCE] * 3, moved, *[SILENCE] * 3) == []


@pytest.mark.parametrize(
    ("line", "ref"),
    [
        (
            "(Worker_TP0 pid=5) INFO 11-22 10:00:00 [pynccl.py:111] vLLM is using nccl==2.27.7",
            "G13",
        ),
        ("(Worker_TP0 pid=5) INFO 11-22 10:00:00 [p.py:1] world_size=2 rank=0 backend=nccl", "G13"),
        ("[aiter] waiting for baton release at /tmp/lock", "G16"),
        ("[aiter] start build [module_rmsnorm]", "G16"),
        ("Capturing CUDA graphs (decode, FULL):  88%|### | 45/51 [00:05<00:00]", "G20"),
    ],
)
def test_a_hang_is_known_by_the_line_it_stands_at(line: str, ref: str) -> None:
    begin = text_of("h100-0.26/ds7b.log").split("\n")[:20]
    assert refs(*begin, line) == [], "a log that ends there may go on"
    assert refs(*begin, line, end=ServerEnd(hung=True)) == [ref]
    assert refs(*begin, line, SILENCE) == [ref]
    gone_on = "(EngineCore pid=4) INFO 11-22 10:00:00 [core.py:1] init engine (profile) took 3 s"
    load = "(Worker pid=4) INFO 11-22 10:00:00 [x.py:1] Starting to load model m..."
    assert ref not in refs(*begin, line, load, gone_on, SILENCE)


def test_the_largest_safe_utilization_of_the_story() -> None:
    found = first(STORY)
    assert found.ref == "G7"
    assert found.fault is Fault.HOST
    assert "164.76 of 191.98 GiB" in found.cause
    assert "--vllm-serve-arg='--gpu-memory-utilization=0.83'" in found.cure
    held = Context(holders=(Holder(pid=4711, name="python3", vram_bytes=27 * 2**30),))
    assert "python3 (PID 4711, 27.0 GiB)" in first(STORY, context=held).cause


OOM = (
    "(EngineCore pid=212) ERROR 11-22 10:00:00 [core.py:1330] torch.OutOfMemoryError: HIP out of"
    " memory. Tried to allocate 14.00 GiB. GPU 0 has a total capacity of 191.98 GiB of which 9.50"
    " GiB is free."
)
ARGS = (
    (
        "(APIServer pid=1) INFO 11-22 10:00:00 [api_utils.py:286] non-default args: {'model':"
        " 'deepseek-ai/DeepSeek-V3.1', 'trust_remote_code': True}"
    ),
    (
        "(EngineCore pid=212) INFO 11-22 10:00:00 [gpu_model_runner.py:9] Starting to load model"
        " deepseek-ai/DeepSeek-V3.1..."
    ),
)


def test_the_smallest_number_of_gpus_of_the_story_is_read_from_the_log() -> None:
    """671e9 parameters in fp8 are 626.9 GiB; 0.9 of 191.98 GiB fit on each GPU."""
    found = first(*ARGS, OOM, context=wide_context())
    assert found.ref == "G8"
    assert "at least 4 of these GPUs" in found.cure
    assert "--tensor-parallel-size=4" in found.cure
    assert found.phase == "load"


@pytest.mark.parametrize(
    ("weights_gib", "heads", "gpus", "size"),
    [(626.9, None, 4, 4), (900, None, 6, 8), (900, 9, 6, 9), (172, 32, 1, 0), (173, 32, 2, 2)],
)
def test_the_smallest_number_of_gpus_for_a_size(
    weights_gib: float, heads: int | None, gpus: int, size: int
) -> None:
    context = Context(
        model="m",
        weights_bytes=int(weights_gib * 2**30),
        known_heads={} if heads is None else {"m": heads},
    )
    cure = first(*ARGS, OOM, context=context).cure
    assert (f"at least {gpus} of these GPUs" in cure) is (gpus > 1)
    assert (f"--tensor-parallel-size={size}'" in cure) is (size > 0)


def test_real_failures_of_a_gpu_name_the_numbers() -> None:
    """Dummy weights of true size on an H100 of 79.18 GiB, vLLM 0.26."""
    cures = {
        name: first(text_of(f"h100-0.26/{name}.log"), context=wide_context()).cure
        for name in ("oom_load", "oom_late", "kv_small", "free_mem_error")
    }
    assert "at least 2 of these GPUs" in cures["oom_load"], "131.4 GiB of Llama-3.1-70B"
    assert "end process 1900, which holds 64.28 GiB of GPU 0" in cures["oom_late"]
    assert "--max-model-len=128368" in cures["kv_small"]
    assert "--gpu-memory-utilization=0.81" in cures["free_mem_error"]


def test_memory_that_is_full_after_loading_asks_for_less_not_for_more_gpus() -> None:
    later = "(EngineCore pid=2) INFO 11-22 10:00:00 [x.py:1] GPU KV cache size: 1,000 tokens"
    found = first(*ARGS, later, OOM, context=wide_context())
    assert found.ref == "G8"
    assert "at least" not in found.cure
    assert "max-num-seqs" in found.cure


@pytest.mark.parametrize(
    ("line", "cure"),
    [
        (
            "Total number of attention heads (28) must be divisible by tensor parallel size (8).",
            "--tensor-parallel-size=7' (sizes that divide the heads: 1, 2, 4, 7, 14, 28)",
        ),
        (
            (
                "max seq len (131072), (16.00 GiB KV cache is needed, which is larger than the "
                "available KV cache memory (9.20 GiB). Based on the available memory, the "
                "estimated maximum model length is 75344."
            ),
            "--max-model-len=75344",
        ),
        (
            (
                "OSError: deepseek-ai/DeepSeek-V2-Lite-instruct is not a local folder and is not a "
                "valid model identifier listed on 'https://huggingface.co/models'"
            ),
            "--vllm-model=deepseek-ai/DeepSeek-V2-Lite",
        ),
        (
            "vllm: error: unrecognized arguments: --max-modellen=5",
            "--max-model-len if that is meant",
        ),
    ],
)
def test_the_cure_is_computed(line: str, cure: str) -> None:
    context = Context(
        known_models=("deepseek-ai/DeepSeek-V2-Lite-Chat", "deepseek-ai/DeepSeek-V2-Lite", "a/b"),
        known_flags=("--max-model-len", "--dtype"),
    )
    assert cure in first(line, context=context).cure


@pytest.mark.parametrize("name", HEALTHY)
def test_no_line_of_a_healthy_start_is_fatal(name: str) -> None:
    watch = FatalWatch(signatures())
    assert not any(watch.feed(line) for line in text_of(name).split("\n"))


def test_a_retry_is_not_fatal() -> None:
    watch = FatalWatch(signatures())
    for line in text_of("cpu-0.32/dns.log").split("\n")[:24]:
        assert not watch.feed(line)


@pytest.mark.parametrize(
    "name", ["h100-0.26/free_mem_error.log", "cpu-0.32/m_noweights.log", "cpu-0.32/badarg.log"]
)
def test_the_first_fatal_line_is_enough(name: str) -> None:
    watch = FatalWatch(signatures())
    lines = text_of(name).split("\n")
    at = next(index for index, line in enumerate(lines) if watch.feed(line))
    assert watch.found is not None
    assert watch.found.ref == EXPECTED[name]
    assert at <= first(text_of(name)).evidence[0].line
    assert watch.feed("anything"), "it stays found"


@pytest.mark.parametrize("signature", signatures(), ids=lambda signature: signature.ref)
def test_a_fatal_signature_is_fatal_by_its_excerpt(signature: Signature) -> None:
    watch = FatalWatch(signatures())
    assert any(watch.feed(line) for line in signature.excerpt) is signature.fatal
    assert watch.found in (None, signature)


@given(st.lists(st.text(max_size=60), max_size=8), st.sampled_from([None, 0, 1, 137, 139]))
def test_no_log_breaks_the_diagnosis(lines: list[str], code: int | None) -> None:
    end = None if code is None else ServerEnd(exit_code=code)
    for found in diagnose(lines, signatures(), end=end):
        assert "\n" not in found.cause
        assert len(found.evidence) <= 5


PIECES = [line for signature in signatures() for line in signature.excerpt]


@given(st.lists(st.sampled_from(PIECES), max_size=6))
def test_any_mixture_of_excerpts_is_ranked_once_each(lines: list[str]) -> None:
    found = [item.id for item in diagnose(lines, signatures())]
    assert len(found) == len(set(found))
    assert None not in found or found == [None]


def test_what_was_gathered_before_the_launch_is_used() -> None:
    facts = LaunchFacts(
        target=cast("Target", None),
        host=HostFacts(holders=(Holder(pid=4711, name="trainer", vram_bytes=27 * 2**30),)),
        model=ModelFacts(asked="m", weights_bytes=600 * 2**30, config=ConfigFacts(heads=20)),
        arguments=HelpFacts(flags=(Flag(names=("--max-model-len",)),)),
    )
    context = context_of(facts)
    assert "trainer (PID 4711, 27.0 GiB)" in first(STORY, context=context).cure
    assert "--tensor-parallel-size=4'" in first(*ARGS, OOM, context=context).cure
    flag = first("error: unrecognized arguments: --max-modellen=5", context=context)
    assert "--max-model-len if that is meant" in flag.cure


@pytest.mark.parametrize("name", EXPECTED)
def test_the_end_of_a_failed_log_never_gives_an_envelope_as_the_cause(name: str) -> None:
    lines = text_of(name).rstrip().split("\n")
    for count in range(1, min(len(lines), 60)):
        for found in diagnose(lines[-count:], signatures()):
            envelopes = [words for words in ENVELOPES if words in found.cause]
            assert found.id is not None or not envelopes, f"the last {count} lines"


@pytest.mark.parametrize("name", ["cpu-0.32/dns.log", "cpu-0.32/m_noweights.log"])
def test_the_last_lines_of_a_failed_log_lack_the_cause(name: str) -> None:
    (found,) = diagnose(text_of(name).rstrip().split("\n")[-5:], signatures())
    assert found.id is None
    assert found.cause.startswith("only the envelope of a failure is in this text")


@pytest.mark.parametrize(
    "line",
    [
        "terminate called after throwing an instance of 'c10::Error'",
        "Aborted (core dumped)",
        "vllm-1 exited with code 1",
    ],
)
def test_a_server_that_was_up_and_crashed_is_not_well(line: str) -> None:
    (found,) = diagnose((text_of("cpu-0.32/ok_startup.log"), line), signatures())
    assert (found.id, found.cause) == (None, line)


def test_an_exception_says_more_than_the_exit_code_below_it() -> None:
    (found,) = diagnose(("ValueError: something new", "vllm-1 exited with code 1"), signatures())
    assert found.cause == "ValueError: something new"


def test_a_traceback_that_is_whole_is_not_cut_off() -> None:
    frames = ("Traceback (most recent call last):", '  File "/x.py", line 1, in f', "    f()")
    (found,) = diagnose((*frames, "ValueError: something new"), signatures())
    assert found.cause == "ValueError: something new"
    (found,) = diagnose(frames, signatures())
    assert "cut off" in found.cause
    assert [item.line for item in found.evidence] == [3]


@pytest.mark.parametrize("row", ["D19", "H4"])
def test_no_cure_promises_a_second_try_that_may_be_over(row: str) -> None:
    (signature,) = [each for each in signatures() if each.ref == row]
    assert signature.cure[0].startswith("start it again")
