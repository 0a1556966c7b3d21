"""Names of quantization methods and who takes them, as vLLM 0.32 has them.

Sources: `model_executor/layers/quantization/__init__.py`, `platforms/rocm.py` (0.32.0), and the
table of GPUs in the ROCm documentation.
"""

from __future__ import annotations

LISTED_VERSION = (0, 32, 0)
"""Version of vLLM that the lists were read from."""

METHODS = frozenset(
    {
        *("awq", "auto_awq", "awq_marlin", "gptq", "auto_gptq", "gptq_marlin", "fp8", "fbgemm_fp8"),
        *("fp_quant", "modelopt", "modelopt_fp4", "modelopt_mxfp8", "modelopt_mixed", "humming"),
        *("compressed-tensors", "experts_int8", "quark", "moe_wna16", "torchao", "inc", "mxfp4"),
        *("gpt_oss_mxfp4", "deepseek_v4_fp8", "online", "fp8_per_tensor", "fp8_per_block"),
        *("fp8_per_channel", "int8_per_channel_weight_only", "nvfp4_per_token", "mxfp8"),
        *("auto-round", "intel/auto-round"),  # taken over by `inc`
    }
)

DEPRECATED = frozenset({"fbgemm_fp8", "fp_quant"})
"""Methods that vLLM refuses unless `--allow-deprecated-quantization` is given."""

OLDER_METHODS = frozenset(
    {
        *("bitsandbytes", "gguf", "aqlm", "marlin", "tpu_int8", "deepspeedfp", "gptq_marlin_24"),
        *("gptq_bitblas", "bitblas", "hqq", "qqq", "ipex", "rtn", "petit_nvfp4", "squeezellm"),
        *("ptpc_fp8", "neuron_quant", "cpu_awq", "cpu_gptq", "fp6"),
    }
)
"""Methods that earlier versions knew."""

ON_ROCM = frozenset(
    {
        *("awq", "auto_awq", "awq_marlin", "gptq", "auto_gptq", "fp8", "deepseek_v4_fp8", "inc"),
        *("compressed-tensors", "fbgemm_fp8", "quark", "mxfp4", "mxfp8", "torchao", "modelopt"),
        *("modelopt_fp4", "modelopt_mxfp8", "modelopt_mixed", "fp8_per_tensor", "fp8_per_block"),
        *("fp8_per_channel", "online", "gpt_oss_mxfp4", "auto-round", "intel/auto-round"),
    }
)

FP8 = frozenset(
    {
        *("fp8", "fbgemm_fp8", "deepseek_v4_fp8", "fp8_per_tensor", "fp8_per_block"),
        *("fp8_per_channel", "ptpc_fp8"),
    }
)
"""Methods whose weights are 8-bit floats whatever else the config says."""

_FAMILIES = (
    frozenset({"awq", "auto_awq", "awq_marlin"}),
    frozenset({"gptq", "auto_gptq", "gptq_marlin"}),
    frozenset({"fp8"}),
    frozenset({"compressed-tensors"}),
    frozenset({"quark"}),
    frozenset({"mxfp4", "gpt_oss_mxfp4"}),
)

_NO_FP8 = {"gfx908": "MI100", "gfx90a": "MI200"}
_RDNA3 = ("gfx110", "gfx115")


def disagree(stored: str, asked: str) -> bool:
    """Tell whether `--quantization` certainly contradicts what the weights are stored in.

    Methods that convert others (`moe_wna16`, `humming`) and those that are not known well enough
    are given the benefit of the doubt.
    """
    families = [next((f for f in _FAMILIES if name in f), None) for name in (stored, asked)]
    return None not in families and families[0] != families[1]


def lacks_fp8(gfx: str) -> str:
    """Return the GPUs' name when an instruction set has no 8-bit floats at all, else nothing.

    vLLM 0.32 believes that every CDNA has them and dies late, in Triton
    (https://github.com/vllm-project/vllm/issues/16394).
    """
    return _NO_FP8.get(gfx, "")


def doubtful_fp8(gfx: str) -> bool:
    """Tell whether an instruction set emulates 8-bit floats at best (RDNA 3)."""
    return gfx.startswith(_RDNA3)
