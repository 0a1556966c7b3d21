"""The load tools of others: their command lines for a piece of work, and their figures."""

from __future__ import annotations

import json
import os
from typing import Any

from benchmarks.clients import FLOOR, HTTPX, INSIDE, OPENAI, OURS, Client, Job, times
from benchmarks.places import AIPERF, GUIDELLM, INFERENCE_PERF, LOCUST
from benchmarks.report import Report


def tokenizer() -> str:
    """Return the folder of the tokenizer that some peers demand."""
    folder = os.environ.get("PYTEST_VLLM_TEST_MODEL", "")
    if not folder:
        raise SystemExit(
            "error: PYTEST_VLLM_TEST_MODEL must name the folder of a model, for its tokenizer "
            "(./dev benchmarks does)."
        )
    return folder


def _vllm_python() -> str:
    python = os.environ.get("PYTEST_VLLM_TEST_PYTHON", "")
    if not python:
        raise SystemExit(
            "error: PYTEST_VLLM_TEST_PYTHON must name an interpreter with vLLM "
            "(./dev benchmarks does)."
        )
    return python


def _vllm_command(job: Job) -> list[str]:
    work = job.work
    return [
        _vllm_python(),
        str(INSIDE / "vllm_bench.py"),
        *("--backend", "openai", "--base-url", job.url, "--endpoint", "/v1/completions"),
        *("--model", "truth", "--tokenizer", tokenizer(), "--dataset-name", "random"),
        *("--random-input-len", "16", "--random-output-len", str(work.tokens)),
        *("--num-prompts", str(work.requests), "--max-concurrency", str(work.streams)),
        *("--ready-check-timeout-sec", "0", "--disable-tqdm", "--seed", "1", "--save-result"),
        *("--percentile-metrics", "ttft,tpot,itl", "--metric-percentiles", "50,99"),
        *("--result-dir", str(job.folder), "--result-filename", "result"),
    ]


def _vllm_read(job: Job) -> Report:
    told = json.loads(job.out.read_text("utf-8"))
    return Report(
        requests=told["completed"],
        ttft_p50_ms=told["p50_ttft_ms"],
        ttft_p99_ms=told["p99_ttft_ms"],
        itl_p50_ms=told["p50_itl_ms"],
        itl_p99_ms=told["p99_itl_ms"],
        tokens_per_s=told["output_throughput"],
    )


def _guidellm_command(job: Job) -> list[str]:
    work = job.work
    backend = f"kind=openai_http,target={job.url},model=truth,request_format=/v1/completions"
    data = f"kind=synthetic_text,prompt_tokens=16,output_tokens={work.tokens}"
    return [
        GUIDELLM.program("guidellm"),
        "run",
        *("--profile", f"kind=concurrent,streams={work.streams}", "--backend", backend),
        *("--constraint", f"kind=max_requests,count={work.requests}", "--data", data),
        *("--tokenizer", f"kind=huggingface_auto,model={tokenizer()}"),
        *("--output", f"kind=json,path={job.folder / 'result.json'}", "--disable-console"),
    ]


def _guidellm_read(job: Job) -> Report:
    text = (job.folder / "result.json").read_text("utf-8")
    metrics = json.loads(text)["benchmarks"][0]["metrics"]
    ttft = metrics["time_to_first_token_ms"]["successful"]
    itl = metrics["inter_token_latency_ms"]["successful"]
    return Report(
        requests=metrics["request_totals"]["successful"],
        ttft_p50_ms=ttft["percentiles"]["p50"],
        ttft_p99_ms=ttft["percentiles"]["p99"],
        itl_p50_ms=itl["percentiles"]["p50"],
        itl_p99_ms=itl["percentiles"]["p99"],
        tokens_per_s=metrics["output_tokens_per_second"]["successful"]["mean"],
    )


def _aiperf_command(job: Job) -> list[str]:
    work = job.work
    return [
        AIPERF.program("aiperf"),
        *("profile", "-m", "truth", "--tokenizer", tokenizer(), "--url", job.url),
        *("--endpoint-type", "completions", "--streaming", "--use-server-token-count"),
        *("--concurrency", str(work.streams), "--request-count", str(work.requests)),
        *("--isl", "16", "--osl", str(work.tokens), "--num-dataset-entries", "64"),
        *("--no-server-metrics", "--no-gpu-telemetry", "--ui", "none", "--random-seed", "1"),
        *("--output-artifact-dir", str(job.folder)),
    ]


def _aiperf_read(job: Job) -> Report:
    told: dict[str, Any] = json.loads(
        (job.folder / "profile_export_aiperf.json").read_text("utf-8")
    )
    # its "inter_token_latency" is the mean of each request; this one holds every gap
    gaps = told.get("inter_chunk_latency", {})
    return Report(
        requests=round(told["request_count"]["avg"]),
        ttft_p50_ms=told["time_to_first_token"]["p50"],
        ttft_p99_ms=told["time_to_first_token"]["p99"],
        itl_p50_ms=gaps.get("p50"),
        itl_p99_ms=gaps.get("p99"),
        tokens_per_s=told["output_token_throughput"]["avg"],
    )


def _inference_perf_command(job: Job) -> list[str]:
    work = job.work
    stage = {"num_requests": work.requests, "concurrency_level": work.streams}
    config = {
        "api": {"type": "completion", "streaming": True},
        "data": {
            "type": "random",
            "input_distribution": _fixed(16, work.requests),
            "output_distribution": _fixed(work.tokens, work.requests),
        },
        "load": {
            "type": "concurrent",
            "interval": 0,
            "num_workers": os.cpu_count(),
            "worker_max_concurrency": work.streams,
            "base_seed": 1,
            "stages": [stage],
        },
        "server": {
            "type": "vllm",
            "model_name": "truth",
            "base_url": job.url,
            "ignore_eos": True,
        },
        "tokenizer": {"pretrained_model_name_or_path": tokenizer()},
        "report": {
            "request_lifecycle": {
                **dict.fromkeys(("per_stage", "per_adapter", "per_adapter_stage"), False),
                "percentiles": [50, 99],
                "use_server_output_tokens": True,
            }
        },
        "storage": {"local_storage": {"path": str(job.folder)}},
    }
    path = job.folder / "config.json"
    path.write_text(json.dumps(config), "utf-8")  # JSON is YAML too
    program = INFERENCE_PERF.program("inference-perf")
    return [program, "-c", str(path), "--log-level", "WARNING"]


def _fixed(value: int, count: int) -> dict[str, Any]:
    sizes = dict.fromkeys(("min", "max", "mean"), value)
    return {**sizes, "std_dev": 0, "total_count": count, "type": "fixed"}


def _inference_perf_read(job: Job) -> Report:
    text = (job.folder / "summary_lifecycle_metrics.json").read_text("utf-8")
    good = json.loads(text)["successes"]
    ttft = good["latency"]["time_to_first_token"]
    itl = good["latency"]["inter_token_latency"]
    return Report(
        requests=good["count"],
        ttft_p50_ms=ttft["median"] * 1e3,
        ttft_p99_ms=ttft["p99"] * 1e3,
        itl_p50_ms=itl["median"] * 1e3,
        itl_p99_ms=itl["p99"] * 1e3,
        tokens_per_s=good["throughput"]["output_tokens_per_sec"],
    )


def _locust_command(job: Job) -> list[str]:
    streams = str(job.work.streams)
    return [
        LOCUST.program("locust"),
        *("--locustfile", str(INSIDE / "locustfile.py"), "--headless", "--only-summary"),
        *("--users", streams, "--spawn-rate", streams, "--stop-timeout", "1"),
    ]


PEERS = (
    Client(
        name="vllm bench serve",
        version="0.32.0",
        command=_vllm_command,
        read=_vllm_read,
        variables=lambda _: {"HF_HUB_OFFLINE": "1"},
    ),
    Client(
        name="guidellm",
        version="0.8.1",
        command=_guidellm_command,
        read=_guidellm_read,
        place=GUIDELLM,
        variables=lambda _: {"HF_HUB_OFFLINE": "1"},
    ),
    Client(
        name="aiperf",
        version="0.13.0",
        command=_aiperf_command,
        read=_aiperf_read,
        place=AIPERF,
        # with HF_HUB_OFFLINE=1 it does not take a folder as tokenizer
        variables=lambda _: {"HF_ENDPOINT": "http://127.0.0.1:9"},
    ),
    Client(
        name="inference-perf",
        version="0.7.0",
        command=_inference_perf_command,
        read=_inference_perf_read,
        place=INFERENCE_PERF,
        variables=lambda _: {"HF_HUB_OFFLINE": "1"},
    ),
    Client(
        name="locust",
        version="2.47.0, FastHttpUser, iter_lines",
        command=_locust_command,
        read=times,
        place=LOCUST,
        variables=lambda job: {"BENCHMARK_WORK": job.text()},
    ),
)
CLIENTS_ALL = (OURS, FLOOR, *PEERS, HTTPX, OPENAI)
"""In the order in which a round measures them."""
