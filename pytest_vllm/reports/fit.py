"""A forecast for the terminal: the verdict first, then where the memory goes and what would fit.

It does without rich, whose import takes longer than the whole forecast.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from typing import TYPE_CHECKING

from pytest_vllm.domain.fit import Fit
from pytest_vllm.domain.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_vllm.domain.fit import Device, Forecast, Part, Suggestion

_GIB = 2**30
_COLOURS = {Fit.FITS: "1;32", Fit.MARGINAL: "1;33", Fit.DOES_NOT_FIT: "1;31"}
_DIM, _BOLD, _GREEN, _CYAN = "2", "1", "32", "36"
_NARROWEST = 40
_NAME, _NUMBER = 14, 10
_LABEL = 16
_MARGIN, _CACHE = "margin", "KV cache"
_ALWAYS = ("weights", _CACHE, _MARGIN)
"""Parts that are shown even when they are nothing."""
_EIGHTHS = " ▏▎▍▌▋▊▉"
_WORDS = {
    "tensor-parallel": "tensor parallel",
    "kv-cache": "KV cache",
    "max-model-len": "longest request",
    "gpus": "GPUs",
}


def render(
    forecast: Forecast, *, width: int = 80, colour: bool = False, plain: bool = False
) -> str:
    """Return a forecast as text.

    Args:
        forecast: What was found.
        width: Columns of the terminal.
        colour: Whether it understands colours.
        plain: Whether it shows ASCII only.
    """
    page = _Page(width=max(width, _NARROWEST), colour=colour, plain=plain)
    lines = [*_verdict(forecast, page)]
    if forecast.parts:
        lines += ["", *_waterfall(forecast, page)]
    if forecast.layout is not None and forecast.blocks:
        lines += ["", *_cache(forecast, page)]
    if forecast.suggestions:
        head = "what fits at most" if forecast.verdict is Fit.FITS else "what would fit"
        lines += ["", page.paint(head, _BOLD), *_suggestions(forecast, page)]
    if forecast.notes:
        lines += ["", page.paint("notes", _BOLD)]
        for note in forecast.notes:
            lines += page.wrap(note, first="  - ", rest="    ")
    return "\n".join(lines)


class _Page:
    """What the terminal can show.

    Args:
        width: Columns.
        colour: Whether it understands colours.
        plain: Whether it shows ASCII only.
    """

    def __init__(self, *, width: int, colour: bool, plain: bool) -> None:
        self.width = width
        self._colour = colour
        self._plain = plain

    def paint(self, text: str, code: str) -> str:
        """Return the text in a colour."""
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour and text else text

    def wrap(self, text: str, *, first: str = "", rest: str = "") -> list[str]:
        """Return the text in lines that fit; names and numbers are not cut."""
        return textwrap.wrap(
            printable(text),
            self.width,
            initial_indent=first,
            subsequent_indent=rest,
            break_long_words=False,
            break_on_hyphens=False,
        )

    def bar(self, share: float, columns: int) -> str:
        """Return a bar as long as a share of the columns; what is not nothing is seen."""
        eighths = round(min(max(share, 0.0), 1.0) * columns * 8)
        if self._plain:
            return "#" * (round(eighths / 8) or int(share > 0))
        eighths = max(eighths, int(share > 0))
        return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _verdict(forecast: Forecast, page: _Page) -> Iterator[str]:
    gate = f" ({forecast.gate})" if forecast.gate is not None else ""
    head = f"{forecast.verdict}{gate}"
    rest = f": {printable(forecast.model)} on {_named(forecast)}, {_started(forecast)}"
    first, *more = page.wrap(head + rest, rest="  ")
    yield page.paint(head, _COLOURS[forecast.verdict]) + first[len(head) :]
    yield from more
    if forecast.reason:
        yield from page.wrap(forecast.reason, first="  ", rest="  ")


def _named(forecast: Forecast) -> str:
    """Name the devices that are used: `8 MI250 devices of 63.98 GiB`, `one of 8 ...`."""
    devices = forecast.devices
    used = devices[: forecast.serving.ranks_here]
    if not used or len(used) == len(devices):
        return _kinds(devices)
    count = "one" if len(used) == 1 else str(len(used))
    alike = len({(device.name or device.gfx, device.total_bytes) for device in devices}) == 1
    return f"{count} of {_kinds(devices)}" if alike else f"{_kinds(used)} of {len(devices)} devices"


def _kinds(devices: tuple[Device, ...]) -> str:
    """Name devices, those of one kind together."""
    kinds = Counter((device.name or device.gfx or "GPU", device.total_bytes) for device in devices)
    return " and ".join(
        f"{count} {name} device{'s' if count > 1 else ''} of {_gib(total)} GiB"
        if count > 1
        else f"one {name} of {_gib(total)} GiB"
        for (name, total), count in kinds.items()
    )


def _started(forecast: Forecast) -> str:
    serving = forecast.serving
    ways = {
        "TP": serving.tensor_parallel,
        "PP": serving.pipeline_parallel,
        "DP": serving.data_parallel,
    }
    spare = len(forecast.devices) > serving.ranks_here
    spread = " ".join(
        f"{name}={count}" for name, count in ways.items() if count > 1 or (spare and name == "TP")
    )
    experts = " with expert parallelism" if serving.expert_parallel else ""
    version = ".".join(str(number) for number in serving.version[:2])
    return f"vLLM {version}{', ' if spread else ''}{spread}{experts}"


def _waterfall(forecast: Forecast, page: _Page) -> Iterator[str]:
    total = sum(part.bytes for part in forecast.parts)
    shown = [part for part in forecast.parts if part.bytes or part.name in _ALWAYS]
    yield page.paint("memory of the tightest rank, GiB", _BOLD) + (
        page.paint("   ~ estimated", _DIM) if any(part.estimated for part in shown) else ""
    )
    for part in shown:
        yield _row(part, page, total=total)
    if not forecast.missing_bytes:
        yield f"  {'device':<{_NAME}}{_gib(total):>{_NUMBER}}"
        return
    yield f"  {'together':<{_NAME}}{_gib(total):>{_NUMBER}}"
    yield f"  {'device':<{_NAME}}{_gib(total - forecast.missing_bytes):>{_NUMBER}}"
    missing = f"  {'missing':<{_NAME}}{_gib(forecast.missing_bytes):>{_NUMBER}}"
    yield page.paint(missing, _COLOURS[forecast.verdict])


def _row(part: Part, page: _Page, *, total: int) -> str:
    columns = page.width - 2 - _NAME - _NUMBER - 2
    number = f"{'~' if part.estimated else ''}{_gib(part.bytes)}"
    bar = page.bar(part.bytes / total if total else 0.0, columns)
    code = _DIM if part.name == _MARGIN else _GREEN if part.name == _CACHE else _CYAN
    return f"  {part.name:<{_NAME}}{number:>{_NUMBER}}  {page.paint(bar, code)}".rstrip()


def _cache(forecast: Forecast, page: _Page) -> Iterator[str]:
    layout = forecast.layout
    if layout is None:
        return
    fails = forecast.verdict is Fit.DOES_NOT_FIT
    yield page.paint("KV cache of a rank" + (", as it would be" if fails else ""), _BOLD)
    size = (
        f"{layout.bytes_per_token:,} bytes a token, {forecast.blocks:,} blocks of "
        f"{layout.block_size} tokens: {forecast.kv_tokens:,} tokens"
    )
    yield from page.wrap(size, first="  ", rest="    ")
    if fails:  # it never serves a request
        return
    yield (
        f"  {forecast.max_concurrency:,.2f} requests of {forecast.max_model_len:,} tokens at a time"
    )


def _suggestions(forecast: Forecast, page: _Page) -> Iterator[str]:
    for suggestion in forecast.suggestions:
        yield from _suggestion(suggestion, page)


def _suggestion(suggestion: Suggestion, page: _Page) -> Iterator[str]:
    text = f"{_WORDS.get(suggestion.kind, suggestion.kind):<{_LABEL}} {suggestion.text}"
    yield from page.wrap(text, first="  ", rest=" " * (_LABEL + 3))
    if suggestion.argument:
        yield " " * (_LABEL + 3) + page.paint(printable(suggestion.argument), _BOLD)


def _gib(size: int) -> str:
    return f"{size / _GIB:,.2f}"
