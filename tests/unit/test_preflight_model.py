"""Each rule about a model and its fit: what it refuses, what it says, and what it lets pass."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_vllm.adapters.model_facts import look_up_names
from pytest_vllm.domain.facts.config import read_config
from pytest_vllm.domain.facts.model import Flaw, FlawedFile, ModelKind, SupportFacts
from pytest_vllm.domain.facts.network import NetworkFacts
from pytest_vllm.domain.finding import Fault, Severity
from pytest_vllm.domain.preflight import fit, model, model_files
from pytest_vllm.domain.preflight.version import server_version
from tests.unit.launch_facts import MI250, found, make_host, make_launch, make_model, only

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
}
FATAL, WARNING, NOTE = Severity.FATAL, Severity.WARNING, Severity.NOTE


def hub_model(asked: str = "deepseek-ai/DeepSeek-V2-Lite-instruct", **facts: Any) -> Any:
    facts = {"similar": ("deepseek-ai/DeepSeek-V2-Lite-Chat",), "cache": "/hub", **facts}
    return make_model(asked=asked, kind=ModelKind.HUB, cached=False, config_file="", **facts)


def test_the_unknown_id_of_the_story_is_told_its_right_name() -> None:
    finding = only(model.known_id, make_launch(model=hub_model(offline=True)))
    assert (finding.severity, finding.ref, finding.fault) == (FATAL, "H7", Fault.USER)
    assert finding.cure == "--vllm-model=deepseek-ai/DeepSeek-V2-Lite-Chat"
    assert "did you mean deepseek-ai/DeepSeek-V2-Lite-Chat?" in finding.seen


def test_an_unknown_id_is_only_suspicious_while_the_hub_can_be_asked() -> None:
    assert only(model.known_id, make_launch(model=hub_model())).severity is WARNING
    said = NetworkFacts(hub="https://h", stage="answered", reached=True, model_status=200)
    assert not found(model.known_id, make_launch(model=hub_model(), network=said))
    dead = NetworkFacts(hub="https://h", stage="dns", problem="no DNS")
    finding = only(model.known_id, make_launch(model=hub_model(), network=dead))
    assert finding.severity is WARNING
    assert "could not be asked" in finding.seen
    assert not found(model.known_id, make_launch(model=hub_model(listed=True)))
    scope = hub_model(variables={"VLLM_USE_MODELSCOPE": "true"})
    assert not found(model.known_id, make_launch(model=scope))


def test_a_folder_that_is_nearly_the_path_is_named() -> None:
    finding = only(model.known_id, make_launch(model=hub_model("models/x", path_like="models")))
    assert "there is a folder models, but no models/x in it" in finding.seen


def test_a_malformed_id_is_refused() -> None:
    odd = make_model(asked="org/a--b", kind=ModelKind.MALFORMED, similar=("org/a-b",))
    finding = only(model.hub_id, make_launch(model=odd))
    assert (finding.severity, finding.ref) == (FATAL, "H8")
    assert finding.cure == "--vllm-model=org/a-b"


def test_offline_the_cache_must_have_the_model() -> None:
    offline = hub_model("openai/gpt-oss-20b", listed=True, offline=True, revision="r")
    finding = only(model.cached, make_launch(model=offline))
    assert (finding.severity, finding.ref) == (FATAL, "H9")
    assert "at revision r" in finding.seen
    assert finding.cure.startswith("drop HF_HUB_OFFLINE")
    unknown = make_launch(model=hub_model(offline=True))
    assert [one.ref for rule in model.RULES for one in rule(unknown)] == ["H9", "H7"]
    assert not found(model.cached, make_launch(model=hub_model(listed=True)))
    half = FlawedFile(name="x.incomplete", flaw=Flaw.INCOMPLETE, detail="5 bytes")
    unfinished = only(model.cached, make_launch(model=hub_model(listed=True, flaws=(half,))))
    assert unfinished.severity is NOTE


def with_code(model_type: str, *, known: bool, **more: Any) -> Any:
    config = {
        **LLAMA,
        "model_type": model_type,
        "auto_map": {"AutoConfig": "c.C", "AutoModelForCausalLM": "m.M"},
    }
    native = SupportFacts(version="0.32.0", model_type=known, architecture=known)
    return make_model(config, native=native, **more)


def test_code_of_a_model_needs_leave_only_where_vllm_has_no_class_of_its_own() -> None:
    finding = only(model.remote_code, make_launch(model=with_code("bar", known=False)))
    assert (finding.severity, finding.ref) == (FATAL, "H15")
    assert "--trust-remote-code" in finding.cure
    assert "--vllm-revision=COMMIT" in finding.cure
    allowed = make_launch("--trust-remote-code", model=with_code("bar", known=False))
    assert not found(model.remote_code, allowed)
    assert not found(model.remote_code, make_launch(model=with_code("deepseek_v3", known=True)))
    assert not found(model.architecture, make_launch(model=with_code("bar", known=False)))


def test_a_model_without_a_type_is_known_by_its_architecture() -> None:
    config = {"architectures": ["LongcatFlashForCausalLM"], "auto_map": {"AutoConfig": "c.C"}}
    facts = make_model(config, native=look_up_names(read_config(config)))
    assert not found(model.remote_code, make_launch(model=facts))


def test_a_newer_vllm_may_know_more() -> None:
    newer = make_launch(model=with_code("bar", known=False), image="vllm/vllm-openai-rocm:v0.40.0")
    assert only(model.remote_code, newer).severity is WARNING


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("vllm/vllm-openai-rocm:v0.32.0", (0, 32, 0)),
        ("rocm/vllm:rocm7.14.0_cdna_ubuntu24.04_py3.14_pytorch_2.11.0_vllm_0.23.0", (0, 23, 0)),
        ("pytest-vllm-demo:vllm-cpu-0.32.0-bash", (0, 32, 0)),
        ("vllm/vllm-openai-rocm:nightly", None),
        ("rocm/pytorch:2.11.0", None),
        ("mine/thing@sha256:" + "0" * 64, None),
    ],
)
def test_the_version_is_read_from_the_name_of_an_image(
    image: str, version: tuple[int, ...] | None
) -> None:
    assert server_version(make_launch(image=image)) == version


def test_names_that_vllm_does_not_have_are_refused_for_a_known_version() -> None:
    foo = {**LLAMA, "architectures": ["FooForCausalLM"]}
    facts = make_model(foo, native=look_up_names(read_config(foo)))
    finding = only(model.architecture, make_launch(model=facts))
    assert (finding.severity, finding.ref) == (FATAL, "H14")
    nightly = make_launch(model=facts, image="vllm/vllm-openai-rocm:nightly")
    assert only(model.architecture, nightly).severity is WARNING
    typed = {**foo, "model_type": "foo3"}
    facts = make_model(typed, native=look_up_names(read_config(typed)))
    assert only(model.architecture, make_launch(model=facts)).ref == "H13"
    assert not found(model.architecture, make_launch("--hf-overrides={}", model=facts))


def test_a_misspelt_architecture_is_told_the_right_one() -> None:
    config = {**LLAMA, "architectures": ["LlamaForCausalLm"]}
    facts = make_model(config, native=look_up_names(read_config(config)))
    assert (
        "did you mean LlamaForCausalLM?" in only(model.architecture, make_launch(model=facts)).seen
    )


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("FooForCausalLM", ""),
        ("Zed", ""),
        ("", ""),
        ("LLamaForCausalLM", "LlamaForCausalLM"),
        ("MistrlForCausalLM", "MistralForCausalLM"),
        ("DeepseekV5ForCausalLM", "DeepseekV4ForCausalLM"),
    ],
)
def test_an_architecture_is_only_taken_for_one_that_is_close(asked: str, meant: str) -> None:
    names = look_up_names(read_config({**LLAMA, "architectures": [asked]}))
    assert names.similar == meant


def test_a_base_model_is_noted() -> None:
    base = make_model(LLAMA, chat_template=False)
    finding = only(model.chat_template, make_launch(model=base))
    assert (finding.severity, finding.ref) == (NOTE, "Q1")
    assert "--chat-template" in finding.cure
    assert only(model.chat_template, make_launch(model=base, suite=["chat"])).severity is WARNING
    assert not found(model.chat_template, make_launch("--chat-template=x", model=base))
    pooling = make_model({**LLAMA, "architectures": ["BertModel"]}, chat_template=False)
    assert not found(model.chat_template, make_launch(model=pooling))


def flawed(flaw: Flaw, name: str = "model.safetensors", **more: Any) -> Any:
    file = FlawedFile(name=name, flaw=flaw, detail="3 of 9 bytes")
    return make_model(LLAMA, flaws=(file,), weight_files=0, **more)


@pytest.mark.parametrize(
    ("flaw", "rule", "name", "ref"),
    [
        (Flaw.MISSING, model_files.missing_weights, "model.missing-weights", "H20"),
        (Flaw.DANGLING, model_files.missing_weights, "model.missing-weights", "H20"),
        (Flaw.POINTER, model_files.whole_weights, "model.lfs-pointer", "H21"),
        (Flaw.TRUNCATED, model_files.whole_weights, "model.truncated", "H21"),
        (Flaw.BROKEN, model_files.whole_weights, "model.truncated", "H21"),
    ],
)
def test_weights_must_be_there_and_whole(flaw: Flaw, rule: Any, name: str, ref: str) -> None:
    finding = only(rule, make_launch(model=flawed(flaw)))
    assert (finding.id, finding.severity, finding.ref) == (name, FATAL, ref)
    assert "model.safetensors" in finding.seen
    assert "3 of 9 bytes" in finding.seen
    assert not found(rule, make_launch("--load-format=dummy", model=flawed(flaw)))
    assert not found(rule, make_launch(model=make_model(LLAMA)))


def test_what_a_cache_lacks_is_fetched_unless_the_hub_may_not_be_asked() -> None:
    cached = {"kind": ModelKind.CACHED, "revision": "abc"}
    finding = only(model_files.missing_weights, make_launch(model=flawed(Flaw.MISSING, **cached)))
    assert finding.severity is WARNING
    assert finding.cure == "hf download org/model --revision abc"
    offline = make_launch(model=flawed(Flaw.MISSING, offline=True, **cached))
    assert only(model_files.missing_weights, offline).severity is FATAL
    cut = make_launch(model=flawed(Flaw.TRUNCATED, **cached))
    assert only(model_files.whole_weights, cut).severity is FATAL, "nothing fetches it again"
    assert only(model_files.whole_weights, cut).cure.endswith("--force-download")


def test_files_that_a_model_needs() -> None:
    none = make_model(None, config_file="", weight_files=0, path="/models/m")
    finding = only(model_files.config, make_launch(model=none))
    assert (finding.severity, finding.ref) == (FATAL, "H12")
    gguf = make_model(None, config_file="", kind=ModelKind.GGUF)
    assert not found(model_files.config, make_launch(model=gguf))
    assert only(fit.gguf, make_launch(model=gguf)).severity is WARNING
    older = make_launch(model=gguf, image="vllm/vllm-openai-rocm:v0.20.0")
    assert not found(fit.gguf, older)
    broken = flawed(Flaw.BROKEN, "config.json")
    assert only(model_files.config, make_launch(model=broken)).ref == "H23"
    bare = make_model(LLAMA, tokenizer=False)
    finding = only(model_files.tokenizer, make_launch(model=bare))
    assert (finding.severity, finding.ref) == (FATAL, "H22")
    assert not found(model_files.tokenizer, make_launch("--tokenizer=org/t", model=bare))
    cut = flawed(Flaw.BROKEN, "tokenizer.json")
    assert only(model_files.tokenizer, make_launch(model=cut)).id == "model.broken-tokenizer"
    empty = make_model(LLAMA, weight_files=0)
    assert only(model_files.missing_weights, make_launch(model=empty)).id == "model.no-weights"


def test_smaller_things_about_files() -> None:
    small = make_model(LLAMA, index_bytes=100, tensor_bytes={"BF16": 50})
    assert only(model_files.index_size, make_launch(model=small)).severity is WARNING
    assert not found(
        model_files.index_size,
        make_launch(model=make_model(LLAMA, index_bytes=100, tensor_bytes={"BF16": 100})),
    )
    odd = flawed(Flaw.BROKEN, "generation_config.json")
    assert only(model_files.generation_config, make_launch(model=odd)).severity is WARNING
    linked = make_model(LLAMA, links_out=("a -> /b",))
    assert only(model_files.links, make_launch(model=linked)).severity is FATAL
    assert not found(model_files.links, make_launch(model=linked, backend="process"))
    closed = only(model_files.whole_weights, make_launch(model=flawed(Flaw.UNREADABLE)))
    assert (closed.severity, closed.fault) == (WARNING, Fault.HOST)


def test_heads_must_divide_and_the_sizes_that_do_are_named() -> None:
    facts = make_launch("-tp", "3", model=make_model(LLAMA))
    finding = only(fit.heads, facts)
    assert (finding.severity, finding.ref) == (FATAL, "H18")
    assert "these sizes do: 1, 2, 4, 8, 16, 32" in finding.seen
    assert finding.cure == "--vllm-serve-arg=--tensor-parallel-size=2"
    assert not found(fit.heads, make_launch("-tp=8", model=make_model(LLAMA)))
    assert not found(fit.heads, make_launch("-tp=x", model=make_model(LLAMA)))
    assert only(fit.heads, make_launch("-tp=16", model=make_model(LLAMA))).severity is NOTE


def test_key_value_heads_must_divide_too() -> None:
    phi = {**LLAMA, "num_attention_heads": 40, "num_key_value_heads": 10}
    finding = only(fit.heads, make_launch("-tp=4", model=make_model(phi)))
    assert (finding.id, finding.severity) == ("model.kv-heads", FATAL)
    assert "these sizes fit: 1, 2, 5, 10, 20, 40" in finding.seen
    other = make_model({**phi, "architectures": ["OtherForCausalLM"]})
    assert only(fit.heads, make_launch("-tp=4", model=other)).severity is WARNING
    latent = make_model({**phi, "kv_lora_rank": 512})
    assert not found(fit.heads, make_launch("-tp=4", model=latent))


def quantized(method: str) -> Any:
    return make_model({**LLAMA, "quantization_config": {"quant_method": method}})


def test_methods_of_quantization_must_be_known() -> None:
    finding = only(fit.quantization, make_launch(model=quantized("foo")))
    assert (finding.severity, finding.ref, finding.fault) == (FATAL, "H16", Fault.MODEL)
    gone = make_launch(model=quantized("bitsandbytes"))
    assert "any more" in only(fit.quantization, gone).seen
    older = make_launch(model=quantized("bitsandbytes"), image="vllm/vllm-openai-rocm:v0.20.0")
    assert only(fit.quantization, older).severity is NOTE
    unknown = make_launch(model=quantized("foo"), image="vllm/vllm-openai-rocm:nightly")
    assert only(fit.quantization, unknown).severity is WARNING
    asked = make_launch("--quantization=awk", model=make_model(LLAMA))
    assert only(fit.quantization, asked).fault is Fault.USER


@pytest.mark.parametrize(
    ("stored", "asked"),
    [("awq", "awq_marlin"), ("gptq", "moe_wna16"), ("fp8", "fp8"), ("", "fp8"), ("quark", "inc")],
)
def test_what_vllm_converts_is_no_contradiction(stored: str, asked: str) -> None:
    facts = make_launch(f"--quantization={asked}", model=quantized(stored))
    assert not found(fit.quantization, facts)


def test_a_method_that_contradicts_the_weights_is_refused() -> None:
    finding = only(fit.quantization, make_launch("-q=awq", model=quantized("fp8")))
    assert (finding.severity, finding.ref) == (FATAL, "H17")


def test_rocm_takes_fewer_methods() -> None:
    rocm = {"PYTORCH_ROCM_ARCH": "gfx942"}
    finding = only(
        fit.quantization_on_rocm, make_launch(model=quantized("experts_int8"), image_env=rocm)
    )
    assert (finding.severity, finding.ref) == (FATAL, "G22")
    elsewhere = only(fit.quantization_on_rocm, make_launch(model=quantized("experts_int8")))
    assert elsewhere.severity is Severity.NOT_APPLICABLE
    assert not found(
        fit.quantization_on_rocm, make_launch(model=quantized("quark"), image_env=rocm)
    )


def test_fp8_is_refused_on_gpus_without_it() -> None:
    finding = only(fit.fp8, make_launch(model=quantized("fp8"), host=make_host(8, MI250)))
    assert (finding.severity, finding.ref) == (FATAL, "G21")
    assert "gfx90a" in finding.seen
    assert not found(fit.fp8, make_launch(model=quantized("fp8"), host=make_host(8)))
    assert not found(fit.fp8, make_launch(model=quantized("awq"), host=make_host(8, MI250)))
    radeon = make_host(1, ("W7900", "gfx1100", 48 * 2**30))
    assert only(fit.fp8, make_launch(model=quantized("fp8"), host=radeon)).severity is WARNING
    no_gpu = only(fit.fp8, make_launch(model=quantized("fp8")))
    assert no_gpu.severity is Severity.NOT_APPLICABLE
    assert "/dev/kfd" in no_gpu.seen
    online = make_launch("-q", "fp8", model=make_model(LLAMA), host=make_host(1, MI250))
    asked = only(fit.fp8, online)
    assert (asked.severity, asked.fault) == (FATAL, Fault.USER)
    assert asked.seen.startswith("--quantization fp8 asks for 8-bit floats")
    assert asked.cure.startswith("drop --vllm-serve-arg=--quantization=fp8")
    assert finding.fault is Fault.MODEL
    cache = make_launch("--kv-cache-dtype=fp8", model=make_model(LLAMA), host=make_host(1, MI250))
    assert only(fit.fp8_cache, cache).severity is WARNING


def test_no_longer_than_the_model_was_made_for() -> None:
    long = make_launch("--max-model-len=16K", model=make_model(LLAMA))
    finding = only(fit.length, long)
    assert (finding.severity, finding.ref) == (FATAL, "H19")
    assert "--max-model-len 16384 is more than the 8192" in finding.seen
    assert finding.cure.startswith("--vllm-serve-arg=--max-model-len=8192")
    for args in (("--max-model-len=8k",), ("--max-model-len=auto",), ()):
        assert not found(fit.length, make_launch(*args, model=make_model(LLAMA)))
    variables = {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}
    allowed = make_model(LLAMA, variables=variables)
    assert not found(fit.length, make_launch("--max-model-len=16K", model=allowed))
    overridden = make_launch("--max-model-len=16K", "--hf-overrides={}", model=make_model(LLAMA))
    assert only(fit.length, overridden).severity is WARNING


def test_attached_servers_have_no_model_to_look_at() -> None:
    facts = make_launch()
    assert facts.model is None
    for module in (model, model_files, fit):
        for rule in module.RULES:
            told = [finding.severity for finding in found(rule, facts)]
            assert told in ([], [Severity.NOT_APPLICABLE])
