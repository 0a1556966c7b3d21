"""Ask real vLLM what values its arguments take: `PYTHON_WITH_VLLM tools/serve_kinds.py > FILE`.

Its help tells choices but no types, so each argument's own converter is asked about some words. The
answer is kept in `tests/data/help/vllm-VERSION-kinds.json`, from which `tools/flags.py` reads it.
"""

from __future__ import annotations

import contextlib
import io
import json
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    import argparse

_TRIED = ("nonsense", "{}", "[]", "1.5", "1k", "7")


def _takes(action: argparse.Action, word: str) -> bool:
    if not callable(action.type):
        return False
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            action.type(word)
    except Exception:  # noqa: BLE001 - a converter may refuse in any way
        return False
    return True


def kind_of(action: argparse.Action) -> str:
    """Return `int`, `float`, `human` (`8k`) or `json`, with a `?` where `None` is taken; or ``."""
    taken = {word for word in _TRIED if _takes(action, word)}
    if not taken or "nonsense" in taken:
        return ""
    if taken & {"{}", "[]"}:
        kind = "json"
    else:
        kind = "float" if "1.5" in taken else "human" if "1k" in taken else "int"
    return kind + ("?" if _takes(action, "None") else "")


def main() -> None:
    """Print the JSON."""
    import vllm  # noqa: PLC0415 - only there is it installed
    from vllm.config.parallel import DistributedExecutorBackend  # noqa: PLC0415
    from vllm.entrypoints.launchers.cli_args import make_arg_parser  # noqa: PLC0415
    from vllm.model_executor.model_loader import LoadFormats  # noqa: PLC0415
    from vllm.utils.argparse_utils import FlexibleArgumentParser  # noqa: PLC0415
    from vllm.v1.attention.backends.registry import AttentionBackendEnum  # noqa: PLC0415

    parser: Any = make_arg_parser(FlexibleArgumentParser(prog="vllm"))
    actions = parser._actions  # noqa: SLF001 - there is no other way to them
    named = {one.option_strings[0]: one for one in actions if one.type and one.option_strings}
    kinds = {name: kind for name, action in named.items() if (kind := kind_of(action))}
    known = {
        "--attention-backend": ["auto", *AttentionBackendEnum.__members__],
        "--distributed-executor-backend": list(get_args(DistributedExecutorBackend)),
        "--load-format": list(get_args(LoadFormats)),
    }
    document = {"vllm": vllm.__version__, "kinds": kinds, "known": known}
    print("\n" + json.dumps(document, indent=1, sort_keys=True))


if __name__ == "__main__":
    main()
