"""The screen at the end of a run, and the line during its start."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from pytest_vllm.domain.checks import Level, Outcome
from pytest_vllm.domain.observation import Sample
from pytest_vllm.domain.phases import Progress, StartState
from pytest_vllm.domain.record import WaiverUse
from pytest_vllm.domain.settings import Setting
from pytest_vllm.reports.terminal import StartupView, summary
from tests.unit.records import (
    DIGEST,
    all_not_run,
    all_passed,
    hostile_record,
    make_comparison,
    make_failure,
    make_record,
    make_result,
)

if TYPE_CHECKING:
    from pytest_vllm.domain.record import RunRecord

EVIDENCE = ".vllm/20261122-181930-3fa9c1"
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def show(record: RunRecord, *, width: int = 80, color: bool = False) -> str:
    return summary(record, width=width, color=color, evidence=EVIDENCE)


def failing_record() -> RunRecord:
    failed = [
        make_result(f"chat.point{number}.fails", Outcome.FAIL, f"saw {number}, " + "words " * 40)
        for number in range(8)
    ]
    errored = make_result("stream.point.errs", Outcome.ERROR, "timed out")
    return make_record(
        (*all_passed(), *failed, errored),
        comparison=make_comparison(),
        warnings=("the tag can change " * 5,) * 5,
    )


def start_failure_record() -> RunRecord:
    return make_record(
        all_not_run(), failure=make_failure(), phases=make_record().phases[:4], warnings=("old",)
    )


def test_a_passing_run_is_one_short_screen_with_the_verdict_first() -> None:
    text = show(make_record(comparison=make_comparison(), warnings=("one", "two", "three")))
    lines = text.splitlines()
    assert lines[0].strip("=") == " PROMOTE "
    assert "61 checks passed" in lines[1]
    assert len(lines) <= 24


def test_it_names_target_time_table_and_evidence() -> None:
    text = show(make_record(comparison=make_comparison()))
    for words in (
        "rocm/vllm:0.32.0@sha256:9f86d081884c\n",
        "SmolLM2-135M-Instruct, 2048 tokens of context",
        "0.32.0 (backend docker, http://127.0.0.1:8000)",
        "none known: sysfs: there is no /sys/class/drm",
        "41.7 s (start-up 16.0 s, checks 12.2 s)",
        "load 2.0, compile 2.0",
        "1 broken, 0 gone, 0 new, 1 fixed since 20261121-101010-aabbcc",
        f"{EVIDENCE}  (read report.md first)",
    ):
        assert words in text
    assert re.search(r"^stream +22 +- +- +- +-$", text, re.MULTILINE)
    assert re.search(r"^all +61 +- +- +- +-$", text, re.MULTILINE)


def test_a_failing_run_fits_a_screen_and_says_how_to_repeat_it() -> None:
    text = show(failing_record())
    lines = text.splitlines()
    assert lines[0].strip("=") == " REJECT "
    assert len(lines) <= 40
    assert "chat.point0.fails: saw 0" in text
    assert "  and 3 more\n" in text
    assert "(and 3 more warnings)" in text
    assert f"sh {EVIDENCE}/checks/chat.point0.fails/replay.sh\n" in text


def test_a_failed_start_shows_cause_state_advice_and_log() -> None:
    text = show(start_failure_record())
    lines = text.splitlines()
    assert lines[0].strip("=") == " REJECT "
    assert lines[1].startswith("The server did not start: exit code 1, last phase: load")
    assert "Cause     ValueError: max seq len" in text
    assert "Fix       lower --max-model-len" in text
    assert text.count("  | (EngineCore pid=7) line number") == 12
    assert "line number 19" in text
    assert "61 not run" in text
    assert "41.7 s (start-up 8.0 s)\n" in text
    assert "read server.log first" in text
    assert "(131072)" in text
    assert len(lines) <= 40


def test_a_failed_host_does_not_blame_the_image() -> None:
    failure = make_failure(kind="host", message="no engine", tail=(), exit_code=None, phase="")
    text = show(make_record(all_not_run(), failure=failure, phases=()))
    assert "= INCONCLUSIVE =" in text
    assert "the host is to blame, not the image" in text
    assert "read report.md first" in text


def test_a_run_that_ended_early_is_inconclusive() -> None:
    text = show(make_record(all_passed()[:3], interrupted="interrupted by a signal"))
    assert "= INCONCLUSIVE =" in text
    assert "the run was ended early: interrupted by a signal" in text


def test_an_image_without_digest_is_named_by_its_id() -> None:
    text = show(make_record(launch={"image": {"runs": DIGEST}}))
    assert "rocm/vllm:0.32.0 (image ID sha256:9f86d081884c)\n" in text
    assert "rocm/vllm:0.32.0\n" in show(make_record(launch={}))


def test_an_interpreter_is_named() -> None:
    text = show(make_record(launch={"python": "/opt/venv/bin/python"}, backend="process"))
    assert "0.32.0 (backend process, http://127.0.0.1:8000)\n" in text
    assert "Python    /opt/venv/bin/python\n" in text


def test_gpus_of_a_kind_are_counted() -> None:
    gpu = {"name": "AMD Instinct MI300X", "gfx": "gfx942", "vram_total_bytes": 206141652992}
    gpus = {"monitor": "amd", "reason": "", "gpus": [gpu] * 8}
    text = show(make_record(gpus=gpus))
    assert "8 x AMD Instinct MI300X gfx942 192.0 GiB (by amd)" in text


def test_no_facts_are_no_reason_to_fail() -> None:
    bare = make_record((), server=None, phases=(), gpus={}, launch={}, settings=(), environment={})
    assert "none ran" in show(bare)
    assert "none known: nobody looked" in show(bare)


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("make", [make_record, failing_record, start_failure_record])
def test_nothing_but_what_is_to_be_copied_is_wider_than_the_terminal(
    make: object, width: int
) -> None:
    assert callable(make)
    for line in show(make(), width=width).splitlines():
        assert cell_len(line) <= width or line.startswith(("Evidence", "Repeat"))


def test_colour_says_nothing_that_the_text_does_not() -> None:
    for record in (make_record(), failing_record(), start_failure_record(), hostile_record()):
        coloured = show(record, color=True)
        assert "\x1b[" in coloured
        assert ANSI.sub("", coloured) == show(record)


def test_the_verdict_has_its_colour() -> None:
    assert "\x1b[1;37;42m" in show(make_record(), color=True)
    assert "\x1b[1;37;41m" in show(failing_record(), color=True)
    assert "\x1b[1;30;43m" in show(make_record(()), color=True)


def test_foreign_text_is_shown_and_never_obeyed() -> None:
    text = show(hostile_record(), width=400)
    assert "\x1b" not in text
    assert "\x00" not in text
    assert "\u202e" not in text
    assert "[bold]markup[/bold]" in text
    assert r"\x00 \ud800 \u202e rtl" in text
    text.encode("utf-8")
    assert len(text.splitlines()) <= 40


@given(st.text(st.characters()), st.integers(20, 150))
def test_any_message_is_shown(message: str, width: int) -> None:
    record = make_record((make_result("chat.a.b", Outcome.FAIL, message),))
    text = show(record, width=width)
    text.encode("utf-8")
    assert "REJECT" in text.splitlines()[0]


def test_many_suites_stay_on_one_screen() -> None:
    results = tuple(make_result(f"suite{number}.a.b") for number in range(30))
    failed = make_result("suite29.c.d", Outcome.FAIL, "odd", level=Level.SHOULD)
    text = show(make_record((*results, failed)))
    assert len(text.splitlines()) <= 24
    assert "24 more suites" in text
    assert re.search(r"^suite29 +1 +1 ", text, re.MULTILINE)
    assert re.search(r"^all +30 +1 ", text, re.MULTILINE)


def test_waivers_get_a_column_when_there_are_some() -> None:
    assert "waived" not in show(make_record())
    assert "waived" in show(make_record((*all_passed(), make_result("chat.a.b", Outcome.WAIVED))))


def test_phases_are_plain_lines_without_a_terminal() -> None:
    stream = io.StringIO()
    with StartupView(stream, live=False, color=False) as view:
        for phase, at_s, line in (
            ("start", 0.0, ""),
            ("start", 0.5, ""),
            ("load", 12.34, "\x1b[31mLoading\x1b[0m\x00"),
            ("load", 60.0, "x"),
            ("load", 72.4, "\x1b[31mLoading\x1b[0m\x00 [bold] " + "y" * 500),
            ("load", 100.0, "x"),
            ("load", 132.4, ""),
            ("ready", 140.0, ""),
        ):
            view.update(StartState(phase=phase, elapsed_s=at_s, line=line))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "vllm: 0.0 s  start"
    assert lines[1] == "vllm: 12.3 s  load"
    assert lines[2].startswith(r"vllm: 72.4 s  load, still | Loading\x00 [bold] yyy")
    assert len(lines[2]) < 170
    assert lines[3:] == ["vllm: 132.4 s  load, still", "vllm: 140.0 s  ready"]


def test_a_terminal_gets_one_line_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = io.StringIO()
    with StartupView(stream, live=True, color=False) as view:
        view.update(StartState(phase="start", elapsed_s=0.0))
        view.update(StartState(phase="load", elapsed_s=3.0, line="\x1b[2J[bold]Loading"))
    text = stream.getvalue()
    assert "load" in text
    assert "\x1b[2J" not in text
    assert "[bold]Loading" in text
    assert "\x1b[?25l" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert text.endswith("vllm: load after 3.0 s\n")


def test_what_is_counted_stands_beside_the_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    states = (
        StartState(
            phase="load",
            elapsed_s=3.0,
            line="Loading",
            progress=Progress(done=3, total=9, unit="shards"),
        ),
        StartState(
            phase="download",
            elapsed_s=70.0,
            progress=Progress(done=3 * 2**30, total=None, unit="bytes"),
        ),
        StartState(
            phase="download",
            elapsed_s=140.0,
            progress=Progress(done=2**30, total=4 * 2**30, unit="bytes"),
        ),
    )
    for live in (True, False):
        stream = io.StringIO()
        with StartupView(stream, live=live, color=False) as view:
            for state in states:
                view.update(state)
                if live:
                    view._live.refresh()  # else the clock of another thread draws it
        text = re.sub(r"\x1b\[\d*m", "", stream.getvalue())
        if live:
            assert "load  [######..............] 3/9 shards  Loading" in text
            assert "download  3.00 GiB" in text
            assert "download  [#####...............] 1.00 of 4.00 GiB" in text
        else:
            assert text.splitlines() == [
                "vllm: 3.0 s  load",
                "vllm: 70.0 s  download",
                "vllm: 140.0 s  download (1.00 of 4.00 GiB), still",
            ]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_the_cursor_comes_back_whatever_happens(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = io.StringIO()
    view = StartupView(stream, live=True, color=True)

    def start() -> None:
        with view:
            view.update(StartState(phase="load", elapsed_s=3.0, line="line"))
            raise error

    with pytest.raises(error):
        start()
    view.close()
    text = stream.getvalue()
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert "after" not in text


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = io.StringIO()
    with StartupView(stream, live=True, color=False) as view:
        view.update(StartState(phase="load", elapsed_s=3.0, line="line"))
    assert stream.getvalue() == "vllm: 3.0 s  load\n"


def test_a_stream_that_knows_few_characters_gets_their_codes() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    with StartupView(stream, live=False, color=False) as view:
        view.update(StartState(phase="load", elapsed_s=0.0))
        view.update(StartState(phase="load", elapsed_s=60.0, line="日本"))
    assert raw.getvalue().endswith(b"still | \\u65e5\\u672c\n")


def test_what_the_model_wrote_is_shown_for_a_person_to_judge() -> None:
    sample = Sample(title="story", prompt="San Francisco is a", text=" city by\nthe bay\x1b[31m")
    text = show(make_record(samples=(sample,) * 3))
    line = "Sample    'San Francisco is a' -> ' city by\\nthe bay\\x1b[31m'"
    assert text.count("San Francisco is a") == 2
    assert line in text


@pytest.mark.parametrize(
    ("words", "first"),
    [
        ((), "report.html"),
        (("junit", "md"), "report.md"),
        (("md,html",), "report.html"),
        (("none",), "run.json"),
    ],
)
def test_what_to_read_first_is_what_was_written(words: tuple[str, ...], first: str) -> None:
    asked = (Setting(name="report", value=words, source="option"),)
    assert f"(read {first} first)" in show(make_record(settings=asked))


def test_what_is_waived_is_named_where_the_verdict_does_not_name_it() -> None:
    """Of a promotion the reasons do; of all others the reasons tell what is worse."""
    use = WaiverUse(
        check="chat.a.b",
        reason="known",
        link="https://example.org/1",
        expires="2027-01-31",
        waived=("chat.a.b[x]",),
    )
    waived = make_result("chat.a.b", Outcome.WAIVED, case="x")
    results = (*all_passed(), waived)
    line = "Waived    chat.a.b[x] until 2027-01-31"
    assert line not in show(make_record(results, waivers=(use,)))
    worse = (*results, make_result("chat.c.d", Outcome.FAIL, "21 is not 20"))
    assert line in show(make_record(worse, waivers=(use,)))
