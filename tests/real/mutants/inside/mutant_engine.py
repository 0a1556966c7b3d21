"""Faults in what the engine computes with the weights: RoPE, norms, scales, rows of a batch.

Runs inside vLLM's interpreter. A change is made in the modules of the running model and returns
the calls that take it back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

Undo = Callable[[], None]
Change = Callable[..., Iterable[Undo]]


def set_attribute(thing: Any, name: str, *, value: Any) -> Undo:
    """Set an attribute and return what sets it back."""
    before = getattr(thing, name)
    setattr(thing, name, value)
    return lambda: setattr(thing, name, before)


def overwrite(tensor: torch.Tensor, values: torch.Tensor) -> Undo:
    """Write into a tensor in place, so that everything that shares it sees it."""
    before = tensor.clone()
    tensor.copy_(values)

    def undo() -> None:
        tensor.copy_(before)

    return undo


def wrap_forward(module: Any, wrapper: Callable[..., Any]) -> Undo:
    """Put a function around the forward of one module; it gets the original first."""
    original = module.forward
    module.forward = lambda *args, **kwargs: wrapper(original, *args, **kwargs)

    def undo() -> None:
        del module.forward

    return undo


def tables(model: Any) -> list[Any]:
    """Return the RoPE modules, each once (layers share them)."""
    found = {id(layer.self_attn.rotary_emb): layer.self_attn.rotary_emb for layer in layers(model)}
    return list(found.values())


def layers(model: Any) -> list[Any]:
    """Return the decoder layers."""
    return list(model.model.layers)


def change_theta(model: Any, *, factor: float) -> Iterable[Undo]:
    """Compute the RoPE table with another base."""
    for rope in tables(model):
        base = rope.base
        rope.base = base * factor
        values = rope._compute_cos_sin_cache()
        rope.base = base
        yield overwrite(rope.cos_sin_cache, values.to(rope.cos_sin_cache.dtype))


def remove_rope(model: Any) -> Iterable[Undo]:
    """Rotate by nothing: every position is position 0."""
    for rope in tables(model):
        yield overwrite(rope.cos_sin_cache, rope.cos_sin_cache[:1].expand_as(rope.cos_sin_cache))


def shorten_rope(model: Any, *, end: int) -> Iterable[Undo]:
    """Let the RoPE table repeat its last row from a position on."""
    for rope in tables(model):
        values = rope.cos_sin_cache.clone()
        values[end:] = values[end - 1]
        yield overwrite(rope.cos_sin_cache, values)


def interleave_rope(model: Any) -> Iterable[Undo]:
    """Rotate neighbours instead of halves (GPT-J's RoPE taken for NeoX's)."""
    for rope in tables(model):
        yield set_attribute(rope, "is_neox_style", value=False)


def shift_decode_positions(model: Any, *, by: int, most_tokens: int) -> Iterable[Undo]:
    """Shift the positions of small steps only: decoding goes wrong, prefill does not."""
    for rope in tables(model):

        def shifted(original: Any, positions: torch.Tensor, *rest: Any, **named: Any) -> Any:
            small = positions.numel() <= most_tokens
            return original(positions + by if small else positions, *rest, **named)

        yield wrap_forward(rope, shifted)


def change_eps(model: Any, *, eps: float) -> Iterable[Undo]:
    """Give every norm another epsilon."""
    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            yield set_attribute(module, "variance_epsilon", value=eps)


def scale_attention(model: Any, *, factor: float) -> Iterable[Undo]:
    """Scale the attention scores."""
    for layer in layers(model):
        impl = layer.self_attn.attn.impl
        yield set_attribute(impl, "scale", value=impl.scale * factor)


def scale_logits(model: Any, *, factor: float) -> Iterable[Undo]:
    """Scale the logits."""
    yield set_attribute(model.logits_processor, "scale", value=factor)


def drop_residual(model: Any, *, layer: int) -> Iterable[Undo]:
    """Lose the residual stream behind one layer; what the layer itself gives is left."""

    def without(original: Any, *args: Any, **kwargs: Any) -> Any:
        hidden, residual = original(*args, **kwargs)
        return hidden, torch.zeros_like(residual)

    yield wrap_forward(layers(model)[layer], without)


def swap_rows(model: Any, *, sizes: list[int]) -> Iterable[Undo]:
    """Exchange the first two rows of logits when the batch has one of some sizes (cross-talk)."""
    original = model.compute_logits

    def swapped(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if hidden.shape[0] in sizes:
            hidden = hidden[[1, 0, *range(2, hidden.shape[0])]]
        return original(hidden, *args, **kwargs)

    model.compute_logits = swapped

    def undo() -> None:
        del model.compute_logits

    yield undo


CHANGES: dict[str, Change] = {
    change.__name__: change
    for change in (
        change_theta,
        remove_rope,
        shorten_rope,
        interleave_rope,
        shift_decode_positions,
        change_eps,
        scale_attention,
        scale_logits,
        drop_residual,
        swap_rows,
    )
}
