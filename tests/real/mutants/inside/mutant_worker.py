"""A part of vLLM's worker that changes the model which is being served, on request.

vLLM mixes the class into its worker (`--worker-extension-cls mutant_worker.MutantWorker`), and
`POST /collective_rpc` calls it (`VLLM_SERVER_DEV_MODE=1`). A change of weights goes through vLLM's
own loader, so the engine fuses, packs and converts them as it does at start; a change of what is
no weight (RoPE table, eps, scales) is made in the running modules and taken back by the next call.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mutant_engine import CHANGES, Undo
from mutant_weights import FAULTS, Weights
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    import torch


class MutantWorker:
    """Calls that the worker of vLLM gets on top of its own."""

    model_runner: Any
    vllm_config: Any

    def become_mutant(self, operations: str) -> dict[str, Any]:
        """Make the served model the clean one with some faults.

        Args:
            operations: JSON list of [name, arguments]; the empty list is the clean model.

        Returns:
            What was done and how many seconds it took.
        """
        began = time.monotonic()
        wanted = json.loads(operations)
        for undo in reversed(self.__dict__.pop("_mutant_undo", [])):
            undo()
        done: list[Undo] = []
        self.__dict__["_mutant_undo"] = done
        weights = self._clean_weights()
        of_weights = [(name, arguments) for name, arguments in wanted if name in FAULTS]
        for name, arguments in of_weights:
            FAULTS[name](weights, **arguments)
        if of_weights or self.__dict__.get("_mutant_weights", False):
            self.model_runner.reload_weights(weights_iterator=iter(weights.items()))
        self.__dict__["_mutant_weights"] = bool(of_weights)
        model = self.model_runner.get_model()
        for name, arguments in wanted:
            if name not in FAULTS:
                done.extend(CHANGES[name](model, **arguments))
        # A NaN that is left in a free block would spoil whoever gets the block next.
        for cache in self.model_runner.kv_caches:
            cache.zero_()
        return {"operations": wanted, "seconds": time.monotonic() - began}

    def save_mutant(self, operations: str, folder: str) -> None:
        """Write a model folder whose checkpoint has faults of weights, for a start from disk."""
        weights = self._clean_weights()
        for name, arguments in json.loads(operations):
            FAULTS[name](weights, **arguments)
        source = Path(self.vllm_config.model_config.model)
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
        whole = {name: tensor.contiguous() for name, tensor in weights.items()}
        save_file(whole, Path(folder) / "model.safetensors", metadata={"format": "pt"})

    def _clean_weights(self) -> Weights:
        """Return the checkpoint's tensors, kept after the first read."""
        if "_mutant_clean" not in self.__dict__:
            clean: dict[str, torch.Tensor] = {}
            for path in sorted(Path(self.vllm_config.model_config.model).glob("*.safetensors")):
                clean |= load_file(path)
            self.__dict__["_mutant_clean"] = clean
        return dict(self.__dict__["_mutant_clean"])
