"""Serve every numerics mutant with real vLLM, judge it by the content suite, write the table.

`python -m tools.mutants` (part of `./dev nightly`) takes PYTEST_VLLM_TEST_PYTHON and
PYTEST_VLLM_TEST_MODEL from the environment and writes docs/mutants.md and its figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.real.mutants.catalogue import DISK, HEALTHY, MUTANTS, VARIANTS, Variant
from tests.real.mutants.figures import Figures, largest_difference, measure
from tests.real.mutants.judging import judge, judge_mutant, record_golden
from tests.real.mutants.serving import serve
from tests.real.mutants.table import ROOT, render

STARTS = 3
DRIFT = "from-disk.txt"


def main(argv: list[str]) -> int:
    """Run what is asked for; return 1 if a bound of the table is broken."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutants", description=__doc__)
    parser.add_argument("--only", help="names of variants, with commas; no table is written")
    parser.add_argument(
        "--starts", type=int, default=STARTS, help="for the healthy; 0 only renders"
    )
    parser.add_argument(
        "--work", type=Path, help="folder for logs, golden, evidence; a run goes on"
    )
    parser.add_argument("--tier0", action="store_true", help="judge without a golden")
    options = parser.parse_args(argv)
    work = options.work or Path(tempfile.mkdtemp(prefix="pytest-vllm-mutants-"))
    work.mkdir(parents=True, exist_ok=True)
    print(f"evidence, golden and logs: {work}", flush=True)
    chosen = [VARIANTS[name] for name in options.only.split(",")] if options.only else None
    if chosen is None and options.starts and not (work / DRIFT).exists():
        (work / DRIFT).write_text(f"{compare_with_disk(work):.4f}")
    rows = run(work, starts=options.starts, chosen=chosen, tier0=options.tier0)
    facts = describe()
    if (work / DRIFT).exists():
        facts["disk"] = (work / DRIFT).read_text()
    (work / "mutants.json").write_text(json.dumps({"facts": facts, "rows": rows}, indent=1))
    page, met = render(facts, rows)
    if chosen is None:
        (ROOT / "docs" / "mutants.md").write_text(page, encoding="utf-8")
    print(page)
    return 0 if met or chosen is not None else 1


def run(
    work: Path, *, starts: int, chosen: list[Variant] | None, tier0: bool
) -> list[dict[str, Any]]:
    """Judge the healthy variants in several starts of a server and the mutants in the first.

    What a run before has left in the folder is kept and not repeated.
    """
    kept = work / "rows.json"
    rows: list[dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else []
    done = {(row["name"], row["start"]) for row in rows}
    golden = None if tier0 else work / "golden.json"
    clean: Figures | None = None
    for start in range(1, starts + 1):
        for dtype in ("bfloat16", "float32"):
            wanted = list(HEALTHY) + (list(MUTANTS) if start == 1 else [])
            variants = [v for v in wanted if v.dtype == dtype]
            if chosen is not None:
                variants = [v for v in chosen if v.dtype == dtype and v in wanted]
            variants = [v for v in variants if (v.name, start) not in done]
            if not variants:
                continue
            log = work / f"server-{start}-{dtype}.log"
            began = time.monotonic()
            with serve(python=_python(), model=_model(), log=log, dtype=dtype) as server:
                print(f"start {start}, {dtype}: {time.monotonic() - began:.0f} s", flush=True)
                clean = clean or measure(server.url, server.model)
                if golden is not None and not golden.exists():
                    record_golden(server.url, golden)
                for variant in variants:
                    seconds = server.become(variant)
                    figures = measure(server.url, server.model)
                    folder = work / f"{start}-{variant.name}"
                    if variant in HEALTHY:
                        judged = judge(server.url, folder, golden=golden, told=variant.told)
                    else:
                        judged = judge_mutant(server.url, folder, golden=golden)
                    rows.append(
                        {
                            "name": variant.name,
                            "start": start,
                            "become_s": seconds,
                            "english": figures.english,
                            "copy_second": figures.copy_second,
                            "text_mad": figures.text_mad(clean),
                            "copy_mad": figures.copy_mad(clean),
                            "tier0": judged.tier0,
                            "tier1": judged.tier1,
                            **asdict(judged),
                        }
                    )
                    print(_line(rows[-1]), flush=True)
                    kept.write_text(json.dumps(rows, indent=1))
    return rows


def compare_with_disk(work: Path) -> float:
    """Return how far a mutant made in place is from a server started on its weights, in nats."""
    folder = work / "from-disk"
    with serve(python=_python(), model=_model(), log=work / "server-in-place.log") as server:
        server.become(DISK)
        in_place = measure(server.url, server.model)
        server.save(DISK, folder)
    try:
        log = work / "server-from-disk.log"
        with serve(python=_python(), model=str(folder), log=log) as server:
            started = measure(server.url, server.model)
    finally:
        shutil.rmtree(folder)
    return largest_difference(in_place, started)


def describe() -> dict[str, str]:
    """Return date, versions and hardware of this run."""
    code = "import vllm, torch; print(vllm.__version__, torch.__version__)"
    asked = [_python(), "-c", code]
    said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()
    words = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "vllm": said[-2],
        "torch": said[-1],
        "model": Path(_model()).name,
        "cpu": words[0].partition(":")[2].strip() if words else platform.processor(),
        "cores": str(os.cpu_count()),
    }


def _line(row: dict[str, Any]) -> str:
    failed = " ".join([*row["tier0"], "|", *row["tier1"]])
    return f"{row['name']:26} {row['decision']:12} {row['seconds']:4.0f} s  {failed}"


def _python() -> str:
    return os.environ["PYTEST_VLLM_TEST_PYTHON"]


def _model() -> str:
    return os.environ["PYTEST_VLLM_TEST_MODEL"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
