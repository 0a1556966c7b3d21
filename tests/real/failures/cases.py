"""The failures that are provoked, and what has to come of each (rows of the failure table)."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from tests.data.hub.server import DOWN, GATED, LIMITED, STRANGER
from tests.real.failures.case import Blow, Case, Ending

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from tests.real.failures.case import Place

REJECT, OPEN = 1, 75
START = ("start", "config")
LOAD = ("config", "load")
SMALL = "org/small"
IN_MID_RUN = r"(?s)(?:POST /v1/chat/completions.*?){6}"
"""The start itself asks for two replies of chat."""
NAMESPACE = ("unshare", "--mount", "--propagation=private", "--")
"""A mount of the case is seen by its run only, and goes away with it."""


def _shell(script: str, *words: str) -> tuple[str, ...]:
    """Return words that run a script with arguments and then become what follows them."""
    count = len(words)
    return ("sh", "-ec", f'{script}; shift {count}; exec "$@"', "sh", *words)


def _serve(*words: str) -> str:
    return f"--vllm-serve-arg={shlex.join(words)}"


def _broken(kind: str, *more: str) -> Callable[[Place], tuple[str, ...]]:
    return lambda place: place.process(place.broken(kind), *more)


def _dead_names(place: Place) -> tuple[str, ...]:
    """Give the run a resolv.conf that names an address where nobody answers."""
    file = place.folder / "resolv.conf"
    file.write_text("nameserver 127.0.0.9\noptions timeout:1 attempts:1\n", "ascii")
    return (*NAMESPACE, *_shell('mount --bind "$1" /etc/resolv.conf', str(file)))


def _cache_on(options: str) -> Callable[[Place], tuple[str, ...]]:
    """Put the Hub cache on a memory disk with some mount options."""

    def before(place: Place) -> tuple[str, ...]:
        folder = place.folder / "hf"
        folder.mkdir()
        script = 'mount -t tmpfs -o "$1" tmpfs "$2"'
        return (*NAMESPACE, *_shell(script, options, str(folder)))

    return before


def _foreign_socket(place: Place) -> str:
    """Make a real socket that belongs to another user."""
    import socket  # noqa: PLC0415 - only here

    path = place.folder / "docker.sock"
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(path))
    path.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
    return f"unix://{path}"


def _without_power(_: Place) -> tuple[str, ...]:
    """Let root be refused as anybody else is."""
    if os.geteuid() != 0:
        return ()
    return ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--")


def _override(**service: Any) -> Callable[[Place], Mapping[str, Any]]:
    return lambda _: service


ARGUMENTS = (
    Case(
        name="bad-flag",
        what="an argument that this vLLM does not know",
        options=lambda place: place.process("", _serve("--frobnicate")),
        early=Ending(ref="H24", exit_code=REJECT, cure="--frobnicate|--vllm-serve-arg"),
        late=Ending(
            ref="H24",
            exit_code=REJECT,
            cure="--frobnicate|--vllm-serve-arg",
            line="error: unrecognized arguments",
            phases=START,
        ),
    ),
    Case(
        name="heads",
        what="9 attention heads on 2 GPUs",
        options=lambda place: place.process("", _serve("--tensor-parallel-size=2")),
        early=Ending(ref="H18", exit_code=REJECT, cure="tensor-parallel-size"),
        late=Ending(
            ref="H18",
            exit_code=REJECT,
            cure="tensor-parallel-size",
            line="must be divisible by tensor parallel size",
            phases=START,
        ),
    ),
    Case(
        name="max-length",
        what="--max-model-len above what the model was made for",
        options=lambda place: place.process("", _serve("--max-model-len=100000")),
        early=Ending(ref="H19", exit_code=REJECT, cure="--max-model-len.*8192"),
        late=Ending(
            ref="H19",
            exit_code=REJECT,
            cure="--max-model-len.*8192",
            line="is greater than the derived max_model_len",
            phases=START,
        ),
    ),
    Case(
        name="no-room-for-one-request",
        what="a KV cache of two blocks for a context of 8,192 tokens",
        options=lambda place: place.process(
            "", _serve("--num-gpu-blocks-override=2", "--max-model-len=8192")
        ),
        late=Ending(
            ref="G10",
            exit_code=REJECT,
            cure="--max-model-len=128",
            line="To serve at least one request",
            phases=("load", "kv cache", "compile"),
        ),
    ),
    Case(
        name="bad-backend",
        what="an attention backend that this vLLM does not know",
        options=lambda place: place.process("", _serve("--attention-backend=FOO")),
        late=Ending(
            ref="G23",
            exit_code=REJECT,
            cure="attention-backend|backend",
            line="Unknown attention backend",
            phases=START,
        ),
    ),
)

MODELS = (
    Case(
        name="no-config",
        what="a folder without config.json",
        options=_broken("no-config"),
        early=Ending(ref="H12", exit_code=REJECT, cure="config.json"),
        late=Ending(
            ref="H12",
            exit_code=REJECT,
            cure="config.json|path|folder",
            line="Invalid repository ID or local directory",
            phases=START,
        ),
    ),
    Case(
        name="half-config",
        what="a config.json that ends in the middle",
        options=_broken("half-config"),
        early=Ending(ref="H23", exit_code=REJECT, cure="download|config.json"),
        late=Ending(
            ref="H23",
            exit_code=REJECT,
            cure="config.json",
            line="is not a valid JSON file",
            phases=START,
        ),
    ),
    Case(
        name="wrong-shape",
        what="a config.json that contradicts itself",
        options=_broken("wrong-shape"),
        late=Ending(
            ref="H23",
            exit_code=REJECT,
            cure="config.json",
            line="Class validation error",
            phases=START,
        ),
    ),
    Case(
        name="bad-architecture",
        what="an architecture that this vLLM does not know",
        options=_broken("bad-architecture"),
        early=Ending(ref="H14", exit_code=REJECT, cure="image|vLLM"),
        late=Ending(
            ref="H14",
            exit_code=REJECT,
            cure="image|vLLM",
            line="are not supported for now|failed to be inspected",
            phases=START,
        ),
    ),
    Case(
        name="unknown-type",
        what="a model type that this transformers does not know",
        options=_broken("unknown-type"),
        early=Ending(ref="H13", exit_code=REJECT, cure="image|transformers"),
        late=Ending(
            ref="H13",
            exit_code=REJECT,
            cure="image|transformers",
            line="does not recognize this architecture",
            phases=START,
        ),
    ),
    Case(
        name="remote-code",
        what="a model that brings its own code",
        options=_broken("remote-code"),
        early=Ending(ref="H15", exit_code=REJECT, cure="--trust-remote-code"),
        late=Ending(
            ref="H15",
            exit_code=REJECT,
            cure="--trust-remote-code",
            line="contains custom code which must be executed",
            phases=START,
        ),
        always=True,
    ),
    Case(
        name="unknown-quantization",
        what="a quantization that vLLM does not know",
        options=_broken("unknown-quantization"),
        early=Ending(ref="H16", exit_code=REJECT, cure="quant|format|image"),
        late=Ending(
            ref="H16",
            exit_code=REJECT,
            cure="quant|format|image",
            line="Unknown quantization method",
            phases=START,
        ),
    ),
    Case(
        name="no-tokenizer",
        what="no tokenizer in the model's folder",
        options=_broken("no-tokenizer"),
        early=Ending(ref="H22", exit_code=REJECT, cure="tokenizer"),
        late=Ending(
            ref="H22",
            exit_code=REJECT,
            cure="tokenizer",
            line="Couldn't instantiate the backend tokenizer",
            phases=START,
        ),
    ),
    Case(
        name="no-weights",
        what="no weights in the model's folder",
        options=_broken("no-weights"),
        early=Ending(ref="H20", exit_code=REJECT, cure="weights|download"),
        late=Ending(
            ref="H20",
            exit_code=REJECT,
            cure="weights|download",
            line="Cannot find any model weights",
            phases=LOAD,
        ),
    ),
    Case(
        name="truncated",
        what="weights whose download was cut short",
        options=_broken("truncated"),
        early=Ending(ref="H21", exit_code=REJECT, cure="download|again|size"),
        late=Ending(
            ref="H21",
            exit_code=REJECT,
            cure="download|again|size",
            line="SafetensorError",
            phases=LOAD,
        ),
        always=True,
    ),
    Case(
        name="lfs-pointer",
        what="a git-LFS pointer in place of the weights",
        options=_broken("lfs-pointer"),
        early=Ending(ref="H21", exit_code=REJECT, cure="lfs|LFS|download"),
        late=Ending(
            ref="H21",
            exit_code=REJECT,
            cure="lfs|LFS|download",
            line="^MemoryError",
            phases=START,
        ),
        always=True,
    ),
)

HUB = (
    Case(
        name="wrong-id",
        what="an ID that the Hub does not know (it answers 401 without a token)",
        options=lambda place: place.from_hub("org/smal"),
        early=Ending(ref="H7", exit_code=REJECT, cure="--vllm-model|HF_TOKEN"),
        late=Ending(
            ref="H7",
            exit_code=REJECT,
            cure="--vllm-model|HF_TOKEN",
            line="is not a valid model identifier",
            phases=START,
        ),
        always=True,
    ),
    Case(
        name="wrong-id-with-token",
        what="an ID that the Hub does not know (404 with a token)",
        options=lambda place: place.from_hub("org/smal", "--vllm-env=HF_TOKEN"),
        env=lambda _: {"HF_TOKEN": STRANGER},
        early=Ending(ref="H7", exit_code=REJECT, cure="--vllm-model"),
        late=Ending(
            ref="H7",
            exit_code=REJECT,
            cure="--vllm-model",
            line="is not a valid model identifier",
            phases=START,
        ),
    ),
    Case(
        name="wrong-revision",
        what="a revision that the model does not have",
        options=lambda place: place.from_hub(SMALL, "--vllm-revision=nope"),
        early=Ending(ref="H8", exit_code=REJECT, cure="--vllm-revision"),
        late=Ending(
            ref="H8",
            exit_code=REJECT,
            cure="--vllm-revision",
            line="is not a valid git identifier|Revision Not Found",
            phases=START,
        ),
    ),
    Case(
        name="gated",
        what="a gated model without a token (401)",
        options=lambda place: place.from_hub(GATED),
        early=Ending(ref="H6", exit_code=REJECT, cure="HF_TOKEN"),
        late=Ending(
            ref="H6",
            exit_code=REJECT,
            cure="HF_TOKEN",
            line="You are trying to access a gated repo",
            phases=START,
        ),
    ),
    Case(
        name="gated-not-granted",
        what="a gated model with the token of somebody who has not accepted the licence (403)",
        options=lambda place: place.from_hub(GATED, "--vllm-env=HF_TOKEN"),
        env=lambda _: {"HF_TOKEN": STRANGER},
        early=Ending(ref="H6", exit_code=REJECT, cure="licen[cs]e|access"),
        late=Ending(
            ref="H6",
            exit_code=REJECT,
            cure="licen[cs]e|access",
            line="You are trying to access a gated repo",
            phases=START,
        ),
        always=True,
    ),
    Case(
        name="bad-token",
        what="a token that the Hub does not know, on a public model",
        options=lambda place: place.from_hub(SMALL, "--vllm-env=HF_TOKEN"),
        env=lambda _: {"HF_TOKEN": "hf_expired"},
        early=Ending(ref="H5", exit_code=REJECT, cure="HF_TOKEN"),
        late=Ending(
            ref="H5",
            exit_code=REJECT,
            cure="HF_TOKEN",
            line="Invalid credentials in Authorization header|Invalid user token",
            phases=START,
        ),
    ),
    Case(
        name="hub-429",
        what="the Hub limits this address",
        options=lambda place: place.from_hub(LIMITED),
        early=Ending(ref="H4", exit_code=OPEN, cure="HF_TOKEN"),
        late=Ending(
            ref="H4",
            exit_code=OPEN,
            cure="HF_TOKEN",
            line="HfHubHTTPError: .*429 Too Many Requests",
            phases=START,
        ),
    ),
    Case(
        name="hub-503",
        what="the Hub is down",
        options=lambda place: place.from_hub(DOWN),
        early=Ending(ref="H4", exit_code=OPEN, cure="later|once more"),
        late=Ending(
            ref="H4",
            exit_code=OPEN,
            cure="later|once more",
            line="HfHubHTTPError: .*503 Service Unavailable",
            phases=START,
        ),
    ),
    Case(
        name="hub-refused",
        what="nobody listens where the Hub should be",
        options=lambda place: place.from_hub(SMALL, endpoint="http://127.0.0.1:9"),
        early=Ending(ref="H2", exit_code=OPEN, cure="HF_ENDPOINT|PROXY|proxy"),
        late=Ending(
            ref="H2",
            exit_code=OPEN,
            cure="HF_ENDPOINT|PROXY|proxy",
            line=r"httpx2\.ConnectError: \[Errno 111\]",
            phases=START,
        ),
    ),
    Case(
        name="hub-tls",
        what="a proxy with a certificate of its own before the Hub",
        options=lambda place: place.from_hub(SMALL, endpoint=place.tls.url()),
        early=Ending(ref="H3", exit_code=OPEN, cure="SSL_CERT_FILE|CA"),
        late=Ending(
            ref="H3",
            exit_code=OPEN,
            cure="SSL_CERT_FILE|CA",
            line=r"httpx2\.ConnectError: .*CERTIFICATE_VERIFY_FAILED",
            phases=START,
        ),
    ),
    Case(
        name="dns-dead",
        what="a name server that does not answer",
        options=lambda place: place.process("org/not-cached"),
        before=_dead_names,
        early=Ending(ref="H1", exit_code=OPEN, cure="resolv.conf|DNS|dns"),
        late=Ending(
            ref="H1",
            exit_code=OPEN,
            cure="resolv.conf|DNS|dns",
            line=r"httpx2\.ConnectError: \[Errno -\d\]",
            phases=START,
        ),
    ),
    Case(
        name="offline",
        what="a model that is not cached, offline",
        options=lambda place: place.from_hub(SMALL, "--vllm-env=HF_HUB_OFFLINE=1"),
        early=Ending(ref="H9", exit_code=REJECT, cure="HF_HUB_OFFLINE|HF_HOME"),
        late=Ending(
            ref="H9",
            exit_code=REJECT,
            cure="HF_HUB_OFFLINE|HF_HOME",
            line="outgoing traffic has been disabled|OfflineModeIsEnabled",
            phases=START,
        ),
        always=True,
    ),
    Case(
        name="cache-full",
        what="a Hub cache on a disk of 8 MB",
        options=lambda place: place.from_hub(SMALL),
        before=_cache_on("size=8m"),
        late=Ending(
            ref="H10",
            exit_code=OPEN,
            cure="HF_HOME|HF_HUB_CACHE|free|disk",
            line="No space left on device",
        ),
    ),
    Case(
        name="cache-read-only",
        what="a Hub cache that cannot be written",
        options=lambda place: place.from_hub(SMALL),
        before=_cache_on("ro"),
        late=Ending(
            ref="H11",
            exit_code=OPEN,
            cure="HF_HOME|HF_HUB_CACHE|writ",
            line="Read-only file system|PermissionError",
        ),
    ),
)

HOST = (
    Case(
        name="port-in-use",
        what="--port that another program holds",
        options=lambda place: place.process("", _serve(f"--port={place.port}")),
        early=Ending(ref="H25", exit_code=OPEN, cure="--port"),
    ),
    Case(
        name="segfault",
        what="the server is hit by SIGSEGV while it reads the model's config",
        options=lambda place: place.process(),
        blow=Blow(after="Resolved architecture", who="api_server", signal="SIGSEGV"),
        late=Ending(ref="D18", exit_code=OPEN, cure="driver|ROCm", phases=START),
        always=True,
    ),
    Case(
        name="engine-segfault",
        what="EngineCore is hit by SIGSEGV while it loads",
        options=lambda place: place.process(),
        blow=Blow(after="Starting to load model", who="EngineCore", signal="SIGSEGV"),
        late=Ending(ref="D18", exit_code=OPEN, cure="driver|ROCm"),
    ),
    Case(
        name="abort",
        what="the server aborts once, as at a GPU hang: flaky, so it is tried again",
        options=lambda place: place.process(),
        blow=Blow(after="Resolved architecture", who="api_server", signal="SIGABRT"),
        late=Ending(ref="D19", exit_code=0, cure="dmesg|numa_balancing"),
    ),
    Case(
        name="killed-at-start",
        what="the server is killed while it loads, as the kernel does for want of memory",
        options=lambda place: place.process(),
        blow=Blow(after="Starting to load model", who="api_server", signal="SIGKILL"),
        late=Ending(ref="D17", exit_code=OPEN, cure="memory"),
    ),
    Case(
        name="engine-killed-in-mid-run",
        what="EngineCore is killed in mid-run; vLLM exits with 0",
        options=lambda place: place.process(),
        blow=Blow(after=IN_MID_RUN, who="EngineCore", signal="SIGKILL"),
        late=Ending(ref="Q5", exit_code=REJECT, cure=""),
        suite="chat",
    ),
)

DOCKER = (
    Case(
        name="daemon-down",
        what="DOCKER_HOST names a socket that is not there",
        options=lambda place: place.container(),
        env=lambda place: {"DOCKER_HOST": f"unix://{place.folder}/no.sock"},
        early=Ending(ref="D1", exit_code=OPEN, cure="systemctl start docker|DOCKER_HOST"),
        late=Ending(ref="D1", exit_code=OPEN, cure="systemctl start docker|DOCKER_HOST"),
        always=True,
    ),
    Case(
        name="no-permission",
        what="a socket of the engine that belongs to another user",
        options=lambda place: place.container(),
        env=lambda place: {"DOCKER_HOST": _foreign_socket(place)},
        before=_without_power,
        early=Ending(ref="D2", exit_code=OPEN, cure="usermod -aG docker"),
        late=Ending(ref="D2", exit_code=OPEN, cure="usermod -aG docker"),
        always=True,
    ),
    Case(
        name="missing-image",
        what="an image that is not on the engine",
        options=lambda place: place.container(image=f"{place.image}x"),
        early=Ending(ref="D3", exit_code=REJECT, cure="docker pull|--vllm-pull"),
        late=Ending(ref="D3", exit_code=REJECT, cure="docker pull|--vllm-pull"),
        always=True,
    ),
    Case(
        name="missing-device",
        what="/dev/kfd for a container on a host without it",
        options=lambda place: place.container(),
        override=_override(devices=["/dev/kfd:/dev/kfd"]),
        late=Ending(ref="D11", exit_code=OPEN, cure="--vllm-gpus=none|amdgpu"),
        always=True,
    ),
    Case(
        name="unknown-group",
        what="a group by a name that the image does not have",
        options=lambda place: place.container(),
        override=_override(group_add=["no-such-render"]),
        late=Ending(ref="D12", exit_code=OPEN, cure="number|numeric|gid"),
        always=True,
    ),
    Case(
        name="unknown-runtime",
        what="runtime amd on an engine without it",
        options=lambda place: place.container(),
        override=_override(runtime="amd"),
        late=Ending(ref="D13", exit_code=OPEN, cure="device|toolkit"),
        always=True,
    ),
    Case(
        name="port-allocated",
        what="a published port that another program holds",
        options=lambda place: place.container(),
        override=lambda place: {"ports": [f"127.0.0.1:{place.port}:8001"]},
        late=Ending(ref="D9", exit_code=OPEN, cure="port"),
        always=True,
    ),
    Case(
        name="no-such-program",
        what="an entrypoint that is not in the image",
        options=lambda place: place.container(),
        override=_override(entrypoint=["no-such-program"]),
        late=Ending(ref="D8", exit_code=REJECT, cure="entrypoint"),
        always=True,
    ),
    Case(
        name="bash-entrypoint",
        what="an image that runs bash, without our entrypoint: it exits with 0 at once",
        options=lambda place: place.container(),
        override=_override(entrypoint=["/bin/bash"], command=[]),
        late=Ending(ref="D16", exit_code=REJECT, cure="entrypoint"),
        always=True,
    ),
    Case(
        name="foreign-program",
        what="a program for another machine (S390) in the image",
        options=lambda place: place.container(image=place.foreign_image),
        late=Ending(ref="D20", exit_code=REJECT, cure="image|arch|platform"),
        always=True,
    ),
    Case(
        name="oom-kill",
        what="256 MB of memory for the container",
        options=lambda place: place.container(),
        override=_override(mem_limit="256m", memswap_limit="256m"),
        late=Ending(ref="D17", exit_code=OPEN, cure="memory"),
        always=True,
    ),
    Case(
        name="container-bad-flag",
        what="an argument that the image's vLLM does not know",
        options=lambda place: place.container(_serve("--frobnicate")),
        early=Ending(ref="H24", exit_code=REJECT, cure="--frobnicate|--vllm-serve-arg"),
        late=Ending(
            ref="H24", exit_code=REJECT, cure="--frobnicate|--vllm-serve-arg", phases=START
        ),
    ),
    Case(
        name="container-dns-dead",
        what="--vllm-dns names an address where nobody answers",
        options=lambda place: place.container("--vllm-dns=127.0.0.9", model="org/not-cached"),
        early=Ending(ref="H1", exit_code=OPEN, cure="--vllm-dns"),
        late=Ending(ref="H1", exit_code=OPEN, cure="--vllm-dns", phases=START),
    ),
)

CASES = (*ARGUMENTS, *MODELS, *HUB, *HOST, *DOCKER)
