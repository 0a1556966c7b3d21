"""What a server says of itself at `/metrics`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One sample.

    Attributes:
        name: Full name, as `vllm:generation_tokens_total`.
        value: Its value.
        labels: Its labels.
    """

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """All samples of one look.

    Attributes:
        samples: The samples.
        types: `counter`, `gauge`, `histogram`, ... by name of the family without `_total`.
    """

    samples: tuple[Metric, ...]
    types: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> frozenset[str]:
        """Names of all samples."""
        return frozenset(sample.name for sample in self.samples)

    @property
    def engines(self) -> int:
        """How many engines report (data parallelism), at least 1."""
        return (
            len({sample.labels["engine"] for sample in self.samples if "engine" in sample.labels})
            or 1
        )

    def find(self, *names: str, **labels: str) -> tuple[Metric, ...]:
        """Return the samples with these labels, of the first name that has any.

        Args:
            names: Names in order of preference; vLLM has renamed some of its metrics.
            labels: Labels that a sample must have.
        """
        for name in names:
            found = tuple(
                sample
                for sample in self.samples
                if sample.name == name
                and all(sample.labels.get(key) == value for key, value in labels.items())
            )
            if found:
                return found
        return ()

    def total(self, *names: str, **labels: str) -> float:
        """Add up such samples, of all engines.

        Raises:
            AssertionError: There is none.
        """
        found = self.find(*names, **labels)
        if not found:
            wanted = " or ".join(names)
            raise AssertionError(f"GET /metrics: required {wanted} {labels or ''}, saw no such one")
        return sum(sample.value for sample in found)

    def info(self, name: str) -> Mapping[str, str]:
        """Return the labels of a sample that only carries labels; empty when it is not there."""
        found = self.find(name)
        return found[0].labels if found else {}
