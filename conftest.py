"""The real parts that tests run on: interpreters with vLLM, a model, images; never a stand-in.

`./dev test` makes them and names them in the environment. A missing one fails the test that needs
it; it is never skipped.
"""

from __future__ import annotations

import os

import pytest


def _named(variable: str) -> str:
    value = os.environ.get(variable, "")
    if not value:
        pytest.fail(f"{variable} is not set; ./dev test makes and names the real parts")
    return value


@pytest.fixture(scope="session")
def real_vllm_python() -> str:
    """Interpreter that has vLLM 0.32."""
    return _named("PYTEST_VLLM_TEST_PYTHON")


@pytest.fixture(scope="session")
def real_vllm_python_030() -> str:
    """Interpreter that has vLLM 0.30."""
    return _named("PYTEST_VLLM_TEST_PYTHON_030")


@pytest.fixture(scope="session")
def real_model() -> str:
    """Folder of SmolLM2-135M-Instruct."""
    return _named("PYTEST_VLLM_TEST_MODEL")


@pytest.fixture(scope="session")
def real_image() -> str:
    """Image whose entrypoint is vLLM's server."""
    return _named("PYTEST_VLLM_TEST_IMAGE")


@pytest.fixture(scope="session")
def real_image_bash() -> str:
    """The same image with bash as its command and no entrypoint, like rocm/vllm."""
    return _named("PYTEST_VLLM_TEST_IMAGE_BASH")
