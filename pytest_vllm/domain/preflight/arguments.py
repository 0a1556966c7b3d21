"""Rules about the words that go to the server, and the variables that it gets."""

from __future__ import annotations

import json
import re
from difflib import get_close_matches
from typing import TYPE_CHECKING

from pytest_vllm.domain.finding import Fault, Finding, Severity
from pytest_vllm.domain.preflight.fit import parallel
from pytest_vllm.domain.serve_parser import ServeArgumentError, check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.domain.facts import LaunchFacts
    from pytest_vllm.domain.facts.arguments import HelpFacts

_SIZES = ("--tensor-parallel-size", "--pipeline-parallel-size", "--data-parallel-size")
_SHARES = ("--gpu-memory-utilization", "--device-memory-utilization")
_LENGTH = re.compile(r"\s*(\d+|\d+(\.\d+)?[kmgt]|\d+[KMGT]|-1|(?i:auto))\s*")
_JSON = (
    "--hf-overrides",
    "--speculative-config",
    "--compilation-config",
    "--kv-transfer-config",
    "--override-generation-config",
    "--limit-mm-per-prompt",
    "--mm-processor-kwargs",
    "--model-loader-extra-config",
    "--default-chat-template-kwargs",
    "--rope-scaling",
)
_TYPES = {
    "--dtype": re.compile(r"auto|half|float|float16|bfloat16|float32"),
    "--kv-cache-dtype": re.compile(
        r"auto|b?float16|fp8\w*|int[48]\w*|nvfp4\w*|mxfp\w*|(turbo|ultra)quant\w*"
    ),
}
"""Values that some vLLM up to 0.32 takes, for a server whose help is not at hand."""
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - inside the container


def values(facts: LaunchFacts, /) -> Iterator[Finding]:
    """Values of arguments that every version reads alike."""
    args = facts.target.serve_args
    for flag in _SIZES:
        if args.has(flag) and parallel(facts, flag) is None:
            yield _bad_value(flag, args.value(flag), "a whole number from 1", "1")
    for flag in _SHARES:
        if args.has(flag) and not _is_share(args.value(flag)):
            yield _bad_value(flag, args.value(flag), "a share above 0 and up to 1", "0.9")
    length = args.value("--max-model-len")
    if args.has("--max-model-len") and not _LENGTH.fullmatch(length or ""):
        yield _bad_value("--max-model-len", length, "tokens such as 4096, 8k or auto", "4096")
    for flag in _JSON:
        text = args.value(flag) or ""
        if text.lstrip().startswith("{") and not _is_json(text):
            yield _bad_value(flag, text, "JSON (blanks in it split it)", '{"key":1}')


def flags(facts: LaunchFacts, /) -> Iterator[Finding]:
    """Every flag must be one that this very server lists in its help."""
    known, args = facts.arguments, facts.target.serve_args
    if known is None or not known.flags or not args.argv:
        yield from _unlikely(facts)
        return
    version = f"vLLM {known.version}" if known.version else "this vLLM"
    try:
        spare = check(args.argv, known.flags, spare_word=known.spare_word)
        if spare:
            yield Finding(
                id="arguments.stray-word",
                severity=Severity.WARNING,
                fault=Fault.USER,
                seen=f"{version} takes {spare!r} for no flag's value and ignores it",
                cure=f"drop --vllm-serve-arg={spare}",
            )
    except ServeArgumentError as error:
        if any(finding.seen.partition(":")[0] in str(error) for finding in values(facts)):
            return  # told already, by the rule that needs no help
        yield Finding(
            id="arguments.unknown-flag" if error.unknown else "arguments.bad-value",
            severity=Severity.WARNING if args.has("--config") else Severity.FATAL,
            fault=Fault.USER,
            seen=f"{version} will refuse its arguments: {error}",
            cure=_instead(error.unknown, known),
            ref="H24",
        )


def _unlikely(facts: LaunchFacts) -> Iterator[Finding]:
    """Yield values that no vLLM up to 0.32 takes; a newer one may, and only its help is sure."""
    for flag, taken in _TYPES.items():
        value = facts.target.serve_args.value(flag)
        if value is not None and not taken.fullmatch(value):
            yield Finding(
                id="arguments.bad-value",
                severity=Severity.WARNING,
                fault=Fault.USER,
                seen=f"{flag}: no vLLM up to 0.32 takes {value!r}, and the server's own help is "
                "not at hand",
                cure=f"correct --vllm-serve-arg={flag}=...",
                ref="H24",
            )


def help_read(facts: LaunchFacts, /) -> Iterator[Finding]:
    """Flags that could not be compared are worth a line."""
    if facts.arguments is not None and facts.arguments.problem:
        yield Finding(
            id="arguments.not-compared",
            severity=Severity.NOTE,
            fault=Fault.IMAGE,
            seen=f"the flags were not compared with the server's own: {facts.arguments.problem}",
        )


def config_file(facts: LaunchFacts, /) -> Iterator[Finding]:
    """A file of arguments is read by the server alone."""
    args = facts.target.serve_args
    if not args.has("--config"):
        return
    inside = "; it must be a path inside the container" if facts.target.backend == "docker" else ""
    yield Finding(
        id="arguments.config-file",
        severity=Severity.NOTE,
        fault=Fault.USER,
        seen=f"arguments in {args.value('--config')} are not looked at before the start{inside}",
        cure="--vllm-serve-arg=... for each",
    )


def address(facts: LaunchFacts, /) -> Iterator[Finding]:
    """The server must listen where it is asked."""
    args = facts.target.serve_args
    host = args.value("--host")
    docker = facts.target.backend == "docker"
    own_network = facts.container is not None and facts.container.network_mode == "host"
    if docker and host is not None and host not in _EVERYWHERE and not own_network:
        yield Finding(
            id="arguments.host",
            severity=Severity.FATAL if _is_loopback(host) else Severity.WARNING,
            fault=Fault.USER,
            seen=f"--host {host} lets the server listen where the container's published port does "
            "not lead",
            cure="drop --host: the port is published on 127.0.0.1 of the host only",
        )
    if args.has("--uds"):
        yield Finding(
            id="arguments.uds",
            severity=Severity.FATAL,
            fault=Fault.USER,
            seen="--uds makes the server listen on a socket file instead of a port",
            cure="drop --uds",
        )
    if args.has("--model"):
        yield Finding(
            id="arguments.model",
            severity=Severity.FATAL,
            fault=Fault.USER,
            seen=f"--model {args.value('--model')} names a second model beside "
            f"{facts.target.model}",
            cure="name the model with --vllm-model alone",
        )


def _bad_value(flag: str, value: str | None, wanted: str, example: str) -> Finding:
    said = "has no value" if value is None else f"{value!r} is not {wanted}"
    return Finding(
        id="arguments.bad-value",
        severity=Severity.FATAL,
        fault=Fault.USER,
        seen=f"{flag}: {said}",
        cure=f"--vllm-serve-arg='{flag}={example}'",
        ref="H24",
    )


def _instead(unknown: tuple[str, ...], known: HelpFacts) -> str:
    """Say what was meant: the closest flag, with the value that was given."""
    names = [name for flag in known.flags for name in flag.names]
    for word in unknown:
        key, equals, value = word.partition("=")
        close = get_close_matches(key.replace("_", "-"), names, n=1, cutoff=0.6)
        if close:
            return f"--vllm-serve-arg={close[0]}{equals}{value} instead of {word}"
    if unknown:
        return f"drop --vllm-serve-arg={unknown[0]}; --help=all of this server lists all flags"
    return "correct --vllm-serve-arg; --help=all of this server says what each flag takes"


def _is_share(text: str | None) -> bool:
    try:
        return 0 < float(text or "") <= 1
    except ValueError:
        return False


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


RULES = (values, flags, help_read, config_file, address)
IDS = (
    "arguments.bad-value",
    "arguments.unknown-flag",
    "arguments.stray-word",
    "arguments.not-compared",
    "arguments.config-file",
    "arguments.host",
    "arguments.uds",
    "arguments.model",
)
