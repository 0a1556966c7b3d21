"""Files of signatures are read with the name of what is wrong; the shipped ones are complete."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.adapters.knowledge import (
    known_model_ids,
    known_weights,
    load_signatures,
    signatures,
    wide_context,
)
from pytest_vllm.domain.errors import TargetError

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """
[[signature]]
id = "gpu.x"
ref = "G1"
class = "host"
patterns = ["No HIP GPUs"]
cause = "there is none"
cure = "--vllm-gpus=all"
link = "https://example.org/1"
excerpt = ["No HIP GPUs"]
"""


def load(folder: Path, *texts: str) -> None:
    files = [folder / f"{number}.toml" for number in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_bytes(text.encode("utf-8", "surrogateescape"))
    load_signatures(files)


def test_a_good_file_is_read(tmp_path: Path) -> None:
    load(tmp_path, GOOD)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (("[[signature]",), "0.toml is no list of signatures: "),
        (("\udcff",), "0.toml is no list of signatures: "),
        (("signature = 3",), "0.toml is no list of signatures: key signature: a list of tables"),
        (("[other]",), "0.toml is no list of signatures: key other is not known"),
        ((GOOD.replace('"host"', '"nobody"'),), "signature 1 (gpu.x): key class"),
        ((GOOD, GOOD.replace("gpu.x", "gpu.y")), "1.toml: G1 is taken, see 0.toml"),
        ((GOOD, GOOD.replace("G1", "G2")), "1.toml: gpu.x is taken, see 0.toml"),
    ],
)
def test_a_bad_file_is_refused_with_what_is_wrong(
    tmp_path: Path, texts: tuple[str, ...], words: str
) -> None:
    with pytest.raises(TargetError, match=re.escape(words)) as refusal:
        load(tmp_path, *texts)
    assert refusal.value.advice


def test_what_ships_is_read_once() -> None:
    assert signatures() is signatures()
    assert all(signature.link.startswith("https://") for signature in signatures())


def test_well_known_models_have_the_size_of_their_weights() -> None:
    assert "deepseek-ai/DeepSeek-V2-Lite-Chat" in known_model_ids()
    assert known_weights("deepseek-ai/DeepSeek-V2-Lite-Chat") == 31_412_968_448
    assert known_weights("nobody/knows") is None
    assert wide_context().known_models == known_model_ids()
