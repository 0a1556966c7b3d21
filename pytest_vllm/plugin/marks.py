"""Marks that make a test a check, and the functions that read them back."""

from __future__ import annotations

import importlib.util
import inspect
import re
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from pytest_vllm.domain.checks import CHECK_ID, MUST, Check, Layer, Level

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from types import ModuleType

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`])")

CHECK = "vllm_check"
SUITE = "vllm_suite"
NEEDS = "vllm_needs"

MARKERS = (
    f"{CHECK}(id, level, ...): a requirement that a vLLM server can meet or miss",
    f"{SUITE}(name, concurrent, optional): the suite that the checks of a module belong to",
    f"{NEEDS}(*capabilities): what the server must have for a check or one of its cases to apply",
)
"""Lines for `config.addinivalue_line("markers", ...)`."""

F = TypeVar("F", bound="Callable[..., object]")


def check(  # noqa: PLR0913 - what there is to say about a check
    id: str,  # noqa: A002 - what it is called everywhere
    *,
    level: Level = MUST,
    layer: Layer = Layer.COMPAT,
    needs: Iterable[str] = (),
    ref: str = "",
    catches: Iterable[str] = (),
    alone: bool = False,
    long: bool = False,
    launched: bool = False,
) -> Callable[[F], F]:
    """Make a test function a check; the first sentence of its docstring is the requirement.

    Args:
        id: Stable name that starts with the suite's: `chat.usage.adds-up`.
        level: MUST rejects an image, SHOULD is reported, INFO is recorded and never judged.
        layer: Whether clients need it (COMPAT) or only the specification says so (STRICT).
        needs: Capabilities without which the check is not applicable, such as `chat`.
        ref: Rows of the acceptance catalogue, such as `C08`.
        catches: Defects of the simulator that it must notice.
        alone: It needs a server that does nothing else: it runs last, and no other check meanwhile.
        long: It may take minutes: it runs after all that do not.
        launched: It looks behind the API; see `Check.launched`.
    """
    mark = getattr(pytest.mark, CHECK)(
        id=id,
        level=level,
        layer=layer,
        needs=tuple(needs),
        ref=ref,
        catches=tuple(catches),
        alone=alone,
        long=long,
        launched=launched,
    )

    def decorate(function: F) -> F:
        decorated: F = mark(function)
        return decorated

    return decorate


def suite(name: str, *, concurrent: bool = False, optional: bool = False) -> pytest.MarkDecorator:
    """Name the suite that the checks of a module belong to; goes into `pytestmark`.

    Args:
        name: First part of the IDs of its checks.
        concurrent: Its checks share nothing but the server, so they may run at the same time.
        optional: As a bundled suite it runs only when `--vllm-suite` or a path names it.
    """
    mark: pytest.MarkDecorator = getattr(pytest.mark, SUITE)(
        name, concurrent=concurrent, optional=optional
    )
    return mark


def needs(*capabilities: str) -> pytest.MarkDecorator:
    """Say what the server must have, for a test or for one value of `parametrize`.

    Args:
        capabilities: Names such as `chat`, a chat endpoint with a template.
    """
    mark: pytest.MarkDecorator = getattr(pytest.mark, NEEDS)(*capabilities)
    return mark


ENDPOINTS = pytest.mark.parametrize(
    "endpoint", ["completions", pytest.param("chat", marks=needs("chat"))]
)
"""Run a check once for each endpoint that generates text."""


def read_check(item: pytest.Item) -> Check | None:
    """Return what a collected test requires, None when it is no check.

    Raises:
        pytest.UsageError: The check has no valid ID, no docstring or no suite.
    """
    mark = item.get_closest_marker(CHECK)
    if mark is None:
        return None
    module_mark = item.get_closest_marker(SUITE)
    function = getattr(item, "function", None)
    return _build_check(mark, module_mark, function, where=item.nodeid)


def read_needs(item: pytest.Item) -> tuple[str, ...]:
    """Return the capabilities that this case of a test needs, each once."""
    mark = item.get_closest_marker(CHECK)
    names = list(mark.kwargs.get("needs", ())) if mark else []
    for extra in item.iter_markers(NEEDS):
        names += extra.args
    return tuple(dict.fromkeys(names))


def catalogue(folder: Path) -> tuple[Check, ...]:
    """List the checks of all suites in a folder, by file name and then in the order of the file.

    Raises:
        pytest.UsageError: A check has no valid ID, no docstring or no suite, or shares its ID.
    """
    checks = [found for path in sorted(folder.glob("test_*.py")) for found in _checks_in(path)]
    ids = [found.id for found in checks]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise pytest.UsageError(f"{folder}: check IDs used twice: {', '.join(twice)}")
    return tuple(checks)


def _checks_in(path: Path) -> Iterator[Check]:
    module = _load(path)
    module_mark = _find(_marks(getattr(module, "pytestmark", ())), SUITE)
    for name, function in vars(module).items():
        if not inspect.isfunction(function) or function.__module__ != module.__name__:
            continue
        mark = _find(_marks(getattr(function, "pytestmark", ())), CHECK)
        if mark is not None:
            yield _build_check(mark, module_mark, function, where=f"{path.name}::{name}")


def _load(path: Path) -> ModuleType:
    """Run a module without making it importable by name, as pytest's importlib mode does."""
    spec = importlib.util.spec_from_file_location(f"_pytest_vllm_suite_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise pytest.UsageError(f"{path}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _marks(value: Any) -> list[pytest.Mark]:
    entries = value if isinstance(value, (list, tuple)) else [value]
    return [entry.mark if isinstance(entry, pytest.MarkDecorator) else entry for entry in entries]


def _find(marks: Iterable[pytest.Mark], name: str) -> pytest.Mark | None:
    return next((mark for mark in marks if mark.name == name), None)


def _build_check(
    mark: pytest.Mark, module_mark: pytest.Mark | None, function: object, *, where: str
) -> Check:
    id_ = str(mark.kwargs.get("id", ""))
    if module_mark is None or len(module_mark.args) != 1:
        raise pytest.UsageError(f'{where}: its module needs pytestmark = suite("<name>")')
    name = str(module_mark.args[0])
    if not CHECK_ID.fullmatch(id_):
        raise pytest.UsageError(
            f"{where}: check ID {id_!r} must be lower-case words joined by dots, as {name}.a-thing"
        )
    if not id_.startswith(f"{name}."):
        raise pytest.UsageError(f"{where}: check ID {id_!r} must start with its suite, {name}.")
    level, layer = mark.kwargs["level"], mark.kwargs["layer"]
    if not isinstance(level, Level) or not isinstance(layer, Layer):
        raise pytest.UsageError(
            f"{where}: check {id_} needs level=MUST, SHOULD or INFO and layer=Layer.COMPAT or "
            f"STRICT, not {level!r} and {layer!r}"
        )
    requirement = _first_sentence(inspect.getdoc(function) or "")
    if not requirement:
        raise pytest.UsageError(f"{where}: check {id_} has no docstring that requires anything")
    return Check(
        id=id_,
        suite=name,
        level=mark.kwargs["level"],
        requirement=requirement,
        layer=mark.kwargs["layer"],
        needs=mark.kwargs["needs"],
        ref=mark.kwargs["ref"],
        catches=mark.kwargs["catches"],
        alone=mark.kwargs["alone"],
        long=mark.kwargs["long"],
        launched=mark.kwargs["launched"],
        optional=bool(module_mark.kwargs.get("optional", False)),
    )


def _first_sentence(docstring: str) -> str:
    paragraph = " ".join(docstring.partition("\n\n")[0].split())
    return _SENTENCE_END.split(paragraph)[0]
