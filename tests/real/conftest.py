"""Servers that the tests of launching and cleaning up share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.real.cleanup.server import Server, stand_in

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def stand_in_server(real_image_bash: str, real_model: str) -> Iterator[Server]:
    """A light server with the processes of vLLM, on this host and as an image."""
    with stand_in(real_image_bash, real_model) as server:
        yield server


@pytest.fixture(scope="session")
def real_server(real_vllm_python: str, real_image: str, real_model: str) -> Server:
    """Real vLLM on the CPU, on this host and as an image."""
    words = (
        "--vllm-serve-arg=--enforce-eager --max-model-len=2048 --max-num-seqs=16 --dtype=bfloat16",
        "--vllm-env=VLLM_CPU_KVCACHE_SPACE=1",
        "--vllm-env=TORCHDYNAMO_DISABLE=1",
    )
    return Server(model=real_model, image=real_image, python=real_vllm_python, words=words)
