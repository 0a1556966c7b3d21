"""Notes when a server writes each line of its log; its Python loads this by PYTHONPATH.

The variable `STAMPS` names the file. The server's output goes through a second process that writes
`SECONDS<tab>LINE` (monotonic clock of the machine) and hands every byte on at once.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def _follow(file: str) -> None:
    """Send our output through `note.py`; the next Python of this server does not do it again."""
    note = Path(__file__).with_name("note.py")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    writer = subprocess.Popen(
        [sys.executable, "-S", str(note), file], stdin=subprocess.PIPE, env=env
    )
    if writer.stdin is not None:
        for descriptor in (1, 2):
            os.dup2(writer.stdin.fileno(), descriptor)
        writer.stdin.close()
    writer.returncode = 0  # it ends after us: nobody waits for it, and nobody warns of that


FILE = os.environ.pop("STAMPS", "")
SERVES = "vllm.entrypoints.openai.api_server" in sys.orig_argv
if FILE and SERVES and not any(word.startswith("--help") for word in sys.orig_argv):
    _follow(FILE)
