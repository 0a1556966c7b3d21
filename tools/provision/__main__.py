"""Command line of provisioning: prints what it made on standard output, progress on error."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tools.provision import command
from tools.provision.base import make_base
from tools.provision.browser import BROWSER_PACKAGES, make_browser
from tools.provision.engine import install_packages, make_engine
from tools.provision.everything import make_everything
from tools.provision.image import make_bash_variant, make_image
from tools.provision.model import make_model
from tools.provision.place import ProvisionError
from tools.provision.vllm import make_vllm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DEFAULT_VERSION = "0.32.0"
INTERRUPTED, NOT_PROVIDED = 130, 75


def main(arguments: Sequence[str] | None = None) -> int:
    """Make one thing and print its path, tag or version; return the exit code."""
    options = _parser().parse_args(arguments)

    def work() -> int:
        for line in _make(options):
            print(line)
        return 0

    return guarded(work)


def guarded(work: Callable[[], int]) -> int:
    """Run `work`; an error is one message and code 75, an interrupt ends what was started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return work()
    except ProvisionError as error:
        print(f"error: {error}", file=sys.stderr)
        return NOT_PROVIDED
    except KeyboardInterrupt:
        command.stop_all()
        print("interrupted; the same command goes on from the last finished step", file=sys.stderr)
        return INTERRUPTED


def _make(options: argparse.Namespace) -> list[str]:
    version, python = options.version, options.python
    if options.verb in ("all", "browser"):
        return [f"{name}={value}" for name, value in _make_parts(options).items()]
    match options.verb:
        case "vllm":
            return [str(make_vllm(version, python=python))]
        case "model":
            return [str(make_model(vllm_python=make_vllm(version, python=python)))]
        case "base":
            return [str(make_base())]
        case "engine":
            return [make_engine(install=options.install)]
        case _:
            make_engine(install=options.install)
            image = make_image(version, python=python, pull=options.pull)
            return [image, make_bash_variant(image)] if options.bash else [image]


def _make_parts(options: argparse.Namespace) -> dict[str, str]:
    """Make what has many names: the parts of the tests, as environment variables."""
    if options.verb == "all":
        return make_everything(python=options.python, install=options.install, pull=options.pull)
    if options.install:
        install_packages(BROWSER_PACKAGES)
    return make_browser(python=options.python)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="./dev provision",
        description="Make what the demo and the tests need; kept under PYTEST_VLLM_CACHE.",
    )
    parser.add_argument(
        "verb",
        choices=("vllm", "model", "base", "browser", "engine", "image", "all"),
        help="what to make: a vLLM interpreter, a model folder, a Debian root folder, "
        "the parts of tests in a browser, a running Docker engine, a Docker image, or all that "
        "the tests need",
    )
    parser.add_argument("--version", default=DEFAULT_VERSION, help="vLLM version (%(default)s)")
    parser.add_argument(
        "--python",
        type=Path,
        default=base_interpreter(),
        help="interpreter to make the environment of (%(default)s)",
    )
    parser.add_argument(
        "--install",
        action="store_true",
        help="may install what is missing with apt-get, as root",
    )
    parser.add_argument(
        "--pull",
        choices=("auto", "never", "only"),
        default="auto",
        help="pull an image rather than build one (%(default)s)",
    )
    parser.add_argument("--bash", action="store_true", help="also the image that starts bash")
    return parser


def base_interpreter() -> Path:
    """Return the interpreter behind this environment, not a version manager's shim."""
    return Path(sys.executable).resolve()


if __name__ == "__main__":
    sys.exit(main())
