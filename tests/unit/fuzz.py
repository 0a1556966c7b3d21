"""What all that is fuzzed shares: a whole record, junk to put into it, and how much is tried."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tests.unit.records import HOSTILE

EVERYTHING = bool(os.environ.get("PYTEST_VLLM_TEST_ALL"))


def tries(few: int) -> settings:
    """Return how much to try: the same few each time; on demand twenty times as many, new ones.

    Args:
        few: Examples in the ordinary run.
    """
    return settings(
        max_examples=20 * few if EVERYTHING else few,
        derandomize=not EVERYTHING,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


WHOLE = json.loads(Path(__file__).parents[1].joinpath("data", "fuzz", "run.json").read_text())
"""A record with everything in it, put together from four real ones."""
PLAIN = ("launch", "gpus", "facts", "forecast", "gpu_samples", "performance")
"""Fields of a record that may hold any plain data."""
EXTREMES: st.SearchStrategy[Any] = st.sampled_from(
    [
        *(None, True, 0, -1, 10**300, -(10**300), 1e308, -1e308, 5e-324, -0.0),
        *("", "nan", "inf", "-inf", HOSTILE, "\ud800", "9" * 400, "2026-11-23", "x" * 5000),
        *([], {}, [[]], [None], {"": None}, [{}], {"a": {"b": [1, "x"]}}),
    ]
)
JUNK = st.recursive(
    EXTREMES | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
Place = tuple[Any, ...]


def paths(value: Any, at: Place = ()) -> list[Place]:
    """List where every value of a document is."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    below = [path for key, item in items for path in paths(item, (*at, key))]
    return [at, *below] if at else below


EVERYWHERE = paths(WHOLE)
IN_PLAIN = [path for path in EVERYWHERE if path[0] in PLAIN]
IN_FIGURES = [path for path in EVERYWHERE if "figures" in path[:-1]]


Edit = tuple[Place, str, Any]
"""Where, what is done, and with what."""


def edits(where: list[Place], most: int = 3) -> st.SearchStrategy[list[Edit]]:
    """Return what a person might do to a document; small, so that a failure can be read."""
    actions = st.sampled_from(["change", "change", "drop", "add", "twice"])
    return st.lists(st.tuples(st.sampled_from(where), actions, JUNK), min_size=1, max_size=most)


def apply(document: Any, changes: list[Edit]) -> str:
    """Return a document after its edits, as text."""
    document = copy.deepcopy(document)
    for (*before, last), action, junk in changes:
        parent: Any = document
        try:
            for key in before:
                parent = parent[key]
            if action == "drop":
                del parent[last]
            elif action == "twice" and isinstance(parent, list):
                parent.append(parent[last])
            elif action == "add" and isinstance(parent, dict):
                parent[str(junk)[:4]] = junk
            else:
                parent[last] = junk
        except (KeyError, IndexError, TypeError):
            continue  # an earlier edit has removed it
    return json.dumps(document)


def edited(where: list[Place], most: int = 3) -> st.SearchStrategy[str]:
    """Return the whole record as a person might have edited it."""
    return edits(where, most).map(lambda changes: apply(WHOLE, changes))
