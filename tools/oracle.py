"""Ask vLLM's own model classes how much memory the weights of a rank take.

Runs in an interpreter that has vLLM, not in ours: `python tools/oracle.py CASES [NAME...]` prints
one JSON object for each case of the file, or for those named. The class is built on PyTorch's meta
device, which allocates nothing, with groups of processes that only know their sizes; so a model of
any size is asked in seconds on any machine. The file holds `models` (name: config.json) and
`cases`:

    {"name": ..., "model": ..., "change": {...}, "tp": 1, "pp": 1, "stage": 0, "dp": 1, "ep": false,
     "dtype": "auto", "quantization": null, "variables": {}, "detail": false}

`change` is laid over the config of the model. The platform is vLLM's own ROCm platform over a
stand-in of `amdsmi` that shows MI300X; with `--cpu` it is that of the installed wheel. `--raise`
shows the traceback of a case that fails; `--record` writes `record.json` beside the cases, which
the tests of the closed forms compare with.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import logging
import os
import re
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

_GIB = 2**30


class _Group:
    """A group of processes of which only the sizes are real."""

    def __init__(self, size: int, rank: int = 0, name: str = "group") -> None:
        import torch  # noqa: PLC0415 - only the interpreter of vLLM has it

        self.world_size = size
        self.rank = self.rank_in_group = self.local_rank = rank
        self.ranks = list(range(size))
        self.device = torch.device("cpu")
        self.device_group = types.SimpleNamespace(size=lambda: size, rank=lambda: rank)
        self.cpu_group = self.device_group
        self.unique_name = name
        self.is_first_rank, self.is_last_rank = rank == 0, rank == size - 1
        self.first_rank, self.last_rank = 0, size - 1
        self.next_rank, self.prev_rank = (rank + 1) % size, (rank - 1) % size
        self.device_communicator = self.mq_broadcaster = self.tcp_store_group = None
        self.use_device_communicator = False

    def __getattr__(self, _name: str) -> Any:
        return lambda *words, **_rest: words[0] if words else None


def main(words: list[str]) -> int:
    """Answer the cases of a file, one line each; a case that fails says why."""
    document = json.loads(Path(words[0]).read_text(encoding="utf-8"))
    wanted = {word for word in words[1:] if not word.startswith("--")}
    failed = False
    answers: dict[str, Any] = {}
    for case in document["cases"]:
        if wanted and case["name"] not in wanted:
            continue
        with contextlib.redirect_stdout(sys.stderr):
            try:
                config = _laid_over(document["models"][case["model"]], case.get("change", {}))
                answer = ask({**case, "config": config})
            except Exception as error:
                if "--raise" in words:
                    raise
                failed, answer = True, {"error": f"{type(error).__name__}: {error}"[:600]}
        print(json.dumps({"name": case["name"], **answer}), flush=True)
        answers[case["name"]] = answer
    if "--record" in words and not failed:
        _record(answers, Path(words[0]).with_name("record.json"))
    return int(failed)


def _record(answers: dict[str, Any], path: Path) -> None:
    """Write the answers down beside the cases."""
    from vllm import __version__  # noqa: PLC0415 - only the interpreter of vLLM has it

    kept = {
        name: {key: answer[key] for key in ("bytes", "rope", "by_dtype")}
        for name, answer in answers.items()
    }
    about = "what vLLM's model classes allocate; written by tools/oracle.py cases.json --record"
    document = {
        "about": about,
        "version": __version__,
        "platform": "rocm gfx942",
        "answers": kept,
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _laid_over(config: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Return a config with some values changed, also inside its parts."""
    result = dict(config)
    for key, value in change.items():
        inner = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _laid_over(result[key], value) if inner else value
    return result


def ask(case: dict[str, Any]) -> dict[str, Any]:
    """Return bytes of the parameters and of the buffers of one rank."""
    from vllm import __version__  # noqa: PLC0415 - see above

    os.environ.update({str(key): str(value) for key, value in case.get("variables", {}).items()})
    try:
        model = _build(case)
    finally:
        for key in case.get("variables", {}):
            os.environ.pop(key, None)
    seen: dict[int, tuple[str, Any]] = {id(item): (name, item) for name, item in _parameters(model)}
    kinds: dict[str, int] = {}
    for _, item in seen.values():
        kind = str(item.dtype).removeprefix("torch.")
        kinds[kind] = kinds.get(kind, 0) + item.numel() * item.element_size()
    buffers = {name: item.numel() * item.element_size() for name, item in model.named_buffers()}
    rope = sum(size for name, size in buffers.items() if name.endswith("cos_sin_cache"))
    answer: dict[str, Any] = {
        "version": __version__,
        "bytes": sum(kinds.values()),
        "by_dtype": kinds,
        "rope": rope,
        "buffers": sum(buffers.values()),
    }
    if case.get("detail"):
        answer["parameters"] = {
            name: [list(item.shape), str(item.dtype).removeprefix("torch.")]
            for name, item in seen.values()
        }
        answer["buffer_names"] = buffers
    return answer


def _parameters(model: Any) -> Any:
    """Yield the parameters; names that share one tensor (tied embeddings) come once."""
    known: set[int] = set()
    for name, item in model.named_parameters():
        if id(item) not in known:
            known.add(id(item))
            yield name, item


def _build(case: dict[str, Any]) -> Any:
    import torch  # noqa: PLC0415 - see above
    from vllm.config import set_current_vllm_config  # noqa: PLC0415
    from vllm.engine.arg_utils import EngineArgs  # noqa: PLC0415
    from vllm.model_executor.layers import rotary_embedding  # noqa: PLC0415
    from vllm.model_executor.model_loader.utils import initialize_model  # noqa: PLC0415
    from vllm.utils.torch_utils import set_default_torch_dtype  # noqa: PLC0415

    rotary_embedding._ROPE_DICT.clear()  # noqa: SLF001 - one table per case, as in a server
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(case["config"]), encoding="utf-8")
        config = EngineArgs(
            model=folder,
            skip_tokenizer_init=True,
            load_format="dummy",
            enforce_eager=True,
            dtype=case.get("dtype", "auto"),
            quantization=case.get("quantization"),
            max_model_len=case.get("max_model_len"),
            disable_log_stats=True,
            limit_mm_per_prompt=case.get("limit_mm_per_prompt", {}),
        ).create_engine_config()
        _spread(config.parallel_config, case)
        with (
            set_default_torch_dtype(config.model_config.dtype),
            torch.device("meta"),
            set_current_vllm_config(config),
            _on_meta(),
        ):
            return initialize_model(config)


@contextlib.contextmanager
def _on_meta() -> Any:
    """Have what names the platform's device get the meta device, too."""
    from vllm.platforms import current_platform  # noqa: PLC0415 - see above

    kept, type(current_platform).device_type = current_platform.device_type, "meta"
    try:
        yield
    finally:
        type(current_platform).device_type = kept


def _spread(parallel: Any, case: dict[str, Any]) -> None:
    """Tell vLLM the sizes of its groups without starting any process."""
    from vllm.distributed import parallel_state as state  # noqa: PLC0415 - see above

    tp, pp, dp = (int(case.get(key, 1)) for key in ("tp", "pp", "dp"))
    parallel.tensor_parallel_size, parallel.pipeline_parallel_size = tp, pp
    parallel.data_parallel_size, parallel.world_size = dp, tp * pp
    parallel.enable_expert_parallel = bool(case.get("ep"))
    groups = {
        "_TP": _Group(tp),
        "_PP": _Group(pp, int(case.get("stage", 0))),
        "_DP": _Group(dp),
        "_EP": _Group(tp * dp),
        "_DCP": _Group(1),
        "_PCP": _Group(1),
        "_WORLD": _Group(tp * pp),
        "_ETP": _Group(tp),
        "_EPLB": _Group(1),
        "_ENGRAM_DP": _Group(1),
    }
    for name, group in groups.items():
        if hasattr(state, name):
            setattr(state, name, group)


def prepare(*, rocm: bool, gfx: str = "gfx942") -> None:
    """Make the process one that vLLM's model classes can be built in."""
    os.environ.update(
        HF_HUB_OFFLINE="1",
        VLLM_LOGGING_LEVEL="ERROR",
        VLLM_CPU_KVCACHE_SPACE="1",
        VLLM_NO_USAGE_STATS="1",
    )
    if "--raise" not in sys.argv:
        logging.disable(logging.WARNING)
    if rocm:
        sys.modules["amdsmi"] = _stand_in(gfx)
    import torch  # noqa: PLC0415 - see above
    import torch.fx.experimental._config as symbolic  # noqa: PLC0415
    import vllm.platforms  # noqa: PLC0415

    symbolic.meta_nonzero_assume_all_nonzero = True
    if rocm:
        from vllm.platforms.rocm import RocmPlatform  # noqa: PLC0415

        RocmPlatform.num_compute_units = staticmethod(lambda *_words: 304)
        RocmPlatform.current_device = staticmethod(lambda: "meta")
        RocmPlatform.get_mla_prefill_backend_cls = staticmethod(lambda *_words: _Kernel)
        vllm.platforms._current_platform = RocmPlatform()  # noqa: SLF001 - the choice is the case's
    from vllm.triton_utils import importing  # noqa: PLC0415

    # Modules of kernels name types of Triton when they are imported; nothing here runs a kernel.
    importing.TritonLanguagePlaceholder.__getattr__ = _absent
    importing.TritonPlaceholder.__getattr__ = _absent
    from transformers.utils import import_utils  # noqa: PLC0415
    from vllm.model_executor.layers.fused_moe import expert_map_manager  # noqa: PLC0415
    from vllm.model_executor.layers.fused_moe.experts import (  # noqa: PLC0415
        gpt_oss_triton_kernels_moe as mxfp4,
    )
    from vllm.model_executor.models import registry  # noqa: PLC0415
    from vllm.utils import torch_utils  # noqa: PLC0415
    from vllm.v1.worker import workspace  # noqa: PLC0415

    # A subprocess would look at the class without our stand-ins.
    registry._run_in_subprocess = lambda look: look()  # noqa: SLF001
    map_of = expert_map_manager.determine_expert_map

    def on_host(*words: Any, **rest: Any) -> Any:
        # It reads the values of the map, which the meta device does not have.
        with torch.device("cpu"):
            return map_of(*words, **rest)

    expert_map_manager.determine_expert_map = on_host
    # The kernels that an image for ROCm has: they decide the padding of MXFP4.
    mxfp4.has_triton_kernels = mxfp4._triton_kernel_moe_supports_current_device = lambda: True  # noqa: SLF001
    torch_utils._aux_stream = types.SimpleNamespace()  # noqa: SLF001 - there is no device to make one
    torch.cuda.Event = _Kernel
    torch.accelerator.empty_cache = lambda: None
    workspace.init_workspace_manager(torch.device("meta"))
    operators = torch._ops._OpNamespace  # noqa: SLF001 - those of a wheel for GPUs
    _forgive(operators, AttributeError, r"_quant$|^relu_squared$|^fused_qk_norm_rope$")
    _forgive(import_utils._LazyModule, ModuleNotFoundError)  # noqa: SLF001 - processors of images
    if importlib.util.find_spec("torchvision") is None:
        sys.meta_path.append(_Missing("torchvision"))


class _Kernel:
    """An attention kernel of a GPU: it has no weights."""

    def __init__(self, *_words: Any, **_rest: Any) -> None: ...

    def __getattr__(self, _name: str) -> Any:
        return lambda *_words, **_rest: None

    @staticmethod
    def get_name() -> str:
        """Name it for the log."""
        return "none"


class _Missing(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands in for what only the processing of images needs, where it is not installed."""

    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(self, name: str, *_words: Any) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] != self._package:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda name: _absent(module, name)  # type: ignore[method-assign]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing to run."""


def _forgive(kind: Any, error: type[Exception], names: str = "") -> None:
    """Have a kind of module give a stand-in for what it lacks: named while building, not called.

    Args:
        kind: The kind.
        error: What it raises for a name that it lacks.
        names: Pattern of the names, all without one; whether others exist decides what is built.
    """
    look = kind.__getattr__

    def get(module: Any, name: str) -> Any:
        try:
            return look(module, name)
        except error:
            if not re.search(names, name):
                raise
            return _absent(module, name)

    kind.__getattr__ = get


def _absent(_module: Any, name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {"default": None})


def _stand_in(gfx: str) -> types.ModuleType:
    """Return what vLLM's ROCm platform asks of `amdsmi`: eight MI300X."""
    smi = types.ModuleType("amdsmi")
    smi.__spec__ = importlib.machinery.ModuleSpec("amdsmi", None)
    names: dict[str, Any] = {
        "AmdSmiException": Exception,
        "AmdSmiMemoryType": types.SimpleNamespace(VRAM=0),
        "amdsmi_get_gpu_asic_info": lambda _gpu: {
            "target_graphics_version": gfx,
            "device_id": "0x74a1",
            "market_name": "AMD Instinct MI300X",
        },
        "amdsmi_get_gpu_device_uuid": lambda _gpu: "0",
        "amdsmi_get_gpu_memory_total": lambda _gpu, _kind: 192 * _GIB - 2**24,
        "amdsmi_get_processor_handles": lambda: list(range(8)),
        "amdsmi_init": lambda *_words: None,
        "amdsmi_shut_down": lambda: None,
        "amdsmi_topo_get_link_type": lambda _one, _other: {"hops": 1, "type": 2},
        "amdsmi_topo_get_numa_node_number": lambda _gpu: 0,
    }
    for name, value in names.items():
        setattr(smi, name, value)
    return smi


if __name__ == "__main__":
    prepare(rocm="--cpu" not in sys.argv)
    raise SystemExit(main([word for word in sys.argv[1:] if word != "--cpu"]))
