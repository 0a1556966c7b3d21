"""Run hf-mem and accelerate's estimator on the models of the accuracy table.

    tox -e peers              run both, compare with the record
    tox -e peers -- --write   run both, write the record
    tox -e peers -- --write --only org/name ...     the same for a few models

They read a stand-in of the Hub on the loopback interface: true configs, and weight files with the
true headers and nothing behind them. The record is `tests/data/accuracy/peers.json`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.data.hub.server import Hub, Repository
from tools.peers.hub_folder import write_folder

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "tests" / "data" / "models" / "configs.json"
RECORD = ROOT / "tests" / "data" / "accuracy" / "peers.json"
TOKENS = 4096
"""Tokens that hf-mem is asked for."""
LIMIT_BYTES = 16 * 2**30
"""Address space of accelerate's process: it allocates what it should only describe."""
LIMIT_S = 600
"""For one model: Llama-4-Scout took accelerate 200 s on two cores."""
_UNITS = {"bytes": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}
_ROW = re.compile(r"│\s*(float16|int8|int4)\s*│[^│]*│\s*([\d.]+) (\w+)\s*│")


def main(words: list[str]) -> int:
    """Run, then write or compare; return 1 when something differs from the record."""
    parser = argparse.ArgumentParser(description="Run other estimators on the same models.")
    parser.add_argument("--write", action="store_true", help="write the record")
    parser.add_argument("--only", nargs="+", default=[], help="models, by their IDs")
    options = parser.parse_args(words)
    python = os.environ.get("PYTEST_VLLM_TEST_PYTHON", "")
    if not python:
        sys.exit("PYTEST_VLLM_TEST_PYTHON must name an interpreter with torch (./dev peers does).")
    known = json.loads(CONFIGS.read_text("utf-8"))["models"]
    names = options.only or list(known)
    with tempfile.TemporaryDirectory(prefix="peers-") as work:
        found = look({name: known[name]["config"] for name in names}, Path(work), python)
    if options.write:
        RECORD.parent.mkdir(parents=True, exist_ok=True)
        if options.only:  # the others stay as they are
            before = json.loads(RECORD.read_text("utf-8"))
            found = before | {"models": before["models"] | found["models"]}
        RECORD.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        print(f"written: {RECORD.relative_to(ROOT)}")
        return 0
    recorded = json.loads(RECORD.read_text("utf-8"))["models"]
    changed = [name for name in names if found["models"][name] != recorded.get(name)]
    for name in changed:
        print(f"{name}: recorded {recorded.get(name)}, now {found['models'][name]}")
    return int(bool(changed))


def look(configs: dict[str, Any], work: Path, python: str) -> dict[str, Any]:
    """Ask both tools for every model; return the record."""
    repositories = {}
    for name, config in configs.items():
        write_folder(config, work / "hub" / name)
        repositories[name] = Repository(folder=work / "hub" / name)
    models: dict[str, Any] = {}
    with Hub(repositories) as hub:
        for name in configs:
            models[name] = {
                "hf-mem": ask_hf_mem(name, hub.url()),
                "accelerate": ask_accelerate(name, hub.url(), work / "home", python),
            }
            print(name, json.dumps(models[name]), flush=True)
    return {
        "schema": 1,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "versions": {"hf-mem": importlib.metadata.version("hf-mem")} | _versions(python),
        "limit_bytes": LIMIT_BYTES,
        "tokens": TOKENS,
        "models": models,
    }


def ask_hf_mem(name: str, url: str) -> dict[str, Any]:
    """Return the bytes that hf-mem states for the weights, and per token of the KV cache.

    Its estimate of the cache is an option; where that ends it, the weights are asked for alone.
    """
    whole = _hf_mem(name, url, "--experimental", "--max-model-len", str(TOKENS))
    if "error" not in whole:
        return whole
    return _hf_mem(name, url) | {"kv_error": whole["error"]}


def _hf_mem(name: str, url: str, *words: str) -> dict[str, Any]:
    wrapper = Path(__file__).with_name("redirected.py")
    command = [sys.executable, str(wrapper), url, "--model-id", name, "--json-output", *words]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "NO_PROXY": "127.0.0.1"}
    try:
        done = _run(command, environment)
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {LIMIT_S} s"}
    if done.returncode:
        return {"error": last_words(done)}
    answer = json.loads(done.stdout[done.stdout.index("{") :])
    cache = answer.get("kv_cache")
    per_token = None if cache is None else cache / TOKENS
    return {"weights_bytes": answer["memory"], "kv_bytes_per_token": per_token}


def ask_accelerate(name: str, url: str, home: Path, python: str) -> dict[str, Any]:
    """Return the bytes that `accelerate estimate-memory` prints, by type of the weights."""
    site = os.environ.get("PEERS_ACCELERATE", "")
    limited = ["bash", "-c", 'ulimit -v "$0" && exec "$@"', str(LIMIT_BYTES // 1024)]
    command = [*limited, python, "-m", "accelerate.commands.accelerate_cli", "estimate-memory",
               name, "--library_name", "transformers", "--dtypes", "float16", "int8",
               "int4"]  # fmt: skip
    environment = {
        **os.environ,
        "PYTHONPATH": site,
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "NO_PROXY": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
    }
    try:
        done = _run(command, environment)
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {LIMIT_S} s"}
    if done.returncode:
        return {"error": last_words(done)}
    sizes: dict[str, Any] = {
        kind: round(float(n) * _UNITS[unit]) for kind, n, unit in _ROW.findall(done.stdout)
    }
    return sizes or {"error": f"a table without sizes: {done.stdout[-200:]}"}


def last_words(done: subprocess.CompletedProcess[str]) -> str:
    """Return the last line of an error, or which signal ended the program."""
    if done.returncode < 0:
        return f"ended by signal {-done.returncode}"
    lines = [line.strip(" │") for line in done.stderr.splitlines()]
    said = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (said or [line for line in lines if line] or ["no word"])[-1][:300]


def _run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT_S
    )


def _versions(python: str) -> dict[str, str]:
    code = (
        "import importlib.metadata as m, json;"
        "print(json.dumps({n: m.version(n) for n in ('accelerate', 'torch', 'transformers')}))"
    )
    site = {**os.environ, "PYTHONPATH": os.environ.get("PEERS_ACCELERATE", "")}
    done = subprocess.run(
        [python, "-c", code], env=site, capture_output=True, text=True, check=True
    )
    versions: dict[str, str] = json.loads(done.stdout)
    return versions


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
