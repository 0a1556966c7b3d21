"""The shipped configs of well-known models, `data/models/configs/*.json`, by the Hub's names.

They are trimmed to what memory depends on. It imports little, for it is often all there is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

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
    """Return the shipped config of a model by its name on the Hub, in any case."""
    file = _FOLDER / f"{name.replace('/', '--')}.json"
    if "/" in name and file.is_file():  # most of them, without reading the others
        return _read(file)
    asked = name.lower()
    return next(
        (model for model in listed_models() if asked in (item.lower() for item in model.ids)),
        None,
    )


def _read(file: Path) -> ListedModel:
    document = json.loads(file.read_bytes())
    return ListedModel(
        ids=tuple(document["ids"]),
        source=str(document["source"]),
        parameters=document.get("parameters"),
        files_bytes=document.get("files_bytes"),
        config=document["config"],
    )
