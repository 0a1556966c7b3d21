"""A real Chromium for pages that we make, and axe-core, which finds what keeps people out.

`./dev test` installs and names both. A part that is missing fails the test; it is never skipped.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from playwright.sync_api import expect, sync_playwright

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, Page

Theme = Literal["light", "dark"]

WATCH_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (event) =>
    window.reportViolation(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
"""
expect.set_options(timeout=30_000)  # as all else that waits for the browser: machines are busy
PHONE_PX, DESKTOP_PX, HEIGHT_PX = 390, 1280, 900


@dataclass(slots=True, kw_only=True)
class Opened:
    """A page in the browser, and all that happened since before its first byte."""

    page: Page
    file: Path
    console: list[str] = field(default_factory=list)
    """`type: text` of each message."""
    requests: list[str] = field(default_factory=list)
    """Addresses that anything of the page asked for, the page itself first."""
    errors: list[str] = field(default_factory=list)
    """Exceptions that no script caught."""
    violations: list[str] = field(default_factory=list)
    """What the Content-Security-Policy stopped: directive, address, beginning of the text."""
    dialogs: list[str] = field(default_factory=list)
    """Texts of alert, confirm and prompt, which were dismissed."""

    def settle(self) -> None:
        """Let what the page has begun be told: events arrive a moment after their cause."""
        frame = "new Promise((done) => requestAnimationFrame(() => setTimeout(done)))"
        for _ in range(2):
            self.page.evaluate(frame)

    @property
    def console_errors(self) -> list[str]:
        """Messages that a browser shows in red, warnings too."""
        return [text for text in self.console if text.startswith(("error:", "warning:"))]

    @property
    def outside(self) -> list[str]:
        """Requests for anything but the file itself and what stands in it (`data:`, `blob:`)."""
        own = self.file.resolve().as_uri()
        return [
            address
            for address in self.requests
            if address.partition("#")[0] != own and not address.startswith(("data:", "blob:"))
        ]

    @property
    def scroll_overflow_px(self) -> int:
        """How far the page can be scrolled sideways; above 0 a phone's reader loses lines."""
        root = "document.documentElement"
        return int(self.page.evaluate(f"{root}.scrollWidth - {root}.clientWidth"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One rule of axe-core that a page breaks."""

    rule: str
    impact: str
    """minor, moderate, serious or critical."""
    help: str
    targets: tuple[str, ...]
    """Selectors of the elements, with what is wrong with each."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium without a window.

    One for each module, not for the session: playwright leaves an event loop running in this
    thread as long as it lives, and a later test could not run one of its own.
    """
    executable = _named("PYTEST_VLLM_TEST_CHROMIUM")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable)
        yield chromium
        chromium.close()


@pytest.fixture
def page_of(browser: Browser) -> Iterator[Callable[..., Opened]]:
    """Open an HTML file: `page_of(file, width=390, theme="dark")`; closed with the test.

    Each page has a context of its own, without a network: what a page asks for is recorded
    (`Opened.outside`) and never leaves.
    """
    contexts = []

    def open_file(
        file: Path,
        width: int = DESKTOP_PX,
        theme: Theme = "light",
        *,
        height: int = HEIGHT_PX,
        fragment: str = "",
    ) -> Opened:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=theme, offline=True
        )
        contexts.append(context)
        opened = Opened(page=context.new_page(), file=file)
        context.expose_binding("reportViolation", lambda _, text: opened.violations.append(text))
        context.add_init_script(WATCH_VIOLATIONS)
        page = opened.page
        page.on("console", lambda said: opened.console.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: opened.errors.append(str(error)))
        context.on("request", lambda request: opened.requests.append(request.url))

        def note(dialog: Any) -> None:
            opened.dialogs.append(dialog.message)
            dialog.dismiss()

        page.on("dialog", note)
        page.goto(file.resolve().as_uri() + fragment)
        opened.settle()
        return opened

    yield open_file
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def axe() -> Callable[..., list[Finding]]:
    """Ask axe-core about a page: `axe(opened.page)`; the worst findings first."""
    source = Path(_named("PYTEST_VLLM_TEST_AXE")).read_text()
    order = ("critical", "serious", "moderate", "minor")

    def look(page: Page, within: str = "html") -> list[Finding]:
        page.evaluate(source)  # through the debugger: the page's policy allows no script of ours
        words = {"resultTypes": ["violations"], "elementRef": False}
        result = page.evaluate("([within, words]) => axe.run(within, words)", [within, words])
        found = [
            Finding(
                rule=entry["id"],
                impact=entry["impact"] or "minor",
                help=entry["help"],
                targets=tuple(
                    f"{node['target']}: {node.get('failureSummary', '')}" for node in entry["nodes"]
                ),
            )
            for entry in result["violations"]
        ]
        return sorted(found, key=lambda finding: order.index(finding.impact))

    return look


def _named(variable: str) -> str:
    value = os.environ.get(variable, "")
    if not value:
        pytest.fail(
            f"{variable} is not set; ./dev test makes and names it (./dev provision browser prints "
            "all of them)"
        )
    return value
