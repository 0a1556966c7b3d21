"""The plugin installed but unused: nothing is loaded, shown or written."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

HEAVY = ("openai", "httpx", "jsonschema", "docker", "amdsmi", "rich", "pytest_vllm.adapters")


def test_a_run_without_a_server_loads_nothing_heavy(pytester: pytest.Pytester) -> None:
    """A plain test run of any project costs none of our dependencies' imports."""
    pytester.makepyfile(
        f"""
        import sys

        def test_it():
            assert "pytest_vllm.plugin" in sys.modules
            assert [name for name in {HEAVY!r} if name in sys.modules] == []
        """
    )
    # rich and docker would be loaded by nobody else here: the other plugins are those of a user.
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:hypothesispytest")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*vllm: *")


def test_a_run_without_a_server_writes_no_file(pytester: pytest.Pytester) -> None:
    """The plugin adds no file to those that a run without it writes."""
    pytester.makepyfile("def test_it(): pass")
    pytester.runpytest_subprocess("-p", "no:vllm").assert_outcomes(passed=1)
    before = {path.name for path in pytester.path.iterdir()}
    pytester.runpytest_subprocess().assert_outcomes(passed=1)
    new = {path.name for path in pytester.path.iterdir()} - before
    assert not [name for name in new if not name.startswith("runpytest-")]


def test_asking_for_a_server_that_is_not_named_says_what_to_do(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(vllm): pass")
    result = pytester.runpytest_subprocess()
    result.stdout.fnmatch_lines(["*none is named*", "*--vllm-url=URL*"])
    assert result.ret != 0
