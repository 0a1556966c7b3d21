"""What a preflight comes to: ordered findings, what stops a run, and the exit code."""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.decode import decode
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.facts.host import DeviceNode, Gpu, Holder, HostFacts
from pytest_vllm.domain.finding import Diagnosis, Finding, Severity
from pytest_vllm.domain.record import to_plain
from pytest_vllm.domain.text import one_line
from pytest_vllm.domain.verdict import PREFLIGHT, Decision, StartFailure

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_vllm.domain.facts import LaunchFacts
    from pytest_vllm.domain.preflight import Rule

SCHEMA = 1
_CLOSE, _CLOSE_ENOUGH = 3, 0.8
ALL = "all"
"""Value of `--vllm-preflight-ignore` that means every finding."""
_ORDER = tuple(Severity)  # the gravest first
_PARTS = ("host", "engine", "image", "absent", "container", "client", "model", "arguments")
_SHOWN_VARIABLES = ("PYTORCH", "ROCM", "HIP", "HSA", "CUDA", "NVIDIA", "VLLM", "TORCH", "NCCL")
"""First parts of names whose values in an image say how it was built, and hold no secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """A finished preflight.

    Attributes:
        facts: What was looked at.
        findings: What was found, the gravest first.
        took_s: How long it took.
    """

    facts: LaunchFacts
    findings: tuple[Finding, ...]
    took_s: float

    @property
    def stopping(self) -> tuple[Finding, ...]:
        """What ends the run, what the image, the model or the arguments are to blame for first."""
        stopping = [finding for finding in self.findings if finding.stops]
        return tuple(sorted(stopping, key=lambda finding: not finding.fault.rejects))

    @property
    def exit_code(self) -> int:
        """0 when a start can be tried, 1 when it cannot work anywhere, 75 when not here."""
        if not self.stopping:
            return 0
        rejects = self.stopping[0].fault.rejects
        return (Decision.REJECT if rejects else Decision.INCONCLUSIVE).exit_code

    @property
    def failure(self) -> StartFailure | None:
        """Why the server is not started, `None` when it can be tried."""
        if not self.stopping:
            return None
        first, *others = self.stopping
        return StartFailure(
            kind="launch" if first.fault.rejects else "host",
            message=first.seen,
            advice=first.cure,
            phase=PREFLIGHT,
            diagnosis=_diagnosis(first),
            others=tuple(_diagnosis(other) for other in others),
        )


def judge(facts: LaunchFacts, rules: Iterable[Rule], *, ignore: Sequence[str]) -> list[Finding]:
    """Apply all rules.

    Args:
        facts: What is known.
        rules: The rules.
        ignore: IDs or refs of findings that do not stop the run, or `all`.

    Returns:
        The findings, each once, the gravest first, otherwise in the order of the rules.
    """
    found = dict.fromkeys(finding for rule in rules for finding in rule(facts))
    marked = [replace(finding, ignored=_is_ignored(finding, ignore)) for finding in found]
    return sorted(marked, key=lambda finding: _ORDER.index(finding.severity))


def _is_ignored(finding: Finding, ignore: Sequence[str]) -> bool:
    """Tell whether a finding would stop the run but for the user's word."""
    named = ALL in ignore or finding.id in ignore or finding.ref in ignore
    return named and finding.severity is Severity.FATAL


def check_ignored(ignore: Sequence[str], known: Sequence[str]) -> None:
    """Refuse names of findings that do not exist.

    Args:
        ignore: What the user named.
        known: All IDs and refs of findings.

    Raises:
        TargetError: One of them is no finding.
    """
    for name in ignore:
        if name != ALL and name not in known:
            close = get_close_matches(name, known, n=_CLOSE, cutoff=_CLOSE_ENOUGH)
            raise TargetError(
                f"--vllm-preflight-ignore: there is no finding {name!r}"
                + (f"; did you mean {' or '.join(close)}?" if close else ""),
                advice=f"use {ALL}, the ID of a finding such as {known[0]}, or a ref such as H24 "
                "for all findings of that row; docs/preflight.md lists them",
            )


def plain_facts(facts: LaunchFacts) -> dict[str, Any]:
    """Write facts as plain data without secrets: variables of an image by name only.

    Those whose values say how the image was built keep them.
    """
    parts = {name: getattr(facts, name) for name in (*_PARTS, "network")}
    plain = {name: to_plain(part) for name, part in parts.items() if part is not None}
    if "image" in plain:
        variables = plain["image"]["env"]
        plain["image"]["env"] = {
            name: value if name.startswith(_SHOWN_VARIABLES) else ""
            for name, value in variables.items()
        }
    return plain


def read_host(document: object, *, where: str) -> HostFacts:
    """Read the facts of another host out of a record, of `preflight --json`, or of `{"host": ...}`.

    Raises:
        TargetError: It holds none.
    """
    advice = "name a run.json or what `pytest-vllm preflight ... --json` printed on that host"
    facts = document.get("facts", document) if isinstance(document, dict) else None
    host = facts.get("host") if isinstance(facts, dict) else None
    if not isinstance(host, dict):
        raise TargetError(f"--vllm-host-facts: {where} holds no facts of a host", advice=advice)
    names = {kind.__name__: kind for kind in (DeviceNode, Gpu, Holder)}
    try:
        return replace(decode(HostFacts, host, names=names, where="host"), source=where)
    except (ValueError, RecursionError) as error:
        raise TargetError(
            f"--vllm-host-facts: {where} cannot be read: {one_line(str(error))}", advice=advice
        ) from None


def _diagnosis(finding: Finding) -> Diagnosis:
    return Diagnosis(
        id=finding.id,
        ref=finding.ref or None,
        fault=finding.fault,
        cause=finding.seen,
        cure=finding.cure,
        phase=PREFLIGHT,
    )
