"""`report.md`, read back by a real parser of Markdown."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.observation import Observation, Sample
from pytest_vllm.domain.server_facts import ServerFacts
from pytest_vllm.reports.markdown import block, code, report_md
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
ANY_TEXT = st.text(st.characters()) | st.text(alphabet="`|\\\n <>*_~[](!)#&$a ")


def tokens(text: str) -> list[Token]:
    """Return all tokens, those inside lines too."""
    flat = []
    for token in PARSER.parse(text):
        flat += [token, *(token.children or [])]
    return flat


def test_a_passing_run_is_told() -> None:
    text = report_md(make_record(comparison=make_comparison(), warnings=("mind this",)))
    assert text.startswith("# ✅ PROMOTE\n\n- `61 checks passed, no MUST check failed`\n")
    for words in (
        f"| Image | `rocm/vllm:0.32.0@{DIGEST}` |",
        "| `stream` | 22 | 0 | 0 | 0 | 0 | 0 |",
        "| broken | `chat.usage.adds-up` | `pass` | `fail` |",
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
    assert "| not run | `not run: no server became ready` | 61 |" in text


def test_equal_reasons_are_told_together() -> None:
    absent = [make_result(f"chat.a.{n}", Outcome.NOT_APPLICABLE, "base model") for n in "xyz"]
    text = report_md(make_record((*all_passed(), *absent), deselected=("chat.left.out",)))
    assert "| not applicable | `base model` | 3 | `chat.a.x, chat.a.y, chat.a.z` |" in text
    assert "| deselected | by the user | 1 | `chat.left.out` |" in text


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
        assert len(row.split("|")) in (4, 5, 6, 9)


def test_a_huge_run_stays_below_the_limit_of_github() -> None:
    exchange = make_exchange(response_body="`" * 20_000, request_body="ü" * 20_000)
    failed = tuple(
        make_result(f"chat.a.n{n}", Outcome.FAIL, HOSTILE * 100, exchanges=(exchange,) * 6)
        for n in range(500)
    )
    text = report_md(make_record(failed, warnings=("w" * 600,) * 1000))
    assert len(text.encode()) < 2**20
    assert "more are left out here for their size" in text
    assert "## Settings" in text


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
    found = PARSER.parse(f"{block(text)}\n\nafter")
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
    assert "| Attention backend | `` A¦`B` `` |" in text
    assert "What the server says of itself" not in report_md(make_record())
