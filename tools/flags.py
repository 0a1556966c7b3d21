"""The shipped list of flags, from the help that a real vLLM printed."""

from __future__ import annotations

import json
from pathlib import Path

from pytest_vllm.domain.serve_parser import read_flags

_VERSION = "0.32.0"
_HELP = Path(__file__).parent.parent / "tests" / "data" / "help" / f"vllm-{_VERSION}.txt"


def flags_json() -> str:
    """Return the flags: of each how many values it takes, then its names.

    Choices are left out, for a vLLM for GPUs may have more of them than the one that was asked.
    """
    document = {
        "schema": 1,
        "vllm": _VERSION,
        "source": "vllm serve --help=all of the CPU build",
        "flags": [[flag.values, *flag.names] for flag in read_flags(_HELP.read_text("utf-8"))],
    }
    return json.dumps(document, separators=(",", ":")).replace("],[", "],\n[") + "\n"
