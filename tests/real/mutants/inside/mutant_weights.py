"""Faults in the weights of a Llama-like checkpoint, as an engine could load them.

Runs inside vLLM's interpreter (torch). A fault takes the checkpoint's tensors by name, replaces
some of them and leaves the given tensors themselves as they are. What a fault means for the
operation of the engine is in the catalogue.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import torch

Weights = dict[str, torch.Tensor]
Fault = Callable[..., None]

EMBEDDINGS = "model.embed_tokens.weight"
LINEAR = re.compile(r"_proj\.weight$")
HEAD_SIZE = 64
FP8_LARGEST = 448.0  # of float8_e4m3fn


def layer_of(name: str) -> int:
    """Return the number of the layer that a tensor belongs to, -1 for none."""
    found = re.search(r"\.layers\.(\d+)\.", name)
    return int(found[1]) if found else -1


def linears(weights: Weights, layer: int | None = None, only: str = "") -> Iterable[str]:
    """Return the names of the matrices: of all layers or one, and of one kind or all."""
    return [
        name
        for name in weights
        if LINEAR.search(name) and layer in (None, layer_of(name)) and only in name
    ]


def drop_layers(weights: Weights, *, layers: list[int]) -> None:
    """Let layers add nothing to the residual stream, which is what a layer left out does."""
    for layer in layers:
        for only in ("o_proj", "down_proj"):
            for name in linears(weights, layer, only):
                weights[name] = torch.zeros_like(weights[name])


def swap_layers(weights: Weights, *, first: int, second: int) -> None:
    """Load two layers into each other's place."""
    clean = dict(weights)
    for name in clean:
        if layer_of(name) in (first, second):
            other = second if layer_of(name) == first else first
            weights[name] = clean[re.sub(r"layers\.\d+\.", f"layers.{other}.", name)]


def lose_head(weights: Weights, *, layer: int, head: int) -> None:
    """Zero what one attention head gives to its layer."""
    for name in linears(weights, layer, "o_proj"):
        changed = weights[name].clone()
        changed[:, head * HEAD_SIZE : (head + 1) * HEAD_SIZE] = 0
        weights[name] = changed


def permute_heads(weights: Weights, *, only: str, order: list[int], layer: int | None) -> None:
    """Put the heads of one projection into another order; the other projections keep theirs."""
    for name in linears(weights, layer, only):
        dimension = 1 if only == "o_proj" else 0
        heads = weights[name].split(HEAD_SIZE, dim=dimension)
        weights[name] = torch.cat([heads[source] for source in order], dim=dimension)


def swap_gate_and_up(weights: Weights, *, layer: int | None) -> None:
    """Exchange the two halves of the fused gate_up matrix."""
    for gate in list(linears(weights, layer, "gate_proj")):
        up = gate.replace("gate_proj", "up_proj")
        weights[gate], weights[up] = weights[up], weights[gate]


def scale(weights: Weights, *, factor: float, layer: int | None = None, only: str = "") -> None:
    """Multiply matrices by a wrong scale."""
    for name in linears(weights, layer, only):
        weights[name] = weights[name] * factor


def lose_shard(weights: Weights, *, only: str, layer: int | None) -> None:
    """Lose what the second of two ranks adds: its half of the columns of a row-parallel matrix."""
    for name in linears(weights, layer, only):
        changed = weights[name].clone()
        changed[:, changed.shape[1] // 2 :] = 0
        weights[name] = changed


def add_noise(weights: Weights, *, ratio: float, seed: int) -> None:
    """Add Gaussian noise to every matrix, its deviation a ratio of the matrix's own."""
    generator = torch.Generator().manual_seed(seed)
    for name in linears(weights):
        clean = weights[name].float()
        noise = torch.randn(clean.shape, generator=generator) * clean.std() * ratio
        weights[name] = (clean + noise).to(weights[name].dtype)


def randomise(weights: Weights, *, seed: int) -> None:
    """Replace every matrix by random numbers of the same mean and deviation."""
    generator = torch.Generator().manual_seed(seed)
    for name in [*linears(weights), EMBEDDINGS]:
        clean = weights[name].float()
        drawn = torch.randn(clean.shape, generator=generator) * clean.std() + clean.mean()
        weights[name] = drawn.to(weights[name].dtype)


def poison(weights: Weights, *, layer: int) -> None:
    """Make one number of one matrix a NaN."""
    for name in linears(weights, layer, "down_proj"):
        changed = weights[name].clone()
        changed[0, 0] = torch.nan
        weights[name] = changed


def shift_embeddings(weights: Weights, *, rows: int) -> None:
    """Move the rows of the (tied) embedding matrix: every token gets a neighbour's vector."""
    weights[EMBEDDINGS] = weights[EMBEDDINGS].roll(rows, dims=0)


def transpose(weights: Weights, *, only: str, layer: int) -> None:
    """Load a square matrix transposed."""
    for name in linears(weights, layer, only):
        weights[name] = weights[name].T.contiguous()


def shift_norms(weights: Weights, *, by: float) -> None:
    """Add a constant to every norm weight, as a (1 + weight) norm taken for a plain one does."""
    for name in weights:
        if name.endswith("norm.weight"):
            weights[name] = weights[name] + by


def round_fp8(weights: Weights, *, scale_error: float = 1.0) -> None:
    """Round every matrix to fp8 (e4m3fn, one scale a matrix) and back, perhaps by a wrong scale."""
    for name in linears(weights):
        clean = weights[name].float()
        unit = clean.abs().max() / FP8_LARGEST
        rounded = (clean / unit).to(torch.float8_e4m3fn).float() * unit * scale_error
        weights[name] = rounded.to(weights[name].dtype)


def round_int8(weights: Weights, *, rows_off: int = 0) -> None:
    """Round every matrix to int8 (one scale a row) and back, perhaps by another row's scale."""
    for name in linears(weights):
        clean = weights[name].float()
        unit = clean.abs().amax(dim=1, keepdim=True) / 127
        rounded = (clean / unit).round() * unit.roll(rows_off, dims=0)
        weights[name] = rounded.to(weights[name].dtype)


def round_int4(weights: Weights, *, group: int, use_scales: bool, groups_off: int = 0) -> None:
    """Round every matrix to int4 (a scale for each group of a row) and back.

    Without scales the bare integers -8..7 are taken for the weights; with `groups_off` each group
    is scaled back by the scale of another.
    """
    for name in linears(weights):
        clean = weights[name].float()
        grouped = clean.reshape(clean.shape[0], -1, group)
        unit = grouped.abs().amax(dim=2, keepdim=True) / 7
        rounded = (grouped / unit).round().clamp(-8, 7)
        if use_scales:
            rounded = rounded * unit.roll(groups_off, dims=1)
        weights[name] = rounded.reshape(clean.shape).to(weights[name].dtype)


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        drop_layers,
        swap_layers,
        lose_head,
        permute_heads,
        swap_gate_and_up,
        scale,
        lose_shard,
        add_noise,
        randomise,
        poison,
        shift_embeddings,
        transpose,
        shift_norms,
        round_fp8,
        round_int8,
        round_int4,
    )
}
