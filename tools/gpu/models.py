"""Write a model folder that vLLM serves with `--load-format=dummy`: true shapes, random weights.

Memory and speed are those of the real model; its text is noise.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).parents[2] / "tests" / "data" / "models" / "configs.json"


def write_model(
    name: str, folder: Path, *, tokenizer: Path, quantization: dict[str, Any] | None = None
) -> Path:
    """Write config and tokenizer of one of the public models that the tests know.

    Args:
        name: Its ID, such as `deepseek-ai/deepseek-llm-7b-base`.
        folder: Where to; made if it is not there.
        tokenizer: Folder of any byte-pair tokenizer; its vocabulary is filled up to the model's, so
            that every token that random weights choose has a text.
        quantization: How the checkpoint is stored, where not as published.
    """
    config = json.loads(CONFIGS.read_text("utf-8"))["models"][name]["config"]
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"):
        if (tokenizer / file).exists():
            shutil.copy(tokenizer / file, folder)
    tokens = json.loads((tokenizer / "tokenizer.json").read_text("utf-8"))
    _fill(tokens, config["vocab_size"])
    (folder / "tokenizer.json").write_text(json.dumps(tokens), "utf-8")
    # the special tokens are those of the tokenizer that is there
    config |= {"bos_token_id": 1, "eos_token_id": 2}
    if quantization is not None:
        config["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(config, indent=1), "utf-8")
    return folder


def _fill(tokens: dict[str, Any], size: int) -> None:
    vocabulary = tokens["model"]["vocab"]
    known = {*vocabulary.values(), *(token["id"] for token in tokens["added_tokens"])}
    for number in range(size):
        if number not in known:
            vocabulary[f"w{number}"] = number
