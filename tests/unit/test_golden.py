"""Goldens: the file there and back, what differs, and what must not be overwritten."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.adapters.golden import read_golden, write_golden
from pytest_vllm.domain.content import Scored
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.golden import (
    COPY,
    TEXT,
    Golden,
    GoldenText,
    from_document,
    measure,
    to_document,
)
from pytest_vllm.domain.interval import Score
from pytest_vllm.plugin.recording import main

if TYPE_CHECKING:
    from pathlib import Path

GOLDEN = Golden(
    model="Small-1B",
    dtype="bfloat16",
    quantization="none",
    provenance={"source": "vllm"},
    strings={"Hello": (1, 2)},
    conversations=((({"role": "user", "content": "Hi"},), (3, 4)),),
    texts=(
        GoldenText(
            name="prose",
            kind=TEXT,
            parts=((1, (1, 2, 3)),),
            logprobs=(-1.0, -2.0),
            top=(((2, -1.0), (9, -1.1)), ((7, -0.5), (3, -2.0))),
        ),
        GoldenText(name="row", kind=COPY, parts=((1, (1,)), (2, (5, 6))), logprobs=(-0.5, -0.25)),
    ),
)


def scored(id_: int, logprob: float, best: int) -> Scored:
    return Scored(id=id_, logprob=logprob, best=best, best_logprob=0.0, top={})


def test_a_golden_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    write_golden(GOLDEN, path, force=False)
    assert read_golden(path) == GOLDEN
    scored_too = replace(GOLDEN, accuracy=Score(right=40, total=72))
    write_golden(scored_too, path, force=True)
    assert read_golden(path) == scored_too
    assert GOLDEN.texts[1].ids == [1, 5, 6, 5, 6]


def test_a_golden_is_never_overwritten_by_accident(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("precious")
    with pytest.raises(TargetError, match="exists"):
        write_golden(GOLDEN, path, force=False)
    assert path.read_text() == "precious"
    write_golden(GOLDEN, path, force=True)
    assert read_golden(path) == GOLDEN


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema 1, saw 2"),
        ({"schema": True}, "schema 1, saw True"),
        ({"texts": []}, "no texts"),
        ({"texts": [{}]}, "no golden"),
        ({"model": None, "strings": [{}]}, "no golden"),
    ],
)
def test_another_file_is_no_golden(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        from_document({**to_document(GOLDEN), **change}, name="x.json")


def test_more_values_than_tokens_are_no_golden() -> None:
    document = json.loads(json.dumps(to_document(GOLDEN)))
    document["texts"][1]["logprobs"] = [-1.0] * 9
    with pytest.raises(TargetError, match="9 values for 5 tokens"):
        from_document(document, name="x.json")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"cannot read .*none\.json"):
        read_golden(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(TargetError, match="not JSON"):
        read_golden(tmp_path / "bad.json")


def test_the_same_numbers_have_no_distance() -> None:
    found = measure([(GOLDEN.texts[0], [scored(2, -1.0, 2), scored(3, -2.0, 7)])])
    assert (found.mean, found.p99, found.agreement, found.misses) == (0.0, 0.0, 1.0, ())


def test_a_near_tie_is_no_miss_and_a_clear_choice_is_one() -> None:
    found = measure([(GOLDEN.texts[0], [scored(2, -1.1, 9), scored(3, -2.3, 3)])])
    assert found.mean == pytest.approx(0.2)
    assert found.p99 == pytest.approx(0.3)
    assert found.agreement == 0.0
    assert found.misses == ("prose 1: 7 became 3",)


def test_only_the_recorded_places_are_compared() -> None:
    tokens = [scored(5, -9.0, 5), scored(6, -9.0, 6), scored(5, -0.5, 5), scored(6, -0.75, 6)]
    found = measure([(GOLDEN.texts[1], tokens)])
    assert (found.mean, found.count, found.agreement) == (0.25, 2, 1.0)


def test_a_model_is_known_by_the_end_of_its_path() -> None:
    assert GOLDEN.is_named(["/models/small-1b/", "alias"])
    assert not GOLDEN.is_named(["alias", ""])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to record"),
        (["--reference=hf"], "needs a model"),
        (["--reference=hf", "--model=x", "--url=http://x"], "exclude"),
        (["--reference=hf", "--model=x", "--dtype=int3"], "no 'int3'"),
        (["--reference=hf", "--model=x", "--python=/nowhere/python"], "cannot run"),
    ],
)
def test_a_wrong_command_says_what_to_do(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["record", *words]) == 4
    assert message in capsys.readouterr().err


def test_an_existing_file_stops_the_recording_before_it_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.json"
    path.write_text("precious")
    assert main(["record", "--url=http://127.0.0.1:9", f"--output={path}"]) == 4
    assert "--force" in capsys.readouterr().err
