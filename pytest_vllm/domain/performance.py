"""A performance profile: which loads a run sends, how often, and how long they may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.plain import is_schema
from pytest_vllm.domain.text import closest

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA = 1
NAMES = ("smoke", "standard", "soak")
_NUMBERS = ("rounds", "sweep-rounds", "waves", "warm-up-waves", "requests", "compared")
_SECONDS = ("round-seconds", "limit-seconds")
_KEYS = ("schema", "description", "workload", "concurrency", "seed", *_NUMBERS, *_SECONDS)
_MOST_LEVELS = 32
_MOST_CONCURRENCY = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformanceProfile:
    """Loads under one name.

    A round is one whole load with a warm-up of its own; it is the unit of every comparison.

    Attributes:
        name: Bundled name or path of the file.
        workload: Name or file of a workload, or its table.
        concurrency: Levels of a closed loop, ascending: requests at a time.
        compared: The level that is held against objectives and baseline; one of `concurrency`.
        rounds: Rounds of the compared level. Five are the fewest that a stored baseline is
            compared by.
        sweep_rounds: Rounds of each other level.
        round_s: Seconds that a round is aimed at; a first look at the server sizes it.
        requests: Measured requests of a round of the compared level; 0: by `round_s`.
        waves: Fewest times that each place of a level is used in a round.
        warm_up_waves: The same before what is measured.
        limit_s: Seconds after which no round is begun.
        seed: Root of all that is random in the loads.
        description: One line.
    """

    name: str
    workload: str | Mapping[str, object]
    concurrency: tuple[int, ...]
    compared: int
    rounds: int
    sweep_rounds: int
    round_s: float
    requests: int
    waves: int
    warm_up_waves: int
    limit_s: float
    seed: int = 0
    description: str = ""

    @property
    def about_s(self) -> float:
        """Seconds that its rounds are aimed at, in all."""
        rounds = sum(self.rounds_of(level) for level in self.concurrency)
        return min(rounds * self.round_s, self.limit_s)

    def rounds_of(self, level: int) -> int:
        """Return how many rounds a level has."""
        return self.rounds if level == self.compared else self.sweep_rounds


def read_performance(
    name: str, table: Mapping[str, object], *, overrides: Mapping[str, object] | None = None
) -> PerformanceProfile:
    """Validate a performance profile.

    Args:
        name: Bundled name or path, used in error messages.
        table: The parsed file.
        overrides: Table `[performance]` of the run's profile, which takes its place key by key.

    Raises:
        TargetError: A key is unknown or a value wrong; file and key are named.
    """
    where = f"performance profile {name}"
    if not is_schema(table.get("schema"), SCHEMA):
        raise TargetError(
            f"{where}: key schema is {table.get('schema')!r}", advice=f"write schema = {SCHEMA}"
        )
    _refuse_unknown(where, table)
    merged = dict(table)
    if overrides:
        _refuse_unknown("profile [performance]", overrides)
        merged |= overrides
        where = f"{where} with [performance] of the profile"
    levels = _levels(where, merged.get("concurrency"))
    compared = _number(where, merged, "compared", default=levels[0], least=1)
    if compared not in levels:
        raise TargetError(
            f"{where}: key compared is {compared}, which is no level of concurrency {list(levels)}",
            advice="name one of these levels, or add it to concurrency",
        )
    return PerformanceProfile(
        name=name,
        workload=_workload(where, merged.get("workload")),
        concurrency=levels,
        compared=compared,
        rounds=_number(where, merged, "rounds", default=6, least=1),
        sweep_rounds=_number(where, merged, "sweep-rounds", default=1, least=1),
        round_s=_seconds(where, merged, "round-seconds", default=5.0),
        requests=_number(where, merged, "requests", default=0, least=0),
        waves=_number(where, merged, "waves", default=2, least=1),
        warm_up_waves=_number(where, merged, "warm-up-waves", default=1, least=0),
        limit_s=_seconds(where, merged, "limit-seconds", default=120.0),
        seed=_number(where, merged, "seed", default=0, least=0),
        description=str(merged.get("description", "")),
    )


def _refuse_unknown(where: str, table: Mapping[str, object]) -> None:
    for key in table:
        if key not in _KEYS:
            raise TargetError(
                f"{where}: unknown key {key!r}{closest(key, _KEYS)}",
                advice=f"use {', '.join(_KEYS)}",
            )


def _levels(where: str, value: object) -> tuple[int, ...]:
    levels = [value] if isinstance(value, int) else value
    good = (
        isinstance(levels, list)
        and 0 < len(levels) <= _MOST_LEVELS
        and all(
            isinstance(level, int)
            and not isinstance(level, bool)
            and 0 < level <= _MOST_CONCURRENCY
            for level in levels
        )
    )
    if not good or not isinstance(levels, list):
        raise TargetError(
            f"{where}: key concurrency is {value!r}, not up to {_MOST_LEVELS} whole numbers from 1 "
            f"to {_MOST_CONCURRENCY}",
            advice="write the requests at a time of each level: concurrency = [1, 8, 32]",
        )
    return tuple(sorted(set(levels)))


def _workload(where: str, value: object) -> str | Mapping[str, object]:
    if isinstance(value, dict) or (isinstance(value, str) and value.strip()):
        return value
    raise TargetError(
        f"{where}: key workload is {value!r}",
        advice="name a workload or its file, or write a table [workload]",
    )


def _number(where: str, table: Mapping[str, object], key: str, *, default: int, least: int) -> int:
    value = table.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise TargetError(
            f"{where}: key {key} is {value!r}, not a whole number from {least} up",
            advice=f"e.g. {key} = {max(default, least)}",
        )
    return value


def _seconds(where: str, table: Mapping[str, object], key: str, *, default: float) -> float:
    value = table.get(key, default)
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise TargetError(
            f"{where}: key {key} is {value!r}, not seconds above 0",
            advice=f"e.g. {key} = {default:g}",
        )
    return float(value)
