"""`pytest-vllm load`: loads a server and says how fast it is, and how exact that is."""

from __future__ import annotations

import math
import os
import shutil
import sys
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from pytest_vllm.adapters.load.connection import connect
from pytest_vllm.adapters.load.level import run_level
from pytest_vllm.adapters.load.prompt_file import read_rows
from pytest_vllm.adapters.load.saving import (
    document,
    free_file,
    free_folder,
    write_columns,
    write_json,
)
from pytest_vllm.adapters.load.workloads import load_workload, workload_names
from pytest_vllm.adapters.verb_end import ends_clearly
from pytest_vllm.domain.command_words import WordParser
from pytest_vllm.domain.errors import TargetError, VllmError
from pytest_vllm.domain.load.orders import (
    hold,
    level_name,
    read_slo,
    read_traffic_levels,
    traffic_words,
)
from pytest_vllm.domain.load.plan import Limits
from pytest_vllm.domain.load.traffic import Pattern, check
from pytest_vllm.domain.objective import Held
from pytest_vllm.domain.text import one_line
from pytest_vllm.reports.load import measurement_text, sweep_text
from pytest_vllm.reports.load_words import paragraph
from pytest_vllm.reports.progress import LoadView

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from pytest_vllm.adapters.load.level import Level
    from pytest_vllm.domain.load.traffic import Traffic
    from pytest_vllm.domain.load.workload import Workload
    from pytest_vllm.domain.objective import Finding

_FAILED, _CANNOT_TELL, _INTERRUPTED = 1, 75, 130
_FAILURES = 3
_WIDTH = 80
_SEEN = 160
_TEXT_WIDTH = 110
_DESCRIPTION = """\
Loads a server that runs, and prints throughput and latencies with their intervals, beside the error
of this client itself. Percentiles that so few requests cannot support are not printed.
"""
_EPILOG = f"""\
workloads: {", ".join(workload_names()[:5])},
{", ".join(workload_names()[5:])}, or a file: .toml (docs/load.md
says how), .jsonl or .json with prompts (ShareGPT, plain, Mooncake's traces).

  pytest-vllm load --url http://127.0.0.1:8000 --workload chat --concurrency 16
  pytest-vllm load --url http://127.0.0.1:8000 --workload balanced --sweep 1,4,16,64 --json out.json
  pytest-vllm load --url http://127.0.0.1:8000 --rate 4 --slo ttft=500ms,tpot=50ms,goodput=95%
  pytest-vllm load --url http://127.0.0.1:8000 --workload trace.jsonl --pattern trace --speed 2

exit code: 0; 1 requests failed or an objective was missed; 4 the command is wrong; 75 cannot tell:
the client was the limit, the sample is too small for an objective, or nobody answers; 130 Ctrl-C.
"""


@ends_clearly
def main(words: Sequence[str]) -> int:
    """Run the verb.

    Args:
        words: What follows it on the command line.

    Returns:
        The exit code.
    """
    try:
        return _load(_parser().parse_args(list(words)))
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)  # noqa: T201 - for the terminal
        return _INTERRUPTED


def _parser() -> WordParser:
    parser = WordParser(
        "load",
        usage="pytest-vllm load --url URL [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("--url", required=True, help="root of the server, such as http://127.0.0.1:8000")
    add("--model", help="model that requests name (default: the first that is served)")
    add("--api-key-env", metavar="NAME", help="variable that holds the API key")
    add("--workload", default="short", metavar="NAME", help="see below (default: short)")
    add = parser.add_argument_group("traffic").add_argument
    add(
        "--concurrency",
        type=int,
        metavar="N",
        help="requests at a time, each followed by the next (default: 8); with --rate or a trace, "
        "the most in flight",
    )
    add("--rate", type=float, metavar="R", help="requests a second, whatever the server does")
    add(
        "--pattern",
        metavar="NAME",
        help=f"{', '.join(Pattern)} (default: closed, with --rate poisson)",
    )
    add("--burstiness", type=float, metavar="K", help="shape of gamma; below 1 comes in bursts")
    add("--normalized", action="store_true", help="stretch arrivals to requests / rate seconds")
    add("--speed", type=float, metavar="X", help="times as fast a trace is sent as recorded")
    add("--requests", type=int, metavar="N", help="how many are measured (default: ten a place)")
    add("--warm-up", type=int, metavar="N", help="requests before them (default: one a place)")
    add("--ramp", type=float, metavar="S", help="seconds over which the load rises")
    add("--sweep", metavar="LIST", help="levels: 1,2,4,8 at a time; with an open --pattern, rates")
    add("--seed", type=int, default=0, help="root of all that is random (default: 0)")
    add = parser.add_argument_group("limits and output").add_argument
    add(
        "--slo",
        metavar="LIST",
        help="what a good request keeps: ttft=200ms,tpot=20ms,e2el=5s,stall=500ms; goodput=95%% of "
        "them must (default 99%%); and percentiles: ttft-p99=1s",
    )
    add(
        "--timeout",
        type=float,
        metavar="S",
        help="seconds for a request and its wait in the queue (default: 600); after its first "
        "token, 120 s without a byte end it too",
    )
    add("--stop-after", type=float, metavar="S", help="seconds for a level (default: 3600)")
    add("--json", metavar="FILE", help="write all figures to a new file")
    add("--save", metavar="FOLDER", help="write every request and event to CSV in a new folder")
    add("--no-calibrate", action="store_true", help="do not measure this client first")
    return parser


def _load(asked: argparse.Namespace) -> int:
    """Do it all.

    Raises:
        VllmError: Something that was named is wrong, or this host or the server is not able to.
    """
    objectives = read_slo(asked.slo)
    workload = load_workload(asked.workload)
    levels = [_sized(level, workload) for level in read_traffic_levels(vars(asked))]
    limits = _limits(asked)
    file = free_file("--json", asked.json) if asked.json is not None else None
    server = connect(asked.url, model=asked.model, api_key=_api_key(asked.api_key_env))
    folder = free_folder("--save", asked.save) if asked.save is not None else None
    found: list[tuple[str, Level]] = []
    findings: dict[str, tuple[Finding, ...]] = {}
    stopped = 0
    for traffic in levels:
        name = level_name(traffic)
        try:
            with _view(traffic) as view:
                level = run_level(
                    server,
                    workload,
                    traffic,
                    limits=limits,
                    slo=objectives.request,
                    calibrates=not asked.no_calibrate,
                    progress=view.update,
                    tell=partial(_tell, traffic),
                )
        except (KeyboardInterrupt, VllmError) as error:
            stopped = error.exit_code if isinstance(error, VllmError) else _INTERRUPTED
            why = f"ERROR: {error}" if isinstance(error, VllmError) else "stopped by Ctrl-C"
            done = f"{len(found)} of {len(levels)} levels were measured"
            print(f"{why}\n{done}", file=sys.stderr)  # noqa: T201 - for the terminal
            break
        found.append((name, level))
        findings[name] = hold(objectives, level.measurement)
        _print_level(f"{workload.name}: {traffic_words(traffic)}", level, findings[name])
        if folder is not None:
            write_columns(folder, f"level-{name}", level)
    if len(levels) > 1 and found:
        _print_sweep(found)
    if file is not None and found:
        write_json(file, document(found, findings=findings))
    return stopped or _exit_code(found, findings)


def _sized(traffic: Traffic, workload: Workload) -> Traffic:
    """Have a trace without a number of requests send all that it has."""
    if traffic.requests or traffic.pattern is not Pattern.TRACE:
        return traffic
    if not workload.file:
        raise TargetError(
            f"--pattern trace: workload {workload.name} is no trace: it has no times",
            advice="name a JSONL file with a timestamp in each row by --workload",
        )
    rows = sum(1 for _ in read_rows(workload.file))
    return check(replace(traffic, requests=max(1, rows - traffic.warm_up)))


def _limits(asked: argparse.Namespace) -> Limits:
    usual = Limits()
    for option, seconds in (("--timeout", asked.timeout), ("--stop-after", asked.stop_after)):
        if seconds is not None and not 0 < seconds < math.inf:
            raise TargetError(f"{option}: {seconds:g} seconds cannot be", advice="use more than 0")
    request_s = usual.request_s if asked.timeout is None else asked.timeout
    run_s = usual.run_s if asked.stop_after is None else asked.stop_after
    return replace(usual, request_s=request_s, run_s=run_s)


def _api_key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise TargetError(
            f"--api-key-env: variable {variable} is not set", advice=f"export {variable}"
        )
    return key


def _view(traffic: Traffic) -> LoadView:
    live = sys.stderr.isatty()
    return LoadView(
        sys.stderr, live=live, color="NO_COLOR" not in os.environ, title=traffic_words(traffic)
    )


def _tell(traffic: Traffic, text: str) -> None:
    print(f"vllm: {traffic_words(traffic)}: {text}", file=sys.stderr, flush=True)  # noqa: T201


def _print_level(title: str, level: Level, findings: Sequence[Finding]) -> None:
    width, description = _width(), level.plan.description
    lines = [
        measurement_text(level.measurement, title=title, calibration=level.calibration, width=width)
    ]
    told = [("Lengths", str(description["lengths"]))]
    notes = description["notes"]
    told += [("Note", str(note)) for note in notes] if isinstance(notes, list) else []
    shown = sorted(level.columns.failures.items())[:_FAILURES]
    told += [("Failed", f"request {number}: {one_line(text, _SEEN)}") for number, text in shown]
    told += [("SLO", f"{finding.held}: {finding.text}") for finding in findings]
    told += [("", f"INCONCLUSIVE: the client was the limit: {why}") for why in level.limited_by]
    for label, text in told:
        lines += paragraph(label, text, min(width, _TEXT_WIDTH))
    print("\n".join(lines), end="\n\n", flush=True)  # noqa: T201 - the output


def _print_sweep(found: Sequence[tuple[str, Level]]) -> None:
    measured = [(name, level.measurement) for name, level in found]
    known = {name: level.calibration for name, level in found if level.calibration is not None}
    print(sweep_text(measured, calibrations=known, width=_width()))  # noqa: T201 - the output


def _width() -> int:
    return shutil.get_terminal_size((_WIDTH, 24)).columns if sys.stdout.isatty() else _WIDTH


def _exit_code(
    found: Sequence[tuple[str, Level]], findings: Mapping[str, Sequence[Finding]]
) -> int:
    """Say what became of it: failures first, then what nobody can tell.

    A sweep goes on until objectives are missed, so one level that keeps them is enough there.
    """
    if any(sum(level.measurement.failures.values()) for _, level in found):
        return _FAILED
    if any(level.limited_by for _, level in found):
        return _CANNOT_TELL
    per_level = [{finding.held for finding in some} for some in findings.values()]
    if any(held <= {Held.KEPT} for held in per_level):
        return 0
    return _FAILED if all(Held.MISSED in held for held in per_level) else _CANNOT_TELL
