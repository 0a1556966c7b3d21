"""The browser that tests look through sees what goes wrong in a page; else they would be blind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.browser.conftest import Finding, Opened

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
SOUND = f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Sound</title>
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<style>:root {{ color-scheme: light dark; }}</style></head>
<body><main><h1>Sound</h1><p>Some text.</p></main></body></html>"""


@pytest.fixture
def opened(tmp_path: Path, page_of: Callable[..., Opened]) -> Callable[..., Opened]:
    def write_and_open(html: str, **words: object) -> Opened:
        file = tmp_path / "page.html"
        file.write_text(html)
        return page_of(file, **words)

    return write_and_open


def test_a_sound_page_gives_no_finding(
    opened: Callable[..., Opened], axe: Callable[..., list[Finding]]
) -> None:
    for theme in ("light", "dark"):
        seen = opened(SOUND, theme=theme)
        assert (seen.console, seen.outside, seen.errors) == ([], [], [])
        assert (seen.violations, seen.dialogs, seen.scroll_overflow_px) == ([], [], 0)
        assert seen.requests == [seen.file.as_uri()]
        assert axe(seen.page) == []
        dark = seen.page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
        assert dark is (theme == "dark")


@pytest.mark.parametrize(
    ("planted", "where"),
    [
        ("<script>alert(1)</script>", "dialogs"),
        ("<script>throw Error('oh')</script>", "errors"),
        ("<script>console.error('oh')</script>", "console_errors"),
        ("<img alt='' src='http://127.0.0.1:9/x.png'>", "violations"),
        ("<img alt='' src='http://127.0.0.1:9/x.png'>", "outside"),
        ("<script>eval('1')</script>", "violations"),
        ("<script>fetch('http://127.0.0.1:9/').catch(() => 0)</script>", "violations"),
        ("<div style='width: 3000px'>wide</div>", "scroll_overflow_px"),
    ],
)
def test_what_goes_wrong_in_a_page_is_seen(
    opened: Callable[..., Opened], planted: str, where: str
) -> None:
    seen = opened(SOUND.replace("</main>", f"{planted}</main>"), width=390)
    assert getattr(seen, where), planted


def test_a_page_has_no_network(opened: Callable[..., Opened]) -> None:
    """Also where its policy would let it."""
    free = SOUND.replace(POLICY, "default-src * 'unsafe-inline'")
    script = "<script>fetch('http://127.0.0.1:9/x').catch(() => { document.title = 'no' })</script>"
    seen = opened(free.replace("</main>", f"{script}</main>"))
    seen.page.wait_for_function("document.title === 'no'")
    assert seen.outside == ["http://127.0.0.1:9/x"]
    assert seen.console_errors == ["error: Failed to load resource: net::ERR_INTERNET_DISCONNECTED"]


def test_axe_finds_what_keeps_people_out(
    opened: Callable[..., Opened], axe: Callable[..., list[Finding]]
) -> None:
    """The policy of a page does not keep axe out, and the worst comes first."""
    planted = "<p style='color: #ddd; background: #fff'>faint</p><input><h4>a leap</h4>"
    found = axe(opened(SOUND.replace("</main>", f"{planted}</main>")).page)
    assert [(finding.rule, finding.impact) for finding in found] == [
        ("label", "critical"),
        ("color-contrast", "serious"),
        ("heading-order", "moderate"),
    ]


def test_letters_are_drawn(opened: Callable[..., Opened]) -> None:
    """A machine without a font draws the same box for each letter."""
    letters = "<span id='i'>iiiiiiii</span><br><span id='w'>wwwwwwww</span>"
    page = opened(SOUND.replace("</main>", f"{letters}</main>")).page
    width_of = "(id) => document.getElementById(id).getBoundingClientRect().width"
    assert page.evaluate(width_of, "w") > 1.5 * page.evaluate(width_of, "i")
