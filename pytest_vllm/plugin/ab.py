"""`pytest-vllm ab`: two servers on one host in turns, and whether the second is slower."""

from __future__ import annotations

import datetime as dt
import json
import os
import shlex
import shutil
import signal
import sys
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from pytest_vllm.adapters.backends.device import choose_devices
from pytest_vllm.adapters.store import EvidenceFolder, new_run_id
from pytest_vllm.domain.ab import (
    OK,
    OPEN,
    AbRecord,
    Blame,
    Comparison,
    Stop,
    exit_code,
    false_alarms,
    to_plain,
)
from pytest_vllm.domain.ab_words import Servers, read_words
from pytest_vllm.domain.errors import HostError, LaunchFailed, TargetError, VllmError
from pytest_vllm.domain.pair_order import Side
from pytest_vllm.domain.text import redact
from pytest_vllm.plugin.ab_series import Series, traffic_of
from pytest_vllm.plugin.ab_server import SideServer, Stopped, differences, name_of
from pytest_vllm.plugin.ab_teller import TerminalTeller
from pytest_vllm.plugin.options import read_target
from pytest_vllm.plugin.signals import Signals
from pytest_vllm.plugin.verb import run_verb
from pytest_vllm.reports import ab as words_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pytest

    from pytest_vllm.domain.ab_words import AbRequest
    from pytest_vllm.domain.profile import Profile
    from pytest_vllm.domain.target import Target

RECORD = "ab.json"
_SIGNAL_BASE = 128
_WIDTH, _USUAL, _WIDEST = 80, 100, 120


class AbVerb:
    """Compares and ends in place of a test run.

    Args:
        request: What was asked.
    """

    def __init__(self, request: AbRequest) -> None:
        self.ran = False
        self._request = request

    def pytest_cmdline_main(self, config: pytest.Config) -> int:
        """Resolve both targets as a run would, compare and tell."""
        self.ran = True
        try:
            named = [read_target(config, own=_own(side)) for side in self._request.sides]
            run = _Run(self._request, dict(zip(Side, named, strict=True)))
            folder = config.invocation_params.dir / named[0][0].text("artifacts")
            return run.run(folder)
        except VllmError as error:
            print(f"ERROR: {error}", file=sys.stderr)  # noqa: T201 - for the terminal
            return error.exit_code


def main(words: Sequence[str]) -> int:
    """Run the verb."""
    own = words[: words.index("--")] if "--" in words else words
    if any(word in ("-h", "--help") for word in own):
        print(words_for.HELP, end="")  # noqa: T201 - the help
        return 0
    try:
        request = read_words(words)
    except TargetError as error:
        print(f"ERROR: {error}", file=sys.stderr)  # noqa: T201 - for the terminal
        return error.exit_code
    # A word that holds blanks is quoted, since the option splits it as a shell does.
    both = [
        f"--vllm-serve-arg={shlex.quote(word) if len(word.split()) > 1 else word}"
        for word in request.serve_args
    ]
    return run_verb([*request.shared, *both], AbVerb(request))


def _own(side: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """Return the options of a side; an interpreter means a process."""
    own = dict(side)
    if "python" in own and "image" not in own and "url" not in own:
        own["backend"] = ("process",)
    return own


class _Run:
    """One comparison from the first look to the record.

    Args:
        request: What was asked.
        named: Target and profile of each side.
    """

    def __init__(self, request: AbRequest, named: Mapping[Side, tuple[Target, Profile]]) -> None:
        # What the profile allows holds here too; a word on the command line goes before it.
        allowed = {**named[Side.BASE][1].slo.changes, **request.changes}
        self._request = request = replace(request, changes=allowed)
        self._named = named
        self._targets = {side: target for side, (target, _) in named.items()}
        self._traffic = traffic_of(request)
        self._together = _servers(request, self._targets)
        columns = shutil.get_terminal_size((_WIDTH, 24)).columns
        self._width = min(columns, _WIDEST) if sys.stdout.isatty() else _USUAL
        base, candidate = self._targets[Side.BASE], self._targets[Side.CANDIDATE]
        differing = differences(base, candidate)
        if not differing and not request.aa:
            raise TargetError(
                "ab: both sides come to the same options, so there is nothing to compare",
                advice="name what differs by --b-env, --b-serve-arg, ..., or use --aa 20",
            )
        self._secrets = [s for target in (base, candidate) for s in target.secrets(os.environ)]
        self._names = (
            redact(name_of(base, differing, side=Side.BASE), self._secrets),
            redact(name_of(candidate, differing, side=Side.CANDIDATE), self._secrets),
        )

    @property
    def _one(self) -> bool:
        """Whether one server that stays up is both sides."""
        return self._request.aa > 0 and self._together is Servers.TOGETHER

    def run(self, root: Path) -> int:
        """Compare, tell and keep; return the exit code."""
        started, clock = dt.datetime.now(dt.UTC), time.monotonic()
        evidence = EvidenceFolder.create(
            root, new_run_id(started, os.urandom(3).hex()), secrets=self._secrets
        )
        servers = "one" if self._one else str(self._together)
        teller = TerminalTeller(sys.stdout)
        teller.say(
            words_for.opening(
                self._names,
                servers=servers,
                workload=self._request.workload,
                traffic=self._traffic,
                pairs=self._request.pairs,
                aa=self._request.aa,
                width=self._width,
            )
        )
        sides = self._sides(evidence, teller)
        series = Series(sides, self._request, servers=self._together, one=self._one, teller=teller)
        signals = Signals()
        signals.take()
        found: list[Comparison] = []
        try:
            stop = self._compare(series, found, teller, signals)
        except TargetError:
            _discard(evidence)
            raise
        finally:
            signals.give_back()
        record = AbRecord(
            run_id=evidence.path.name,
            started=started.isoformat(timespec="seconds"),
            duration_s=time.monotonic() - clock,
            servers=servers,
            request=asdict(self._request),
            base=sides[Side.BASE].facts,
            candidate=sides[Side.CANDIDATE].facts,
            comparisons=tuple(found) or _unfinished(series),
            alarms=false_alarms(found) if self._request.aa else None,
            stop=stop,
            exit_code=self._code(found, stop),
            plan=dict(series.plan.description) if series.plan is not None else {},
            calibration=asdict(series.calibration) if series.calibration is not None else {},
        )
        self._keep(record, evidence, sides)
        return record.exit_code

    def _compare(
        self, series: Series, found: list[Comparison], teller: TerminalTeller, signals: Signals
    ) -> Stop | None:
        """Make the comparisons; return what ended them early."""
        count = self._request.aa or 1
        try:
            with series.ready():
                for number in range(count):
                    teller.prefix = f"{number + 1}/{count} " if self._request.aa else ""
                    found.append(series.compare(number=number))
        except Stopped as stopped:
            return stopped.stop
        except KeyboardInterrupt:
            heard = [signals.ended_by, *(server.signalled for server in series.servers)]
            code = _SIGNAL_BASE + (max(heard) or signal.SIGINT)
            return Stop(text="by a signal", blame=Blame.HOST, code=code)
        except (HostError, LaunchFailed) as error:
            return Stop(text=error.message, blame=Blame.HOST, advice=error.advice)
        return None

    def _sides(self, evidence: EvidenceFolder, teller: TerminalTeller) -> dict[Side, SideServer]:
        sides = {
            side: SideServer(
                side,
                target,
                profile,
                folder=evidence.path,
                terminal=sys.stdout,
                shown=teller.shown,
            )
            for side, (target, profile) in self._named.items()
        }
        if self._request.aa:
            sides[Side.CANDIDATE] = sides[Side.BASE]
        return sides

    def _code(self, found: Sequence[Comparison], stop: Stop | None) -> int:
        if stop is not None:
            return stop.exit_code
        if self._request.aa:
            return OK if false_alarms(found).worse.total else OPEN
        return exit_code(found[0])

    def _keep(
        self, record: AbRecord, evidence: EvidenceFolder, sides: Mapping[Side, SideServer]
    ) -> None:
        """Write the evidence, and say what came of it and where it is."""
        told = words_for.closing(record, names=self._names, width=self._width)
        text = redact(told, self._secrets)
        files = {RECORD: json.dumps(to_plain(record), indent=1, ensure_ascii=False) + "\n"}
        files["ab.txt"] = text + "\n"
        for server in dict.fromkeys(sides.values()):
            files |= {name: "\n".join(log) + "\n" for name, log in server.logs.items()}
        evidence.write_files(files)
        print(f"\n{text}\nab: {evidence.path / RECORD}")  # noqa: T201 - the verb's output
        for server in dict.fromkeys(sides.values()):
            for problem in server.problems:
                print(f"warning: {problem}", file=sys.stderr)  # noqa: T201 - for the terminal


def _servers(request: AbRequest, targets: Mapping[Side, Target]) -> Servers:
    """Return when the servers are up, by what was asked or by what suits them.

    Raises:
        TargetError: It cannot be as it was asked.
    """
    attached = [side for side, target in targets.items() if target.backend == "attach"]
    if request.servers is Servers.RESTART and attached:
        raise TargetError(
            f"ab: --restart cannot restart the server of the {attached[0]}, which was not started "
            "here",
            advice="leave out --restart, or have it launched: --image or --python",
        )
    wanted = request.servers or (Servers.TOGETHER if attached else Servers.RESTART)
    if wanted is Servers.TOGETHER and not request.aa:
        _refuse_shared_gpus(targets)
    return wanted


def _refuse_shared_gpus(targets: Mapping[Side, Target]) -> None:
    """Raise where both servers would be launched on the same GPUs: each takes nearly all memory."""
    launched = [target for target in targets.values() if target.backend != "attach"]
    if len(launched) < len(targets):
        return
    devices = [set(choose_devices(target.gpus).devices) for target in launched]
    shared = sorted(
        name for name in set.intersection(*devices) if "renderD" in name.rpartition("/")[2]
    )
    if shared:
        raise TargetError(
            f"ab: --together would launch both servers on {shared[0]}",
            advice="give each side GPUs of its own (--a-gpus=0 --b-gpus=1), or use --restart",
        )


def _unfinished(series: Series) -> tuple[Comparison, ...]:
    """Keep the runs of a comparison that did not come to its end."""
    if not series.runs:
        return ()
    return (Comparison(runs=tuple(series.runs), judgement=None, seconds=0.0),)


def _discard(evidence: EvidenceFolder) -> None:
    shutil.rmtree(evidence.path / "servers", ignore_errors=True)
    evidence.discard_if_empty()
