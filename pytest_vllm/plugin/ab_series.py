"""Make the pairs of an A/B comparison: who is up when, what is sent, and when it is enough."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from pytest_vllm.adapters.load.calibrate import calibrate
from pytest_vllm.domain.ab import AbRun, Comparison, conditions
from pytest_vllm.domain.ab_words import Servers
from pytest_vllm.domain.comparable import obstacles
from pytest_vllm.domain.gated import rules_for
from pytest_vllm.domain.load.calibration import bottleneck
from pytest_vllm.domain.load.in_flight import most_in_flight
from pytest_vllm.domain.load.percentile import PERMILLES, needed
from pytest_vllm.domain.load.traffic import Pattern, Traffic, check
from pytest_vllm.domain.metric_change import Form, Judgement
from pytest_vllm.domain.pair_order import Side, abba
from pytest_vllm.domain.regression import FEWEST_PAIRS, STEP, judge_pairs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_vllm.domain.ab_words import AbRequest
    from pytest_vllm.domain.load.calibration import Calibration
    from pytest_vllm.domain.load.plan import LoadPlan
    from pytest_vllm.plugin.ab_server import SideServer

PLACE_WAVES = 10
"""Requests of a run for each place of the closed loop, where nobody says how many."""
_APART = 1000
"""Between the seeds of two comparisons: more than a comparison has pairs."""
_WARM = 999_983
"""What the seed of the warming run is apart from all others."""
_WORK = ("workload", "traffic", "vocabulary", "file", "lengths")
RATE_S = 10.0
"""Seconds that a run at a rate lasts, where nobody says how many requests it has."""


class Teller(Protocol):
    """Is told how a comparison goes."""

    def run(self, run: AbRun, *, number: int, of: int) -> None:
        """Show a run that is over."""

    def say(self, text: str) -> None:
        """Show a line."""


class Series:
    """Makes runs of both sides in turns.

    Args:
        sides: The servers. With `--aa` both are the same one, under `one`.
        request: What was asked.
        servers: When they are up.
        one: Whether one server that stays up is both sides.
        teller: Is told how it goes.
    """

    def __init__(
        self,
        sides: Mapping[Side, SideServer],
        request: AbRequest,
        *,
        servers: Servers,
        one: bool,
        teller: Teller,
    ) -> None:
        self._sides = sides
        self._request = request
        self._servers = servers
        self._one = one
        self._teller = teller
        self._begun = time.monotonic()
        self.calibration: Calibration | None = None
        self.plan: LoadPlan | None = None
        self.runs: list[AbRun] = []

    @property
    def servers(self) -> tuple[SideServer, ...]:
        """The servers, each once."""
        return tuple(dict.fromkeys(self._sides.values()))

    @property
    def traffic(self) -> Traffic:
        """When the requests of a run are sent."""
        return traffic_of(self._request)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Have both servers up for a block, where they are up together, and each warm.

        Raises:
            Stopped: One did not come up, or writes garbage.
        """
        if self._servers is Servers.RESTART:
            yield
            return
        with ExitStack() as stack:
            for server in self.servers:
                stack.enter_context(server.up())
            for server in self.servers:
                self._teller.say(f"ab: warming up the {server.side}: one run that does not count")
                self._send(server, seed=self._request.seed + _WARM, pair=-1, side=server.side)
            yield

    def compare(self, *, number: int = 0) -> Comparison:
        """Make pairs until they tell, and say what they come to.

        Args:
            number: Which comparison of many it is; each has prompts and an order of its own.

        Raises:
            Stopped: A server ended, did not come up, or writes garbage.
        """
        begun = time.monotonic()
        seed = self._request.seed + _APART * number
        pairs = self._request.pairs or FEWEST_PAIRS
        runs: list[AbRun] = []
        while True:
            order = abba(pairs, seed=seed)
            for place in range(len(runs), len(order)):
                run = self._sound_run(order[place], pair=place // 2, seed=seed + place // 2)
                runs.append(run)
                self.runs.append(run)
                self._teller.run(run, number=len(runs), of=len(order))
                if place % 2 and (against := self._obstacles(runs)):
                    judgement = Judgement(
                        form=Form.PAIRS, repeats=place // 2 + 1, obstacles=against
                    )
                    return _compared(runs, judgement, begun)
            judgement = self._judge(runs)
            if self._request.pairs or not judgement.wants_more:
                return _compared(runs, judgement, begun)
            self._teller.say(f"ab: {pairs} pairs do not tell yet; two more")
            pairs += STEP

    def _obstacles(self, runs: Sequence[AbRun]) -> tuple[str, ...]:
        """Say why the runs so far cannot be compared, so that no more are made in vain."""
        sides = []
        for side in Side:
            facts = self._sides[side].facts
            if facts is None:
                raise RuntimeError("judged before both sides were up")
            sides.append(conditions([run for run in runs if run.side is side], facts))
        return obstacles(*sides)

    def _judge(self, runs: Sequence[AbRun]) -> Judgement:
        before, after = (
            [run.figures for run in sorted(runs, key=lambda run: run.pair) if run.side is side]
            for side in Side
        )
        rules = rules_for(
            [*before, *after], allowed=self._request.changes, open_loop=self.traffic.is_open
        )
        return judge_pairs(before, after, rules)

    def _sound_run(self, side: Side, *, pair: int, seed: int) -> AbRun:
        """Make a run, and once more where the client was the limit: that may pass."""
        run = self._one_run(side, pair=pair, seed=seed)
        if not run.limits:
            return run
        self._teller.say(f"ab: sent again, since the client was the limit: {run.limits[0]}")
        return self._one_run(side, pair=pair, seed=seed)

    def _one_run(self, side: Side, *, pair: int, seed: int) -> AbRun:
        server = self._sides[side]
        if self._servers is Servers.TOGETHER:
            return self._send(server, seed=seed, pair=pair, side=side)
        with server.up():
            return self._send(server, seed=seed, pair=pair, side=side)

    def _send(self, server: SideServer, *, seed: int, pair: int, side: Side) -> AbRun:
        """Send one load, the warm-up first, and measure it."""
        load = server.load
        plan = load.plan(self._request.workload, replace(self.traffic, seed=seed))
        begin_s = time.monotonic() - self._begun
        loaded = load.send(plan, title=str(side))
        server.look()
        columns, measured = loaded.columns, loaded.measurement
        facts = columns.facts
        if self.calibration is None and self._request.calibrate and facts is not None:
            self._teller.say("ab: the client measures itself at this rate")
            self.calibration = calibrate(
                streams=max(1, most_in_flight(columns)),
                events_per_s=facts.events / facts.wall_s if facts.wall_s else 0.0,
                requests_per_s=self._request.rate_per_s,
                path=facts.path,
            )
        self.plan = self.plan or plan
        return AbRun(
            side=side,
            pair=pair,
            seed=seed,
            begin_s=begin_s,
            load_s=(columns.finish_ns - columns.begin_ns) / 1e9,
            figures=dict(measured.figures),
            requests=measured.requests,
            prompts=_work(plan),
            failures=dict(measured.failures),
            output_tokens=int(measured.figures.get("output_tokens", 0)),
            start_s=server.start_s,
            clock_shift_s=facts.clock_shift_ns / 1e9 if facts is not None else 0.0,
            limits=bottleneck(facts, measured, self.calibration) if facts is not None else (),
            client=dict(measured.client),
            server=dict(measured.server),
        )


def _compared(runs: Sequence[AbRun], judgement: Judgement, begun: float) -> Comparison:
    return Comparison(runs=tuple(runs), judgement=judgement, seconds=time.monotonic() - begun)


def _work(plan: LoadPlan) -> str:
    """Return what tells apart requests that are not the same work.

    The salt of the prefix cache is another for each load, so that no run is helped by one before.
    """
    said = {name: plan.description.get(name) for name in _WORK}
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:16]


def traffic_of(request: AbRequest) -> Traffic:
    """Return when the requests of a run are sent.

    Raises:
        TargetError: The figures make no sense.
    """
    rate, places = request.rate_per_s, request.concurrency
    usual = round(rate * RATE_S) if rate else PLACE_WAVES * places
    warm_up = places if request.warm_up is None else request.warm_up
    return check(
        Traffic(
            pattern=Pattern.POISSON if rate else Pattern.CLOSED,
            requests=request.requests or max(usual, needed(PERMILLES["p50"])),
            concurrency=0 if rate else places,
            rate_per_s=rate,
            warm_up=warm_up,
            seed=request.seed,
        )
    )
