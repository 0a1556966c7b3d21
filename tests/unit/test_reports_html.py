"""`report.html`, read back by a real parser of HTML."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_vllm.domain.check_changes import KINDS, NO_ANSWER, WORSE
from pytest_vllm.domain.checks import Level, Outcome
from pytest_vllm.domain.observation import Observation, Sample
from pytest_vllm.domain.record import Change, Comparison, Rules, WaiverUse, from_json
from pytest_vllm.domain.verdict import Decision
from pytest_vllm.reports.html import REASONS_SHOWN, ROWS_SHOWN, report_html
from pytest_vllm.reports.html_checks import DETAILS_MOST, EXCHANGES_ROOM, MESSAGE_SHOWN
from pytest_vllm.reports.page import link, policy, spans
from tests.unit.records import (
    DIGEST,
    HOSTILE,
    all_passed,
    hostile_record,
    make_comparison,
    make_exchange,
    make_record,
    make_result,
)

EVERYTHING = Path(__file__).parents[1] / "data" / "pages" / "everything.json"
VOID = {"meta", "link", "input", "br", "path", "rect", "circle", "line"}
URL_ATTRIBUTES = {"href", "src", "action", "formaction", "poster", "data", "xlink:href", "srcset"}


class Page(HTMLParser):
    """All elements with their attributes, and all text outside of style and script."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.raw: dict[str, list[str]] = {"style": [], "script": []}
        self.text = ""
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._inside = tag if tag in self.raw else self._inside

    def handle_endtag(self, tag: str) -> None:
        self._inside = "" if tag == self._inside else self._inside

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.raw[self._inside].append(data)
        else:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def everything() -> str:
    return report_html(from_json(EVERYTHING.read_text("utf-8"), where=EVERYTHING.name))


def assert_is_closed(page: Page) -> None:
    """Assert that nothing of the page can run, fetch or lead anywhere but what we wrote."""
    assert [tag for tag, _ in page.elements if tag == "script"] == ["script"]
    assert [tag for tag, _ in page.elements if tag == "style"] == ["style"]
    for tag, attributes in page.elements:
        assert tag not in {"iframe", "object", "embed", "base", "img", "video", "audio", "image"}
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name != "style", (tag, value)
            if name in URL_ATTRIBUTES:
                assert value.startswith(("#", "data:image/svg+xml,", "http://", "https://"))
            if name in URL_ATTRIBUTES and value.startswith("http"):
                assert tag == "a"
                assert attributes["rel"] == "noopener noreferrer"


def test_the_policy_lets_in_our_style_and_script_only() -> None:
    page = Page(everything())
    told = {m["http-equiv"]: m["content"] for m in page.all("meta") if "http-equiv" in m}
    assert told == {"Content-Security-Policy": policy()}
    rules = dict(rule.split(" ", 1) for rule in policy().split("; "))
    assert rules["default-src"] == "'none'"
    for kind in ("style", "script"):
        digest = hashlib.sha256("".join(page.raw[kind]).encode()).digest()
        assert rules[f"{kind}-src"] == f"'sha256-{base64.b64encode(digest).decode()}'"
    assert not re.search(r"https?:|//\w|@import|url\(", "".join(page.raw["style"]))
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|fetch|eval\(|https?:",
        "".join(page.raw["script"]),
    )


def test_a_page_of_hostile_texts_is_closed() -> None:
    text = report_html(hostile_record())
    assert_is_closed(Page(text))
    assert_is_closed(Page(everything()))
    for char in ("\x1b", "\x00", "\u202e", "\x9b", "\ud800"):
        assert char not in text
    assert "<script>alert(1)</script>" in Page(text).text


@settings(max_examples=40)
@given(text=st.text(st.characters()) | st.text(alphabet="<>\"'&`{}%/= javascript:onx\n"))
def test_no_text_becomes_markup(text: str) -> None:
    shape = [tag for tag, _ in Page(report_html(_saying("x"))).elements]
    page = Page(report_html(_saying(text)))
    assert_is_closed(page)
    known = {"p", "code", "li", "a", "button"}  # a message of nothing has no paragraph, and so on
    assert [t for t, _ in page.elements if t not in known] == [t for t in shape if t not in known]


def _saying(text: str) -> Any:
    failed = make_result("chat.a.b", Outcome.FAIL, f"x{text}", case="a")
    return make_record(
        (failed, make_result("chat.c.d", Outcome.WAIVED, f"x{text}")),
        warnings=(f"x{text}",),
        environment={f"x{text}": f"x{text}"},
    )


@pytest.mark.parametrize(
    ("text", "linked"),
    [
        ("https://github.com/o/r/issues/1", True),
        ("http://tracker/x?a=1&b=<2>", True),
        ("javascript:alert(1)", False),
        ("JAVASCRIPT:alert(1)", False),
        ("javascript://h/%0aalert(1)", False),
        ("java\nscript:alert(1)", False),
        ("data:text/html,<script>alert(1)</script>", False),
        ("https:alert(1)", False),
        ("//host/x", False),
        ("https://[broken", False),
        ("https://h/\u202e", False),
        ("see the tracker", False),
        ("", False),
    ],
)
def test_only_addresses_of_the_web_become_links(text: str, *, linked: bool) -> None:
    page = Page(link(text))
    assert [attributes["href"] for attributes in page.all("a")] == ([text] if linked else [])
    assert_is_closed(Page(f"<style></style><script></script>{link(text)}"))


def test_code_in_a_sentence_is_shown_as_code_and_stays_text() -> None:
    assert spans("`a<b` MUST be `c`") == "<code>a&lt;b</code> MUST be <code>c</code>"
    assert spans("one ` alone") == "one ` alone"


def test_every_id_is_there_once_and_every_reference_leads_somewhere() -> None:
    for text in (everything(), report_html(hostile_record()), report_html(make_record(()))):
        page = Page(text)
        ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
        assert len(ids) == len(set(ids))
        for attributes in page.all("a"):
            address = attributes["href"]
            assert not address.startswith("#") or address[1:] in ids
        for _, attributes in page.elements:
            assert attributes.get("aria-labelledby", ids[0]) in ids


def test_every_part_of_a_run_is_told() -> None:
    """Each text that `everything.json` holds under these keys can be read in the page."""
    document = json.loads(EVERYTHING.read_text("utf-8"))
    text = " ".join(Page(everything()).text.split())
    wanted = [
        *document["verdict"]["reasons"],
        *document["warnings"],
        *(item["sha256"] for item in document["materials"]),
        *(item["name"] for item in document["materials"]),
        *(item[key] for item in document["waivers"] for key in ("check", "reason", "expires")),
        *(item[key] for item in document["samples"] for key in ("title", "prompt", "text")),
        *(item[key] for item in document["observations"] for key in ("name", "value")),
        *(phase["name"] for phase in document["phases"]),
        *(change["metric"] for change in document["comparison"]["metrics"]["changes"]),
        *(result["check"]["id"] for result in document["results"]),
        *(result["check"]["requirement"].replace("`", "") for result in document["results"]),
        *(result["message"] for result in document["results"] if result["outcome"] != "pass"),
        *document["environment"].values(),
        document["launch"]["image"]["runs"].partition("@")[2],
        document["attempts"][0]["diagnosis"]["cause"],
        "12fd25f77366fa6b3b4b768ec3050bf629380bac",
        "6.12.12",
        "profile promote",
        "ini vllm_serve_arg",
        "env PYTEST_VLLM_MODEL",
    ]
    assert len(wanted) > 300
    missing = [item for item in wanted if " ".join(item.split())[:200] not in text]
    assert not missing


def test_only_a_complete_run_of_an_image_says_that_it_may_be_promoted() -> None:
    rules = Rules(
        profile="promote", complete=True, pinned_image=True, required=("chat.point0.holds",)
    )
    promise = "This image may be promoted"
    assert promise in report_html(make_record(rules=rules))
    for record in (
        make_record(),
        make_record(rules=Rules(profile="default")),
        make_record(rules=rules, launch={}),
        make_record((make_result("chat.a.b", Outcome.FAIL, "late"),), rules=rules),
    ):
        assert promise not in report_html(record)


def test_a_failed_check_is_told_with_what_repeats_it() -> None:
    failed = make_result("chat.a.b", Outcome.FAIL, "21 is not 20", case="stream")
    page = Page(report_html(make_record((*all_passed(), failed))))
    for words in (
        "REJECT",
        "21 is not 20",
        "total_tokens MUST equal prompt_tokens plus completion_tokens.",
        "POST http://127.0.0.1:8000/v1/chat/completions\ncontent-type: application/json",
        "HTTP 200 after 12 ms",
        "sh checks/chat.a.b-stream/replay.sh",
    ):
        assert words in page.text
    assert "#check-chat.a.b[stream]" in {a["href"] for a in page.all("a")}


def test_a_check_without_requests_has_nothing_to_unfold() -> None:
    failed = make_result("chat.a.b", Outcome.FAIL, "late", exchanges=())
    page = Page(report_html(make_record((failed,))))
    assert "more" not in {a.get("class") for a in page.all("tr")}
    assert "replay" not in page.text.partition("Evidence")[0]


def test_only_a_suite_that_has_a_failure_is_unfolded() -> None:
    failed = make_result("chat.a.b", Outcome.FAIL, "late")
    page = Page(report_html(make_record((*all_passed(), failed))))
    suites = [a for a in page.all("details") if a.get("class") == "suite"]
    assert len(suites) == 6
    assert sum("open" in attributes for attributes in suites) == 1


def test_failures_come_first_in_their_suite() -> None:
    results = (
        make_result("chat.a.passes"),
        make_result("chat.b.warns", Outcome.FAIL, "late", level=Level.SHOULD),
        make_result("chat.c.errs", Outcome.ERROR, "no reply"),
        make_result("chat.d.fails", Outcome.FAIL, "late"),
    )
    page = Page(report_html(make_record(results)))
    rows = [a["id"] for a in page.all("tr") if "id" in a]
    assert rows == [f"check-chat.{x}" for x in ("c.errs", "d.fails", "b.warns", "a.passes")]


def test_a_page_stays_small_whatever_failed() -> None:
    """Requests and replies beyond a bound stay in their files, and the page says where."""
    exchange = make_exchange(response_body="x" * 20_000, request_body="y" * 20_000)
    failed = tuple(
        make_result(f"chat.a.b{n}", Outcome.FAIL, "late", exchanges=(exchange,) * 9)
        for n in range(700)
    )
    text = report_html(make_record(failed))
    assert len(text) < 1.5 * EXCHANGES_ROOM
    page = Page(text)
    left = page.text.count("sends it again; exchange.json beside it has the requests and replies.")
    assert left > 400
    assert page.text.count("/replay.sh") == 700
    assert "6 earlier requests are in checks/chat.a.b0/exchange.json." in page.text
    assert f"{700 - REASONS_SHOWN} more reasons" in page.text
    assert f"and {700 - ROWS_SHOWN} more, in run.json" in page.text
    said = re.search(r"The requests and replies of (\d+) checks are not in this page", page.text)
    assert said is not None
    assert int(said[1]) == left


def test_a_page_has_so_many_requests_as_a_browser_opens_quickly() -> None:
    failed = tuple(make_result(f"chat.a.b{n}", Outcome.FAIL, "late") for n in range(310))
    page = Page(report_html(make_record(failed)))
    assert sum(a.get("class") == "more" for a in page.all("tr")) == DETAILS_MOST
    assert "The requests and replies of 10 checks are not in this page" in page.text


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("waivers", WaiverUse(check="a.b", reason="r", link="l", expires="2027-01-31")),
        ("samples", Sample(title="poem", prompt="the stars", text="They shine.")),
        ("observations", Observation(name="HEAD /health", value="405")),
    ],
)
def test_what_ends_early_says_so(name: str, row: object) -> None:
    for count, told in ((ROWS_SHOWN, 0), (ROWS_SHOWN + 17, 1)):
        text = report_html(make_record(**{name: (row,) * count}))
        assert text.count("17 more are in run.json") == told


def test_a_failure_without_requests_is_told_in_full() -> None:
    """What the GPUs or the memory came to has no exchange, and many lines."""
    message = "\n".join(f"GPU {n}: 12.3 GiB are left after the stop" for n in range(30)) + "\nend"
    assert 1_000 < len(message) < MESSAGE_SHOWN
    failed = tuple(
        make_result(f"memory.a.b{n}", outcome, message, exchanges=())
        for outcome in (Outcome.FAIL, Outcome.ERROR)
        for n in range(DETAILS_MOST)
    )
    text = Page(report_html(make_record(failed[DETAILS_MOST - 1 : DETAILS_MOST + 1]))).text
    assert text.count(message) == 2
    text = Page(report_html(make_record(failed))).text
    assert text.count(message) == DETAILS_MOST


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_change_has_one_class(kind: str) -> None:
    changed = Comparison(
        run_id="r", decision=Decision.PROMOTE, changes=(Change(name="chat.a.b", kind=kind),)
    )
    page = Page(report_html(make_record(comparison=changed)))
    classes = {a["class"] for a in page.all("span") if "chip" in a.get("class", "").split()}
    assert f"chip {kind.replace(' ', '-')}" in classes
    named = f"({changed.decision}): chat.a.b" in page.text
    assert named == (kind in (*WORSE, NO_ANSWER, "gone"))


def test_the_whole_digest_is_there_to_be_copied() -> None:
    page = Page(report_html(make_record(comparison=make_comparison())))
    assert DIGEST in {a["data-text"] for a in page.all("span") if "data-text" in a}
    assert f"rocm/vllm:0.32.0@{DIGEST}" in page.text


def test_names_that_are_no_addresses_get_numbers() -> None:
    results = tuple(
        make_result("chat.a.b", Outcome.FAIL, "late", case=case)
        for case in ("a b", "a b", HOSTILE, '"', "main", "main")
    )
    page = Page(report_html(make_record(results)))
    rows = [a["id"] for a in page.all("tr") if "id" in a]
    assert len(rows) == len(set(rows)) == 6
    assert not [row for row in rows if re.search(r"[\s\"'<>]", row)]


def test_equal_names_get_numbers_that_no_other_name_has() -> None:
    names = ("chat.a.b-2", "chat.a.b", "chat.a.b", "chat.a.b", "chat.a.b-2", "stream.a.b")
    page = Page(report_html(make_record(tuple(make_result(name) for name in names))))
    assert [a["id"].removeprefix("check-") for a in page.all("tr") if "id" in a] == [
        "chat.a.b-2",
        "chat.a.b",
        "chat.a.b-3",
        "chat.a.b-4",
        "chat.a.b-2-2",
        "stream.a.b",
    ]


def test_a_plain_run_of_pytest_loads_no_template_engine() -> None:
    code = (
        "import sys, pytest_vllm.plugin, pytest_vllm.reports.registry\n"
        "print([name for name in ('jinja2', 'pygal', 'markupsafe') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
