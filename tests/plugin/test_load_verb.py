"""`pytest-vllm load` as a process: what it prints and writes, how it ends, and every mistake."""

from __future__ import annotations

import csv
import json
import os
import pty
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.cli import main
from pytest_vllm.domain.load.progress import Progress
from pytest_vllm.reports.progress import LoadView
from tests.defects.acceptance import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SMALL = "prompt_tokens = 20\noutput_tokens = {uniform = {least = 2, most = 6}}\n"
LIMIT_S = 300
WRITTEN = "<all was written>"
STATE = Progress(
    elapsed_s=12.0,
    planned=100,
    sent=48,
    in_flight=8,
    done=39,
    failed=1,
    events=4000,
    events_per_s=900,
    tokens_per_s=1234.0,
    ttft_p50_ms=56.0,
)


@dataclass(frozen=True, kw_only=True)
class Answer:
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """URL of a healthy simulator."""
    with serving(None) as url:
        yield url


@pytest.fixture
def workload(tmp_path: Path) -> str:
    (tmp_path / "small.toml").write_text(SMALL)
    return str(tmp_path / "small.toml")


def load(*words: str, folder: Path | None = None) -> Answer:
    done = subprocess.run(
        [sys.executable, "-m", "pytest_vllm", "load", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
        cwd=folder,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return Answer(code=done.returncode, out=done.stdout, err=done.stderr)


def read_csv(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as rows:
        return list(csv.DictReader(rows))


def test_a_load_is_measured_beside_the_clients_own_error(
    server: str, workload: str, tmp_path: Path
) -> None:
    written, saved = tmp_path / "out.json", tmp_path / "columns"
    answer = load(
        f"--url={server}",
        f"--workload={workload}",
        "--concurrency=2",
        "--requests=12",
        "--warm-up=2",
        "--slo=e2el=100s,goodput=100%,ttft-p50=90s,ttft-p99=90s",
        f"--json={written}",
        f"--save={saved}",
    )
    assert answer.code == 75, answer.out + answer.err  # the p99 needs 662 requests
    assert answer.out.startswith("small: 2 at a time\n")
    assert "12 issued, none failed" in answer.out
    assert "refused: 12 of 662" in answer.out
    assert "Calibrated" in answer.out
    assert "ignore_eos: every answer has as many tokens as were asked for" in answer.out
    assert "SLO         kept: goodput" in answer.out
    assert "cannot tell: ttft-p99" in answer.out
    assert max(map(len, answer.out.splitlines())) <= 80
    assert "calibrates the client for 2 streams" in answer.err
    found: dict[str, Any] = json.loads(written.read_text())
    (level,) = found["levels"]
    assert level["plan"]["workload"]["prompt_tokens"] == 20
    assert level["calibration"]["streams"] == 2
    assert level["measurement"]["requests"] == 12
    assert [one["held"] for one in level["objectives"]] == ["kept", "kept", "cannot tell"]
    rows = read_csv(saved / "level-2.requests.csv")
    assert [row["warm_up"] for row in rows] == ["1"] * 2 + ["0"] * 12
    assert {row["prompt_tokens"] for row in rows} == {"20"}
    assert all(row["completion_tokens"] == row["asked_tokens"] for row in rows)
    events = read_csv(saved / "level-2.events.csv")
    assert len(events) == sum(int(row["completion_tokens"]) for row in rows)
    again = load(f"--url={server}", f"--json={written}")
    assert (again.code, "nothing is overwritten" in again.err) == (4, True)


def test_a_sweep_ends_in_a_table_and_one_level_that_keeps_the_slo_is_enough(
    server: str, workload: str
) -> None:
    answer = load(
        f"--url={server}",
        f"--workload={workload}",
        "--sweep=1,3",
        "--requests=6",
        "--slo=e2el=100s,goodput=100%",
        "--no-calibrate",
    )
    assert answer.code == 0, answer.out + answer.err
    table = answer.out[answer.out.rindex("load ") :]
    assert [line.split()[0].rstrip("*") for line in table.splitlines()[1:3]] == ["1", "3"]
    missed = load(
        f"--url={server}", f"--workload={workload}", "--requests=6", "--slo=e2el=1us",
        "--no-calibrate",
    )  # fmt: skip
    assert missed.code == 1
    assert "SLO         missed: goodput at least 99.0%: 0 of 6" in missed.out


def test_an_open_loop_counts_from_when_requests_were_due(server: str, workload: str) -> None:
    answer = load(
        f"--url={server}",
        f"--workload={workload}",
        "--rate=40",
        "--burstiness=0.5",
        "--ramp=0.2",
        "--requests=12",
        "--no-calibrate",
    )
    assert answer.code == 0, answer.out + answer.err
    assert answer.out.startswith("small: 40 a second, gamma of burstiness 0.5, rising over 0.2 s\n")
    assert "TTFT sched." in answer.out


def test_a_trace_sends_all_its_rows(server: str, tmp_path: Path) -> None:
    rows = [{"timestamp": 20 * n, "input_length": 30, "output_length": 3} for n in range(7)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    answer = load(
        f"--url={server}", "--workload=t.jsonl", "--pattern=trace", "--speed=2", "--no-calibrate",
        folder=tmp_path,
    )  # fmt: skip
    assert answer.code == 0, answer.out + answer.err
    assert "t: as recorded, 2 times as fast" in answer.out
    assert "7 issued, none failed" in answer.out


def test_a_dozen_good_requests_do_not_show_99_percent(server: str, workload: str) -> None:
    words = (f"--url={server}", f"--workload={workload}", "--requests=6", "--no-calibrate")
    answer = load(*words, "--slo=e2el=100s")
    assert answer.code == 75, answer.out + answer.err
    said = " ".join(answer.out.split())
    assert "SLO cannot tell: goodput at least 99.0%: 6 of 6 requests were good" in said
    assert "381 requests with this share would tell" in said


def test_a_stream_that_loses_a_token_fails(tmp_path: Path) -> None:
    (tmp_path / "long.toml").write_text("prompt_tokens = 20\noutput_tokens = 16\n")
    with serving("chunk-dropped") as url:
        answer = load(
            f"--url={url}", "--workload=long.toml", "--requests=4", "--no-calibrate",
            folder=tmp_path,
        )  # fmt: skip
    assert answer.code == 1, answer.out + answer.err
    assert "4 issued, 4 failed: 4 miscounted" in answer.out
    assert "such as 15 and 16 of request" in " ".join(answer.out.split())


def test_failures_are_counted_shown_and_fail(workload: str) -> None:
    with serving("done-missing") as url:
        answer = load(f"--url={url}", f"--workload={workload}", "--requests=8", "--no-calibrate")
    assert answer.code == 1, answer.out + answer.err
    assert "8 issued, 8 failed: 8 truncated" in answer.out
    assert "Failed      request 0: the stream ended without [DONE]" in answer.out


def test_ctrl_c_ends_it_and_keeps_the_levels_that_were_measured(
    server: str, workload: str, tmp_path: Path
) -> None:
    written = tmp_path / "out.json"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "pytest_vllm", "load", f"--url={server}"),
            *(f"--workload={workload}", "--pattern=constant", "--sweep=50,0.01"),
            *("--requests=5", "--warm-up=1", "--no-calibrate", f"--json={written}"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "0.01 a second, constant: loads" in line:
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130, err
    assert "stopped by Ctrl-C\n1 of 2 levels were measured" in err
    assert "Traceback" not in err
    assert "5 issued, none failed" in out
    assert [level["level"] for level in json.loads(written.read_text())["levels"]] == ["50"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 4, "the following arguments are required: --url"),
        (("--url=x", "--sloo=1"), 4, "no option --sloo; did you mean --slo?"),
        (("--url=x", "more"), 4, "load takes no 'more'"),
        (("--url=x", "--workload=shrt"), 4, "no workload 'shrt'; did you mean short?"),
        (("--url=x", "--workload=none.toml"), 4, "cannot read workload none.toml"),
        (("--url=x", "--workload=none.jsonl"), 4, "cannot read the prompts of none.jsonl"),
        (("--url=x",), 4, "'x' is not the URL"),
        (("--url=http://127.0.0.1:1",), 75, "gives no answer"),
        (("--url=x", "--slo=ttft"), 4, "--slo: cannot read 'ttft'"),
        (("--url=x", "--slo=tpt=1s"), 4, "did you mean tpot"),
        (("--url=x", "--sweep=1,1"), 4, "--sweep: 1,1 names a level twice"),
        (("--url=x", "--timeout=0"), 4, "--timeout: 0 seconds"),
        (("--url=x", "--concurrency=many"), 4, "invalid int value: 'many'"),
        (("--url=x", "--api-key-env=NOT_SET_"), 4, "variable NOT_SET_ is not set"),
        (("--url=x", "--json=no/such/folder.json"), 4, "--json: there is no folder no/such"),
        (("--url=x", "--pattern=trace"), 4, "workload short is no trace"),
        (("--url=x", "--rate=nan"), 4, "--rate: nan"),
    ],
)
def test_mistakes_are_told_in_two_lines(
    words: tuple[str, ...], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["load", *words]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err
    assert printed.err.startswith("ERROR: ")
    assert len(printed.err.splitlines()) <= 2


def test_a_folder_with_something_in_it_is_left_alone(server: str, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    answer = load(f"--url={server}", f"--save={tmp_path}")
    assert (answer.code, "is not empty" in answer.err) == (4, True)
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


def test_the_help_names_every_workload_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["load", "--help"]) == 0
    out = capsys.readouterr().out
    assert "long-context" in out
    assert "exit code: 0; 1 requests failed" in out
    assert max(map(len, out.splitlines())) <= 100


# --- the live line --------------------------------------------------------------------------------


def test_without_a_terminal_a_line_comes_every_ten_seconds(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+") as stream:
        with LoadView(stream, live=False, color=False, title="8 at a time") as view:
            for elapsed_s in (0.5, 9.5, 10.5, 12.0, 20.6):
                view.update(Progress(**{**_fields(STATE), "elapsed_s": elapsed_s}))
        stream.seek(0)
        said = stream.read().splitlines()
    assert said == [
        f"vllm: {time} s  8 at a time  40/100  8 in flight  1,234 tok/s  TTFT p50 56 ms  1 error"
        for time in ("10", "21")
    ]


@pytest.mark.parametrize(
    ("columns", "titled", "barred"), [(70, False, False), (90, True, False), (130, True, True)]
)
def test_a_terminal_gets_one_line_that_fits(columns: int, *, titled: bool, barred: bool) -> None:
    master, slave = pty.openpty()
    _resize(slave, columns)
    with os.fdopen(slave, "w") as stream:
        with LoadView(stream, live=True, color=False, title="8 at a time") as view:
            view.update(STATE)
        stream.write(WRITTEN)
        stream.flush()
        seen = _read(master)
    os.close(master)
    assert "8 in flight" in seen
    assert "1,234 tok/s" in seen
    assert ("8 at a time" in seen) == titled
    assert ("━" in seen) == barred


def test_before_the_first_token_and_without_counts() -> None:
    from pytest_vllm.reports.progress import progress_words  # noqa: PLC0415

    early = Progress(**{**_fields(STATE), "tokens_per_s": None, "ttft_p50_ms": None, "failed": 0})
    assert progress_words(early) == "8 in flight  900 events/s  no token yet  0 errors"


def _fields(state: Progress) -> dict[str, Any]:
    return {name: getattr(state, name) for name in state.__dataclass_fields__}


def _read(terminal: int) -> str:
    """Read all that was written: one read gives what the kernel has passed on so far."""
    seen = b""
    while WRITTEN.encode() not in seen:
        seen += os.read(terminal, 65536)
    return seen.decode()


def _resize(terminal: int, columns: int) -> None:
    import fcntl  # noqa: PLC0415
    import struct  # noqa: PLC0415
    import termios  # noqa: PLC0415

    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
