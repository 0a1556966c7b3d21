"""Names GPUs by their PCI device ID where neither driver nor library does.

A driver names a GPU after the label on the board, which most Radeon cards and some Instinct boards
do not have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


def fill_names(gpus: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the GPUs, those without a name or an instruction set with those of the table."""
    if all(gpu["name"] and gpu["gfx"] for gpu in gpus):
        return list(gpus)
    from pytest_vllm.adapters.gpu_table import gpu_models  # noqa: PLC0415 - read only when needed

    known = {number: model for model in gpu_models() for number in model.pci_ids}
    filled = []
    for gpu in gpus:
        model = known.get(gpu["device_id"])
        names = {"name": f"AMD {model.name}", "gfx": model.gfx} if model is not None else {}
        filled.append({**gpu, **{key: gpu[key] or name for key, name in names.items()}})
    return filled
