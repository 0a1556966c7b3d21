"""A report of 20,000 checks and a run of more than 10 MB opens like any other.

The 2 s are counted in the processor time of the browser's main thread, which grows little when the
machine is busy with something else, and are those of the machine that `CALIBRATION_S` is of: where
work of the same kind takes longer, the page may, too. `python -m benchmarks.report_page` shows
seconds of a clock.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_vllm.domain.record import to_json
from pytest_vllm.reports.html import report_html
from tests.unit.large import CHECKS, large_record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, CDPSession, Page

MOST_S = 2.0
TRIES = 3
SEARCH = """(words) => new Promise((done) => {
  const [field, status] = ["input[type=search]", "form.filters > p"].map((name) =>
    document.querySelector(name));
  const drawn = () => requestAnimationFrame(() => setTimeout(() => done(status.textContent)));
  new MutationObserver(drawn).observe(status, { childList: true });
  field.value = words;
  field.dispatchEvent(new Event("input", { bubbles: true }));
})"""
"""Search as a reader does, and return what is told once it is drawn."""
CALIBRATION = """() => {
  const table = document.createElement("table");
  for (let number = 0; number < 10000; number++) {
    const row = table.insertRow();
    for (const text of ["pass", `point${number}`, "some words of a requirement"]) {
      row.insertCell().textContent = text;
    }
  }
  document.body.append(table);
  const height = table.getBoundingClientRect().height;
  table.remove();
  return height;
}"""
"""Work like that of a large page: rows are made and laid out."""
CALIBRATION_S = 0.3
"""What it takes, at best, on a core of an AMD EPYC (Genoa, 2.6 GHz); there the page takes 0.6 s."""


def busy_s(session: CDPSession) -> float:
    """Return the processor time of the page's main thread so far."""
    told = session.send("Performance.getMetrics")["metrics"]
    return float(next(item["value"] for item in told if item["name"] == "TaskDuration"))


@contextmanager
def watched_page(browser: Browser) -> Iterator[tuple[Page, CDPSession]]:
    """Open an empty page of a phone's size whose processor time is counted."""
    context = browser.new_context(viewport={"width": 390, "height": 900})
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    yield page, session
    context.close()


def slower(browser: Browser) -> float:
    """Return how many times as long as meant this machine takes now, at least 1."""
    took = []
    with watched_page(browser) as (page, session):
        for _ in range(TRIES):
            before = busy_s(session)
            assert page.evaluate(CALIBRATION) > 0
            took.append(busy_s(session) - before)
    return max(1.0, min(took) / CALIBRATION_S)


def cost(browser: Browser, file: Path) -> tuple[float, float]:
    """Return what it takes to open a page, and the first search and the widest one together."""
    with watched_page(browser) as (page, session):
        page.goto(file.resolve().as_uri())
        assert page.locator("form.filters > p").text_content() == f"{CHECKS} checks"
        opened = busy_s(session)
        assert page.evaluate(SEARCH, "point19900") == f"1 of {CHECKS} checks"
        assert page.evaluate(SEARCH, "holds") == f"{CHECKS} of {CHECKS} checks"
        return opened, busy_s(session) - opened


def test_a_large_run_opens_in_two_seconds(tmp_path: Path, browser: Browser) -> None:
    """Opened and ready to be searched, and then searched, in one try of three."""
    large = large_record()
    assert len(to_json(large)) > 10_000_000
    file = tmp_path / "report.html"
    file.write_text(report_html(large), encoding="utf-8")
    seen: list[tuple[float, float]] = []
    while len(seen) < TRIES:
        seen.append(cost(browser, file))
        assert min(seen[-1]) > 0
        if max(seen[-1]) < MOST_S:
            return
    opened, searched = (min(of_tries) for of_tries in zip(*seen, strict=True))
    assert max(opened, searched) < MOST_S * slower(browser), seen
