"""The cause of a failed start, read from its log by rule.

The last exception is usually an envelope, so the rule looks for the first link: the first exception
of the innermost process that is not a known envelope (launch.md, section 2.1).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_vllm.domain.phases import clean, split_process

if TYPE_CHECKING:
    from collections.abc import Sequence

_LEVEL = re.compile(r"^(?:INFO|WARNING|ERROR|CRITICAL|DEBUG) [\d:. -]+\[?[\w./]+:\d+\]\s?")
_EXCEPTION = re.compile(
    r"^(?:[A-Za-z_][\w.]*\.)?(?P<name>[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Timeout)):"
    r"\s*(?P<text>\S.*)"
)
_BARE = re.compile(r"^(?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception)(?P<colon>:?)\s*$")
_FATAL = re.compile(
    r"error: (?:unrecognized arguments|argument |the following arguments)"
    r"|^(?:/\S+/)?python\d?[\d.]*: (?:No module named|can't open file)"
    r"|^\[FATAL tini \(\d+\)\] exec |exec format error"
    r"|Segmentation fault|^Killed$|executable file not found|Memory access fault"
)
# Sentences that say more than the exception below them, which only names an HTTP status.
_TELLING = re.compile(
    r"You are trying to access a gated repo"
    r"|is not a local folder and is not a valid model identifier"
    r"|Invalid credentials in Authorization header|Invalid user token"
)
# What is left of a process that was killed, when no exception tells more.
_VANISHED = re.compile(r"engine core exited unexpectedly|\b[Dd]ied unexpectedly")
_RETRY_NOTE = re.compile(r",? retrying \d+ of \d+$")
_ENVELOPE = re.compile(
    r"Engine core initialization failed|WorkerProc initialization failed|EngineDeadError"
    r"|validation error for \w*Config|We couldn't connect to"
    r"|LocalEntryNotFoundError(?!.*outgoing traffic has been disabled)"
    r"|Cannot send a request, as the client has been closed"
)
_DEPTH = ("Worker", "VllmWorker", "EngineCore", "APIServer", "")
# launch.md, section 2.2: what the cause says -> what to do.
_ADVICE = (
    (
        r"unrecognized arguments",
        "this vLLM does not know that flag: correct --vllm-serve-arg, see vllm serve --help=all",
    ),
    (r"error: argument ", "correct the value in --vllm-serve-arg"),
    (
        r"\[FATAL tini|executable file not found|No module named",
        "the image lacks what we start: choose --vllm-entrypoint=vllm or module",
    ),
    (r"exec format error", "the image is for another CPU architecture"),
    (r"Address already in use", "end what holds the port, or drop --port"),
    (r"max_model_len", "pass a smaller --vllm-serve-arg='--max-model-len=N'"),
    (
        r"Free memory on device",
        "end what holds the GPU, or pass --vllm-serve-arg='--gpu-memory-utilization=0.N'",
    ),
    (
        r"deserializing header|Cannot find any model weights|MemoryError|Unterminated string",
        "the weights are missing or cut short: fetch the model again and compare sizes",
    ),
    (r"gated repo", "accept the model's licence on the Hub and export HF_TOKEN"),
    (r"Invalid credentials|Invalid user token", "renew HF_TOKEN, or unset it for a public model"),
    (r"not a valid model identifier", "correct --vllm-model; a private one needs HF_TOKEN"),
    (
        r"Name or service not known|Failed to resolve|Connection refused|Network is unreachable",
        "the server cannot reach the Hub: download the model first and name its folder",
    ),
    (r"outgoing traffic has been disabled", "download the model first, or unset HF_HUB_OFFLINE"),
    (
        r"custom code which must be executed",
        "add --vllm-serve-arg=--trust-remote-code, with a pinned --vllm-revision only",
    ),
    (r"No HIP GPUs are available", "check --vllm-gpus, /dev/kfd and the groups of the container"),
    (r"are not supported for now|does not recognize this architecture", "use a newer image"),
)
# launch.md, section 2.2, classes host and network: the same image may start elsewhere or later.
_HOST_FAULT = re.compile(
    r"Name or service not known|Temporary failure in name resolution|Failed to resolve"
    r"|\[Errno -[235]\]|Connection refused|Network is unreachable|Connection timed out"
    r"|CERTIFICATE_VERIFY_FAILED|429 Too Many Requests|Server error '5\d\d"
    r"|Address already in use|No space left on device|Free memory on device"
    r"|No HIP GPUs are available|Unable to open /dev/kfd|HSA_STATUS_ERROR_OUT_OF_RESOURCES"
    r"|OOMKilled|^Killed$|Docker engine.* no longer answers"
)
TAIL_LINES = 20
"""Log lines shown with a failure."""


def root_cause(lines: Sequence[str]) -> str:
    """Return the line that names the cause, or an empty text when none is recognized.

    Args:
        lines: The raw log, oldest first.
    """
    candidates: list[tuple[int, int, str]] = []
    texts = [split_process(clean(line)) for line in lines]
    for index, (process, rest) in enumerate(texts):
        text = _LEVEL.sub("", rest).strip()
        if _FATAL.search(text) or _TELLING.search(text):
            return text
        if bare := _BARE.match(text):
            text += f" {_next_text(texts, index)}" if bare["colon"] else ""
        if bare or _EXCEPTION.match(text) or _validation_detail(texts, index):
            candidates.append((_depth(process), index, text))
    plain = [entry for entry in candidates if not _ENVELOPE.search(entry[2])]
    if not plain:
        return next((_LEVEL.sub("", rest) for _, rest in texts if _VANISHED.search(rest)), "")
    return _RETRY_NOTE.sub("", min(plain)[2])


def advise(cause: str) -> str:
    """Return what to do about a cause, empty when it is none that is known."""
    return next((text for pattern, text in _ADVICE if re.search(pattern, cause)), "")


def blames_host(cause: str) -> bool:
    """Tell whether a cause lies with the host or the network, not with image or model.

    Args:
        cause: What `root_cause` found, or what the engine notes about a death.
    """
    return _HOST_FAULT.search(cause) is not None


def log_tail(lines: Sequence[str], count: int = TAIL_LINES) -> tuple[str, ...]:
    """Return the last lines that say something, without ANSI codes."""
    cleaned = [clean(line) for line in lines]
    return tuple(line for line in cleaned if line.strip())[-count:]


def _next_text(texts: Sequence[tuple[str, str]], index: int) -> str:
    """Return the first line below that is not empty."""
    below = (_LEVEL.sub("", rest).strip() for _, rest in texts[index + 1 :])
    return next((text for text in below if text), "")


def _validation_detail(texts: Sequence[tuple[str, str]], index: int) -> bool:
    """Tell whether this line is the message that pydantic prints below its envelope."""
    previous = texts[index - 1][1] if index else ""
    return bool(re.search(r"\d+ validation errors? for \w*Config", previous))


def _depth(process: str) -> int:
    for depth, name in enumerate(_DEPTH):
        if name and process.startswith(name):
            return depth
    return len(_DEPTH)
