"""Headers of safetensors files: read whole, experts together, and refused when they are none."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.adapters.model_table import listed_model
from pytest_vllm.adapters.safetensors_headers import HeaderError, read_files, together
from pytest_vllm.domain.fit import ModelMemory
from pytest_vllm.domain.memory.config import read_shape
from pytest_vllm.domain.memory.serving import Serving
from pytest_vllm.domain.memory.weights import Tensor, weigh
from tests.data.tensors import write_safetensors

if TYPE_CHECKING:
    from pathlib import Path

EXPERTS = 8
ROWS = [
    ("model.embed_tokens.weight", "BF16", (32_000, 4096)),
    *(
        (f"model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}.weight", "BF16", shape)
        for layer in range(2)
        for expert in range(EXPERTS)
        for name, shape in {"w1": (14336, 4096), "w2": (4096, 14336), "w3": (14336, 4096)}.items()
    ),
]


def test_all_files_are_one_checkpoint(tmp_path: Path) -> None:
    files = [tmp_path / "1.safetensors", tmp_path / "2.safetensors"]
    for number, file in enumerate(files):
        write_safetensors(file, {name: (dtype, shape) for name, dtype, shape in ROWS[number::2]})
    tensors = read_files(files)
    assert sorted(tensors, key=lambda tensor: tensor.name) == sorted(
        together(ROWS), key=lambda tensor: tensor.name
    )
    assert sum(tensor.count for tensor in tensors) == len(ROWS)
    assert len(tensors) == 1 + 2 * 3


def test_an_expert_that_is_unlike_the_others_stays_apart() -> None:
    odd = ("model.layers.0.block_sparse_moe.experts.7.w1.weight", "F8_E4M3", (14336, 4096))
    counts = {(tensor.name, tensor.dtype): tensor.count for tensor in together([*ROWS, odd])}
    name = "model.layers.0.block_sparse_moe.experts.0.w1.weight"
    assert (counts[name, "BF16"], counts[name, "F8_E4M3"]) == (EXPERTS, 1)


@pytest.mark.parametrize(
    "serving",
    [
        Serving(),
        Serving(tensor_parallel=4),
        Serving(tensor_parallel=2, pipeline_parallel=2),
        Serving(tensor_parallel=4, expert_parallel=True),
        Serving(tensor_parallel=4, data_parallel=2, expert_parallel=True),
    ],
    ids=str,
)
def test_experts_weigh_together_what_they_weigh_alone(serving: Serving) -> None:
    listed = listed_model("mistralai/Mixtral-8x7B-v0.1")
    assert listed is not None
    shape = read_shape({**listed.config, "num_hidden_layers": 2})
    model = ModelMemory(name="model", shape=shape, tensors=together(ROWS))
    alone = tuple(Tensor(name=name, dtype=dtype, shape=dims) for name, dtype, dims in ROWS)
    ranks = weigh(model, serving)
    assert ranks == weigh(replace(model, tensors=alone), serving)
    assert all(rank.parameters_bytes > 0 for rank in ranks)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes are too few"),
        (b"\xff" * 16, "does not begin with the length"),
        ((100).to_bytes(8, "little") + b"{}" + b" " * 10 + b"\x00" * 88, "JSONDecodeError"),
        ((2).to_bytes(8, "little") + b"[]", "TypeError"),
        ((7).to_bytes(8, "little") + b'{"a":1}', "TypeError"),
        ((20).to_bytes(8, "little") + b'{"a":', "JSONDecodeError"),
    ],
)
def test_what_is_no_header_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(HeaderError, match=f"model.safetensors has no header.*{message}"):
        read_files([file])


def test_what_the_header_says_of_itself_is_no_tensor(tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": {"format": "pt"}}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert read_files([tmp_path / "a.safetensors"]) == ()
