"""The page of the mutants, rendered from what a run measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.real.mutants.catalogue import DISK, FURTHER, HEALTHY, MUTANTS, NAMED, Variant

ROOT = Path(__file__).resolve().parents[3]
TIER0_FLOOR = 24
BOTH_FLOOR = 29

Row = dict[str, Any]


def render(facts: dict[str, str], rows: list[Row]) -> tuple[str, bool]:
    """Return the page, and whether the bounds hold."""
    first = {row["name"]: row for row in reversed(rows)}
    named, further = (_count(group, first) for group in (NAMED, FURTHER))
    healthy = [row for row in rows if row["name"] in {variant.name for variant in HEALTHY}]
    alarms = [row for row in healthy if row["failed"]]
    starts = min(sum(row["name"] == variant.name for row in healthy) for variant in HEALTHY)
    unjudged = [entry.name for entry in HEALTHY + MUTANTS if entry.name not in first]
    met = not unjudged and named[0] >= TIER0_FLOOR and named[1] >= BOTH_FLOOR and not alarms
    judged_s = sum(row["seconds"] for row in rows)
    goal = f"{TIER0_FLOOR}; {BOTH_FLOOR}"
    lines = [
        "# Numerics mutants",
        "",
        "Written by `python -m tools.mutants`, a part of `./dev nightly`: real vLLM serves broken",
        "variants of a small model, and the suites of this plugin judge each. Tier 0 is the suite",
        "`content`, which needs no golden; tier 1 is the suite `golden`, against a golden recorded",
        "from the healthy bf16 model in the first start. Mutants are spared the checks of free",
        "text and, where a quick check of tier 0 has failed, the slow ones; healthy ones are not.",
        "Runs on fp32, fp8 and int8 are told the precision, as a launch tells it: they are held",
        "within the bounds for another precision than the golden's, mutants within strict ones.",
        "",
        f"{facts['date']}: vLLM {facts['vllm']}, torch {facts['torch']}, {facts['model']},",
        f"{facts['cores']} cores of {facts['cpu']}; {len(rows)} runs of the suite in",
        f"{judged_s:.0f} s.",
        "",
        "| | judged | tier 0 | tier 0 or 1 | goal |",
        "|---|---|---|---|---|",
        f"| of the list of 31 | {named[2]} of {len(NAMED)} | {named[0]} | {named[1]} | {goal} |",
        f"| further | {further[2]} of {len(FURTHER)} | {further[0]} | {further[1]} | |",
        "",
        f"False alarms: {len(alarms)} in {len(healthy)} runs on {len(HEALTHY)} healthy variants",
        f"(at least {starts} starts each).",
        "",
        "Weights are exchanged in the running server, by vLLM's own loader. Largest difference",
        f"of a logprob from a server started on a mutant's folder (`{DISK.name}`), in nats:",
        f"{facts.get('disk', 'not measured')}.",
        "",
        "`copy` is the mean logprob (nats a token) of 100 random tokens that come a second time,",
        "`text` and `copy d` are mean absolute differences from the healthy model's logprobs, on",
        "three texts and on that copy; `-` is a number that was missing or not finite.",
        "",
    ]
    for title, group in (
        ("Healthy", HEALTHY),
        ("The list of 31", NAMED),
        ("Further", FURTHER),
    ):
        lines += [f"## {title}", "", *_table(group, rows), ""]
    if unjudged:
        lines += ["## Not judged in this run", "", ", ".join(f"`{name}`" for name in unjudged), ""]
    missed = [entry for entry in MUTANTS if entry.name in first and not first[entry.name]["failed"]]
    if missed:
        lines += ["## Missed", "", *(f"- `{entry.name}`: {entry.what}" for entry in missed), ""]
    return "\n".join(lines).rstrip() + "\n", met


def _count(group: tuple[Variant, ...], first: dict[str, Row]) -> tuple[int, int, int]:
    rows = [first[entry.name] for entry in group if entry.name in first]
    tier0, both = (sum(bool(row[key]) for row in rows) for key in ("tier0", "failed"))
    return tier0, both, len(rows)


def _table(group: tuple[Variant, ...], rows: list[Row]) -> list[str]:
    lines = [
        "| variant | what it is | English | copy | text d | copy d | tier 0 | tier 1 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for entry in group:
        mine = [row for row in rows if row["name"] == entry.name]
        if not mine:
            continue
        shown = " | ".join(
            _number(mine[0][key]) for key in ("english", "copy_second", "text_mad", "copy_mad")
        )
        failed = " | ".join(_failed(mine, tier) for tier in ("tier0", "tier1"))
        lines.append(f"| `{entry.name}` | {entry.what} | {shown} | {failed} |")
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _failed(mine: list[Row], tier: str) -> str:
    names = dict.fromkeys(name.removeprefix("content.") for row in mine for name in row[tier])
    return ", ".join(names) or "passes"
