"""The command line of `pytest-vllm ab`: what both sides share, and what each has of its own."""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NoReturn

from pytest_vllm.domain.command_words import WordParser
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.figure_names import figure_name
from pytest_vllm.domain.regression import FEWEST_PAIRS, STEP
from pytest_vllm.domain.settings import OPTIONS
from pytest_vllm.domain.text import closest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PAIRED = ("image", "url", "python", "model", "revision")
"""May be given twice: once for each side."""
SIDED = (*PAIRED, "serve-arg", "env", "entrypoint", "docker-flags", "compose-override", "gpus")
"""What `--a-NAME` and `--b-NAME` may set for one side."""
LISTS = ("serve-arg", "env")
_FORWARDED = ("-c", "--rootdir", "-o", "--override-ini")
"""Options of pytest's own that say where its settings are."""


class Servers(StrEnum):
    """When the servers of the sides are up."""

    RESTART = "restart"
    TOGETHER = "together"


@dataclass(frozen=True, slots=True, kw_only=True)
class AbRequest:
    """What was asked of `pytest-vllm ab`.

    Attributes:
        sides: Options of the base and of the candidate alone, by name.
        shared: The `--vllm-*` options of both, as words for pytest.
        serve_args: Arguments of both servers, from behind the `--`.
        workload: Name or file of the workload.
        requests: Measured requests of a run, `None` for as many as the workload wants.
        concurrency: Places of the closed loop.
        rate_per_s: Requests a second in place of a closed loop, 0 for none.
        warm_up: Requests before the measured ones, `None` for one for each place.
        seed: Root of all that is random.
        pairs: Pairs to make, whatever they show; 0 for 6 and more until it can be told, up to 12.
        aa: How often the base is compared with itself, 0 for a comparison of two sides.
        servers: When the servers are up, `None` for what suits them.
        calibrate: Whether the client measures itself first.
        changes: Allowed change for the worse by figure, as a share, where not the default.
    """

    sides: tuple[Mapping[str, tuple[str, ...]], Mapping[str, tuple[str, ...]]]
    shared: tuple[str, ...] = ()
    serve_args: tuple[str, ...] = ()
    workload: str = "short"
    requests: int | None = None
    concurrency: int = 8
    rate_per_s: float = 0.0
    warm_up: int | None = None
    seed: int = 0
    pairs: int = 0
    aa: int = 0
    servers: Servers | None = None
    calibrate: bool = True
    changes: Mapping[str, float] = field(default_factory=dict)


def read_words(words: Sequence[str]) -> AbRequest:
    """Read the command line, and say what of it makes no sense.

    Raises:
        TargetError: An option is unknown, is missing, has a bad value or contradicts another.
    """
    words = list(words)
    cut = words.index("--") if "--" in words else len(words)
    parser = _parser()
    asked, rest = parser.parse_known_args(words[:cut])
    request = AbRequest(
        sides=_sides(asked),
        shared=_forwarded(rest, parser.names()),
        serve_args=tuple(words[cut + 1 :]),
        workload=asked.workload,
        requests=asked.requests,
        concurrency=asked.concurrency,
        rate_per_s=asked.rate,
        warm_up=asked.warm_up,
        seed=asked.seed,
        pairs=asked.pairs,
        aa=asked.aa,
        servers=asked.servers,
        calibrate=asked.calibrate,
        changes=_changes(asked.change),
    )
    _check(request)
    return request


def _parser() -> WordParser:
    parser = WordParser("ab", add_help=False)
    for name in PAIRED:
        parser.add_argument(f"--{name}", action="append", default=[])
    for name in SIDED:
        for side in "ab":
            parser.add_argument(f"--{side}-{name}", action="append", default=[])
    parser.add_argument("--workload", default="short")
    parser.add_argument("--requests", type=_whole)
    parser.add_argument("--concurrency", type=_whole, default=8)
    parser.add_argument("--rate", type=_above_zero, default=0.0)
    parser.add_argument("--warm-up", type=_whole_or_none)
    parser.add_argument("--seed", type=_whole_or_none, default=0)
    parser.add_argument("--pairs", type=_pairs, default=0)
    parser.add_argument("--aa", type=_whole, default=0)
    parser.add_argument("--change", type=_change, action="append", default=[])
    parser.add_argument("--no-calibrate", dest="calibrate", action="store_false")
    when = parser.add_mutually_exclusive_group()
    for servers in Servers:
        when.add_argument(
            f"--{servers}", dest="servers", action="store_const", const=servers, default=None
        )
    return parser


Options = dict[str, tuple[str, ...]]


def _sides(asked: argparse.Namespace) -> tuple[Options, Options]:
    """Return the options of each side by name."""
    sides: tuple[Options, Options] = ({}, {})
    for name in PAIRED:
        given = getattr(asked, name)
        if len(given) > len(sides):
            raise TargetError(
                f"ab: --{name} is given {len(given)} times, and there are two sides",
                advice="the first is the base, the second the candidate",
            )
        for number in range(len(sides) if given else 0):
            sides[number][name] = (given[min(number, len(given) - 1)],)
    for name in SIDED:
        for letter, side in zip("ab", sides, strict=True):
            given = getattr(asked, f"{letter}_{name.replace('-', '_')}")
            if given and name in side:
                raise TargetError(
                    f"ab: --{letter}-{name} and --{name} both name the {name} of side "
                    f"{letter.upper()}",
                    advice="drop one of them",
                )
            if len(given) > 1 and name not in LISTS:
                raise TargetError(
                    f"ab: --{letter}-{name} is given {len(given)} times", advice="give it once"
                )
            if given:
                side[name] = tuple(given)
    return sides


def _forwarded(rest: Sequence[str], ours: Sequence[str]) -> tuple[str, ...]:
    """Return the words for pytest; refuse those that neither it nor we know."""
    flags = {option.flag: option for option in OPTIONS}
    words = iter(rest)
    forwarded: list[str] = []
    for word in words:
        name, equals, _ = word.partition("=")
        if name not in flags and name not in _FORWARDED:
            _refuse(word, (*ours, *flags))
        forwarded.append(word)
        takes_value = name in _FORWARDED or flags[name].kind != "flag"
        if takes_value and not equals:
            value = next(words, None)
            if value is None:
                raise TargetError(f"ab: {name} has no value", advice=f"write {name}=VALUE")
            forwarded.append(value)
    return tuple(forwarded)


def _refuse(word: str, known: Sequence[str]) -> NoReturn:
    name = word.partition("=")[0]
    if not name.startswith("-"):
        raise TargetError(
            f"ab takes no word of its own, and {word!r} is one",
            advice="name the sides by --image A --image B, --url A --url B or --python A --python "
            "B; vLLM's own arguments follow a --",
        )
    raise TargetError(
        f"ab has no option {name}{closest(name, known)}",
        advice="see pytest-vllm ab --help; vLLM's own arguments follow a --",
    )


def _check(request: AbRequest) -> None:
    base, candidate = request.sides
    if request.aa and base != candidate:
        differs = sorted(
            name for name in {*base, *candidate} if base.get(name) != candidate.get(name)
        )
        raise TargetError(
            f"ab: --aa compares one server with itself, and the sides differ in {differs[0]}",
            advice="name one side only, or leave out --aa",
        )
    if not request.aa and base == candidate:
        raise TargetError(
            "ab: both sides are the same, so there is nothing to compare",
            advice="give --image, --url or --python twice, or what only one side has as --b-env, "
            "--b-serve-arg, ...; to measure this host's own false alarms: --aa 20",
        )
    for option in OPTIONS:
        given = [word for word in request.shared if word.partition("=")[0] == option.flag]
        own = [side for side in request.sides if option.name in side]
        if given and own and option.name not in LISTS:
            raise TargetError(
                f"ab: {option.flag} is for both sides, and --{option.name} names it again",
                advice=f"drop {option.flag}",
            )


def _changes(given: Sequence[tuple[str, float]]) -> dict[str, float]:
    named = [(figure_name("ab: --change", name), share) for name, share in given]
    twice = [name for name, count in Counter(name for name, _ in named).items() if count > 1]
    if twice:
        raise TargetError(f"ab: --change {twice[0]} is given twice", advice="give it once")
    return dict(named)


def _whole(text: str) -> int:
    number = _whole_or_none(text)
    if not number:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return number


def _whole_or_none(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}")
    return int(text)


def _above_zero(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return number


def _pairs(text: str) -> int:
    """Read an even number; fewer than 6 pairs can tell nothing (`load.md` section 7)."""
    number = _whole(text)
    if number < FEWEST_PAIRS or number % STEP:
        raise argparse.ArgumentTypeError(
            f"expected an even number from {FEWEST_PAIRS} up, got {text!r}"
        )
    return number


def _change(text: str) -> tuple[str, float]:
    """Read `ttft_p50_ms=5%` or `ttft-p50=5%`."""
    name, equals, share = text.partition("=")
    number = _above_zero(share.strip().removesuffix("%")) if equals else 0.0
    if not name or not share.strip().endswith("%"):
        raise argparse.ArgumentTypeError(f"expected FIGURE=PERCENT%, got {text!r}")
    return name.strip(), number / 100
