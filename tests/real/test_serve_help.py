"""The help of a real vLLM is read in a throw-away container, of which nothing stays."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import docker
import pytest

from pytest_vllm.adapters.backends.container import OWNER_LABEL
from pytest_vllm.adapters.backends.image import read_image
from pytest_vllm.adapters.flag_table import shipped_flags
from pytest_vllm.adapters.serve_help import read_help
from pytest_vllm.domain.serve_parser import ServeArgumentError, check
from pytest_vllm.domain.target import ImageRef
from tests.unit.launch_facts import make_target

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from docker import DockerClient

    from pytest_vllm.domain.facts.arguments import Flag


CASES = """
-tp 8
-tp=8
-tp8
--tensor_parallel_size=8
--max_model_len 4096
--max-model 4096
--max 4
-O3
-O 2
--compilation-config.mode 3
-cc.cudagraph_mode=NONE
--enforce-eager true
--enforce-eager
--no-enable-prefix-caching
--dtype bf16
--dtype=bfloat16
--max-modle-len=5
8
--seed -1
--served-model-name a b
--served-model-name a --enforce-eager
--served-model-name
--tensor-parallel-size
--quant fp8
--quantization fp8
-q awq
-qawq
--disable-log-requests
--max-num-seqs --enforce-eager
--hf-overrides.rope_scaling.factor 2
--enable-expert-parallel
--speculative-config {"model":"x"}
--tool-call-parser mine
--tool-call-parser hermes
--hf-token
--hf-token x
--api-key a b
--trust-remote-code
--gpu-memory-utilization=0.5
--kv-cache-dtype fp8
--kv-cache-dtype fp9
--load-format dummy
--config-format mine
--lora-modules a=b
--frobnicate
--frobnicate=1
-x
--no-frobnicate
--no-dtype
--disable-log-stats
--moe-backend auto
--moe-backend none
--limit-mm-per-prompt.image 2
--max-lora-rank 16
--max-lora-rank 17
""".strip().splitlines()
VALUES = """
-tp two
-tp 1_6
--max-num-seqs 8k
--max-model-len 8k
--max-model-len 1.5K
--max-model-len 1.5k
--max-model-len auto
--max-model-len long
--kv-cache-memory-bytes 25.6g
--kv-cache-memory-bytes None
--num-gpu-blocks-override None
--num-gpu-blocks-override x
--gpu-memory-utilization most
--cpu-offload-gb 1.5
--cudagraph-capture-sizes 1 2
--cudagraph-capture-sizes 1 two
--compilation-config nonsense
--compilation-config {"mode":3}
--kv-transfer-config nonsense
--speculative-config nonsense
--limit-mm-per-prompt {"image":2}
--limit-mm-per-prompt image=2
--default-chat-template-kwargs x
--allowed-origins ["*"]
--allowed-origins *
""".strip().splitlines()
REAL_PARSER = """
import contextlib, io, json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = make_arg_parser(FlexibleArgumentParser())
taken = []
for case in json.loads(sys.argv[1]):
    for model in ([], ["MODEL"]):
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                parser.parse_args([*model, *case.split()])
            taken.append(True)
        except (SystemExit, Exception):  # it lets some errors through
            taken.append(False)
print("\\n" + json.dumps(taken))
"""


@pytest.fixture
def client() -> Iterator[DockerClient]:
    """Talk to the engine."""
    found = docker.from_env()
    yield found
    found.close()


def test_the_help_of_an_image_is_read_once_and_leaves_nothing(
    client: DockerClient, real_image_bash: str, tmp_path: Path
) -> None:
    target = make_target(image=real_image_bash)
    image = read_image(client, ImageRef.parse(real_image_bash))
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    before = {found.id for found in client.containers.list(all=True, ignore_removed=True)}
    facts = read_help(target, image, client, env)
    assert facts.problem == ""
    assert len(facts.flags) > 250
    check(["--max-model-len", "4096", "-tp=1", "--enforce-eager"], facts.flags)
    with pytest.raises(ServeArgumentError, match="--max-modle-len"):
        check(["--max-modle-len=4096"], facts.flags)
    ours = [
        found
        for found in client.containers.list(
            all=True, filters={"label": OWNER_LABEL}, ignore_removed=True
        )
        if found.id not in before and found.attrs["Config"]["Cmd"] == ["--help=all"]
    ]
    assert ours == []
    again = read_help(target, image, None, env)  # what was read once needs no engine
    assert (again.flags, again.source[:6]) == (facts.flags, "cache ")


def test_an_image_without_vllm_has_no_help(client: DockerClient, real_image_bash: str) -> None:
    target = make_target(image=real_image_bash, entrypoint="vllm")
    image = read_image(client, ImageRef.parse(real_image_bash))
    broken = type(image)(
        asked=image.asked, id="sha256:none", runs=image.runs, entrypoint=("/no/vllm", "serve")
    )
    facts = read_help(target, broken, client, {**os.environ, "XDG_CACHE_HOME": "/dev/null"})
    assert facts.flags == ()
    assert facts.problem


def test_real_vllm_takes_and_refuses_the_same_words(real_vllm_python: str, tmp_path: Path) -> None:
    """Numbers aside, of which a help does not tell the type, our reading is vLLM's own."""
    done = subprocess.run(
        [real_vllm_python, "-c", REAL_PARSER, json.dumps(CASES)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "VLLM_LOGGING_LEVEL": "ERROR"},
    )
    answers = json.loads(done.stdout.splitlines()[-1])
    module = dict(zip(CASES, answers[::2], strict=True))
    serve = dict(zip(CASES, answers[1::2], strict=True))
    target = make_target(backend="process", python=real_vllm_python)
    facts = read_help(target, None, None, {**os.environ, "XDG_CACHE_HOME": str(tmp_path)})
    assert facts.problem == ""
    assert facts.version
    assert facts.spare_word  # `--model M` leaves the place for a model free
    assert {case: _takes(case, facts.flags, spare_word=True) for case in CASES} == module
    assert {case: _takes(case, facts.flags, spare_word=False) for case in CASES} == serve
    assert min(sum(serve.values()), len(CASES) - sum(serve.values())) > 15


def test_real_vllm_takes_and_refuses_the_same_values(real_vllm_python: str) -> None:
    """The shipped list knows types, too, and what the config refuses after the parser."""
    cases = [*CASES, *VALUES]
    done = subprocess.run(
        [real_vllm_python, "-c", REAL_PARSER, json.dumps(cases)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "VLLM_LOGGING_LEVEL": "ERROR"},
    )
    answers = dict(zip(cases, json.loads(done.stdout.splitlines()[-1])[1::2], strict=True))
    ours = {case: _takes(case, shipped_flags().flags, spare_word=False) for case in cases}
    assert ours == answers


def _takes(case: str, flags: tuple[Flag, ...], *, spare_word: bool) -> bool:
    try:
        check(case.split(), flags, spare_word=spare_word)
    except ServeArgumentError:
        return False
    return True
