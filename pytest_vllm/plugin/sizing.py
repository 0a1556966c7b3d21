"""How large the rounds of a load are: so long as the profile wants, or as the baseline's were."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.load.workloads import load_workload

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_vllm.domain.performance import PerformanceProfile
    from pytest_vllm.plugin.load import Loaded

_FEWEST_TOKENS = 8
_LEAST_WAVE_S = 1e-3


@dataclass(slots=True, kw_only=True)
class Sizes:
    """What each round sends.

    Attributes:
        workload: Table of the workload.
        waves: Times that each place of a level is used.
        requests: Measured requests of a round by level, where they do not follow from `waves`.
        wave_s: Seconds that a request takes at the compared level, by the first look.
        of_baseline: Whether they are those of the baseline, so that both runs do the same work.
        notes: What a reader must know of them.
    """

    workload: dict[str, Any]
    waves: int
    requests: dict[int, int] = field(default_factory=dict)
    wave_s: float = 0.0
    of_baseline: bool = False
    notes: list[str] = field(default_factory=list)

    def of(self, concurrency: int) -> int:
        """Return the measured requests of a round of a level."""
        return self.requests.get(concurrency, self.waves * concurrency)

    def hold(self, context: int | None) -> None:
        """Shorten prompts and answers that are longer than what the server holds.

        Args:
            context: Tokens of the server's context, `None` where it does not say.
        """
        prompt, answer = (self.workload.get(name) for name in ("prompt_tokens", "output_tokens"))
        if self.of_baseline or not (isinstance(prompt, int) and isinstance(answer, int)):
            return
        if context is None or prompt + answer <= context:
            return
        answer = max(1, context * answer // (prompt + answer))
        self.workload = {
            **self.workload,
            "prompt_tokens": max(1, context - answer),
            "output_tokens": answer,
        }
        self.notes.append(
            f"prompts of {self.workload['prompt_tokens']} tokens and answers of {answer}: the "
            f"server's context has {context}"
        )

    def fit(self, profile: PerformanceProfile, first: Loaded) -> None:
        """Size the rounds by a first look at the compared level.

        Args:
            profile: What is wanted.
            first: A load of one request in each place.
        """
        self.wave_s = _wave_s(first)
        if self.of_baseline:
            return
        self._shorten(profile)
        waves = int(profile.round_s / max(self.wave_s, _LEAST_WAVE_S)) - profile.warm_up_waves
        self.waves = max(profile.waves, waves)
        if profile.requests:
            self.requests = {profile.compared: profile.requests}

    def _shorten(self, profile: PerformanceProfile) -> None:
        """Ask for shorter answers where a round would take more than twice what it should."""
        whole_s = (profile.waves + profile.warm_up_waves) * self.wave_s
        wanted = self.workload.get("output_tokens")
        if whole_s <= 2 * profile.round_s or not isinstance(wanted, int):
            return
        tokens = max(_FEWEST_TOKENS, int(wanted * 2 * profile.round_s / whole_s))
        if tokens < wanted:
            self.notes.append(
                f"answers have {tokens} tokens instead of {wanted}: at {self.wave_s:.1f} s a "
                "request, rounds would take too long for the profile"
            )
            self.workload = {**self.workload, "output_tokens": tokens}
            self.wave_s *= tokens / wanted


def sizes_of(profile: PerformanceProfile, baseline: Mapping[str, Any]) -> Sizes:
    """Return the sizes of a run: the baseline's, where it was made with the same profile.

    Args:
        profile: What is wanted.
        baseline: `RunRecord.performance` of the baseline, empty for none.
    """
    stored = baseline.get("profile")
    if isinstance(stored, dict) and stored.get("asked") == asked(profile):
        requests = {
            int(level["concurrency"]): int(level["requests"])
            for level in baseline.get("levels") or ()
        }
        return Sizes(
            workload=dict(baseline["workload"]),
            waves=profile.waves,
            requests=requests,
            of_baseline=True,
        )
    named = profile.workload
    table = load_workload(named).table if isinstance(named, str) else named
    return Sizes(workload=dict(table), waves=profile.waves)


def asked(profile: PerformanceProfile) -> dict[str, Any]:
    """Return what two runs must have in common to be compared, as plain data."""
    plain = asdict(profile)
    for name in ("name", "description", "limit_s"):
        del plain[name]
    return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}


def _wave_s(loaded: Loaded) -> float:
    """Return how long a request took, for the reckoning of a round."""
    found = loaded.measurement.distributions.get("e2el")
    if found is not None and found.mean:
        return found.mean / 1e3
    return (loaded.columns.finish_ns - loaded.columns.begin_ns) / 2e9
