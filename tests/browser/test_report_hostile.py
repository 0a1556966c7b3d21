"""Whatever a server, a log or a user's file says, it runs nothing in the browser of a reader."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.observation import Observation, Sample
from pytest_vllm.domain.record import Material, RunRecord, WaiverUse, from_json, to_json
from pytest_vllm.reports.html import report_html
from tests.browser.test_report import everything
from tests.unit.records import hostile_record, make_exchange, make_record, make_result

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_vllm.domain.exchange import Exchange
    from tests.browser.conftest import Opened

MARK = "window.hostile = (window.hostile || 0) + 1"
ATTACKS = (
    f"<script>{MARK}; alert(1)</script>",
    f"</script><script>{MARK}</script>",
    f"</style><script>{MARK}</script><style>body {{ display: none }}",
    f"</title></head><body onload='{MARK}'>",
    f"<img src=x onerror='{MARK}'>",
    f"<svg onload='{MARK}'><animate onbegin='{MARK}' attributeName=x dur=1s>",
    f"\" onmouseover='{MARK}' autofocus onfocus='{MARK}' x=\"",
    f"' onclick='{MARK}' x='",
    f"<details open ontoggle='{MARK}'>",
    f'<iframe srcdoc="<script>parent.{MARK}</script>"></iframe>',
    f"<a href='javascript:{MARK}'>here</a>",
    f"javascript:{MARK}",
    "<link rel=stylesheet href=http://127.0.0.1:9/x.css><img src=http://127.0.0.1:9/x.png>",
    "<meta http-equiv=refresh content='0;url=http://127.0.0.1:9/'>",
    "<base href=http://127.0.0.1:9/><form action=http://127.0.0.1:9/><input name=words>",
    "{{ cycler.__init__.__globals__ }}{% include 'base.html' %}",
    "<!--", "]]>", "<![CDATA[", "<plaintext>", "<textarea>", "</textarea><select>",
    "</table></div>", "&lt;script&gt;", "\u202e\u2028\x00\x1b]0;title\x07",
)  # fmt: skip
EVIL = " ".join(ATTACKS)


def poisoned(value: Any) -> Any:
    """Return the same record with the attack in every text that is no word of our own."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
        return type(value)(**{name: poisoned(item) for name, item in fields.items()})
    if type(value) is str:
        return f"{value}{EVIL}"
    if isinstance(value, list | tuple):
        return type(value)(poisoned(item) for item in value)
    if isinstance(value, dict):
        return {key: poisoned(item) for key, item in value.items()}
    return value


def one_by_one() -> RunRecord:
    """Return a record in which each attack stands alone, so that none is hidden by another."""
    results = tuple(
        make_result(f"chat.a{n}.b", outcome, text, case=text, exchanges=(_exchange(text),))
        for n, text in enumerate(ATTACKS)
        for outcome in (Outcome.FAIL, Outcome.WAIVED)
    )
    return make_record(
        results,
        warnings=ATTACKS,
        environment=dict(zip(ATTACKS, ATTACKS, strict=True)),
        observations=tuple(Observation(name=text, value=text) for text in ATTACKS),
        samples=tuple(Sample(title=text, prompt=text, text=text) for text in ATTACKS),
        launch={"docker_run": EVIL, "command": list(ATTACKS), **dict.fromkeys(ATTACKS, EVIL)},
        waivers=tuple(
            WaiverUse(check=text, reason=text, link=text, expires=text) for text in ATTACKS
        ),
        materials=tuple(Material(kind=text, name=text, sha256=text, of=text) for text in ATTACKS),
    )


def as_read(record: RunRecord) -> RunRecord:
    """Return a record as `run.json` gives it, with names of runs that no reading would let pass."""
    before = record.comparison
    sound = dataclasses.replace(
        record, run_id="a", comparison=before and dataclasses.replace(before, run_id="b")
    )
    read = from_json(to_json(sound), where="run")
    after = read.comparison
    if before is not None and after is not None:
        after = dataclasses.replace(after, run_id=before.run_id)
    return dataclasses.replace(read, run_id=record.run_id, comparison=after)


def _exchange(text: str) -> Exchange:
    return make_exchange(
        url=f"http://h/{text}",
        request_body=text,
        response_body=text,
        response_headers=((text, text),),
    )


@pytest.mark.parametrize(
    "record",
    [one_by_one(), poisoned(everything()), hostile_record()],
    ids=["each alone", "in every text", "of the other reports"],
)
def test_hostile_texts_run_no_script(
    tmp_path: Path, page_of: Callable[..., Opened], record: RunRecord
) -> None:
    """Also after everything was unfolded, pointed at, focused and clicked."""
    file = tmp_path / "report.html"
    file.write_text(report_html(as_read(record)), encoding="utf-8")
    seen = page_of(file)
    page = seen.page
    page.evaluate("document.querySelectorAll('details').forEach((box) => { box.open = true })")
    page.get_by_label("Search").fill(ATTACKS[0])
    page.get_by_role("button", name="Clear").click()
    page.evaluate(
        """for (const part of document.querySelectorAll("main *")) {
          for (const kind of ["mouseover", "focus", "toggle"]) {
            part.dispatchEvent(new Event(kind, { bubbles: false }));
          }
        }
        document.querySelectorAll("button.copy").forEach((part) => part.click());
        for (const part of document.querySelectorAll("a")) {
          if (!part.href.startsWith("http")) part.click();
        }
        """
    )
    seen.settle()
    assert page.evaluate("window.hostile") is None
    assert [*seen.dialogs, *seen.violations, *seen.errors, *seen.console, *seen.outside] == []
    assert page.url.partition("#")[0] == file.resolve().as_uri()
    text = page.evaluate("document.body.textContent")
    assert "alert(1)</script>" in text  # it can be read
    assert (
        page.locator("iframe, object, embed, base, form:not(.filters), script ~ script").count()
        == 0
    )


def test_the_policy_stops_what_an_escape_would_miss(
    tmp_path: Path, page_of: Callable[..., Opened]
) -> None:
    """The second wall stands by itself: a page into which markup got runs none of it."""
    planted = f"<script>{MARK}</script><img src=x onerror='{MARK}'><svg onload='{MARK}'></svg>"
    planted += "<img src='http://127.0.0.1:9/x.png'><style>h1 { display: none }</style>"
    file = tmp_path / "report.html"
    html = report_html(make_record()).replace('<main id="main"', f'{planted}<main id="main"')
    assert planted in html
    file.write_text(html, encoding="utf-8")
    seen = page_of(file)
    assert seen.page.evaluate("window.hostile") is None
    assert len(seen.violations) >= 5
    assert seen.page.get_by_role("heading", level=1).is_visible()
