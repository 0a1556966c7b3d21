"""Names of figures that a gate can look at, as a person writes them."""

from __future__ import annotations

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.slo import LATENCIES, PERCENTILES, RATES
from pytest_vllm.domain.text import closest, one_line

_MORE_LATENCIES = ("e2el-sched", "e2e-close", "normalized")
_MORE_RATES = ("goodput-per-s", "goodput-share", "joules-per-output-token")
FIGURES = frozenset(
    name.replace("-", "_")
    for name in (
        *(
            f"{latency}-{told}-ms"
            for latency in (*LATENCIES, *_MORE_LATENCIES)
            for told in (*PERCENTILES, "mean")
        ),
        *RATES,
        *_MORE_RATES,
    )
)
"""All of them, as a `Measurement` has them."""


def figure_name(option: str, text: str) -> str:
    """Return the figure that is meant: `tpot_p50_ms` may also be written `tpot-p50`.

    Args:
        option: Where it was written, for the error message.
        text: The name.

    Raises:
        TargetError: There is no such figure; the known ones are named.
    """
    name = text.strip().replace("-", "_")
    for known in (name, f"{name}_ms"):
        if known in FIGURES:
            return known
    latencies = ", ".join((*LATENCIES, *_MORE_LATENCIES))
    raise TargetError(
        f"{option}: there is no figure {one_line(text)!r}{closest(name, sorted(FIGURES))}",
        advice=f"known are {', '.join((*RATES, *_MORE_RATES))}, and of {latencies} each with "
        f"-{', -'.join(PERCENTILES)} or -mean, such as tpot-p50 or tpot_p50_ms",
    )
