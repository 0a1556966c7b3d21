"""The shipped list of flags, from the help that a real vLLM printed and from its own converters."""

from __future__ import annotations

import json
from pathlib import Path

from pytest_vllm.domain.quantization import METHODS
from pytest_vllm.domain.serve_parser import read_flags

_VERSION = "0.32.0"
_FOLDER = Path(__file__).parent.parent / "tests" / "data" / "help"
_HELP = _FOLDER / f"vllm-{_VERSION}.txt"
_KINDS = _FOLDER / f"vllm-{_VERSION}-kinds.json"
"""What `tools/serve_kinds.py` printed in the same vLLM."""


def flags_json() -> str:
    """Return the flags, what kind of values they take, and which.

    Choices are those of types in the source of vLLM, which is the same for all platforms; where the
    help depends on the machine it was printed on, `read_flags` leaves them out.
    """
    flags, asked = read_flags(_HELP.read_text("utf-8")), json.loads(_KINDS.read_bytes())
    document = {
        "schema": 2,
        "vllm": _VERSION,
        "source": "vllm serve --help=all of the CPU build, and what its converters take",
        "flags": [[flag.values, *flag.names] for flag in flags],
        "choices": {flag.names[0]: flag.choices for flag in flags if flag.choices},
        "kinds": asked["kinds"],
        "known": {**asked["known"], "--quantization": sorted(METHODS)},
    }
    text = json.dumps(document, separators=(",", ":"))
    return text.replace("],[", "],\n[").replace('],"', '],\n"').replace('},"', '},\n"') + "\n"
