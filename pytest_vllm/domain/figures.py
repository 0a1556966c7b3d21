"""Numbers that a cure needs: the largest safe share of memory, the smallest number of GPUs."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING

from pytest_vllm.domain.utilization import default_utilization, safe_utilization

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pytest_vllm.domain.facts import LaunchFacts
    from pytest_vllm.domain.facts.host import Holder

_GIB = 2**30
_UNITS = {"B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_SIZES_SHOWN = 16
_AFTER_LOADING = frozenset({"compile", "aiter jit", "kv cache", "graph capture", "api up", "ready"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What is known besides the log; empty where nothing is.

    Attributes:
        model: The model as the user named it.
        weights_bytes: Size of all its weights.
        known_weights: Sizes of the weights of well-known models by ID.
        known_heads: Numbers of attention heads of well-known models by ID.
        known_models: IDs of models that exist.
        known_flags: Flags that this vLLM knows.
        holders: Processes that hold a GPU.
        port_holder: Who holds the port that was asked for.
        sent: Entrypoint and command that we sent.
        image: What the image says of its own entrypoint and command.
    """

    model: str = ""
    weights_bytes: int | None = None
    known_weights: Mapping[str, int] = field(default_factory=dict)
    known_heads: Mapping[str, int] = field(default_factory=dict)
    known_models: Sequence[str] = ()
    known_flags: Sequence[str] = ()
    holders: Sequence[Holder] = ()
    port_holder: str = ""
    sent: str = ""
    image: str = ""


def context_of(facts: LaunchFacts) -> Context:
    """Return what the facts of a launch tell a diagnosis."""
    model, image, arguments = facts.model, facts.image, facts.arguments
    config = None if model is None else model.config
    heads = {model.asked: config.heads} if model and config and config.heads else {}
    return Context(
        model="" if model is None else model.asked,
        weights_bytes=None if model is None else model.weights_bytes,
        known_heads=heads,
        known_flags=tuple(name for flag in arguments.flags for name in flag.names)
        if arguments
        else (),
        holders=facts.host.holders,
        image="" if image is None else " ".join((*image.entrypoint, *image.cmd)),
    )


Values = dict[str, str]


def _largest_utilization(values: Values, context: Context) -> Values:
    """free/total, rounded down to two digits, minus 0.02 (docs/signatures.md, G7)."""
    del context
    try:
        free, total = float(values["free"]), float(values["total"])
        share = safe_utilization(free, total)
    except (KeyError, ValueError, ZeroDivisionError):
        return {}
    return {"safe": f"{share:.2f}"} if share > 0 else {}


def _holders(values: Values, context: Context) -> Values:
    del values
    named = [
        f"{holder.name} (PID {holder.pid}"
        + ("" if holder.vram_bytes is None else f", {holder.vram_bytes / _GIB:.1f} GiB")
        + ")"
        for holder in context.holders
    ]
    return {"holders": ", ".join(named)} if named else {}


def _gpus_needed(values: Values, context: Context) -> Values:
    """ceil(weights / (utilization * VRAM)), raised to a tensor parallel size that splits evenly."""
    vram = _bytes(values.get("vram", ""))
    model = context.model or values.get("model", "")
    weights = context.weights_bytes or _weights(model, context)
    if not vram or not weights or values.get("phase") in _AFTER_LOADING:
        return {}
    share = _utilization(values)
    needed = math.ceil(weights / (share * vram))
    if needed <= int(values.get("tp", "1")):
        return {}  # the weights alone would fit, so something else fills the memory
    return {
        "weights": f"{weights / _GIB:.1f} GiB",
        "room": f"{share * vram / _GIB:.1f} GiB",
        "share": f"{share:g}",
        "gpus": str(needed),
        "tp_size": str(_parallel_size(needed, _heads(model, context))),
    }


def _parallel_size(needed: int, heads: int | None) -> int:
    """Return the smallest size from `needed` on that splits the heads evenly."""
    if heads is None:
        return 1 << (needed - 1).bit_length()  # nearly all models have a power of two of them
    return next((size for size in range(needed, heads + 1) if heads % size == 0), needed)


def _heads(model: str, context: Context) -> int | None:
    known = _known(model, context.known_heads)
    return None if known is None else context.known_heads[known]


def _weights(model: str, context: Context) -> int | None:
    known = _known(model, context.known_weights)
    return None if known is None else context.known_weights[known]


def _known(model: str, known: Iterable[str]) -> str | None:
    """Find a model among known IDs: by its ID, or by the folder that a path ends in."""
    cached = re.search(r"models--([\w.-]+?)--([\w.-]+)", model)
    name = (f"{cached[1]}/{cached[2]}" if cached else model.rstrip("/")).lower()
    names = {each.lower(): each for each in known}
    short = {each.rpartition("/")[2]: full for each, full in names.items()}
    return names.get(name) or short.get(name.rpartition("/")[2])


def _utilization(values: Values) -> float:
    try:
        return float(values["utilization"])
    except (KeyError, ValueError):
        numbers = re.findall(r"\d+", values.get("version", "")) or ["0", "0"]
        return default_utilization(tuple(int(number) for number in numbers[:2]))


def _bytes(text: str) -> float | None:
    match = re.fullmatch(r"([\d.]+)\s*([KMGT]i?B|B)", text.strip())
    if not match:
        return None
    unit = match[2].upper()
    return float(match[1]) * _UNITS[unit if "I" in unit or unit == "B" else f"{unit[0]}IB"]


def _parallel_sizes(values: Values, context: Context) -> Values:
    """Sizes that divide the heads: a head is never split."""
    del context
    try:
        heads = int(values["heads"])
    except (KeyError, ValueError):
        return {}
    if not 0 < heads <= 2**16:
        return {}
    sizes = [str(size) for size in range(1, heads + 1) if heads % size == 0][:_SIZES_SHOWN]
    below = [size for size in sizes if int(size) <= int(values.get("tp", heads))]
    return {"sizes": ", ".join(sizes), "size": below[-1] if below else sizes[0]}


def _close_models(values: Values, context: Context) -> Values:
    """Names that are close: by the whole ID, else by the name under another organisation."""
    asked = values.get("model", "").lower()
    by_id = {known.lower(): known for known in context.known_models}
    matches = get_close_matches(asked, by_id, n=3, cutoff=0.6)
    names = [by_id[match] for match in matches]
    if not names:
        by_name = {known.rpartition("/")[2].lower(): known for known in context.known_models}
        last = asked.rpartition("/")[2]
        names = [by_name[name] for name in get_close_matches(last, by_name, n=3, cutoff=0.75)]
    return {"close": ", ".join(names), "closest": names[0]} if names else {}


def _close_flag(values: Values, context: Context) -> Values:
    flag = values.get("flag", "").split()[:1]
    name = flag[0].partition("=")[0] if flag else ""
    matches = get_close_matches(name, list(context.known_flags), n=1, cutoff=0.6)
    return {"close": matches[0]} if matches else {}


def _context(values: Values, context: Context) -> Values:
    """What only the caller knows."""
    known = {
        "model": values.get("model") or context.model,
        "port_holder": context.port_holder,
        "sent": context.sent,
        "image": context.image,
    }
    return {name: text for name, text in known.items() if text}


FIGURES: Mapping[str, Callable[[Values, Context], Values]] = {
    "largest-utilization": _largest_utilization,
    "holders": _holders,
    "gpus-needed": _gpus_needed,
    "parallel-sizes": _parallel_sizes,
    "close-models": _close_models,
    "close-flag": _close_flag,
    "context": _context,
}
"""Computations by the name that signatures give; each adds values for the templates."""
