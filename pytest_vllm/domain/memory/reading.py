"""Read from a server's arguments and variables what they mean for its memory."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.memory import GIB
from pytest_vllm.domain.memory.serving import Platform, Serving

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

    from pytest_vllm.domain.target import ServeArgs

_HUMAN = re.compile(r"(\d+(?:\.\d+)?)([kKmMgGtT])")
_FACTORS = {
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "K": 2**10,
    "M": 2**20,
    "G": 2**30,
    "T": 2**40,
}
_LOCAL = ("--data-parallel-size-local", "-dpl")
_NUMBER = re.compile(r"-[\d.]")
_OFF = frozenset({"0", "none", "false", ""})
_OVERLAP_FROM = (0, 14)
"""Steps overlap by default in all versions whose source or log is at hand (0.26 to 0.32)."""
_WINDOWS_FROM = (0, 10)
"""Before it, a window kept as much of the cache as full attention does."""

_UNMODELLED = {
    "--additional-config": "what it changes is not known here",
    "--config": "arguments in that file are not read here",
    "--cpu-offload-gb": "weights in the memory of the host are not taken off",
    "--offload-group-size": "weights in the memory of the host are not taken off",
    "--enable-dbo": "its second set of buffers is not counted",
    "--enable-eplb": "its spare experts are not counted",
    "--enable-lora": "adapters are not counted",
    "--enable-sleep-mode": "its allocator is not modelled",
    "--hf-overrides": "it may change the model that is reckoned with",
    "--kv-cache-dtype-skip-layers": "its layers are reckoned as the others",
    "--kv-transfer-config": "buffers of the connector are not counted",
    "--limit-mm-per-prompt": "buffers of the encoder are not counted",
    "--mamba-block-size": "the block of a state is reckoned with its default",
    "--mamba-cache-dtype": "states are reckoned with their default type",
    "--mamba-ssm-cache-dtype": "states are reckoned with their default type",
    "--mm-ipc-gpu-memory-gb": "its reserve is not taken off",
    "--model-class-overrides": "it may change the model that is reckoned with",
    "--model-loader-extra-config": "what it changes is not known here",
    "--prefill-context-parallel-size": "it is not modelled",
    "-pcp": "it is not modelled",
    "--quantization-config": "what it changes is not known here",
    "--rope-scaling": "it changes the context, which is reckoned as the config says",
    "--rope-theta": "it changes the context, which is reckoned as the config says",
    "--speculative-config": "the draft and its part of the cache are not counted",
    "-sc": "the draft and its part of the cache are not counted",
    "--spec-tokens": "the draft and its part of the cache are not counted",
    "--disable-sliding-window": "it shortens the context, which is not modelled",
    "--ubatch-size": "its buffers are not counted",
}


def read_serving(
    args: ServeArgs,
    variables: Mapping[str, str],
    *,
    version: tuple[int, ...],
    platform: Platform,
) -> Serving:
    """Read what a server is told about its memory.

    Args:
        args: Its arguments; the last of several wins, as for vLLM.
        variables: Its variables.
        version: Version of vLLM, which decides defaults.
        platform: What it runs on.

    Raises:
        TargetError: A number is none, or one that vLLM refuses.
    """
    words = _Words(args.argv)
    length, fits = _length(words)
    backend = words.text("--attention-backend", "-ac.backend", "--attention-config.backend")
    return Serving(
        version=version,
        platform=platform,
        tensor_parallel=words.count("--tensor-parallel-size", "-tp") or 1,
        pipeline_parallel=words.count("--pipeline-parallel-size", "-pp") or 1,
        data_parallel=words.count("--data-parallel-size", "-dp") or 1,
        local_copies=_local_copies(words),
        expert_parallel=words.switch("--enable-expert-parallel", "-ep"),
        decode_context_parallel=words.count("--decode-context-parallel-size", "-dcp") or 1,
        hosts=_hosts(words),
        dtype=_dtype(words.text("--dtype")),
        quantization=words.text("--quantization", "-q"),
        kv_cache_dtype=words.text("--kv-cache-dtype") or "auto",
        block_size=words.count("--block-size"),
        max_model_len=length,
        fits_length=fits,
        max_num_seqs=words.count("--max-num-seqs"),
        max_num_batched_tokens=words.count("--max-num-batched-tokens"),
        doubled_batch=words.text("--performance-mode") == "throughput",
        utilization=_share(words),
        eager=_eager(words),
        kv_cache_bytes=_cache_bytes(words, variables, platform),
        blocks=words.count("--num-gpu-blocks-override"),
        prefix_caching=words.choice("--enable-prefix-caching"),
        hybrid_manager=version[:2] >= _WINDOWS_FROM
        and not words.switch("--disable-hybrid-kv-cache-manager"),
        overlapped=_overlapped(words, version, platform),
        attention_backend=backend or variables.get("VLLM_ATTENTION_BACKEND", ""),
        graphs_estimated=variables.get("VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS", "1") != "0",
        variables={key: value for key, value in variables.items() if key.startswith("VLLM_")},
        unmodelled=words.unmodelled() + _packed_cache(words),
    )


@dataclass(frozen=True, slots=True)
class _Words:
    """Arguments by name."""

    argv: tuple[str, ...]

    def given(self, *names: str) -> str | None:
        """Return the value of the last of these arguments, empty for none, `None` when absent."""
        found: str | None = None
        for index, word in enumerate(self.argv):
            key, equals, value = word.partition("=")
            if _canonical(key) not in names:
                continue
            following = self.argv[index + 1] if index + 1 < len(self.argv) else ""
            is_option = following.startswith("-") and _NUMBER.match(following) is None
            found = value if equals else "" if is_option else following
        return found

    def text(self, *names: str) -> str:
        """Return a value, empty when there is none."""
        return self.given(*names) or ""

    def number(self, *names: str) -> int | None:
        """Return a whole number as vLLM reads it: `4096`, `4k` (thousands), `4K` (1024s)."""
        text = self.given(*names)
        if text is None:
            return None
        match = _HUMAN.fullmatch(text.strip())
        if match is not None and (match[2].islower() or "." not in match[1]):
            return int(float(match[1]) * _FACTORS[match[2]])
        try:
            return int(text)
        except ValueError:
            _refuse(names[0], text, "a whole number such as 8192 or 8k")

    def count(self, *names: str) -> int | None:
        """Return a whole number above zero."""
        value = self.number(*names)
        if value is not None and value < 1:
            _refuse(names[0], str(value), "a whole number above zero")
        return value

    def choice(self, name: str) -> bool | None:
        """Return whether a switch was set or unset, `None` for neither."""
        state: bool | None = None
        for word in self.argv:
            key, _, value = word.partition("=")
            if _canonical(key) == name:
                state = value.lower() not in {"false", "0"}
            elif _canonical(key) == name.replace("--", "--no-", 1):
                state = False
        return state

    def switch(self, *names: str) -> bool:
        """Tell whether a switch is set."""
        return any(self.choice(name) for name in names)

    def unmodelled(self) -> tuple[str, ...]:
        """Return a sentence for each argument that no formula covers."""
        keys = dict.fromkeys(_canonical(word.partition("=")[0]) for word in self.argv)
        return tuple(
            f"{key}: {_UNMODELLED[base]}"
            for key in keys
            if (base := key.partition(".")[0]) in _UNMODELLED
        )


def _canonical(key: str) -> str:
    """Write an option with dashes; what follows a dot is a key of JSON and stays as it is."""
    name, dot, rest = key.partition(".")
    return (name.replace("_", "-") if name.startswith("--") else name) + dot + rest


def _refuse(name: str, text: str, wanted: str) -> NoReturn:
    raise TargetError(f"{name}: {text!r} is not {wanted}", advice=f"correct {name}")


def _length(words: _Words) -> tuple[int | None, bool]:
    text = words.given("--max-model-len")
    if text is not None and (text.strip() == "-1" or text.strip().lower() == "auto"):
        return None, True
    return words.count("--max-model-len"), False


def _share(words: _Words) -> float | None:
    names = ("--gpu-memory-utilization", "--device-memory-utilization")
    text = words.given(*names)
    if text is None:
        return None
    try:
        share = float(text)
    except ValueError:
        _refuse(names[0], text, "a number such as 0.9")
    if not 0 < share <= 1:
        _refuse(names[0], text, "above 0 and at most 1")
    return share


def _packed_cache(words: _Words) -> tuple[str, ...]:
    kind = words.text("--kv-cache-dtype")
    packed = kind.startswith(("turboquant", "ultraquant"))
    return (f"--kv-cache-dtype {kind}: reckoned with about 4.5 bits",) if packed else ()


def _dtype(text: str) -> str:
    return {"": "auto", "half": "float16", "float": "float32"}.get(text, text)


def _hosts(words: _Words) -> int:
    """Return on how many hosts the ranks are; 0 when Ray may use any number, or all others do."""
    backends = ("--distributed-executor-backend",), ("--data-parallel-backend", "-dpb")
    if any(words.text(*names) == "ray" for names in backends):
        return 0
    if words.number(*_LOCAL) == 0:
        return 0
    return words.count("--nnodes", "-n") or 1


def _local_copies(words: _Words) -> int | None:
    """Return how many copies start here: one for a server that is told its rank among others."""
    alone = words.given("--data-parallel-rank", "-dpn") is not None
    if alone or words.switch("--data-parallel-external-lb", "-dpe"):
        return 1
    return words.number(*_LOCAL) or None


def _cache_bytes(words: _Words, variables: Mapping[str, str], platform: Platform) -> int | None:
    space = variables.get("VLLM_CPU_KVCACHE_SPACE", "")
    if platform is Platform.CPU and space:
        try:
            return int(space) * GIB
        except ValueError:
            _refuse("VLLM_CPU_KVCACHE_SPACE", space, "a whole number of GiB")
    # On a GPU 0 is the same as not given.
    value = words.number("--kv-cache-memory-bytes")
    return value if platform is Platform.CPU else value or None


def _eager(words: _Words) -> bool:
    """Tell whether no graphs are captured."""
    if words.switch("--enforce-eager"):
        return True
    level = next((word[2:] for word in words.argv if re.fullmatch(r"-O=?\d", word)), "")
    if (level.removeprefix("=") or words.text("--optimization-level", "-O")) == "0":
        return True
    names = ("--compilation-config", "-cc", "-O")
    mode = words.given(*(f"{name}.cudagraph_mode" for name in names))
    if mode is None:
        try:
            config = json.loads(words.text(*names) or "{}")
        except json.JSONDecodeError:
            return False
        mode = config.get("cudagraph_mode") if isinstance(config, dict) else None
    return mode is not None and str(mode).lower() in _OFF


def _overlapped(words: _Words, version: tuple[int, ...], platform: Platform) -> bool:
    if platform is Platform.CPU:
        return False
    asked = words.choice("--async-scheduling")
    return version[:2] >= _OVERLAP_FROM if asked is None else asked
