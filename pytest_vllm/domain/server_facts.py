"""What a server says about itself in its log: the figures of a start.

The wordings are those of vLLM 0.6 to 0.32 (memory.md, section 2). A GB of the oldest is 2^30 bytes,
too. What several workers say is taken once: the largest weights, graphs and peaks, the smallest
KV cache, since the tightest GPU decides.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from pytest_vllm.domain.phases import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """Figures out of the log; `None` and empty texts stand for what it does not say.

    Sizes are GiB of one GPU, times seconds.

    Attributes:
        version: Version of vLLM.
        model: What it was told to load.
        architecture: Class of the model, such as `LlamaForCausalLM`.
        dtype: Type of the weights as computed with, such as `bfloat16`.
        quantization: Method, `none` when the log says that there is none.
        kv_cache_dtype: Type of the KV cache; `auto` is the type of the weights.
        device: Kind of device: `cuda` (also on ROCm), `cpu`, ...
        attention_backend: Such as `ROCM_AITER_FA`.
        enforce_eager: Whether graphs were switched off.
        max_model_len: Tokens of a request, prompt and answer.
        tensor_parallel: GPUs over which a layer is split.
        pipeline_parallel: Groups of layers.
        data_parallel: Copies of the model.
        checkpoint_gib: Size of the checkpoint on disk, all of it.
        weights_gib: Weights.
        download_s: Time for fetching the weights.
        weights_s: Time for reading the weights.
        load_s: Time for loading the model, reading included.
        gpu_total_gib: Memory of the GPU.
        gpu_free_gib: What was free of it at the start.
        utilization: Share of the memory that the server may take.
        peak_activation_gib: Most that a forward pass took.
        non_torch_gib: Taken outside PyTorch's allocator.
        graph_gib: Graphs.
        graph_s: Time for capturing them.
        kv_cache_gib: Room for the KV cache.
        kv_blocks: Its blocks.
        kv_tokens: Its tokens.
        max_concurrency: Requests of full length that it holds.
        compile_s: Time in torch.compile.
        init_s: Time for profiling, KV cache and warm-up together.
        aiter_modules: Modules that AITER had to build.
        aiter_s: Time for building them, summed up.
    """

    version: str = ""
    model: str = ""
    architecture: str = ""
    dtype: str = ""
    quantization: str = ""
    kv_cache_dtype: str = ""
    device: str = ""
    attention_backend: str = ""
    enforce_eager: bool | None = None
    max_model_len: int | None = None
    tensor_parallel: int | None = None
    pipeline_parallel: int | None = None
    data_parallel: int | None = None
    checkpoint_gib: float | None = None
    weights_gib: float | None = None
    download_s: float | None = None
    weights_s: float | None = None
    load_s: float | None = None
    gpu_total_gib: float | None = None
    gpu_free_gib: float | None = None
    utilization: float | None = None
    peak_activation_gib: float | None = None
    non_torch_gib: float | None = None
    graph_gib: float | None = None
    graph_s: float | None = None
    kv_cache_gib: float | None = None
    kv_blocks: int | None = None
    kv_tokens: int | None = None
    max_concurrency: float | None = None
    compile_s: float | None = None
    init_s: float | None = None
    aiter_modules: int | None = None
    aiter_s: float | None = None


_LONGEST = 8_000
_N = r"(\d+(?:\.\d+)?)"
_WHOLE = r"(\d[\d,]*)"
# A text that the line holds, what it must match, and the field of each group.
_LINES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (" version ", r"(?:█|vLLM API server)\s+version (\S+)", ("version",)),
    ("LLM engine (v", r"Initializing an? (?:V\d )?LLM engine \(v([^)]+)\)", ("version",)),
    ("Resolved architecture: ", r"Resolved architecture: (\w+)", ("architecture",)),
    ("Using max model len ", r"Using max model len (\d+)", ("max_model_len",)),
    ("Checkpoint size: ", rf"Checkpoint size: {_N} GiB", ("checkpoint_gib",)),
    ("Time spent downloading", rf"downloading weights for .*: {_N} seconds", ("download_s",)),
    ("Loading weights took", rf"Loading weights took {_N} seconds", ("weights_s",)),
    (
        "Model loading took",
        rf"Model loading took {_N} GiB(?: memory)? and {_N} seconds",
        ("weights_gib", "load_s"),
    ),
    (
        "Loading model weights took",
        rf"Loading model weights took {_N} G(?:i)?B(?: and {_N} seconds)?",
        ("weights_gib", "load_s"),
    ),
    ("Available KV cache", rf"Available KV cache memory: {_N} GiB", ("kv_cache_gib",)),
    ("KV Cache is ", rf"reserved for KV Cache is {_N} ?GiB", ("kv_cache_gib",)),
    ("kv_cache_size=", rf"kv_cache_size={_N}GiB", ("kv_cache_gib",)),
    ("GiB for KV cache on", rf"set \({_N}/[\d.]+\) GiB for KV cache", ("kv_cache_gib",)),
    ("KV cache size: ", rf"KV cache size: {_WHOLE} tokens", ("kv_tokens",)),
    ("Maximum concurrency for", rf"tokens per request: {_N}x", ("max_concurrency",)),
    (" blocks: ", r"# (?:GPU|cuda|CUDA|rocm|hip) blocks: (\d+)", ("kv_blocks",)),
    ("num_gpu_blocks is", r"num_gpu_blocks is: (\d+)", ("kv_blocks",)),
    (
        "Graph capturing finished",
        rf"Graph capturing finished in {_N} secs?(?:, took {_N} GiB)?",
        ("graph_s", "graph_gib"),
    ),
    (
        "Free memory on device",
        rf"\({_N}/{_N} GiB\) on startup\. Desired GPU memory utilization is \({_N},",
        ("gpu_free_gib", "gpu_total_gib", "utilization"),
    ),
    ("peak activation", rf"{_N} GiB for peak activation", ("peak_activation_gib",)),
    ("activation peak memory", rf"activation peak memory takes {_N}GiB", ("peak_activation_gib",)),
    ("non-torch memory", rf"{_N} GiB for non-torch memory", ("non_torch_gib",)),
    ("non_torch_memory", rf"non_torch_memory(?: takes |=){_N}GiB", ("non_torch_gib",)),
    ("torch.compile t", rf"torch\.compile t(?:ook|akes) {_N} s", ("compile_s",)),
    (
        "init engine (",
        rf"init engine \(.*\) took {_N} s(?:econds)?(?: \(compilation: {_N} s)?",
        ("init_s", "compile_s"),
    ),
    ("reduced from ", r"Auto-fit max_model_len: reduced from \d+ to (\d+)", ("max_model_len",)),
)
_COMPILED = tuple((needle, re.compile(regex), names) for needle, regex, names in _LINES)
_BACKEND = re.compile(
    r"Using (?:AttentionBackendEnum\.)?(?P<name>[A-Za-z][\w ]*?)(?: attention)? backend"
    r"(?: out of potential backends| \(selected via| on V\d engine|\.|$)"
)
_NO_ATTENTION = re.compile(r"MoE|prefill|vit\b|ViT|sampling|Unquantized|GEMM|[Ll]inear|default")
# vLLM writes its configuration as NAME=VALUE, some of the names twice: the first counts.
_ENGINE: tuple[tuple[str, str, Callable[[str], Any]], ...] = (
    ("model", "model", str),
    ("dtype", "dtype", str),
    ("max_seq_len", "max_model_len", int),
    ("quantization", "quantization", str),
    ("kv_cache_dtype", "kv_cache_dtype", str),
    ("device_config", "device", str),
    ("enforce_eager", "enforce_eager", lambda text: text == "True"),
    ("tensor_parallel_size", "tensor_parallel", int),
    ("pipeline_parallel_size", "pipeline_parallel", int),
    ("data_parallel_size", "data_parallel", int),
)
_AITER = re.compile(r"finish build \[(?P<module>[^\]]+)\], cost (?P<seconds>[\d.]+)s")
_SMALLEST = ("kv_cache_gib", "kv_tokens", "kv_blocks", "max_concurrency")
_TYPES: dict[str, Callable[[str], Any]] = {
    "int | None": lambda text: int(text.replace(",", "")),
    "float | None": float,
    "str": str,
}
_FIELDS = {field.name: _TYPES.get(str(field.type), str) for field in fields(ServerFacts)}


class FactsReader:
    """Collects the figures line by line.

    Attributes:
        facts: What was said so far.
    """

    def __init__(self) -> None:
        self.facts = ServerFacts()
        self._modules: dict[str, float] = {}

    def feed(self, line: str) -> None:
        """Read one line of the log; one that says nothing costs about a microsecond."""
        text = clean(line[:_LONGEST])
        for needle, pattern, names in _COMPILED:
            if needle in text and (match := pattern.search(text)):
                for name, value in zip(names, match.groups(), strict=True):
                    self._note(name, _read(_FIELDS[name], value))
        if " backend" in text and not self.facts.attention_backend:
            self._read_backend(text)
        if "LLM engine (v" in text:
            self._read_engine(text)
        elif "non-default args: {" in text:
            self._read_args(text)
        elif "finish build [" in text:
            self._read_build(text)

    def _note(self, name: str, value: Any) -> None:
        if value is None:
            return
        old = getattr(self.facts, name)
        if old is not None and isinstance(value, float | int) and name != "max_model_len":
            value = min(old, value) if name in _SMALLEST else max(old, value)
        self.facts = replace(self.facts, **{name: value})

    def _read_backend(self, text: str) -> None:
        match = _BACKEND.search(text)
        if match and not _NO_ATTENTION.search(match["name"]):
            self.facts = replace(self.facts, attention_backend=match["name"])

    def _read_engine(self, text: str) -> None:
        said: dict[str, Any] = {}
        for key, name, read in _ENGINE:
            match = re.search(rf"\b{key}=(?:'([^']*)'|([^,\s)]+))", text)
            if match:
                value = _read(read, (match[1] or match[2] or "").removeprefix("torch."))
                said |= {name: value} if value is not None else {}
        if said.get("quantization") == "None":
            said["quantization"] = "none"
        self.facts = replace(self.facts, **said)

    def _read_args(self, text: str) -> None:
        """Take the model out of the arguments; the engine, which says more, speaks later."""
        try:
            said = ast.literal_eval(text.partition("non-default args: ")[2])
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return  # cut short, or with objects in it
        model = said.get("model") or said.get("model_tag") if isinstance(said, dict) else None
        if isinstance(model, str):
            self.facts = replace(self.facts, model=model)

    def _read_build(self, text: str) -> None:
        if match := _AITER.search(text):
            self._modules[match["module"]] = float(match["seconds"])
            self.facts = replace(
                self.facts,
                aiter_modules=len(self._modules),
                aiter_s=round(sum(self._modules.values()), 3),
            )


def _read(kind: Callable[[str], Any], text: str | None) -> Any:
    """Read a value; `None` for one that is absent, or too odd to be one."""
    try:
        return None if text is None else kind(text)
    except ValueError:
        return None


def read_facts(lines: Iterable[str]) -> ServerFacts:
    """Return what a whole log says."""
    reader = FactsReader()
    for line in lines:
        reader.feed(line)
    return reader.facts
