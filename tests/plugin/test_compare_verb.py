"""`pytest-vllm compare` on records and loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.cli import main
from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.record import Material, to_json
from tests.unit.performances import performance
from tests.unit.records import HOSTILE, all_passed, make_record, make_result

if TYPE_CHECKING:
    from pathlib import Path

Write = Callable[..., str] if TYPE_CHECKING else object


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a record with a load, and names its folder."""

    def written(
        name: str,
        factor: float = 1.0,
        *,
        results: Any = None,
        record: dict[str, Any] | None = None,
        **changes: Any,
    ) -> str:
        made = make_record(all_passed() if results is None else results, **record or {})
        loads = changes.pop("performance", None)
        loads = performance(factor, **changes) if loads is None else loads
        folder = tmp_path / name
        folder.mkdir()
        (folder / "run.json").write_text(to_json(replace(made, performance=loads)))
        return str(folder)

    return written


def test_an_unchanged_run_passes(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", write("a"), write("b", noise=0.011)]) == 0
    out = capsys.readouterr().out
    assert "checks: no change" in out
    assert "no change in 3 metrics; 5 rounds" in out
    assert "weak form" in " ".join(out.split())


def test_a_slower_run_is_named_worse(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", write("a"), f"{write('b', 1.4)}/run.json"]) == 1
    assert "worse: output_tokens_per_s" in capsys.readouterr().out


def test_a_faster_run_passes(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", write("a"), write("b", 0.7)]) == 0
    assert "better: output_tokens_per_s" in capsys.readouterr().out


def test_what_cannot_be_told_is_no_pass(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", write("a"), write("b", noise=0.2)]) == 75
    out = " ".join(capsys.readouterr().out.split())
    assert "cannot tell" in out
    assert "would tell" in out


def test_another_workload_is_not_compared(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    other = write("b", conditions={"workload": "code"})
    assert main(["compare", write("a"), other]) == 75
    out = capsys.readouterr().out
    assert "not comparable" in out
    assert "- other workload: chat of the base, code of the candidate" in out


def of_folder(digest: str, of: str = "") -> dict[str, Any]:
    """Return what a record of a model in a folder rests on."""
    return {
        "materials": (Material(kind="model", name="/models/Qwen3-8B", sha256=digest * 64, of=of),)
    }


def test_another_model_at_the_same_path_is_not_compared(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    of = "listing of 8 files: 6 read whole, 2 by size and samples"
    base, candidate = (write(digest, record=of_folder(digest, of)) for digest in "ab")
    assert main(["compare", base, candidate]) == 75
    out = " ".join(capsys.readouterr().out.split())
    assert "machine: other model files (read whole, by size and samples); same model, " in out
    assert f"{'a' * 64} of the base, {'b' * 64} of the candidate" in out


def test_how_a_model_was_read_is_foreign_text(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [write(digest, record=of_folder(digest, f"x: {HOSTILE}")) for digest in "ab"]
    for form in ([], ["--html"]):
        assert main(["compare", *words, *form]) == 75
        out = capsys.readouterr().out
        assert "model files (" in out
        assert "\x1b" not in out
    assert "<script>alert" not in out


def test_arguments_of_an_attached_server_are_not_known(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    attached = write("b", record={"backend": "attach"})
    for base in (write("a"), attached):
        assert main(["compare", base, attached]) == 0
        out = " ".join(capsys.readouterr().out.split())
        assert "machine: same model; not told by both: " in out
        assert "model revision, arguments" in out


def test_a_load_on_one_side_only_is_no_pass(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", write("a"), write("b", performance={})]) == 75
    assert "the candidate has no load in it" in capsys.readouterr().out


def test_a_check_that_broke_rejects(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    base, candidate = (make_result("chat.a.b"),), (make_result("chat.a.b", Outcome.FAIL),)
    words = write("a", results=base, performance={}), write("b", results=candidate, performance={})
    assert main(["compare", *words]) == 1
    out = capsys.readouterr().out
    assert "broken  chat.a.b  (pass -> fail)" in out
    assert "neither side has a load in it, so no figure was compared" in out
    assert main(["compare", *reversed(words)]) == 0
    assert "fixed  chat.a.b  (fail -> pass)" in capsys.readouterr().out


def load(factor: float, **changes: Any) -> str:
    """Return what `pytest-vllm load --json` writes."""
    (level,) = performance(factor)["levels"]
    number = int(1000 * factor)
    measured = {
        "figures": {**level["rounds"][number % 5]["figures"], "output_tokens": 4096},
        "requests": 64,
        "failures": {},
        "client": {"clock_shift_ns": 0, "wall_s": 9.0},
    }
    plan = {"workload": {"name": "short"}, "traffic": {"pattern": "closed"}, "salt": f"{factor}"}
    told = {"level": "8", "plan": {**plan, **changes}, "measurement": measured}
    return json.dumps({"schema": 1, "kind": "load", "levels": [told]})


def write_loads(folder: Path, factor: float, **changes: Any) -> str:
    folder.mkdir()
    for number in range(5):
        text = load(factor + number / 1000, **changes)
        (folder / f"{number}.json").write_text(text)
    return str(folder)


def test_folders_of_loads_are_compared_file_by_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, slow = write_loads(tmp_path / "a", 1.0), write_loads(tmp_path / "b", 1.4)
    assert main(["compare", base, slow]) == 1
    out = capsys.readouterr().out
    assert "worse: output_tokens_per_s" in out
    assert "checks" not in out
    assert main(["compare", base, base]) == 0


def test_one_load_a_side_is_too_few(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").write_text(load(1.0))
    (tmp_path / "b.json").write_text(load(1.4))
    assert main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 75
    assert "rounds: 1 then, 1 now; 5 each are needed" in " ".join(capsys.readouterr().out.split())


def test_loads_of_other_work_are_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write_loads(tmp_path / "a", 1.0)
    other = write_loads(tmp_path / "b", 1.0, workload={"name": "chat"})
    assert main(["compare", base, other]) == 75
    assert 'other workload: {"name": "short"} of the base' in capsys.readouterr().out
    (tmp_path / "b" / "5.json").write_text(load(1.0))
    assert main(["compare", base, other]) == 4
    assert "its loads differ in workload, so are no rounds of one" in capsys.readouterr().err


def test_an_allowed_change_is_put_up_with(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", write("a"), write("b", 1.3)]
    allow = ("output_tokens_per_s=60%", "tpot_p50_ms=60", "ttft_p50_ms=60%")
    assert main([*words, *(f"--allow={text}" for text in allow)]) == 0
    assert "+60 %" in capsys.readouterr().out
    assert main([*words, *(f"--allow={text}" for text in allow[:2])]) == 1


def test_less_than_a_stored_baseline_can_hold_is_not_held_and_told(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two sound runs that differ by 4 % were once rejected under --allow tpot=0.5%."""
    words = ["compare", write("a", noise=0.005), write("b", 1.04, noise=0.005)]
    assert main([*words, "--allow=tpot-p50=0.5%"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "+10 % (not 0.5 %)" in out
    assert "tpot_p50_ms: 0.5 % were asked, 10 % held" in out


def test_a_named_figure_that_no_side_has_is_no_pass(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", write("a"), write("b"), "--allow=stall-p99=20%"]) == 75
    out = " ".join(capsys.readouterr().out.split())
    assert "stall_p99_ms: no run has this figure" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{a}"], "required: CANDIDATE"),
        (["{a}", "{a}", "--allow=tpot_p50_ms"], "--allow=tpot_p50_ms is not METRIC=PERCENT"),
        (["{a}", "{a}", "--allow=tpot_p50_ms=-3"], "of more than 0 %"),
        (["{a}", "{a}", "--allow=tpot_p5=3"], "there is no figure 'tpot_p5'; did you mean tpot_p"),
        (["{a}", "{a}", "--allow=tpot-p50=30", "--allow=tpot_p50_ms=20"], "is given twice"),
        (["{a}", "{tmp}/none"], "there is no"),
        (["{a}", ""], "an empty name is no run"),
        (["{a}", "{tmp}/list.json"], "list.json is neither a run nor a load"),
        (["{a}", "{tmp}/other.json"], "other.json is neither a run nor a load"),
        (["{a}", "{tmp}/odd.json"], "odd.json cannot be compared: its loads cannot be read"),
        (["{a}", "{tmp}/empty"], "has neither a run nor a load in it"),
        (["{a}", "{tmp}/broken.json"], "broken.json is not JSON"),
        (["{a}", "{tmp}/binary.json"], "binary.json is not a text"),
        (["{a}", "{tmp}/old.json"], "old.json was written by a newer pytest-vllm"),
    ],
)
def test_bad_words_are_named(
    words: list[str],
    message: str,
    tmp_path: Path,
    write: Write,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "other.json").write_text('{"performance": 3}')
    (tmp_path / "odd.json").write_text('{"kind": "load", "levels": [{"level": 1}]}')
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text('{"a": ')
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "old.json").write_text('{"run_id": "x", "schema": 99}')
    a = write("a")
    assert main(["compare", *(word.format(a=a, tmp=tmp_path) for word in words)]) == 4
    captured = capsys.readouterr()
    assert captured.err.startswith("ERROR: ")
    assert message in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("number", ["Infinity", "1e999", "NaN", "1" + "0" * 400])
@pytest.mark.parametrize("place", ['"requests": 64,', '"output_tokens": 4096}'])
def test_a_load_of_endless_numbers_is_refused(
    number: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, _, _ = place.partition(":")
    file = tmp_path / "load.json"
    file.write_text(load(1.0).replace(place, f"{name}: {number}{place[-1]}"))
    assert main(["compare", str(file), str(file)]) == 4
    assert "load.json cannot be compared: " in capsys.readouterr().err


def test_what_a_rate_may_fall_to_is_shown_as_it_is_judged(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    """50 % more time is a third less of a rate: -37.5 % is past that, and not inside -50 %."""
    words = ["compare", write("a"), write("b", 1.6), "--allow=output_tokens_per_s=50%"]
    assert main(words) == 1
    (row,) = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("output_tokens")
    ]
    assert " -33.3 % " in row
    assert " -37." in row
    assert row.endswith("worse")
