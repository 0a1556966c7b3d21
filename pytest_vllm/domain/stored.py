"""Holds the loads of a run against those of an earlier one: the weak form, out of two records."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.comparable import Conditions, obstacles
from pytest_vllm.domain.gated import STORED_TOLERANCE, flatten, rules_for
from pytest_vllm.domain.metric_change import Form, Judgement
from pytest_vllm.domain.regression import judge_stored
from pytest_vllm.domain.target import looks_like_path
from pytest_vllm.domain.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_vllm.domain.record import Material, RunRecord
    from pytest_vllm.domain.server import ServerInfo
    from pytest_vllm.domain.settings import Setting

GPUS = "GPUs"
_ARGUMENTS = "serve-arg"
_REVISION = "model revision"
_AT_COMMIT = re.compile(r"(.+)@([0-9a-f]{40})")
_COUNT = re.compile(r"\b[0-9]+ ")
_LONGEST_WAYS = 100
_FIRST_RUN = (
    "no baseline was given, so nothing was compared: this run can be one, "
    "with --vllm-baseline={run_id}"
)
Levels = dict[str, dict[str, Any]]


def compare_performance(  # noqa: PLR0913 - what a comparison hangs on
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    *,
    facts: tuple[Mapping[str, str], Mapping[str, str]] = ({}, {}),
    allowed: Mapping[str, float] | None = None,
    names: tuple[str, str] = ("the baseline", "this run"),
    force: bool = False,
) -> Judgement | None:
    """Judge the loads of two runs, level by level.

    Args:
        before: `RunRecord.performance` of the earlier run.
        after: The same of this one.
        facts: What else must be the same on both sides, see `facts_of`.
        allowed: Allowed change by metric, as a share (`[slo.change]` of a profile); less than
            `STORED_TOLERANCE` is not held, and the change says so.
        names: What a reader calls the two.
        force: Whether they are compared in spite of `overruled`; whoever forces it must say so
            beside every figure, for the judgement does not.

    Returns:
        The judgement, with its obstacles if the two cannot be compared; `None` when neither has
        a load.
    """
    base, candidate = _levels(before), _levels(after)
    if not base and not candidate:
        return None
    reasons = _nothing_to_compare(base, candidate, names)
    if not reasons and not force:
        reasons = _obstacles(base, candidate, facts, names)
    if reasons:
        return Judgement(form=Form.STORED, obstacles=tuple(dict.fromkeys(reasons)))
    runs = figures_of(before, after)
    rules = rules_for(
        [*runs[0], *runs[1]],
        allowed=allowed,
        open_loop=any(level.get("open_loop") for level in base.values()),
        at_least=STORED_TOLERANCE,
    )
    return judge_stored(*runs, rules)


def overruled(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    *,
    facts: tuple[Mapping[str, str], Mapping[str, str]] = ({}, {}),
    names: tuple[str, str] = ("the baseline", "this run"),
) -> tuple[str, ...]:
    """Return the obstacles that `compare_performance` overrules when it is forced."""
    base, candidate = _levels(before), _levels(after)
    if _nothing_to_compare(base, candidate, names):
        return ()
    return tuple(dict.fromkeys(_obstacles(base, candidate, facts, names)))


def is_compared(level: Mapping[str, Any]) -> bool:
    """Tell whether runs are compared by a level; a sweep may have more, of too few rounds."""
    return level.get("gated") is not False


def figures_of(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Return the figures of the rounds of both sides, under the names of a judgement."""
    base, candidate = _levels(before), _levels(after)
    plain = len({*base, *candidate}) == 1
    return flatten(_figures(base), plain=plain), flatten(_figures(candidate), plain=plain)


def facts_of(  # noqa: PLR0913 - the parts of a record
    *,
    gpus: Mapping[str, Any],
    facts: Mapping[str, Any],
    settings: Iterable[Setting],
    server: ServerInfo | None,
    backend: str = "",
    materials: Iterable[Material] = (),
) -> dict[str, str]:
    """Return what must be the same of two runs, by its name in words, out of parts of a record.

    Args:
        gpus: `RunRecord.gpus`.
        facts: `RunRecord.facts`.
        settings: Its settings.
        server: Its server.
        backend: Its backend; what arguments a server of another has (`attach`), nobody knows.
        materials: What it rests on, the model among it.
    """
    devices = [device for device in gpus.get("gpus") or () if isinstance(device, dict)]
    model = facts.get("model")
    model = model if isinstance(model, dict) else {}
    values = {setting.name: setting.value for setting in settings}
    arguments = _words(values.get(_ARGUMENTS)) or "none"
    return {
        GPUS: _counted(device.get("name") or device.get("gfx") for device in devices),
        "partition of the GPUs": _counted(device.get("partition") for device in devices),
        "driver": ", ".join(sorted({str(device.get("driver") or "") for device in devices})),
        "model": server.launch_model or server.model if server is not None else "",
        **_content(str(model.get("revision") or ""), materials),
        "arguments": "" if backend == "attach" else arguments,
    }


def record_facts(record: RunRecord) -> dict[str, str]:
    """Return `facts_of` a whole record."""
    return facts_of(
        gpus=record.gpus,
        facts=record.facts,
        settings=record.settings,
        server=record.server,
        backend=record.backend,
        materials=record.materials,
    )


def first_run(run_id: str) -> str:
    """Say that a run without a baseline shows nothing of a regression, and can become one."""
    return _FIRST_RUN.format(run_id=run_id)


def _content(revision: str, materials: Iterable[Material]) -> dict[str, str]:
    """Return what tells one content of a model from another: a commit of the Hub, or a digest.

    How the files were read is part of the digest's name, so that digests which were made in
    different ways are not held against each other, nor a digest against a commit.

    Args:
        revision: The revision that was asked for or found before the start.
        materials: What the run rests on; one without a digest was not seen.
    """
    seen = next((item for item in materials if item.kind == "model" and item.sha256), None)
    if seen is None:
        return {_REVISION: revision}
    snapshot = _AT_COMMIT.fullmatch(seen.name)
    if snapshot is not None and not looks_like_path(snapshot[1]):
        return {_REVISION: snapshot[2]}
    ways = one_line(_COUNT.sub("", seen.of.partition(": ")[2]), _LONGEST_WAYS)
    digest = {f"model files ({ways})" if ways else "model files": seen.sha256}
    return {_REVISION: revision, **digest} if revision else digest


def _levels(performance: Mapping[str, Any]) -> Levels:
    """Return the levels that are to be compared, by name."""
    levels = performance.get("levels") or ()
    return {
        str(level.get("name") or place): level
        for place, level in enumerate(levels)
        if isinstance(level, dict) and is_compared(level)
    }


def _figures(levels: Levels) -> dict[str, Sequence[Mapping[str, float]]]:
    return {
        name: [run.get("figures") or {} for run in _rounds(level)] for name, level in levels.items()
    }


def _rounds(level: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return level.get("rounds") or ()


def _nothing_to_compare(base: Levels, candidate: Levels, names: tuple[str, str]) -> list[str]:
    for side, name in zip((base, candidate), names, strict=True):
        if not side:
            return [f"{name} has no load in it: it needs the suite performance"]
    if not base.keys() & candidate.keys():
        levels = f"{', '.join(base)} of {names[0]}, {', '.join(candidate)} of {names[1]}"
        return [f"no level of load in common: {levels}"]
    return []


def _obstacles(
    base: Levels,
    candidate: Levels,
    facts: tuple[Mapping[str, str], Mapping[str, str]],
    names: tuple[str, str],
) -> list[str]:
    common = [name for name in base if name in candidate]
    conditions = [Conditions(facts=side) for side in facts]
    found = [*_other_kind(facts, names), *obstacles(*conditions, names=names)]
    for name in common:
        sides = _conditions(base[name]), _conditions(candidate[name])
        several = f"level {name}: " if len(common) > 1 else ""
        found += [several + reason for reason in obstacles(*sides, names=names)]
    return found


def _other_kind(
    facts: tuple[Mapping[str, str], Mapping[str, str]], names: tuple[str, str]
) -> list[str]:
    """Name GPUs that only one side has, or knows: it may have run on the CPU."""
    told = [side.get(GPUS) for side in facts]
    if None in told or bool(told[0]) is bool(told[1]):
        return []
    said = [f"{text or 'none known'} of {name}" for text, name in zip(told, names, strict=True)]
    return [f"other {GPUS}: {', '.join(said)}"]


def _conditions(level: Mapping[str, Any]) -> Conditions:
    rounds = _rounds(level)
    given = level.get("conditions") or {}
    shifted = max(rounds, key=lambda run: abs(float(run.get("clock_shift_ns") or 0)), default={})
    return Conditions(
        facts={str(name): str(value) for name, value in given.items()},
        requests=_total(rounds, "requests"),
        failed=_total(rounds, "failed"),
        output_tokens=_total(rounds, "output_tokens"),
        limits=tuple(
            dict.fromkeys(str(limit) for run in rounds for limit in run.get("limits") or ())
        ),
        clock_shift_s=float(shifted.get("clock_shift_ns") or 0) / 1e9,
        seconds=float(shifted.get("seconds") or 0),
    )


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value or "")


def _total(rounds: Sequence[Mapping[str, Any]], name: str) -> int:
    return sum(int(run.get(name) or 0) for run in rounds)


def _counted(names: Iterable[object]) -> str:
    """Return `8x AMD Instinct MI300X`; empty when no device has such a name."""
    given = sorted(str(name) for name in names if name)
    return ", ".join(f"{given.count(name)}x {name}" for name in dict.fromkeys(given))
