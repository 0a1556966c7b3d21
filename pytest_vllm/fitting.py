"""`pytest-vllm fit`: says before a launch whether the model fits, and what would.

It imports neither pytest nor any other package, so that the answer is there at once.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_vllm.adapters.hardware import read_hardware
from pytest_vllm.adapters.model_memory import Network, gather
from pytest_vllm.adapters.verb_end import ends_clearly
from pytest_vllm.domain.command_words import WordParser
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.fit import Fit, forecast
from pytest_vllm.domain.memory.free import with_free
from pytest_vllm.domain.memory.plain import to_json
from pytest_vllm.domain.memory.reading import read_serving
from pytest_vllm.domain.memory.shape import UnknownShape
from pytest_vllm.domain.quantization import DEPRECATED, LISTED_VERSION
from pytest_vllm.domain.target import ServeArgs
from pytest_vllm.domain.text import closest
from pytest_vllm.reports.fit import render

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from pytest_vllm.domain.fit import Forecast
    from pytest_vllm.domain.memory.serving import Serving
    from pytest_vllm.domain.memory.shape import ModelShape

_BAD_ARGUMENT = 4
_NEWEST = "0.32.0"
"""Version of vLLM that the formulas were read from; newer ones are taken to be the same."""
_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?(?:[-+.\w]*)")
_MONITORS = ("auto", "amd", "sysfs", "nvidia")
_WIDTH, _WIDEST = 80, 120
_ALIKE = 0.7
"""For a hint: of more than 300 arguments one is always somewhat like another."""
_SEPARATE = "vLLM's own arguments follow a --: pytest-vllm fit MODEL"
_DESCRIPTION = """\
Says whether vLLM can serve a model on these GPUs, before anything is started: FITS, MARGINAL (what
is only estimated decides) or DOES_NOT_FIT with the step that fails, what each part takes of a
device, and what would fit.
"""
_EPILOG = """\
vLLM's own arguments follow a --, its variables (VLLM_...) are those of this shell:

  pytest-vllm fit deepseek-ai/DeepSeek-V3.1 --gpus MI300X:8 -- --tensor-parallel-size 8
  pytest-vllm fit ./my-model --gpus MI250:4 --free 60GiB -- -tp 8 --max-model-len 8192
  pytest-vllm fit Qwen/Qwen3-8B --gpus H200:2 --json -- -tp 2

An MI250 is two devices: MI250:4 is four cards, eight devices. GiB are 2^30 bytes, GB are 10^9.
exit code: 0 FITS, 0 MARGINAL with a warning, 1 DOES_NOT_FIT, 4 the command is wrong, 75 the Hub
cannot be reached.
"""


class _Parser(WordParser):
    """Tells of the `--` that vLLM's own arguments follow."""

    def surplus(self, words: str) -> TargetError:
        """Return the complaint about words that are too many."""
        return TargetError(
            f"fit takes one model, and {words} is one too many", advice=f"{_SEPARATE} -- ..."
        )

    def unknown(self, name: str, words: str) -> TargetError:
        """Return the complaint about an option that there is not, which vLLM may have."""
        return TargetError(
            f"fit has no option {name}{closest(name, self.names())}",
            advice=f"{_SEPARATE} -- {words}",
        )


@ends_clearly
def main(words: Sequence[str]) -> int:
    """Run the verb.

    Args:
        words: What follows it on the command line.

    Returns:
        The exit code.
    """
    words = list(words)
    cut = words.index("--") if "--" in words else len(words)
    asked = _parser().parse_args(words[:cut])
    found = _forecast(asked, _arguments(words[cut + 1 :]))
    print(_shown(found, as_json=asked.json))  # noqa: T201 - the output
    if asked.json and found.verdict is Fit.MARGINAL:
        print(f"warning: MARGINAL: {found.reason}", file=sys.stderr)  # noqa: T201
    return int(found.verdict is Fit.DOES_NOT_FIT)


def _parser() -> _Parser:
    parser = _Parser(
        "fit",
        usage="pytest-vllm fit MODEL [options] [-- vLLM's own arguments]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument(
        "model", metavar="MODEL", help="a folder, a config.json, or an ID on the Hub"
    )
    parser.add_argument(
        "--gpus",
        default="auto",
        metavar="GPUS",
        help="NAME:CARDS such as MI300X:8 or MI250:4, auto for those of this host (default), or "
        "cpu for vLLM's CPU backend",
    )
    parser.add_argument(
        "--free",
        metavar="AMOUNT",
        help="what is free of each device: 164.76GiB, 170GB, 85%%, bytes; with commas one for "
        "each; default: all of an idle one, with auto what the monitor sees",
    )
    parser.add_argument(
        "--vllm-version",
        default=_NEWEST,
        metavar="VERSION",
        help=f"version of vLLM whose defaults and definitions count (default {_NEWEST})",
    )
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    network = parser.add_mutually_exclusive_group()
    network.add_argument(
        "--online",
        action="store_true",
        help="ask the Hub (HF_ENDPOINT) even when the cache or the shipped table knows the model",
    )
    network.add_argument(
        "--offline", action="store_true", help="never ask the Hub, as HF_HUB_OFFLINE=1 does"
    )
    parser.add_argument(
        "--monitor",
        choices=_MONITORS,
        default="auto",
        help="who is asked by --gpus auto (default: the first that sees a GPU)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _forecast(asked: argparse.Namespace, args: ServeArgs) -> Forecast:
    """Gather and reckon.

    Raises:
        VllmError: Something that was named is not there or cannot be read.
    """
    version = _version(asked.vllm_version)
    args, strange = _known(args, version)
    other = args.value("--model")
    if other not in (None, asked.model):
        raise TargetError(
            f"--model {other} names a second model beside {asked.model}",
            advice="leave out --model: fit takes the model in front",
        )
    hardware = read_hardware(asked.gpus, idle=asked.free is None, monitor=asked.monitor)
    serving = read_serving(args, os.environ, version=version, platform=hardware.platform)
    devices = hardware.for_ranks(serving)
    if asked.free is not None:
        devices = with_free(devices, asked.free)
    network = Network.ALWAYS if asked.online else Network.NEEDED
    model = gather(
        asked.model,
        env=os.environ,
        revision=asked.revision,
        network=Network.NEVER if asked.offline else network,
    )
    _refuse_deprecated(model.shape, serving, args)
    found = forecast(model, devices, serving)
    freer = hardware.freer(serving) if asked.free is None else ()
    notes = (*found.notes, *strange, *hardware.notes, *freer)
    return replace(found, notes=tuple(dict.fromkeys(notes)))


def _refuse_deprecated(shape: ModelShape | UnknownShape, serving: Serving, args: ServeArgs) -> None:
    """Raise where vLLM wants to be told that a method is known to be on its way out."""
    stored = "" if isinstance(shape, UnknownShape) else shape.quantization.method
    method = serving.quantization.lower() or stored
    allowed = "--allow-deprecated-quantization"
    if serving.version == LISTED_VERSION and method in DEPRECATED and not args.has(allowed):
        raise TargetError(
            f"vLLM {'.'.join(map(str, LISTED_VERSION))} refuses quantization {method}, which is "
            "deprecated",
            advice=f"{_SEPARATE} -- {allowed}, or use other weights",
        )


def _arguments(words: list[str]) -> ServeArgs:
    if "--" in words:
        raise TargetError(
            "there is a second --, and vLLM has no argument of that name",
            advice="leave it out: all of vLLM's arguments follow the first",
        )
    return ServeArgs(tuple(words))


def _version(text: str) -> tuple[int, ...]:
    match = _VERSION.fullmatch(text.strip())
    if match is None:
        raise TargetError(
            f"--vllm-version: {text!r} is no version", advice="write it as --vllm-version 0.32"
        )
    return tuple(int(number or 0) for number in match.groups())


def _known(args: ServeArgs, version: tuple[int, ...]) -> tuple[ServeArgs, tuple[str, ...]]:
    """Hold vLLM's arguments against its flags, and spell those out that are cut short.

    Returns:
        The arguments, and notes on those that another version may know.

    Raises:
        TargetError: The server would refuse them.
    """
    if not args.argv:
        return args, ()
    from pytest_vllm.adapters.flag_table import shipped_flags  # noqa: PLC0415 - for arguments only
    from pytest_vllm.domain.serve_parser import ServeArgumentError, check, spelled_out  # noqa: PLC0415

    known = shipped_flags()
    try:
        check(args.argv, known.flags)
    except ServeArgumentError as error:
        names = [name for flag in known.flags for name in flag.names]
        hint = ""
        if error.unknown:
            hint = closest(error.unknown[0].partition("=")[0], names, alike=_ALIKE)
        if ".".join(map(str, version)) != known.version:
            return args, (f"vLLM {known.version} refuses these arguments: {error}{hint}",)
        ours = [word for word in error.unknown if word.partition("=")[0] in _parser().names()]
        advice = f"{ours[0]} comes before the --" if ours else "correct what follows the --"
        raise TargetError(
            f"vLLM {known.version} refuses its arguments: {error}{hint}",
            advice=f"{advice}, or name your version by --vllm-version",
        ) from None
    return ServeArgs(spelled_out(args.argv, known.flags)), ()


def _shown(found: Forecast, *, as_json: bool) -> str:
    if as_json:
        return json.dumps(to_json(found), indent=1, ensure_ascii=False)
    terminal = sys.stdout.isatty()
    columns = shutil.get_terminal_size((_WIDTH, 24)).columns if terminal else _WIDTH
    colour = terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    return render(found, width=min(columns, _WIDEST), colour=colour, plain=_shows_ascii_only())


def _shows_ascii_only() -> bool:
    try:
        "█▏".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return True
    return False
