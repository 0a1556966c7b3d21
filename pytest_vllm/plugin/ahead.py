"""Runs independent checks at the same time, while pytest reports them one after the other.

A vLLM server batches, so one request at a time leaves it idle. Before pytest runs the first check,
the functions of all checks that share nothing but the server are started on a few threads, each
with a client of its own. When the turn of such a check comes, pytest waits for its thread instead
of calling the function, and everything else (set-up, report, `-x`, `-k`) is as it always is. What
cannot be sure to be independent runs in its turn: a check that needs an idle server, one with other
fixtures, marks or an overridden fixture, every test under a debugger, and all of them under xdist,
whose workers are several already.
"""

from __future__ import annotations

import inspect
import random
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from pytest_vllm.plugin import fixtures
from pytest_vllm.plugin.outcomes import ATTEMPT, CHECK, unmet_capability
from pytest_vllm.plugin.state import STATE

if TYPE_CHECKING:
    from collections.abc import Generator

    from pytest_vllm.plugin.client import Client
    from pytest_vllm.plugin.state import RunState

_OURS = ("vllm", "vllm_server", "vllm_target", "vllm_gpus", "vllm_transport")
_CONDITIONS = ("skip", "skipif", "xfail")
_DEBUGGING = ("usepdb", "trace", "setuponly", "setupshow", "setupplan")


@dataclass(slots=True, kw_only=True)
class Attempt:
    """A check that was started before its turn.

    Attributes:
        client: The client that it talks through.
        future: Ends when the function does.
        duration_s: Seconds that the function took.
        began: When it was called, in seconds since the epoch; `None` before that.
    """

    client: Client
    future: Future[object] = field(default_factory=Future)
    duration_s: float = 0.0
    began: float | None = None


def runs_ahead(config: pytest.Config) -> bool:
    """Tell whether checks of this process may run before their turn."""
    if config.stash[STATE].target.number("concurrency") <= 1:
        return False
    distributed = config.getoption("dist", default="no") != "no" or hasattr(config, "workerinput")
    debugged = any(config.getoption(name, default=False) for name in _DEBUGGING)
    return not distributed and not debugged


class AheadPlugin:
    """Starts checks on threads and hands their ends to pytest."""

    def __init__(self, config: pytest.Config) -> None:
        self._state: RunState = config.stash[STATE]
        self._pending: set[Future[object]] = set()
        self._keeps_locals = bool(config.getoption("showlocals", default=False))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Start what is independent, and leave no thread behind."""
        target, server = self._state.target, self._state.server
        items = [item for item in session.items if self._is_independent(item)]
        if server is None or not items:
            return (yield)
        seed = target.number("seed")
        if seed:
            random.Random(f"{seed}:order").shuffle(items)  # noqa: S311 - an order, no secret
        transport = fixtures.make_transport(server, target)
        pool = ThreadPoolExecutor(target.number("concurrency"), thread_name_prefix="vllm-check")
        try:
            for item in items:
                self._start(item, pool, fixtures.make_client(server, transport, target))
            return (yield)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            transport.close()
            pool.shutdown(wait=True)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Let a check that needs the server for itself wait for all others."""
        check = item.stash.get(CHECK, None)
        if check is not None and check.alone:
            wait(self._pending)

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> object | None:
        """Wait for the thread of a check; what it raised is raised here."""
        attempt = pyfuncitem.stash.get(ATTEMPT, None)
        if attempt is None:
            return None
        self._pending.discard(attempt.future)
        attempt.future.result()
        return True

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Let go of a check when it was reported, with all that it received."""
        try:
            return (yield)
        finally:
            if ATTEMPT in item.stash:
                del item.stash[ATTEMPT]

    def _start(self, item: pytest.Item, pool: ThreadPoolExecutor, client: Client) -> None:
        attempt = Attempt(client=client)
        item.stash[ATTEMPT] = attempt
        arguments = self._arguments(item, client)

        def run() -> None:
            start, attempt.began = time.monotonic(), time.time()
            try:
                item.obj(**arguments)  # type: ignore[attr-defined]
            except BaseException as error:
                if not self._keeps_locals:
                    _forget_locals(error)
                raise
            finally:
                attempt.duration_s = time.monotonic() - start

        attempt.future = pool.submit(run)
        self._pending.add(attempt.future)

    def _arguments(self, item: Any, client: Client) -> dict[str, Any]:
        values = {
            "vllm": client,
            "vllm_server": self._state.server,
            "vllm_target": self._state.target,
            "vllm_gpus": self._state.gpus,
        }
        if hasattr(item, "callspec"):
            values |= item.callspec.params
        return {name: values[name] for name in _argument_names(item)}

    def _is_independent(self, item: pytest.Item) -> bool:
        check = item.stash.get(CHECK, None)
        if check is None or check.alone or not _says_concurrent(item):
            return False
        if any(item.get_closest_marker(name) for name in _CONDITIONS):
            return False
        if unmet_capability(item, self._state) is not None:
            return False
        return _needs_only_ours(item)


def _forget_locals(error: BaseException | None) -> None:
    """Keep the lines of a traceback, but not what its functions held.

    Hundreds of failed checks wait for their turn, each with all replies that it ever read.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _says_concurrent(item: pytest.Item) -> bool:
    mark = item.get_closest_marker("vllm_suite")
    return mark is not None and bool(mark.kwargs.get("concurrent"))


def _argument_names(item: Any) -> tuple[str, ...]:
    names: tuple[str, ...] = item._fixtureinfo.argnames  # noqa: SLF001 - no public way
    return names


def _needs_only_ours(item: Any) -> bool:
    """Tell whether a test takes our fixtures and plain parameters, and no conftest interferes.

    Fixtures of installed plugins may be about (`autouse`), those of the user's own files not: they
    may prepare what the test stands on, and nothing is set up yet when a check runs ahead.
    """
    if inspect.iscoroutinefunction(item.obj) or inspect.isasyncgenfunction(item.obj):
        return False  # whoever runs those does it in pytest's own hook
    definitions = item._fixtureinfo.name2fixturedefs  # noqa: SLF001 - no public way
    installed = _installed_packages(item.config)
    for name in item.fixturenames:
        module = definitions[name][-1].func.__module__ if definitions.get(name) else "_pytest"
        own_set_up = name.startswith(("_xunit_", "_unittest_"))  # setup_module, setup_method, ...
        if own_set_up or module.partition(".")[0] not in installed:
            return False
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    plain = {*parameters, *_OURS} - {"vllm_transport"}
    return isinstance(item, pytest.Function) and set(_argument_names(item)) <= plain


def _installed_packages(config: pytest.Config) -> set[str]:
    plugins = (plugin for plugin, _ in config.pluginmanager.list_plugin_distinfo())
    names = (str(getattr(plugin, "__name__", "")) for plugin in plugins)
    return {"_pytest", *(name.partition(".")[0] for name in names)}
