"""The shipped configs of well-known models, `data/models/configs/*.json`, by the Hub's names.

They are trimmed to what memory depends on. It imports little, for it is often all there is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

_LEGACY = frozenset(
    {
        *("openai-community", "google-bert", "google-t5", "distilbert", "FacebookAI", "albert"),
        *("xlnet", "transfo-xl", "almanach"),
    }
)
"""Owners to whom the Hub gave the models that had none: `gpt2` is `openai-community/gpt2`."""
_FOLDER = Path(__file__).parent.parent / "data" / "models" / "configs"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedModel:
    """One config and the models that have it.

    Attributes:
        ids: Names on the Hub of the models that share it.
        source: Where it was read.
        parameters: Parameters of the main model, each counted once; `None` if not published.
        files_bytes: Size of the weight files of the first model, `None` if not known to the byte.
        config: The part of its `config.json` that memory depends on.
    """

    ids: tuple[str, ...]
    source: str
    parameters: int | None = None
    files_bytes: int | None = None
    config: dict[str, Any] = field(default_factory=dict)


@cache
def listed_models() -> tuple[ListedModel, ...]:
    """Return all shipped configs."""
    return tuple(_read(file) for file in sorted(_FOLDER.glob("*.json")))


def listed_model(name: str) -> ListedModel | None:
    """Return the shipped config of a model by its name on the Hub, in any case.

    A model that once had no owner goes by its bare name, too, as on the Hub.
    """
    file = _FOLDER / f"{name.replace('/', '--')}.json"
    if "/" in name and file.is_file():  # most of them, without reading the others
        return _read(file)
    asked = name.lower()
    return next(
        (model for model in listed_models() if any(asked in _names(item) for item in model.ids)),
        None,
    )


def _names(item: str) -> tuple[str, ...]:
    owner, _, bare = item.partition("/")
    return (item.lower(), bare.lower()) if owner in _LEGACY else (item.lower(),)


def _read(file: Path) -> ListedModel:
    document = json.loads(file.read_bytes())
    return ListedModel(
        ids=tuple(document["ids"]),
        source=str(document["source"]),
        parameters=document.get("parameters"),
        files_bytes=document.get("files_bytes"),
        config=document["config"],
    )
