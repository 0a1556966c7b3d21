"""Targets: what the options mean together, and what contradicts what."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.settings import Sources, resolve
from pytest_vllm.domain.target import ImageRef, ServeArgs, Target, build_target, looks_like_path

SUITES = ("chat", "completions", "errors", "models", "server", "stream")


def _build(**options: object) -> Target:
    names = {key.replace("_", "-"): value for key, value in options.items()}
    settings = resolve(Sources(options=names, env={}, ini={}), profile={}, profile_name="default")
    return build_target(settings, known_suites=SUITES)


def test_an_image_means_docker_and_a_url_means_attach() -> None:
    assert _build(image="a/b:1", model="o/m").backend == "docker"
    assert _build(url="http://127.0.0.1:8000/v1/").url == "http://127.0.0.1:8000"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"url": "http://h:1", "image": "a:1"}, ("--vllm-url", "--vllm-image")),
        ({"model": "m"}, ("no server is named", "--vllm-image")),
        ({"image": "a:1"}, ("no model", "--vllm-model")),
        ({"backend": "docker", "model": "m"}, ("--vllm-image",)),
        ({"backend": "attach", "model": "m"}, ("--vllm-url",)),
        ({"backend": "process", "image": "a:1", "model": "m"}, ("contradicts", "--vllm-image")),
        ({"url": "host:8000"}, ("not a URL", "http://")),
        ({"url": "http://me:pw@h:1"}, ("--vllm-api-key-env",)),
        ({"image": "A B", "model": "m"}, ("not the name of an image",)),
        ({"url": "http://h:1", "suite": ["chta"]}, ("did you mean chat?", "completions")),
        ({"url": "http://h:1", "gpus": "0;1"}, ("--vllm-gpus",)),
        ({"url": "http://h:1", "env": ["=x"]}, ("--vllm-env",)),
        ({"url": "http://h:1", "serve_arg": ["'x y"]}, ("--vllm-serve-arg",)),
        ({"url": "http://h:1", "serve_arg": ["--port=99999"]}, ("--port 99999", "65535")),
        ({"url": "http://[::1"}, ("not a URL", "http://")),
        ({"url": "http://h:abc"}, ("not a URL", "http://")),
    ],
)
def test_contradictions_are_named_with_the_way_out(
    options: dict[str, object], words: tuple[str, ...]
) -> None:
    with pytest.raises(TargetError) as caught:
        _build(**options)
    for word in words:
        assert word in str(caught.value)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("text", "mutable"),
    [
        ("rocm/vllm", True),
        ("rocm/vllm:latest", True),
        ("host:5000/rocm/vllm", True),
        ("rocm/vllm:rocm7.14.0_cdna_ubuntu24.04", False),
        ("host:5000/rocm/vllm:1", False),
        (f"rocm/vllm@sha256:{'0' * 64}", False),
        (f"sha256:{'0' * 64}", False),
    ],
)
def test_only_no_tag_and_latest_are_mutable_names(text: str, mutable: bool) -> None:  # noqa: FBT001 - a parameter
    assert ImageRef.parse(text).mutable is mutable


def test_serve_arguments_known_by_name_are_read() -> None:
    words = "--max-model-len 4k --served_model_name a b -tp=2 --trust-remote-code"
    args = ServeArgs(tuple(words.split()))
    assert args.max_model_len == 4000
    assert args.served_names == ("a", "b")
    assert args.value("--tensor-parallel-size") == "2"
    assert args.has("--trust-remote-code")
    assert not args.has("--quantization")


def test_the_last_of_a_repeated_argument_wins() -> None:
    assert ServeArgs(("--dtype=half", "--dtype", "bfloat16")).value("--dtype") == "bfloat16"


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("2048", 2048), ("1K", 1024), ("1.5k", 1500), ("auto", None), ("-1", None)],
)
def test_lengths_are_read_as_vllm_reads_them(text: str, tokens: int | None) -> None:
    assert ServeArgs((f"--max-model-len={text}",)).max_model_len == tokens


@given(st.lists(st.text(st.characters(blacklist_categories=["Cs"]), min_size=1), min_size=1))
def test_any_words_survive_as_serve_arguments(words: list[str]) -> None:
    """Every vLLM argument can be passed: words are split once, by every way they can come."""
    by_profile = resolve(
        Sources(options={}, env={}, ini={}), profile={"serve-arg": words}, profile_name="p"
    )
    assert by_profile["serve-arg"].value == tuple(words)
    env = {"PYTEST_VLLM_SERVE_ARG": shlex.join(words)}
    by_env = resolve(Sources(options={}, env=env, ini={}), profile={}, profile_name="")
    assert by_env["serve-arg"].value == tuple(words)


def test_json_keeps_its_quotes_on_the_command_line() -> None:
    """A word without blanks is taken as it is; one with blanks is split as by a shell."""
    plain = _build(url="http://h:1", serve_arg=['--compilation-config={"level":3}'])
    assert plain.serve_args.argv == ('--compilation-config={"level":3}',)
    quoted = _build(url="http://h:1", serve_arg=["--compilation-config '{\"level\": 3}'"])
    assert quoted.serve_args.argv == ("--compilation-config", '{"level": 3}')


def test_every_secret_of_a_run_is_known() -> None:
    """Keys hide in variables by name, in the variable that is named for it, and in arguments."""
    target = _build(
        url="http://h:1",
        serve_arg=["--api-key=from-argument"],
        env=["MY_TOKEN=from-option"],
        api_key_env="MYAUTH",
    )
    secrets = target.secrets({"MYAUTH": "from-named", "HF_TOKEN": "from-variable"})
    assert set(secrets) == {"from-argument", "from-option", "from-named", "from-variable"}


@pytest.mark.parametrize(
    ("model", "is_path"),
    [
        ("deepseek-ai/DeepSeek-V2-Lite-Chat", False),
        ("gpt2", False),
        ("/models/x", True),
        ("./x", True),
        ("~/x", True),
        ("a/b/c", True),
    ],
)
def test_paths_are_told_from_hub_ids(model: str, is_path: bool) -> None:  # noqa: FBT001 - a parameter
    assert looks_like_path(model) is is_path
