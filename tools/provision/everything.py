"""Make all that the tests need, what does not wait for another at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from tools.provision import command
from tools.provision.amdsmi import make_amdsmi
from tools.provision.browser import make_browser
from tools.provision.engine import TEST_PACKAGES, install_packages, make_engine
from tools.provision.image import make_bash_variant, make_image
from tools.provision.model import make_model
from tools.provision.vllm import make_vllm

if TYPE_CHECKING:
    from pathlib import Path

NEWEST, OLDEST = "0.32.0", "0.30.0"


def make_everything(*, python: Path, install: bool, pull: str) -> dict[str, str]:
    """Make the parts of the tests; return them as environment variables.

    Programs of the machine and small packages mostly wait for the network, so they come beside
    the servers.
    """
    make_engine(install=install)
    pool = ThreadPoolExecutor(1)
    try:
        small = pool.submit(_make_small, python=python, install=install)
        interpreter, model, image = make_served(NEWEST, python=python, pull=pull, with_image=True)
        return {
            "PYTEST_VLLM_TEST_PYTHON": str(interpreter),
            "PYTEST_VLLM_TEST_PYTHON_030": str(make_vllm(OLDEST, python=python)),
            "PYTEST_VLLM_TEST_MODEL": str(model),
            "PYTEST_VLLM_TEST_IMAGE": image,
            "PYTEST_VLLM_TEST_IMAGE_BASH": make_bash_variant(image),
            **small.result(),
        }
    except BaseException:
        command.stop_all()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _make_small(*, python: Path, install: bool) -> dict[str, str]:
    if install:
        install_packages(TEST_PACKAGES)
    return {
        "PYTEST_VLLM_TEST_AMDSMI": str(make_amdsmi(python=python)),
        **make_browser(python=python),
    }


def make_served(
    version: str, *, python: Path, pull: str, with_image: bool
) -> tuple[Path, Path, str]:
    """Make the interpreter, the model folder and (or "") the image of one vLLM version.

    The image's base mostly waits for the network, so it is made beside the environment; the image
    is loaded while the model is written.
    """
    pool = ThreadPoolExecutor(1)
    try:
        image = pool.submit(make_image, version, python=python, pull=pull) if with_image else None
        interpreter = make_vllm(version, python=python)
        model = make_model(vllm_python=interpreter)
        return interpreter, model, image.result() if image else ""
    except BaseException:
        command.stop_all()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
