"""Marks make a test a check and can be read back, with and without a test session."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pytest_vllm
from pytest_vllm.domain.checks import MUST, SHOULD, Check, Layer, Level
from pytest_vllm.plugin.marks import catalogue, read_check, read_needs

if TYPE_CHECKING:
    from collections.abc import Callable

BUNDLED = Path(pytest_vllm.__file__).parent / "suites"
HEAD = """
import pytest
from pytest_vllm import ENDPOINTS, SHOULD, Layer, check, needs, suite
pytestmark = suite("chat")
"""
GOOD = (
    HEAD
    + '''
@ENDPOINTS
@check("chat.a-b.c", level=SHOULD, layer=Layer.STRICT, needs=("tools",), ref="K01")
def test_it(endpoint):
    """A reply MUST be
    sound. More is said here.

    And here.
    """

@check("chat.second.one")
def test_first_in_the_alphabet():
    """It MUST be second."""

def test_that_is_no_check():
    pass
'''
)


def items_of(pytester: pytest.Pytester, source: str) -> list[pytest.Item]:
    path = pytester.makepyfile(test_chat=source)
    items, _ = pytester.inline_genitems(path, "-p", "no:cacheprovider")
    return items


def by_session(pytester: pytest.Pytester, source: str) -> list[Check | None]:
    return [read_check(item) for item in items_of(pytester, source)]


def by_catalogue(pytester: pytest.Pytester, source: str) -> list[Check | None]:
    folder = pytester.mkdir("suites")
    (folder / "test_chat.py").write_text(source, encoding="utf-8")
    return list(catalogue(folder))


def test_a_check_is_read_with_all_its_fields(pytester: pytest.Pytester) -> None:
    first = Check(
        id="chat.a-b.c",
        suite="chat",
        level=SHOULD,
        requirement="A reply MUST be sound.",
        layer=Layer.STRICT,
        needs=("tools",),
        ref="K01",
    )
    second = Check(id="chat.second.one", suite="chat", level=MUST, requirement="It MUST be second.")
    items = items_of(pytester, GOOD)
    assert [read_check(item) for item in items] == [first, first, second, None]
    assert by_catalogue(pytester, GOOD) == [first, second]
    # The needs of a case are those of the check and its own.
    assert [read_needs(item) for item in items] == [("tools",), ("tools", "chat"), (), ()]


@pytest.mark.parametrize(
    ("check_id", "says"),
    [
        ("chat", "joined by dots"),
        ("chat.Upper", "joined by dots"),
        ("chat.", "joined by dots"),
        ("chat.a\\n", "joined by dots"),
        ("server.health", "must start with its suite"),
        ("chatter.health", "must start with its suite"),
    ],
)
def test_a_bad_id_is_an_error_of_the_author(
    pytester: pytest.Pytester, check_id: str, says: str
) -> None:
    source = f'{HEAD}\n@check("{check_id}")\ndef test_it():\n    """It MUST."""\n'
    with pytest.raises(pytest.UsageError, match=says):
        by_catalogue(pytester, source)


@pytest.mark.parametrize("read", [by_session, by_catalogue])
def test_a_check_without_docstring_is_an_error_of_the_author(
    pytester: pytest.Pytester, read: Callable[[pytest.Pytester, str], list[Check | None]]
) -> None:
    with pytest.raises(pytest.UsageError, match=r"chat\.a has no docstring"):
        read(pytester, f'{HEAD}\n@check("chat.a")\ndef test_it():\n    pass\n')


def test_a_check_without_suite_is_an_error_of_the_author(pytester: pytest.Pytester) -> None:
    source = 'from pytest_vllm import check\n@check("chat.a")\ndef test_it():\n    """It MUST."""\n'
    with pytest.raises(pytest.UsageError, match="pytestmark = suite"):
        by_catalogue(pytester, source)


def test_an_id_used_twice_is_an_error_of_the_author(pytester: pytest.Pytester) -> None:
    again = GOOD.replace("chat.second.one", "chat.a-b.c")
    with pytest.raises(pytest.UsageError, match=r"twice: chat\.a-b\.c"):
        by_catalogue(pytester, again)


def test_the_bundled_suites_make_a_catalogue() -> None:
    """Every bundled check has a row of the acceptance catalogue, and says its MUST or SHOULD."""
    checks = catalogue(BUNDLED)
    assert {check.suite for check in checks} == {
        path.stem.removeprefix("test_") for path in BUNDLED.glob("test_*.py")
    }
    for check in checks:
        assert check.ref, check.id
        assert check.level is Level.INFO or check.level in check.requirement, check.id
        assert check.requirement.endswith("."), check.id
