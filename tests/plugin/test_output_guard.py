"""No off-line verb replaces evidence, whatever it is told."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pytest_vllm.cli import main

RICH = Path(__file__).parent.parent / "data" / "fuzz" / "run.json"
ENVELOPE = '{"payload": "e30=", "payloadType": "application/vnd.in-toto+json", "signatures": []}'


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs in the folder of all runs, with all that lies beside a `run.json`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTEST_VLLM_ARTIFACTS", raising=False)
    record = json.loads(RICH.read_text())
    for name in ("20261123-100000-aaaaaa", "20261123-110000-bbbbbb"):
        folder = tmp_path / ".vllm" / name
        (folder / "checks" / "chat.a.b").mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({**record, "run_id": name}))
        for file in ("attestation.json", "compose.json", "server.log", "checks/chat.a.b/replay.sh"):
            (folder / file).write_text("{}")
        (folder / "attestation.dsse.json").write_text(ENVELOPE)
    return tmp_path / ".vllm"


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


VERBS = [
    ("compare", "20261123-10", "20261123-11", "--json"),
    ("trend", "--md"),
    ("report", "20261123-10", "--md"),
    ("report", "20261123-10", "--json"),
    ("report", "20261123-10", "--attestation"),
]


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
@pytest.mark.parametrize(
    "name",
    [
        "run.json",
        "attestation.json",
        "attestation.dsse.json",
        "compose.json",
        "server.log",
        "checks/chat.a.b/replay.sh",
    ],
)
def test_no_verb_replaces_what_a_run_rests_on(
    store: Path, words: tuple[str, ...], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(store)
    output = store / "20261123-110000-bbbbbb" / name
    assert main([*words, "--output", str(output), "--overwrite"]) == 4
    said = " ".join(capsys.readouterr().err.split())
    assert "--overwrite replaces no evidence" in said
    assert everything(store) == before


@pytest.mark.parametrize("content", ["record", "envelope"])
def test_evidence_is_known_by_its_content_too(
    store: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = store.parent / "kept.json"
    record = store / "20261123-100000-aaaaaa" / "run.json"
    copy.write_text(record.read_text() if content == "record" else ENVELOPE)
    before = copy.read_bytes()
    assert main(["trend", "--output", "kept.json", "--overwrite"]) == 4
    assert "replaces no evidence" in capsys.readouterr().err
    assert copy.read_bytes() == before


def test_a_run_gets_its_own_statement_anew_and_no_other_runs(store: Path) -> None:
    one, other = (store / name for name in ("20261123-100000-aaaaaa", "20261123-110000-bbbbbb"))
    words = ("--attestation", "--overwrite", "--output")
    assert main(["report", str(one), *words, str(one / "attestation.json")]) == 0
    assert json.loads((one / "attestation.json").read_text())["_type"].endswith("/v1")
    assert main(["report", str(one), *words, str(one / "attestation.dsse.json")]) == 4
    assert main(["report", str(one), *words, str(one / "report.html")]) == 0  # there was none
    assert main(["report", str(one), *words, str(one / "report.html")]) == 4
    assert main(["report", str(one), "--all", "--overwrite", "--output", str(other)]) == 4
    assert not (other / "report.md").exists()  # none where one is refused


def test_copies_of_all_reports_are_made_again(store: Path) -> None:
    words = ("report", str(store / "20261123-100000-aaaaaa"), "--all", "--output", "copies")
    assert main([*words]) == 0
    (store.parent / "copies" / "report.md").write_text("old")
    run = (store / "20261123-100000-aaaaaa" / "run.json").read_bytes()
    (store.parent / "copies" / "run.json").write_bytes(run)
    assert main([*words, "--overwrite"]) == 0
    assert (store.parent / "copies" / "report.md").read_text() != "old"


def test_what_is_no_file_is_not_replaced(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = store.parent / "pipe"
    os.mkfifo(pipe)
    assert main(["trend", "--output", "pipe", "--overwrite"]) == 4
    assert "no plain file" in capsys.readouterr().err
    assert pipe.is_fifo()
    plain = store.parent / "mine.html"
    plain.write_text("{ not json")
    assert main(["trend", "--output", "mine.html", "--overwrite"]) == 0
    assert plain.read_text().startswith("<!doctype html>")
