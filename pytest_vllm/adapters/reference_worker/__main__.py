"""Answers questions about a model from transformers, one JSON object a line; runs as a script.

It runs in an interpreter that has torch and transformers, which need not have pytest-vllm, so it
imports nothing of ours.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main(folder: str, dtype: str) -> None:
    """Load a model, say so, and answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the libraries print is no answer
    try:
        model = _Model(folder, dtype)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other side tells it
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=answers, flush=True)
        return
    print(json.dumps({"ready": model.versions}), file=answers, flush=True)
    for line in sys.stdin:
        try:
            question = json.loads(line)
            answer = {"answer": getattr(model, question.pop("ask"))(**question)}
        except Exception as error:  # noqa: BLE001 - likewise
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


class _Model:
    def __init__(self, folder: str, dtype: str) -> None:
        import torch  # noqa: PLC0415 - an import that fails is an answer
        import transformers  # noqa: PLC0415

        self._torch = torch
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        kind = getattr(torch, dtype)
        self._model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=kind)
        self._model.eval()
        self.versions = {"torch": torch.__version__, "transformers": transformers.__version__}

    def limit(self) -> int:
        return int(getattr(self._model.config, "max_position_embeddings", 0) or 0)

    def tokenize(self, text: str, special: bool) -> list[int]:  # noqa: FBT001 - of the protocol
        return list(self._tokenizer.encode(text, add_special_tokens=special))

    def render(self, messages: list[dict[str, str]]) -> list[int] | None:
        if not self._tokenizer.chat_template:
            return None
        text = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def score(self, ids: list[int], last: int, top: int) -> list[list[Any]]:
        """Return for the last tokens: log probability, and the best tokens with theirs."""
        torch = self._torch
        with torch.no_grad():
            logits = self._model(torch.tensor([ids]), logits_to_keep=last + 1).logits[0, :-1]
        table = torch.log_softmax(logits.float(), -1)
        chosen = table.gather(1, torch.tensor(ids[-last:])[:, None])[:, 0].tolist()
        values, indices = table.topk(max(top, 1))
        best = [
            [[int(id_), float(value)] for id_, value in zip(row, numbers, strict=True)]
            for row, numbers in zip(indices.tolist(), values.tolist(), strict=True)
        ]
        return [list(pair) for pair in zip(chosen, best, strict=True)]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
