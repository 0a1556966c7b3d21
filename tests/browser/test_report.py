"""`report.html` in a real browser: it opens clean and alone, filters, and keeps nobody out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from pytest_vllm.domain.checks import Level, Outcome
from pytest_vllm.domain.record import from_json
from pytest_vllm.reports.html import report_html
from tests.unit.records import (
    all_not_run,
    all_passed,
    make_comparison,
    make_failure,
    make_record,
    make_result,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Browser, Page

    from pytest_vllm.domain.record import RunRecord
    from tests.browser.conftest import Finding, Opened

EVERYTHING = Path(__file__).parents[1] / "data" / "pages" / "everything.json"
VISIBLE = "table.checks tbody > tr[id]:visible"


def everything() -> RunRecord:
    """Return a run that has something in every section; see README.md beside the file."""
    return from_json(EVERYTHING.read_text("utf-8"), where=EVERYTHING.name)


RECORDS: dict[str, Callable[[], RunRecord]] = {
    "everything": everything,
    "promoted": make_record,
    "not started": lambda: make_record(all_not_run(), failure=make_failure()),
    "nothing": lambda: make_record(()),
}

LOOKED_AT = [
    ("everything", 1280, "light"),
    ("everything", 1280, "dark"),
    ("everything", 390, "light"),
    ("promoted", 390, "dark"),
    ("not started", 1280, "dark"),
    ("nothing", 1280, "light"),
]
if os.environ.get("PYTEST_VLLM_TEST_ALL"):
    LOOKED_AT = [
        (name, width, theme)
        for name in RECORDS
        for width in (1280, 390)
        for theme in ("light", "dark")
    ]


@pytest.fixture
def open_report(tmp_path: Path, page_of: Callable[..., Opened]) -> Callable[..., Opened]:
    def write_and_open(record: RunRecord, **words: object) -> Opened:
        file = tmp_path / "report.html"
        file.write_text(report_html(record), encoding="utf-8")
        return page_of(file, **words)

    return write_and_open


def shown(page: Page) -> set[str]:
    """Return the names of the checks that can be seen, in open suites."""
    return set(page.locator(f"{VISIBLE} th").all_inner_texts())


@pytest.mark.parametrize(("name", "width", "theme"), LOOKED_AT)
def test_a_report_opens_clean_and_keeps_nobody_out(
    open_report: Callable[..., Opened],
    axe: Callable[..., list[Finding]],
    name: str,
    width: int,
    theme: str,
) -> None:
    """No word on the console, no request but for the file itself, no rule of axe-core broken."""
    seen = open_report(RECORDS[name](), width=width, theme=theme)
    seen.page.evaluate("document.querySelectorAll('details').forEach((box) => { box.open = true })")
    seen.settle()
    assert [*seen.console, *seen.errors, *seen.violations, *seen.dialogs] == []
    assert seen.requests == [seen.file.resolve().as_uri()]
    assert seen.scroll_overflow_px == 0
    assert axe(seen.page) == []


def test_the_verdict_and_its_reasons_are_what_is_seen_first(
    open_report: Callable[..., Opened],
) -> None:
    for width in (1280, 390):
        page = open_report(everything(), width=width, height=640).page
        expect(page.get_by_role("heading", level=1)).to_have_text("REJECT")
        for part in ("h1", "header li >> nth=0"):
            expect(page.locator(part)).to_be_in_viewport()


def test_a_reason_leads_to_its_check(open_report: Callable[..., Opened]) -> None:
    record = make_record((*all_passed(), make_result("chat.a.b", Outcome.FAIL, "21 is not 20")))
    seen = open_report(record)
    seen.page.get_by_role("banner").get_by_role("link", name="chat.a.b").click()
    seen.settle()
    expect(seen.page.locator("[id='check-chat.a.b']")).to_be_in_viewport()
    assert not seen.console


def test_an_address_opens_the_suite_of_its_check(open_report: Callable[..., Opened]) -> None:
    for fragment in ("#check-stream.point7.holds", "#stream.point7.holds"):
        page = open_report(make_record(), fragment=fragment).page
        expect(page.locator("[id='check-stream.point7.holds']")).to_be_in_viewport()


def test_what_is_named_is_opened_whatever_the_filter_hid(
    open_report: Callable[..., Opened],
) -> None:
    record = make_record(
        (*all_passed(), make_result("stream.done.comes")), comparison=make_comparison()
    )
    seen = open_report(record)
    page, status = seen.page, seen.page.get_by_role("search").get_by_role("status")
    words = page.get_by_label("Search")

    words.fill("point1")
    expect(status).to_contain_text(" of ")
    page.get_by_role("link", name="stream.done.comes").click()
    seen.settle()  # so that all that the page has put off is done
    expect(status).to_have_text("62 checks")
    expect(words).to_have_value("")
    expect(page.locator("[id='check-stream.done.comes']")).to_be_in_viewport()

    words.fill("point1")
    expect(status).to_contain_text(" of ")
    page.evaluate("location.hash = '#check-models.point3.holds'")  # an address that is typed
    seen.settle()
    expect(page.locator("[id='check-models.point3.holds']")).to_be_in_viewport()
    assert not seen.console


def test_search_and_filters_show_what_they_say(open_report: Callable[..., Opened]) -> None:
    results = (
        *all_passed(),
        make_result("chat.first.thing", Outcome.FAIL, "no such Zebra"),
        make_result("chat.second.thing", Outcome.FAIL, "late", level=Level.SHOULD),
        make_result("models.third.thing", Outcome.NOT_RUN, "not run: out of time"),
        make_result("models.fourth.thing", Outcome.WAIVED, "known since Monday"),
        make_result("models.fifth.thing", Outcome.NOT_APPLICABLE, "no such model"),
    )
    seen = open_report(make_record(results))
    page, status = seen.page, seen.page.get_by_role("search").get_by_role("status")
    outcome, level, suite = (page.get_by_label(name) for name in ("Outcome", "Level", "Suite"))
    words = page.get_by_label("Search")
    expect(status).to_have_text("66 checks")

    words.fill("zebra")
    expect(status).to_have_text("1 of 66 checks")
    assert shown(page) == {"chat.first.thing"}
    words.fill("equal completion_tokens point3")
    expect(status).to_have_text("6 of 66 checks")
    words.fill("nothing has this")
    expect(status).to_have_text("0 of 66 checks")
    expect(page.get_by_text("No check is like that")).to_be_visible()

    page.get_by_role("button", name="Clear").click()
    expect(status).to_have_text("66 checks")
    outcome.select_option("fail")
    expect(status).to_have_text("2 of 66 checks")
    assert shown(page) == {"chat.first.thing", "chat.second.thing"}
    level.select_option("SHOULD")
    expect(status).to_have_text("1 of 66 checks")
    assert shown(page) == {"chat.second.thing"}
    level.select_option("all")
    outcome.select_option("not passed")
    expect(status).to_have_text("4 of 66 checks")
    suite.select_option(label="models (8)")
    expect(status).to_have_text("2 of 66 checks")
    assert shown(page) == {"models.third.thing", "models.fourth.thing"}
    assert not seen.console


def test_clearing_a_filter_leaves_the_suites_as_they_were(
    open_report: Callable[..., Opened],
) -> None:
    record = make_record((*all_passed(), make_result("chat.a.b", Outcome.FAIL, "late")))
    page = open_report(record).page
    status = page.get_by_role("search").get_by_role("status")
    open_suites = page.locator("details.suite[open] > summary h3")
    assert open_suites.all_inner_texts() == ["chat"]
    page.get_by_label("Search").fill("point1")
    expect(status).to_contain_text(" of ")
    assert open_suites.count() > 1
    page.get_by_label("Search").fill("")
    expect(status).to_have_text("62 checks")
    assert open_suites.all_inner_texts() == ["chat"]


def test_a_failed_check_has_all_that_is_needed_to_repeat_it(
    open_report: Callable[..., Opened],
) -> None:
    failed = make_result("chat.a.b", Outcome.FAIL, "21 is not 20", case="stream")
    page = open_report(make_record((*all_passed(), failed)), width=390).page
    for words in (
        "21 is not 20",
        "POST http://127.0.0.1:8000/v1/chat/completions",
        "HTTP 200 after 12 ms",
        "sh checks/chat.a.b-stream/replay.sh",
    ):
        expect(page.get_by_text(words).last).to_be_visible()


def test_the_digest_can_be_copied(open_report: Callable[..., Opened]) -> None:
    page = open_report(make_record()).page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    button = page.get_by_role("button", name="Copy Image")
    button.click()
    expect(button).to_have_text("Copied")
    digest = page.evaluate("navigator.clipboard.readText()")
    assert digest.startswith("sha256:")
    assert len(digest) == 71


def test_without_a_clipboard_the_text_is_selected(open_report: Callable[..., Opened]) -> None:
    record = make_record((*all_passed(), make_result("chat.a.b", Outcome.FAIL, "late")))
    page = open_report(record).page
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    button = page.get_by_role("button", name="Copy the command")
    button.click()
    expect(button).to_have_text("Selected")
    assert page.evaluate("getSelection().toString()") == "sh checks/chat.a.b/replay.sh"


def test_on_paper_what_did_not_pass_is_unfolded_and_no_control_is_left(
    open_report: Callable[..., Opened],
) -> None:
    results = tuple(make_result(f"chat.a.b{n}", Outcome.FAIL, "late") for n in range(9))
    seen = open_report(make_record((*all_passed(), *results)))
    replies = seen.page.get_by_text("HTTP 200 after 12 ms")
    assert not any(reply.is_visible() for reply in replies.all())
    suites = seen.page.locator("details.suite[open] > summary h3")
    seen.page.locator("details.suite[open] > summary").click()  # a reader has closed it
    expect(suites).to_have_count(0)
    seen.page.emulate_media(media="print")
    seen.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert all(reply.is_visible() for reply in replies.all())
    assert replies.count() == 9
    for control in ("form.filters", "nav", "button"):
        assert not any(part.is_visible() for part in seen.page.locator(control).all()), control
    assert suites.all_inner_texts() == ["chat"]
    seen.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert suites.all_inner_texts() == []
    assert not any(reply.is_visible() for reply in replies.all())


def test_everything_is_there_without_a_script(
    tmp_path: Path, open_report: Callable[..., Opened], browser: Browser
) -> None:
    """The script only adds controls: all words of the page are there before it runs."""
    with_script = open_report(everything()).page
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((tmp_path / "report.html").resolve().as_uri())
    assert page.locator("form.filters").is_hidden()
    assert page.locator("button.copy").count() == 0
    told, told_with_script = (
        part.locator("main").inner_text().replace("Copy", "").split()
        for part in (page, with_script)
    )
    assert set(told_with_script) - set(told) <= set(
        with_script.locator("form.filters").inner_text().split()
    )
    closed = page.locator("details.suite", has_text="stream").first
    closed.locator("summary").first.click()
    expect(closed.locator("tbody tr").first).to_be_visible()
    context.close()
