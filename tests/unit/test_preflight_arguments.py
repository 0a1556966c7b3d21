"""The words and variables for the server are judged as the server will judge them."""

from __future__ import annotations

import contextlib
import dataclasses
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.domain.facts.arguments import HelpFacts
from pytest_vllm.domain.facts.container import ContainerFacts
from pytest_vllm.domain.finding import Severity
from pytest_vllm.domain.preflight import arguments
from pytest_vllm.domain.serve_parser import ServeArgumentError, check, read_flags
from tests.unit.launch_facts import found, make_launch, only, real_help

FLAGS = {version: real_help(version).flags for version in ("0.30.0", "0.32.0")}
FATAL, WARNING = Severity.FATAL, Severity.WARNING


@pytest.mark.parametrize("version", FLAGS)
@pytest.mark.parametrize(
    "args",
    [
        "-tp 8",
        "-tp=8",
        "--tensor_parallel_size=8",
        "--max-model 4096",  # argparse takes a prefix that only one flag has
        "-O3",
        "-O 2",
        "--compilation-config.level 3",
        "--hf_overrides.rope_scaling.factor 2",
        "-cc.cudagraph_mode=NONE",
        "--no-enable-prefix-caching",
        "--enable-prefix-caching",
        "--dtype=bfloat16",
        "--served-model-name a b",
        "--served-model-name a --enforce-eager",
        "--seed -1",
        "-q awq",
        "-qawq",
        "--trust-remote-code",
        "--kv-cache-dtype fp8",
        "--tool-call-parser my_own_one",  # registered by a plugin
        "--config-format=mine",  # its list is only a hint
        "--hf-token",
        "--hf-token=x",
        "--gpu-memory-utilization 0.9",
        "--disable-log-stats",
        "--chat-template ./x.jinja",
        "--mm-processor-device cuda",  # a help printed without a GPU does not list it
        "",
    ],
)
def test_what_real_vllm_takes_is_taken(version: str, args: str) -> None:
    check(args.split(), FLAGS[version])


@pytest.mark.parametrize("version", FLAGS)
@pytest.mark.parametrize(
    ("args", "said", "kind"),
    [
        ("--max-modle-len=5", "unrecognized arguments: --max-modle-len=5", "unknown"),
        ("--disable-log-requests", "unrecognized arguments: --disable-log-requests", "unknown"),
        ("-tp8", "unrecognized arguments: -tp8", "unknown"),
        ("8", "unrecognized arguments: 8", "unknown"),
        ("--enforce-eager true", "unrecognized arguments: true", "unknown"),
        ("--max 4", "ambiguous option: --max", "value"),
        ("--dtype bf16", "invalid choice: 'bf16'", "value"),
        ("--tensor-parallel-size", "expected one argument", "value"),
        ("--max-num-seqs --enforce-eager", "expected one argument", "value"),
        ("--served-model-name", "expected at least one argument", "value"),
        ("--compilation-config.level", "expected one argument", "value"),
    ],
)
def test_what_real_vllm_refuses_is_refused_in_its_words(
    version: str, args: str, said: str, kind: str
) -> None:
    with pytest.raises(ServeArgumentError) as caught:
        check(args.split(), FLAGS[version])
    assert said in str(caught.value)
    assert bool(caught.value.unknown) is (kind == "unknown")


def test_all_flags_of_a_real_help_are_read() -> None:
    assert len(FLAGS["0.32.0"]) == 317
    by_name = {name: flag for flag in FLAGS["0.32.0"] for name in flag.names}
    assert by_name["-tp"].names == ("--tensor-parallel-size", "-tp")
    assert by_name["--api-key"].values == "+"
    assert by_name["--hf-token"].values == "?"
    assert by_name["--enforce-eager"].values == ""
    assert by_name["--no-enforce-eager"] is by_name["--enforce-eager"]
    assert by_name["--dtype"].choices[:2] == ("auto", "bfloat16")
    assert by_name["--tool-call-parser"].choices == ()
    assert by_name["--moe-backend"].choices


def test_newer_python_prints_a_metavar_once() -> None:
    (flag,) = read_flags("  --tensor-parallel-size, -tp TENSOR_PARALLEL_SIZE\n      words\n")
    assert flag.names == ("--tensor-parallel-size", "-tp")
    assert flag.values == "1"
    coloured = "  \x1b[1;36m--dtype\x1b[0m \x1b[33m{a,b}\x1b[0m  which\n"
    assert read_flags(coloured)[0].choices == ("a", "b")


@given(
    st.lists(st.text(max_size=12) | st.sampled_from(["--tp", "-O", "--a.b", "-x.y"]), max_size=6)
)
def test_no_words_are_too_odd(words: list[str]) -> None:
    with contextlib.suppress(ServeArgumentError):
        check(words, FLAGS["0.32.0"])


@given(st.text(max_size=200))
def test_no_help_is_too_odd(text: str) -> None:
    for flag in read_flags(f"  --{text}\n"):
        assert flag.names


def test_a_slip_names_the_flag_that_was_meant() -> None:
    facts = make_launch("--max-modle-len=4096", help_facts=real_help())
    finding = only(arguments.flags, facts)
    assert (finding.id, finding.severity, finding.ref) == ("arguments.unknown-flag", FATAL, "H24")
    assert "vLLM 0.32.0 will refuse" in finding.seen
    assert finding.cure == ("--vllm-serve-arg=--max-model-len=4096 instead of --max-modle-len=4096")
    value = only(arguments.flags, make_launch("--dtype=bf16", help_facts=real_help()))
    assert value.id == "arguments.bad-value"
    with_file = make_launch("--max-modle-len=1", "--config=x.yaml", help_facts=real_help())
    assert only(arguments.flags, with_file).severity is WARNING
    assert only(arguments.config_file, with_file).severity is Severity.NOTE


def test_a_word_that_the_module_ignores_is_told() -> None:
    facts = dataclasses.replace(real_help(), spare_word=True)
    finding = only(arguments.flags, make_launch("--enforce-eager", "true", help_facts=facts))
    assert (finding.id, finding.severity) == ("arguments.stray-word", WARNING)
    refused = only(arguments.flags, make_launch("a", "b", help_facts=facts))
    assert refused.severity is FATAL
    assert not found(arguments.flags, make_launch("--enforce-eager", help_facts=facts))


def test_a_help_that_was_not_read_refuses_nothing() -> None:
    assert not found(arguments.flags, make_launch("--nonsense"))
    unread = make_launch("--nonsense", help_facts=HelpFacts(problem="no space"))
    assert not found(arguments.flags, unread)
    assert "no space" in only(arguments.help_read, unread).seen


@pytest.mark.parametrize(
    "args",
    [
        "-tp=two",
        "-tp=0",
        "-tp=-1",
        "-tp",
        "--pipeline-parallel-size=1.5",
        "--gpu-memory-utilization=90",
        "--gpu-memory-utilization=0",
        "--gpu-memory-utilization=nan",
        "--max-model-len=many",
        "--max-model-len=1.5K",
        '--hf-overrides={"a":1',
        "--speculative-config={model:x}",
    ],
)
def test_values_that_no_version_takes(args: str) -> None:
    finding = only(arguments.values, make_launch(args))
    assert (finding.severity, finding.ref) == (FATAL, "H24")
    assert finding.cure


@pytest.mark.parametrize(
    "args",
    [
        ("-tp=8",),
        ("--gpu_memory_utilization", "0.5"),
        ("--max-model-len=1.5k",),
        ("--max-model-len=8K",),
        ("--max-model-len", "auto"),
        ("--max-model-len", "-1"),
        ('--hf-overrides={"a":1}',),
        ("--chat-template={% if x %}{{ y }}",),
        ("--config=x.yaml",),
    ],
)
def test_values_that_are_fine(args: tuple[str, ...]) -> None:
    assert not found(arguments.values, make_launch(*args))


@pytest.mark.parametrize("args", ["--dtype=bf16", "--kv-cache-dtype=nonsense"])
def test_a_type_that_no_version_has_is_told_also_without_a_help(args: str) -> None:
    finding = only(arguments.flags, make_launch(args))
    assert (finding.id, finding.severity) == ("arguments.bad-value", WARNING)
    assert args.partition("=")[2] in finding.seen
    read = make_launch(args, help_facts=real_help())
    assert only(arguments.flags, read).severity is FATAL


def test_every_type_of_every_help_is_likely() -> None:
    for flags in FLAGS.values():
        for flag in flags:
            for name in {"--dtype", "--kv-cache-dtype"} & set(flag.names):
                for value in flag.choices:
                    assert not found(arguments.flags, make_launch(f"{name}={value}"))


def test_the_server_must_listen_where_it_is_asked() -> None:
    assert only(arguments.address, make_launch("--host=127.0.0.1")).severity is FATAL
    assert only(arguments.address, make_launch("--host=10.0.0.7")).severity is WARNING
    assert not found(arguments.address, make_launch("--host=0.0.0.0"))
    host_network = ContainerFacts(network_mode="host")
    assert not found(arguments.address, make_launch("--host=127.0.0.1", container=host_network))
    assert not found(arguments.address, make_launch("--host=127.0.0.1", backend="process"))
    assert only(arguments.address, make_launch("--uds=/s")).id == "arguments.uds"
    assert only(arguments.address, make_launch("--model=x")).id == "arguments.model"


def test_rules_need_no_facts_to_stay_silent() -> None:
    for rule, backend in product(arguments.RULES, (None, "process")):
        assert not found(rule, make_launch(backend=backend))


def test_one_slip_is_told_once() -> None:
    facts = make_launch("--max-model-len", help_facts=real_help())
    findings = [finding for rule in arguments.RULES for finding in rule(facts)]
    assert [finding.seen for finding in findings] == ["--max-model-len: has no value"]
    other = make_launch("-tp=two", "--dtype=bf16", help_facts=real_help())
    assert len([finding for rule in arguments.RULES for finding in rule(other)]) == 2
