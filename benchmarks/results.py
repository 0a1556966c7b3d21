"""The results: one small JSON file for each part, written after every measurement."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")
_ROOT = Path(__file__).parent.parent


class Book:
    """Rows of one part; kept in a file as they come, so that a run can go on where it ended."""

    def __init__(self, path: Path, *, fresh: bool) -> None:
        self._path = path
        self.rows: list[dict[str, Any]] = []
        if path.exists() and not fresh:
            self.rows = read_rows(path)

    def has(self, **key: object) -> bool:
        """Tell whether there is a row with these values."""
        return any(all(row.get(k) == v for k, v in key.items()) for row in self.rows)

    def add(self, row: dict[str, Any]) -> None:
        """Keep one more row."""
        self.rows.append(row)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        rows = ",\n  ".join(json.dumps(row) for row in self.rows)
        head = json.dumps(circumstances(), indent=1)[:-2]
        partial = self._path.with_suffix(".partial")
        partial.write_text(f'{head},\n "rows": [\n  {rows}\n ]\n}}\n', "utf-8")
        partial.replace(self._path)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the measurements of a results file."""
    rows: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))["rows"]
    return rows


def circumstances() -> dict[str, Any]:
    """Return when, where and of what commit the results are."""
    commit = subprocess.run(
        ["git", "-C", _ROOT, "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "schema": 1,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": commit.stdout.strip(),
        "machine": {
            "cores": os.cpu_count(),
            "cpu": _cpu_model(),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
            "kernel": platform.release(),
            "python": platform.python_version(),
        },
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
