"""What turns a pytest run into an acceptance run: its target, suites and plug-ins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_vllm.adapters.runs import read_baseline
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.plugin import header
from pytest_vllm.plugin.ahead import AheadPlugin, runs_ahead
from pytest_vllm.plugin.controller import ControllerPlugin, WorkerPlugin
from pytest_vllm.plugin.github import GitHubPlugin, runs_on_github
from pytest_vllm.plugin.materials import rule_materials
from pytest_vllm.plugin.options import (
    SUITES,
    names_paths,
    read_target,
    suite_names,
)
from pytest_vllm.plugin.outcomes import LIVENESS, OutcomePlugin
from pytest_vllm.plugin.rules import read_rules
from pytest_vllm.plugin.signing import read_sign_key
from pytest_vllm.plugin.state import STATE, RunState, from_wire
from pytest_vllm.plugin.summary import wanted_reports
from pytest_vllm.plugin.turns import TurnsPlugin

if TYPE_CHECKING:
    from pytest_vllm.adapters.signing import PrivateKey
    from pytest_vllm.domain.profile import Profile
    from pytest_vllm.domain.record import Material, RunRecord
    from pytest_vllm.domain.target import Target

_LOOKING = ("help", "version", "markers", "showfixtures", "show_fixtures_per_test", "collectonly")


def activate(config: pytest.Config) -> None:
    """Turn this pytest run into an acceptance run.

    Raises:
        pytest.UsageError: The target makes no sense; runs that only look go on without it.
    """
    _name_the_suites(config)
    looking = any(config.getoption(name, default=False) for name in _LOOKING)
    try:
        target, profile = read_target(config)
        header.refuse_host_facts(target)
        loads = read_rules(config, target, profile)
        wanted_reports(target)
        baseline = _read_baseline(target, config.invocation_params.dir)
        rests_on, sign_key = _evidence_parts(config, target, profile, looking=looking)
    except TargetError as error:
        if looking:
            config.stash[header.BROKEN] = str(error)
            config.pluginmanager.register(header.HeaderPlugin(config), "vllm-header")
            return
        raise pytest.UsageError(str(error)) from None
    config.stash[STATE] = RunState(
        target=target,
        profile=profile,
        loads=loads,
        baseline=baseline,
        materials=[*rests_on],
        sign_key=sign_key,
    )
    if config.option.tbstyle == "auto":
        config.option.tbstyle = "short"  # what was required and seen, not the source of the check
    config.pluginmanager.register(OutcomePlugin(config), "vllm-outcomes")
    wire = getattr(config, "workerinput", {}).get("vllm")
    if wire is not None:
        from_wire(config.stash[STATE], wire)
        config.pluginmanager.register(WorkerPlugin(), "vllm-worker")
        config.pluginmanager.register(TurnsPlugin(Path(wire["turns"])), "vllm-turns")
        return
    config.pluginmanager.register(header.HeaderPlugin(config), "vllm-header")
    if not looking:
        controller = ControllerPlugin(config, baseline)
        config.pluginmanager.register(controller, "vllm-controller")
        if runs_on_github(os.environ):
            github = GitHubPlugin(config, lambda: controller.finish)
            config.pluginmanager.register(github, "vllm-github")
        if runs_ahead(config):
            config.pluginmanager.register(AheadPlugin(config), "vllm-ahead")


def _name_the_suites(config: pytest.Config) -> None:
    """Run the bundled suites when no path is named."""
    words = config.getoption("vllm_suite") or []
    wanted = {name.strip() for word in words for name in word.split(",")} & set(suite_names())
    config.pluginmanager.register(BundledSuites(wanted or set(suite_names())), "vllm-suites")
    if not names_paths(config):
        # The folder, not its files: a file that is named itself gets an empty node ID.
        config.args[:] = [str(SUITES)]


def _evidence_parts(
    config: pytest.Config, target: Target, profile: Profile, *, looking: bool
) -> tuple[tuple[Material, ...], PrivateKey | None]:
    """Hash the files that the run is judged by, and read the key that signs what it states.

    Only the process that owns the run needs either.
    """
    if looking or hasattr(config, "workerinput"):
        return (), None
    base = Path(config.invocation_params.dir)
    return rule_materials(target, profile, base=base), read_sign_key(target, base=base)


def _read_baseline(target: Target, directory: Path) -> RunRecord | None:
    """Read the run that is named, also by its ID or as the latest below `--vllm-artifacts`."""
    name = target.settings["baseline"].value
    if not isinstance(name, str):
        return None
    return read_baseline(name, root=directory / target.text("artifacts"))


class BundledSuites:
    """Collects the wanted files of the bundled suites, whatever the project's own settings are."""

    def __init__(self, names: set[str]) -> None:
        self._files = {f"test_{name}.py" for name in (*names, LIVENESS)}

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Leave out the suites that nobody asked for."""
        ours = collection_path.parent == SUITES
        return True if ours and collection_path.name not in self._files else None

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> object:
        """Collect a suite also where the project's `python_files` would not match it."""
        patterns = parent.config.getini("python_files")
        if file_path.parent != SUITES or any(file_path.match(pattern) for pattern in patterns):
            return None
        return pytest.Module.from_parent(parent, path=file_path)
