"""The cause of a failed start is the first link of the chain, in logs of real failures."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.domain.diagnosis import TAIL_LINES, advise, blames_host, log_tail, root_cause

LOGS = Path(__file__).parent.parent / "data" / "logs"
HEALTHY = {"cpu-0.32/ok_startup.log", "h100-0.26/ds7b.log", "h100-0.26/v2lite.log"}
CAUSES = {
    "cpu-0.32/badarg.log": "error: unrecognized arguments: --frobnicate",
    "cpu-0.32/badid.log": "Repo id must be in the form 'repo_name' or 'namespace/repo_name'",
    "cpu-0.32/dns.log": "ConnectError: [Errno -2] Name or service not known",
    "cpu-0.32/hub_badtoken.log": "Invalid credentials in Authorization header",
    "cpu-0.32/hub_gated401.log": "You are trying to access a gated repo",
    "cpu-0.32/hub_missing401.log": "is not a local folder and is not a valid model identifier",
    "cpu-0.32/hub_missing404.log": "is not a local folder and is not a valid model identifier",
    "cpu-0.32/hub_refused.log": "ConnectError: [Errno 111] Connection refused",
    "cpu-0.32/hub_s429.log": "Client error '429 Too Many Requests'",
    "cpu-0.32/hub_s503.log": "Server error '503 Service Unavailable'",
    "cpu-0.32/live.log": "engine core exited unexpectedly",
    "cpu-0.32/m_badarch.log": "Model architectures ['FooForCausalLM'] are not supported for now",
    "cpu-0.32/m_noconf.log": "Invalid repository ID or local directory specified",
    "cpu-0.32/m_notok.log": "Couldn't instantiate the backend tokenizer",
    "cpu-0.32/m_noweights.log": "Cannot find any model weights with",
    "cpu-0.32/m_quant_unknown.log": "Unknown quantization method: foo",
    "cpu-0.32/m_remote.log": "contains custom code which must be executed",
    "cpu-0.32/m_shape.log": "The hidden size (640) is not a multiple of the number of attention",
    "cpu-0.32/maxlen.log": "User-specified max_model_len (100000) is greater than the derived",
    "cpu-0.32/offline.log": "outgoing traffic has been disabled",
    "cpu-0.32/oldapi_badarg.log": "error: unrecognized arguments: --no-such-flag",
    "cpu-0.32/portbusy.log": "OSError: [Errno 98] Address already in use",
    "cpu-0.32/quantarg.log": "Unknown quantization method: bitsandbytes",
    "cpu-0.32/unkenv.log": "Unknown attention backend: 'FOO'",
    "h100-0.26/free_mem_error.log": "Free memory on device cuda:0 (66.06/79.18 GiB) on startup is",
}
NOT_THE_IMAGE = {
    "cpu-0.32/dns.log",
    "cpu-0.32/hub_refused.log",
    "cpu-0.32/hub_s429.log",
    "cpu-0.32/hub_s503.log",
    "cpu-0.32/portbusy.log",
    "h100-0.26/free_mem_error.log",
}
"""Logs of failures by the host or the network: a verdict about the image would be false."""
ENVELOPES = (
    "Engine core initialization failed",
    "WorkerProc initialization failed",
    "EngineDeadError",
    "validation error for",
    "We couldn't connect to",
)


def lines_of(name: str) -> list[str]:
    return (LOGS / name).read_bytes().decode().split("\n")


@pytest.mark.parametrize("name", CAUSES)
def test_host_and_network_are_told_from_image_and_model(name: str) -> None:
    assert blames_host(root_cause(lines_of(name))) is (name in NOT_THE_IMAGE)


def test_every_log_is_judged() -> None:
    """A log that is added without its expected cause fails here."""
    found = {str(path.relative_to(LOGS)) for path in LOGS.rglob("*.log")}
    assert found == HEALTHY | set(CAUSES)


@pytest.mark.parametrize("name", sorted(CAUSES))
def test_the_cause_of_a_real_failure(name: str) -> None:
    cause = root_cause(lines_of(name))
    assert CAUSES[name] in cause
    assert not any(envelope in cause for envelope in ENVELOPES)
    assert "\n" not in cause


@pytest.mark.parametrize("name", sorted(HEALTHY))
def test_a_healthy_log_names_no_cause(name: str) -> None:
    assert root_cause(lines_of(name)) == ""


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("[FATAL tini (7)] exec vllm failed: No such file or directory", "--vllm-entrypoint"),
        ("api_server.py: error: unrecognized arguments: --x", "--vllm-serve-arg"),
        ("SafetensorError: Error while deserializing header: MetadataIncomplete", "cut short"),
        ("OSError: You are trying to access a gated repo.", "HF_TOKEN"),
        ("something new", ""),
    ],
)
def test_advice(line: str, advice: str) -> None:
    assert advice in advise(line)
    assert bool(advise(line)) == bool(advice)


def test_a_missing_command_in_the_container_is_a_cause() -> None:
    line = "[FATAL tini (7)] exec nonexistent failed: No such file or directory"
    assert root_cause([line]) == line


def test_an_exception_without_a_text_on_its_line_is_a_cause() -> None:
    assert root_cause(["Traceback (most recent call last):", "MemoryError", ""]) == "MemoryError"
    spread = ["RuntimeError: ", "", "        An attempt has been made to start a new process"]
    assert root_cause(spread) == "RuntimeError: An attempt has been made to start a new process"


def test_the_innermost_process_wins() -> None:
    log = [
        "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.",
        "(APIServer pid=1) ValueError: outer",
        "(EngineCore pid=2) ERROR 11-22 16:06:24 [core.py:1] RuntimeError: middle",
        "(Worker_TP0 pid=3) ERROR 11-22 16:06:29 [x.py:9] torch.OutOfMemoryError: inner",
    ]
    assert root_cause(log) == "torch.OutOfMemoryError: inner"


def test_the_tail_has_no_empty_lines_and_no_colours() -> None:
    tail = log_tail(["a", "", "\x1b[31mb\x1b[0m", "  "] + ["c"] * 30)
    assert len(tail) == TAIL_LINES
    assert log_tail(["a", "", "\x1b[31mb\x1b[0m", "  "]) == ("a", "b")


@given(st.lists(st.text(max_size=40), max_size=8))
def test_no_log_breaks_the_diagnosis(lines: list[str]) -> None:
    assert isinstance(root_cause(lines), str)
