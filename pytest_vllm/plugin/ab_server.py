"""A side of an A/B comparison: its server, launched and stopped as often as it is wanted."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_vllm.domain.ab import Blame, SideFacts, Stop
from pytest_vllm.domain.pair_order import Side
from pytest_vllm.domain.text import redact
from pytest_vllm.plugin.fixtures import make_client, make_transport
from pytest_vllm.plugin.guard import start_reaper
from pytest_vllm.plugin.launch import ServerRun
from pytest_vllm.plugin.load import Load
from pytest_vllm.plugin.look import FirstLook
from pytest_vllm.plugin.sanity import content_refusal
from pytest_vllm.plugin.state import RunState, failure_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import TextIO

    from pytest_vllm.adapters.backends.reaper import Reaper
    from pytest_vllm.domain.profile import Profile
    from pytest_vllm.domain.target import Target
    from pytest_vllm.domain.verdict import StartFailure
    from pytest_vllm.plugin.load import Watcher

_NAMING = ("image", "url", "python")
"""Options that `describe` shows."""
LETTERS = {Side.BASE: "a", Side.CANDIDATE: "b"}


class Stopped(Exception):  # noqa: N818 - an outcome
    """A comparison cannot go on.

    Args:
        stop: Why.
    """

    def __init__(self, stop: Stop) -> None:
        super().__init__(stop.text)
        self.stop = stop


class SideServer:
    """The server of one side.

    Args:
        side: Which.
        target: What is launched or attached to.
        profile: The rules of the run; they say nothing here, but a launch wants them.
        folder: Evidence folder of the comparison.
        terminal: Where the first start is shown.
        shown: Shows its loads.
    """

    def __init__(  # noqa: PLR0913 - what it is, where it is kept, where it is shown
        self,
        side: Side,
        target: Target,
        profile: Profile,
        *,
        folder: Path,
        terminal: TextIO,
        shown: Callable[[str], AbstractContextManager[Watcher | None]],
    ) -> None:
        self.side = side
        self.target = target
        self.start_s = 0.0
        self.facts: SideFacts | None = None
        self.logs: dict[str, list[str]] = {}
        self.problems: list[str] = []
        self.signalled = 0
        self._profile = profile
        self._folder = folder
        self._terminal = terminal
        self._shown = shown
        self._starts = 0
        self._run: ServerRun | None = None
        self._state: RunState | None = None
        self._load: Load | None = None

    @property
    def owned(self) -> bool:
        """Whether it is launched here, and can be restarted."""
        return self.target.backend != "attach"

    @property
    def load(self) -> Load:
        """Sends loads to it.

        Raises:
            Stopped: It has ended on its own.
        """
        if self._load is None or self._state is None or self._run is None:
            raise RuntimeError(f"the server of the {self.side} is not up")
        self.look()
        return self._load

    @contextmanager
    def up(self) -> Iterator[SideServer]:
        """Have the server up within a block; whatever happens, nothing of it is left.

        Raises:
            Stopped: It did not come up, or writes garbage.
            TargetError: Something is named that is not there.
        """
        begun = time.monotonic()
        try:
            self._start()
            self.start_s = time.monotonic() - begun if self.owned else 0.0
            yield self
        finally:
            self._stop()

    def look(self) -> None:
        """See whether the server still lives.

        Raises:
            Stopped: It does not.
        """
        if self._run is None or self._state is None:
            return
        self._run.look(after_failure=True)
        if self._state.gone:
            raise Stopped(self._blamed(f"its server ended in the middle: {self._state.gone}"))

    def _start(self) -> None:
        self._starts += 1
        name = f"{LETTERS[self.side]}{self._starts}"
        workdir = self._folder / "servers" / name
        workdir.mkdir(parents=True)
        first = self._starts == 1
        terminal = self._terminal if first else None
        self._state = state = RunState(target=self.target, profile=self._profile)
        reaper = start_reaper(self.target, workdir)
        try:
            if first:
                self._look_first(reaper)
            self._run = ServerRun(
                state,
                workdir=workdir,
                run_id=f"{self._folder.name}-{name}",
                terminal=terminal,
                reaper=reaper,
            )
        except BaseException:
            if reaper is not None:
                reaper.done()
            raise
        self._run.start()
        if state.failure is not None:
            raise Stopped(self._failed(state.failure))
        if state.server is None:
            raise Stopped(self._blamed("its server did not become ready"))
        self._ask_for_sense()
        self._load = Load(state.server, shown=self._shown)
        if first:
            self.facts = self._facts()

    def _look_first(self, reaper: Reaper | None) -> None:
        """Look at engine, image, host and model before the first start.

        Raises:
            Stopped: It cannot work.
        """
        outcome = FirstLook(self.target, self._terminal, reaper).run()
        if outcome.failure is not None:
            raise Stopped(self._failed(outcome.failure))

    def _ask_for_sense(self) -> None:
        """Ask the new server whether it writes sense: a fast one that does not is no server.

        Raises:
            Stopped: It does not.
        """
        state = self._state
        if state is None or state.server is None:
            return
        transport = make_transport(state.server, self.target)
        try:
            wrong = content_refusal(make_client(state.server, transport, self.target))
        finally:
            transport.close()
        if wrong:
            raise Stopped(
                self._blamed(
                    f"its answers make no sense, so its speed means nothing: {wrong}",
                    advice="run pytest --vllm-suite=content on it",
                )
            )

    def _stop(self) -> None:
        run, self._run, self._load = self._run, None, None
        if run is None:
            return
        run.stop()
        self.signalled = self.signalled or run.signalled
        self.problems += run.problems
        files, log = run.evidence()
        failed = self._state is not None and (self._state.failure or self._state.gone)
        if log and (self._starts == 1 or failed):
            self.logs[f"servers/{LETTERS[self.side]}{self._starts}/server.log"] = log
        for name, text in files.items():
            if self._starts == 1:
                self.logs[f"servers/{LETTERS[self.side]}1/{name}"] = text.splitlines()

    def _facts(self) -> SideFacts:
        state, run = self._state, self._run
        if state is None or run is None or state.server is None:
            raise RuntimeError("facts of a server that is not up")
        gpus = state.gpus.get("gpus", ())
        names = sorted(str(gpu.get("name") or gpu.get("asic") or "GPU") for gpu in gpus)
        server = state.server
        model = server.launch_model or server.model
        return SideFacts(
            name=describe(self.target),
            version=server.version,
            model=model,
            same={
                "GPUs": ", ".join(names),
                "driver": ", ".join(sorted({str(gpu.get("driver") or "") for gpu in gpus})),
                "context length": str(server.max_model_len or ""),
            },
            launch=run.facts(),
        )

    def _failed(self, failure: StartFailure) -> Stop:
        blame = Blame.HOST if failure.kind == "host" else Blame(self.side.value)
        text = redact(failure_text(failure), self.target.secrets(os.environ))
        return Stop(text=f"the {self.side} did not come up: {text}", blame=blame)

    def _blamed(self, what: str, *, advice: str = "") -> Stop:
        text = redact(what, self.target.secrets(os.environ))
        return Stop(text=f"the {self.side}: {text}", blame=Blame(self.side.value), advice=advice)


def describe(target: Target) -> str:
    """Name a target by what it is launched from."""
    if target.image is not None:
        return target.image.text
    if target.url is not None:
        return target.url
    return str(target.settings["python"].value or "this Python")


def differences(base: Target, candidate: Target) -> dict[str, tuple[str, str]]:
    """Return the options in which two targets differ, as base and candidate have them."""
    found = {}
    for name, setting in base.settings.items():
        values = (setting.value, candidate.settings[name].value)
        if name == "url":
            values = (base.url, candidate.url)  # written alike
        if values[0] != values[1] and name != "backend":
            found[name] = (_words(values[0]), _words(values[1]))
    return found


def name_of(target: Target, differing: Mapping[str, tuple[str, str]], *, side: Side) -> str:
    """Name a side by its server and by what else is its own."""
    number = 0 if side is Side.BASE else 1
    own = [
        f"{name}={pair[number]}"
        for name, pair in differing.items()
        if pair[number] and name not in _NAMING
    ]
    return "; ".join([describe(target), *own])


def _words(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return "" if value is None else str(value)
