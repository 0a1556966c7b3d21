"""Every finding that the preflight can have, for people who look one up or ignore one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is known of a finding before there is one; a test holds it against the rules.

    Attributes:
        id: Its ID.
        refs: Rows of the failure table that it prevents, none for what is in no row.
        severities: How grave it can be, the gravest first.
        faults: Who can be to blame.
        summary: What it says, in short.
    """

    id: str
    refs: tuple[str, ...]
    severities: tuple[str, ...]
    faults: tuple[str, ...]
    summary: str


def _read(head: str, summary: str) -> Entry:
    name, refs, severities, faults = head.split("|")
    return Entry(
        id=name.strip(),
        refs=tuple(refs.split()),
        severities=tuple(severities.split()),
        faults=tuple(faults.split()),
        summary=summary.strip(),
    )


# ID | rows of the failure table | severities | faults, and on the next line what it says.
_TABLE = """\
engine.not-asked | | note | host
  the engine of this host does not answer, on a plan for another host
engine.permission | D2 | fatal | host
  this user may not use the engine's socket
engine.unreachable | D1 | fatal | host
  no Docker engine answers, or its address is none
engine.no-compose | D15 | fatal | host
  there is no Compose, which starts the container
engine.old | D13 | warning | host
  the engine is older than Docker 19.03
engine.kind | G2 | warning note | host
  the engine is Podman, rootless or on another host
engine.disk | D7 | fatal warning | host
  the disk of the engine is too full for the container or the image
image.absent | D3 D4 | fatal note | image
  the image is not on the engine, and may not be pulled
image.pulled | | note | image
  the image is not on the engine and will be pulled
image.not-pullable | D3 D4 D5 D6 | fatal warning | image network
  the image is not on the engine and its registry does not give it
image.architecture | D20 | fatal | image
  the image is built for another machine
image.gfx | G3 | fatal | image
  the image was not compiled for the GPUs of this host
image.gfx-unknown | G3 | warning note | image
  the image does not say what GPUs it was compiled for
image.cuda | D20 | fatal | image
  the image is built for CUDA, and the GPUs are AMD's
image.mutable-tag | | warning | user
  the name of the image has no fixed tag
image.several-digests | | warning | user
  the engine knows the image by several digests of one repository
image.starts-no-server | D16 | note | image
  the image starts nothing, or a shell, by itself
host.no-device | D11 | fatal | host
  /dev/kfd or the render nodes are missing
host.device-access | G2 | fatal | host
  this user may not open the devices of the GPUs
host.groups | G2 | warning | host
  the image's user is in no group that may open the devices
host.mixed-gpus | | warning | host
  the GPUs handed over are of different kinds
host.gpu-in-use | G7 | warning | host
  memory of the GPUs is in use before the start
host.numa-balancing | D19 | warning | host
  automatic NUMA balancing is on
host.shm | G12 | warning | host
  /dev/shm is too small for several ranks
host.memory | D17 | fatal warning | host
  the weights do not fit the memory of a host without GPUs
host.cache-disk | H10 | fatal | host
  the download does not fit the disk of the Hub cache
host.port | H25 | fatal | host
  the port that --port names is taken
model.malformed-id | H8 | fatal | user
  the model's name is no Hub ID and no folder
model.unknown-id | H7 | fatal warning | user
  nobody knows the Hub ID, and the Hub was not asked
model.not-cached | H9 | fatal | user
  the Hub may not be asked, and the cache does not have the model
model.unfinished-download | | note | network
  an earlier download of the model was broken off
model.remote-code | H15 | fatal warning | user
  the model needs its own code, which is not allowed
model.unknown-type | H13 | fatal warning | image
  vLLM does not know the model type
model.unknown-architecture | H14 | fatal warning | image
  vLLM does not have the architecture
model.removed-architecture | H14 | warning | model
  later versions of vLLM do not have the architecture any more
model.no-chat-template | Q1 | warning note | user
  the model has no chat template, so it cannot chat
model.no-config | H12 | fatal warning | user
  the model's folder holds no config.json
model.broken-config | H23 | fatal | model
  config.json is no JSON object
model.missing-weights | H20 | fatal warning | model
  files of weights that the index names are missing
model.no-weights | H20 | fatal warning | model
  the model's folder holds no weights
model.lfs-pointer | H21 | fatal | model
  Git LFS pointers lie in place of weights
model.truncated | H21 | fatal | model
  files of weights are cut off or broken
model.unreadable | H11 | warning | host
  this user may not read files of weights
model.index-size | H20 | warning | model
  the weights are smaller than their index says
model.broken-tokenizer | H22 | fatal | model
  the tokenizer's files are broken
model.no-tokenizer | H22 | fatal warning | model
  the model's folder holds no tokenizer
model.broken-generation-config | | warning | model
  generation_config.json is no JSON object
model.link-out | H12 | fatal | user
  a link leads out of the folder that the container sees
model.heads | H18 | fatal warning | user
  the attention heads do not divide by the tensor-parallel size
model.kv-heads | H18 | fatal warning note | user
  the key-value heads do not fit the tensor-parallel size
model.unknown-quantization | H16 | fatal warning note | model user
  vLLM does not know the quantization method
model.other-quantization | H17 | fatal warning | user
  --quantization contradicts what the weights are stored in
model.gguf | H16 | warning | user
  the model is in GGUF, which vLLM reads only with a plugin
model.quantization-not-on-rocm | G22 | fatal warning | model
  vLLM does not take the quantization method on ROCm
model.fp8 | G21 | fatal warning | model user
  the model or --quantization wants 8-bit floats, which the GPUs lack
model.fp8-cache | G21 | warning | user
  --kv-cache-dtype wants 8-bit floats, which the GPUs lack
model.too-long | H19 | fatal warning | user
  --max-model-len is more than the model was made for
model.gpus | G6 | fatal | user
  the arguments need more GPUs than are handed over
model.cannot-be-split | H18 | fatal warning | user
  the arguments split the model in a way that it does not take
model.weights | G8 | fatal warning | user
  the weights do not fit the memory of the GPUs
model.cache-blocks | G9 | fatal warning | user
  the weights leave no room for blocks of the KV cache
model.length-memory | G10 | fatal warning | user
  the KV cache does not hold one request of full length
gpu.free-memory | G7 | fatal warning | host user
  less memory of a GPU is free than vLLM wants
arguments.bad-value | H24 | fatal warning | user
  an argument has a value that the server does not take
arguments.unknown-flag | H24 | fatal warning | user
  the server does not know an argument
arguments.stray-word | | warning | user
  a word belongs to no argument, and the server ignores it
arguments.not-compared | | note | image
  the help of the server could not be read
arguments.config-file | | note | user
  --config names a file that is not looked at
arguments.host | | fatal warning | user
  --host lets the server listen where nobody can reach it
arguments.uds | | fatal | user
  --uds lets the server listen on a socket file
arguments.model | | fatal | user
  --model names a second model
arguments.visible-devices | G1 G6 | fatal warning | user
  variables that choose GPUs contradict each other or name GPUs that are not there
arguments.hidden-gpus | G1 G6 | fatal warning | user
  a variable hides GPUs that the server needs
network.not-tried | | note | network
  the way to the Hub could not be tried
network.dns | H1 | fatal | network
  the Hub's name is not resolved where the server runs
network.connection | H2 | fatal | network
  the Hub cannot be reached where the server runs
network.tls | H3 | fatal | network
  the Hub's certificate is not trusted where the server runs
network.hub-busy | H4 | fatal | flaky
  the Hub answers that it is busy or broken
network.gated | H6 | fatal | user
  the model is gated, and its licence not accepted
network.bad-token | H5 | fatal | user
  the Hub refuses the token
network.no-such-model | H7 | fatal | user
  the Hub does not know the model
network.revision | H8 | fatal | user
  the Hub does not know the revision
network.client-in-container | Q6 | fatal warning | network
  --vllm-url names this container, where nothing listens
network.nobody-listens | Q6 | fatal warning | network
  nothing listens at --vllm-url
security.privileged | | warning | user
  the compose override makes the container privileged
security.host-network | | warning | user
  the compose override puts the server into the host's network
security.engine-socket | | warning | user
  the compose override mounts the engine's socket
security.published-port | | warning | user
  the compose override publishes a port to other hosts
security.remote-code | | warning | user
  --trust-remote-code without a fixed revision
security.gfx-override | | warning | user
  HSA_OVERRIDE_GFX_VERSION makes a GPU pose as another
security.token-on-argv | | warning | user
  --hf-token shows the token to every user of the host
"""
_LINES = _TABLE.splitlines()

ENTRIES: tuple[Entry, ...] = tuple(map(_read, _LINES[::2], _LINES[1::2]))
REFS: tuple[str, ...] = tuple(dict.fromkeys(ref for entry in ENTRIES for ref in entry.refs))
