"""Verbs on runs that somebody edited or broke: an answer or a clear error, never a traceback."""

from __future__ import annotations

import contextlib
import io
import json
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.domain.record import from_json
from pytest_vllm.reports.attestation import attestation_json
from tests.unit.fuzz import EVERYWHERE, IN_FIGURES, JUNK, WHOLE, edited, paths, tries

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

RAW = st.sampled_from(
    [
        *(b"", b"\xff\xfe{}", b"[]", b"null", b"{}", b"0", b'"x"', b"[" * 100_000),
        *(b'{"schema": 2}', b'{"schema": 99}', b'{"schema": NaN}', b'{"schema": 1e999}'),
        *(b'{"payload": "eA==", "payloadType": "x", "signatures": []}', b'{"subject": [1]}'),
        b'{"schema": 2, "verdict": 5, "results": 3, "performance": {"levels": [1]}}',
    ]
)
STATEMENT: Any = json.loads(attestation_json(from_json(json.dumps(WHOLE), where="run.json")))
RUNS = ("20260101-000000-aaaaaa", "20260102-000000-bbbbbb")
UNMEASURED = (1e308, 1e308, -1e308, 10**300, 5e-324)
"""Figures of rounds that are numbers, and whose sums or squares are none."""
FORMATS = ("md", "html", "junit", "ctrf", "prom", "attestation", "json")
WORDS: list[tuple[str, ...]] = [
    ("report", RUNS[0]),
    *(("report", RUNS[0], f"--{name}") for name in FORMATS),
    ("compare", *RUNS),
    *(("compare", *RUNS, "--force", f"--{name}") for name in ("json", "md", "html")),
    ("compare", "latest", "latest~1"),
    ("promote", "--run", RUNS[0], "--to", "127.0.0.1:9/x:y"),
    ("promote", "--run", RUNS[0], "--to", "127.0.0.1:9/x:y", "--print"),
    ("verify", RUNS[0]),
    ("runs", "list"),
    ("runs", "list", "--json"),
    ("runs", "show", RUNS[0]),
    ("trend",),
    ("trend", "--md"),
    ("trend", "--json"),
]


@st.composite
def statements(draw: st.DrawFn) -> bytes:
    """Return the statement of the whole record with one value changed."""
    document = json.loads(json.dumps(STATEMENT))
    *before, last = draw(st.sampled_from(paths(document)))
    parent = document
    for key in before:
        parent = parent[key]
    parent[last] = draw(JUNK)
    return json.dumps(document).encode()


RECORDS = (
    RAW
    | (edited(EVERYWHERE) | edited(IN_FIGURES)).map(str.encode)
    | st.just(json.dumps(WHOLE).encode())
)
BESIDE = RAW | statements() | st.just(json.dumps(STATEMENT).encode())
FOLDERS = st.tuples(
    RECORDS,
    st.dictionaries(
        st.sampled_from(["attestation.json", "attestation.dsse.json", "compose.json"]), BESIDE
    ),
)


def run(words: Sequence[str]) -> tuple[int, str, str]:
    """Run a verb; return its exit code, its output and what it complained of."""
    verbs = import_module("pytest_vllm.cli")
    data, err = io.BytesIO(), io.StringIO()
    out = io.TextIOWrapper(data, encoding="utf-8")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = verbs.main(list(words))
        out.flush()
    return code, data.getvalue().decode(), err.getvalue()


@tries(30)
@given(st.lists(FOLDERS, min_size=1, max_size=2), st.sampled_from(WORDS))
def test_a_broken_run_is_answered_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    folders: list[tuple[bytes, dict[str, bytes]]],
    words: tuple[str, ...],
) -> None:
    root = tmp_path_factory.mktemp("runs")
    for name, (record, beside) in zip(RUNS, folders, strict=False):
        root.joinpath(name).mkdir()
        for file, data in {"run.json": record, **beside}.items():
            root.joinpath(name, file).write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_VLLM_ARTIFACTS", str(root))
        code, _, said = run(words)
    assert code in (0, 1, 4, 75)
    assert "Traceback" not in said
    assert "this is a bug" not in said
    if code == 4:
        assert said.startswith("ERROR: ")


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_a_run_with_everything_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """So that the fuzz above starts from what works, not from refusals alone."""
    for name in RUNS:
        tmp_path.joinpath(name).mkdir()
        tmp_path.joinpath(name, "run.json").write_text(json.dumps(WHOLE))
    monkeypatch.setenv("PYTEST_VLLM_ARTIFACTS", str(tmp_path))
    code, _, said = run(words)
    assert code in (0, 1, 75), said
    assert not said.startswith("ERROR")


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_figures_that_nobody_measured_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """One such run once ended `runs list` and `trend` for all of them."""
    odd = json.loads(json.dumps(WHOLE))
    for level in odd["performance"]["levels"]:
        for one, value in zip(level["rounds"], UNMEASURED, strict=False):
            one["figures"] = dict.fromkeys(one["figures"], value)
    for name, document in zip(RUNS, (odd, WHOLE), strict=True):
        tmp_path.joinpath(name).mkdir()
        tmp_path.joinpath(name, "run.json").write_text(json.dumps(document))
    monkeypatch.setenv("PYTEST_VLLM_ARTIFACTS", str(tmp_path))
    code, out, said = run(words)
    assert code in (0, 1, 75), said
    assert not said.startswith("ERROR")
    assert "e+308" not in out or "json" in words[-1]
