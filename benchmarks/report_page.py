"""How long `report.html` of a very large run takes to be made, opened and searched.

`PYTEST_VLLM_TEST_CHROMIUM=FILE python -m benchmarks.report_page [RUN.json ...]`, by default of the
20,000 checks that the tests use too; prints medians of five. Seconds of a clock, so leave the
machine alone meanwhile.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from playwright.sync_api import Browser, sync_playwright

from pytest_vllm.domain.record import RunRecord, from_json, to_json
from pytest_vllm.reports.html import report_html
from tests.browser.test_report_size import SEARCH
from tests.unit.large import large_record

_ROUNDS = 5
_OPENED = """() => new Promise((done) => {
  const [page] = performance.getEntriesByType("navigation");
  new PerformanceObserver((list) => done([list.getEntries()[0].startTime, page.loadEventEnd]))
    .observe({ type: "paint", buffered: true });
})"""


def main(words: list[str]) -> int:
    """Measure each run, and print what came of it."""
    named = [(name, from_json(Path(name).read_text("utf-8"), where=name)) for name in words]
    executable = os.environ.get("PYTEST_VLLM_TEST_CHROMIUM")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        for name, record in named or [("20,000 checks", large_record())]:
            _measure(name, record, Path(folder) / "report.html", browser)
        browser.close()
    return 0


def _measure(name: str, record: RunRecord, file: Path, browser: Browser) -> None:
    report_html(record)  # loads the templates
    took = []
    for _ in range(_ROUNDS):
        begun = time.perf_counter()
        text = report_html(record)
        took.append(time.perf_counter() - begun)
    file.write_text(text, encoding="utf-8")
    print(f"{name}: run.json {len(to_json(record)) / 1e6:.1f} MB, page {len(text) / 1e6:.2f} MB")
    print(f"  made in {median(took):.3f} s")
    for width in (1280, 390):
        rounds = [_open(file, browser, width) for _ in range(_ROUNDS)]
        paint, opened, searched = (median(column) for column in zip(*rounds, strict=True))
        print(
            f"  {width} px wide: first paint {paint:.0f} ms, open and ready to be searched "
            f"{opened:.0f} ms, a search {searched:.0f} ms"
        )


def _open(file: Path, browser: Browser, width: int) -> tuple[float, float, float]:
    """Return milliseconds to the first paint, to the end of loading, and of a search."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(file.as_uri())
    paint, opened = page.evaluate(_OPENED)
    begun = time.perf_counter()
    page.evaluate(SEARCH, "point19900")
    searched = 1000 * (time.perf_counter() - begun)
    page.close()
    return paint, opened, searched


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
