"""The loads of the suite `performance`: each level is measured once, and every check reads that."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pytest_vllm.adapters.load.calibrate import calibrate
from pytest_vllm.domain.checks import Outcome
from pytest_vllm.domain.errors import HostError, TargetError
from pytest_vllm.domain.load.calibration import bottleneck, held_back
from pytest_vllm.domain.load.plan import Limits
from pytest_vllm.domain.load.traffic import Traffic
from pytest_vllm.domain.rounds import find_saturation
from pytest_vllm.domain.stored import compare_performance, facts_of, record_facts
from pytest_vllm.plugin.materials import model_materials
from pytest_vllm.plugin.rounds import Level, Round
from pytest_vllm.plugin.sanity import content_refusal
from pytest_vllm.plugin.sizing import asked, sizes_of
from pytest_vllm.plugin.skips import not_run, out_of_time

if TYPE_CHECKING:
    from pytest_vllm.domain.load.calibration import Calibration
    from pytest_vllm.domain.load.plan import LoadPlan
    from pytest_vllm.domain.metric_change import Judgement
    from pytest_vllm.domain.performance import PerformanceProfile
    from pytest_vllm.plugin.client import Client
    from pytest_vllm.plugin.load import Load, Loaded
    from pytest_vllm.plugin.state import RunState

_LONGEST_STALL_S = 30.0
_SLOWER = 10.0
"""A round may take so many times as long as it was expected to; what is left then is cut."""
_LEAST_ROUND_S = 60.0
_PATIENCE = 4.0
"""Beside a baseline a round has the baseline's size, so a slower server may take that much longer
than the profile's limit: that it is slower is what is to be shown."""
_CALIBRATION_S = 2.0
_HEADROOM = 1.2
"""The calibration has a rate that is so much higher than the first look's, which had a ramp."""


class Performance:
    """Measures the server under test, as the performance profile says.

    Args:
        state: What the run knows; gets what was measured.
        load: Sends the loads.
        profile: Which loads.
    """

    def __init__(self, state: RunState, load: Load, profile: PerformanceProfile) -> None:
        self.profile = profile
        self.objectives = state.profile.slo
        self.levels: dict[int, Level] = {}
        self._state = state
        self._load = load
        self._refusal: str | None = None
        self._problem: HostError | TargetError | None = None
        stored = state.baseline.performance if state.baseline is not None else {}
        self._sizes = sizes_of(profile, stored)
        self._began = 0.0

    @property
    def run_name(self) -> str:
        """What names this run as the baseline of a later one."""
        return self._state.run_name

    @property
    def compared(self) -> int:
        """The level that is held against objectives and baseline."""
        return self.profile.compared

    def measured(self, concurrency: int, vllm: Client, benchmark: Any = None) -> Level:
        """Return a level, and measure it where that was not done before.

        Args:
            concurrency: Requests at a time.
            vllm: Client of the check, for the questions before the first load.
            benchmark: Fixture of pytest-benchmark that carries the rounds, `None` for none.
        """
        if self._problem is not None:
            raise self._problem  # what this host could not do once is not tried by every check
        try:
            self._prepare(vllm)
            level = self.levels.get(concurrency)
            return self._measure(concurrency, benchmark) if level is None else level
        except (HostError, TargetError) as error:
            self._problem = error
            raise

    @property
    def calibration(self) -> Calibration | None:
        """The client's own error at the compared level, `None` before that is known."""
        level = self.levels.get(self.compared)
        return level.calibration if level is not None else None

    def sent_again(self, level: Level, *, rounds: int) -> Level:
        """Send further rounds of a level that was measured; its figures stay as they are.

        Args:
            level: The level.
            rounds: How many.

        Returns:
            The further rounds.
        """
        further = Level(
            concurrency=level.concurrency, requests=level.requests, calibration=level.calibration
        )
        for number in range(rounds):
            self._send(further, self._plan(level, len(level.rounds) + number))
        return further

    @property
    def baseline_has_loads(self) -> bool:
        """Whether there is a baseline with figures: not every run measures."""
        baseline = self._state.baseline
        return baseline is not None and bool(baseline.performance.get("levels"))

    def judge(self, vllm: Client) -> Judgement | None:
        """Hold the compared level against the baseline; `None` without one."""
        baseline = self._state.baseline
        if baseline is None:
            return None
        self.measured(self.compared, vllm)
        here = facts_of(
            gpus=self._state.gpus,
            facts=self._state.facts,
            settings=tuple(self._state.target.settings.values()),
            server=self._state.server,
            backend=self._state.target.backend,
            materials=model_materials(self._state),
        )
        judgement = compare_performance(
            baseline.performance,
            self._state.performance,
            facts=(record_facts(baseline), here),
            allowed=self.objectives.changes,
        )
        self._state.judgement = judgement
        self._state.performance["regression"] = asdict(judgement) if judgement else {}
        return judgement

    def note(self, name: str, value: object) -> None:
        """Write something more into the record of the measurement."""
        self._state.performance[name] = value

    # --- before the first load -------------------------------------------------------------------

    def _prepare(self, vllm: Client) -> None:
        """Ask for sense, look how fast the server is, and size the rounds; once."""
        if self._refusal is None:
            self._refusal = self._refuse(vllm)
            if not self._refusal:
                self._began = time.monotonic()
                self._sizes.hold(vllm.max_model_len)
                self._size()
                self._note()
        if self._refusal:
            not_run(self._refusal)

    def _refuse(self, vllm: Client) -> str:
        """Say why no figure is taken; empty when it may be."""
        bad = [name for name, outcome in self._state.content.items() if outcome in _WRONG]
        if bad:
            return (
                f"what the server writes makes no sense ({', '.join(bad[:3])} failed in this run), "
                "so its speed is worth nothing; mend that first"
            )
        if Outcome.PASS in self._state.content.values():
            return ""
        trouble = content_refusal(vllm)
        return trouble and f"{trouble}, so its speed is worth nothing; run --vllm-suite=content"

    def _size(self) -> None:
        """Look how long a request takes at the compared level; this warms the server up as well."""
        self._sizes.fit(self.profile, self._probe())

    def _probe(self) -> Loaded:
        places = self.compared
        traffic = Traffic(
            requests=places, concurrency=places, warm_up=places, seed=self.profile.seed + 10_000
        )
        plan = self._load.plan(
            self._sizes.workload, traffic, limits=self._limits(self.profile.limit_s)
        )
        return self._load.send(plan, title="first look")

    # --- loads -----------------------------------------------------------------------------------

    def _measure(self, concurrency: int, benchmark: Any) -> Level:
        requests = self._sizes.of(concurrency)
        rounds = self._affordable(concurrency, requests)
        level = self._new_level(concurrency, requests)
        if benchmark is None:
            self._send_rounds(level, rounds)
        else:
            benchmark.group = "vllm-load"
            benchmark.pedantic(
                self._send,
                setup=lambda: ((level, self._plan(level, len(level.rounds))), {}),
                rounds=rounds,
                iterations=1,
            )
        if level.held_back and self._possible(concurrency, requests) >= rounds:
            reason = level.held_back[0]
            self._sizes.notes.append(f"c{concurrency}: measured once more, for {reason}")
            level = self._new_level(concurrency, requests)
            took = self._send_rounds(level, rounds)
            if benchmark is not None:  # which can be asked to time something only once
                benchmark.stats.stats.data[:] = took
        if benchmark is not None:
            benchmark.extra_info["vllm"] = level.extra()
        self.levels[concurrency] = level
        self._note()
        return level

    def _new_level(self, concurrency: int, requests: int) -> Level:
        calibration = self._calibrate(concurrency)
        return Level(concurrency=concurrency, requests=requests, calibration=calibration)

    def _send_rounds(self, level: Level, rounds: int) -> list[float]:
        """Send rounds of a level; return how many seconds each took, with all that is around it."""
        took = []
        for _ in range(rounds):
            plan = self._plan(level, len(level.rounds))
            began = time.perf_counter()
            self._send(level, plan)
            took.append(time.perf_counter() - began)
        return took

    def _left_s(self) -> float:
        """Return how much time is left of what the profile allows."""
        limit_s = self.profile.limit_s * (_PATIENCE if self._sizes.of_baseline else 1.0)
        return limit_s - (time.monotonic() - self._began)

    def _possible(self, concurrency: int, requests: int) -> int:
        """Return for how many rounds there is time."""
        return int(self._left_s() / max(self._round_s(concurrency, requests), 1e-3))

    def _affordable(self, concurrency: int, requests: int) -> int:
        """Return how many rounds there is time for, or end the check."""
        wanted = self._rounds_of(concurrency)
        possible = self._possible(concurrency, requests)
        if possible >= 1 or concurrency == self.compared:
            rounds = max(1, min(wanted, possible))
            if rounds < wanted:
                self._sizes.notes.append(
                    f"c{concurrency}: {rounds} rounds instead of {wanted}, for the profile's "
                    f"limit-seconds = {self.profile.limit_s:g} allows no more"
                )
            return rounds
        left_s = max(0.0, self._left_s())
        reason = (
            f"a round of {requests} requests, {concurrency} at a time, would take about "
            f"{self._round_s(concurrency, requests):.0f} s, and {left_s:.0f} s are left "
            f"of the profile's limit-seconds = {self.profile.limit_s:g}"
        )
        if concurrency == self.objectives.concurrency:
            not_run(f"{reason}; [slo] is about this level, so give it more")
        return out_of_time(reason)

    def _rounds_of(self, concurrency: int) -> int:
        """Return the rounds of a level; one that objectives name has those of the compared."""
        named = concurrency == self.objectives.concurrency
        return self.profile.rounds if named else self.profile.rounds_of(concurrency)

    def _round_s(self, concurrency: int, requests: int) -> float:
        """Return how long a round takes, by the best throughput that was seen so far."""
        waves = requests / concurrency + self.profile.warm_up_waves
        measured = [
            one.seconds / level.requests for level in self.levels.values() for one in level.rounds
        ]
        by_rate = min(measured) * (requests + concurrency) if measured else 0.0
        return max(waves * self._sizes.wave_s, by_rate)

    def _plan(self, level: Level, number: int) -> LoadPlan:
        traffic = Traffic(
            requests=level.requests,
            concurrency=level.concurrency,
            warm_up=self.profile.warm_up_waves * level.concurrency,
            seed=self.profile.seed + number,
        )
        limits = self._limits(_SLOWER * self._round_s(level.concurrency, level.requests))
        return self._load.plan(self._sizes.workload, traffic, limits=limits)

    def _send(self, level: Level, plan: LoadPlan) -> None:
        number, rounds = len(level.rounds) + 1, self._rounds_of(level.concurrency)
        title = f"{level.concurrency} at a time, round {number} of {rounds}"
        loaded = self._load.send(plan, slo=self.objectives.request, title=title)
        facts = loaded.columns.facts
        if facts is None:  # nothing was sent
            level.rounds.append(Round(loaded=loaded, limits=()))
            return
        seen = (facts, loaded.measurement, level.calibration)
        level.rounds.append(
            Round(loaded=loaded, limits=bottleneck(*seen), held_back=held_back(*seen))
        )

    def _calibrate(self, concurrency: int) -> Calibration:
        """Let the client measure itself at the level's streams and rate, on the same path."""
        last = self._load.last
        facts = last.columns.facts if last is not None else None
        return calibrate(
            streams=concurrency,
            events_per_s=_HEADROOM * self._events_per_s(concurrency),
            seconds=_CALIBRATION_S,
            path=facts.path if facts is not None else "epoll",
        )

    def _events_per_s(self, concurrency: int) -> float:
        last = self._load.last
        if last is None or last.columns.facts is None:
            return float(concurrency)
        facts = last.columns.facts
        here = facts.events / facts.wall_s if facts.wall_s else 0.0
        places = max(1, last.plan.concurrency)
        return max(1.0, here * concurrency / places)

    def _limits(self, run_s: float) -> Limits:
        request_s = self._state.target.seconds("request-timeout")
        return Limits(
            request_s=request_s,
            stall_s=min(request_s, _LONGEST_STALL_S),
            run_s=max(_LEAST_ROUND_S, run_s),
        )

    # --- record ----------------------------------------------------------------------------------

    def _note(self) -> None:
        """Write what was measured so far into the state, from where it goes into the record."""
        saturation = find_saturation(
            {
                concurrency: level.values("output_tokens_per_s")
                for concurrency, level in self.levels.items()
            }
        )
        self._state.performance = {
            **self._state.performance,
            "profile": {"name": self.profile.name, "asked": asked(self.profile)},
            "workload": self._sizes.workload,
            "compared": f"c{self.compared}",
            "calibration": asdict(self.calibration) if self.calibration else {},
            "levels": [
                level.plain(gated=concurrency == self.compared)
                for concurrency, level in sorted(self.levels.items())
            ],
            "saturation": asdict(saturation) if saturation else {},
            "notes": list(self._sizes.notes),
        }


_WRONG = (Outcome.FAIL, Outcome.ERROR)
