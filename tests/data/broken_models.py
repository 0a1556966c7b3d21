"""Models that vLLM cannot serve, each broken in one way, made out of a sound model folder.

`python -m tests.data.broken_models SOUND FOLDER [KIND...]` makes them by hand.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
TEMPLATE = "chat_template.jinja"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json")
KEPT_BYTES = 3_000_000
"""What a download that was cut short has left of the weights; the header alone is larger."""
_POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c\n"
    "size 269060552\n"
)
_REMOTE_CONFIG = """\
from transformers import PretrainedConfig


class BarConfig(PretrainedConfig):
    model_type = "bar"
"""


def break_model(kind: str, sound: Path, folder: Path) -> Path:
    """Make a model of one kind; files that stay sound are hard links where that is possible.

    Args:
        kind: One of `KINDS`.
        sound: Folder of a sound model with one file of weights.
        folder: Where the new one is made, under its kind as name.

    Returns:
        The new model's folder.
    """
    target = folder / kind
    target.mkdir(parents=True)
    for file in sound.iterdir():
        if file.is_file():
            _link(file.resolve(), target / file.name)
    KINDS[kind](target)
    return target


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def _replace(file: Path, content: bytes) -> None:
    """Write a file anew: a link to the sound one must not be written through."""
    file.unlink(missing_ok=True)
    file.write_bytes(content)


def _with_config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text("utf-8")) | changes
        _replace(folder / CONFIG, json.dumps(config, indent=1).encode())

    return change


def _without(*names: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        for name in names:
            (folder / name).unlink(missing_ok=True)

    return remove


def _truncated(folder: Path) -> None:
    with (folder / WEIGHTS).open("rb") as whole:
        _replace(folder / WEIGHTS, whole.read(KEPT_BYTES))


def _lfs_pointer(folder: Path) -> None:
    _replace(folder / WEIGHTS, _POINTER.encode())


def _remote_code(folder: Path) -> None:
    auto = {
        "AutoConfig": "configuration_bar.BarConfig",
        "AutoModelForCausalLM": "modeling_bar.BarForCausalLM",
    }
    _with_config(architectures=["BarForCausalLM"], model_type="bar", auto_map=auto)(folder)
    (folder / "configuration_bar.py").write_text(_REMOTE_CONFIG, "utf-8")


def _empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def _half_a_config(folder: Path) -> None:
    text = (folder / CONFIG).read_bytes()
    _replace(folder / CONFIG, text[: len(text) // 2])


def _no_chat_template(folder: Path) -> None:
    """Leave out the template in both places where it may be."""
    _without(TEMPLATE)(folder)
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text("utf-8"))
    config.pop("chat_template", None)
    _replace(file, json.dumps(config).encode())


KINDS: dict[str, Callable[[Path], None]] = {
    "empty": _empty,
    "no-config": _without(CONFIG),
    "half-config": _half_a_config,
    "bad-architecture": _with_config(architectures=["FooForCausalLM"]),
    "unknown-type": _with_config(architectures=["Foo3ForCausalLM"], model_type="foo3"),
    "remote-code": _remote_code,
    "truncated": _truncated,
    "lfs-pointer": _lfs_pointer,
    "no-weights": _without(WEIGHTS),
    "no-tokenizer": _without(*TOKENIZER, "merges.txt"),
    "no-chat-template": _no_chat_template,
    "unknown-quantization": _with_config(quantization_config={"quant_method": "foo", "bits": 4}),
    "wrong-shape": _with_config(hidden_size=640, intermediate_size=1536),
}
"""How each kind is broken; the function changes a folder of links to a sound model."""


def main(words: list[str]) -> int:
    """Make some kinds by hand, all of them by default."""
    sound, folder, *kinds = words
    for kind in kinds or KINDS:
        print(break_model(kind, Path(sound), Path(folder)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
