"""Draws the pictures of docs/report.md.

`PYTEST_VLLM_TEST_CHROMIUM=FILE python -m tools.pictures`
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from pytest_vllm.domain.record import from_json
from pytest_vllm.reports.html import report_html

_HERE = Path(__file__).parents[1]
_RECORD = _HERE / "tests" / "data" / "pages" / "everything.json"
_OUT = _HERE / "docs" / "images"
_PICTURES = (
    ("report-desktop", 1280, 900, "light", ""),
    ("report-load", 1280, 900, "dark", "#load"),
    ("report-phone", 390, 844, "light", ""),
)


def main() -> int:
    """Draw them all."""
    _OUT.mkdir(exist_ok=True)
    text = report_html(from_json(_RECORD.read_text("utf-8"), where=_RECORD.name))
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        page_file = Path(folder) / "report.html"
        page_file.write_text(text, encoding="utf-8")
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("PYTEST_VLLM_TEST_CHROMIUM"), args=["--no-sandbox"]
        )
        for name, width, height, theme, place in _PICTURES:
            page = browser.new_page(
                viewport={"width": width, "height": height},
                color_scheme="dark" if theme == "dark" else "light",
            )
            page.goto(page_file.as_uri() + place)
            page.screenshot(path=_OUT / f"{name}.png")
            print(_OUT / f"{name}.png")
            page.close()
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
