"""Where no signature helps, the line that says most is the first link of the innermost process."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.domain.diagnosis import TAIL_LINES, log_tail
from pytest_vllm.domain.root_cause import root_cause


def test_a_missing_command_in_the_container_is_a_cause() -> None:
    line = "[FATAL tini (7)] exec nonexistent failed: No such file or directory"
    assert root_cause([line]) == line


def test_an_exception_without_a_text_on_its_line_is_a_cause() -> None:
    assert root_cause(["Traceback (most recent call last):", "MemoryError", ""]) == "MemoryError"
    spread = ["RuntimeError: ", "", "        An attempt has been made to start a new process"]
    assert root_cause(spread) == "RuntimeError: An attempt has been made to start a new process"


def test_the_innermost_process_wins() -> None:
    log = [
        "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.",
        "(APIServer pid=1) ValueError: outer",
        "(EngineCore pid=2) ERROR 11-22 16:06:24 [core.py:1] RuntimeError: middle",
        "(Worker_TP0 pid=3) ERROR 11-22 16:06:29 [x.py:9] torch.OutOfMemoryError: inner",
    ]
    assert root_cause(log) == "torch.OutOfMemoryError: inner"


def test_the_end_of_a_pipe_is_no_cause_where_a_process_says_more() -> None:
    log = [
        "(Worker pid=3) ERROR 11-22 16:06:29 [x.py:9] BrokenPipeError: [Errno 32] Broken pipe",
        "(APIServer pid=1) ValueError: outer",
    ]
    assert root_cause(log) == "ValueError: outer"


def test_a_retry_that_failed_is_told_without_its_count() -> None:
    assert root_cause(["ValueError: no such file, retrying 1 of 2"]) == "ValueError: no such file"


def test_the_tail_has_no_empty_lines_and_no_colours() -> None:
    assert len(log_tail(["a", "", "\x1b[31mb\x1b[0m", "  "] + ["c"] * 30)) == TAIL_LINES
    assert log_tail(["a", "", "\x1b[31mb\x1b[0m", "  "]) == ("a", "b")


@given(st.lists(st.text(max_size=40), max_size=8))
def test_no_log_breaks_it(lines: list[str]) -> None:
    assert isinstance(root_cause(lines), str)
