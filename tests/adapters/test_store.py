"""The evidence folder: complete, atomic, without secrets, and readable again."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import stat
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.adapters.runs import read_baseline, read_run
from pytest_vllm.adapters.store import EvidenceFolder, new_run_id
from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.errors import HostError, TargetError
from pytest_vllm.domain.record import to_json
from pytest_vllm.domain.server import ServerInfo
from pytest_vllm.domain.settings import Setting
from pytest_vllm.reports.junit import junit_xml
from pytest_vllm.reports.markdown import report_md
from tests.unit.records import hostile_record, make_exchange, make_record, make_result

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_vllm.domain.record import RunRecord

    Files = dict[str, str | Callable[[RunRecord], str]]

RUN_ID = "20261122-181930-3fa9c1"
REPORTS: Files = {"junit.xml": junit_xml, "report.md": report_md}
SECRETS = ("hf_abcdefghijklmnopqrstuvwx", """pä"ss&w<o'rd\\1""", "plain-api-key-1")


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_run_is_named_by_time_and_chance() -> None:
    now = dt.datetime(2026, 11, 22, 18, 19, 30, tzinfo=dt.UTC)
    assert new_run_id(now, "3FA9C1") == RUN_ID
    assert re.fullmatch(r"[a-z0-9-]+", RUN_ID)


def test_all_evidence_is_written(tmp_path: Path) -> None:
    failed = make_result("chat.a.b", Outcome.FAIL, "no", case="stream")
    record = make_record((failed, make_result("chat.c.d")))
    folder = EvidenceFolder.create(tmp_path / "runs", RUN_ID)
    files: Files = {**REPORTS, "compose.json": "{}", "plans/more.txt": "more"}
    folder.write(record, files=files, log_lines=["one", "zwei ü"])
    assert folder.path == tmp_path / "runs" / RUN_ID
    assert names(folder.path) == {
        "run.json",
        "junit.xml",
        "report.md",
        "compose.json",
        "plans/more.txt",
        "server.log",
        "checks/chat.a.b-stream/exchange.json",
        "checks/chat.a.b-stream/replay.sh",
    }
    assert (folder.path / "server.log").read_text(encoding="utf-8") == "one\nzwei ü\n"
    exchange = json.loads(
        (folder.path / "checks/chat.a.b-stream/exchange.json").read_text(encoding="utf-8")
    )
    assert exchange["check"] == "chat.a.b[stream]"
    assert exchange["exchanges"][0]["response_body"] == '{"usage": {"total_tokens": 21}}'
    script = folder.path / "checks/chat.a.b-stream/replay.sh"
    assert stat.S_IMODE(script.stat().st_mode) == 0o755
    assert read_run(str(folder.path)).record == record
    assert read_run(str(folder.path / "run.json")).record == record


def test_git_ignores_a_root_that_we_made_and_no_other(tmp_path: Path) -> None:
    EvidenceFolder.create(tmp_path / "a/b", RUN_ID)
    assert (tmp_path / "a/b/.gitignore").read_text(encoding="utf-8") == "*\n"
    assert not (tmp_path / "a/.gitignore").exists()
    EvidenceFolder.create(tmp_path, RUN_ID)
    assert not (tmp_path / ".gitignore").exists()


def test_an_earlier_run_is_never_overwritten(tmp_path: Path) -> None:
    made = [EvidenceFolder.create(tmp_path, RUN_ID).path.name for _ in range(3)]
    assert made == [RUN_ID, f"{RUN_ID}-2", f"{RUN_ID}-3"]


def test_writing_again_replaces_whole_files(tmp_path: Path) -> None:
    folder = EvidenceFolder.create(tmp_path, RUN_ID)
    for backend in ("docker", "process"):
        folder.write(make_record(backend=backend), files={}, log_lines=[])
    assert read_run(str(folder.path)).record.backend == "process"
    assert names(folder.path) == {"run.json"}


def test_an_unused_folder_can_be_taken_away(tmp_path: Path) -> None:
    empty = EvidenceFolder.create(tmp_path, RUN_ID)
    empty.discard_if_empty()
    assert not empty.path.exists()
    used = EvidenceFolder.create(tmp_path, RUN_ID)
    used.write(make_record(), files={}, log_lines=[])
    used.discard_if_empty()
    assert (used.path / "run.json").exists()


def test_a_file_in_the_way_is_named_with_the_option(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for root in (tmp_path / "file", tmp_path / "file/below", tmp_path / "\0"):
        with pytest.raises(TargetError, match="--vllm-artifacts"):
            EvidenceFolder.create(root, RUN_ID)


def test_a_folder_that_cannot_be_written_is_named_with_the_option() -> None:
    """`/proc` refuses everybody, root too."""
    from pathlib import Path  # noqa: PLC0415 - elsewhere only a type

    with pytest.raises(TargetError, match="--vllm-artifacts: cannot make a folder in /proc"):
        EvidenceFolder.create(Path("/proc"), RUN_ID)


def test_a_folder_that_vanished_is_an_error_of_the_host(tmp_path: Path) -> None:
    folder = EvidenceFolder.create(tmp_path, RUN_ID)
    folder.path.rmdir()
    folder.path.write_text("in the way", encoding="utf-8")
    with pytest.raises(HostError, match="cannot write evidence"):
        folder.write(make_record(), files={}, log_lines=[])


def test_a_name_outside_the_folder_is_refused(tmp_path: Path) -> None:
    folder = EvidenceFolder.create(tmp_path, RUN_ID)
    for name in ("../x", "/x", "", "a/../../x"):
        with pytest.raises(ValueError, match="evidence folder"):
            folder.write(make_record(), files={name: "x"}, log_lines=[])


@pytest.mark.parametrize("secret", SECRETS)
def test_no_file_holds_a_secret(tmp_path: Path, secret: str) -> None:
    exchange = make_exchange(
        url=f"http://h/{secret}",
        request_headers=(("x-key", secret), ("authorization", f"Bearer {secret}")),
        request_body=json.dumps({"prompt": secret}),
        response_body=f"You said {secret}",
        failure=f"reset: {secret}",
    )
    results = tuple(
        make_result(
            f"chat.x.{kind.name}", kind, f"saw {secret}", case=secret, exchanges=(exchange,)
        )
        for kind in Outcome
    )
    record = make_record(
        results,
        settings=(Setting(name="serve-arg", value=(f"--api-key={secret}",), source="option"),),
        launch={"command": ["vllm", "serve", secret], secret: secret},
        warnings=(secret,),
        environment={"x": secret},
    )
    folder = EvidenceFolder.create(tmp_path, RUN_ID, secrets=[secret])
    files: Files = {**REPORTS, "compose.json": json.dumps({"environment": {"KEY": secret}})}
    folder.write(record, files=files, log_lines=[f"api_key='{secret}'", secret])
    written = names(folder.path)
    assert len(written) == 9
    for name in written:
        text = (folder.path / name).read_text(encoding="utf-8")
        assert secret not in text, name
        assert secret[:-4] not in text, name
        assert "[redacted]" in text, name
    assert not any(secret in str(path) for path in folder.path.rglob("*"))
    assert secret not in to_json(folder.redacted(record))


def test_hostile_text_gives_a_whole_folder(tmp_path: Path) -> None:
    folder = EvidenceFolder.create(tmp_path, RUN_ID)
    folder.write(hostile_record(), files=REPORTS, log_lines=["\ud800", "\x00"])
    for path in folder.path.rglob("*"):
        assert path.resolve().is_relative_to(folder.path.resolve())
        if path.is_file():
            path.read_bytes().decode("utf-8")
    assert (folder.path / "server.log").read_bytes() == b"\\ud800\n\x00\n"
    assert len(list(folder.path.glob("checks/*/replay.sh"))) == 2


def test_two_cases_with_odd_names_do_not_share_a_folder(tmp_path: Path) -> None:
    cases = ("a/b", "a b", "../../x", "", "a", "a", "x" * 300)
    results = tuple(make_result("chat.a.b", Outcome.FAIL, "no", case=case) for case in cases)
    folder = EvidenceFolder.create(tmp_path, RUN_ID)
    folder.write(make_record(results), files={}, log_lines=[])
    assert len(list((folder.path / "checks").iterdir())) == len(cases)
    assert names(tmp_path) == {f"{RUN_ID}/{name}" for name in names(folder.path)}


def test_the_replay_script_repeats_the_request_with_the_key(tmp_path: Path) -> None:
    seen: list[tuple[str | None, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            seen.append((self.headers["authorization"], body))
            self.send_response(401)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        body = '{"prompt": "It\'s 日本 \\u0000 $x"}'
        exchange = make_exchange(url=f"{url}/v1/completions", request_body=body)
        info = ServerInfo(
            url=url,
            model="m",
            served_names=("m",),
            max_model_len=None,
            version="",
            capabilities=(),
            absent={},
            owned=False,
            api_key_env="MY_KEY",
        )
        failed = make_result("chat.a.b", Outcome.FAIL, "no", exchanges=(exchange,))
        folder = EvidenceFolder.create(tmp_path, RUN_ID, secrets=["the-real-key"])
        folder.write(make_record((failed,), server=info), files={}, log_lines=[])
        done = subprocess.run(
            [str(folder.path / "checks/chat.a.b/replay.sh")],
            env={"PATH": os.environ["PATH"], "MY_KEY": "the-real-key", "NO_PROXY": "*"},
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert "401" in done.stdout
    assert seen == [("Bearer the-real-key", body.encode())]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("run.json", None, "there is no"),
        ("run.json", b"\xff\xfe", "is not a text"),
        ("run.json", b"{}", "its key schema is None"),
        ("run.json", b'{"schema": 99}', "was written by a newer pytest-vllm"),
        ("run.json", b"{", "not a readable run record"),
        ("other", None, "there is no"),
    ],
)
def test_a_baseline_that_cannot_be_read_is_named_with_the_option(
    tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    path = tmp_path if name == "run.json" else tmp_path / name
    with pytest.raises(TargetError, match="--vllm-baseline") as caught:
        read_baseline(str(path), root=tmp_path)
    assert words in caught.value.message
    assert caught.value.advice


@pytest.mark.parametrize("path", ["\0", "x" * 5000, "~nobody-has-this-name/x", "/proc/self/mem"])
def test_an_odd_baseline_is_no_traceback(path: str, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="--vllm-baseline"):
        read_baseline(path, root=tmp_path)


def test_a_report_that_cannot_be_made_costs_nothing_else(tmp_path: Path) -> None:
    """The evidence of hours is not lost to the bug of one page; what is missing is said."""

    def broken(_: RunRecord) -> str:
        raise TargetError("report.html cannot be made", advice="report it")

    folder = EvidenceFolder.create(tmp_path, "run")
    files = {"report.html": broken, "report.md": report_md}
    (problem,) = folder.write(make_record(), files=files, log_lines=())
    assert problem == "report.html cannot be made\n  fix: report it"
    assert {path.name for path in folder.path.iterdir()} == {"report.md", "run.json"}


def test_reports_are_made_of_what_can_be_read_again(tmp_path: Path) -> None:
    """Not of the record in memory, where NaN is a number and a tuple is no list."""
    seen: list[RunRecord] = []

    def look(record: RunRecord) -> str:
        seen.append(record)
        return "x"

    folder = EvidenceFolder.create(tmp_path, "run")
    launch = {"command": ("a", "b"), "share": float("nan"), 5: "five"}
    folder.write(make_record(launch=launch), files={"x": look}, log_lines=())
    assert seen == [read_run(str(folder.path)).record]
    assert seen[0].launch == {"command": ["a", "b"], "share": "nan", "5": "five"}


def test_digits_of_a_secret_do_not_break_the_numbers_of_the_record(tmp_path: Path) -> None:
    folder = EvidenceFolder.create(tmp_path, "run", secrets=("123456",))
    record = make_record(duration_s=123456.0, warnings=("the key is 123456",))
    folder.write(record, files={}, log_lines=())
    stored = read_run(str(folder.path)).record
    assert stored.duration_s == 123456.0
    assert stored.warnings == ("the key is [redacted]",)
