"""`report.md`, read back by a real parser of Markdown."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.observation import Observation, Sample
from pytest_vllm.domain.record import Change, Comparison, WaiverUse
from pytest_vllm.domain.server_facts import ServerFacts
from pytest_vllm.domain.text import one_line
from pytest_vllm.domain.verdict import Decision
from pytest_vllm.reports.markdown import report_md
from pytest_vllm.reports.markdown_text import ROWS_SHOWN, code, fence, sentence, table
from tests.unit.records import (
    DIGEST,
    HOSTILE,
    REQUIREMENT,
    all_not_run,
    all_passed,
    hostile_record,
    make_comparison,
    make_exchange,
    make_failure,
    make_record,
    make_result,
)

if TYPE_CHECKING:
    from markdown_it.token import Token

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
LIMIT = 2**20
"""Bytes of UTF-8 above which GitHub shows no summary at all."""
CUT = "> Cut to stay below the 1 MiB that GitHub takes"
ANY_TEXT = st.text(st.characters()) | st.text(alphabet="`|\\\n <>*_~[](!)#&$a ")


def tokens(text: str) -> list[Token]:
    """Return all tokens, those inside lines too."""
    flat = []
    for token in PARSER.parse(text):
        flat += [token, *(token.children or [])]
    return flat


def left_out_of(text: str) -> int:
    """Return how many lines the page says are left out."""
    return sum(map(int, re.findall(r"\*\*(\d+) more lines are left out here", text)))


def test_a_passing_run_is_told() -> None:
    text = report_md(make_record(comparison=make_comparison(), warnings=("mind this",)))
    assert text.startswith("# ✅ PROMOTE\n\n- `61 checks passed, no MUST check failed`\n")
    for words in (
        f"| Image | `rocm/vllm:0.32.0@{DIGEST}` |",
        "| `stream` | 22 | 0 | 0 | 0 | 0 | 0 |",
        "| `chat.usage.adds-up` | `broken` | `pass` | `fail` |",
        "| `model` | `HuggingFaceTB/SmolLM2-135M-Instruct` | `env PYTEST_VLLM_MODEL` |",
        "| `load` | 4.0 | 2.0 s | `3/9 shards` |",
        "- `mind this`",
        "| `command` | `vllm serve HuggingFaceTB/SmolLM2-135M-Instruct` |",
        f"```sh\ndocker run --rm rocm/vllm@{DIGEST} serve",
    ):
        assert words in text


def test_settings_that_someone_set_come_first() -> None:
    text = report_md(make_record())
    assert text.index("`serve-arg`") < text.index("`timeout`")


def test_a_failed_check_is_told_with_all_that_is_needed_to_repeat_it() -> None:
    failed = make_result("chat.a.b", Outcome.FAIL, "21 is not 20", case="stream")
    text = report_md(make_record((*all_passed(), failed)))
    assert "# ❌ REJECT" in text
    assert "### `chat.a.b[stream]` (MUST fail)" in text
    assert REQUIREMENT in text
    assert "21 is not 20" in text
    assert (
        "POST http://127.0.0.1:8000/v1/chat/completions\ncontent-type: application/json\n" in text
    )
    assert "HTTP 200 after 12 ms" in text
    assert "`sh checks/chat.a.b-stream/replay.sh`" in text


def test_a_request_without_a_reply_says_why() -> None:
    exchange = make_exchange(status=None, failure="timeout: no complete reply within 5 s")
    failed = make_result("chat.a.b", Outcome.FAIL, "no", exchanges=(exchange,) * 5)
    text = report_md(make_record((failed,)))
    assert "no reply after 12 ms" in text
    assert "timeout: no complete reply within 5 s" in text
    assert "2 earlier requests are in `checks/chat.a.b/exchange.json`" in text


def test_a_failed_start_is_told_once() -> None:
    text = report_md(make_record(all_not_run(), failure=make_failure()))
    assert "## Start failed\n\n`The server did not start: exit code 1, last phase: load" in text
    assert "line number 0 " in text
    assert "What to do: `lower --max-model-len`" in text
    assert "Checks that did not pass" not in text
    assert "| `not run` | `not run: no server became ready` | 61 |" in text


def test_equal_reasons_are_told_together() -> None:
    absent = [make_result(f"chat.a.{n}", Outcome.NOT_APPLICABLE, "base model") for n in "xyz"]
    text = report_md(make_record((*all_passed(), *absent), deselected=("chat.left.out",)))
    assert "| `not applicable` | `base model` | 3 | `chat.a.x, chat.a.y, chat.a.z` |" in text
    assert "| `deselected` | `by the user` | 1 | `chat.left.out` |" in text


def test_foreign_text_stays_text() -> None:
    """No HTML, no heading, no link and no row comes out of what a server says."""
    plain = report_md(make_record())
    text = report_md(hostile_record())
    text.encode("utf-8")
    assert "\x00" not in text
    assert "\x1b" not in text
    kinds = {token.type for token in tokens(text)}
    assert not kinds & {"html_block", "html_inline", "link_open", "image", "s_open", "em_open"}
    known = {token.content for token in tokens(plain) if token.type == "inline"}
    headings = [
        after.content
        for token, after in zip(tokens(text), tokens(text)[1:], strict=False)
        if token.type == "heading_open" and after.content not in known
    ]
    assert {h for h in headings if not h.startswith("`")} == {
        "❌ REJECT",
        "Memory",
        "Start failed",
        "Warnings",
        "Since the baseline",
        "Checks that did not pass",
        "Checks without a judgement",
        "Observations (not judged)",
        "Samples",
    }
    for row in re.findall(r"^\|.*", text, re.MULTILINE):
        assert len(re.split(r"(?<!\\)\|", row)) in (4, 5, 6, 9)


@given(ANY_TEXT)
def test_a_cell_shows_its_text_and_stays_one_cell(text: str) -> None:
    r"""Bars and backslashes in any order, as `a\\|b`: neither a further cell nor a lost sign."""
    shown = tokens(table(("a", "b"), [(code(text), "end")]))
    cells = [after for token, after in pairwise(shown) if token.type == "td_open"]
    assert len(cells) == 2
    line = one_line(text)
    inside = [token.content for token in cells[0].children or [] if token.type == "code_inline"]
    assert inside == ([line] if line else [])


def test_a_huge_run_stays_below_the_limit_of_github() -> None:
    exchange = make_exchange(response_body="`" * 20_000, request_body="ü" * 20_000)
    failed = tuple(
        make_result(f"chat.a.n{n}", Outcome.FAIL, HOSTILE * 100, exchanges=(exchange,) * 6)
        for n in range(500)
    )
    text = report_md(make_record(failed, warnings=("w" * 600,) * 1000))
    assert len(text.encode()) < LIMIT
    assert CUT in text.splitlines()[2]
    reasons = len(failed) - ROWS_SHOWN
    assert left_out_of(text) == reasons + 1000 - text.count("- `wwww")
    assert "## Settings" in text
    assert all(f"`chat.a.n{n}`" in text for n in range(500))


CHANGES = tuple(Change(name=f"chat.a.b{n}", kind="gone", before="pass") for n in range(300))
USES = tuple(
    WaiverUse(check=f"chat.w{n}", reason="r", link="l", expires="2027-01-31") for n in range(300)
)


@pytest.mark.parametrize(
    "more",
    [
        {"comparison": Comparison(run_id="r", decision=Decision.PROMOTE, changes=CHANGES)},
        {"observations": tuple(Observation(name=f"n{n}", value="v") for n in range(300))},
        {"waivers": USES},
        {"environment": {f"name{n}": "v" for n in range(300)}},
        {"warnings": tuple(f"mind {n}" for n in range(300))},
    ],
    ids=lambda more: next(iter(more)),
)
def test_a_table_that_ends_early_says_so(more: dict[str, Any]) -> None:
    assert CUT not in report_md(make_record())
    text = report_md(make_record(**more))
    assert CUT in text.splitlines()[2]
    assert left_out_of(text) == 300 - ROWS_SHOWN


def test_every_sample_is_shown_while_there_is_room() -> None:
    sample = Sample(title="poem", prompt="the stars", text="They shine.")
    assert report_md(make_record(samples=(sample,) * 201)).count("They shine.") == 201
    text = report_md(make_record(samples=(sample,) * 2_000))
    assert CUT in text.splitlines()[2]
    assert left_out_of(text) > 0


@pytest.mark.parametrize("from_end", [False, True])
@pytest.mark.parametrize(
    ("text", "left"),
    [("y" * 100_000, 98_000), ("y" * 2_001, 1), ("y" * 2_000, 0), ("\x1b[31m" * 2_000, 6_000)],
    ids=["long", "one too long", "just short enough", "colours"],
)
def test_a_block_counts_what_it_leaves_out(text: str, left: int, *, from_end: bool) -> None:
    shown = fence(text, 2_000, from_end=from_end)
    assert [int(n) for n in re.findall(r"\[(\d+) ", shown)] == ([left] if left else [])
    assert shown.count("y") == min(text.count("y"), 2_000)


def test_of_a_log_the_end_is_shown_and_a_command_is_whole() -> None:
    tail = tuple(f"line {n} {'word ' * 40}" for n in range(500))
    words = " ".join(f"--arg{n}=value" for n in range(500))
    record = make_record(
        all_not_run(), failure=make_failure(tail=tail), launch={"docker_run": f"docker run {words}"}
    )
    text = report_md(record)
    assert tail[-1] in text
    assert tail[0] not in text
    assert f"docker run {words}\n```" in text


def test_of_20_000_failed_checks_as_many_are_named_as_there_is_room_for() -> None:
    failed = tuple(
        make_result(f"chat.a.n{n}", Outcome.FAIL, "wrong " * 20, exchanges=())
        for n in range(20_000)
    )
    text = report_md(make_record(failed))
    assert 0.9 * LIMIT < len(text.encode()) < LIMIT
    left = re.search(r"\*\*(\d+) more checks are left out here", text)
    assert left is not None
    assert int(left[1]) + len(set(re.findall(r"`chat\.a\.n\d+`", text))) == 20_000


WIDE = st.sampled_from(["\U0001f600", "`", "\x9b", "|", "a b ", "\ud800", "- \n"])


@given(
    text=st.builds(lambda part, times: part * times, WIDE, st.integers(1, 8_000)),
    count=st.integers(0, 80),
)
@settings(max_examples=5)
def test_whatever_a_record_holds_the_page_stays_below_the_limit(text: str, count: int) -> None:
    """Each place where foreign text goes, filled with what takes the most bytes."""
    result = make_result(
        "chat.a.b",
        Outcome.FAIL,
        text,
        case=text,
        exchanges=(make_exchange(url=text, request_body=text, response_body=text, failure=text),)
        * 3,
    )
    skipped = [make_result(f"chat.s{n}", Outcome.NOT_RUN, f"{n}{text}") for n in range(count)]
    short = text[:3_000]
    record = make_record(
        ((result,) * count + tuple(skipped)),
        failure=make_failure(message=text, tail=(text,) * 5),
        warnings=(text,) * count,
        deselected=(text,) * count,
        environment={f"{n}{short}": short for n in range(count)},
        observations=(Observation(name=text, value=text),) * count,
        samples=(Sample(title=text, prompt=text, text=text),) * min(count, 50),
        launch={f"{n}{short}": short for n in range(count)} | {"docker_run": text},
        forecast={"verdict": text, "notes": [text] * count},
        waivers=(WaiverUse(check=text, reason=text, link=text, expires=text, waived=(text,)),)
        * count,
    )
    assert len(report_md(record).encode()) < LIMIT


@pytest.mark.parametrize(
    "text",
    [
        "![x](http://evil.example/pixel.png) [y](javascript:alert(1))",
        "see https://evil.example, www.evil.example or ask @someone in #12",
        "<img src=x onerror=alert(1)> &lt; **bold** ~~gone~~ $x$ a_b_c",
        "# heading",
        "- item",
        "1. item",
        "> quote",
    ],
)
def test_a_requirement_is_a_sentence_without_links_and_markup(text: str) -> None:
    """What GitHub makes links of besides Markdown's own - URLs, names, numbers - is in code."""
    seen = [token for token in tokens(sentence(text)) if token.type not in ("text", "code_inline")]
    assert {token.type for token in seen} == {"paragraph_open", "inline", "paragraph_close"}
    plain = "".join(token.content for token in tokens(sentence(text)) if token.type == "text")
    assert not re.search(r"://|@\w|www\.|#\d", plain)


def test_a_requirement_keeps_its_code() -> None:
    assert sentence("`total_tokens` MUST be `a` + b") == "`total_tokens` MUST be `a` \\+ b"


def test_waivers_are_shown() -> None:
    use = WaiverUse(
        check="chat.a.b",
        reason="known",
        link="https://x.example/1",
        expires="2027-01-31",
        waived=("chat.a.b[stream]",),
    )
    text = report_md(make_record(waivers=(use,)))
    assert "| `chat.a.b` | `2027-01-31` | `known` | `https://x.example/1` | `waived chat" in text


@given(ANY_TEXT)
def test_a_code_span_holds_exactly_its_text(text: str) -> None:
    seen = [token for token in tokens(f"- {code(text)}") if token.type == "code_inline"]
    shown = code(text)
    if shown == "-":
        assert not seen
    else:
        assert len(seen) == 1
        inside = shown.strip("`") if "`" not in seen[0].content else seen[0].content
        assert seen[0].content.strip() == inside.strip()


@given(ANY_TEXT)
def test_a_block_cannot_be_left(text: str) -> None:
    found = PARSER.parse(f"{fence(text)}\n\nafter")
    assert [token.type for token in found] == [
        "fence",
        "paragraph_open",
        "inline",
        "paragraph_close",
    ]


def test_what_the_model_wrote_and_what_was_seen_is_shown() -> None:
    text = report_md(
        make_record(
            observations=(Observation(name="HEAD /health", value="405"),),
            samples=(Sample(title="poem", prompt="the stars", text="They shine."),),
        )
    )
    assert "| `HEAD /health` | `405` |" in text
    assert "`poem`: `the stars`\n\n```text\nThey shine.\n```" in text


def test_what_the_server_says_of_itself_is_told_and_escaped() -> None:
    facts = ServerFacts(version="0.26.0", attention_backend="A|`B`", kv_tokens=128_528)
    text = report_md(make_record(server_facts=facts))
    assert "## What the server says of itself" in text
    assert "| KV cache | `128,528 tokens` |" in text
    assert "| Attention backend | `` A\\|`B` `` |" in text
    assert "What the server says of itself" not in report_md(make_record())
