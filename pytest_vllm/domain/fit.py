"""Will it fit? What a launch would do with the memory of its devices, before it is tried."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from pytest_vllm.domain.memory.weights import Basis, RankWeights, Tensor

if TYPE_CHECKING:
    from pytest_vllm.domain.memory.kv import KvLayout
    from pytest_vllm.domain.memory.serving import Serving
    from pytest_vllm.domain.memory.shape import ModelShape, UnknownShape


class Fit(StrEnum):
    """The answer."""

    FITS = "FITS"
    MARGINAL = "MARGINAL"
    """The estimated parts (activation, graphs, context) decide it."""
    DOES_NOT_FIT = "DOES_NOT_FIT"


class Gate(StrEnum):
    """Where a launch ends that does not fit, in vLLM's order."""

    INVALID = "invalid"
    """The arguments contradict the model: heads that do not divide, more ranks than devices."""
    STARTUP = "start-up check"
    WEIGHTS = "weights"
    BLOCKS = "cache blocks"
    LENGTH = "max length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One GPU as HIP or CUDA would show it (a die of an MI250 is one).

    Attributes:
        name: Product name.
        gfx: Instruction set such as `gfx942`, empty for other vendors or when unknown.
        total_bytes: What the driver reports, a little less than what is marketed.
        free_bytes: What is free before the launch.
        bdf: PCI address, empty for a device of the table.
        render_node: Path of its render node, empty when unknown.
    """

    name: str
    gfx: str = ""
    total_bytes: int
    free_bytes: int
    bdf: str = ""
    render_node: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMemory:
    """What is known of a model's memory.

    Attributes:
        name: As the user named it.
        shape: Its layers, or why they are not known.
        tensors: Tensors of the checkpoint that vLLM loads, empty when no header was read.
        files_bytes: Size of all weight files, or of what the shipped table says; `None` if unknown.
        source: Where it was read: `folder`, `Hub cache`, `config.json`, `shipped table`, `Hub`.
        notes: What a reader should know of that: files that are missing, what stood in for them.
    """

    name: str
    shape: ModelShape | UnknownShape
    tensors: tuple[Tensor, ...] = ()
    files_bytes: int | None = None
    source: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One step of the waterfall of a rank.

    Attributes:
        name: `in use` (by others), `weights`, `rope`, `MLA copies`, `padding`, `context`,
            `activation`, `graphs`, `KV cache`, `margin`.
        bytes: Its size.
        estimated: Whether it is an estimate; else it follows from the model.
    """

    name: str
    bytes: int
    estimated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """Something that would fit, as an option to paste.

    Attributes:
        kind: `utilization`, `kv-cache`, `tensor-parallel`, `max-model-len`, `quantization` or
            `gpus`.
        text: For a person, with the figures.
        argument: The argument of vLLM, empty when it is none.
    """

    kind: str
    text: str
    argument: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a launch will make of the memory. The figures of a rank are those of the tightest one.

    Attributes:
        verdict: The answer.
        gate: Where it would end, `None` when it fits.
        reason: One line with the numbers.
        model: As the user named it.
        devices: The devices of the ranks.
        serving: What was reckoned with.
        weights: What each pipeline stage loads; empty when nothing is known of it.
        utilization: Share that vLLM would take.
        requested_bytes: What that is of the device.
        parts: The waterfall of the tightest rank; adds up to its device and what is missing.
        missing_bytes: By how much the parts exceed the device, 0 when they do not.
        layout: How the KV cache is laid out, `None` for a model that no formula describes.
        kv_bytes: Room for the KV cache of a rank; 0 when nothing is left.
        need_bytes: What one request of full length needs of it.
        blocks: Its blocks.
        kv_tokens: Its tokens, as this version of vLLM counts them.
        max_concurrency: Requests of full length that it holds.
        max_model_len: Tokens of a request that was reckoned with.
        utilization_max: Largest share that can pass the start-up check.
        utilization_safe: Largest share with which it fits, `None` when it fits with none.
        suggestions: What would fit.
        notes: What a reader should know: assumptions, what is not covered.
    """

    verdict: Fit
    gate: Gate | None = None
    reason: str = ""
    model: str
    devices: tuple[Device, ...]
    serving: Serving
    weights: tuple[RankWeights, ...] = ()
    utilization: float = 0.0
    requested_bytes: int = 0
    parts: tuple[Part, ...] = ()
    missing_bytes: int = 0
    layout: KvLayout | None = None
    kv_bytes: int = 0
    need_bytes: int = 0
    blocks: int = 0
    kv_tokens: int = 0
    max_concurrency: float = 0.0
    max_model_len: int = 0
    utilization_max: float = 0.0
    utilization_safe: float | None = None
    suggestions: tuple[Suggestion, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def basis(self) -> Basis:
        """What the weights rest on."""
        order = list(Basis)
        return max((rank.basis for rank in self.weights), key=order.index, default=Basis.FILES)


def forecast(model: ModelMemory, devices: tuple[Device, ...], serving: Serving) -> Forecast:
    """Foresee what a launch makes of the memory.

    Args:
        model: What is known of the model.
        devices: Devices in the order of the ranks; more than are needed are left alone.
        serving: How the server is started.

    Returns:
        The forecast. It never raises: what cannot be started is one with gate `INVALID`.
    """
    # The parts of the forecast are defined here and the reckoning uses them.
    from pytest_vllm.domain.memory.suggestions import foresee  # noqa: PLC0415

    return foresee(model, devices, serving)
