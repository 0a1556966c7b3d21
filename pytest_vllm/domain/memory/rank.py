"""One rank against the gates of vLLM, in the order in which it meets them.

Sources: `request_memory` (`v1/worker/utils.py`), `determine_available_memory`
(`v1/worker/gpu_worker.py`) and `get_kv_cache_configs` (`v1/core/kv_cache_utils.py`) of vLLM 0.32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_vllm.domain.fit import Fit, Gate
from pytest_vllm.domain.memory import GIB
from pytest_vllm.domain.memory.gates import Finding
from pytest_vllm.domain.memory.kv import need_blocks
from pytest_vllm.domain.memory.serving import Platform
from pytest_vllm.domain.memory.weights import Basis
from pytest_vllm.domain.utilization import default_utilization, safe_utilization

if TYPE_CHECKING:
    from pytest_vllm.domain.fit import Device
    from pytest_vllm.domain.memory.kv import KvLayout
    from pytest_vllm.domain.memory.overhead import Overhead
    from pytest_vllm.domain.memory.serving import Serving
    from pytest_vllm.domain.memory.weights import RankWeights

_CHECKED_FROM = (0, 9, 1)
"""The start-up check came with commit 2d8476e46 (#18974) in 0.9.1."""
_UNSURE_SHARE = 0.02
_FORMULA_ERROR = 100
_FORMULA_FLOOR = GIB // 10
_FILES_ERROR = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """One rank and what it has to hold.

    Attributes:
        device: Its device.
        weights: What it loads.
        layout: Its cache, `None` for a model that no formula describes.
        overhead: Estimates of the rest.
        serving: How the server is started.
        utilization: Share of the device that is asked for.
        length: Longest request in tokens, 0 when nothing says how long.
        in_flight: Tokens that are scheduled but not settled.
    """

    device: Device
    weights: RankWeights
    layout: KvLayout | None
    overhead: Overhead
    serving: Serving
    utilization: float
    length: int
    in_flight: int

    @property
    def requested(self) -> int:
        """What is asked of the device. Before 0.10 it was not rounded up, which is one byte."""
        return math.ceil(self.device.total_bytes * self.utilization)

    @property
    def kv_bytes(self) -> int:
        """Room for the cache, negative when the rest takes more than was asked for."""
        if self.serving.blocks is not None and self.layout is not None:
            return self.serving.blocks * self.layout.bytes_per_block
        if self.serving.kv_cache_bytes is not None:
            return self.serving.kv_cache_bytes
        return self.requested - self.weights.total_bytes - self._taken

    @property
    def blocks(self) -> int:
        """Blocks of the cache."""
        if self.layout is None or not self.layout.bytes_per_block:
            return 0
        return max(self.kv_bytes, 0) // self.layout.bytes_per_block

    @property
    def unsure(self) -> int:
        """By how many bytes the estimates may be too low: so much must be to spare."""
        return int(_UNSURE_SHARE * self.device.total_bytes) + self.overhead.activation

    @property
    def hopeless(self) -> int:
        """How many bytes must be missing before it is sure: estimates may be much too high."""
        return max(self.unsure, self._taken * 3 // 4)

    @property
    def fixed(self) -> bool:
        """Whether the size of the cache was named, so that no estimate decides it."""
        in_blocks = self.serving.blocks is not None and self.layout is not None
        return self.serving.kv_cache_bytes is not None or in_blocks

    def need(self, length: int) -> int:
        """Return what one request of a length needs of the cache."""
        if self.layout is None or not length:
            return 0
        return need_blocks(self.layout, length, self.in_flight) * self.layout.bytes_per_block

    @property
    def kept_free(self) -> int:
        """What must be left at the start-up check for it to pass surely.

        On CUDA what is taken before it is measured. On AMD the whole estimate may be taken by then
        (memory.md 1.5), but no more than half of what the default share leaves of an idle device:
        vLLM starts on small ones, too.
        """
        over = self.overhead
        if self.serving.platform is not Platform.ROCM:
            return over.before
        left = self.device.total_bytes * (1 - default_utilization(self.serving.version))
        return max(over.before, min(over.before + over.context, int(left / 2)))

    @property
    def largest_cache(self) -> int:
        """The most that a named cache may have without its being for the estimates to decide."""
        over = self.overhead
        used = over.before + over.context + over.activation + over.graphs
        return self.device.free_bytes - used - self.weights.total_bytes - self.unsure

    @property
    def safe_share(self) -> float:
        """The largest share, to two digits, that surely leaves enough at the start-up check."""
        free, total, over = self.device.free_bytes, self.device.total_bytes, self.overhead
        least = self.kept_free
        if not over.graphs_counted and not self.fixed:
            least = max(least, over.before + over.graphs)
        below = safe_utilization(max(free - over.before, 0), total)
        return min(below, math.floor(100 * max(free - least, 0) / total) / 100)

    def judge(self) -> Finding:
        """Return what the first gate that objects says, else the narrowest one.

        A launch that surely fails, fails at the first gate where more is missing than not.
        """
        findings = [self._startup(), self._weights(), self._room(), self._blocks(), self._length()]
        worst = min(findings, key=lambda finding: finding.rank)
        if worst.verdict is not Fit.DOES_NOT_FIT:
            return worst
        short = (f for f in findings if f.verdict is not Fit.FITS and f.margin < 0)
        return replace(next(short, worst), verdict=Fit.DOES_NOT_FIT)

    @property
    def _taken(self) -> int:
        counted = self.overhead.graphs if self.overhead.graphs_counted else 0
        return self.overhead.context + self.overhead.activation + counted

    def _startup(self) -> Finding:
        free, total = self.device.free_bytes, self.device.total_bytes
        on_cpu = self.serving.platform is Platform.CPU
        if self.serving.version[:3] < _CHECKED_FROM or (on_cpu and self.fixed):
            return Finding()
        margin = free - self.requested
        sure = margin < 0
        if not sure and margin >= self.kept_free:
            return Finding()
        reason = (
            f"the server asks for {_gib(self.requested)} ({self.utilization:g} of {_gib(total)}), "
            f"and {_gib(free)} are free on {self.device.name or 'the device'}"
        )
        if not sure:
            reason += f", of which its own context takes up to {_gib(self.kept_free)} before that"
        return Finding(
            verdict=Fit.DOES_NOT_FIT if sure else Fit.MARGINAL,
            gate=Gate.STARTUP,
            margin=margin,
            reason=reason,
        )

    def _weights(self) -> Finding:
        size, free = self.weights.total_bytes, self.device.free_bytes
        context = self.overhead.before + self.overhead.context
        if size + self._error + context <= free:
            return Finding()
        sure = size - self._error > free
        return Finding(
            verdict=Fit.DOES_NOT_FIT if sure else Fit.MARGINAL,
            gate=Gate.WEIGHTS,
            margin=free - size - context,
            reason=f"a rank loads {_gib(size)} of weights, and {_gib(free)} are free on "
            f"{self.device.name or 'the device'}"
            + ("" if size > free else f", of which its context takes about {_gib(context)}")
            + ("" if size + context > free else f"; they may be {_gib(self._error)} more"),
        )

    @property
    def _error(self) -> int:
        """By how many bytes the weights may be off."""
        size = self.weights.total_bytes
        if self.weights.basis is Basis.FILES:
            return size // _FILES_ERROR
        return min(max(size // _FORMULA_ERROR, _FORMULA_FLOOR), size)

    def _room(self) -> Finding:
        """Whether what was asked for is there in fact: a named cache, or graphs on top of it."""
        over = self.overhead
        used = over.before + over.context + over.activation + over.graphs
        if self.fixed:
            margin = self.device.free_bytes - used - self.weights.total_bytes - self.kv_bytes
            reason = f"the cache was set to {_gib(self.kv_bytes)}: " + (
                f"{_gib(-margin)} more than is there besides"
                if margin < 0
                else f"{_gib(margin)} are left besides"
            )
            reason += f" the weights and estimates of {_gib(used)} (context, activation, graphs)"
        elif over.graphs_counted:
            return Finding()
        else:
            margin = self.device.free_bytes - over.before - self.requested - over.graphs
            reason = (
                f"graphs of about {_gib(over.graphs)} come on top of the {_gib(self.requested)} "
                f"asked for, and {_gib(self.device.free_bytes)} are free"
            )
        if margin >= (self.unsure if self.fixed else 0):
            return Finding()
        # Weights and a named cache are no estimates.
        exact = self.weights.total_bytes + self.kv_bytes > self.device.free_bytes
        sure = self.fixed and (exact or margin < -self.hopeless)
        verdict = Fit.DOES_NOT_FIT if sure else Fit.MARGINAL
        return Finding(verdict=verdict, gate=Gate.BLOCKS, margin=margin, reason=reason)

    def _blocks(self) -> Finding:
        block = self.layout.bytes_per_block if self.layout is not None else 0
        if self.layout is not None and not block:
            return Finding()
        margin = self.kv_bytes - block
        if margin > 0:
            return Finding()
        sure = self.fixed or margin < -self.hopeless
        return Finding(
            verdict=Fit.DOES_NOT_FIT if sure else Fit.MARGINAL,
            gate=Gate.BLOCKS,
            margin=margin,
            reason=self._shortage(),
        )

    def _shortage(self) -> str:
        if self.fixed:
            return f"a cache of {_gib(self.kv_bytes)} holds no block"
        return (
            f"of {_gib(self.requested)} asked for, {_gib(self.weights.total_bytes)} go to weights "
            f"and about {_gib(self._taken)} to activation, context and graphs: "
            + (
                f"{_gib(self.kv_bytes)} are left for the cache"
                if self.kv_bytes >= 0
                else f"{_gib(-self.kv_bytes)} too much, and nothing is left for the cache"
            )
        )

    def _length(self) -> Finding:
        if self.layout is None:
            return self._unknown()
        block = self.layout.bytes_per_block
        if not block:
            return Finding()
        length = 1 if self.serving.fits_length else self.length
        need = self.need(length)
        margin = self.kv_bytes - block - need
        reason = (
            f"a request of {length:,} tokens needs {_gib(need)} of cache, and "
            f"{_gib(max(self.kv_bytes - block, 0))} are left"
        )
        if margin >= (0 if self.fixed else self.unsure):
            return Finding(margin=margin)
        sure = margin < (0 if self.fixed else -self.hopeless)
        if not sure:
            reason += f"; estimates of {_gib(self._taken)} (context, activation, graphs) decide"
        return Finding(
            verdict=Fit.DOES_NOT_FIT if sure else Fit.MARGINAL,
            gate=Gate.LENGTH,
            margin=margin,
            reason=reason,
        )

    def _unknown(self) -> Finding:
        if self.serving.fits_length:
            return Finding(margin=self.kv_bytes)
        return Finding(
            verdict=Fit.MARGINAL,
            gate=Gate.LENGTH,
            margin=self.kv_bytes,
            reason=f"{_gib(max(self.kv_bytes, 0))} are left for the cache; what a request needs of "
            "it is not known for this architecture",
        )


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
