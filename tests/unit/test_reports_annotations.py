"""Workflow commands, read back as the runner of GitHub Actions reads them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.domain.checks import Level, Outcome
from pytest_vllm.reports.annotations import MOST, annotate, command
from tests.unit.records import (
    HOSTILE,
    all_not_run,
    all_passed,
    hostile_record,
    make_failure,
    make_record,
    make_result,
)

ANY_TEXT = st.text(st.characters()) | st.text(alphabet="%:,\r\n#[]=D0A25 e")


@dataclass(frozen=True)
class Command:
    """A command as the runner takes it apart (actions/runner, ActionCommand.TryParseV2)."""

    name: str
    properties: dict[str, str]
    data: str


def read(line: str) -> Command:
    assert line == line.strip()
    assert len(line.splitlines()) == 1
    assert line.startswith("::")
    head, _, data = line[2:].partition("::")
    name, _, rest = head.partition(" ")
    pairs = [pair.split("=", 1) for pair in rest.split(",") if "=" in pair]
    assert len(pairs) == len(rest.split(","))
    return Command(
        name=name,
        properties={key: _unescape_property(value) for key, value in pairs},
        data=_unescape(data),
    )


def _unescape(text: str) -> str:
    return text.replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%")


def _unescape_property(text: str) -> str:
    return _unescape(text.replace("%3A", ":").replace("%2C", ","))


def test_a_promoted_image_is_a_notice() -> None:
    (line,) = annotate(make_record(), evidence=".vllm/x")
    seen = read(line)
    assert seen.name == "notice"
    title = "pytest-vllm PROMOTE rocm/vllm:0.32.0@sha256:9f86d081884c"
    assert seen.properties == {"title": title}
    assert seen.data == "61 checks passed, no MUST check failed. Evidence: .vllm/x"


def test_a_rejected_one_is_an_error_and_so_is_each_failed_must() -> None:
    failed = make_result("chat.a.b", Outcome.FAIL, "21 is not 20: see, 5 %")
    should = make_result("chat.c.d", Outcome.FAIL, "slow", level=Level.SHOULD)
    lines = annotate(make_record((*all_passed(), should, failed)))
    seen = [read(line) for line in lines]
    assert [item.name for item in seen] == ["error", "error", "warning"]
    assert seen[0].properties["title"].startswith("pytest-vllm REJECT")
    assert seen[1].properties["title"] == "MUST fail: chat.a.b"
    assert seen[1].data.endswith("21 is not 20: see, 5 %")
    assert seen[2].properties["title"] == "SHOULD fail: chat.c.d"


def test_an_open_verdict_is_a_warning() -> None:
    lines = annotate(make_record((make_result(outcome=Outcome.ERROR, message="no network"),)))
    assert [read(line).name for line in lines] == ["warning", "warning"]
    assert "INCONCLUSIVE" in lines[0]


def test_a_failed_start_says_what_to_do() -> None:
    lines = annotate(make_record(all_not_run(), failure=make_failure()))
    seen = [read(line) for line in lines]
    assert seen[1].properties["title"] == "The server did not start"
    assert "lower --max-model-len" in seen[1].data
    assert len(seen) == 2


def test_of_many_there_are_ten_of_a_kind_and_the_last_says_so() -> None:
    """GitHub shows ten of a kind; the verdict and failed MUST checks come first."""
    failed = [make_result(f"chat.a.n{n}", Outcome.FAIL, "no") for n in range(50)]
    weak = [make_result(f"chat.b.n{n}", Outcome.FAIL, "no", level=Level.SHOULD) for n in range(50)]
    seen = [read(line) for line in annotate(make_record((*weak, *failed)))]
    kinds = [item.name for item in seen]
    assert kinds == ["error"] * MOST + ["warning"] * MOST
    assert "REJECT" in seen[0].properties["title"]
    assert all(item.properties["title"].startswith("MUST") for item in seen[1:9])
    assert seen[MOST - 1].data.startswith("and 42 more")
    assert seen[-1].data.startswith("and 41 more")


@pytest.mark.parametrize(
    "text",
    [
        "x\n::stop-commands::t",
        "x\r::error::y",
        "a::add-mask::b",
        "##[stop-commands]t",
        "%0A::warning::z",
        "title,file=/etc/passwd,line=1",
        HOSTILE,
    ],
)
def test_hostile_text_cannot_end_its_command(text: str) -> None:
    seen = read(command("error", text, text))
    assert set(seen.properties) == {"title"}
    assert "\n" not in seen.data
    assert seen.data.split() == " ".join(seen.data.split()).split()


@given(title=ANY_TEXT, text=ANY_TEXT)
def test_any_text_is_read_back_as_it_was_meant(title: str, text: str) -> None:
    line = command("warning", title, text)
    seen = read(line)
    assert seen.name == "warning"
    assert list(seen.properties) == ["title"]
    assert command("warning", seen.properties["title"], seen.data) == line


def test_a_hostile_record_gives_only_our_commands() -> None:
    for line in annotate(hostile_record(), evidence=HOSTILE):
        assert read(line).name in {"error", "warning", "notice"}
