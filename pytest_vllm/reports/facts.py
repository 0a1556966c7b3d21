"""What every report says about a run, as plain and printable words."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.check_changes import KINDS, NO_ANSWER, WORSE
from pytest_vllm.domain.checks import CheckResult, Level, Outcome
from pytest_vllm.domain.finding import Fault
from pytest_vllm.domain.plain import items, mappings
from pytest_vllm.domain.shown import without_start
from pytest_vllm.domain.text import one_line
from pytest_vllm.domain.verdict import PREFLIGHT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_vllm.domain.record import Comparison, RunRecord
    from pytest_vllm.domain.settings import Setting
    from pytest_vllm.domain.verdict import StartFailure

_MINUTE = 60
_EXACT_BELOW_S = 100
_DIGEST_SHOWN = 12
_GIB = 2**30
_LONGEST_S = 1e11  # the year 5138, as seconds since 1970
_FEWEST_PHASES = 2
_PHASE_SHARE = 0.08
_ALWAYS_COUNTED = ("broken", "gone", "new", "fixed")
"""Kinds of changes that are also named where there are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteCount:
    """Results of one suite.

    Attributes:
        suite: Name of the suite.
        outcomes: How many results came to each outcome.
    """

    suite: str
    outcomes: Mapping[Outcome, int]

    @property
    def clean(self) -> bool:
        """Whether every check that applies has passed."""
        bad = (Outcome.FAIL, Outcome.ERROR, Outcome.NOT_RUN)
        return not any(self.outcomes.get(outcome) for outcome in bad)


def count_suites(record: RunRecord) -> list[SuiteCount]:
    """Count the results of each suite, in the order in which the suites ran."""
    grouped: dict[str, list[CheckResult]] = {}
    for result in shown_results(record):
        grouped.setdefault(result.check.suite, []).append(result)
    return [sum_up(suite, results) for suite, results in grouped.items()]


def sum_up(suite: str, results: Sequence[CheckResult]) -> SuiteCount:
    """Count some results under one name."""
    return SuiteCount(
        suite=one_line(suite, 60),
        outcomes=Counter(result.outcome for result in results),
    )


def shown_results(record: RunRecord) -> tuple[CheckResult, ...]:
    """Return the results as reports show them.

    A failed start is carried by the first check that asked for the server. It is shown once, as
    the failed start, so that check counts as not run like all others.
    """
    return without_start(record.results, failed_start=record.failure is not None)


def bad_results(record: RunRecord) -> list[CheckResult]:
    """Return what failed or errored, MUST before SHOULD, failures before errors."""
    bad = [r for r in shown_results(record) if r.outcome in (Outcome.FAIL, Outcome.ERROR)]
    return sorted(bad, key=lambda r: (r.check.level is not Level.MUST, r.outcome.rank))


def target_facts(record: RunRecord) -> list[tuple[str, str]]:
    """Name what was accepted: pairs of a label and one line."""
    facts = []
    image = image_name(record)
    if image:
        facts.append(("Image", image))
    facts.append(("Model", _model(record)))
    server = record.server
    told = record.server_facts.version if record.server_facts else ""
    known = server.version if server and server.version else told
    version = f"{one_line(known, 60)} " if known else "version unknown "
    where = f", {one_line(server.url)}" if server else ""
    facts.append(("vLLM", f"{version}(backend {one_line(record.backend, 20)}{where})"))
    if record.launch.get("python"):
        facts.append(("Python", one_line(str(record.launch["python"]))))
    facts.append(("GPUs", gpu_line(record.gpus)))
    return facts


def image_name(record: RunRecord, *, whole_digest: bool = False) -> str:
    """Return `name:tag@sha256:digest` of the image, empty without an image.

    An image that was built here has no digest, only an ID, which is no part of a name.
    """
    text = setting(record, "image")
    if not isinstance(text, str) or not text:
        return ""
    name, _, named = text.partition("@")
    digest = image_digest(record) or named
    if not digest:
        return one_line(name)
    short = digest if whole_digest else digest[: digest.find(":") + 1 + _DIGEST_SHOWN]
    is_id = is_image_id(record)
    return one_line(f"{name} (image ID {short})" if is_id else f"{name}@{short}", 1000)


def image_digest(record: RunRecord) -> str:
    """Return the digest, or the ID, of the image that ran; empty when it is not known."""
    return one_line(_runs(record).rpartition("@")[2], 100)


def is_image_id(record: RunRecord) -> bool:
    """Tell whether `image_digest` is an image ID, which no registry knows."""
    runs = _runs(record)
    return bool(runs) and "@" not in runs


def _runs(record: RunRecord) -> str:
    """Return the content address that ran: `repository@sha256:...` or an ID `sha256:...`."""
    image = record.launch.get("image")
    return str(image.get("runs", "")) if isinstance(image, dict) else ""


def setting(record: RunRecord, name: str) -> object:
    """Return the value of a setting, `None` when it is absent."""
    return next((item.value for item in record.settings if item.name == name), None)


def setting_text(item: Setting) -> str:
    """Show a value on one line; an empty text when there is none."""
    value = item.value
    if value is None or value is False or value == ():
        return ""
    if isinstance(value, tuple):
        return one_line(" ".join(value))
    return f"{value:g}" if isinstance(value, float) else one_line(str(value))


def gpu_line(gpus: Mapping[str, Any]) -> str:
    """Name the GPUs, equal ones together, or why none are known."""
    found = mappings(gpus.get("gpus"))
    if not found:
        return f"none known: {one_line(str(gpus.get('reason') or 'nobody looked'))}"
    kinds = Counter(_gpu_kind(gpu) for gpu in found)
    named = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
    return one_line(f"{named} (by {gpus.get('monitor', '?')})")


def gfx_names(record: RunRecord) -> list[str]:
    """Name the architectures of the GPUs, each once, such as `gfx942`; none when not known."""
    found = mappings(record.gpus.get("gpus"))
    return list(dict.fromkeys(one_line(str(gpu["gfx"]), 40) for gpu in found if gpu.get("gfx")))


def _gpu_kind(gpu: Mapping[str, Any]) -> str:
    name = gpu.get("name") or "AMD GPU"
    gfx = f" {gpu['gfx']}" if gpu.get("gfx") else ""
    total = gpu.get("vram_total_bytes")
    others = len(items(gpu.get("shared_with")))
    part = f" 1/{others + 1} of" if others else ""  # each partition reports the whole memory
    whole = f"{name}{gfx}"
    return f"{whole}{part} {total / _GIB:.1f} GiB" if isinstance(total, int) else whole


def time_line(record: RunRecord) -> str:
    """Say how long the whole run took, the start-up and the checks."""
    parts = []
    if len(record.phases) > 1:
        parts.append(f"start-up {seconds(_start_up_s(record))}")
    if record.checks_s and any(r.outcome is not Outcome.NOT_RUN for r in shown_results(record)):
        parts.append(f"checks {seconds(record.checks_s)}")
    whole = seconds(record.duration_s)
    return f"{whole} ({', '.join(parts)})" if parts else whole


def phase_line(record: RunRecord) -> str:
    """Say how long each phase of the start-up took, short ones together; empty when unknown."""
    known: dict[str, float] = {}
    for phase in record.phases:  # what was interrupted comes twice
        known[phase.name] = known.get(phase.name, 0.0) + (phase.duration_s or 0.0)
    if len(known) < _FEWEST_PHASES:
        return ""
    least = _PHASE_SHARE * sum(known.values())
    shown = [f"{one_line(name, 20)} {took:.1f}" for name, took in known.items() if took >= least]
    rest = sum(took for took in known.values() if took < least)
    return f"{', '.join(shown)}{f', rest {rest:.1f}' if rest else ''} s"


def comparison_line(comparison: Comparison) -> str:
    """Count what changed since the baseline and name what broke."""
    kinds = Counter(change.kind for change in comparison.changes)
    counted = [kind for kind in KINDS if kinds[kind] or kind in _ALWAYS_COUNTED]
    counts = ", ".join(f"{kinds[kind]} {kind}" for kind in counted)
    named_kinds = (*WORSE, NO_ANSWER, "gone")
    worst = [one_line(c.name, 80) for c in comparison.changes if c.kind in named_kinds]
    named = f": {', '.join(worst)}" if worst else ""
    decision = comparison.decision.value
    return f"{counts} since {one_line(comparison.run_id, 60)} ({decision}){named}"


def failure_line(record: RunRecord, failure: StartFailure) -> str:
    """Say in what state the start failed, in one sentence."""
    if failure.kind != "launch":
        found = failure.diagnosis
        who = found.fault if found is not None and found.fault is not None else failure.kind
        blamed = "a passing fault" if who is Fault.FLAKY else f"the {one_line(who, 20)}"
        return f"No server to test; {blamed} is to blame, not the image"
    if failure.phase == PREFLIGHT:
        return "The server was not started: the preflight found what forbids it"
    state = "no exit" if failure.exit_code is None else f"exit code {failure.exit_code}"
    at_s = record.phases[-1].start_s if record.phases else None
    phase = f", last phase: {one_line(failure.phase, 40)}" if failure.phase else ""
    since = f" (reached after {seconds(at_s)})" if phase and at_s else ""
    return f"The server did not start: {state}{phase}{since}"


def seconds(value: float) -> str:
    """Write a duration as a person says it."""
    if not math.isfinite(value):
        return "an unknown time"
    if value < _EXACT_BELOW_S:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), _MINUTE)
    if minutes < _MINUTE:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, _MINUTE)
    return f"{hours} h {minutes} min"


def finite_s(value: float) -> float:
    """Return seconds that any program can read: 0 for what no clock says, such as NaN."""
    return value if 0 <= value < _LONGEST_S else 0.0


def _start_up_s(record: RunRecord) -> float:
    last = record.phases[-1]
    return last.start_s + (last.duration_s or 0.0)


def _model(record: RunRecord) -> str:
    server = record.server
    asked = setting(record, "model")
    name = str(asked) if asked else (server.model if server else "not named")
    revision = setting(record, "revision")
    text = f"{name} at {revision}" if revision else name
    if server is not None and server.model != name:
        text += f", served as {server.model}"
    if server is not None and server.max_model_len is not None:
        text += f", {server.max_model_len} tokens of context"
    return one_line(text)
