"""The flags of `vllm serve` that ship with this package: those of the newest vLLM that it knows."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from pytest_vllm.domain.facts.arguments import Flag, HelpFacts

_FILE = Path(__file__).parent.parent / "data" / "serve" / "flags.json"


@cache
def shipped_flags() -> HelpFacts:
    """Return the flags; `tools/docs.py` writes them from the help of that vLLM."""
    document = json.loads(_FILE.read_bytes())
    choices, kinds, known = (document[key] for key in ("choices", "kinds", "known"))
    return HelpFacts(
        version=document["vllm"],
        source=str(document["source"]),
        flags=tuple(
            Flag(
                names=tuple(names),
                values=values,
                choices=tuple(choices.get(names[0], ())),
                kind=kinds.get(names[0], ""),
                known=tuple(known.get(names[0], ())),
            )
            for values, *names in document["flags"]
        ),
    )
