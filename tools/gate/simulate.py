"""Count what the gate says on hosts of simulated noise: `python -m tools.gate.simulate FILE`."""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.gate.noise import Noise
from tools.gate.trials import simulated_pairs, simulated_stored, tally

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_vllm.domain.metric_change import Judgement

SAME, SLOWER = 1000, 400
"""Comparisons of each cell: of two sides of the same speed, and with a slower one."""
SEED = "gate"
STRONG_FACTORS = (1.0, 1.02, 1.03, 1.05, 1.10)
WEAK_FACTORS = (1.0, 1.10, 1.20, 1.30, 1.50)
ROUNDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A host and a form.

    Attributes:
        name: The host, in words.
        noise: Its noise.
        strong: Whether sides run in turns; else it is a stored baseline.
    """

    name: str
    noise: Noise
    strong: bool

    @property
    def factors(self) -> tuple[float, ...]:
        """How much slower candidates are."""
        return STRONG_FACTORS if self.strong else WEAK_FACTORS

    def trial(self, factor: float) -> Callable[[int], Judgement]:
        """Return the comparison with a candidate that is so much slower."""
        if self.strong:
            return simulated_pairs(self.noise, factor, seed=SEED)
        return simulated_stored(self.noise, factor, rounds=ROUNDS, seed=SEED)


STRONG = (
    Cell(name="quiet GPU host", noise=Noise(run=0.005, own=0.003, drift=0.01), strong=True),
    Cell(name="GPU host", noise=Noise(run=0.01, own=0.005, drift=0.02), strong=True),
    Cell(name="shared GPU host", noise=Noise(run=0.02, own=0.01, drift=0.04), strong=True),
    Cell(name="shared CPU host", noise=Noise(run=0.05, own=0.02, drift=0.08), strong=True),
)
WEAK = tuple(
    Cell(name=f"{cell.name}, days {100 * between:.0f} % apart", strong=False, noise=noise)
    for cell in STRONG[1:]
    for between in (0.0, 0.02, 0.04, 0.08)
    for noise in [Noise(**{**asdict(cell.noise), "between": between})]
)


def count(job: tuple[Cell, float, int]) -> dict[str, Any]:
    """Count one cell at one slowdown."""
    cell, factor, trials = job
    found = tally(cell.trial(factor), trials)
    return {
        "form": "strong" if cell.strong else "weak",
        "host": cell.name,
        "noise": asdict(cell.noise),
        "factor": factor,
        "trials": found.trials,
        "effects": {effect.value: number for effect, number in found.effects.items()},
        "repeats": found.pairs,
    }


def main(argv: Sequence[str]) -> int:
    """Count every cell and write the counts."""
    jobs = [
        (cell, factor, SAME if factor == 1 else SLOWER)
        for cell in (*STRONG, *WEAK)
        for factor in cell.factors
    ]
    began = time.monotonic()
    with ProcessPoolExecutor() as pool:
        rows = list(pool.map(count, jobs))
    document = {
        "what": f"{SAME} comparisons at the same speed, {SLOWER} at each slowdown, seed {SEED!r}",
        "seconds": round(time.monotonic() - began),
        "rows": rows,
    }
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    head = json.dumps({key: document[key] for key in ("what", "seconds")})
    Path(argv[0]).write_text(f'{head[:-1]}, "rows": [\n{lines}\n]}}\n', encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
