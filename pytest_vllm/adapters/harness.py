"""Run a task of lm-evaluation-harness against a server."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pytest_vllm.domain.errors import HostError

_PACKAGE = "lm_eval"
_LINES = 5


def run_task(  # noqa: PLR0913 - what there is to say about a task
    task: str, *, url: str, model: str, api_key: str, concurrency: int, timeout_s: float
) -> Any:
    """Run one task through `/v1/completions` and return its results file, parsed.

    Args:
        task: Name of the task, such as `gsm8k`.
        url: Base URL of the server.
        model: ID that requests name.
        api_key: Key of the server, empty for none.
        concurrency: Requests at the same time.
        timeout_s: Seconds for the whole task.

    Raises:
        HostError: The package is not installed, or it failed.
    """
    if importlib.util.find_spec(_PACKAGE) is None:
        raise HostError(
            "--vllm-accuracy-task needs lm-evaluation-harness, which is not installed",
            advice="pip install 'pytest-vllm[accuracy]'",
        )
    arguments = f"model={model},base_url={url}/v1/completions,num_concurrent={concurrency}"
    arguments += ",tokenizer_backend=None,tokenized_requests=False"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", _PACKAGE, "--model", "local-completions"]
        command += ["--model_args", arguments, "--tasks", task, "--output_path", folder]
        environment = {**os.environ, "OPENAI_API_KEY": api_key or "none"}
        try:
            run = subprocess.run(  # noqa: S603 - the harness that the user asked for
                command,
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout_s,
                env=environment,
            )
        except subprocess.TimeoutExpired:
            raise HostError(f"{task} took more than {timeout_s:g} s") from None
        found = sorted(Path(folder).rglob("results_*.json"))
        if run.returncode or not found:
            tail = "\n".join(run.stderr.splitlines()[-_LINES:])
            raise HostError(f"lm_eval ended with exit code {run.returncode}: {tail}")
        return json.loads(found[-1].read_text(encoding="utf-8"))
