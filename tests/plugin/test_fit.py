"""`pytest-vllm fit` as a process: every way to name a model and GPUs, and every mistake."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from pytest_vllm.cli import main
from tests.data.hub.server import COMMIT, GATED, LIMITED, MEMBER, STRANGER, Hub, Repository
from tests.data.tensors import write_safetensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "pytest_vllm/data/fit/fit.schema.json").read_text("utf-8"))
GIB = 2**30
SMALL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 640,
    "max_position_embeddings": 2048,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}
TENSORS = {
    "model.embed_tokens.weight": (640, 256),
    "lm_head.weight": (640, 256),
    "model.norm.weight": (256,),
    **{
        f"model.layers.{layer}.{name}.weight": shape
        for layer in range(2)
        for name, shape in {
            "input_layernorm": (256,),
            "post_attention_layernorm": (256,),
            "self_attn.q_proj": (256, 256),
            "self_attn.k_proj": (256, 256),
            "self_attn.v_proj": (256, 256),
            "self_attn.o_proj": (256, 256),
            "mlp.gate_proj": (512, 256),
            "mlp.up_proj": (512, 256),
            "mlp.down_proj": (256, 512),
        }.items()
    },
}
WEIGHTS = 2 * (2 * 640 * 256 + 256 + 2 * (4 * 256 * 256 + 3 * 512 * 256 + 2 * 256))
"""Bytes of the small model's parameters, which need no padding."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The JSON, which keeps to the schema."""
        found: dict[str, Any] = json.loads(self.out)
        jsonschema.validate(found, SCHEMA)
        assert list(SCHEMA["properties"]) == SCHEMA["required"]
        assert set(found) == set(SCHEMA["required"])  # what is printed is documented
        return found

    @property
    def notes(self) -> str:
        return "\n".join(self.document["notes"])


@pytest.fixture(name="home")
def fixture_home(tmp_path: Path) -> dict[str, str]:
    """Our environment with an empty Hub cache, without a way to the Hub."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "PYTEST_VLLM", "VLLM_", "HIP_", "ROC", "TRANSFORMERS_"))
        and not name.lower().endswith("_proxy")
    }
    return {**ours, "HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": "http://127.0.0.1:9"}


@pytest.fixture(name="fit")
def fixture_fit(home: dict[str, str], tmp_path: Path) -> Callable[..., Answer]:
    def fit(*words: object, **variables: str) -> Answer:
        done = subprocess.run(
            [sys.executable, "-m", "pytest_vllm", "fit", *map(str, words)],
            env={**home, "PYTHONPATH": str(ROOT), **variables},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert "Traceback" not in done.stderr
        return Answer(code=done.returncode, out=done.stdout, err=done.stderr)

    return fit


@pytest.fixture(name="told")
def fixture_told(
    home: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Answer]:
    """Run the verb in this process, for the many mistakes that are told in the same way."""

    def told(*words: object, **variables: str) -> Answer:
        for name in set(os.environ) - set(home):
            monkeypatch.delenv(name)
        for name, value in {**home, **variables}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        code = main(["fit", *map(str, words)])
        out, err = capsys.readouterr()
        return Answer(code=code, out=out, err=err)

    return told


def make_model(folder: Path, *, shards: int = 1, **changes: Any) -> Path:
    """Write a small model whose weights are headers and holes."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**SMALL, **changes}))
    names = sorted(TENSORS)
    files = {}
    for number in range(shards):
        part = names[number::shards]
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        file = "model.safetensors" if shards == 1 else file
        write_safetensors(folder / file, {name: ("BF16", TENSORS[name]) for name in part})
        files |= dict.fromkeys(part, file)
    if shards > 1:
        index = {"metadata": {"total_size": WEIGHTS}, "weight_map": files}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("shards", [1, 3])
def test_a_folder_is_weighed_by_its_headers(fit: Any, tmp_path: Path, shards: int) -> None:
    model = make_model(tmp_path / "model", shards=shards)
    answer = fit(model, "--gpus", "MI300X:1", "--json")
    assert (answer.code, answer.err) == (0, "")
    found = answer.document
    assert (found["verdict"], found["gate"]) == ("FITS", None)
    assert (found["basis"], found["platform"]) == ("safetensors headers", "rocm")
    weights = next(part["bytes"] for part in found["parts"] if part["name"] == "weights")
    assert weights == WEIGHTS
    assert found["kv_bytes_per_token"] == 2 * 2 * 4 * 64 * 2
    assert "read from: folder" in answer.notes


def test_the_text_has_the_verdict_first_and_fits_the_terminal(fit: Any, tmp_path: Path) -> None:
    answer = fit(make_model(tmp_path / "model"), "--gpus", "mi300x")
    assert (answer.code, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert lines[0].startswith("FITS: ")
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in answer.out
    assert any(line.split()[:2] == ["weights", "0.00"] for line in lines)
    assert "2,048 bytes a token" in answer.out


def test_a_config_alone_is_enough(fit: Any, tmp_path: Path) -> None:
    config = tmp_path / "anything.json"
    config.write_text(json.dumps(SMALL))
    answer = fit(config, "--gpus", "AMD Instinct MI210:2", "--json", "--", "-tp", "2")
    found = answer.document
    assert (answer.code, found["basis"], found["tensor_parallel"]) == (0, "closed form", 2)
    assert "read from: config.json" in answer.notes


def test_weights_that_are_not_all_there_count_by_the_config(fit: Any, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", shards=3)
    (model / "model-00002-of-00003.safetensors").unlink()
    answer = fit(model, "--gpus", "MI300X", "--json")
    assert answer.document["basis"] == "closed form"
    assert "of 3 weight files 1 are not here" in answer.notes


def test_the_hub_cache_answers_off_line(fit: Any, home: dict[str, str]) -> None:
    repository = Path(home["HF_HOME"]) / "hub" / "models--org--small"
    make_model(repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    answer = fit("org/small", "--gpus", "MI300X", "--json", HF_HUB_OFFLINE="1")
    assert (answer.code, answer.document["basis"]) == (0, "safetensors headers")
    assert "read from: Hub cache" in answer.notes
    assert fit("org/smal", "--gpus", "MI300X", "--offline").err.startswith(
        "ERROR: org/smal is neither a path, nor in the Hub cache "
    )


def test_the_shipped_table_answers_without_a_network(fit: Any) -> None:
    answer = fit("deepseek-ai/DeepSeek-V3.1", "--gpus", "MI300X:8", "--json", "--", "-tp", "8")
    found = answer.document
    assert (answer.code, found["verdict"], found["kv_bytes_per_token"]) == (0, "FITS", 70_272)
    assert 79.2 < found["weights_bytes_per_rank"] / GIB < 80.2
    assert "read from: shipped table" in answer.notes


def test_more_devices_than_ranks_are_left_alone_and_that_is_said(fit: Any) -> None:
    answer = fit("Qwen/Qwen3-8B", "--gpus", "MI300X:4", "--json")
    assert "only 1 of 4 devices are used" in answer.notes
    assert "tensor-parallel" in {one["kind"] for one in answer.document["suggestions"]}


def test_an_mi250_is_two_devices(fit: Any) -> None:
    answer = fit("deepseek-ai/DeepSeek-V3.1", "--gpus", "MI250:4", "--json", "--", "-tp", "8")
    found = answer.document
    assert (answer.code, found["verdict"], found["gate"]) == (1, "DOES_NOT_FIT", "weights")
    assert len(found["devices"]) == 8
    assert {device["total_bytes"] for device in found["devices"]} == {64 * GIB - 16 * 2**20}
    assert "4 MI250 are 8 devices of 63.98 GiB" in answer.notes


def test_the_story_is_foretold_with_its_cure(fit: Any) -> None:
    """164.76 of 191.98 GiB free at 0.9 was one week's error."""
    words = ("Qwen/Qwen3-8B", "--gpus", "MI300X", "--free", "164.76GiB", "--json")
    answer = fit(*words, "--", "--gpu-memory-utilization", "0.9")
    found = answer.document
    assert (answer.code, found["gate"]) == (1, "start-up check")
    assert found["requested_bytes"] / GIB == pytest.approx(172.79, abs=0.01)
    assert found["utilization_max"] == 0.858
    (share,) = (s["argument"] for s in found["suggestions"] if s["kind"] == "utilization")
    name, _, value = share.partition("=")
    assert name == "--gpu-memory-utilization"
    assert 0.8 < float(value) <= 0.858
    assert fit(*words, "--", share).code == 0


def test_a_marginal_forecast_warns_beside_the_json(fit: Any) -> None:
    words = ("deepseek-ai/DeepSeek-V3.1", "--gpus", "MI300X:4", "--json", "--", "-tp", "4")
    answer = fit(*words)
    assert (answer.code, answer.document["verdict"]) == (0, "MARGINAL")
    assert answer.err.startswith("warning: MARGINAL: ")


def test_the_version_decides_the_defaults(fit: Any) -> None:
    shares = {
        version: fit("Qwen/Qwen3-8B", "--gpus", "H200", "--vllm-version", version, "--json")
        for version in ("0.11", "v0.32.0rc1")
    }
    assert [one.document["utilization"] for one in shares.values()] == [0.9, 0.92]
    assert [one.document["platform"] for one in shares.values()] == ["cuda", "cuda"]


def test_arguments_may_be_cut_short_as_for_vllm(fit: Any) -> None:
    words = ("--tensor-par", "2", "--gpu_memory_util=0.5", "-O3", "--enforce-e")
    found = fit("Qwen/Qwen3-8B", "--gpus", "H200:2", "--json", "--", *words).document
    assert (found["tensor_parallel"], found["utilization"]) == (2, 0.5)
    assert sum(part["bytes"] for part in found["parts"] if part["name"] == "graphs") == 0


def test_arguments_of_another_version_are_taken_with_a_note(fit: Any) -> None:
    words = ("Qwen/Qwen3-8B", "--gpus", "MI300X", "--vllm-version", "0.9.1", "--json")
    answer = fit(*words, "--", "--swap-space", "4")
    assert answer.code == 0
    assert "vLLM 0.32.0 refuses these arguments: unrecognized" in answer.notes


def test_the_memory_of_this_host_serves_the_cpu_backend(fit: Any, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    answer = fit(model, "--gpus", "cpu", "--json", VLLM_CPU_KVCACHE_SPACE="1")
    found = answer.document
    assert (answer.code, found["platform"]) == (0, "cpu")
    assert found["kv_bytes_per_rank"] == GIB


@pytest.mark.parametrize("amount", ["90%", "172.78GiB", "185.5GB", "176932MiB", "185_527_487_692"])
def test_what_is_free_may_be_said_in_any_unit(told: Any, tmp_path: Path, amount: str) -> None:
    model = make_model(tmp_path / "model")
    answer = told(model, "--gpus=MI300X:2", f"--free={amount},100GiB", "--json")
    first, second = (device["free_bytes"] for device in answer.document["devices"])
    assert first / GIB == pytest.approx(172.78, abs=0.03)
    assert second == 100 * GIB


def test_an_unknown_architecture_is_judged_by_its_files(fit: Any, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", architectures=["BarForCausalLM"], model_type="bar")
    (model / "model.safetensors").unlink()
    weights = model / "pytorch_model.bin"
    weights.touch()
    os.truncate(weights, 20 * GIB)
    answer = fit(model, "--gpus", "MI300X", "--json")
    found = answer.document
    assert found["basis"] == "file sizes"
    assert 20 * GIB <= found["weights_bytes_per_rank"] < 22 * GIB
    assert "BarForCausalLM" in answer.notes
    assert fit(model, "--gpus", "Radeon 9070 XT").code in (1, 4)


@pytest.mark.parametrize(
    ("words", "message", "cure"),
    [
        (["--gpus", "MI300Y"], "no GPU 'MI300Y' in the table; did you mean MI300X", "MI300X:1"),
        (["--gpus", "4xMI300X"], "cannot read '4xMI300X'", "--gpus MI300X:4"),
        (["--gpus", "MI300X:zero"], "'zero' in 'MI300X:zero' is no number", "--gpus MI300X:1"),
        (["--gpus", "MI300X", "--free", "200GiB"], "200GiB is more than the 191.98 GiB", "GB are"),
        (["--gpus", "MI300X", "--free", "164.76"], "'164.76' has no unit", "164.76GiB"),
        (["--gpus", "MI300X", "--free", "1XB"], "unit of '1XB' unknown", "164.76GiB"),
        (["--gpus", "MI300X", "--free", "lots"], "cannot read 'lots'", "164.76GiB"),
        (["--gpus", "MI250", "--free", "1GiB,2GiB,3GiB"], "3 amounts for 2 devices", "two devices"),
        (["--gpus", "MI300X", "--vllm-version", "new"], "'new' is no version", "0.32"),
        (["--gpu", "MI300X"], "no option --gpu; did you mean --gpus?", "-- --gpu MI300X"),
        (["Qwen/Qwen3-4B"], "Qwen/Qwen3-4B is one too many", "MODEL -- ..."),
        (["--gpus", "MI300X", "--tensor-parallel-size", "2"], "no option", "-- --tensor-parallel"),
        (["--gpus", "MI300X", "--", "-tp", "two"], "--tensor-parallel-size", "correct"),
        (["--gpus", "MI300X", "--", "--tensor-sise", "2"], "unrecognized", "--vllm-version"),
        (["--gpus", "MI300X", "--", "-tp", "2", "--json"], "unrecognized", "--json comes before"),
        (["--gpus", "MI300X", "--", "--max-model-len"], "expected one argument", "correct"),
        (["--gpus", "MI300X", "--online", "--offline"], "not allowed with", "--help"),
        (["--gpus", "MI300X", "--", "--kv-cache-dtype", "fp9"], "did you mean fp8?", "correct"),
        (
            ["--gpus", "MI300X", "--", "-q", "nonsense"],
            "--quantization/-q: 'nonsense' is",
            "correct",
        ),
        (["--gpus", "MI300X", "--", "-cc", "nonsense"], "'nonsense' is not JSON", "correct"),
        (
            ["--gpus", "MI300X", "--", "--model", "other"],
            "--model other names a second",
            "leave out",
        ),
        (["--gpus", "MI300X", "--", "--", "-tp", "1"], "there is a second --", "leave it out"),
        (["--gpus", "MI300X", "--", "--swap-space", "4"], "arguments: --swap-space 4\n", "correct"),
        (["--monitor", "smi"], "invalid choice: 'smi'", "--help"),
        (["--gpus"], "expected one argument", "--help"),
    ],
)
def test_a_mistake_is_named_with_its_cure(
    told: Any, words: list[str], message: str, cure: str
) -> None:
    answer = told("Qwen/Qwen3-8B", *words)
    assert (answer.code, answer.out) == (4, "")
    assert answer.err.startswith("ERROR: ")
    assert message in answer.err
    assert cure in answer.err.split("fix: ")[1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.json", None, "there is no file and no folder"),
        ("model.gguf", b"GGUF", "is GGUF"),
        ("config.json", b"{", "is no JSON"),
        ("config.json", b"[]", "holds no JSON object"),
        ("config.json", b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
    ],
)
def test_a_model_that_is_none_is_named(
    told: Any, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    answer = told(f"./{name}", "--gpus", "MI300X")
    assert (answer.code, answer.out) == (4, "")
    assert message in answer.err


@pytest.mark.parametrize("name", ["", " ", "pipe", "piped", "/dev/null"])
def test_what_is_no_file_is_not_waited_for(told: Any, tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "piped").mkdir()
    (tmp_path / "piped" / "config.json").symlink_to(tmp_path / "pipe")
    answer = told(name, "--gpus", "MI300X")
    assert (answer.code, answer.out) == (4, "")
    assert ("neither a folder nor a file" if name.strip() else "is empty") in answer.err


def test_weights_that_git_did_not_fetch_are_named(told: Any, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    (model / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    answer = told(model, "--gpus", "MI300X", "--json")
    assert answer.document["basis"] == "closed form"
    assert "of 1 weight files 1 are Git LFS pointers (git lfs pull)" in answer.notes


def test_files_that_lack_layers_count_as_the_config_says(told: Any, tmp_path: Path) -> None:
    """Allocated is what the config describes."""
    model = make_model(tmp_path / "model", num_hidden_layers=8)
    found = told(model, "--gpus", "MI300X", "--json")
    weights = next(part for part in found.document["parts"] if part["name"] == "weights")
    assert weights["bytes"] == WEIGHTS + 6 * 2 * (4 * 256 * 256 + 3 * 512 * 256 + 2 * 256)
    assert found.document["basis"] == "closed form"
    assert "the files hold 0.00 GiB and the config describes 0.01" in found.notes


@pytest.mark.parametrize("asked", [True, False])
def test_a_file_beside_the_config_may_say_how_weights_are_stored(
    told: Any, tmp_path: Path, *, asked: bool
) -> None:
    """As checkpoints of AutoAWQ had it; without it vLLM converts nothing to AWQ."""
    (tmp_path / "config.json").write_text(json.dumps({**SMALL, "hidden_size": 4096}))
    if asked:
        how = {"zero_point": True, "q_group_size": 128, "w_bit": 4, "version": "GEMM"}
        (tmp_path / "quant_config.json").write_text(json.dumps(how))
    answer = told(tmp_path / "config.json", "--gpus", "MI300X", "--json", "--", "-q", "awq")
    assert (answer.code, answer.document["gate"]) == ((0, None) if asked else (1, "invalid"))
    said = "vLLM reads it only with --quantization awq" if asked else ""
    assert said in answer.notes
    assert asked or answer.document["reason"].startswith("--quantization awq: the weights are")


def test_a_method_on_its_way_out_must_be_allowed(told: Any, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**SMALL, "quantization_config": {"quant_method": "fbgemm_fp8"}}))
    answer = told(config, "--gpus", "MI300X")
    assert answer.code == 4
    assert "vLLM 0.32.0 refuses quantization fbgemm_fp8, which is deprecated" in answer.err
    assert told(config, "--gpus=MI300X", "--", "--allow-deprecated-quantization").code == 0
    assert told(config, "--gpus=MI300X", "--vllm-version=0.11").code == 0


def test_a_disk_that_is_full_is_told_in_a_line(home: dict[str, str], tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pytest_vllm", "fit", "Qwen/Qwen3-8B", "--gpus=H200", "--json"],
            env={**home, "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 75
    assert done.stderr == "ERROR: the output cannot be written: No space left on device\n"


def test_a_model_without_an_owner_is_that_of_the_hub(told: Any) -> None:
    with_owner, without = (
        told(name, "--gpus", "MI300X", "--offline", "--json").document
        for name in ("openai-community/gpt2", "gpt2")
    )
    assert {**without, "model": ""} == {**with_owner, "model": ""}


def test_an_empty_folder_is_no_model(fit: Any, tmp_path: Path) -> None:
    answer = fit(tmp_path, "--gpus", "MI300X")
    assert answer.code == 4
    assert "no config.json and no weights" in answer.err


def test_without_a_model_the_usage_is_told(fit: Any) -> None:
    assert fit().code == 4
    helped = fit("--help")
    assert (helped.code, helped.err) == (0, "")
    for option in ("--gpus", "--free", "--vllm-version", "--json", "--online", "-- "):
        assert option in helped.out


@pytest.fixture(name="hub")
def fixture_hub(tmp_path: Path) -> Iterator[Hub]:
    make_model(tmp_path / "small", shards=3)
    odd = make_model(tmp_path / "odd", architectures=["BarForCausalLM"])
    (odd / "config.json").unlink()
    with Hub(
        {"org/small": Repository(folder=tmp_path / "small"), "org/odd": Repository(folder=odd)}
    ) as stand_in:
        yield stand_in


def test_the_hub_is_asked_for_headers_only(fit: Any, hub: Hub) -> None:
    answer = fit("org/small", "--gpus", "MI300X", "--json", HF_ENDPOINT=hub.url())
    found = answer.document
    assert (answer.code, answer.err, found["basis"]) == (0, "", "safetensors headers")
    weights = next(part["bytes"] for part in found["parts"] if part["name"] == "weights")
    assert weights == WEIGHTS
    assert "read from: Hub;" in answer.notes
    parts = [path for _, path, status in hub.requests if status == 206]
    assert len(parts) == 3
    assert all(path.endswith(".safetensors") for path in parts)


@pytest.mark.parametrize("told_how", [True, False])
def test_the_hub_is_asked_how_packed_weights_are_stored(
    told: Any, hub: Hub, tmp_path: Path, *, told_how: bool
) -> None:
    model = tmp_path / "small"
    write_safetensors(model / "model.safetensors", {"a.qweight": ("I32", (8, 8))})
    (model / "model.safetensors.index.json").unlink()
    if told_how:
        (model / "quant_config.json").write_text(json.dumps({"w_bit": 4, "q_group_size": 128}))
    words = ("org/small", "--gpus", "MI300X", "--json", "--", "-q", "awq")
    answer = told(*words, HF_ENDPOINT=hub.url())
    assert (answer.code, answer.document["gate"]) == ((0, None) if told_how else (1, "invalid"))
    assert ("vLLM reads it only with --quantization awq" in answer.notes) is told_how


def test_a_model_without_a_config_is_judged_by_its_headers(fit: Any, hub: Hub) -> None:
    answer = fit("org/odd", "--gpus", "MI300X", "--json", HF_ENDPOINT=hub.url())
    assert answer.code == 0
    assert "org/odd has no config.json" in answer.notes


def test_the_hub_is_asked_about_a_known_model_on_request_only(fit: Any, hub: Hub) -> None:
    words = ("Qwen/Qwen3-8B", "--gpus", "MI300X")
    assert fit(*words, HF_ENDPOINT=hub.url()).code == 0
    assert hub.requests == []
    answer = fit(*words, "--online", HF_ENDPOINT=hub.url())
    assert answer.code == 4
    assert "has no model Qwen/Qwen3-8B" in answer.err


@pytest.mark.parametrize(
    ("model", "words", "variables", "code", "message"),
    [
        ("org/smll", (), {}, 4, "has no model org/smll"),
        ("org/small", ("--revision", "v9"), {}, 4, "no revision 'v9'"),
        (GATED, (), {}, 4, "set HF_TOKEN"),
        (GATED, (), {"HF_TOKEN": STRANGER}, 4, "wait until access is granted"),
        ("org/small", (), {"HF_TOKEN": "hf_wrong"}, 4, "refuses the token"),
        (GATED, (), {"HF_TOKEN": MEMBER}, 4, "neither a config.json"),
        (LIMITED, (), {}, 75, "limits requests"),
        ("org/down", (), {}, 75, "HTTP 503"),
        ("org/small", ("--offline",), {}, 4, "--offline"),
        ("org/small", (), {"HF_HUB_OFFLINE": "1"}, 4, "HF_HUB_OFFLINE=1 forbids"),
        ("a b", (), {}, 4, "no path and no ID"),
        ("org/small", (), {"HF_ENDPOINT": "nonsense"}, 4, "HF_ENDPOINT='nonsense' is no URL"),
        ("org/small", (), {"HF_ENDPOINT": "http://h:x"}, 4, "is no URL of a Hub"),
        ("Qwen/Qwen3-8B", ("--revision", "v9", "--offline"), {}, 4, "of no particular revision"),
        ("Qwen/Qwen3-8B", ("--online",), {"HF_HUB_OFFLINE": "1"}, 4, "the shipped table has Qwen"),
    ],
)
def test_what_the_hub_refuses_is_told_with_its_cure(
    told: Any,
    hub: Hub,
    model: str,
    words: tuple[str, ...],
    variables: dict[str, str],
    code: int,
    message: str,
) -> None:
    answer = told(model, "--gpus", "MI300X", *words, **{"HF_ENDPOINT": hub.url(), **variables})
    assert (answer.code, answer.out) == (code, "")
    assert message in answer.err
    assert "fix: " in answer.err
    assert not any(value in answer.err for value in variables.values() if "hf_" in value)


def test_a_hub_that_says_nothing_is_not_waited_for(told: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        variables = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HUB_DOWNLOAD_TIMEOUT": "1"}
        answer = told("org/model", "--gpus", "MI300X", **variables)
    assert answer.code == 75
    assert f"127.0.0.1:{port} cannot be reached: timed out" in answer.err


def test_a_dns_that_says_nothing_is_not_waited_for(
    told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: ended.wait(60))
    variables = {"HF_ENDPOINT": "https://hub.example", "HF_HUB_DOWNLOAD_TIMEOUT": "1"}
    answer = told("org/model", "--gpus", "MI300X", **variables)
    ended.set()
    assert answer.code == 75
    assert "https://hub.example cannot be reached: no answer from DNS in 1 s" in answer.err


def test_a_hub_that_is_not_there_is_told_at_once(fit: Any) -> None:
    answer = fit("deepseek-ai/DeepSek-V3.1", "--gpus", "MI300X")
    assert answer.code == 75
    assert "127.0.0.1:9 cannot be reached" in answer.err
    assert "did you mean deepseek-ai/DeepSeek-V3.1" in answer.err


@pytest.mark.parametrize("option", ["--online", "--revision=v9"])
@pytest.mark.parametrize("model", ["Qwen/Qwen3-8B", "org/small"])
def test_a_known_model_needs_no_hub(
    told: Any, home: dict[str, str], model: str, option: str
) -> None:
    repository = Path(home["HF_HOME"]) / "hub" / "models--org--small"
    make_model(repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    answer = told(model, "--gpus", "MI300X", option)
    assert answer.code == 75
    place = "the Hub cache" if model == "org/small" else "the shipped table"
    assert f"127.0.0.1:9 cannot be reached: [Errno 111] Connection refused; {place}" in answer.err
    assert f"fix: leave out {option.partition('=')[0]}, or" in answer.err
    assert "not known" not in answer.err
