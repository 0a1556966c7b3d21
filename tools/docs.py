"""Write the generated documents: `python -m tools.docs [--check]`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_vllm.plugin.marks import catalogue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.domain.checks import Check

ROOT = Path(__file__).parent.parent


def render_checks(checks: Sequence[Check]) -> str:
    """Return `docs/checks.md`: every check by suite, in file order."""
    lines = [
        "# The checks",
        "",
        "Generated from the suites by `./dev docs`; a test keeps it fresh. `ref` is the row of the",
        "catalogue of black-box checks that the check comes from.",
        "",
        f"{len(checks)} checks.",
    ]
    for suite in dict.fromkeys(check.suite for check in checks):
        lines += ["", f"## {suite}", "", "| check | level | layer | needs | ref | requirement |"]
        lines.append("|---|---|---|---|---|---|")
        lines += [_row(check) for check in checks if check.suite == suite]
    return "\n".join(lines) + "\n"


def documents() -> dict[Path, str]:
    """Return every generated document by path."""
    return {ROOT / "docs" / "checks.md": render_checks(catalogue(ROOT / "suites"))}


def main(argv: Sequence[str]) -> int:
    """Write the documents, or with `--check` say which are stale."""
    stale = [
        (path, text)
        for path, text in documents().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for path, text in stale:
        if "--check" in argv:
            print(f"stale: {path.relative_to(ROOT)}; run ./dev docs")
        else:
            path.write_text(text, encoding="utf-8")
            print(f"written: {path.relative_to(ROOT)}")
    return int(bool(stale) and "--check" in argv)


def _row(check: Check) -> str:
    cells = (check.id, check.level, check.layer, " ".join(check.needs), check.ref)
    text = " | ".join(cell.replace("|", "\\|") for cell in cells)
    return f"| {text} | {check.requirement.replace('|', chr(92) + '|')} |"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
